//! What computes a module: a GPU or the CPU.

use std::fmt;

use anyhow::{Result, bail};
use diffattn::cpu;
use diffattn::layer::HostGradients;

use super::file::Module;
use crate::args::EngineArg;
use crate::engine::{Run, timed};

pub enum Engine {
    Cpu,
}

impl Engine {
    /// The engine that the flags ask for, or the best one; and the reason.
    pub fn choose(engine: EngineArg, adapter: Option<&str>) -> Result<(Self, String)> {
        if engine == EngineArg::Gpu || adapter.is_some() {
            bail!("the module has no GPU engine yet; use --engine cpu, or `attend` for the attention inside it");
        }
        let reason = if engine == EngineArg::Cpu { "as asked" } else { "the module has no GPU engine yet" };
        Ok((Engine::Cpu, reason.into()))
    }

    pub fn forward(&self, module: &Module) -> Result<Run<Vec<f32>>> {
        match self {
            Engine::Cpu => timed(|| cpu::layer::forward(&module.weights, &module.tokens(), module.dtype)),
        }
    }

    /// The gradients, when they were asked for.
    pub fn backward(&self, module: &Module) -> Result<Option<Run<HostGradients>>> {
        let Some(dy) = &module.dy else { return Ok(None) };
        let run = match self {
            Engine::Cpu => timed(|| cpu::layer::backward(&module.weights, &module.tokens(), dy, module.dtype)),
        };
        run.map(Some)
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Engine::Cpu => write!(f, "CPU ({} threads)", rayon::current_num_threads()),
        }
    }
}
