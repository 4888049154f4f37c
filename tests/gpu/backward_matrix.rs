//! The backward pass on matrix units, on adapters that have them. Apart from the others, since only few drivers do.

use crate::backward::small;
use crate::backward_run::{Ask, backward_verdicts, forward, judge_backward, run_backward};
use crate::device::Gpu;
use crate::random::{self, LENGTHS};
use crate::run::Placement;
use crate::support::{self, Golden, Tensors};
use crate::{Case, case};
use diffattn::reference::{self, Judge};
use diffattn::tile::{BackwardMatrixTile, Sweep, backward_matrix_tile};
use diffattn::{AnyBackwardTile, DType, Layout, Path, PlanOptions, Problem, Shape};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    // A few of each: a software driver compiles such kernels for a quarter of a minute.
    let goldens = Golden::all(DType::F16).into_iter().filter(|golden| GOLDEN.contains(&golden.name.as_str()));
    for golden in goldens {
        let name = format!("matrix::backward::golden::{}", golden.name);
        cases.push(case(name, move |gpu| golden_gradients(gpu, &golden)));
    }
    for (q_len, kv_len) in LENGTHS.into_iter().skip(2).step_by(4) {
        let name = format!("matrix::backward::random::{q_len}x{kv_len}");
        cases.push(case(name, move |gpu| tails(gpu, q_len, kv_len)));
    }
    cases.push(case("matrix::backward::packed", packed));
    cases.push(case("matrix::backward::same_bits", same_bits));
    cases.push(case("matrix::backward::magnitudes", magnitudes));
    cases.push(case("matrix::backward::uneven_rows", uneven_rows));
    cases.push(case("matrix::backward::faint_weights", faint_weights));
    cases.push(case("matrix::backward::shut_gates", shut_gates));
    cases.push(case("matrix::backward::wrong_gate_is_rejected", wrong_gate_is_rejected));
    cases.push(case("matrix::backward::tiles", tiles));
    cases.push(case("matrix::backward::accumulate", accumulate));
    cases.push(case("matrix::backward::other_types_are_refused", other_types_are_refused));
    cases
}

/// Grouped heads under a causal mask, a window, a softcap, and rows that see no key.
const GOLDEN: [&str; 4] = ["gqa_causal", "window", "softcap", "more_queries_than_keys"];

fn plan() -> PlanOptions {
    PlanOptions::on(Path::Matrix)
}

fn golden_gradients(gpu: &Gpu, golden: &Golden) -> Result<(), Failed> {
    let (problem, inputs, grads) = (&golden.problem, golden.inputs(), golden.grads());
    let judge = Judge::backward(problem, &inputs, &grads)?;
    let saved = forward(&gpu.attention, problem, &inputs)?;
    let plan = gpu.attention.plan_backward_blocking(problem, plan())?;
    let gradients = run_backward(&gpu.attention, &plan, &inputs, &saved, &grads, Placement::PLAIN, None)?;
    let named = [("dq", &gradients.dq), ("dk", &gradients.dk), ("dv", &gradients.dv), ("dlam", &gradients.dlam)];
    let against = named.map(|(name, actual)| judge.against(name, actual, golden.tensor(name)));
    backward_verdicts(&plan, against.into_iter().collect::<Result<_, _>>()?)?;
    backward_verdicts(&plan, judge.gradients(&gradients)?)
}

fn check(gpu: &Gpu, problem: &Problem, tensors: &Tensors, ask: Ask) -> Result<(), Failed> {
    let grads = if ask.dlse { tensors.grads_with_dlse() } else { tensors.grads() };
    let truth = Judge::backward(problem, &tensors.inputs(), &grads)?;
    let saved = forward(&gpu.attention, problem, &tensors.inputs())?;
    judge_backward(&gpu.attention, problem, ask, tensors, &saved, &truth).map(drop)
}

fn tails(gpu: &Gpu, q_len: u32, kv_len: u32) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = Problem::new(random::shape(rng, q_len, kv_len), DType::F16, random::options(rng, kv_len));
    let ask = Ask { dlse: rng.bool(), ..Ask::of(plan()) };
    check(gpu, &problem, &Tensors::random(&problem, rng), ask)
}

fn packed(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = random::packed_problem(rng, DType::F16)?;
    let ask = Ask { dlse: rng.bool(), ..Ask::of(plan()) };
    check(gpu, &problem, &Tensors::random(&problem, rng), ask)
}

/// Every run, both orders of axes and the driver's runtime checks give the same bits.
fn same_bits(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = small(DType::F16);
    let tensors = Tensors::random(&problem, rng);
    let truth = Judge::backward(&problem, &tensors.inputs(), &tensors.grads())?;
    let saved = forward(&gpu.attention, &problem, &tensors.inputs())?;
    let run = |layout, fence, runtime_checks| {
        let mut ask = Ask { placement: Placement { layout, fence }, ..Ask::of(plan()) };
        ask.plan.runtime_checks = runtime_checks;
        judge_backward(&gpu.attention, &problem, ask, &tensors, &saved, &truth)
    };
    let first = run(Layout::Bshd, 0, false)?;
    for (layout, fence, checks) in [(Layout::Bshd, 0, false), (Layout::Bhsd, 264, false), (Layout::Bshd, 64, true)] {
        if run(layout, fence, checks)? != first {
            return Err(format!("{layout:?} after {fence} elements, runtime checks {checks}: other bits").into());
        }
    }
    Ok(())
}

/// What the tensors of one case are multiplied by.
struct Factors {
    /// Keys of each query: the fewer, the larger its weights.
    keys: u32,
    q: f32,
    k: f32,
    v: f32,
    dout: f32,
    dlse: f32,
}

const ONE: Factors = Factors { keys: 45, q: 1.0, k: 1.0, v: 1.0, dout: 1.0, dlse: 0.0 };

/// Each fails without the powers of two that the kernels scale by, at the end of f16 that its name says, though every
/// gradient fits the storage type: small queries let large dS through to dQ, large keys lift tiny ones.
const MAGNITUDES: [(&str, Factors); 7] = [
    ("dS above f16", Factors { keys: 3, q: 0.01, k: 0.01, v: 300.0, dout: 100.0, ..ONE }),
    ("dS above f16 by dlse", Factors { keys: 3, q: 0.01, k: 0.01, dlse: 3e5, ..ONE }),
    ("dS below f16, to dQ", Factors { q: 2e-3, k: 1000.0, dout: 1e-5, ..ONE }),
    ("dS below f16, to dK", Factors { q: 1000.0, k: 2e-3, dout: 1e-5, ..ONE }),
    ("dS below f16 by V", Factors { q: 2e-3, k: 1000.0, v: 1e-5, ..ONE }),
    ("dout alone", Factors { dout: 1e-3, v: 300.0, ..ONE }),
    ("nothing", Factors { dout: 0.0, ..ONE }),
];

fn magnitudes(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (name, Factors { keys, q, k, v, dout, dlse }) in MAGNITUDES {
        let mut problem = small(DType::F16);
        problem.shape = Shape { batch: 1, q_len: 70, kv_len: keys, ..problem.shape };
        problem.options.causal = false;
        let mut tensors = Tensors::random(&problem, rng);
        for (tensor, factor) in
            [(&mut tensors.q, q), (&mut tensors.k, k), (&mut tensors.v, v), (&mut tensors.dout, dout)]
        {
            tensor.iter_mut().for_each(|x| *x = DType::F16.round(*x * factor));
        }
        tensors.dlse.iter_mut().for_each(|x| *x *= dlse);
        let ask = Ask { dlse: dlse != 0.0, ..Ask::of(plan()) };
        check(gpu, &problem, &tensors, ask).map_err(|failed| format!("{name}: {}", failed.message().unwrap_or("")))?;
    }
    Ok(())
}

/// Rows of dout from 1e-4 to 1 side by side, the first one small; and values in pairs that cancel, so that nothing but dP
/// makes dS large: gradients of each row by its own magnitude.
fn uneven_rows(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut problem = small(DType::F16);
    problem.shape = Shape { batch: 1, q_len: 70, kv_len: 45, ..problem.shape };
    problem.options.causal = false;
    let Shape { heads, kv_heads, value_dim, .. } = problem.shape;
    let scale = |values: &mut [f32], factor: f32| {
        values.iter_mut().for_each(|x| *x = DType::F16.round(*x * factor));
    };
    let mut tensors = Tensors::random(&problem, rng);
    for (row, values) in tensors.dout.chunks_exact_mut((heads * value_dim) as usize).enumerate() {
        scale(values, if row % 3 == 2 { 1.0 } else { 1e-4 });
    }
    check(gpu, &problem, &tensors, Ask::of(plan()))?;

    problem.shape.kv_len = 4;
    let mut tensors = Tensors::random(&problem, rng);
    scale(&mut tensors.q, 0.01);
    scale(&mut tensors.k, 0.01);
    scale(&mut tensors.v, 1e4);
    scale(&mut tensors.dout, 0.1);
    let width = (kv_heads * value_dim) as usize;
    for pair in tensors.v.chunks_exact_mut(2 * width) {
        let (first, second) = pair.split_at_mut(width);
        first.iter().zip(second).for_each(|(x, y)| *y = -x);
    }
    check(gpu, &problem, &tensors, Ask::of(plan()))
}

/// Every second key has weights of exp(-√head_dim · 2.8), 2e-8, which f16 does not hold. Their dV is held against the
/// reference by itself: the bound of the whole comes from an un-fused computation, which rounds such weights to nothing.
fn faint_weights(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut problem = small(DType::F16);
    problem.shape = Shape { batch: 1, q_len: 70, kv_len: 45, ..problem.shape };
    problem.options.causal = false;
    let Shape { kv_heads, head_dim, value_dim, .. } = problem.shape;
    let mut tensors = Tensors::random(&problem, rng);
    tensors.q.fill(1.0);
    for (key, values) in tensors.k.chunks_exact_mut((kv_heads * head_dim) as usize).enumerate() {
        let far = if key % 2 == 1 { -2.8 } else { 0.0 };
        values.iter_mut().for_each(|x| *x = DType::F16.round(far + 0.1 * *x));
    }
    tensors.dout.iter_mut().for_each(|x| *x = DType::F16.round(*x * 1e4));
    tensors.v.iter_mut().for_each(|x| *x = DType::F16.round(*x * 0.01));
    let (inputs, grads) = (tensors.inputs(), tensors.grads());
    let expected = reference::backward(&problem, &inputs, &grads)?.dv;
    let saved = forward(&gpu.attention, &problem, &inputs)?;
    let plan = gpu.attention.plan_backward_blocking(&problem, plan())?;
    let actual = run_backward(&gpu.attention, &plan, &inputs, &saved, &grads, Placement::PLAIN, None)?.dv;
    let width = (kv_heads * value_dim) as usize;
    let (mut error, mut largest) = (0.0f64, 0.0f64);
    for (actual, expected) in actual.chunks_exact(width).zip(expected.chunks_exact(width)).skip(1).step_by(2) {
        for (actual, expected) in actual.iter().zip(expected) {
            error = error.max((f64::from(*actual) - expected).abs());
            largest = largest.max(expected.abs());
        }
    }
    // Weights of 11 bits at least, and steps of f16's smallest numbers.
    if error.is_nan() || error > 0.01 * largest {
        return Err(format!("dv of faint keys is off by {error:e} of {largest:e}").into());
    }
    Ok(())
}

/// Gates that are almost shut, and shut: what reaches dQ of the second member is near f32's smallest, and its scale near the
/// largest.
fn shut_gates(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut problem = small(DType::F16);
    problem.shape = Shape { batch: 1, q_len: 37, kv_len: 45, ..problem.shape };
    let mut tensors = Tensors::random(&problem, rng);
    for (lam, shut) in tensors.lam.iter_mut().zip([-88.0, -80.0, -100.0, -1e4, 0.0].into_iter().cycle()) {
        *lam = shut;
    }
    tensors.dout.iter_mut().for_each(|x| *x = DType::F16.round(*x * 64.0));
    tensors.v.iter_mut().for_each(|x| *x = DType::F16.round(*x * 0.1));
    check(gpu, &problem, &tensors, Ask::of(plan()))
}

/// Tiles that the planner would not choose here: more and fewer subgroups, written out, in scalars.
fn tiles(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut problem = small(DType::F16);
    problem.shape = Shape { head_dim: 16, value_dim: 24, ..problem.shape };
    let tensors = Tensors::random(&problem, rng);
    let [dq, dkv] = [Sweep::Dq, Sweep::Dkv].map(|sweep| backward_matrix_tile(&problem, sweep, gpu.attention.caps()));
    let (dq, dkv) = (dq?, dkv?);
    let changes: [fn(BackwardMatrixTile) -> BackwardMatrixTile; 2] = [
        |tile| BackwardMatrixTile { subgroups: 3, items: 32, ..tile },
        |tile| BackwardMatrixTile { subgroups: 1, items: 16, unrolled: true, scalars: true, ..tile },
    ];
    for change in changes {
        let mut ask = Ask { dlse: true, ..Ask::of(plan()) };
        ask.plan.backward_tiles = Some([change(dq).into(), change(dkv).into()]);
        check(gpu, &problem, &tensors, ask)?;
    }
    let broken = BackwardMatrixTile { items: 12, ..dq };
    let foreign: AnyBackwardTile =
        diffattn::tile::backward_tile(&problem, Sweep::Dq, Path::Portable, gpu.attention.caps())?.tile.into();
    for tile in [broken.into(), foreign] {
        let mut plan = plan();
        plan.backward_tiles = Some([tile, dkv.into()]);
        if gpu.attention.plan_backward_blocking(&problem, plan).is_ok() {
            return Err(format!("{tile} was accepted").into());
        }
    }
    Ok(())
}

/// Gradients are added to what is there.
fn accumulate(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = small(DType::F16);
    let tensors = Tensors::random(&problem, rng);
    let saved = forward(&gpu.attention, &problem, &tensors.inputs())?;
    let plan = gpu.attention.plan_backward_blocking(&problem, plan())?;
    let run = |existing| {
        let (inputs, grads) = (tensors.inputs(), tensors.grads());
        run_backward(&gpu.attention, &plan, &inputs, &saved, &grads, Placement::PLAIN, existing)
    };
    let once = run(None)?;
    let twice = run(Some(&once))?;
    for (once, twice) in [(&once.dq, &twice.dq), (&once.dk, &twice.dk), (&once.dv, &twice.dv)] {
        for (once, twice) in once.iter().zip(twice) {
            let allowed = 2.0 * DType::F16.epsilon() as f32 * (once.abs() + twice.abs() + 1e-6);
            if (2.0 * once - twice).abs() > allowed {
                return Err(format!("{once} added to itself gave {twice}").into());
            }
        }
    }
    Ok(())
}

fn other_types_are_refused(gpu: &Gpu) -> Result<(), Failed> {
    for dtype in [DType::F32, DType::Bf16] {
        match gpu.attention.plan_backward_blocking(&small(dtype), plan()) {
            Err(error) if error.is_unsupported() => {}
            other => return Err(format!("expected a refusal, found {:?}", other.map(|plan| plan.labels())).into()),
        }
    }
    Ok(())
}

fn wrong_gate_is_rejected(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = small(DType::F16);
    let tensors = Tensors::random(&problem, rng);
    let truth = Judge::backward(&problem, &tensors.inputs(), &tensors.grads())?;
    let mut wrong = tensors.clone();
    wrong.lam.iter_mut().for_each(|lam| *lam += 0.5);
    let saved = forward(&gpu.attention, &problem, &wrong.inputs())?;
    match judge_backward(&gpu.attention, &problem, Ask::of(plan()), &wrong, &saved, &truth) {
        Ok(_) => Err("gradients of another gate were accepted".into()),
        Err(_) => Ok(()),
    }
}
