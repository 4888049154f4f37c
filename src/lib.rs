//! Differential Transformer V2 attention as fused, portable WGSL compute shaders.
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(unsafe_code)]

pub mod cpu;
mod error;
mod host;
mod problem;
pub mod reference;

pub use error::{Error, Result};
pub use host::{HostGradInputs, HostGradients, HostInputs, HostOutputs, Sizes};
pub use problem::{DType, Mask, Options, Packed, Problem, Sequence, Shape};
pub use wgpu;
