//! What can be judged and timed: a kernel on the device, or the CPU engine.

use web_time::Instant;

use super::forward;
use super::stopwatch::{Lap, Stopwatch};
use super::suite::{Case, Op, Runner};
use super::tensors::Tensors;
use crate::attention::{DiffAttention, PlanOptions};
use crate::cpu;
use crate::error::{Error, Result};
use crate::host::{HostGradients, HostOutputs};
use crate::ops::host;
use crate::problem::{DType, Problem};
use crate::readback::read_buffer;

/// Something that computes a case.
pub(super) trait Subject {
    /// What computes it.
    fn kernel(&self) -> &Kernel;

    /// How long a sample must last to be timed well, in nanoseconds.
    fn least_ns(&self) -> f64;

    /// Computes it once, into outputs that were filled with NaN before.
    async fn results(&self) -> Result<(Lap, Results)>;

    /// Computes it so many times on end.
    async fn sample(&self, runs: u32) -> Result<Lap>;
}

/// What computes a case, in the words of its row.
#[derive(Debug, Clone, Default)]
pub(super) struct Kernel {
    pub label: String,
    pub path: &'static str,
    /// How the planner is told to choose the same again.
    pub pinned: PlanOptions,
    /// Planning, compiling and binding.
    pub cold_ns: f64,
    /// Dispatches of one run.
    pub dispatches: usize,
    pub scratch_bytes: u64,
}

impl Kernel {
    /// The tiles in the label: the parts like `r64k16t64n4`.
    pub(super) fn tile(&self) -> String {
        let is_tile =
            |part: &&str| part.strip_prefix('r').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        self.label.split(['.', ' ']).filter(is_tile).collect::<Vec<_>>().join(" ")
    }
}

/// What was computed.
#[derive(Debug, Clone)]
pub(super) enum Results {
    Outputs(HostOutputs),
    Gradients(HostGradients),
}

/// A kernel bound to its buffers.
pub(super) struct OnDevice<'a> {
    pub attention: &'a DiffAttention,
    pub stopwatch: &'a Stopwatch,
    pub kernel: Kernel,
    /// Records one run.
    pub record: Box<dyn Fn(&mut wgpu::ComputePass<'_>) + 'a>,
    pub outputs: Outputs,
}

/// Where a kernel on the device leaves its results.
pub(super) enum Outputs {
    Out(Tensor),
}

/// A tensor on the device.
pub(super) struct Tensor {
    pub buffer: wgpu::Buffer,
    pub dtype: DType,
    pub elements: u64,
}

impl Tensor {
    /// Room for results, full of NaN, which every storage type writes as ones.
    pub(super) fn poisoned(attention: &DiffAttention, name: &'static str, dtype: DType, elements: u64) -> Result<Self> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = host::create(attention, name, elements * dtype.size(), usage)?;
        attention.queue.write_buffer(&buffer, 0, &vec![0xff; buffer.size() as usize]);
        Ok(Tensor { buffer, dtype, elements })
    }

    async fn read(&self, attention: &DiffAttention) -> Result<Vec<f32>> {
        let bytes = read_buffer(&attention.device, &attention.queue, &self.buffer).await?;
        let mut values = self.dtype.decode(&bytes);
        values.truncate(self.elements as usize);
        Ok(values)
    }
}

/// The CPU engine.
pub(super) struct OnCpu<'a> {
    problem: Problem,
    op: Op,
    tensors: &'a Tensors,
    kernel: Kernel,
}

/// Either of them.
pub(super) enum Any<'a> {
    Device(OnDevice<'a>),
    Cpu(OnCpu<'a>),
}

impl<'a> Any<'a> {
    /// Plans, compiles and binds; `pinned` is the kernel of another case that is to be taken again.
    pub(super) async fn prepare(
        attention: &'a DiffAttention,
        stopwatch: &'a Stopwatch,
        case: &Case,
        tensors: &'a Tensors,
        pinned: Option<&Kernel>,
    ) -> Result<Self> {
        match case.runner {
            Runner::Cpu => Ok(Any::Cpu(OnCpu::new(case, tensors))),
            Runner::Auto | Runner::On(_) => {
                let mut options = PlanOptions { path: case.runner.path(), tile: case.tile, ..PlanOptions::default() };
                options = pinned.map_or(options, |kernel| kernel.pinned);
                match case.op {
                    Op::Forward => {
                        Ok(Any::Device(forward::prepare(attention, stopwatch, case, tensors, options).await?))
                    }
                    Op::Decode | Op::Backward => Err(Error::Unsupported { what: "that".into(), hint: "wait".into() }),
                }
            }
        }
    }
}

impl Subject for Any<'_> {
    fn kernel(&self) -> &Kernel {
        match self {
            Any::Device(subject) => subject.kernel(),
            Any::Cpu(subject) => subject.kernel(),
        }
    }

    fn least_ns(&self) -> f64 {
        match self {
            Any::Device(subject) => subject.least_ns(),
            Any::Cpu(subject) => subject.least_ns(),
        }
    }

    async fn results(&self) -> Result<(Lap, Results)> {
        match self {
            Any::Device(subject) => subject.results().await,
            Any::Cpu(subject) => subject.results().await,
        }
    }

    async fn sample(&self, runs: u32) -> Result<Lap> {
        match self {
            Any::Device(subject) => subject.sample(runs).await,
            Any::Cpu(subject) => subject.sample(runs).await,
        }
    }
}

impl Subject for OnDevice<'_> {
    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn least_ns(&self) -> f64 {
        self.stopwatch.least_ns()
    }

    async fn results(&self) -> Result<(Lap, Results)> {
        let lap = self.sample(1).await?;
        let results = match &self.outputs {
            Outputs::Out(out) => {
                let out = out.read(self.attention).await?;
                Results::Outputs(HostOutputs { out, ..HostOutputs::default() })
            }
        };
        Ok((lap, results))
    }

    async fn sample(&self, runs: u32) -> Result<Lap> {
        self.stopwatch.lap(|pass| (0..runs).for_each(|_| (self.record)(pass))).await
    }
}

impl<'a> OnCpu<'a> {
    pub(super) fn new(case: &Case, tensors: &'a Tensors) -> Self {
        let mask = if case.causal { "causal" } else { "full" };
        let label = format!("cpu.{}.{}.{mask}.d{}", case.op.name(), case.dtype.name(), case.shape.head_dim);
        let kernel = Kernel { label, path: "cpu", ..Kernel::default() };
        OnCpu { problem: case.problem(), op: case.op, tensors, kernel }
    }

    fn compute(&self) -> Result<Results> {
        let inputs = self.tensors.inputs();
        match self.op {
            Op::Forward | Op::Decode => Ok(Results::Outputs(cpu::forward(&self.problem, &inputs)?)),
            Op::Backward => Ok(Results::Gradients(cpu::backward(&self.problem, &inputs, &self.tensors.grads())?)),
        }
    }
}

impl Subject for OnCpu<'_> {
    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn least_ns(&self) -> f64 {
        2e6
    }

    async fn results(&self) -> Result<(Lap, Results)> {
        let start = Instant::now();
        let results = self.compute()?;
        Ok((Lap { gpu_ns: None, wall_ns: start.elapsed().as_nanos() as f64 }, results))
    }

    async fn sample(&self, runs: u32) -> Result<Lap> {
        let start = Instant::now();
        for _ in 0..runs {
            self.compute()?;
        }
        Ok(Lap { gpu_ns: None, wall_ns: start.elapsed().as_nanos() as f64 })
    }
}
