//! The GPU engine of the command.

use std::fmt;

use anyhow::{Result, bail};
use diffattn::{HostGradInputs, HostGradients, HostInputs, HostOutputs, Problem, wgpu};

use crate::args::PathArg;
use crate::engine::Run;

pub struct Gpu {
    name: String,
}

/// The kernel that ran.
pub struct Kernel {
    pub label: String,
    pub path: String,
    pub tile: String,
}

impl Gpu {
    pub fn open(_adapter: &wgpu::Adapter) -> Result<Self> {
        bail!("the GPU engine is not built yet")
    }

    pub fn forward(&self, _problem: &Problem, _inputs: &HostInputs, _path: PathArg) -> Result<Run<HostOutputs>> {
        bail!("the GPU engine is not built yet")
    }

    pub fn backward(
        &self,
        _problem: &Problem,
        _inputs: &HostInputs,
        _grads: &HostGradInputs,
        _path: PathArg,
    ) -> Result<Run<HostGradients>> {
        bail!("the GPU engine is not built yet")
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
