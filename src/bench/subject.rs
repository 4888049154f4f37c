//! What can be judged and timed: kernels on the device, or the CPU engine.

use super::case::{Case, Form, Op, Runner};
use super::on_cpu::OnCpu;
use super::on_device::OnDevice;
use super::stopwatch::{Lap, Stopwatch};
use super::tensors::Tensors;
use super::verify::{self, Check};
use super::{backward, decode, forward, module, product};
use crate::attention::{DiffAttention, PlanOptions};
use crate::error::{Error, Result};
use crate::host::{HostGradients, HostOutputs};
use crate::layer;
use crate::ops::decode::DecodeOptions;

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
        let pinned = pinned.unwrap_or_else(|| {
            let path = case.runner.path();
            let runtime_checks = case.runtime_checks;
            let plan = PlanOptions { path, tile: case.tile, runtime_checks, ..PlanOptions::default() };
            let (tile, splits) = (case.decode_tile, case.splits);
            Pinned { plan, decode: DecodeOptions { path, tile, splits, runtime_checks, ..DecodeOptions::default() } }
        });
        let on_device = match (inputs, case.op) {
            (Inputs::Attention(tensors), _) if case.runner == Runner::Cpu => {
                return Ok(Any::Cpu(Box::new(OnCpu::of_attention(case, tensors)?)));
            }
            (Inputs::Module(inputs), _) if case.runner == Runner::Cpu => {
                return Ok(Any::Cpu(Box::new(module::on_cpu(case, inputs)?)));
            }
            (Inputs::Module(inputs), _) if case.form == Form::Matmul => {
                product::prepare(attention, stopwatch, case, inputs).await?
            }
            (Inputs::Module(inputs), _) => module::prepare(attention, stopwatch, case, inputs).await?,
            (Inputs::Attention(tensors), Op::Forward) => {
                forward::prepare(attention, stopwatch, case, tensors, pinned).await?
            }
            (Inputs::Attention(tensors), Op::Decode) => {
                decode::prepare(attention, stopwatch, case, tensors, pinned).await?
            }
            // Inputs are those of the operation: what is not a module's is a gradient's.
            (Inputs::Attention(tensors), _) => backward::prepare(attention, stopwatch, case, tensors, pinned).await?,
        };
        Ok(Any::Device(Box::new(on_device)))
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
