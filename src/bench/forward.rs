//! Forward cases on the device.

use web_time::Instant;

use super::stopwatch::Stopwatch;
use super::subject::{Kernel, OnDevice, Outputs, Tensor};
use super::suite::{Case, Form};
use super::tensors::Tensors;
use crate::attention::{DiffAttention, PlanOptions};
use crate::error::{Error, Result};
use crate::host::Sizes;
use crate::ops::forward::ForwardBuffers;
use crate::ops::host;
use crate::problem::DType;

pub(super) async fn prepare<'a>(
    attention: &'a DiffAttention,
    stopwatch: &'a Stopwatch,
    case: &Case,
    tensors: &Tensors,
    options: PlanOptions,
) -> Result<OnDevice<'a>> {
    if case.form != Form::Fused {
        let what = format!("the {} form of forward", case.form.name());
        return Err(Error::Unsupported { what, hint: "choose the fused form".into() });
    }
    let problem = case.problem();
    let sizes = Sizes::of(&problem)?;
    let dtype = problem.dtype;
    let scope = attention.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let created = (|| {
        Ok::<_, Error>((
            host::upload(attention, "q", dtype.encode(&tensors.q))?,
            host::upload(attention, "k", dtype.encode(&tensors.k))?,
            host::upload(attention, "v", dtype.encode(&tensors.v))?,
            host::upload(attention, "lam", DType::F32.encode(&tensors.lam))?,
            Tensor::poisoned(attention, "out", dtype, sizes.out)?,
        ))
    })();
    if scope.pop().await.is_some() {
        return Err(Error::OutOfMemory { during: "uploading the tensors".into() });
    }
    let (q, k, v, lam, out) = created?;

    let start = Instant::now();
    let plan = attention.plan_forward(&problem, options).await?;
    let buffers = ForwardBuffers {
        q: (&q).into(),
        k: (&k).into(),
        v: (&v).into(),
        lam: (&lam).into(),
        out: (&out.buffer).into(),
        lse: None,
        a2: None,
    };
    let pass = plan.bind(&buffers)?;
    let kernel = Kernel {
        label: plan.label(),
        path: plan.path().name(),
        pinned: PlanOptions { path: Some(plan.path()), tile: plan.tile(), ..options },
        cold_ns: start.elapsed().as_nanos() as f64,
        dispatches: pass.dispatches(),
        scratch_bytes: pass.scratch_bytes(),
    };
    let record = Box::new(move |recorder: &mut wgpu::ComputePass<'_>| pass.encode(recorder));
    Ok(OnDevice { attention, stopwatch, kernel, record, outputs: Outputs::Out(out) })
}
