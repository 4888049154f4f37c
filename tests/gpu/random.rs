//! Random problems: lengths that are mostly tails, every mask, packed batches, hard inputs.

use crate::device::{Gpu, paths};
use crate::run::{Placement, judge};
use crate::support::{self, Tensors};
use crate::{Case, case};
use diffattn::reference::Judge;
use diffattn::{DType, Options, Packed, PlanOptions, Problem, Shape};
use fastrand::Rng;
use libtest_mimic::Failed;

/// (q_len, kv_len) that leave a tail in every tile.
pub const LENGTHS: [(u32, u32); 8] =
    [(1, 1), (1, 515), (19, 77), (113, 203), (128, 217), (239, 1), (799, 3), (130, 131)];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        for (q_len, kv_len) in LENGTHS {
            let name = format!("random::{q_len}x{kv_len}::{}", dtype.name());
            cases.push(case(name, move |gpu| random(gpu, dtype, q_len, kv_len)));
        }
        cases.push(case(format!("random::packed::{}", dtype.name()), move |gpu| packed(gpu, dtype)));
        cases.push(case(format!("random::hard_inputs::{}", dtype.name()), move |gpu| hard_inputs(gpu, dtype)));
    }
    cases.push(case("random::dims", dims));
    cases.push(case("random::wrong_mask_is_rejected", wrong_mask_is_rejected));
    cases
}

pub fn options(rng: &mut Rng, kv_len: u32) -> Options {
    let mut options = Options::default();
    let side = |rng: &mut Rng| rng.bool().then(|| rng.u32(0..=kv_len));
    match rng.u32(0..4) {
        0 => {}
        1 => options.causal = true,
        2 => options.window = (side(rng), side(rng)),
        _ => (options.causal, options.window) = (true, (Some(rng.u32(0..=kv_len)), None)),
    }
    options.softcap = (rng.u32(0..4) == 0).then(|| 1.0 + 30.0 * rng.f32());
    options.scale = rng.bool().then(|| 0.05 + rng.f32() * 0.3);
    (options.lse, options.a2) = (rng.bool(), rng.bool());
    options
}

pub fn shape(rng: &mut Rng, q_len: u32, kv_len: u32) -> Shape {
    let kv_heads = rng.u32(1..=2);
    let heads = kv_heads * rng.u32(1..=3);
    let (head_dim, value_dim) = (8 * rng.u32(1..=10), 8 * rng.u32(1..=10));
    Shape { batch: rng.u32(1..=2), q_len, kv_len, heads, kv_heads, head_dim, value_dim }
}

/// On every path of the full device, and on the device with default limits.
fn everywhere(gpu: &Gpu, problem: &Problem, tensors: &Tensors) -> Result<(), Failed> {
    let truth = Judge::forward(problem, &tensors.inputs())?;
    for attention in [&gpu.attention, &gpu.floor] {
        for path in paths(attention, problem.dtype) {
            judge(attention, problem, PlanOptions::on(path), tensors, &truth, Placement::PLAIN)?;
        }
    }
    Ok(())
}

fn random(gpu: &Gpu, dtype: DType, q_len: u32, kv_len: u32) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = Problem::new(shape(rng, q_len, kv_len), dtype, options(rng, kv_len));
    everywhere(gpu, &problem, &Tensors::random(&problem, rng))
}

fn packed(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = packed_problem(rng, dtype)?;
    everywhere(gpu, &problem, &Tensors::random(&problem, rng))
}

/// Sequences of different lengths, some of them empty.
pub fn packed_problem(rng: &mut Rng, dtype: DType) -> Result<Problem, Failed> {
    let lengths = |rng: &mut Rng| {
        let mut ends = vec![0];
        for _ in 0..4 {
            let last = ends[ends.len() - 1];
            ends.push(last + rng.u32(0..=1) * rng.u32(1..=90));
        }
        ends.push(ends[ends.len() - 1] + 33);
        ends
    };
    let (cu_seqlens_q, cu_seqlens_k) = (lengths(rng), lengths(rng));
    Ok(Problem::packed(shape(rng, 1, 1), dtype, options(rng, 60), Packed { cu_seqlens_q, cu_seqlens_k })?)
}

/// λ at ±40, identical halves with a gate near 1, logits in the hundreds, all at once and with empty rows.
fn hard_inputs(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    let shape = Shape { batch: 1, q_len: 70, kv_len: 45, heads: 4, kv_heads: 2, head_dim: 32, value_dim: 24 };
    let problem = Problem::new(shape, dtype, options);

    let mut large = Tensors::random(&problem, rng);
    large.q.iter_mut().for_each(|q| *q = dtype.round(*q * 60.0));
    large.lam.iter_mut().enumerate().for_each(|(i, lam)| *lam = if i % 2 == 0 { 40.0 } else { -40.0 });
    everywhere(gpu, &problem, &large)?;

    let mut equal = Tensors::random(&problem, rng);
    for pair in equal.q.chunks_exact_mut(64) {
        let (first, second) = pair.split_at_mut(32);
        second.copy_from_slice(first);
    }
    equal.lam.fill(12.0);
    everywhere(gpu, &problem, &equal)
}

/// The widest and narrowest heads, on the portable paths.
fn dims(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (head_dim, value_dim, dtype) in
        [(8, 256, DType::F16), (256, 8, DType::F32), (256, 256, DType::Bf16), (192, 128, DType::F16)]
    {
        let shape = Shape { batch: 1, q_len: 21, kv_len: 70, heads: 2, kv_heads: 1, head_dim, value_dim };
        let mut options = Options::default();
        options.causal = true;
        let problem = Problem::new(shape, dtype, options);
        everywhere(gpu, &problem, &Tensors::random(&problem, rng))?;
    }
    Ok(())
}

/// The comparer sees a kernel that masks one key too few.
fn wrong_mask_is_rejected(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for dtype in DType::ALL {
        let mut options = Options::default();
        options.causal = true;
        let shape = Shape { batch: 1, q_len: 40, kv_len: 40, heads: 2, kv_heads: 1, head_dim: 32, value_dim: 32 };
        let problem = Problem::new(shape, dtype, options);
        let tensors = Tensors::random(&problem, rng);
        let truth = Judge::forward(&problem, &tensors.inputs())?;
        let mut wrong = problem.clone();
        (wrong.options.causal, wrong.options.window) = (false, (None, Some(1)));
        for path in paths(&gpu.attention, dtype) {
            let result = judge(&gpu.attention, &wrong, PlanOptions::on(path), &tensors, &truth, Placement::PLAIN);
            if result.is_ok() {
                return Err(format!("{path:?} in {dtype:?}: a mask that is off by one was accepted").into());
            }
        }
    }
    Ok(())
}
