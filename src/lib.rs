//! Differential Transformer V2 attention as fused, portable WGSL compute shaders.
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(unsafe_code)]

mod attention;
mod caps;
pub mod cpu;
mod decode_tile;
mod device;
mod error;
mod host;
mod kv_cache;
mod ops;
mod params;
mod pipeline;
mod problem;
mod readback;
pub mod reference;
pub mod shader;
mod slice;
mod split;
pub mod tile;

pub use attention::{DiffAttention, PlanOptions};
pub use caps::Caps;
pub use decode_tile::DecodeTile;
pub use device::{request_device, request_floor_device};
pub use error::{Error, Result};
pub use host::{HostGradInputs, HostGradients, HostInputs, HostOutputs, Sizes};
pub use kv_cache::{KvCache, KvConfig, KvDType, Pages, SequenceId};
pub use ops::decode::{DecodeBuffers, DecodeOptions, DecodePass, DecodePlan, DecodeProblem};
pub use ops::forward::{ForwardBuffers, ForwardPass, ForwardPlan};
pub use ops::kv_append::{AppendPass, AppendPlan, AppendProblem};
pub use problem::{DType, Mask, Options, Packed, Problem, Sequence, Shape};
pub use readback::read_buffer;
pub use slice::{Layout, Strides, TensorSlice};
pub use tile::{Path, Tile};
pub use wgpu;
