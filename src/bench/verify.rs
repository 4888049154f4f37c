//! Whether what is about to be timed computes the right thing.
//!
//! A small case is held against the float64 reference whole. Of a large one the reference would take hours: then every
//! element of a smaller case through the same kernel is held against it, and rows of the case itself, each as a problem
//! of its own: some queries of one KV head, and all the keys that they see.

use std::ops::Range;

use super::case::{Case, Op};
use super::subject::Results;
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::host::{HostGradients, HostOutputs};
use crate::problem::{Problem, Shape};
use crate::reference::{self, Gradients, Judge, Verdict};

/// Floating-point operations of a forward pass that the reference is asked for.
pub(super) const WHOLE: f64 = 3e8;

/// Queries and keys of the smaller case, at most: some tiles, and a rest.
const SMALL: u32 = 131;

/// What the reference says of the results: the tensor that comes nearest to its bound, or is furthest over it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Check {
    pub passed: bool,
    pub error: f64,
    pub bound: f64,
}

impl Check {
    /// The worse of the two.
    pub(super) fn and(self, other: Check) -> Check {
        let share = |check: &Check| if check.passed { check.error / check.bound } else { f64::INFINITY };
        if share(&other) > share(&self) { other } else { self }
    }

    pub(super) fn worst(verdicts: Vec<Verdict>) -> Result<Check> {
        let checks = verdicts.into_iter().map(|Verdict { passed, error, bound, .. }| {
            // An infinity is not to be had in JSON.
            Check { passed, error: error.min(f64::MAX), bound }
        });
        checks.reduce(Check::and).ok_or_else(|| Error::invalid("results", "at least one tensor", "none"))
    }
}

impl Case {
    /// Whether the reference computes the whole case in reasonable time.
    pub(super) fn is_small(&self) -> bool {
        match self.op {
            Op::Backward => 5.0 * self.problem().flops() <= WHOLE,
            Op::Forward | Op::Decode => self.problem().flops() <= WHOLE,
            Op::Module | Op::Train => self.cost().flop <= WHOLE,
        }
    }

    /// A small case that a kernel of this one can run: fewer sequences, KV heads, queries and keys.
    pub(super) fn smaller(&self) -> Case {
        let Shape { batch, q_len, kv_len, kv_heads, .. } = self.shape;
        let (batch, few) = (batch.min(2), kv_heads.min(2));
        let shape = Shape {
            batch,
            q_len: q_len.min(SMALL),
            kv_len: if self.op == Op::Decode { kv_len.min(8 * SMALL) } else { kv_len.min(SMALL) },
            kv_heads: few,
            heads: few * self.shape.group(),
            ..self.shape
        };
        Case { shape, ..*self }
    }
}

/// Holds every element of the results against the reference.
pub(super) fn whole(problem: &Problem, tensors: &Tensors, results: &Results) -> Result<Check> {
    let tensors = tensors.complete(problem);
    match results {
        Results::Outputs(outputs) => Check::worst(Judge::forward(problem, &tensors.inputs())?.outputs(outputs)?),
        Results::Gradients(gradients) => {
            let judge = Judge::backward(problem, &tensors.inputs(), &tensors.grads())?;
            Check::worst(judge.gradients(gradients)?)
        }
        other => Err(other.unexpected("those of attention")),
    }
}

/// Holds rows of the results against the reference.
pub(super) fn sample(problem: &Problem, tensors: &Tensors, results: &Results) -> Result<Check> {
    let mut checks = Vec::new();
    for block in blocks(problem) {
        let (part, inputs) = (block.problem(problem), block.tensors(problem, tensors));
        checks.push(match results {
            Results::Outputs(outputs) => {
                let judge = Judge::forward(&part, &inputs.inputs())?;
                Check::worst(judge.outputs(&block.outputs(problem, outputs))?)?
            }
            Results::Gradients(gradients) => {
                let truth = reference::backward(&part, &inputs.inputs(), &inputs.grads())?;
                let judge = Judge::backward(&part, &inputs.inputs(), &inputs.grads())?;
                Check::worst(judge.gradients(&block.gradients(problem, gradients, truth))?)?
            }
            other => return Err(other.unexpected("those of attention")),
        });
    }
    checks.into_iter().reduce(Check::and).ok_or_else(|| Error::invalid("q_len", "at least 1", 0))
}

/// Some queries of one KV head of one sequence.
#[derive(Debug, Clone, PartialEq)]
struct Block {
    batch: u32,
    kv_head: u32,
    queries: Range<u32>,
}

/// The first queries of the first KV head, the last of the last, and some in the middle.
fn blocks(problem: &Problem) -> Vec<Block> {
    let Shape { batch, q_len, kv_len, kv_heads, head_dim, value_dim, .. } = problem.shape;
    let of_one = 4.0 * f64::from(problem.shape.group() * (head_dim + value_dim)) * f64::from(kv_len);
    let few = ((WHOLE / 6.0 / of_one) as u32).clamp(1, 16).min(q_len);
    let block = |batch, kv_head, first| Block { batch, kv_head, queries: first..first + few };
    vec![
        block(0, 0, 0),
        block(batch / 2, kv_heads / 2, (q_len / 2).min(q_len - few)),
        block(batch - 1, kv_heads - 1, q_len - few),
    ]
}

impl Block {
    /// Keys that the block needs: masks are aligned to the last query and key.
    fn keys(&self, problem: &Problem) -> u32 {
        let Shape { q_len, kv_len, .. } = problem.shape;
        if problem.options.causal { (kv_len + self.queries.end).saturating_sub(q_len).max(1) } else { kv_len }
    }

    fn problem(&self, problem: &Problem) -> Problem {
        let shape = Shape {
            batch: 1,
            q_len: self.queries.len() as u32,
            kv_len: self.keys(problem),
            heads: problem.shape.group(),
            kv_heads: 1,
            ..problem.shape
        };
        Problem { shape, ..problem.clone() }
    }

    /// Rows of a batch × `seq` × `heads` × `dim` tensor: those of `range`, and of the heads of this KV head.
    fn rows(&self, tensor: &[f32], range: Range<u32>, [seq, kv_heads, per_kv_head, dim]: [u32; 4]) -> Vec<f32> {
        let tokens = range.map(|token| self.batch as usize * seq as usize + token as usize);
        self.rows_at(tensor, tokens, [kv_heads, per_kv_head, dim])
    }

    /// The same of tokens wherever they lie.
    fn rows_at(&self, tensor: &[f32], tokens: impl Iterator<Item = usize>, sizes: [u32; 3]) -> Vec<f32> {
        let [kv_heads, width] = [sizes[0], sizes[1] * sizes[2]].map(|extent| extent as usize);
        let rows = tokens.map(|token| token * kv_heads + self.kv_head as usize);
        rows.flat_map(|row| tensor[row * width..(row + 1) * width].iter().copied()).collect()
    }

    fn tensors(&self, problem: &Problem, tensors: &Tensors) -> Tensors {
        let Shape { q_len, kv_len, kv_heads, head_dim, value_dim, .. } = problem.shape;
        let group = problem.shape.group();
        let queries = || self.queries.clone();
        let keys = || (0..self.keys(problem)).map(|token| tensors.key_token(self.batch, token, kv_len));
        Tensors {
            q: self.rows(&tensors.q, queries(), [q_len, kv_heads, 2 * group, head_dim]),
            k: self.rows_at(&tensors.k, keys(), [kv_heads, 1, head_dim]),
            v: self.rows_at(&tensors.v, keys(), [kv_heads, 1, value_dim]),
            lam: self.rows(&tensors.lam, queries(), [q_len, kv_heads, group, 1]),
            dout: match tensors.dout[..] {
                [] => Vec::new(),
                _ => self.rows(&tensors.dout, queries(), [q_len, kv_heads, group, value_dim]),
            },
            period: None,
        }
    }

    fn outputs(&self, problem: &Problem, outputs: &HostOutputs) -> HostOutputs {
        let Shape { q_len, kv_heads, value_dim, .. } = problem.shape;
        let out = self.rows(&outputs.out, self.queries.clone(), [q_len, kv_heads, problem.shape.group(), value_dim]);
        HostOutputs { out, ..HostOutputs::default() }
    }

    /// The gradients by the block's queries; and under a causal mask by the last keys, which only the last queries see.
    /// Those by other keys are sums over queries that the block does not have: the `truth` stands in for them.
    fn gradients(&self, problem: &Problem, gradients: &HostGradients, truth: Gradients) -> HostGradients {
        let Shape { q_len, kv_len, kv_heads, head_dim, value_dim, .. } = problem.shape;
        let group = problem.shape.group();
        let last = problem.options.causal && self.queries.end == q_len;
        let own = if last { kv_len - self.queries.len().min(kv_len as usize) as u32..kv_len } else { 0..0 };
        let by_key = |tensor: &[f32], truth: Vec<f64>, dim: u32| {
            let mut rows: Vec<f32> = truth.into_iter().map(|value| problem.dtype.round(value as f32)).collect();
            let start = own.start as usize * dim as usize;
            let own = self.rows(tensor, own.clone(), [kv_len, kv_heads, 1, dim]);
            rows[start..start + own.len()].copy_from_slice(&own);
            rows
        };
        HostGradients {
            dq: self.rows(&gradients.dq, self.queries.clone(), [q_len, kv_heads, 2 * group, head_dim]),
            dk: by_key(&gradients.dk, truth.dk, head_dim),
            dv: by_key(&gradients.dv, truth.dv, value_dim),
            dlam: self.rows(&gradients.dlam, self.queries.clone(), [q_len, kv_heads, group, 1]),
        }
    }
}
