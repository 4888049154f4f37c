//! What computes: a GPU or the CPU, and why.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use diffattn::{HostGradInputs, HostGradients, HostInputs, HostOutputs, Problem, cpu};

use crate::args::{EngineArg, EngineArgs, PathArg};
use crate::device;
use crate::gpu::{Gpu, Kernel};

pub enum Engine {
    Cpu,
    Gpu(Gpu),
}

/// A result, and how it came about.
pub struct Run<T> {
    pub result: T,
    /// The kernel that ran on the GPU.
    pub kernel: Option<Kernel>,
    /// From host memory to host memory, without planning and compiling.
    pub time: Duration,
}

impl Engine {
    /// The engine that the flags ask for, or the best one; and the reason.
    pub fn choose(args: &EngineArgs) -> Result<(Self, String)> {
        if args.engine == EngineArg::Cpu {
            return Ok((Engine::Cpu, "as asked".into()));
        }
        let adapters = device::adapters();
        let preferred = device::preferred(&adapters);
        let (index, reason) = if let Some(wanted) = &args.adapter {
            (device::find(&adapters, wanted)?, "the adapter asked for")
        } else if args.engine == EngineArg::Gpu || args.path != PathArg::Auto {
            let none = || format!("no GPU adapter was found; {}, or use --engine cpu", device::INSTALL);
            (preferred.with_context(none)?, "the best adapter of this machine")
        } else {
            match preferred {
                None => return Ok((Engine::Cpu, "since no GPU adapter was found".into())),
                Some(index) if device::is_software(&adapters[index]) => {
                    let name = adapters[index].get_info().name;
                    let reason = format!("since the only adapter, {name}, is software (--engine gpu uses it anyway)");
                    return Ok((Engine::Cpu, reason));
                }
                Some(index) => (index, "the best adapter of this machine"),
            }
        };
        let gpu = Gpu::open(&adapters[index]).context("cannot use the GPU; --engine cpu would do without it")?;
        Ok((Engine::Gpu(gpu), reason.into()))
    }

    pub fn forward(&self, problem: &Problem, inputs: &HostInputs, path: PathArg) -> Result<Run<HostOutputs>> {
        match self {
            Engine::Cpu => timed(|| cpu::forward(problem, inputs)),
            Engine::Gpu(gpu) => gpu.forward(problem, inputs, path),
        }
    }

    pub fn backward(
        &self,
        problem: &Problem,
        inputs: &HostInputs,
        grads: &HostGradInputs,
        path: PathArg,
    ) -> Result<Run<HostGradients>> {
        match self {
            Engine::Cpu => timed(|| cpu::backward(problem, inputs, grads)),
            Engine::Gpu(gpu) => gpu.backward(problem, inputs, grads, path),
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

fn timed<T>(work: impl FnOnce() -> diffattn::Result<T>) -> Result<Run<T>> {
    let start = Instant::now();
    let result = work()?;
    Ok(Run { result, kernel: None, time: start.elapsed() })
}
