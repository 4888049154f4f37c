//! Ordinary attention by the same engine: one query head for each output head. What the module's other kinds are made
//! of.

use super::{backward::run as run_backward, forward::run as run_forward};
use crate::{HostGradInputs, HostGradients, HostInputs, HostOutputs, Problem, Result, Sizes};

/// softmax(qKᵀ·scale)V: batch × q_len × heads × value_dim, rounded to the storage type.
///
/// q is batch × q_len × heads × head_dim here; k and v have the shapes of [`HostInputs`].
///
/// # Errors
/// Those of [`Problem::validate`], and [`crate::Error::Shape`] for a slice of the wrong length.
pub(crate) fn forward(problem: &Problem, qkv: [&[f32]; 3]) -> Result<Vec<f32>> {
    let (inputs, sizes) = validate(problem, qkv)?;
    let HostOutputs { out, .. } = run_forward(problem, &inputs, &sizes, 1);
    Ok(out)
}

/// The gradients [dq, dk, dv], shaped as q, k and v; `dout` is shaped as the output.
///
/// # Errors
/// Those of [`forward`].
pub(crate) fn backward(problem: &Problem, qkv: [&[f32]; 3], dout: &[f32]) -> Result<[Vec<f32>; 3]> {
    let (inputs, sizes) = validate(problem, qkv)?;
    let grads = HostGradInputs { dout, dlse: None };
    grads.validate(problem)?;
    let HostGradients { dq, dk, dv, .. } = run_backward(problem, &inputs, &grads, &sizes, 1);
    Ok([dq, dk, dv])
}

/// Half as many query heads as pairs would have, and no λ.
fn validate<'a>(problem: &Problem, [q, k, v]: [&'a [f32]; 3]) -> Result<(HostInputs<'a>, Sizes)> {
    problem.validate()?;
    let pairs = Sizes::of(problem)?;
    let sizes = Sizes { q: pairs.q / 2, lam: 0, lse: pairs.lse / 2, ..pairs };
    let inputs = HostInputs { q, k, v, lam: &[] };
    inputs.check(problem, &sizes)?;
    Ok((inputs, sizes))
}
