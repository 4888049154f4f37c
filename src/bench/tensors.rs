//! Random tensors of a case in host memory.

use std::borrow::Cow;

use super::case::{Case, Form, Op};
use crate::error::Result;
use crate::host::{HostGradInputs, HostInputs, Sizes};
use crate::problem::{DType, Problem};

/// Inputs of a problem, representable in its storage type.
#[derive(Debug, Clone, Default)]
pub(super) struct Tensors {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub lam: Vec<f32>,
    /// Empty unless the case has gradients.
    pub dout: Vec<f32>,
    /// So many tokens make up every sequence of `k` and `v`, over and over, each from another one on: a cache of
    /// gigabytes from megabytes. `None` where all keys and values are there.
    pub period: Option<u32>,
}

/// Tokens of a cache that are drawn.
const PERIOD: u32 = 1024;

/// Tokens by which one sequence of a cache starts later in the period than the one before.
pub(super) const SHIFT: u32 = 37;

/// λ by which the subtracted member vanishes.
const NO_SECOND: f32 = -1e4;

impl Tensors {
    /// Uniform values, never all zero: what a kernel multiplies changes its power and its clock.
    ///
    /// The baseline is the first member alone (but for decode, see [`Case::problem`]): of the second, queries are zero and
    /// the gate is shut.
    ///
    /// # Errors
    /// Those of [`Sizes::of`].
    pub(super) fn random(case: &Case, problem: &Problem, seed: u64) -> Result<Self> {
        let sizes = Sizes::of(problem)?;
        let shape = problem.shape;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tensor = |len: u64, dtype: DType, range: f32| -> Vec<f32> {
            (0..len).map(|_| dtype.round(range * (2.0 * random.f32() - 1.0))).collect()
        };
        let dtype = problem.dtype;
        let dout = if case.op == Op::Backward { sizes.out } else { 0 };
        let period = (case.op == Op::Decode).then_some(PERIOD.min(shape.kv_len));
        let [k, v] = match period {
            Some(tokens) => [shape.head_dim, shape.value_dim]
                .map(|dim| u64::from(tokens) * u64::from(shape.kv_heads) * u64::from(dim)),
            None => [sizes.k, sizes.v],
        };
        let mut tensors = Tensors {
            q: tensor(sizes.q, dtype, 2.0),
            k: tensor(k, dtype, 2.0),
            v: tensor(v, dtype, 1.0),
            lam: tensor(sizes.lam, DType::F32, 3.0),
            dout: tensor(dout, dtype, 1.0),
            period,
        };
        if case.int8 {
            on_grid(&mut tensors.k, shape.head_dim, 2.0);
            on_grid(&mut tensors.v, shape.value_dim, 1.0);
        }
        if case.form == Form::Baseline && case.op != Op::Decode {
            let dim = shape.head_dim as usize;
            tensors.q.chunks_exact_mut(dim).skip(1).step_by(2).for_each(|row| row.fill(0.0));
            tensors.lam.fill(NO_SECOND);
        }
        Ok(tensors)
    }

    pub(super) fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }

    pub(super) fn grads(&self) -> HostGradInputs<'_> {
        HostGradInputs { dout: &self.dout, dlse: None }
    }

    /// The queries of the first members: those of the baseline.
    pub(super) fn first_queries(&self, head_dim: u32) -> Vec<f32> {
        self.q.chunks_exact(head_dim as usize).step_by(2).flatten().copied().collect()
    }

    /// Where token `token` of sequence `batch` lies among the tokens of `k` and `v`.
    pub(super) fn key_token(&self, batch: u32, token: u32, kv_len: u32) -> usize {
        match self.period {
            None => batch as usize * kv_len as usize + token as usize,
            Some(period) => ((u64::from(SHIFT) * u64::from(batch) + u64::from(token)) % u64::from(period)) as usize,
        }
    }

    /// The same with all keys and values in place.
    pub(super) fn complete(&self, problem: &Problem) -> Cow<'_, Tensors> {
        if self.period.is_none() {
            return Cow::Borrowed(self);
        }
        let shape = problem.shape;
        let spread = |tensor: &[f32], dim: u32| -> Vec<f32> {
            let width = shape.kv_heads as usize * dim as usize;
            let tokens = (0..shape.batch).flat_map(|b| (0..shape.kv_len).map(move |token| (b, token)));
            let rows = tokens.map(|(b, token)| self.key_token(b, token, shape.kv_len) * width);
            rows.flat_map(|start| tensor[start..start + width].iter().copied()).collect()
        };
        let (k, v) = (spread(&self.k, shape.head_dim), spread(&self.v, shape.value_dim));
        Cow::Owned(Tensors { k, v, period: None, ..self.clone() })
    }
}

/// Moves each row to the 255 values that int8 holds exactly, with the largest of them among its own: the reference knows
/// no rounding to int8.
fn on_grid(tensor: &mut [f32], dim: u32, range: f32) {
    let step = range / 128.0;
    for row in tensor.chunks_exact_mut(dim as usize) {
        row.iter_mut().for_each(|x| *x = (*x / step).round().clamp(-127.0, 127.0) * step);
        row[0] = 127.0 * step;
    }
}
