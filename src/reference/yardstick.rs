//! The plain un-fused computation in the storage type, as an ordinary framework runs it: scores, softmax weights,
//! member outputs and their gradients are each stored in it, sums are f32 in order.
//!
//! Its distance from the truth is what a user of that type already accepts, and so the unit in which
//! [`super::Judge`] measures an engine.

use super::backward::{Gradients, Upstream, validate};
use super::forward::{Graph, Outputs};
use crate::error::Result;
use crate::host::{HostGradInputs, HostGradients, HostInputs, HostOutputs};
use crate::problem::Problem;

/// The forward pass; `lse` and `a2` are always present.
///
/// # Errors
/// Those of [`HostInputs::validate`].
pub fn forward(problem: &Problem, inputs: &HostInputs) -> Result<HostOutputs> {
    inputs.validate(problem)?;
    let Outputs { out, a2, lse, .. } = Graph::new(problem, inputs, problem.dtype).forward();
    Ok(HostOutputs { out, lse: Some(lse), a2: Some(a2) })
}

/// The backward pass.
///
/// # Errors
/// Those of [`super::backward`].
pub fn backward(problem: &Problem, inputs: &HostInputs, grads: &HostGradInputs) -> Result<HostGradients> {
    validate(problem, inputs, grads)?;
    let graph = Graph::new(problem, inputs, problem.dtype);
    let Gradients { dq, dk, dv, dlam } = graph.backward(&Upstream::new(grads));
    Ok(HostGradients { dq, dk, dv, dlam })
}
