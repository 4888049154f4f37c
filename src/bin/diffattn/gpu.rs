//! The GPU engine of the command: one adapter, and the kernels on it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use diffattn::{
    DiffAttention, HostGradInputs, HostGradients, HostInputs, HostOutputs, Path, PlanOptions, Problem, wgpu,
};

use crate::engine::Run;
use crate::tables;

pub struct Gpu {
    name: String,
    attention: DiffAttention,
}

/// The kernels that ran, in words.
pub struct Kernel {
    /// In the order in which they ran.
    pub labels: Vec<String>,
    /// Where one was chosen for all.
    pub path: Option<String>,
    /// Where it is not all in the label.
    pub tile: Option<String>,
    /// Planning and compiling.
    pub time: Duration,
}

impl Gpu {
    pub fn open(adapter: &wgpu::Adapter) -> Result<Self> {
        let (device, queue) = pollster::block_on(diffattn::request_device(adapter))?;
        Ok(Gpu { name: adapter.get_info().name, attention: DiffAttention::with_adapter(adapter, &device, &queue) })
    }

    pub fn attention(&self) -> &DiffAttention {
        &self.attention
    }

    pub fn forward(&self, problem: &Problem, inputs: &HostInputs, path: Option<Path>) -> Result<Run<HostOutputs>> {
        let mut options = PlanOptions::default();
        options.path = path;
        let start = Instant::now();
        let plan = self.attention.plan_forward_blocking(problem, options)?;
        let kernel = Kernel {
            labels: vec![plan.label()],
            path: Some(format!("{} ({})", plan.path().name(), plan.reason())),
            tile: plan.tile().map(|tile| tables::tile(&tile, &problem.shape, plan.path())),
            time: start.elapsed(),
        };
        let start = Instant::now();
        let result = pollster::block_on(plan.run(inputs))?;
        Ok(Run { result, kernel: Some(kernel), time: start.elapsed() })
    }

    pub fn backward(
        &self,
        problem: &Problem,
        inputs: &HostInputs,
        grads: &HostGradInputs,
        path: Option<Path>,
    ) -> Result<Run<HostGradients>> {
        let mut options = PlanOptions::default();
        options.path = path;
        let start = Instant::now();
        let plan = self.attention.plan_backward_blocking(problem, options)?;
        let kernel = Kernel {
            labels: plan.labels(),
            path: Some(format!("{} ({})", plan.path().name(), plan.reason())),
            tile: None,
            time: start.elapsed(),
        };
        let start = Instant::now();
        let result = pollster::block_on(plan.run(inputs, grads))?;
        Ok(Run { result, kernel: Some(kernel), time: start.elapsed() })
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
