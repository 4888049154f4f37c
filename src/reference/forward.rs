//! The forward pass, un-fused: scores, softmax, weighted sum of the values, gated difference.

use super::arithmetic::{Arithmetic, Exact, add_scaled, dot, widen};
use super::rows::Rows;
use crate::error::Result;
use crate::host::HostInputs;
use crate::problem::Problem;
use num_traits::{Float, One, Zero};
use rayon::prelude::*;

/// Outputs of the un-fused forward; shapes and order as in [`crate::HostOutputs`].
#[derive(Debug, Clone, PartialEq)]
pub struct Outputs<T> {
    /// a₁ − sigmoid(λ)·a₂: batch × q_len × heads × value_dim.
    pub out: Vec<T>,
    /// softmax(q₂ⱼKᵀ·scale)V, shaped as `out`.
    pub a1: Vec<T>,
    /// softmax(q₂ⱼ₊₁Kᵀ·scale)V, shaped as `out`.
    pub a2: Vec<T>,
    /// Natural log-sum-exp of the scores: batch × 2·heads × q_len (2·heads × total_q when packed).
    pub lse: Vec<T>,
}

/// The outputs in float64.
pub type Truth = Outputs<f64>;

/// Computes the forward pass in float64.
///
/// A row that sees no key gives output 0 and lse −∞.
///
/// # Errors
/// Those of [`HostInputs::validate`].
pub fn forward(problem: &Problem, inputs: &HostInputs) -> Result<Truth> {
    inputs.validate(problem)?;
    Ok(Graph::new(problem, inputs, Exact).forward())
}

/// The un-fused graph of one problem, in the given arithmetic. The inputs have been validated.
#[derive(Debug)]
pub(super) struct Graph<'a, A: Arithmetic> {
    pub(super) problem: &'a Problem,
    pub(super) arithmetic: A,
    pub(super) q: Vec<A::Number>,
    pub(super) k: Vec<A::Number>,
    pub(super) v: Vec<A::Number>,
    pub(super) lam: Vec<A::Number>,
}

/// What one query of one query head makes of the keys it sees.
#[derive(Debug)]
pub(super) struct Row<N> {
    /// The keys.
    pub(super) keys: Vec<u32>,
    /// Derivative of the capped score by the score, for each key: 1 without softcap.
    pub(super) slope: Vec<N>,
    /// Softmax weight of each key.
    pub(super) p: Vec<N>,
    /// Weighted sum of the values.
    pub(super) a: Vec<N>,
    /// Natural log-sum-exp of the capped scores.
    pub(super) lse: N,
}

impl<'a, A: Arithmetic> Graph<'a, A> {
    pub(super) fn new(problem: &'a Problem, inputs: &HostInputs, arithmetic: A) -> Self {
        let HostInputs { q, k, v, lam } = *inputs;
        Graph { problem, arithmetic, q: widen(q), k: widen(k), v: widen(v), lam: widen(lam) }
    }

    /// Attention of query `i` of one query head.
    pub(super) fn row(&self, at: &Rows, i: u32, query_head: u32) -> Row<A::Number> {
        let store = |value| self.arithmetic.store(value);
        let one = A::Number::one();
        let kv_head = query_head / 2 / self.problem.shape.group();
        let scale = self.problem.scale().into();
        let q = &self.q[at.q(i, query_head)];
        let keys = at.seen(i);

        let mut scores: Vec<_> = keys.iter().map(|&j| store(dot(q, &self.k[at.k(j, kv_head)]) * scale)).collect();
        let mut slope = vec![one; keys.len()];
        if let Some(cap) = self.problem.options.softcap {
            let cap = cap.into();
            for (score, slope) in scores.iter_mut().zip(&mut slope) {
                let tanh = store((*score / cap).tanh());
                *score = store(cap * tanh);
                *slope = one - tanh * tanh;
            }
        }

        // Without keys: max −∞, sum 0, and so lse −∞ and a = 0.
        let max = scores.iter().fold(A::Number::neg_infinity(), |max, &score| max.max(score));
        let exps: Vec<_> = scores.iter().map(|&score| (score - max).exp()).collect();
        let sum = exps.iter().fold(A::Number::zero(), |sum, &exp| sum + exp);
        let p: Vec<_> = exps.iter().map(|&exp| store(exp / sum)).collect();

        let mut a = vec![A::Number::zero(); self.problem.shape.value_dim as usize];
        for (&j, &p) in keys.iter().zip(&p) {
            add_scaled(&mut a, p, &self.v[at.v(j, kv_head)]);
        }
        Row { keys, slope, p, a: a.into_iter().map(store).collect(), lse: max + sum.ln() }
    }

    /// sigmoid(λ) of query `i` of one output head.
    pub(super) fn gate(&self, at: &Rows, i: u32, head: u32) -> A::Number {
        let one = A::Number::one();
        self.arithmetic.store(one / (one + (-self.lam[at.lam(i, head)]).exp()))
    }

    pub(super) fn forward(&self) -> Outputs<A::Number> {
        let store = |value| self.arithmetic.store(value);
        let zero = A::Number::zero();
        let heads = self.problem.shape.heads;
        let tasks: Vec<_> = Rows::all(self.problem).flat_map(|at| (0..heads).map(move |head| (at, head))).collect();
        let pairs: Vec<_> = tasks
            .into_par_iter()
            .flat_map_iter(|(at, head)| {
                (0..at.sequence.q_len).map(move |i| {
                    let [first, second] = [2 * head, 2 * head + 1].map(|query_head| self.row(&at, i, query_head));
                    (at, head, i, [first.a, second.a], [first.lse, second.lse])
                })
            })
            .collect();

        let elements = self.lam.len() * self.problem.shape.value_dim as usize;
        let mut outputs = Outputs {
            out: vec![zero; elements],
            a1: vec![zero; elements],
            a2: vec![zero; elements],
            lse: vec![zero; 2 * self.lam.len()],
        };
        for (at, head, i, [a1, a2], lse) in pairs {
            let gate = self.gate(&at, i, head);
            let out: Vec<_> = a1.iter().zip(&a2).map(|(&a1, &a2)| store(a1 - store(gate * a2))).collect();
            let range = at.out(i, head);
            outputs.out[range.clone()].copy_from_slice(&out);
            outputs.a1[range.clone()].copy_from_slice(&a1);
            outputs.a2[range].copy_from_slice(&a2);
            for (query_head, lse) in (2 * head..).zip(lse) {
                outputs.lse[at.lse(i, query_head)] = lse;
            }
        }
        outputs
    }
}
