//! Random tensors of a case in host memory.

use super::suite::{Case, Op};
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
}

impl Tensors {
    /// Uniform values, never all zero: what a kernel multiplies changes its power and its clock.
    ///
    /// # Errors
    /// Those of [`Sizes::of`].
    pub(super) fn random(case: &Case, problem: &Problem, seed: u64) -> Result<Self> {
        let sizes = Sizes::of(problem)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut tensor = |len: u64, dtype: DType, range: f32| -> Vec<f32> {
            (0..len).map(|_| dtype.round(range * (2.0 * random.f32() - 1.0))).collect()
        };
        let dout = if case.op == Op::Backward { sizes.out } else { 0 };
        Ok(Tensors {
            q: tensor(sizes.q, problem.dtype, 2.0),
            k: tensor(sizes.k, problem.dtype, 2.0),
            v: tensor(sizes.v, problem.dtype, 1.0),
            lam: tensor(sizes.lam, DType::F32, 3.0),
            dout: tensor(dout, problem.dtype, 1.0),
        })
    }

    pub(super) fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }

    pub(super) fn grads(&self) -> HostGradInputs<'_> {
        HostGradInputs { dout: &self.dout, dlse: None }
    }
}
