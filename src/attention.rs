//! The public handle: a device, its capabilities, and the kernels compiled so far.

use std::sync::Arc;
#[cfg(not(target_arch = "wasm32"))]
use std::task::{Context, Poll, Waker};

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::host::{HostGradInputs, HostGradients, HostInputs, HostOutputs};
use crate::kv_cache::{KvCache, KvConfig};
use crate::memo::Memo;
use crate::ops::backward::{self, BackwardPlan};
use crate::ops::decode::{DecodeOptions, DecodePlan, DecodeProblem};
use crate::ops::forward::{self, ForwardPlan};
use crate::ops::kv_append::{AppendPlan, AppendProblem};
use crate::ops::matmul::{Matmul, MatmulOptions, MatmulPlan};
use crate::pipeline::Pipelines;
use crate::problem::Problem;
use crate::tile::{AnyBackwardTile, AnyTile, Path};

/// DIFF V2 attention on one device. Cheap to clone; clones share compiled kernels.
///
/// The device, the queue, the buffers and the encoder stay the caller's: nothing is submitted or awaited behind their
/// back, except by the calls on host slices, which say so.
#[derive(Debug, Clone)]
pub struct DiffAttention {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    pub(crate) caps: Arc<Caps>,
    pub(crate) pipelines: Arc<Pipelines>,
    pub(crate) choices: Arc<Choices>,
}

/// What was chosen for recent problems.
#[derive(Debug, Default)]
pub(crate) struct Choices {
    pub forward: Memo<forward::Chosen>,
    pub backward: Memo<backward::Chosen>,
}

/// Choices that are normally left to the planner; tests, benchmarks and tuners force them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct PlanOptions {
    /// The kernel family; `None` lets the planner choose.
    pub path: Option<Path>,
    /// The forward's tile; `None` lets the planner choose. Ignored by the naive path; where `path` is `None`, a tile that is
    /// not of matrix units goes to the portable path. A tile can be read from text: `"r64k16t64n4".parse()`.
    pub tile: Option<AnyTile>,
    /// The backward's tiles for dQ and for dK with dV; `None` lets the planner choose. Ignored by the naive path.
    pub backward_tiles: Option<[AnyBackwardTile; 2]>,
    /// Compile with the driver's bounds checks, which the kernels do not need.
    pub runtime_checks: bool,
}

impl PlanOptions {
    /// The given path, everything else left to the planner.
    pub fn on(path: Path) -> Self {
        PlanOptions { path: Some(path), ..Default::default() }
    }
}

impl DiffAttention {
    /// Reads what `device` can do; compiles nothing yet.
    pub fn new(device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        DiffAttention {
            device: device.clone(),
            queue: queue.clone(),
            caps: Arc::new(Caps::of(device)),
            pipelines: Arc::default(),
            choices: Arc::default(),
        }
    }

    /// The same, with what only the adapter knows: without it, matrix units are never used.
    pub fn with_adapter(adapter: &wgpu::Adapter, device: &wgpu::Device, queue: &wgpu::Queue) -> Self {
        let caps = Caps::of(device).with_matrices(adapter, device.features());
        DiffAttention { caps: Arc::new(caps), ..DiffAttention::new(device, queue) }
    }

    /// The device that the kernels run on.
    pub fn device(&self) -> &wgpu::Device {
        &self.device
    }

    /// The queue that the calls on host slices submit to.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.queue
    }

    /// What the device can do.
    pub fn caps(&self) -> &Caps {
        &self.caps
    }

    /// Validates the problem, chooses path and tile, and compiles the kernel unless it is there already.
    ///
    /// # Errors
    /// Those of [`Problem::validate`]; [`crate::Error::MissingFeature`] or [`crate::Error::Limit`] when the device
    /// cannot run the path or tile asked for; [`crate::Error::Shader`] when the driver refuses the kernel.
    pub async fn plan_forward(&self, problem: &Problem, options: PlanOptions) -> Result<ForwardPlan> {
        ForwardPlan::new(self, problem, options, false).await
    }

    /// Standard attention through the same tiled kernels, which the fused form is measured against: each of the problem's
    /// heads has one query head, one row of lse, and no λ and a₂. `lam` is bound and means nothing.
    ///
    /// # Errors
    /// As [`DiffAttention::plan_forward`]; [`Error::Unsupported`] on the naive and matrix paths.
    #[doc(hidden)]
    pub async fn plan_standard_forward(&self, problem: &Problem, options: PlanOptions) -> Result<ForwardPlan> {
        ForwardPlan::new(self, problem, options, true).await
    }

    /// Plans, uploads, runs, submits and reads back: the whole operation on tensors in host memory.
    ///
    /// # Errors
    /// Those of [`DiffAttention::plan_forward`] and of [`ForwardPlan::run`].
    pub async fn forward(&self, problem: &Problem, inputs: &HostInputs<'_>) -> Result<HostOutputs> {
        self.plan_forward(problem, PlanOptions::default()).await?.run(inputs).await
    }

    /// Creates an empty KV cache on the device.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a size out of range; [`crate::Error::Limit`] where one KV head of one sequence, or
    /// all pages, do not fit a binding; [`crate::Error::OutOfMemory`].
    pub async fn kv_cache(&self, config: &KvConfig) -> Result<KvCache> {
        KvCache::new(self, config).await
    }

    /// Validates the problem and compiles the kernel that appends to a cache.
    ///
    /// # Errors
    /// [`crate::Error::Invalid`] for a size out of range, [`crate::Error::Unsupported`] for a type that the cache does
    /// not take, [`crate::Error::Shader`] when the driver refuses the kernel.
    pub async fn plan_append(&self, problem: &AppendProblem) -> Result<AppendPlan> {
        AppendPlan::new(self, problem).await
    }

    /// Validates the problem, chooses path, tile and splits, and compiles the kernels of a decode step.
    ///
    /// # Errors
    /// Those of [`DecodeProblem::validate`]; [`crate::Error::MissingFeature`], [`crate::Error::Unsupported`] or
    /// [`crate::Error::Limit`] when the device cannot run the path asked for; [`crate::Error::Shader`] when the driver
    /// refuses a kernel.
    pub async fn plan_decode(&self, problem: &DecodeProblem, options: DecodeOptions) -> Result<DecodePlan> {
        DecodePlan::new(self, problem, options).await
    }

    /// Validates a matrix product, chooses path and tile unless told, and compiles the kernel unless it is there already.
    ///
    /// # Errors
    /// Those of [`Matmul::validate`]; [`crate::Error::MissingFeature`] or [`crate::Error::Limit`] when the device cannot
    /// run the path or tile asked for, [`crate::Error::Unsupported`] when the path cannot take the product
    /// ([`Matmul::unfit_for_matrix_units`]), [`crate::Error::Invalid`] for a path that has no products;
    /// [`crate::Error::Shader`] when the driver refuses the kernel.
    pub async fn plan_matmul(&self, problem: &Matmul, options: MatmulOptions) -> Result<MatmulPlan> {
        MatmulPlan::new(self, problem, options).await
    }

    /// [`DiffAttention::plan_matmul`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn plan_matmul_blocking(&self, problem: &Matmul, options: MatmulOptions) -> Result<MatmulPlan> {
        pollster::block_on(self.plan_matmul(problem, options))
    }

    /// [`DiffAttention::kv_cache`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn kv_cache_blocking(&self, config: &KvConfig) -> Result<KvCache> {
        block_on(self.kv_cache(config))
    }

    /// [`DiffAttention::plan_append`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn plan_append_blocking(&self, problem: &AppendProblem) -> Result<AppendPlan> {
        block_on(self.plan_append(problem))
    }

    /// [`DiffAttention::plan_decode`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn plan_decode_blocking(&self, problem: &DecodeProblem, options: DecodeOptions) -> Result<DecodePlan> {
        block_on(self.plan_decode(problem, options))
    }

    /// [`DiffAttention::plan_forward`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn plan_forward_blocking(&self, problem: &Problem, options: PlanOptions) -> Result<ForwardPlan> {
        block_on(self.plan_forward(problem, options))
    }

    /// [`DiffAttention::forward`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn forward_blocking(&self, problem: &Problem, inputs: &HostInputs<'_>) -> Result<HostOutputs> {
        block_on(self.forward(problem, inputs))
    }

    /// Validates the problem, chooses path and tiles, and compiles the kernels of the backward pass unless they are
    /// there already.
    ///
    /// The problem is the forward's. Its LSE is always read. With [`crate::Options::a2`] so is a₂; without it, its row
    /// term is recomputed in one more sweep over the keys, which saves the memory of a₂ and costs about a fifth more
    /// time.
    ///
    /// # Errors
    /// As [`DiffAttention::plan_forward`].
    pub async fn plan_backward(&self, problem: &Problem, options: PlanOptions) -> Result<BackwardPlan> {
        BackwardPlan::new(self, problem, options, false).await
    }

    /// The backward pass of standard attention through the same tiled kernels, which the fused form is measured
    /// against: each of the problem's heads has one query head, one row of lse, and no λ and a₂. `lam` and `dlam` are
    /// bound like the others and mean nothing.
    ///
    /// # Errors
    /// As [`DiffAttention::plan_forward`]; [`Error::Unsupported`] on the naive path.
    #[doc(hidden)]
    pub async fn plan_standard_backward(&self, problem: &Problem, options: PlanOptions) -> Result<BackwardPlan> {
        if options.path == Some(Path::Naive) {
            let hint = "choose a tiled path".into();
            return Err(Error::Unsupported { what: "standard attention on the naive path".into(), hint });
        }
        BackwardPlan::new(self, problem, options, true).await
    }

    /// Plans, uploads, runs forward and backward, submits and reads back: the gradients of tensors in host memory.
    ///
    /// # Errors
    /// Those of [`DiffAttention::plan_backward`] and of [`BackwardPlan::run`].
    pub async fn backward(
        &self,
        problem: &Problem,
        inputs: &HostInputs<'_>,
        grads: &HostGradInputs<'_>,
    ) -> Result<HostGradients> {
        self.plan_backward(problem, PlanOptions::default()).await?.run(inputs, grads).await
    }

    /// [`DiffAttention::plan_backward`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn plan_backward_blocking(&self, problem: &Problem, options: PlanOptions) -> Result<BackwardPlan> {
        block_on(self.plan_backward(problem, options))
    }

    /// [`DiffAttention::backward`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn backward_blocking(
        &self,
        problem: &Problem,
        inputs: &HostInputs<'_>,
        grads: &HostGradInputs<'_>,
    ) -> Result<HostGradients> {
        block_on(self.backward(problem, inputs, grads))
    }
}

/// Waits for a future. One that is ready at once, as a plan of known kernels is, costs nothing.
#[cfg(not(target_arch = "wasm32"))]
fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => pollster::block_on(future),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles only while the futures can be spawned on a threaded executor.
    #[expect(dead_code, reason = "checked by compiling it")]
    fn futures_are_send(attention: &DiffAttention, problem: &Problem, inputs: &HostInputs<'_>, plan: &ForwardPlan) {
        fn send(_: impl Send) {}
        send(attention.plan_forward(problem, PlanOptions::default()));
        send(attention.forward(problem, inputs));
        send(plan.run(inputs));
        let cache = KvConfig {
            sequences: 1,
            capacity: 1,
            kv_heads: 1,
            head_dim: 8,
            value_dim: 8,
            dtype: problem.dtype.into(),
            pages: None,
        };
        send(attention.kv_cache(&cache));
        let (heads, options, dtype) = (1, problem.options, problem.dtype);
        send(attention.plan_append(&AppendProblem { cache, batch: 1, q_len: 1, dtype }));
        let problem = DecodeProblem { cache, batch: 1, q_len: 1, heads, dtype, options };
        send(attention.plan_decode(&problem, DecodeOptions::default()));
    }

    #[expect(dead_code, reason = "checked by compiling it")]
    fn backward_futures_are_send(
        attention: &DiffAttention,
        problem: &Problem,
        inputs: &HostInputs<'_>,
        grads: &HostGradInputs<'_>,
        plan: &BackwardPlan,
    ) {
        fn send(_: impl Send) {}
        send(attention.plan_backward(problem, PlanOptions::default()));
        send(attention.backward(problem, inputs, grads));
        send(plan.run(inputs, grads));
    }
}
