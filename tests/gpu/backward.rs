//! The backward pass, on every path: golden files, random problems, placement, options.

use crate::backward_run::{Ask, backward_verdicts, forward, judge_backward, run_backward, run_standard};
use crate::device::{Gpu, backward_paths};
use crate::random::{self, LENGTHS};
use crate::run::Placement;
use crate::support::{self, Golden, Tensors};
use crate::{Case, case};
use diffattn::reference::Judge;
use diffattn::{
    DType, Error, HostGradInputs, HostGradients, HostInputs, HostOutputs, Layout, Options, Packed, Path, PlanOptions,
    Problem, Shape, Sizes,
};
use fastrand::Rng;
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
        cases.push(case(format!("backward::same_bits::{}", dtype.name()), move |gpu| same_bits(gpu, dtype)));
    }
    for (index, (q_len, kv_len)) in LENGTHS.into_iter().enumerate() {
        let dtype = DType::ALL[index % 3];
        let name = format!("backward::random::{q_len}x{kv_len}::{}", dtype.name());
        cases.push(case(name, move |gpu| random(gpu, dtype, q_len, kv_len)));
    }
    cases.push(case("backward::dims", dims));
    cases.push(case("backward::accumulate", accumulate));
    cases.push(case("backward::fused_is_un_fused", fused_is_un_fused));
    cases.push(case("backward::small_bindings_are_split", small_bindings_are_split));
    cases.push(case("backward::run_from_host", run_from_host));
    cases.push(case("backward::scratch_stays_small", scratch_stays_small));
    cases.push(case("backward::a2_is_counted", a2_is_counted));
    cases.push(case("backward::wrong_gate_is_rejected", wrong_gate_is_rejected));
    cases
}

fn golden_gradients(gpu: &Gpu, golden: &Golden) -> Result<(), Failed> {
    let (problem, inputs, grads) = (&golden.problem, golden.inputs(), golden.grads());
    let judge = Judge::backward(problem, &inputs, &grads)?;
    let saved = forward(&gpu.attention, problem, &inputs)?;
    // Compiling is what takes the time: the on-device check is left to f32, where it is sharpest.
    for path in
        backward_paths(&gpu.attention).into_iter().filter(|&path| path != Path::Naive || problem.dtype == DType::F32)
    {
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
        for path in backward_paths(attention).into_iter().filter(|&path| naive || path != Path::Naive) {
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

fn small(dtype: DType) -> Problem {
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
    for path in backward_paths(&gpu.attention) {
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

/// Every run, every order of axes, every allowed offset and the driver's runtime checks give the same bits.
fn same_bits(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = small(dtype);
    let tensors = Tensors::random(&problem, rng);
    let truth = Judge::backward(&problem, &tensors.inputs(), &tensors.grads())?;
    let saved = forward(&gpu.attention, &problem, &tensors.inputs())?;
    for path in backward_paths(&gpu.attention) {
        let run = |layout, fence, runtime_checks| {
            let mut ask = Ask::of(PlanOptions::on(path));
            ask.placement = Placement { layout, fence };
            ask.plan.runtime_checks = runtime_checks;
            judge_backward(&gpu.attention, &problem, ask, &tensors, &saved, &truth)
        };
        let first = run(Layout::Bshd, 0, false)?;
        for (layout, fence, checks) in [
            (Layout::Bshd, 0, false),
            (Layout::Bshd, 8, false),
            (Layout::Bhsd, 0, false),
            (Layout::Bhsd, 264, false),
            (Layout::Bshd, 64, true),
        ] {
            if run(layout, fence, checks)? != first {
                let what = format!("{layout:?} after {fence} elements, runtime checks {checks}");
                return Err(format!("{path:?} {dtype:?} {what}: other bits").into());
            }
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

/// The fused form gives what standard attention gives for each member: dout for the first, -sigmoid(λ)·dout for the
/// second. Both are measured side by side, so both must be right.
fn fused_is_un_fused(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let fused = small(DType::F32);
    let Shape { value_dim, .. } = fused.shape;
    let tensors = Tensors::random(&fused, rng);
    let (inputs, grads) = (tensors.inputs(), tensors.grads());
    let truth = Judge::backward(&fused, &inputs, &grads)?;
    let saved = forward(&gpu.attention, &fused, &inputs)?;
    let mut standard = fused.clone();
    standard.shape.heads *= 2;
    (standard.options.a2, standard.options.lse) = (false, false);

    // Members side by side, as heads of their own.
    let dim = value_dim as usize;
    let (mut out, mut dout) = (Vec::new(), Vec::new());
    let a2 = saved.a2.as_deref().unwrap_or_default();
    let rows = saved.out.chunks_exact(dim).zip(a2.chunks_exact(dim)).zip(tensors.dout.chunks_exact(dim));
    for (((o, a2), d), lam) in rows.zip(&tensors.lam) {
        let gate = 1.0 / (1.0 + (-lam).exp());
        out.extend(o.iter().zip(a2).map(|(o, a2)| o + gate * a2));
        out.extend(a2);
        dout.extend(d);
        dout.extend(d.iter().map(|d| -gate * d));
    }
    let lam = vec![0.0; 2 * tensors.lam.len()];
    for path in backward_paths(&gpu.attention).into_iter().filter(|&path| path != Path::Naive) {
        let plan = pollster::block_on(gpu.attention.plan_standard_backward(&standard, PlanOptions::on(path)))?;
        let inputs = HostInputs { lam: &lam, ..inputs };
        let saved = HostOutputs { out: out.clone(), ..saved.clone() };
        let grads = HostGradInputs { dout: &dout, dlse: None };
        let gradients = run_standard(&gpu.attention, &plan, &inputs, &saved, &grads)?;
        let verdicts = truth.gradients(&HostGradients { dlam: tensors.lam.clone(), ..gradients })?;
        backward_verdicts(&plan, verdicts.into_iter().filter(|verdict| verdict.tensor != "dlam").collect())?;
    }
    Ok(())
}

/// Gradients are added to what is there.
fn accumulate(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (dtype, a2) in [(DType::F32, true), (DType::F16, false), (DType::Bf16, true)] {
        let mut problem = small(dtype);
        problem.options.a2 = a2;
        let tensors = Tensors::random(&problem, rng);
        let saved = forward(&gpu.attention, &problem, &tensors.inputs())?;
        for path in backward_paths(&gpu.attention) {
            let plan = gpu.attention.plan_backward_blocking(&problem, PlanOptions::on(path))?;
            let run = |existing| {
                let (inputs, grads) = (tensors.inputs(), tensors.grads());
                run_backward(&gpu.attention, &plan, &inputs, &saved, &grads, Placement::PLAIN, existing)
            };
            let fresh = run(None)?;
            let existing = existing(&problem, rng)?;
            let sum = run(Some(&existing))?;
            let parts = [
                ("dq", &fresh.dq, &existing.dq, &sum.dq, dtype),
                ("dk", &fresh.dk, &existing.dk, &sum.dk, dtype),
                ("dv", &fresh.dv, &existing.dv, &sum.dv, dtype),
                ("dlam", &fresh.dlam, &existing.dlam, &sum.dlam, DType::F32),
            ];
            for (name, fresh, existing, sum, stored) in parts {
                for ((fresh, existing), sum) in fresh.iter().zip(existing).zip(sum) {
                    // Two roundings: of the sum, and of the fresh gradient that was stored.
                    let allowed = stored.epsilon() as f32 * (fresh.abs() + sum.abs() + 1e-6);
                    if (fresh + existing - sum).abs() > allowed {
                        return Err(format!("{path:?} {name}: {fresh} + {existing} gave {sum}").into());
                    }
                }
            }
        }
    }
    Ok(())
}

/// Random gradients in the storage type.
fn existing(problem: &Problem, rng: &mut Rng) -> Result<HostGradients, Failed> {
    let sizes = Sizes::of(problem)?;
    let mut random = |len: u64, dtype: DType| (0..len).map(|_| dtype.round(rng.f32() - 0.5)).collect();
    Ok(HostGradients {
        dq: random(sizes.q, problem.dtype),
        dk: random(sizes.k, problem.dtype),
        dv: random(sizes.v, problem.dtype),
        dlam: random(sizes.lam, DType::F32),
    })
}

/// Bindings and grids too small for one dispatch: queries are split too, and dK and dV summed over the pieces.
fn small_bindings_are_split(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let limited = gpu.with_limits(|limits| {
        limits.max_storage_buffer_binding_size = 16 << 10;
        limits.max_compute_workgroups_per_dimension = 5;
    });
    let shape = Shape { batch: 3, q_len: 70, kv_len: 40, heads: 4, kv_heads: 2, head_dim: 32, value_dim: 16 };
    let mut options = Options::default();
    (options.causal, options.a2) = (true, true);
    let packed = Packed { cu_seqlens_q: vec![0, 9, 9, 80, 120], cu_seqlens_k: vec![0, 40, 50, 90, 100] };
    let problems = [Problem::new(shape, DType::F16, options), Problem::packed(shape, DType::F16, options, packed)?];
    for problem in problems {
        let tensors = Tensors::random(&problem, rng);
        let truth = Judge::backward(&problem, &tensors.inputs(), &tensors.grads())?;
        let saved = forward(&gpu.attention, &problem, &tensors.inputs())?;
        for path in backward_paths(&limited) {
            judge_backward(&limited, &problem, Ask::of(PlanOptions::on(path)), &tensors, &saved, &truth)?;
        }
    }
    Ok(())
}

/// The call on host slices, with and without a₂.
fn run_from_host(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (a2, lse) in [(true, false), (false, true)] {
        let mut problem = small(DType::F32);
        (problem.options.a2, problem.options.lse) = (a2, lse);
        let tensors = Tensors::random(&problem, rng);
        let grads = tensors.grads_with_dlse();
        let truth = Judge::backward(&problem, &tensors.inputs(), &grads)?;
        let plan = gpu.attention.plan_backward_blocking(&problem, PlanOptions::default())?;
        let gradients = pollster::block_on(plan.run(&tensors.inputs(), &grads))?;
        backward_verdicts(&plan, truth.gradients(&gradients)?)?;
        let short = diffattn::HostGradInputs { dout: &tensors.dout[1..], dlse: None };
        if !matches!(pollster::block_on(plan.run(&tensors.inputs(), &short)), Err(Error::Shape { tensor: "dout", .. }))
        {
            return Err("a dout that is too short was accepted".into());
        }
    }
    Ok(())
}

/// O(heads · q_len), nothing of q_len × kv_len.
fn scratch_stays_small(gpu: &Gpu) -> Result<(), Failed> {
    let scratch = |len: u32| -> Result<u64, Failed> {
        let mut problem = small(DType::F16);
        problem.shape = Shape { batch: 1, q_len: len, kv_len: len, ..problem.shape };
        let sizes = Sizes::of(&problem)?;
        let largest = [sizes.q, sizes.k, sizes.v, sizes.out, 2 * sizes.lse].into_iter().max().unwrap_or(0);
        let usage = diffattn::wgpu::BufferUsages::STORAGE;
        let buffer = || {
            let descriptor =
                diffattn::wgpu::BufferDescriptor { label: None, size: 2 * largest, usage, mapped_at_creation: false };
            gpu.attention.device().create_buffer(&descriptor)
        };
        let [input, dq, dk, dv, dlam] = std::array::from_fn(|_| buffer());
        let slice = diffattn::TensorSlice::new(&input);
        let plan = gpu.attention.plan_backward_blocking(&problem, PlanOptions::default())?;
        let pass = plan.bind(&diffattn::BackwardBuffers {
            q: slice,
            k: slice,
            v: slice,
            lam: slice,
            out: slice,
            lse: slice,
            a2: Some(slice),
            dout: slice,
            dlse: None,
            dq: (&dq).into(),
            dk: (&dk).into(),
            dv: (&dv).into(),
            dlam: (&dlam).into(),
            accumulate: false,
        })?;
        Ok(pass.scratch_bytes())
    };
    let (short, long) = (scratch(512)?, scratch(1024)?);
    let fixed = 4 << 10;
    let rows = 32 * 1024 * 4;
    if long > rows + fixed || short > rows / 2 + fixed {
        return Err(format!("{short} bytes of scratch for 512 tokens, {long} for 1024").into());
    }
    Ok(())
}

/// Without a₂ there is one more kernel, and an a₂ that is missing or too many is named.
fn a2_is_counted(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for a2 in [true, false] {
        let mut problem = small(DType::F32);
        problem.options.a2 = a2;
        let plan = gpu.attention.plan_backward_blocking(&problem, PlanOptions::default())?;
        let labels = plan.labels();
        if labels.len() != if a2 { 3 } else { 4 } {
            return Err(format!("unexpected kernels: {labels:?}").into());
        }
        let tensors = Tensors::random(&problem, rng);
        let mut saved = forward(&gpu.attention, &problem, &tensors.inputs())?;
        if !a2 {
            continue;
        }
        saved.a2 = None;
        let (inputs, grads) = (tensors.inputs(), tensors.grads());
        match run_backward(&gpu.attention, &plan, &inputs, &saved, &grads, Placement::PLAIN, None) {
            Err(error) if format!("{error:?}").contains("options.a2 is set") => {}
            other => return Err(format!("expected the missing a2 to be named, found {:?}", other.is_ok()).into()),
        }
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
        for path in backward_paths(&gpu.attention) {
            let ask = Ask::of(PlanOptions::on(path));
            if judge_backward(&gpu.attention, &problem, ask, &wrong, &saved, &truth).is_ok() {
                return Err(format!("{path:?} in {dtype:?}: gradients of another gate were accepted").into());
            }
        }
    }
    Ok(())
}
