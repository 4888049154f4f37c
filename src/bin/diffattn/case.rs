//! Problems with random inputs, run and judged.

use anyhow::{Context, Result};
use diffattn::reference::{Judge, Verdict};
use diffattn::{DecodeOptions, DecodeProblem, HostGradInputs, HostInputs, KvDType, PlanOptions, Problem, Shape, Sizes};

use crate::engine::Engine;
use crate::gpu::{Gpu, Kernel};

/// A problem, random inputs in its storage type, and what they should give.
pub struct Case {
    pub problem: Problem,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    lam: Vec<f32>,
    dout: Vec<f32>,
    judge: Judge,
    /// Of the gradients, where there are any.
    grad_judge: Option<Judge>,
}

impl Case {
    pub fn random(problem: &Problem, seed: u64) -> Result<Self> {
        let case = Self::new(problem, seed, |_, _| {})?;
        let grad_judge = Some(Judge::backward(problem, &case.inputs(), &case.grad_inputs())?);
        Ok(Case { grad_judge, ..case })
    }

    /// The inputs of a decode step, as tensors. What an int8 cache holds lies on a grid that it holds exactly.
    pub fn of_step(step: &DecodeProblem, seed: u64) -> Result<Self> {
        let on_grid = |row: &mut [f32], random: &mut fastrand::Rng| {
            row.iter_mut().for_each(|value| *value = (*value * 32.0).round() / 32.0);
            row[random.usize(..row.len())] = 127.0 / 32.0; // the largest, which its step comes from
        };
        let exact = |_: &mut [f32], _: &mut fastrand::Rng| {};
        let edit: fn(&mut [f32], &mut fastrand::Rng) = if step.cache.dtype == KvDType::Int8 { on_grid } else { exact };
        Self::new(&step.as_problem(), seed, edit)
    }

    /// Random inputs, after `edit` changed each row of k and v.
    fn new(problem: &Problem, seed: u64, edit: impl Fn(&mut [f32], &mut fastrand::Rng)) -> Result<Self> {
        let Sizes { q, k, v, lam, out, .. } = Sizes::of(problem)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut values = |count: u64, range: f32| -> Vec<f32> {
            (0..count).map(|_| problem.dtype.round(range * (2.0 * random.f32() - 1.0))).collect()
        };
        let (q, mut k, mut v) = (values(q, 2.0), values(k, 2.0), values(v, 1.0));
        let (lam, dout) = (values(lam, 4.0), values(out, 1.0));
        let Shape { head_dim, value_dim, .. } = problem.shape;
        for (values, dim) in [(&mut k, head_dim), (&mut v, value_dim)] {
            values.chunks_mut(dim as usize).for_each(|row| edit(row, &mut random));
        }
        let judge = Judge::forward(problem, &HostInputs { q: &q, k: &k, v: &v, lam: &lam })?;
        Ok(Case { problem: problem.clone(), q, k, v, lam, dout, judge, grad_judge: None })
    }

    fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }

    fn grad_inputs(&self) -> HostGradInputs<'_> {
        HostGradInputs { dout: &self.dout, dlse: None }
    }

    /// Kernel and verdict of the forward pass.
    pub fn forward(&self, engine: &Engine, options: PlanOptions) -> Result<(String, Verdict)> {
        let run = engine.forward(&self.problem, &self.inputs(), options)?;
        Ok((self.label("forward", run.kernel), worst(self.judge.outputs(&run.result)?)?))
    }

    /// Kernels and verdict of a decode step.
    pub fn decode(&self, gpu: &Gpu, step: &DecodeProblem, options: DecodeOptions) -> Result<(String, Verdict)> {
        let run = gpu.decode(step, &self.inputs(), options)?;
        Ok((self.label("decode", run.kernel), worst(self.judge.outputs(&run.result)?)?))
    }

    /// Kernel and verdict of the gradients.
    pub fn backward(&self, engine: &Engine, options: PlanOptions) -> Result<(String, Verdict)> {
        let judge = self.grad_judge.as_ref().context("a decode step has no gradients")?;
        let run = engine.backward(&self.problem, &self.inputs(), &self.grad_inputs(), options)?;
        Ok((self.label("backward", run.kernel), worst(judge.gradients(&run.result)?)?))
    }

    fn label(&self, what: &str, kernel: Option<Kernel>) -> String {
        let (dtype, mask) = (self.problem.dtype.name(), self.problem.options.mask().name());
        kernel.map_or_else(|| format!("cpu.{what}.{dtype}.{mask}"), |kernel| kernel.labels.join("\n"))
    }
}

/// The verdict that comes nearest to its bound, or is furthest over it.
fn worst(verdicts: Vec<Verdict>) -> Result<Verdict> {
    let share = |verdict: &Verdict| verdict.error / verdict.bound;
    verdicts.into_iter().max_by(|a, b| share(a).total_cmp(&share(b))).context("nothing was computed")
}
