//! The whole backward pass on tensors in host memory.

use super::{BackwardBuffers, BackwardPlan};
use crate::attention::{DiffAttention, PlanOptions};
use crate::error::{Error, Result};
use crate::host::{HostGradInputs, HostGradients, HostInputs};
use crate::ops::forward::ForwardBuffers;
use crate::ops::host;
use crate::problem::{DType, Problem};
use crate::readback::read_buffer;

impl BackwardPlan {
    /// Uploads, runs the forward pass for what the backward reads, runs the backward pass, submits and reads back.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slice of the wrong length, [`Error::Limit`] for a tensor above the device's largest
    /// buffer, [`Error::OutOfMemory`], [`Error::DeviceLost`], [`Error::Readback`], and those of
    /// [`DiffAttention::plan_forward`] and [`BackwardPlan::bind`].
    pub async fn run(&self, inputs: &HostInputs<'_>, grads: &HostGradInputs<'_>) -> Result<HostGradients> {
        let sizes = inputs.validate(&self.problem)?;
        grads.validate(&self.problem)?;
        let mut problem = self.problem.clone();
        problem.options.lse = true;
        let options = PlanOptions { tile: None, ..self.options };
        let forward = self.attention.plan_forward(&problem, options).await?;

        let DiffAttention { device, queue, .. } = &self.attention;
        let Problem { dtype, options, .. } = problem;
        let size = dtype.size();
        let create = || {
            let q = host::upload(&self.attention, "q", dtype.encode(inputs.q))?;
            let k = host::upload(&self.attention, "k", dtype.encode(inputs.k))?;
            let v = host::upload(&self.attention, "v", dtype.encode(inputs.v))?;
            let lam = host::upload(&self.attention, "lam", DType::F32.encode(inputs.lam))?;
            let dout = host::upload(&self.attention, "dout", dtype.encode(grads.dout))?;
            let dlse =
                grads.dlse.map(|dlse| host::upload(&self.attention, "dlse", DType::F32.encode(dlse))).transpose()?;
            let out = host::output(&self.attention, "out", sizes.out * size)?;
            let lse = host::output(&self.attention, "lse", sizes.lse * 4)?;
            let a2 = options.a2.then(|| host::output(&self.attention, "a2", sizes.out * size)).transpose()?;
            let dq = host::output(&self.attention, "dq", sizes.q * size)?;
            let dk = host::output(&self.attention, "dk", sizes.k * size)?;
            let dv = host::output(&self.attention, "dv", sizes.v * size)?;
            let dlam = host::output(&self.attention, "dlam", sizes.lam * 4)?;
            let forward = forward.bind(&ForwardBuffers {
                q: (&q).into(),
                k: (&k).into(),
                v: (&v).into(),
                lam: (&lam).into(),
                out: (&out).into(),
                lse: Some((&lse).into()),
                a2: a2.as_ref().map(Into::into),
            })?;
            let backward = self.bind(&BackwardBuffers {
                q: (&q).into(),
                k: (&k).into(),
                v: (&v).into(),
                lam: (&lam).into(),
                out: (&out).into(),
                lse: (&lse).into(),
                a2: a2.as_ref().map(Into::into),
                dout: (&dout).into(),
                dlse: dlse.as_ref().map(Into::into),
                dq: (&dq).into(),
                dk: (&dk).into(),
                dv: (&dv).into(),
                dlam: (&dlam).into(),
                accumulate: false,
            })?;
            Ok((forward, backward, [dq, dk, dv, dlam]))
        };
        let (forward, backward, [dq, dk, dv, dlam]) =
            host::with_memory(device, "uploading the tensors", create).await?;
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            forward.encode(&mut pass);
            backward.encode(&mut pass);
        }
        queue.submit([encoder.finish()]);

        let read = async |buffer, dtype: DType, elements: u64| {
            let mut values = dtype.decode(&read_buffer(device, queue, buffer).await?);
            values.truncate(elements as usize);
            Ok::<_, Error>(values)
        };
        Ok(HostGradients {
            dq: read(&dq, dtype, sizes.q).await?,
            dk: read(&dk, dtype, sizes.k).await?,
            dv: read(&dv, dtype, sizes.v).await?,
            dlam: read(&dlam, DType::F32, sizes.lam).await?,
        })
    }
}
