//! What can be judged and timed: kernels on the device, or the CPU engine.

use std::borrow::Cow;

use web_time::Instant;

use super::stopwatch::{Lap, Stopwatch};
use super::suite::{Case, Op, Runner};
use super::tensors::Tensors;
use super::{backward, decode, forward};
use crate::attention::{DiffAttention, PlanOptions};
use crate::cpu;
use crate::error::{Error, Result};
use crate::host::{HostGradients, HostOutputs};
use crate::ops::decode::DecodeOptions;
use crate::ops::host;
use crate::problem::{DType, Problem};
use crate::readback::read_buffer;

/// Something that computes a case.
pub(super) trait Subject {
    /// What computes it.
    fn kernel(&self) -> &Kernel;

    /// How long a sample must last to be timed well, in nanoseconds.
    fn least_ns(&self) -> f64;

    /// Computes it once, into outputs that were filled with NaN before. Called before [`Subject::sample`].
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
    pub pinned: Pinned,
    /// Planning, compiling and binding.
    pub cold_ns: f64,
    /// Dispatches of one run.
    pub dispatches: usize,
    pub scratch_bytes: u64,
}

/// A planner's choice.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Pinned {
    pub plan: PlanOptions,
    pub decode: DecodeOptions,
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

/// Kernels bound to their buffers.
pub(super) struct OnDevice<'a> {
    pub attention: &'a DiffAttention,
    pub stopwatch: &'a Stopwatch,
    pub kernel: Kernel,
    /// Records one run.
    pub record: Box<dyn Fn(&mut wgpu::ComputePass<'_>) + 'a>,
    pub outputs: Outputs,
}

/// Where kernels on the device leave their results.
pub(super) enum Outputs {
    Out(Tensor),
    Gradients {
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        dlam: Tensor,
    },
    /// Those of standard attention: `dq` lacks the second members.
    StandardGradients {
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        head_dim: u32,
    },
}

/// A tensor on the device.
pub(super) struct Tensor {
    pub buffer: wgpu::Buffer,
    pub dtype: DType,
    pub elements: u64,
}

impl Tensor {
    /// Room for results, full of NaN, which every storage type writes as ones.
    ///
    /// # Errors
    /// [`Error::Limit`] above the device's largest buffer.
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
    tensors: Cow<'a, Tensors>,
    kernel: Kernel,
}

/// Either of them.
pub(super) enum Any<'a> {
    Device(OnDevice<'a>),
    Cpu(OnCpu<'a>),
}

impl<'a> Any<'a> {
    /// Plans, compiles and binds; `pinned` is the choice for another case that is to be made again.
    ///
    /// # Errors
    /// Those of planning and binding, and [`Error::OutOfMemory`].
    pub(super) async fn prepare(
        attention: &'a DiffAttention,
        stopwatch: &'a Stopwatch,
        case: &Case,
        tensors: &'a Tensors,
        pinned: Option<Pinned>,
    ) -> Result<Self> {
        if case.runner == Runner::Cpu {
            return Ok(Any::Cpu(OnCpu::new(case, tensors)?));
        }
        let pinned = pinned.unwrap_or_else(|| {
            let path = case.runner.path();
            let runtime_checks = case.runtime_checks;
            let plan = PlanOptions { path, tile: case.tile, runtime_checks, ..PlanOptions::default() };
            let (tile, splits) = (case.decode_tile, case.splits);
            Pinned { plan, decode: DecodeOptions { path, tile, splits, runtime_checks, ..DecodeOptions::default() } }
        });
        let subject = match case.op {
            Op::Forward => forward::prepare(attention, stopwatch, case, tensors, pinned).await?,
            Op::Decode => decode::prepare(attention, stopwatch, case, tensors, pinned).await?,
            Op::Backward => backward::prepare(attention, stopwatch, case, tensors, pinned).await?,
        };
        Ok(Any::Device(subject))
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
        Ok((lap, self.outputs.read(self.attention).await?))
    }

    async fn sample(&self, runs: u32) -> Result<Lap> {
        self.stopwatch.lap(|pass| (0..runs).for_each(|_| (self.record)(pass))).await
    }
}

impl Outputs {
    async fn read(&self, attention: &DiffAttention) -> Result<Results> {
        let read = async |tensor: &Tensor| tensor.read(attention).await;
        Ok(match self {
            Outputs::Out(out) => Results::Outputs(HostOutputs { out: read(out).await?, ..HostOutputs::default() }),
            Outputs::Gradients { dq, dk, dv, dlam } => Results::Gradients(HostGradients {
                dq: read(dq).await?,
                dk: read(dk).await?,
                dv: read(dv).await?,
                dlam: read(dlam).await?,
            }),
            Outputs::StandardGradients { dq, dk, dv, head_dim } => {
                let first = read(dq).await?;
                let dim = *head_dim as usize;
                // The second members have no part in the result: the gradients by them and by the gate are zero.
                let zeros = vec![0.0; dim];
                let dq = first.chunks_exact(dim).flat_map(|row| [row, &zeros]).flatten().copied().collect();
                let dlam = vec![0.0; first.len() / dim];
                Results::Gradients(HostGradients { dq, dk: read(dk).await?, dv: read(dv).await?, dlam })
            }
        })
    }
}

/// Elements of K that the CPU engine is given at most.
const MOST_CPU_ELEMENTS: u64 = 1 << 28;

impl<'a> OnCpu<'a> {
    /// # Errors
    /// [`Error::Limit`] where K would take gigabytes, [`Error::Unsupported`] for a form that the engine does not have.
    pub(super) fn new(case: &Case, tensors: &'a Tensors) -> Result<Self> {
        let problem = case.problem();
        let needed = crate::host::Sizes::of(&problem)?.k;
        if needed > MOST_CPU_ELEMENTS {
            let what = "k of the CPU engine in a benchmark".into();
            return Err(Error::Limit { name: "elements", what, needed, available: MOST_CPU_ELEMENTS });
        }
        let mask = if case.causal { "causal" } else { "full" };
        let label = format!("cpu.{}.{}.{mask}.d{}", case.op.name(), case.dtype.name(), case.shape.head_dim);
        let kernel = Kernel { label, path: "cpu", ..Kernel::default() };
        Ok(OnCpu { op: case.op, tensors: tensors.complete(&problem), problem, kernel })
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
