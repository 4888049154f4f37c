//! What computes a module: a GPU or the CPU.

use std::fmt;
use std::time::Instant;

use anyhow::{Context, Result};
use diffattn::cpu;
use diffattn::layer::{HostGradients, MultiheadDiffAttention};

use super::file::Module;
use crate::args::{EngineArg, EngineArgs, PathArg};
use crate::engine::{self, Run, timed};
use crate::gpu::Gpu;

pub enum Engine {
    Cpu,
    Gpu(Gpu),
}

impl Engine {
    /// The engine that the flags ask for, or the best one; and the reason.
    pub fn choose(engine: EngineArg, adapter: Option<&str>) -> Result<(Self, String)> {
        let args = EngineArgs { engine, adapter: adapter.map(Into::into), path: PathArg::Auto };
        let (engine, reason) = engine::Engine::choose(&args)?;
        let engine = match engine {
            engine::Engine::Cpu => Engine::Cpu,
            engine::Engine::Gpu(gpu) => Engine::Gpu(gpu),
        };
        Ok((engine, reason))
    }

    pub fn forward(&self, module: &Module) -> Result<Run<Vec<f32>>> {
        match self {
            Engine::Cpu => timed(|| cpu::layer::forward(&module.weights, &module.tokens(), module.dtype)),
            Engine::Gpu(gpu) => on_gpu(gpu, module, |layer| layer.forward_blocking(&module.tokens())),
        }
    }

    /// The gradients, when they were asked for.
    pub fn backward(&self, module: &Module) -> Result<Option<Run<HostGradients>>> {
        let Some(dy) = &module.dy else { return Ok(None) };
        let run = match self {
            Engine::Cpu => timed(|| cpu::layer::backward(&module.weights, &module.tokens(), dy, module.dtype)),
            Engine::Gpu(gpu) => on_gpu(gpu, module, |layer| {
                layer.backward_blocking(&module.tokens(), dy).map(|(_, gradients)| gradients)
            }),
        };
        run.map(Some)
    }
}

/// A whole operation on the GPU, from host memory to host memory, with planning and compiling.
fn on_gpu<T>(
    gpu: &Gpu,
    module: &Module,
    work: impl FnOnce(&MultiheadDiffAttention) -> diffattn::Result<T>,
) -> Result<Run<T>> {
    let start = Instant::now();
    let layer = MultiheadDiffAttention::new(gpu.attention(), &module.weights, module.dtype);
    let result = layer.and_then(|layer| work(&layer)).context("cannot run the module on the GPU")?;
    Ok(Run { result, kernel: None, time: start.elapsed() })
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Cpu => write!(f, "CPU ({} threads)", rayon::current_num_threads()),
            Engine::Gpu(gpu) => write!(f, "GPU, {gpu}, compiling included"),
        }
    }
}
