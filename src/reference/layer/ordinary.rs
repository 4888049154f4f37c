//! Ordinary attention by the pair operation, and the members of V1's pairs.

use crate::problem::Problem;
use crate::reference::arithmetic::Arithmetic;
use crate::reference::backward::{Gradients, Upstream};
use crate::reference::forward::{Graph, Outputs};
use num_traits::{Float, Zero};

/// Attention of `problem.shape.heads` heads: the second member of each pair has a query of zeros and a gate of 0.
pub(super) struct Ordinary<'a, A: Arithmetic>(Graph<'a, A>);

impl<'a, A: Arithmetic> Ordinary<'a, A> {
    /// q is batch × q_len × heads × head_dim here.
    pub(super) fn new(problem: &'a Problem, arithmetic: A, [q, k, v]: [&[A::Number]; 3]) -> Self {
        let head_dim = problem.shape.head_dim as usize;
        let lam = vec![A::Number::neg_infinity(); q.len() / head_dim];
        let q = interleave(q, &vec![A::Number::zero(); q.len()], head_dim);
        Ordinary(Graph { problem, arithmetic, q, k: k.to_vec(), v: v.to_vec(), lam })
    }

    /// softmax(qKᵀ)V: batch × q_len × heads × value_dim.
    pub(super) fn forward(&self) -> Outputs<A::Number> {
        self.0.forward()
    }

    /// [dq, dk, dv], shaped as they came in.
    pub(super) fn backward(&self, upstream: &Upstream<A::Number>) -> [Vec<A::Number>; 3] {
        let Gradients { dq, dk, dv, .. } = self.0.backward(upstream);
        let [dq, _] = split(&dq, self.0.problem.shape.head_dim as usize);
        [dq, dk, dv]
    }

    /// The pair operation's graph.
    pub(super) fn into_graph(self) -> Graph<'a, A> {
        self.0
    }
}

/// Pieces of `width` elements, taken from the two in turn.
pub(super) fn interleave<N: Copy>(first: &[N], second: &[N], width: usize) -> Vec<N> {
    let pieces = first.chunks_exact(width).zip(second.chunks_exact(width));
    pieces.flat_map(|(first, second)| first.iter().chain(second)).copied().collect()
}

/// The opposite of [`interleave`].
pub(super) fn split<N: Copy>(both: &[N], width: usize) -> [Vec<N>; 2] {
    let member = |m: usize| both.chunks_exact(width).skip(m).step_by(2).flatten().copied().collect();
    [member(0), member(1)]
}
