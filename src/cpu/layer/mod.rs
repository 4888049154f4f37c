//! The attention module on the CPU: matrix products around the engine's attention.
//!
//! V2 is one call of the pair engine. The baseline is one ordinary attention, and V1 is two, one for each member, whose
//! results meet in its norm.
//!
//! Storage types: x, the weights, q, k, v, the input of the output projection and y are rounded to it, as they are when
//! they are stored on a device, and so are their gradients. λ, V1's norm and the gradients of the weights are f32.

mod linear;
mod norm;

use super::stored::rounded;
use super::{forward::round, ordinary};
use crate::layer::{Config, HostGradients, HostTokens, Kind, Weights, rotary};
use crate::{DType, HostGradInputs, HostInputs, Problem, Result};
use linear::{linear, linear_dw, linear_dx};
use norm::Norm;
use rayon::prelude::*;
use std::borrow::Cow;

/// y of a module: batch × seq_len × d_model, rounded to `dtype`.
///
/// # Errors
/// Those of [`HostTokens::validate`] and [`Problem::validate`].
pub fn forward(weights: &Weights, tokens: &HostTokens, dtype: DType) -> Result<Vec<f32>> {
    tokens.validate(weights.config())?;
    let layer = Layer::new(weights, tokens, dtype);
    let activations = layer.attend()?;
    Ok(layer.stored(linear(&activations.o, layer.weights.o_proj(), layer.config().o_width())))
}

/// Gradients of a module. `dy` is shaped as y; `dx` is rounded to `dtype`, the weights' gradients are not.
///
/// Everything is computed from the inputs again, so no output of the forward pass is needed.
///
/// # Errors
/// Those of [`forward`], and [`crate::Error::Shape`] for a `dy` of the wrong length.
pub fn backward(weights: &Weights, tokens: &HostTokens, dy: &[f32], dtype: DType) -> Result<HostGradients> {
    tokens.validate(weights.config())?;
    tokens.check("dy", dy, weights.config())?;
    let layer = Layer::new(weights, tokens, dtype);
    layer.backward(&layer.attend()?, &rounded(dtype, dy))
}

struct Layer<'a> {
    /// In the storage type.
    weights: Cow<'a, Weights>,
    /// In the storage type.
    x: Cow<'a, [f32]>,
    dtype: DType,
    seq_len: usize,
    problem: Problem,
    /// (cos, sin): seq_len × head_dim/2.
    rotary: Vec<[f32; 2]>,
}

/// What goes into attention and what comes out of it, in the storage type.
struct Activations {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// V2's, f32.
    lam: Vec<f32>,
    /// V1's two attentions.
    members: [Vec<f32>; 2],
    /// Input of the output projection.
    o: Vec<f32>,
}

/// Gradients of what goes into attention.
struct AttentionGradients {
    dq: Vec<f32>,
    dk: Vec<f32>,
    dv: Vec<f32>,
    dlam: Vec<f32>,
    /// V1's own parameters.
    own: Vec<(&'static str, Vec<f32>)>,
}

impl<'a> Layer<'a> {
    fn new(weights: &'a Weights, tokens: &HostTokens<'a>, dtype: DType) -> Self {
        let config = weights.config();
        Layer {
            weights: match dtype {
                DType::F32 => Cow::Borrowed(weights),
                DType::F16 | DType::Bf16 => Cow::Owned(weights.clone().rounded(dtype)),
            },
            x: rounded(dtype, tokens.x),
            dtype,
            seq_len: tokens.seq_len as usize,
            problem: config.attention(tokens.batch, tokens.seq_len, dtype),
            rotary: rotary::table(config, 0..tokens.seq_len),
        }
    }

    fn config(&self) -> &Config {
        self.weights.config()
    }

    fn stored(&self, mut values: Vec<f32>) -> Vec<f32> {
        round(&mut values, self.dtype);
        values
    }

    fn attend(&self) -> Result<Activations> {
        let d_model = self.config().d_model;
        let project = |weight: &[f32]| linear(&self.x, weight, d_model);
        let [mut q, mut k] = [self.weights.q_proj(), self.weights.k_proj()].map(project);
        let v = self.stored(project(self.weights.v_proj()));
        self.rotate(&mut q, 1.0);
        self.rotate(&mut k, 1.0);
        let (mut lam, mut members) = (vec![], [vec![], vec![]]);
        let o = match self.config().kind {
            Kind::DiffV2 => {
                lam = self.lambda_logits();
                let inputs = HostInputs { q: &q, k: &k, v: &v, lam: &lam };
                super::forward(&self.problem, &inputs)?.out
            }
            Kind::Baseline => ordinary::forward(&self.problem, [&q, &k, &v])?,
            Kind::DiffV1 => {
                let ([q1, q2], [k1, k2]) = (self.split(&q), self.split(&k));
                members[0] = ordinary::forward(&self.problem, [&q1, &k1, &v])?;
                members[1] = ordinary::forward(&self.problem, [&q2, &k2, &v])?;
                self.stored(Norm::new(&self.weights).forward(&members))
            }
        };
        Ok(Activations { q, k, v, lam, members, o })
    }

    fn lambda_logits(&self) -> Vec<f32> {
        let weight = self.weights.get("lambda_proj.weight").unwrap_or_default();
        let mut lam = linear(&self.x, weight, self.config().d_model);
        if let Some(bias) = self.weights.get("lambda_proj.bias") {
            let tokens = lam.chunks_exact_mut(bias.len());
            tokens.for_each(|token| token.iter_mut().zip(bias).for_each(|(lam, bias)| *lam += bias));
        }
        lam
    }

    fn backward(&self, activations: &Activations, dy: &[f32]) -> Result<HostGradients> {
        let config = self.config();
        let (d_model, o_width) = (config.d_model, config.o_width());
        let d_o = self.stored(linear_dx(dy, self.weights.o_proj(), o_width));
        let AttentionGradients { mut dq, mut dk, dv, dlam, own } = self.attention_backward(activations, &d_o)?;
        self.rotate(&mut dq, -1.0);
        self.rotate(&mut dk, -1.0);

        let mut dx = vec![0.0; self.x.len()];
        let weights = Weights::from_fn(config, |parameter| {
            let upstream = match parameter.name {
                "q_proj.weight" => &dq,
                "k_proj.weight" => &dk,
                "v_proj.weight" => &dv,
                "lambda_proj.weight" => &dlam,
                "lambda_proj.bias" => {
                    let heads = parameter.len();
                    return (0..heads).map(|head| dlam.iter().skip(head).step_by(heads).sum()).collect();
                }
                name if name == config.output_name() => return linear_dw(dy, &activations.o, o_width),
                name => {
                    let found = own.iter().find(|(own, _)| *own == name);
                    return found.map(|(_, values)| values.clone()).unwrap_or_default();
                }
            };
            let weight = self.weights.get(parameter.name).unwrap_or_default();
            let path = linear_dx(upstream, weight, d_model);
            dx.iter_mut().zip(path).for_each(|(dx, path)| *dx += path);
            linear_dw(upstream, &self.x, d_model)
        })?;
        Ok(HostGradients { dx: self.stored(dx), weights })
    }

    fn attention_backward(&self, activations: &Activations, d_o: &[f32]) -> Result<AttentionGradients> {
        let Activations { q, k, v, lam, members, .. } = activations;
        match self.config().kind {
            Kind::DiffV2 => {
                let grads = HostGradInputs { dout: d_o, dlse: None };
                let crate::HostGradients { dq, dk, dv, dlam } =
                    super::backward(&self.problem, &HostInputs { q, k, v, lam }, &grads)?;
                Ok(AttentionGradients { dq, dk, dv, dlam, own: vec![] })
            }
            Kind::Baseline => {
                let [dq, dk, dv] = ordinary::backward(&self.problem, [q, k, v], d_o)?;
                Ok(AttentionGradients { dq, dk, dv, dlam: vec![], own: vec![] })
            }
            Kind::DiffV1 => {
                let norm::Gradients { da1, da2, own } = Norm::new(&self.weights).backward(members, d_o);
                let ([q1, q2], [k1, k2]) = (self.split(q), self.split(k));
                let [dq1, dk1, mut dv] = ordinary::backward(&self.problem, [&q1, &k1, v], &da1)?;
                let [dq2, dk2, dv2] = ordinary::backward(&self.problem, [&q2, &k2, v], &da2)?;
                dv.iter_mut().zip(dv2).for_each(|(dv, dv2)| *dv += dv2);
                let (dq, dk) = (self.interleave(&dq1, &dq2), self.interleave(&dk1, &dk2));
                Ok(AttentionGradients { dq, dk, dv: self.stored(dv), dlam: vec![], own })
            }
        }
    }

    /// The interleaved rotary embedding of every head (`sign` 1) or its gradient (−1), rounded to the storage type.
    fn rotate(&self, tensor: &mut [f32], sign: f32) {
        let half = self.config().head_dim as usize / 2;
        let width = tensor.len() / (self.x.len() / self.config().d_model as usize);
        tensor.par_chunks_exact_mut(width).enumerate().for_each(|(token, row)| {
            let angles = &self.rotary[token % self.seq_len * half..][..half];
            for head in row.chunks_exact_mut(2 * half) {
                for (pair, [cos, sin]) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let ([even, odd], sin) = (*pair, sign * sin);
                    *pair = [even * cos - odd * sin, even * sin + odd * cos];
                }
            }
            round(row, self.dtype);
        });
    }

    /// V1: the heads of the two members.
    fn split(&self, both: &[f32]) -> [Vec<f32>; 2] {
        let heads = both.chunks_exact(self.config().head_dim as usize);
        [0, 1].map(|member| heads.clone().skip(member).step_by(2).flatten().copied().collect())
    }

    /// V1: the opposite.
    fn interleave(&self, first: &[f32], second: &[f32]) -> Vec<f32> {
        let [first, second] = [first, second].map(|member| member.chunks_exact(self.config().head_dim as usize));
        first.zip(second).flat_map(|(first, second)| first.iter().chain(second)).copied().collect()
    }
}
