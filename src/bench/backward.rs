//! Backward cases on the device. The forward pass that they read runs once, before.

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
use crate::ops::backward::BackwardBuffers;
use crate::ops::forward::ForwardBuffers;
use crate::ops::host;
use crate::problem::DType;
use crate::tile::Path;

pub(super) async fn prepare<'a>(
    attention: &'a DiffAttention,
    stopwatch: &'a Stopwatch,
    case: &Case,
    tensors: &Tensors,
    pinned: Pinned,
) -> Result<OnDevice<'a>> {
    let (problem, standard) = case.kernel_problem();
    let (sizes, own, dtype) = (Sizes::of(&case.problem())?, Sizes::of(&problem)?, problem.dtype);
    // `Sizes` counts two query heads for each output head.
    let (q_len, lse_len) = if standard { (own.q / 2, own.lse / 2) } else { (own.q, own.lse) };
    let unfused = case.form == Form::Unfused;
    let poisoned = |name, dtype, elements| Tensor::poisoned(attention, name, dtype, elements);
    let (q, k, v, lam, dout, members_dout) = host::with_memory(&attention.device, "creating the tensors", || {
        let own_q =
            if case.form == Form::Baseline { Some(tensors.first_queries(problem.shape.head_dim)) } else { None };
        // Standard attention binds a λ for each of its heads, and does not look at it.
        let lam = [&tensors.lam[..], if unfused { &tensors.lam } else { &[] }].concat();
        Ok((
            host::upload(attention, "q", dtype.encode(own_q.as_ref().unwrap_or(&tensors.q)))?,
            host::upload(attention, "k", dtype.encode(&tensors.k))?,
            host::upload(attention, "v", dtype.encode(&tensors.v))?,
            host::upload(attention, "lam", DType::F32.encode(&lam))?,
            host::upload(attention, "dout", dtype.encode(&tensors.dout))?,
            unfused.then(|| poisoned("dmembers", dtype, own.out)).transpose()?,
        ))
    })
    .await?;
    let (out, lse, a2, dq, dk, dv, dlam, unused_dlam) =
        host::with_memory(&attention.device, "creating the tensors", || {
            Ok((
                poisoned("out", dtype, own.out)?,
                poisoned("lse", DType::F32, lse_len)?,
                (!standard).then(|| poisoned("a2", dtype, own.out)).transpose()?,
                poisoned("dq", dtype, q_len)?,
                poisoned("dk", dtype, own.k)?,
                poisoned("dv", dtype, own.v)?,
                poisoned("dlam", DType::F32, sizes.lam)?,
                standard.then(|| poisoned("unused", DType::F32, own.lam)).transpose()?,
            ))
        })
        .await?;

    let start = Instant::now();
    let plan = match standard {
        true => attention.plan_standard_backward(&problem, pinned.plan).await?,
        false => attention.plan_backward(&problem, pinned.plan).await?,
    };
    let pass = plan.bind(&BackwardBuffers {
        q: (&q).into(),
        k: (&k).into(),
        v: (&v).into(),
        lam: (&lam).into(),
        out: (&out.buffer).into(),
        lse: (&lse.buffer).into(),
        a2: a2.as_ref().map(|a2| (&a2.buffer).into()),
        dout: members_dout.as_ref().map_or(&dout, |tensor| &tensor.buffer).into(),
        dlse: None,
        dq: (&dq.buffer).into(),
        dk: (&dk.buffer).into(),
        dv: (&dv.buffer).into(),
        dlam: (&unused_dlam.as_ref().unwrap_or(&dlam).buffer).into(),
        accumulate: false,
    })?;
    let glue = match &members_dout {
        None => None,
        Some(dmembers) => {
            let glue = Glue { backward: true, dtype, rows: sizes.lam as u32, value_dim: problem.shape.value_dim };
            let buffers = [&out.buffer, &lam, &dout, &dmembers.buffer, &dlam.buffer];
            Some((glue.label(), glue.bind(attention, &buffers).await?))
        }
    };
    let tiles = <[_; 2]>::try_from(plan.tiles()).ok();
    let mut kernel = Kernel {
        label: plan.labels().join(" + "),
        path: plan.path().name(),
        pinned: Pinned {
            plan: PlanOptions { path: Some(plan.path()), backward_tiles: tiles, ..pinned.plan },
            ..pinned
        },
        cold_ns: start.elapsed().as_nanos() as f64,
        dispatches: pass.dispatches(),
        scratch_bytes: pass.scratch_bytes(),
    };
    if let (Some((label, _)), Some(members)) = (&glue, &members_dout) {
        kernel.label = format!("{label} + {}", kernel.label);
        kernel.dispatches += 1;
        kernel.scratch_bytes += members.buffer.size();
    }

    let path = Some(plan.path()).filter(|path| *path == Path::Naive);
    let options = PlanOptions { path, ..PlanOptions::default() };
    let forward = match standard {
        true => attention.plan_standard_forward(&problem, options).await?,
        false => attention.plan_forward(&problem, options).await?,
    };
    let forward = forward.bind(&ForwardBuffers {
        q: (&q).into(),
        k: (&k).into(),
        v: (&v).into(),
        lam: (&lam).into(),
        out: (&out.buffer).into(),
        lse: Some((&lse.buffer).into()),
        a2: a2.as_ref().map(|a2| (&a2.buffer).into()),
    })?;
    stopwatch.lap(|recorder| forward.encode(recorder)).await?;

    let record = Box::new(move |recorder: &mut wgpu::ComputePass<'_>| {
        if let Some((_, glue)) = &glue {
            glue.encode(recorder);
        }
        pass.encode(recorder);
    });
    let outputs = match case.form {
        Form::Baseline => Outputs::StandardGradients { dq, dk, dv, head_dim: problem.shape.head_dim },
        _ => Outputs::Gradients { dq, dk, dv, dlam },
    };
    Ok(OnDevice { attention, stopwatch, kernel, record, judged: None, outputs })
}
