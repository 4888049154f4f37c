//! The angles of the rotary embedding, computed once in float64 and shared by every engine.

use super::Config;
use std::ops::Range;

/// (cos, sin) of position·rope_theta^(−2i/head_dim): positions × head_dim/2.
///
/// The embedding is interleaved: elements 2i and 2i+1 of every query and key head become
/// x₂ᵢ·cos − x₂ᵢ₊₁·sin and x₂ᵢ·sin + x₂ᵢ₊₁·cos. Its gradient is the same with −sin.
pub fn table(config: &Config, positions: Range<u32>) -> Vec<[f32; 2]> {
    let (theta, head_dim) = (f64::from(config.rope_theta), f64::from(config.head_dim));
    let frequencies: Vec<f64> = (0..config.head_dim / 2).map(|i| theta.powf(-2.0 * f64::from(i) / head_dim)).collect();
    positions
        .flat_map(|position| frequencies.iter().map(move |frequency| f64::from(position) * frequency))
        .map(|angle| [angle.cos() as f32, angle.sin() as f32])
        .collect()
}
