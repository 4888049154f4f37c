//! What can be judged and timed: kernels on the device, or the CPU engine.

use web_time::Instant;

use super::case::{Case, Form, Op, Runner};
use super::stopwatch::{Lap, Stopwatch};
use super::tensors::Tensors;
use super::verify::{self, Check};
use super::{backward, decode, forward, module, product};
use crate::attention::{DiffAttention, PlanOptions};
use crate::cpu;
use crate::error::{Error, Result};
use crate::host::{HostGradients, HostOutputs};
use crate::layer::{self, LayerPlan};
use crate::ops::decode::DecodeOptions;
use crate::ops::host;
use crate::problem::DType;
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
    /// The tiles in the label: the parts like `r64k16t64n4`. Beside attention's those of products are left out.
    pub(super) fn tile(&self) -> String {
        let is_product = |label: &&str| label.starts_with("diffattn.matmul.");
        let attention: Vec<_> = self.label.split(" + ").filter(|label| !is_product(label)).collect();
        let label = if attention.is_empty() { &self.label } else { &attention.join(" ") };
        let is_tile =
            |part: &&str| part.strip_prefix('r').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        label.split(['.', ' ']).filter(is_tile).collect::<Vec<_>>().join(" ")
    }
}

/// What was computed.
#[derive(Debug, Clone)]
pub(super) enum Results {
    Outputs(HostOutputs),
    Gradients(HostGradients),
    /// Of a module.
    Y(Vec<f32>),
    /// Those of a module.
    OfModule(layer::HostGradients),
    Products(Vec<Vec<f32>>),
}

impl Results {
    /// What a judge of others says.
    pub(super) fn unexpected(&self, expected: &str) -> Error {
        let found = match self {
            Results::Outputs(_) | Results::Gradients(_) => "those of attention",
            Results::Y(_) | Results::OfModule(_) => "those of a module",
            Results::Products(_) => "those of products",
        };
        Error::invalid("results", expected, found)
    }
}

/// What a case is given.
#[derive(Debug, Clone)]
pub(super) enum Inputs {
    Attention(Tensors),
    Module(module::Inputs),
}

impl Inputs {
    /// # Errors
    /// Those of the sizes.
    pub(super) fn random(case: &Case, seed: u64) -> Result<Self> {
        Ok(match case.op.is_module() {
            true => Inputs::Module(module::Inputs::random(case, seed)?),
            false => Inputs::Attention(Tensors::random(case, &case.problem(), seed)?),
        })
    }

    /// What the reference says of the results, and what of them it saw; of attention rows, where it is a `sample`.
    pub(super) fn judge(&self, case: &Case, results: &Results, sample: bool) -> Result<(Check, &'static str)> {
        Ok(match self {
            Inputs::Attention(tensors) if sample => (verify::sample(&case.problem(), tensors, results)?, "sample"),
            Inputs::Attention(tensors) => (verify::whole(&case.problem(), tensors, results)?, "whole"),
            Inputs::Module(inputs) if case.form == Form::Matmul => (product::judge(case, inputs, results)?, "sample"),
            Inputs::Module(inputs) => (inputs.judge(case, results)?, inputs.verified()),
        })
    }
}

/// Records one run.
pub(super) type Record<'a> = Box<dyn Fn(&mut wgpu::ComputePass<'_>) + 'a>;

/// Kernels bound to their buffers.
pub(super) struct OnDevice<'a> {
    pub attention: &'a DiffAttention,
    pub stopwatch: &'a Stopwatch,
    pub kernel: Kernel,
    pub record: Record<'a>,
    /// The run that is judged, where it is not the timed one.
    pub judged: Option<Record<'a>>,
    pub outputs: Outputs,
}

/// Where kernels on the device leave their results.
pub(super) enum Outputs {
    Out(Tensor),
    Y(Tensor),
    Products(Vec<Tensor>),
    OfModule {
        dx: Tensor,
        plan: Box<LayerPlan>,
    },
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

/// One computation on the CPU.
type Compute<'a> = Box<dyn Fn() -> Result<Results> + 'a>;

/// The CPU engine.
pub(super) struct OnCpu<'a> {
    kernel: Kernel,
    pub(super) compute: Compute<'a>,
    /// The run that is judged, where it is not the timed one.
    judged: Option<Compute<'a>>,
}

/// Either of them.
pub(super) enum Any<'a> {
    Device(Box<OnDevice<'a>>),
    Cpu(Box<OnCpu<'a>>),
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
        inputs: &'a Inputs,
        pinned: Option<Pinned>,
    ) -> Result<Self> {
        let tensors = match inputs {
            Inputs::Attention(tensors) => tensors,
            Inputs::Module(inputs) if case.runner == Runner::Cpu => {
                return Ok(Any::Cpu(Box::new(module::on_cpu(case, inputs)?)));
            }
            Inputs::Module(inputs) if case.form == Form::Matmul => {
                return Ok(Any::Device(Box::new(product::prepare(attention, stopwatch, case, inputs).await?)));
            }
            Inputs::Module(inputs) => {
                return Ok(Any::Device(Box::new(module::prepare(attention, stopwatch, case, inputs).await?)));
            }
        };
        if case.runner == Runner::Cpu {
            return Ok(Any::Cpu(Box::new(OnCpu::of_attention(case, tensors)?)));
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
            Op::Backward | Op::Module | Op::Train => {
                backward::prepare(attention, stopwatch, case, tensors, pinned).await?
            }
        };
        Ok(Any::Device(Box::new(subject)))
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
        let record = self.judged.as_ref().unwrap_or(&self.record);
        let lap = self.stopwatch.lap(|pass| record(pass)).await?;
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
            Outputs::Y(y) => Results::Y(read(y).await?),
            Outputs::Products(tensors) => {
                let mut products = Vec::new();
                for tensor in tensors {
                    products.push(read(tensor).await?);
                }
                Results::Products(products)
            }
            Outputs::OfModule { dx, plan } => {
                let weights = plan.layer().read_gradients(plan).await?;
                Results::OfModule(layer::HostGradients { dx: read(dx).await?, weights })
            }
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
    pub(super) fn new(label: String, compute: Compute<'a>, judged: Option<Compute<'a>>) -> Self {
        OnCpu { kernel: Kernel { label, path: "cpu", ..Kernel::default() }, compute, judged }
    }

    /// # Errors
    /// [`Error::Limit`] where K would take gigabytes, [`Error::Unsupported`] for a form that the engine does not have.
    pub(super) fn of_attention(case: &Case, tensors: &'a Tensors) -> Result<Self> {
        let problem = case.problem();
        let needed = crate::host::Sizes::of(&problem)?.k;
        if needed > MOST_CPU_ELEMENTS {
            let what = "k of the CPU engine in a benchmark".into();
            return Err(Error::Limit { name: "elements", what, needed, available: MOST_CPU_ELEMENTS });
        }
        let mask = if case.causal { "causal" } else { "full" };
        let label = format!("cpu.{}.{}.{mask}.d{}", case.op.name(), case.dtype.name(), case.shape.head_dim);
        let (op, tensors) = (case.op, tensors.complete(&problem));
        let compute = move || {
            let inputs = tensors.inputs();
            match op {
                Op::Backward => cpu::backward(&problem, &inputs, &tensors.grads()).map(Results::Gradients),
                _ => cpu::forward(&problem, &inputs).map(Results::Outputs),
            }
        };
        Ok(OnCpu::new(label, Box::new(compute), None))
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
        let results = self.judged.as_ref().unwrap_or(&self.compute)()?;
        Ok((Lap { gpu_ns: None, wall_ns: start.elapsed().as_nanos() as f64 }, results))
    }

    async fn sample(&self, runs: u32) -> Result<Lap> {
        let start = Instant::now();
        for _ in 0..runs {
            (self.compute)()?;
        }
        Ok(Lap { gpu_ns: None, wall_ns: start.elapsed().as_nanos() as f64 })
    }
}
