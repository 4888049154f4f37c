//! The attention module around the operation: projections, rotary embedding, causal attention, output projection.
//!
//! Three kinds behind one interface ([`Kind`]): DIFF V2, the baseline that it is measured against, and DIFF V1.
//! [`Config`] says which module it is: its parameters and their shapes, what it costs. [`Weights`] are its parameters in
//! host memory, under the published names. Both are pure data, shared by every engine:
//!
//! > q, k, v, λ = x·Wᵀ → rotary embedding of q and k → causal attention → y = o·W_Oᵀ
//!
//! Source: `Diff-Transformer/Diff-Transformer-V2/multihead_flashdiffv2.py` (V2 and the baseline) and
//! `Diff-Transformer/multihead_flashdiff_1.py` (V1) of microsoft/unilm.

mod config;
mod cost;
mod device;
mod found;
mod host;
pub mod rotary;
#[cfg(feature = "safetensors")]
mod safetensors;
mod weights;

pub use crate::ops::matmul::{Matmul, MatmulBuffers, MatmulOptions, MatmulPass, MatmulPlan, Matrix, Rotary};
pub use crate::shader::Epilogue;
pub use crate::tile::{AnyMatmulTile, Form, MatmulMatrixTile, MatmulTile};
pub(crate) use config::NORM_EPSILON;
pub use config::{Config, Kind, Parameter};
pub use device::{LayerCache, LayerPass, LayerPlan, MultiheadDiffAttention, StepPass, StepPlan};
pub use found::Found;
pub use host::{HostGradients, HostTokens};
pub use weights::Weights;
