//! Random inputs.

use diffattn::{DType, HostGradInputs, HostInputs, Problem, Sizes};
use fastrand::Rng;

/// Owned inputs of a problem, representable in its storage type.
#[derive(Debug, Clone)]
pub struct Tensors {
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub lam: Vec<f32>,
    pub dout: Vec<f32>,
    pub dlse: Vec<f32>,
}

impl Tensors {
    /// Normally distributed values, none of them zero; q, k, v and dout are rounded to the storage type.
    pub fn random(problem: &Problem, rng: &mut Rng) -> Self {
        let sizes = Sizes::of(problem).expect("sizes");
        let mut tensor = |len: u64, dtype: DType| (0..len).map(|_| dtype.round(normal(rng))).collect();
        Tensors {
            q: tensor(sizes.q, problem.dtype),
            k: tensor(sizes.k, problem.dtype),
            v: tensor(sizes.v, problem.dtype),
            lam: tensor(sizes.lam, DType::F32),
            dout: tensor(sizes.out, problem.dtype),
            dlse: tensor(sizes.lse, DType::F32),
        }
    }

    /// As the forward takes them.
    pub fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }

    /// As the backward takes them, without dlse.
    pub fn grads(&self) -> HostGradInputs<'_> {
        HostGradInputs { dout: &self.dout, dlse: None }
    }

    /// As the backward takes them, with dlse.
    pub fn grads_with_dlse(&self) -> HostGradInputs<'_> {
        HostGradInputs { dout: &self.dout, dlse: Some(&self.dlse) }
    }
}

/// A normally distributed value that is not zero, nor so small that it rounds to zero in any storage type.
fn normal(rng: &mut Rng) -> f32 {
    let (u, v) = (1.0 - rng.f32(), rng.f32());
    let value = (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos();
    if value.abs() < 1e-3 { 1e-3 } else { value }
}
