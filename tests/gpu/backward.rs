//! The gradients on every path: golden files, random problems, hard inputs.

use crate::backward_run::{Ask, backward_verdicts, forward, judge_backward, run_backward};
use crate::device::{Gpu, paths};
use crate::random::{self, LENGTHS};
use crate::run::Placement;
use crate::support::{self, Golden, Tensors};
use crate::{Case, case};
use diffattn::reference::Judge;
use diffattn::{DType, HostGradients, Options, Path, PlanOptions, Problem, Shape};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        for golden in Golden::all(dtype) {
            let name = format!("backward::golden::{}::{}", golden.name, dtype.name());
            cases.push(case(name, move |gpu| golden_gradients(gpu, &golden)));
        }
        cases.push(case(format!("backward::packed::{}", dtype.name()), move |gpu| packed(gpu, dtype)));
        cases.push(case(format!("backward::hard_inputs::{}", dtype.name()), move |gpu| hard_inputs(gpu, dtype)));
    }
    for (index, (q_len, kv_len)) in LENGTHS.into_iter().enumerate() {
        let dtype = DType::ALL[index % 3];
        let name = format!("backward::random::{q_len}x{kv_len}::{}", dtype.name());
        cases.push(case(name, move |gpu| random(gpu, dtype, q_len, kv_len)));
    }
    cases.push(case("backward::dims", dims));
    cases.push(case("backward::wrong_gate_is_rejected", wrong_gate_is_rejected));
    cases
}

fn golden_gradients(gpu: &Gpu, golden: &Golden) -> Result<(), Failed> {
    let (problem, inputs, grads) = (&golden.problem, golden.inputs(), golden.grads());
    let judge = Judge::backward(problem, &inputs, &grads)?;
    let saved = forward(&gpu.attention, problem, &inputs)?;
    // Compiling is what takes the time: the on-device check is left to f32, where it is sharpest.
    for path in paths(&gpu.attention).into_iter().filter(|&path| path != Path::Naive || problem.dtype == DType::F32) {
        let plan = gpu.attention.plan_backward_blocking(problem, PlanOptions::on(path))?;
        let gradients = run_backward(&gpu.attention, &plan, &inputs, &saved, &grads, Placement::PLAIN, None)?;
        let HostGradients { dq, dk, dv, dlam } = &gradients;
        let against = [("dq", dq), ("dk", dk), ("dv", dv), ("dlam", dlam)]
            .map(|(name, actual)| judge.against(name, actual, golden.tensor(name)));
        backward_verdicts(&plan, against.into_iter().collect::<Result<_, _>>()?)?;
        backward_verdicts(&plan, judge.gradients(&gradients)?)?;
    }
    Ok(())
}

/// On every path of the full device, and on the device with default limits.
fn everywhere(gpu: &Gpu, problem: &Problem, tensors: &Tensors, dlse: bool) -> Result<(), Failed> {
    let grads = if dlse { tensors.grads_with_dlse() } else { tensors.grads() };
    let truth = Judge::backward(problem, &tensors.inputs(), &grads)?;
    let saved = forward(&gpu.attention, problem, &tensors.inputs())?;
    // The floor differs in its tiles, which the naive path has not.
    for (attention, naive) in [(&gpu.attention, problem.dtype == DType::F32), (&gpu.floor, false)] {
        for path in paths(attention).into_iter().filter(|&path| naive || path != Path::Naive) {
            let ask = Ask { dlse, ..Ask::of(PlanOptions::on(path)) };
            judge_backward(attention, problem, ask, tensors, &saved, &truth)?;
        }
    }
    Ok(())
}

fn random(gpu: &Gpu, dtype: DType, q_len: u32, kv_len: u32) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = Problem::new(random::shape(rng, q_len, kv_len), dtype, random::options(rng, kv_len));
    let tensors = Tensors::random(&problem, rng);
    everywhere(gpu, &problem, &tensors, rng.bool())
}

fn packed(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = random::packed_problem(rng, dtype)?;
    everywhere(gpu, &problem, &Tensors::random(&problem, rng), rng.bool())
}

/// A problem with a tail in every tile.
pub fn small(dtype: DType) -> Problem {
    let shape = Shape { batch: 2, q_len: 37, kv_len: 50, heads: 4, kv_heads: 2, head_dim: 40, value_dim: 24 };
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    Problem::new(shape, dtype, options)
}

/// λ at ±40, identical halves with a gate near 1, logits in the hundreds, all with rows that see no key, whose
/// gradients are zero.
fn hard_inputs(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut problem = small(dtype);
    problem.shape = Shape { batch: 1, q_len: 70, kv_len: 45, ..problem.shape };

    let mut large = Tensors::random(&problem, rng);
    large.q.iter_mut().for_each(|q| *q = dtype.round(*q * 60.0));
    large.lam.iter_mut().enumerate().for_each(|(i, lam)| *lam = if i % 2 == 0 { 40.0 } else { -40.0 });
    hard(gpu, &problem, &large)?;

    let mut equal = Tensors::random(&problem, rng);
    let head_dim = problem.shape.head_dim as usize;
    for pair in equal.q.chunks_exact_mut(2 * head_dim) {
        let (first, second) = pair.split_at_mut(head_dim);
        second.copy_from_slice(first);
    }
    equal.lam.fill(12.0);
    hard(gpu, &problem, &equal)
}

fn hard(gpu: &Gpu, problem: &Problem, tensors: &Tensors) -> Result<(), Failed> {
    let truth = Judge::backward(problem, &tensors.inputs(), &tensors.grads_with_dlse())?;
    let saved = forward(&gpu.attention, problem, &tensors.inputs())?;
    let Shape { q_len, kv_len, heads, head_dim, .. } = problem.shape;
    let unseeing = (q_len - kv_len) as usize * 2 * heads as usize * head_dim as usize;
    for path in paths(&gpu.attention) {
        let ask = Ask { dlse: true, ..Ask::of(PlanOptions::on(path)) };
        let gradients = judge_backward(&gpu.attention, problem, ask, tensors, &saved, &truth)?;
        if gradients.dq[..unseeing].iter().any(|&dq| dq != 0.0) {
            return Err(format!("{path:?}: dq of a row that sees no key is not zero").into());
        }
        if gradients.dlam[..unseeing / (2 * head_dim as usize)].iter().any(|&dlam| dlam != 0.0) {
            return Err(format!("{path:?}: dlam of a row that sees no key is not zero").into());
        }
    }
    Ok(())
}

/// The widest and narrowest heads, with and without a₂.
fn dims(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (head_dim, value_dim, dtype, a2) in
        [(8, 256, DType::F16, true), (256, 8, DType::F32, false), (256, 256, DType::Bf16, true)]
    {
        let shape = Shape { batch: 1, q_len: 21, kv_len: 70, heads: 2, kv_heads: 1, head_dim, value_dim };
        let mut options = Options::default();
        (options.causal, options.a2) = (true, a2);
        let problem = Problem::new(shape, dtype, options);
        everywhere(gpu, &problem, &Tensors::random(&problem, rng), true)?;
    }
    Ok(())
}

/// The comparer sees gradients of another gate.
fn wrong_gate_is_rejected(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for dtype in DType::ALL {
        let problem = small(dtype);
        let tensors = Tensors::random(&problem, rng);
        let truth = Judge::backward(&problem, &tensors.inputs(), &tensors.grads())?;
        let mut wrong = tensors.clone();
        wrong.lam.iter_mut().for_each(|lam| *lam += 0.5);
        let saved = forward(&gpu.attention, &problem, &wrong.inputs())?;
        for path in paths(&gpu.attention) {
            let ask = Ask::of(PlanOptions::on(path));
            if judge_backward(&gpu.attention, &problem, ask, &wrong, &saved, &truth).is_ok() {
                return Err(format!("{path:?} in {dtype:?}: gradients of another gate were accepted").into());
            }
        }
    }
    Ok(())
}
