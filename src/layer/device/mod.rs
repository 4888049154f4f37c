//! The attention module on the device.

mod cache;
mod kernel;
mod mixing;
mod plan;
mod projection;
mod run;
mod scratch;
mod weights;

use super::{Config, Weights};
use crate::attention::DiffAttention;
use crate::error::Result;
use crate::ops::backward::BackwardPass;
use crate::ops::cache_launch::Dispatch;
use crate::ops::forward::ForwardPass;
use crate::ops::matmul::MatmulPass;
use crate::params::LayerParams;
use crate::problem::DType;
use crate::tile::Path;

pub use cache::{LayerCache, StepPass, StepPlan};
pub use plan::{LayerPass, LayerPlan};
use weights::DeviceWeights;

/// An attention module of any [`super::Kind`] on the device: its parameters in buffers, and the operations planned with
/// them. Cheap to clone; clones share their parameters.
///
/// Plan once for a batch and length ([`MultiheadDiffAttention::plan`]), bind once ([`LayerPlan::bind_forward`],
/// [`LayerPlan::bind_backward`]), encode for every step; a step allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct MultiheadDiffAttention {
    attention: DiffAttention,
    config: Config,
    dtype: DType,
    weights: DeviceWeights,
    products: Option<Path>,
}

impl MultiheadDiffAttention {
    /// Uploads the parameters: matrices rounded to `dtype`, to nearest; V2's bias and V1's vectors and norm as f32.
    ///
    /// # Errors
    /// Those of [`Config::validate`]; [`crate::Error::Limit`] for a matrix above the device's largest buffer.
    pub fn new(attention: &DiffAttention, weights: &Weights, dtype: DType) -> Result<Self> {
        weights.config().validate()?;
        let config = *weights.config();
        let weights = DeviceWeights::upload(attention, weights, dtype)?;
        Ok(MultiheadDiffAttention { attention: attention.clone(), config, dtype, weights, products: None })
    }

    /// The same module with the products of its projections on a path, [`Path::Portable`] or [`Path::Matrix`]; the planner
    /// chooses otherwise. It holds for the forward pass, and for each gradient that the path can take
    /// ([`Matmul::unfit_for_matrix_units`](super::Matmul::unfit_for_matrix_units)); [`LayerPlan::labels`] shows it. Planning
    /// fails where the path cannot take the forward's.
    pub fn with_products_on(self, path: Path) -> Self {
        MultiheadDiffAttention { products: Some(path), ..self }
    }

    /// Which module it is.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Storage type of x, y, the activations and the matrices.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Plans the module for `batch` sequences of `seq_len` tokens from position 0, with `train` for its gradients too,
    /// and allocates what lies between its kernels.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for an empty batch or sequence; [`crate::Error::Limit`] for activations above the
    /// device's largest buffer; [`crate::Error::OutOfMemory`]; [`crate::Error::Shader`] when the driver refuses a kernel.
    pub async fn plan(&self, batch: u32, seq_len: u32, train: bool) -> Result<LayerPlan> {
        LayerPlan::new(self, batch, seq_len, train).await
    }

    /// [`MultiheadDiffAttention::plan`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn plan_blocking(&self, batch: u32, seq_len: u32, train: bool) -> Result<LayerPlan> {
        pollster::block_on(self.plan(batch, seq_len, train))
    }
}

/// One kernel or operation of a module, bound.
#[derive(Debug, Clone)]
enum Step {
    Product(MatmulPass),
    Forward(ForwardPass),
    Backward(BackwardPass),
    Kernel(Dispatch),
}

impl Step {
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        match self {
            Step::Product(step) => step.encode(pass),
            Step::Forward(step) => step.encode(pass),
            Step::Backward(step) => step.encode(pass),
            Step::Kernel(step) => step.encode(pass),
        }
    }

    fn dispatches(&self) -> usize {
        match self {
            Step::Product(_) | Step::Kernel(_) => 1,
            Step::Forward(step) => step.dispatches(),
            Step::Backward(step) => step.dispatches(),
        }
    }
}

/// The same numbers for another amount of work.
fn with_work(params: LayerParams, work: u32) -> LayerParams {
    LayerParams { work, ..params }
}
