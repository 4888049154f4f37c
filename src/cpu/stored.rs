//! Inputs as the problem's storage type holds them.

use crate::{DType, HostInputs, Problem};
use std::borrow::Cow;

/// The tensors that have the storage type; copied only where it is not f32.
pub(super) struct Stored<'a> {
    q: Cow<'a, [f32]>,
    k: Cow<'a, [f32]>,
    v: Cow<'a, [f32]>,
    lam: &'a [f32],
}

impl<'a> Stored<'a> {
    pub(super) fn new(problem: &Problem, inputs: &HostInputs<'a>) -> Self {
        let HostInputs { q, k, v, lam } = *inputs;
        let [q, k, v] = [q, k, v].map(|tensor| rounded(problem.dtype, tensor));
        Stored { q, k, v, lam }
    }

    pub(super) fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: self.lam }
    }
}

/// `tensor` rounded to `dtype`.
pub(super) fn rounded(dtype: DType, tensor: &[f32]) -> Cow<'_, [f32]> {
    match dtype {
        DType::F32 => tensor.into(),
        DType::F16 | DType::Bf16 => tensor.iter().map(|&value| dtype.round(value)).collect(),
    }
}
