//! The GPU engine of the command: one adapter, and the kernels on it.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use diffattn::bench::{Case, Op};
use diffattn::tune::Memory;
use diffattn::{
    AppendProblem, DecodeOptions, DecodeProblem, DiffAttention, HostGradInputs, HostGradients, HostInputs, HostOutputs,
    Options, PlanOptions, Problem, wgpu,
};

use crate::engine::Run;
use crate::{note, tables};

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

    /// What `diffattn tune` found for problems like this on this device, if it was asked.
    pub fn remembered(&self, case: &Case) -> Option<PlanOptions> {
        let (memory, broken) = Memory::read(&Memory::usual_file()?);
        if let Some(broken) = broken {
            note(format_args!("{broken}"));
        }
        memory.recall(self.attention.caps(), case)
    }

    /// Where nothing is forced and nothing was measured: the decode step that does the same, where there is one.
    pub fn forward(&self, problem: &Problem, inputs: &HostInputs, options: PlanOptions) -> Result<Run<HostOutputs>> {
        let mut no_decode = String::new();
        if options == PlanOptions::default() {
            match DecodeProblem::of(problem) {
                Ok(step) => return self.decode(&step, inputs, DecodeOptions::default()),
                Err(error) if DecodeProblem::is_few(problem) => no_decode = format!("; {error}"),
                Err(_) => {}
            }
        }
        let start = Instant::now();
        let untold = options == PlanOptions::default();
        let tuned = like(problem).filter(|_| untold).and_then(|case| self.remembered(&case));
        let plan = self.attention.plan_forward_blocking(problem, tuned.unwrap_or(options))?;
        let reason = if tuned.is_some() { "measured by diffattn tune" } else { plan.reason() };
        let kernel = Kernel {
            labels: vec![plan.label()],
            path: Some(format!("{} ({reason}{no_decode})", plan.path().name())),
            tile: plan.tile().map(|tile| tables::tile(&tile, &problem.shape, plan.path())),
            time: start.elapsed(),
        };
        let start = Instant::now();
        let result = pollster::block_on(plan.run(inputs))?;
        Ok(Run { result, kernel: Some(kernel), time: start.elapsed() })
    }

    /// The inputs are those of the forward pass with as many keys as the cache has room for.
    pub fn decode(
        &self,
        step: &DecodeProblem,
        inputs: &HostInputs,
        options: DecodeOptions,
    ) -> Result<Run<HostOutputs>> {
        let start = Instant::now();
        let DecodeProblem { cache, batch, q_len, dtype, .. } = *step;
        let append = self.attention.plan_append_blocking(&AppendProblem { cache, batch, q_len, dtype })?;
        let plan = self.attention.plan_decode_blocking(step, options)?;
        let (splits, reads) = (plan.splits(), plan.row_tiles());
        let reads = if reads > 1 { format!("; K and V read {reads} times") } else { String::new() };
        let kernel = Kernel {
            labels: [append.label()].into_iter().chain(plan.labels()).collect(),
            path: Some(format!("decode, {} (few queries; keys in {splits} splits{reads})", plan.path().name())),
            tile: None,
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
        options: PlanOptions,
    ) -> Result<Run<HostGradients>> {
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

/// The forward case that the tuner would measure for a problem, if it has one.
fn like(problem: &Problem) -> Option<Case> {
    let Options { causal, window, .. } = problem.options;
    let plain = problem.packed.is_none() && window == (None, None);
    plain.then(|| Case { causal, dtype: problem.dtype, ..Case::new(Op::Forward, problem.shape) })
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
