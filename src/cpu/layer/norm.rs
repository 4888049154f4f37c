//! V1 after attention: the difference of the members, the RMS norm of every head, and the fixed factor.

use crate::layer::{NORM_EPSILON, Weights};
use rayon::prelude::*;

/// z = (1 − λ_init)·w∘n, n = a/√(mean(a²) + ε), a = a₁ − λ·a₂, λ = exp(λq₁·λk₁) − exp(λq₂·λk₂) + λ_init.
pub(super) struct Norm<'a> {
    /// λ_q and λ_k of the two members.
    vectors: [[&'a [f32]; 2]; 2],
    exponentials: [f64; 2],
    lambda: f32,
    weight: &'a [f32],
    factor: f32,
}

/// Gradients of what goes into the norm, and of its parameters.
pub(super) struct Gradients {
    pub(super) da1: Vec<f32>,
    pub(super) da2: Vec<f32>,
    pub(super) own: Vec<(&'static str, Vec<f32>)>,
}

impl<'a> Norm<'a> {
    pub(super) fn new(weights: &'a Weights) -> Self {
        let get = |name| weights.get(name).unwrap_or_default();
        let vectors = [[get("lambda_q1"), get("lambda_k1")], [get("lambda_q2"), get("lambda_k2")]];
        let exponentials = vectors.map(|[q, k]| {
            let products = q.iter().zip(k).map(|(&q, &k)| f64::from(q) * f64::from(k));
            products.sum::<f64>().exp()
        });
        let lambda_init = weights.config().lambda_init();
        Norm {
            vectors,
            exponentials,
            lambda: (exponentials[0] - exponentials[1] + lambda_init) as f32,
            weight: get("subln.weight"),
            factor: (1.0 - lambda_init) as f32,
        }
    }

    /// z of every head, from a₁ and a₂.
    pub(super) fn forward(&self, [a1, a2]: &[Vec<f32>; 2]) -> Vec<f32> {
        let width = self.weight.len();
        let mut z = vec![0.0; a1.len()];
        let heads = z.par_chunks_exact_mut(width).zip(a1.par_chunks_exact(width)).zip(a2.par_chunks_exact(width));
        heads.for_each(|((z, a1), a2)| {
            let scale = self.normalise(a1, a2, z);
            z.iter_mut().zip(self.weight).for_each(|(a, weight)| *a *= scale * weight * self.factor);
        });
        z
    }

    /// Gradients from those of z. Sums over tokens run in order, in f64.
    pub(super) fn backward(&self, [a1, a2]: &[Vec<f32>; 2], dz: &[f32]) -> Gradients {
        let width = self.weight.len();
        let (mut da1, mut dlambda) = (dz.to_vec(), 0.0);
        let (mut n, mut dweight) = (vec![0.0; width], vec![0.0; width]);
        let heads = da1.chunks_exact_mut(width).zip(a1.chunks_exact(width)).zip(a2.chunks_exact(width));
        for ((da, a1), a2) in heads {
            let scale = self.normalise(a1, a2, &mut n);
            let mut mean = 0.0;
            for (((d, n), weight), dweight) in da.iter_mut().zip(&mut n).zip(self.weight).zip(&mut dweight) {
                *n *= scale;
                *dweight += f64::from(self.factor * *d * *n);
                *d *= self.factor * weight;
                mean += *d * *n / width as f32;
            }
            for ((d, n), a2) in da.iter_mut().zip(&n).zip(a2) {
                *d = scale * (*d - n * mean);
                dlambda -= f64::from(*d * a2);
            }
        }
        let da2 = da1.iter().map(|da| -self.lambda * da).collect();
        let dweight = dweight.into_iter().map(|sum| sum as f32).collect();
        let mut own = vec![("subln.weight", dweight)];
        let names = [["lambda_q1", "lambda_k1"], ["lambda_q2", "lambda_k2"]];
        let slopes = [self.exponentials[0], -self.exponentials[1]];
        for ((names, [q, k]), slope) in names.into_iter().zip(self.vectors).zip(slopes) {
            // d(q·k)/dq is k, and the other way round.
            for (name, other) in names.into_iter().zip([k, q]) {
                own.push((name, other.iter().map(|&other| (dlambda * slope * f64::from(other)) as f32).collect()));
            }
        }
        Gradients { da1, da2, own }
    }

    /// a of one head into `a`; returns 1/√(mean(a²) + ε).
    fn normalise(&self, a1: &[f32], a2: &[f32], a: &mut [f32]) -> f32 {
        let mut squares = 0.0;
        for ((a, a1), a2) in a.iter_mut().zip(a1).zip(a2) {
            *a = a1 - self.lambda * a2;
            squares += *a * *a;
        }
        (squares / a.len() as f32 + NORM_EPSILON as f32).sqrt().recip()
    }
}
