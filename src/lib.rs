//! Differential Transformer V2 attention as fused, portable WGSL compute shaders, with a runtime on [`wgpu`].
//!
//! > outⱼ = softmax(q₂ⱼKᵀ·scale)V − sigmoid(λⱼ)·softmax(q₂ⱼ₊₁Kᵀ·scale)V
//!
//! Both members of a pair are computed in one pass over K and V. Say what to compute with a [`Problem`], then choose who
//! computes it:
//!
//! * [`DiffAttention`]: the kernels, on your device, in your encoder, on slices of your buffers; plan once
//!   ([`DiffAttention::plan_forward`]), bind once ([`ForwardPlan::bind`]), encode often ([`ForwardPass::encode`]).
//!   [`DiffAttention::forward`] does it all on tensors in host memory. Gradients go the same way
//!   ([`DiffAttention::plan_backward`]), and so does decoding from a cache on the device ([`DiffAttention::kv_cache`],
//!   [`DiffAttention::plan_append`], [`DiffAttention::plan_decode`]).
//! * [`cpu`]: a threaded engine for machines without a GPU.
//! * [`layer`]: the attention module of a model around the operation, its weights and what it costs.
//! * [`reference`](mod@reference): the float64 truth, and the judge that the tests and the command hold every result to.
//!
//! ```
//! use diffattn::{DType, HostInputs, Options, Problem, Shape, cpu};
//!
//! let shape = Shape { batch: 1, q_len: 2, kv_len: 2, heads: 1, kv_heads: 1, head_dim: 8, value_dim: 8 };
//! let mut options = Options::default();
//! options.causal = true;
//! let problem = Problem::new(shape, DType::F32, options);
//! let inputs = HostInputs { q: &[0.5; 32], k: &[0.25; 16], v: &[1.0; 16], lam: &[0.0; 2] };
//! // Both maps sum to one, and sigmoid(0) is a half.
//! assert_eq!(cpu::forward(&problem, &inputs)?.out, [0.5; 16]);
//! # Ok::<(), diffattn::Error>(())
//! ```
//!
//! Terms are the field's: `heads` counts **output** heads, of which each has two query heads; causal masks and windows
//! are aligned to the bottom right; λ is a logit; LSE is a natural logarithm. The README has a table for people coming
//! from flash_attn, FlashInfer, SDPA and Burn.
#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![deny(unsafe_code)]

mod attention;
#[cfg(feature = "bench")]
pub mod bench;
mod caps;
pub mod cpu;
mod decode_tile;
mod device;
mod error;
mod host;
mod kv_cache;
pub mod layer;
pub mod matrix;
mod memo;
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
#[cfg(all(feature = "tune", not(target_arch = "wasm32")))]
pub mod tune;

pub use attention::{DiffAttention, PlanOptions};
pub use caps::{Caps, Quirk};
pub use decode_tile::DecodeTile;
pub use device::{request_device, request_floor_device};
pub use error::{Error, Result};
pub use host::{HostGradInputs, HostGradients, HostInputs, HostOutputs, Sizes};
pub use kv_cache::{KvCache, KvConfig, KvDType, Pages, SequenceId};
pub use ops::backward::{BackwardBuffers, BackwardPass, BackwardPlan};
pub use ops::decode::{DecodeBuffers, DecodeOptions, DecodePass, DecodePlan, DecodeProblem};
pub use ops::forward::{ForwardBuffers, ForwardPass, ForwardPlan};
pub use ops::kv_append::{AppendPass, AppendPlan, AppendProblem};
pub use problem::{DType, Mask, Options, Packed, Problem, Sequence, Shape};
pub use readback::read_buffer;
pub use slice::{Layout, Strides, TensorSlice};
pub use tile::{AnyBackwardTile, AnyTile, BackwardTile, Path, Tile};
pub use wgpu;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
