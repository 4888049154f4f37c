//! The forward pass, one operation after the other.

use super::ordinary::{Ordinary, split};
use super::products::linear;
use crate::layer::{Config, HostTokens, Kind, NORM_EPSILON, Weights};
use crate::problem::{DType, Problem};
use crate::reference::arithmetic::{Arithmetic, dot, widen};
use crate::reference::forward;
use num_traits::{Float, Zero};

/// A module with its weights and tokens, in the given arithmetic. All have been validated.
pub(super) struct Graph<'a, A: Arithmetic> {
    pub(super) weights: &'a Weights,
    pub(super) tokens: &'a HostTokens<'a>,
    pub(super) arithmetic: A,
    /// Of the attention inside.
    pub(super) problem: Problem,
    pub(super) x: Vec<A::Number>,
}

/// Every intermediate tensor that the backward pass reads.
pub(super) struct Activations<N> {
    /// After the rotary embedding.
    pub(super) q: Vec<N>,
    /// After the rotary embedding.
    pub(super) k: Vec<N>,
    pub(super) v: Vec<N>,
    pub(super) mixed: Mixed<N>,
    /// What the output projection is given: tokens × o_width.
    pub(super) o: Vec<N>,
    pub(super) y: Vec<N>,
}

/// What lies between attention and the output projection.
pub(super) enum Mixed<N> {
    /// λ: tokens × heads.
    DiffV2 {
        lam: Vec<N>,
    },
    Baseline,
    DiffV1(Box<Norm<N>>),
}

/// V1: z = w·(1 − λ_init)·n, n = a·r, a = a₁ − λ·a₂.
pub(super) struct Norm<N> {
    pub(super) lambda: Lambda<N>,
    pub(super) a1: Vec<N>,
    pub(super) a2: Vec<N>,
    /// Normalised rows: tokens × heads × value_dim.
    pub(super) n: Vec<N>,
    /// 1/√(mean(a²) + ε) of every row: tokens × heads.
    pub(super) r: Vec<N>,
}

/// V1: λ = e₁ − e₂ + λ_init, e = exp(λ_q·λ_k).
pub(super) struct Lambda<N> {
    pub(super) e: [N; 2],
    pub(super) value: N,
}

impl<'a, A: Arithmetic> Graph<'a, A> {
    pub(super) fn new(weights: &'a Weights, tokens: &'a HostTokens<'a>, arithmetic: A) -> Self {
        // The storage type of the problem is of no account: the arithmetic does the rounding.
        let problem = weights.config().attention(tokens.batch, tokens.seq_len, DType::F32);
        Graph { weights, tokens, arithmetic, problem, x: widen(tokens.x) }
    }

    pub(super) fn config(&self) -> &'a Config {
        self.weights.config()
    }

    /// A parameter that the kind has.
    pub(super) fn weight(&self, name: &str) -> Vec<A::Number> {
        widen(self.weights.get(name).unwrap_or_default())
    }

    pub(super) fn forward(&self) -> Activations<A::Number> {
        let d_model = self.config().d_model as usize;
        let project = |w: &[f32]| linear(self.arithmetic, &self.x, &widen(w), d_model);
        let [mut q, mut k, v] = [self.weights.q_proj(), self.weights.k_proj(), self.weights.v_proj()].map(project);
        self.rotate(&mut q, Turn::Forward);
        self.rotate(&mut k, Turn::Forward);
        let (o, mixed) = match self.config().kind {
            Kind::DiffV2 => {
                let lam = self.lambda_logits();
                (self.pairs(&q, &k, &v, &lam).forward().out, Mixed::DiffV2 { lam })
            }
            Kind::Baseline => {
                let attention = Ordinary::new(&self.problem, self.arithmetic, [&q, &k, &v]);
                (attention.forward().out, Mixed::Baseline)
            }
            Kind::DiffV1 => {
                let [a1, a2] = self.members(&q, &k, &v).map(|member| member.forward().out);
                let (o, norm) = self.normalised(a1, a2);
                (o, Mixed::DiffV1(Box::new(norm)))
            }
        };
        let o_width = self.config().o_width() as usize;
        let y = linear(self.arithmetic, &o, &widen(self.weights.o_proj()), o_width);
        Activations { q, k, v, mixed, o, y }
    }

    fn lambda_logits(&self) -> Vec<A::Number> {
        let d_model = self.config().d_model as usize;
        let mut lam = linear(self.arithmetic, &self.x, &self.weight("lambda_proj.weight"), d_model);
        let bias = self.weight("lambda_proj.bias");
        if !bias.is_empty() {
            for token in lam.chunks_exact_mut(bias.len()) {
                token.iter_mut().zip(&bias).for_each(|(lam, &bias)| *lam = self.arithmetic.store(*lam + bias));
            }
        }
        lam
    }

    /// V2's attention.
    pub(super) fn pairs(
        &self,
        q: &[A::Number],
        k: &[A::Number],
        v: &[A::Number],
        lam: &[A::Number],
    ) -> forward::Graph<'_, A> {
        let [q, k, v, lam] = [q, k, v, lam].map(<[_]>::to_vec);
        forward::Graph { problem: &self.problem, arithmetic: self.arithmetic, q, k, v, lam }
    }

    /// V1's two attentions.
    pub(super) fn members(&self, q: &[A::Number], k: &[A::Number], v: &[A::Number]) -> [Ordinary<'_, A>; 2] {
        let head_dim = self.config().head_dim as usize;
        let ([q1, q2], [k1, k2]) = (split(q, head_dim), split(k, head_dim));
        [[&q1[..], &k1, v], [&q2, &k2, v]].map(|member| Ordinary::new(&self.problem, self.arithmetic, member))
    }

    fn normalised(&self, a1: Vec<A::Number>, a2: Vec<A::Number>) -> (Vec<A::Number>, Norm<A::Number>) {
        let store = |value| self.arithmetic.store(value);
        let lambda = self.lambda();
        let value_dim = self.config().value_dim() as usize;
        let count = (value_dim as f32).into();
        let epsilon = number::<A>(NORM_EPSILON);
        let (weight, factor) = (self.weight("subln.weight"), self.norm_factor());
        let (mut o, mut n, mut r) = (Vec::new(), Vec::new(), Vec::new());
        for (a1, a2) in a1.chunks_exact(value_dim).zip(a2.chunks_exact(value_dim)) {
            let a: Vec<_> = a1.iter().zip(a2).map(|(&a1, &a2)| store(a1 - store(lambda.value * a2))).collect();
            let scale = (dot(&a, &a) / count + epsilon).sqrt().recip();
            let row: Vec<_> = a.iter().map(|&a| store(a * scale)).collect();
            o.extend(row.iter().zip(&weight).map(|(&n, &w)| store(store(n * w) * factor)));
            n.extend(row);
            r.push(scale);
        }
        (o, Norm { lambda, a1, a2, n, r })
    }

    /// 1 − λ_init.
    pub(super) fn norm_factor(&self) -> A::Number {
        number::<A>(1.0 - self.config().lambda_init())
    }

    fn lambda(&self) -> Lambda<A::Number> {
        let [q1, k1, q2, k2] = ["lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"].map(|name| self.weight(name));
        let e = [dot(&q1, &k1).exp(), dot(&q2, &k2).exp()];
        let value = self.arithmetic.store(e[0] - e[1] + number::<A>(self.config().lambda_init()));
        Lambda { e, value }
    }

    /// The interleaved rotary embedding of every head of a tensor of tokens × heads × head_dim, or its gradient.
    pub(super) fn rotate(&self, tensor: &mut [A::Number], turn: Turn) {
        let Config { head_dim, rope_theta, .. } = *self.config();
        let width = tensor.len() / self.tokens.count();
        let sign = if turn == Turn::Forward { 1.0 } else { -1.0 };
        for (token, row) in tensor.chunks_exact_mut(width).enumerate() {
            let position = (token % self.tokens.seq_len as usize) as f64;
            for head in row.chunks_exact_mut(head_dim as usize) {
                for (i, pair) in head.chunks_exact_mut(2).enumerate() {
                    let exponent = 2.0 * i as f64 / f64::from(head_dim);
                    let angle = position / f64::from(rope_theta).powf(exponent);
                    let (cos, sin) = (number::<A>(angle.cos()), number::<A>(sign * angle.sin()));
                    let (even, odd) = (pair[0], pair[1]);
                    pair[0] = self.arithmetic.store(even * cos - odd * sin);
                    pair[1] = self.arithmetic.store(even * sin + odd * cos);
                }
            }
        }
    }
}

/// Which way the rotary embedding turns.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Turn {
    Forward,
    Backward,
}

/// A constant in the arithmetic's numbers.
pub(super) fn number<A: Arithmetic>(value: f64) -> A::Number {
    num_traits::NumCast::from(value).unwrap_or_else(A::Number::zero)
}
