//! What computes: a GPU or the CPU, and why.

use std::fmt;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use diffattn::{HostGradInputs, HostGradients, HostInputs, HostOutputs, PlanOptions, Problem, cpu, wgpu};

use crate::args::{EngineArg, EngineArgs};
use crate::device;
use crate::gpu::{Gpu, Kernel};

pub enum Engine {
    Cpu,
    Gpu(Gpu),
}

/// A result, and how it came about.
pub struct Run<T> {
    pub result: T,
    /// The kernels that ran on the GPU.
    pub kernel: Option<Kernel>,
    /// From host memory to host memory, without planning and compiling.
    pub time: Duration,
}

impl<T> Run<T> {
    /// The kernels and the times, a line each.
    pub fn print(&self, out: &mut impl Write, what: &str) -> Result<()> {
        if let Some(kernel) = &self.kernel {
            for label in &kernel.labels {
                writeln!(out, "{:<10}{label}", "kernel")?;
            }
            if let Some(path) = &kernel.path {
                writeln!(out, "{:<10}{path}", "path")?;
            }
            if let Some(tile) = &kernel.tile {
                writeln!(out, "{:<10}{tile}", "tile")?;
            }
            writeln!(out, "{:<10}{:.1?}", "compiled", kernel.time)?;
        }
        writeln!(out, "{what:<10}{:.1?}", self.time)?;
        Ok(())
    }
}

impl Engine {
    /// The engine that the flags ask for, or the best one; and the reason.
    pub fn choose(args: &EngineArgs) -> Result<(Self, String)> {
        if args.engine == EngineArg::Cpu {
            return Ok((Engine::Cpu, "as asked".into()));
        }
        let adapters = device::adapters();
        let (index, reason) = if let Some(wanted) = &args.adapter {
            (Some(device::find(&adapters, wanted)?), "the adapter asked for".into())
        } else if args.engine == EngineArg::Gpu || args.plan() != PlanOptions::default() {
            let none = || format!("no GPU adapter was found; {}, or use --engine cpu", device::INSTALL);
            (Some(device::preferred(&adapters).with_context(none)?), "a GPU was asked for".into())
        } else {
            automatic(&adapters)
        };
        let Some(index) = index else { return Ok((Engine::Cpu, reason)) };
        let gpu = Gpu::open(&adapters[index]).context("cannot use the GPU (--engine cpu does without)")?;
        Ok((Engine::Gpu(gpu), reason))
    }

    pub fn forward(&self, problem: &Problem, inputs: &HostInputs, options: PlanOptions) -> Result<Run<HostOutputs>> {
        match self {
            Engine::Cpu => timed(|| cpu::forward(problem, inputs)),
            Engine::Gpu(gpu) => gpu.forward(problem, inputs, options),
        }
    }

    pub fn backward(
        &self,
        problem: &Problem,
        inputs: &HostInputs,
        grads: &HostGradInputs,
        options: PlanOptions,
    ) -> Result<Run<HostGradients>> {
        match self {
            Engine::Cpu => timed(|| cpu::backward(problem, inputs, grads)),
            Engine::Gpu(gpu) => gpu.backward(problem, inputs, grads, options),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Cpu => write!(f, "CPU ({} threads)", rayon::current_num_threads()),
            Engine::Gpu(gpu) => write!(f, "GPU, {gpu}"),
        }
    }
}

/// What `--engine auto` takes, by the number of the adapter; `None` is the CPU engine. And the reason.
pub fn automatic(adapters: &[wgpu::Adapter]) -> (Option<usize>, String) {
    let Some(index) = device::preferred(adapters) else {
        return (None, "no GPU adapter was found".into());
    };
    if device::is_software(&adapters[index]) {
        let name = adapters[index].get_info().name;
        return (None, format!("no GPU, only a software driver was found ({name}; --engine gpu uses it)"));
    }
    (Some(index), "the best adapter of this machine".into())
}

pub fn timed<T>(work: impl FnOnce() -> diffattn::Result<T>) -> Result<Run<T>> {
    let start = Instant::now();
    let result = work()?;
    Ok(Run { result, kernel: None, time: start.elapsed() })
}
