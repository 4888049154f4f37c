//! Forward cases on the device.

use web_time::Instant;

use super::case::{Case, Form};
use super::glue::Glue;
use super::on_device::{OnDevice, Outputs, Tensor};
use super::stopwatch::Stopwatch;
use super::subject::{Kernel, Pinned};
use super::tensors::Tensors;
use crate::attention::{DiffAttention, PlanOptions};
use crate::error::Result;
use crate::host::Sizes;
use crate::ops::forward::ForwardBuffers;
use crate::ops::host;
use crate::problem::DType;

pub(super) async fn prepare<'a>(
    attention: &'a DiffAttention,
    stopwatch: &'a Stopwatch,
    case: &Case,
    tensors: &Tensors,
    pinned: Pinned,
) -> Result<OnDevice<'a>> {
    // What the attention kernel is asked for; only un-fused does something come after it.
    let (problem, standard) = case.kernel_problem();
    let (sizes, dtype) = (Sizes::of(&case.problem())?, problem.dtype);
    let (q, k, v, lam, members, out) = host::with_memory(&attention.device, "creating the tensors", || {
        let own_q =
            if case.form == Form::Baseline { Some(tensors.first_queries(problem.shape.head_dim)) } else { None };
        let unfused = case.form == Form::Unfused;
        // Standard attention binds a λ for each of its heads, and does not look at it.
        let lam = [&tensors.lam[..], if unfused { &tensors.lam } else { &[] }].concat();
        Ok((
            host::upload(attention, "q", dtype.encode(own_q.as_ref().unwrap_or(&tensors.q)))?,
            host::upload(attention, "k", dtype.encode(&tensors.k))?,
            host::upload(attention, "v", dtype.encode(&tensors.v))?,
            host::upload(attention, "lam", DType::F32.encode(&lam))?,
            unfused.then(|| Tensor::poisoned(attention, "members", dtype, 2 * sizes.out)).transpose()?,
            Tensor::poisoned(attention, "out", dtype, sizes.out)?,
        ))
    })
    .await?;

    let start = Instant::now();
    let plan = match standard {
        true => attention.plan_standard_forward(&problem, pinned.plan).await?,
        false => attention.plan_forward(&problem, pinned.plan).await?,
    };
    let pass = plan.bind(&ForwardBuffers {
        q: (&q).into(),
        k: (&k).into(),
        v: (&v).into(),
        lam: (&lam).into(),
        out: (&members.as_ref().unwrap_or(&out).buffer).into(),
        lse: None,
        a2: None,
    })?;
    let glue = match &members {
        None => None,
        Some(members) => {
            let glue = Glue { backward: false, dtype, rows: sizes.lam as u32, value_dim: problem.shape.value_dim };
            Some((glue.label(), glue.bind(attention, &[&members.buffer, &lam, &out.buffer]).await?))
        }
    };
    let mut kernel = Kernel {
        label: plan.label(),
        path: plan.path().name(),
        pinned: Pinned { plan: PlanOptions { path: Some(plan.path()), tile: plan.tile(), ..pinned.plan }, ..pinned },
        cold_ns: start.elapsed().as_nanos() as f64,
        dispatches: pass.dispatches(),
        scratch_bytes: pass.scratch_bytes(),
    };
    if let (Some((label, _)), Some(members)) = (&glue, &members) {
        kernel.label += &format!(" + {label}");
        kernel.dispatches += 1;
        kernel.scratch_bytes += members.buffer.size();
    }
    let record = Box::new(move |recorder: &mut wgpu::ComputePass<'_>| {
        pass.encode(recorder);
        if let Some((_, glue)) = &glue {
            glue.encode(recorder);
        }
    });
    Ok(OnDevice { attention, stopwatch, kernel, record, judged: None, outputs: Outputs::Out(out) })
}
