//! The CPU engine, as something that can be judged and timed.

use web_time::Instant;

use super::case::{Case, Op};
use super::stopwatch::Lap;
use super::subject::{Kernel, Results, Subject};
use super::tensors::Tensors;
use crate::cpu;
use crate::error::{Error, Result};

/// One computation on the CPU.
type Compute<'a> = Box<dyn Fn() -> Result<Results> + 'a>;

/// The CPU engine.
pub(super) struct OnCpu<'a> {
    kernel: Kernel,
    pub(super) compute: Compute<'a>,
    /// The run that is judged, where it is not the timed one.
    judged: Option<Compute<'a>>,
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
