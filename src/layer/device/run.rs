//! The whole module on tensors in host memory.

use super::{LayerPlan, MultiheadDiffAttention};
use crate::error::Result;
use crate::layer::{HostGradients, HostTokens, Weights};
use crate::ops::host;
use crate::problem::DType;
use crate::readback::read_buffer;

impl MultiheadDiffAttention {
    /// Plans, uploads, runs, submits and reads back: y, batch × seq_len × d_model, widened to f32.
    ///
    /// # Errors
    /// Those of [`HostTokens::validate`], [`MultiheadDiffAttention::plan`] and [`LayerPlan::bind_forward`];
    /// [`crate::Error::DeviceLost`], [`crate::Error::Readback`].
    pub async fn forward(&self, tokens: &HostTokens<'_>) -> Result<Vec<f32>> {
        tokens.validate(&self.config)?;
        let plan = self.plan(tokens.batch, tokens.seq_len, false).await?;
        let [x, y] = self.buffers(tokens)?;
        let pass = plan.bind_forward(&x, &y)?;
        let mut encoder = self.attention.device.create_command_encoder(&Default::default());
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
        self.attention.queue.submit([encoder.finish()]);
        self.read(&y, self.dtype, 0, tokens.x.len()).await
    }

    /// Plans, uploads, runs forward and backward, submits and reads back: y, and the gradients of Σ y·dy.
    ///
    /// # Errors
    /// As [`MultiheadDiffAttention::forward`].
    pub async fn backward(&self, tokens: &HostTokens<'_>, dy: &[f32]) -> Result<(Vec<f32>, HostGradients)> {
        tokens.validate(&self.config)?;
        tokens.check("dy", dy, &self.config)?;
        let plan = self.plan(tokens.batch, tokens.seq_len, true).await?;
        let ([x, y], [dy, dx]) = (self.buffers(tokens)?, self.buffers(&HostTokens { x: dy, ..*tokens })?);
        let (forward, backward) = (plan.bind_forward(&x, &y)?, plan.bind_backward(&x, &dy, &dx)?);
        let mut encoder = self.attention.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            forward.encode(&mut pass);
            backward.encode(&mut pass);
        }
        self.attention.queue.submit([encoder.finish()]);
        let y = self.read(&y, self.dtype, 0, tokens.x.len()).await?;
        let dx = self.read(&dx, self.dtype, 0, tokens.x.len()).await?;
        Ok((y, HostGradients { dx, weights: self.read_gradients(&plan).await? }))
    }

    /// [`MultiheadDiffAttention::forward`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn forward_blocking(&self, tokens: &HostTokens<'_>) -> Result<Vec<f32>> {
        pollster::block_on(self.forward(tokens))
    }

    /// [`MultiheadDiffAttention::backward`], waiting for the result. Not in a browser, which must not block.
    ///
    /// # Errors
    /// As there.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn backward_blocking(&self, tokens: &HostTokens<'_>, dy: &[f32]) -> Result<(Vec<f32>, HostGradients)> {
        pollster::block_on(self.backward(tokens, dy))
    }

    /// What goes in, and room for as much.
    fn buffers(&self, tokens: &HostTokens<'_>) -> Result<[wgpu::Buffer; 2]> {
        let input = host::upload(&self.attention, "x", self.dtype.encode(tokens.x))?;
        let output = host::output(&self.attention, "y", tokens.x.len() as u64 * self.dtype.size())?;
        Ok([input, output])
    }

    async fn read(&self, buffer: &wgpu::Buffer, dtype: DType, first: usize, len: usize) -> Result<Vec<f32>> {
        let values = dtype.decode(&read_buffer(&self.attention.device, &self.attention.queue, buffer).await?);
        Ok(values[first..first + len].to_vec())
    }

    /// Of a plan for training that has run.
    pub(crate) async fn read_gradients(&self, plan: &LayerPlan) -> Result<Weights> {
        let mut values = Vec::new();
        for parameter in self.config.parameters() {
            let slice = plan.gradient(parameter.name).expect("planned for training");
            values.push(self.read(slice.buffer, DType::F32, slice.offset as usize / 4, parameter.len()).await?);
        }
        let mut values = values.into_iter();
        Weights::from_fn(&self.config, |_| values.next().unwrap_or_default())
    }
}
