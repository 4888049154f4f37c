//! Where the rows of a sequence lie in the tensors, and which keys a query sees.

use crate::problem::{Options, Problem, Sequence, Shape};
use std::ops::Range;

/// One sequence of a problem. Queries `i` and keys `j` count from the start of the sequence.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<'a> {
    pub(super) problem: &'a Problem,
    pub(super) sequence: Sequence,
    /// Position along the batch axis of the tensors: 0 when packed.
    batch: usize,
}

impl<'a> Rows<'a> {
    /// Sequence `b` of the batch.
    pub(super) fn of(problem: &'a Problem, b: u32) -> Self {
        let batch = if problem.packed.is_some() { 0 } else { b as usize };
        Rows { problem, sequence: problem.sequence(b), batch }
    }

    /// The sequences of the batch.
    pub(super) fn all(problem: &'a Problem) -> impl Iterator<Item = Self> {
        (0..problem.shape.batch).map(move |b| Rows::of(problem, b))
    }

    fn shape(&self) -> Shape {
        self.problem.shape
    }

    /// Elements of one query head in q.
    pub(super) fn q(&self, i: u32, query_head: u32) -> Range<usize> {
        let Shape { heads, head_dim, .. } = self.shape();
        row(self.query(i) * 2 * heads as usize + query_head as usize, head_dim)
    }

    /// Elements of one head in k.
    pub(super) fn k(&self, j: u32, kv_head: u32) -> Range<usize> {
        row(self.key(j) * self.shape().kv_heads as usize + kv_head as usize, self.shape().head_dim)
    }

    /// Elements of one head in v.
    pub(super) fn v(&self, j: u32, kv_head: u32) -> Range<usize> {
        row(self.key(j) * self.shape().kv_heads as usize + kv_head as usize, self.shape().value_dim)
    }

    /// Elements of one output head in out, a₁ and a₂.
    pub(super) fn out(&self, i: u32, head: u32) -> Range<usize> {
        row(self.lam(i, head), self.shape().value_dim)
    }

    /// The element of λ.
    pub(super) fn lam(&self, i: u32, head: u32) -> usize {
        self.query(i) * self.shape().heads as usize + head as usize
    }

    /// The element of lse, whose head axis comes before the sequence axis.
    pub(super) fn lse(&self, i: u32, query_head: u32) -> usize {
        let (_, q_len, _) = self.problem.extents();
        let head = self.batch * 2 * self.shape().heads as usize + query_head as usize;
        head * q_len as usize + (self.sequence.q_start + i) as usize
    }

    /// The keys that query `i` sees. Written from the definition and apart from [`crate::Mask`], which it checks.
    pub(super) fn seen(&self, i: u32) -> Vec<u32> {
        let Sequence { q_len, kv_len, .. } = self.sequence;
        let Options { causal, window: (left, right), .. } = self.problem.options;
        // The last query stands at the last key, the one before it at the one before that, and so on.
        let position = i64::from(kv_len) - i64::from(q_len - i);
        let sees = |&j: &u32| {
            let ahead = i64::from(j) - position;
            !(causal && ahead > 0)
                && left.is_none_or(|left| -ahead <= i64::from(left))
                && right.is_none_or(|right| ahead <= i64::from(right))
        };
        (0..kv_len).filter(sees).collect()
    }

    fn query(&self, i: u32) -> usize {
        let (_, q_len, _) = self.problem.extents();
        self.batch * q_len as usize + (self.sequence.q_start + i) as usize
    }

    fn key(&self, j: u32) -> usize {
        let (_, _, kv_len) = self.problem.extents();
        self.batch * kv_len as usize + (self.sequence.kv_start + j) as usize
    }
}

fn row(index: usize, len: u32) -> Range<usize> {
    index * len as usize..(index + 1) * len as usize
}
