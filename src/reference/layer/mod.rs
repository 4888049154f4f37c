//! The attention module in float64, as its source writes it down: one operation after the other, nothing fused.
//!
//! Projections and norm are naive loops of their own, and attention is the operation's reference. An ordinary attention
//! is the pair operation whose second member is gated to nothing (λ = −∞).

mod backward;
mod graph;
mod judge;

mod ordinary;
mod products;

use super::arithmetic::Exact;
use crate::error::Result;
use crate::layer::{HostTokens, Weights};

pub use backward::Gradients;

use graph::Graph;

/// y in float64: batch × seq_len × d_model.
///
/// # Errors
/// Those of [`HostTokens::validate`].
pub fn forward(weights: &Weights, tokens: &HostTokens) -> Result<Vec<f64>> {
    tokens.validate(weights.config())?;
    Ok(Graph::new(weights, tokens, Exact).forward().y)
}

/// The gradients in float64; `dy` is shaped as y.
///
/// # Errors
/// Those of [`HostTokens::validate`], and [`crate::Error::Shape`] for a `dy` of the wrong length.
pub fn backward(weights: &Weights, tokens: &HostTokens, dy: &[f32]) -> Result<Gradients> {
    tokens.validate(weights.config())?;
    tokens.check("dy", dy, weights.config())?;
    let graph = Graph::new(weights, tokens, Exact);
    Ok(graph.backward(&graph.forward(), dy))
}
