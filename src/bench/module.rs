//! Cases of a whole attention module: its inputs, on the device and on the CPU engine, and what judges them.
//!
//! A small case is held against the float64 reference whole. Of a large one the reference would take hours; but attention
//! is causal, so that the first tokens are a module of their own: y of those is held against it, and for gradients dy is
//! zero behind them in the run that is judged, so that every gradient is that of the smaller module, and dx behind is zero.

use web_time::Instant;

use super::case::{Case, Form, Op, Runner};
use super::on_cpu::OnCpu;
use super::on_device::{OnDevice, Outputs, Record, Tensor};
use super::stopwatch::Stopwatch;
use super::subject::{Kernel, Results};
use super::verify::{Check, WHOLE};
use crate::attention::DiffAttention;
use crate::cpu;
use crate::error::{Error, Result};
use crate::layer::{HostTokens, MultiheadDiffAttention, Weights};
use crate::ops::host;
use crate::reference::Judge;

/// What a module is given.
#[derive(Debug, Clone)]
pub(super) struct Inputs {
    pub weights: Weights,
    /// batch × seq_len × d_model.
    pub x: Vec<f32>,
    /// As x; empty where no gradients are asked for.
    pub dy: Vec<f32>,
    batch: u32,
    seq_len: u32,
    /// Tokens of each sequence that are judged, from the first on.
    judged: u32,
}

impl Inputs {
    /// # Errors
    /// Those of [`Weights::random`]; [`Error::Limit`] where x would take gigabytes.
    pub(super) fn random(case: &Case, seed: u64) -> Result<Self> {
        let (config, dtype) = (case.config(), case.dtype);
        let (batch, seq_len) = (case.shape.batch, case.shape.q_len);
        let mut random = fastrand::Rng::with_seed(seed);
        let weights = Weights::random(&config, || random.f32())?.rounded(dtype);
        let needed = u64::from(batch) * u64::from(seq_len) * u64::from(config.d_model);
        let available = 1 << 30;
        if needed > available {
            return Err(Error::Limit {
                name: "elements",
                what: "x of a module in a benchmark".into(),
                needed,
                available,
            });
        }
        let mut tensor = |elements: u64| (0..elements).map(|_| dtype.round(2.0 * random.f32() - 1.0)).collect();
        let (x, dy) = (tensor(needed), tensor(if case.op == Op::Train { needed } else { 0 }));
        let share = 4.0 * WHOLE / case.cost().flop;
        let judged = if case.is_small() { seq_len } else { ((f64::from(seq_len) * share) as u32).clamp(1, seq_len) };
        Ok(Inputs { weights, x, dy, batch, seq_len, judged })
    }

    pub(super) fn tokens(&self) -> HostTokens<'_> {
        HostTokens { batch: self.batch, seq_len: self.seq_len, x: &self.x }
    }

    fn d_model(&self) -> usize {
        self.weights.config().d_model as usize
    }

    /// How much of the results is judged.
    pub(super) fn verified(&self) -> &'static str {
        if self.judged == self.seq_len { "whole" } else { "prefix" }
    }

    /// Of a tensor shaped as x, each sequence's tokens up to the last that is judged, and the others.
    fn split<'a>(&self, tensor: &'a [f32]) -> impl Iterator<Item = (&'a [f32], &'a [f32])> {
        let judged = self.judged as usize * self.d_model();
        tensor.chunks_exact(self.seq_len as usize * self.d_model()).map(move |sequence| sequence.split_at(judged))
    }

    fn first(&self, tensor: &[f32]) -> Vec<f32> {
        self.split(tensor).flat_map(|(first, _)| first).copied().collect()
    }

    /// dy of the run that is judged.
    fn judged_dy(&self) -> Vec<f32> {
        let sequences = self.split(&self.dy);
        sequences.flat_map(|(first, rest)| first.iter().copied().chain(rest.iter().map(|_| 0.0))).collect()
    }

    /// Holds y, or the gradients of [`Inputs::judged_dy`], against the reference.
    pub(super) fn judge(&self, case: &Case, results: &Results) -> Result<Check> {
        let x = self.first(&self.x);
        let tokens = HostTokens { batch: self.batch, seq_len: self.judged, x: &x };
        match results {
            Results::Y(y) => {
                let judge = Judge::layer_forward(&self.weights, &tokens, case.dtype)?;
                Check::worst(vec![judge.tensor("y", &self.first(y))?])
            }
            Results::OfModule(gradients) => {
                let judge = Judge::layer_backward(&self.weights, &tokens, &self.first(&self.dy), case.dtype)?;
                let mut verdicts = vec![judge.tensor("dx", &self.first(&gradients.dx))?];
                for (parameter, values) in gradients.weights.iter() {
                    verdicts.push(judge.tensor(parameter.name, values)?);
                }
                let untouched = self.split(&gradients.dx).all(|(_, rest)| rest.iter().all(|&dx| dx == 0.0));
                let check = Check::worst(verdicts)?;
                Ok(Check { passed: check.passed && untouched, ..check })
            }
            other => Err(other.unexpected("those of a module")),
        }
    }
}

pub(super) async fn prepare<'a>(
    attention: &'a DiffAttention,
    stopwatch: &'a Stopwatch,
    case: &Case,
    inputs: &Inputs,
) -> Result<OnDevice<'a>> {
    if case.runner != Runner::Auto || case.runtime_checks {
        let what = format!("a module with --path {} or --runtime-checks", case.runner.name());
        return Err(Error::Unsupported { what, hint: "its kernels are the planner's; leave them out".into() });
    }
    let (dtype, train, elements) = (case.dtype, case.op == Op::Train, inputs.x.len() as u64);
    let layer = MultiheadDiffAttention::new(attention, &inputs.weights, dtype)?;
    let (x, y, gradients) = host::with_memory(&attention.device, "creating the tensors", || {
        let upload = |name, values: &[f32]| host::upload(attention, name, dtype.encode(values));
        let gradients = || {
            let dx = Tensor::poisoned(attention, "dx", dtype, elements)?;
            Ok::<_, Error>((upload("dy", &inputs.dy)?, upload("dy", &inputs.judged_dy())?, dx))
        };
        let y = Tensor::poisoned(attention, "y", dtype, elements)?;
        Ok((upload("x", &inputs.x)?, y, train.then(gradients).transpose()?))
    })
    .await?;

    let start = Instant::now();
    let plan = layer.plan(inputs.batch, inputs.seq_len, train).await?;
    let forward = plan.bind_forward(&x, &y.buffer)?;
    let labels = plan.labels();
    let mut kernel = Kernel {
        label: labels.join(" + "),
        path: plan.path().name(),
        dispatches: forward.dispatches(),
        scratch_bytes: plan.scratch_bytes(),
        ..Kernel::default()
    };
    let (record, judged, outputs): (Record<'_>, Option<Record<'_>>, _) = match gradients {
        None => (Box::new(move |recorder| forward.encode(recorder)), None, Outputs::Y(y)),
        Some((dy, judged_dy, dx)) => {
            let [timed, judged] = [&dy, &judged_dy].map(|dy| plan.bind_backward(&x, dy, &dx.buffer));
            let (timed, judged) = (timed?, judged?);
            kernel.dispatches += timed.dispatches();
            let again = forward.clone();
            let both = move |recorder: &mut wgpu::ComputePass<'_>| {
                forward.encode(recorder);
                timed.encode(recorder);
            };
            let judged = move |recorder: &mut wgpu::ComputePass<'_>| {
                again.encode(recorder);
                judged.encode(recorder);
            };
            (Box::new(both), Some(Box::new(judged)), Outputs::OfModule { dx, plan: Box::new(plan) })
        }
    };
    kernel.cold_ns = start.elapsed().as_nanos() as f64;
    Ok(OnDevice { attention, stopwatch, kernel, record, judged, outputs })
}

/// The module on the CPU engine.
pub(super) fn on_cpu<'a>(case: &Case, inputs: &'a Inputs) -> Result<OnCpu<'a>> {
    if case.form == Form::Matmul {
        let hint = "measure the module".into();
        return Err(Error::Unsupported { what: "a product on the CPU engine".into(), hint });
    }
    let kind = inputs.weights.config().kind.name();
    let label = format!("cpu.{}.{kind}.{}.d{}", case.op.name(), case.dtype.name(), case.shape.head_dim);
    let (op, dtype) = (case.op, case.dtype);
    let compute = move |dy: &[f32]| match op {
        Op::Train => cpu::layer::backward(&inputs.weights, &inputs.tokens(), dy, dtype).map(Results::OfModule),
        _ => cpu::layer::forward(&inputs.weights, &inputs.tokens(), dtype).map(Results::Y),
    };
    let judged_dy = inputs.judged_dy();
    let judged = move || compute(&judged_dy);
    Ok(OnCpu::new(label, Box::new(move || compute(&inputs.dy)), Some(Box::new(judged))))
}

#[cfg(test)]
mod tests {
    use super::super::subject::Subject as _;
    use super::*;
    use crate::problem::Shape;

    fn shape() -> Shape {
        Shape { batch: 2, q_len: 40, kv_len: 40, heads: 4, kv_heads: 2, head_dim: 16, value_dim: 16 }
    }

    /// Of a case too large for the reference the first tokens are judged: a mistake there is seen, and so is any gradient
    /// that comes from behind.
    #[test]
    fn a_mistake_in_the_prefix_is_seen() {
        for (op, form) in [(Op::Module, Form::Fused), (Op::Train, Form::Fused), (Op::Train, Form::V1)] {
            let case = Case { form, ..Case::new(op, shape()) };
            let inputs = Inputs { judged: 7, ..Inputs::random(&case, 1).unwrap() };
            assert_eq!(inputs.verified(), "prefix");
            let engine = on_cpu(&case, &inputs).unwrap();
            let (_, results) = pollster::block_on(engine.results()).unwrap();
            assert!(inputs.judge(&case, &results).unwrap().passed, "{case}");
            let last = inputs.x.len() - 1;
            let wrong = |change: &dyn Fn(&mut Results)| {
                let mut results = results.clone();
                change(&mut results);
                !inputs.judge(&case, &results).unwrap().passed
            };
            match op {
                Op::Train => {
                    let dx = |results: &mut Results, index: usize| {
                        let Results::OfModule(gradients) = results else { panic!("gradients") };
                        gradients.dx[index] += 0.5;
                    };
                    assert!(wrong(&|results| dx(results, 3)) && wrong(&|results| dx(results, last)), "{case}");
                    // The run that is timed is another one.
                    let timed = (engine.compute)().unwrap();
                    assert!(!inputs.judge(&case, &timed).unwrap().passed, "{case}");
                }
                _ => {
                    let y = |results: &mut Results| {
                        let Results::Y(y) = results else { panic!("y") };
                        y[3] += 0.5;
                    };
                    assert!(wrong(&y), "{case}");
                }
            }
        }
    }

    #[test]
    fn only_a_module_has_its_forms() {
        let case = |op, form| Case { form, ..Case::new(op, shape()) };
        case(Op::Module, Form::V1).validate().unwrap();
        case(Op::Train, Form::Matmul).validate().unwrap();
        let odd = Shape { kv_heads: 1, ..shape() };
        let cross = Shape { kv_len: 50, ..shape() };
        for wrong in [
            case(Op::Forward, Form::V1),
            case(Op::Module, Form::Unfused),
            Case { shape: odd, ..case(Op::Module, Form::V1) },
            Case { shape: cross, ..case(Op::Module, Form::Fused) },
            Case { causal: false, ..case(Op::Module, Form::Fused) },
        ] {
            assert!(matches!(wrong.validate(), Err(Error::Invalid { .. })), "{wrong}");
        }
    }
}
