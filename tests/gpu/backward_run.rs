//! Runs a backward plan on buffers that would betray a mistake, as run.rs does for the forward.

use crate::run::{Placed, Placement, queue_of, run, transpose};
use crate::support::Tensors;
use diffattn::reference::{Judge, Verdict};
use diffattn::{
    BackwardBuffers, BackwardPlan, DType, DiffAttention, Error, HostGradInputs, HostGradients, HostInputs, HostOutputs,
    Layout, PlanOptions, Problem, Sizes,
};
use libtest_mimic::Failed;

/// What is asked of a backward pass beside its problem.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub plan: PlanOptions,
    pub placement: Placement,
    /// The loss reads the LSE.
    pub dlse: bool,
}

impl Ask {
    pub fn of(plan: PlanOptions) -> Self {
        Ask { plan, placement: Placement::PLAIN, dlse: false }
    }
}

/// What the forward saves, with everything on.
pub fn forward(attention: &DiffAttention, problem: &Problem, inputs: &HostInputs<'_>) -> Result<HostOutputs, Failed> {
    let mut problem = problem.clone();
    (problem.options.lse, problem.options.a2) = (true, true);
    let plan = attention.plan_forward_blocking(&problem, PlanOptions::default())?;
    run(&queue_of(attention), &plan, inputs, Placement::PLAIN)
}

/// Runs `plan`; gradients start as NaN, or as `existing` when it accumulates, and come back in the default order.
pub fn run_backward(
    attention: &DiffAttention,
    plan: &BackwardPlan,
    inputs: &HostInputs<'_>,
    saved: &HostOutputs,
    grads: &HostGradInputs<'_>,
    placement: Placement,
    existing: Option<&HostGradients>,
) -> Result<HostGradients, Failed> {
    run_members(attention, plan, inputs, saved, grads, placement, existing, 2)
}

/// The same for standard attention, with one query head for each output head.
pub fn run_standard(
    attention: &DiffAttention,
    plan: &BackwardPlan,
    inputs: &HostInputs<'_>,
    saved: &HostOutputs,
    grads: &HostGradInputs<'_>,
) -> Result<HostGradients, Failed> {
    run_members(attention, plan, inputs, saved, grads, Placement::PLAIN, None, 1)
}

#[expect(clippy::too_many_arguments, reason = "what the two above have in common")]
fn run_members(
    attention: &DiffAttention,
    plan: &BackwardPlan,
    inputs: &HostInputs<'_>,
    saved: &HostOutputs,
    grads: &HostGradInputs<'_>,
    placement: Placement,
    existing: Option<&HostGradients>,
    members: u32,
) -> Result<HostGradients, Failed> {
    let gpu = &queue_of(attention);
    let problem = plan.problem();
    let sizes = Sizes::of(problem)?;
    let Placement { layout, fence } = placement;
    let (batch, q_len, kv_len) = problem.extents();
    let shape = &problem.shape;
    let (heads, kv_heads) = (shape.heads, shape.kv_heads);
    let bhsd = layout == Layout::Bhsd;
    let order = |values: &[f32], seq: u32, heads: u32, dim: u32| {
        if bhsd { transpose(values, [batch, seq, heads, dim]) } else { values.to_vec() }
    };
    let back = |values: Vec<f32>, seq: u32, heads: u32, dim: u32| {
        if bhsd { transpose(&values, [batch, heads, seq, dim]) } else { values }
    };
    let dtype = problem.dtype;
    let place = |name, values: &[f32], dtype| Placed::new(gpu, name, values, fence, dtype);
    let q = place("q", &order(inputs.q, q_len, members * heads, shape.head_dim), dtype);
    let k = place("k", &order(inputs.k, kv_len, kv_heads, shape.head_dim), dtype);
    let v = place("v", &order(inputs.v, kv_len, kv_heads, shape.value_dim), dtype);
    let lam = place("lam", &order(inputs.lam, q_len, heads, 1), DType::F32);
    let out = place("out", &order(&saved.out, q_len, heads, shape.value_dim), dtype);
    let lse = place("lse", saved.lse.as_deref().unwrap_or_default(), DType::F32);
    let a2 = saved.a2.as_deref().filter(|_| problem.options.a2);
    let a2 = a2.map(|a2| place("a2", &order(a2, q_len, heads, shape.value_dim), dtype));
    let dout = place("dout", &order(grads.dout, q_len, heads, shape.value_dim), dtype);
    let dlse = grads.dlse.map(|dlse| place("dlse", dlse, DType::F32));
    let start = |name, old: Option<&Vec<f32>>, len: u64, seq, heads, dim, dtype| {
        let nan = vec![f32::NAN; len as usize];
        place(name, &order(old.unwrap_or(&nan), seq, heads, dim), dtype)
    };
    let dq = start(
        "dq",
        existing.map(|old| &old.dq),
        u64::from(members) * sizes.q / 2,
        q_len,
        members * heads,
        shape.head_dim,
        dtype,
    );
    let dk = start("dk", existing.map(|old| &old.dk), sizes.k, kv_len, kv_heads, shape.head_dim, dtype);
    let dv = start("dv", existing.map(|old| &old.dv), sizes.v, kv_len, kv_heads, shape.value_dim, dtype);
    let dlam = start("dlam", existing.map(|old| &old.dlam), sizes.lam, q_len, heads, 1, DType::F32);

    let pass = plan.bind(&BackwardBuffers {
        q: q.slice(layout),
        k: k.slice(layout),
        v: v.slice(layout),
        lam: lam.slice(layout),
        out: out.slice(layout),
        lse: lse.slice(Layout::Default),
        a2: a2.as_ref().map(|a2| a2.slice(layout)),
        dout: dout.slice(layout),
        dlse: dlse.as_ref().map(|dlse| dlse.slice(Layout::Default)),
        dq: dq.slice(layout),
        dk: dk.slice(layout),
        dv: dv.slice(layout),
        dlam: dlam.slice(layout),
        accumulate: existing.is_some(),
    })?;
    let mut encoder = gpu.0.create_command_encoder(&Default::default());
    pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.1.submit([encoder.finish()]);
    Ok(HostGradients {
        dq: back(dq.read(gpu)?, q_len, members * heads, shape.head_dim),
        dk: back(dk.read(gpu)?, kv_len, kv_heads, shape.head_dim),
        dv: back(dv.read(gpu)?, kv_len, kv_heads, shape.value_dim),
        dlam: back(dlam.read(gpu)?, q_len, heads, 1),
    })
}

/// Plans, runs and judges one problem.
pub fn judge_backward(
    attention: &DiffAttention,
    problem: &Problem,
    ask: Ask,
    tensors: &Tensors,
    saved: &HostOutputs,
    judge: &Judge,
) -> Result<HostGradients, Failed> {
    let plan = match attention.plan_backward_blocking(problem, ask.plan) {
        Err(Error::Shader { label, message }) => return Err(format!("{label}: {message}").into()),
        plan => plan?,
    };
    let grads = if ask.dlse { tensors.grads_with_dlse() } else { tensors.grads() };
    let gradients = run_backward(attention, &plan, &tensors.inputs(), saved, &grads, ask.placement, None)?;
    backward_verdicts(&plan, judge.gradients(&gradients)?)?;
    Ok(gradients)
}

/// Fails with everything needed to find the fault.
pub fn backward_verdicts(plan: &BackwardPlan, verdicts: Vec<Verdict>) -> Result<(), Failed> {
    let wrong = verdicts.iter().filter(|verdict| !verdict.passed);
    let wrong: Vec<_> = wrong
        .map(|Verdict { tensor, error, bound, index, .. }| {
            format!("`{tensor}` is wrong at {index}: error {error:.3e}, bound {bound:.3e}")
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let (labels, shape, options) = (plan.labels().join(", "), plan.problem().shape, plan.problem().options);
    let packed = &plan.problem().packed;
    Err(format!("{labels}: {}\n{shape:?}\n{options:?}\n{packed:?}", wrong.join("; ")).into())
}
