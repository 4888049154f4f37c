//! Small limits: what does not fit one dispatch is split, and what cannot be split is refused by name.

use crate::device::{Gpu, paths};
use crate::run::{Placement, judge, queue_of};
use crate::support::{self, Tensors};
use crate::{Case, case};
use diffattn::reference::Judge;
use diffattn::{DType, Error, ForwardBuffers, Options, Packed, PlanOptions, Problem, Shape, TensorSlice, wgpu};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    vec![
        case("limits::small_bindings_are_split", small_bindings_are_split),
        case("limits::narrow_grids_are_folded", narrow_grids_are_folded),
        case("limits::keys_too_long_are_named", keys_too_long_are_named),
        case("limits::scratch_stays_small", scratch_stays_small),
        case("limits::many_sequences_need_no_large_buffer", many_sequences_need_no_large_buffer),
        case("limits::nothing_to_do", nothing_to_do),
        case("limits::extreme_scales", extreme_scales),
    ]
}

fn problems(dtype: DType) -> Result<[Problem; 2], Failed> {
    let shape = Shape { batch: 3, q_len: 70, kv_len: 40, heads: 4, kv_heads: 2, head_dim: 32, value_dim: 16 };
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    let packed = Packed { cu_seqlens_q: vec![0, 9, 9, 80, 120], cu_seqlens_k: vec![0, 40, 50, 90, 100] };
    Ok([Problem::new(shape, dtype, options), Problem::packed(shape, dtype, options, packed)?])
}

fn both(gpu: &Gpu, lower: impl Fn(&mut wgpu::Limits)) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let small = gpu.with_limits(lower);
    for problem in problems(DType::F16)? {
        let tensors = Tensors::random(&problem, rng);
        let truth = Judge::forward(&problem, &tensors.inputs())?;
        for path in paths(&small) {
            judge(&small, &problem, PlanOptions::on(path), &tensors, &truth, Placement::PLAIN)?;
        }
    }
    Ok(())
}

fn small_bindings_are_split(gpu: &Gpu) -> Result<(), Failed> {
    // Less than one sequence's q (70 × 8 × 32 × 2 bytes), just enough for its k.
    both(gpu, |limits| limits.max_storage_buffer_binding_size = 16 << 10)
}

fn narrow_grids_are_folded(gpu: &Gpu) -> Result<(), Failed> {
    both(gpu, |limits| limits.max_compute_workgroups_per_dimension = 3)
}

fn keys_too_long_are_named(gpu: &Gpu) -> Result<(), Failed> {
    let small = gpu.with_limits(|limits| limits.max_storage_buffer_binding_size = 4 << 10);
    let [problem, _] = problems(DType::F16)?;
    let tensors = Tensors::random(&problem, &mut support::rng());
    let plan = small.plan_forward_blocking(&problem, PlanOptions::default())?;
    match pollster::block_on(plan.run(&tensors.inputs())) {
        Err(error @ Error::Limit { name: "max_storage_buffer_binding_size", .. })
            if error.is_unsupported() && error.to_string().contains("`k` of one sequence") =>
        {
            Ok(())
        }
        other => Err(format!("expected the binding limit to be named, found {other:?}").into()),
    }
}

/// Nothing grows with q_len × kv_len, nor with anything else.
fn scratch_stays_small(gpu: &Gpu) -> Result<(), Failed> {
    let (device, _) = queue_of(&gpu.attention);
    let shape = Shape { batch: 1, q_len: 4096, kv_len: 4096, heads: 8, kv_heads: 4, head_dim: 64, value_dim: 64 };
    let problem = Problem::new(shape, DType::F16, Options::default());
    let buffer = |elements: u32, size: u64| {
        let usage = wgpu::BufferUsages::STORAGE;
        let size = u64::from(elements) * size;
        device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let (q, k, v) = (buffer(4096 * 16 * 64, 2), buffer(4096 * 4 * 64, 2), buffer(4096 * 4 * 64, 2));
    let (lam, out) = (buffer(4096 * 8, 4), buffer(4096 * 8 * 64, 2));
    let plan = gpu.attention.plan_forward_blocking(&problem, PlanOptions::default())?;
    let pass = plan.bind(&ForwardBuffers {
        q: (&q).into(),
        k: (&k).into(),
        v: (&v).into(),
        lam: (&lam).into(),
        out: (&out).into(),
        lse: None,
        a2: None,
    })?;
    if pass.scratch_bytes() > 1 << 20 {
        return Err(format!("{} bytes of scratch", pass.scratch_bytes()).into());
    }
    Ok(())
}

/// So many packed sequences that their list would be larger than 1 MiB: it is bound in parts, and the result is right.
fn many_sequences_need_no_large_buffer(gpu: &Gpu) -> Result<(), Failed> {
    let (device, _) = queue_of(&gpu.attention);
    let ends: Vec<u32> = (0..=60_000).collect();
    let packed = Packed { cu_seqlens_q: ends.clone(), cu_seqlens_k: ends };
    let shape = Shape { batch: 1, q_len: 1, kv_len: 1, heads: 1, kv_heads: 1, head_dim: 8, value_dim: 8 };
    let problem = Problem::packed(shape, DType::F16, Options::default(), packed)?;
    let tensors = Tensors::random(&problem, &mut support::rng());
    let truth = Judge::forward(&problem, &tensors.inputs())?;
    judge(&gpu.attention, &problem, PlanOptions::default(), &tensors, &truth, Placement::PLAIN)?;

    let usage = wgpu::BufferUsages::STORAGE;
    let buffer =
        |size| device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false });
    let (q, k, lam) = (buffer(60_000 * 32), buffer(60_000 * 16), buffer(60_000 * 4));
    let (v, out) = (buffer(60_000 * 16), buffer(60_000 * 16));
    let [q, k, v, lam, out] = [&q, &k, &v, &lam, &out].map(TensorSlice::new);
    let plan = gpu.attention.plan_forward_blocking(&problem, PlanOptions::default())?;
    let pass = plan.bind(&ForwardBuffers { q, k, v, lam, out, lse: None, a2: None })?;
    if pass.largest_allocation() >= 1 << 20 || pass.scratch_bytes() < 60_000 * 20 || pass.dispatches() < 2 {
        let (largest, all, parts) = (pass.largest_allocation(), pass.scratch_bytes(), pass.dispatches());
        return Err(format!("{largest} bytes in the largest buffer of {all}, {parts} dispatches").into());
    }
    Ok(())
}

/// A packed batch without a query, and one without a key, with every output.
fn nothing_to_do(gpu: &Gpu) -> Result<(), Failed> {
    for (queries, keys) in [(0, 9), (5, 0), (0, 0)] {
        let [problem, _] = problems(DType::F16)?;
        let packed = Packed { cu_seqlens_q: vec![0, queries, queries], cu_seqlens_k: vec![0, 0, keys] };
        let problem = Problem::packed(problem.shape, DType::F16, problem.options, packed)?;
        let tensors = Tensors::random(&problem, &mut support::rng());
        let plan = gpu.attention.plan_forward_blocking(&problem, PlanOptions::default())?;
        let outputs = pollster::block_on(plan.run(&tensors.inputs()))?;
        let lse = outputs.lse.unwrap_or_default();
        if outputs.out.iter().any(|out| *out != 0.0) || lse.iter().any(|lse| *lse != f32::NEG_INFINITY) {
            return Err(format!("{queries} queries, {keys} keys: rows that see no key must be 0, with LSE −∞").into());
        }
    }
    Ok(())
}

/// Scores up to the end of f32's range: the softmax is one-hot, and no score is taken for a masked one.
fn extreme_scales(gpu: &Gpu) -> Result<(), Failed> {
    for (scale, softcap) in [(1e30, None), (-1e30, None), (1.0, Some(1e30)), (1.0, Some(1e-6)), (0.0, None)] {
        let shape = Shape { batch: 1, q_len: 3, kv_len: 40, heads: 1, kv_heads: 1, head_dim: 8, value_dim: 8 };
        let mut options = Options::default();
        (options.scale, options.softcap, options.lse) = (Some(scale), softcap, true);
        let problem = Problem::new(shape, DType::F32, options);
        let tensors = Tensors::random(&problem, &mut support::rng());
        let expected = diffattn::cpu::forward(&problem, &tensors.inputs())?;
        for path in paths(&gpu.attention) {
            let plan = gpu.attention.plan_forward_blocking(&problem, PlanOptions::on(path))?;
            let outputs = pollster::block_on(plan.run(&tensors.inputs()))?;
            let near = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs().max(1.0);
            if !outputs.out.iter().zip(&expected.out).all(near) {
                return Err(format!("{path:?}: scale {scale}, softcap {softcap:?}: not as on the CPU").into());
            }
        }
    }
    Ok(())
}
