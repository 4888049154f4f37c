//! A module on the engine that was chosen: a GPU or the CPU.

use std::time::Instant;

use anyhow::Result;
use diffattn::cpu;
use diffattn::layer::{HostGradients, MultiheadDiffAttention};

use super::file::Module;
use crate::engine::{Engine, Run, timed};
use crate::gpu::{Gpu, Kernel};

pub fn forward(engine: &Engine, module: &Module) -> Result<Run<Vec<f32>>> {
    match engine {
        Engine::Cpu => timed(|| cpu::layer::forward(&module.weights, &module.tokens(), module.dtype)),
        Engine::Gpu(gpu) => on_gpu(gpu, module, false, |layer| layer.forward_blocking(&module.tokens())),
    }
}

/// The gradients, when they were asked for.
pub fn backward(engine: &Engine, module: &Module) -> Result<Option<Run<HostGradients>>> {
    let Some(dy) = &module.dy else { return Ok(None) };
    let run = match engine {
        Engine::Cpu => timed(|| cpu::layer::backward(&module.weights, &module.tokens(), dy, module.dtype)),
        Engine::Gpu(gpu) => on_gpu(gpu, module, true, |layer| Ok(layer.backward_blocking(&module.tokens(), dy)?.1)),
    };
    run.map(Some)
}

/// Plans, which compiles, and then runs on what was compiled.
fn on_gpu<T>(
    gpu: &Gpu,
    module: &Module,
    train: bool,
    run: impl FnOnce(&MultiheadDiffAttention) -> diffattn::Result<T>,
) -> Result<Run<T>> {
    let tokens = module.tokens();
    let start = Instant::now();
    let layer = MultiheadDiffAttention::new(gpu.attention(), &module.weights, module.dtype)?;
    let plan = layer.plan_blocking(tokens.batch, tokens.seq_len, train)?;
    let kernel = Kernel { labels: plan.labels(), path: None, tile: None, time: start.elapsed() };
    drop(plan);
    let start = Instant::now();
    let result = run(&layer)?;
    Ok(Run { result, kernel: Some(kernel), time: start.elapsed() })
}
