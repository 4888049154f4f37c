//! Kernels on the device, bound to their buffers, as something that can be judged and timed.

use super::stopwatch::{Lap, Stopwatch};
use super::subject::{Kernel, Results, Subject};
use crate::attention::DiffAttention;
use crate::error::Result;
use crate::host::{HostGradients, HostOutputs};
use crate::layer::{self, LayerPlan};
use crate::ops::host;
use crate::problem::DType;
use crate::readback::read_buffer;

/// Records one run.
pub(super) type Record<'a> = Box<dyn Fn(&mut wgpu::ComputePass<'_>) + 'a>;

/// Kernels bound to their buffers.
pub(super) struct OnDevice<'a> {
    pub attention: &'a DiffAttention,
    pub stopwatch: &'a Stopwatch,
    pub kernel: Kernel,
    pub record: Record<'a>,
    /// The run that is judged, where it is not the timed one.
    pub judged: Option<Record<'a>>,
    pub outputs: Outputs,
}

/// Where kernels on the device leave their results.
pub(super) enum Outputs {
    Out(Tensor),
    Y(Tensor),
    Products(Vec<Tensor>),
    OfModule {
        dx: Tensor,
        plan: Box<LayerPlan>,
    },
    Gradients {
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        dlam: Tensor,
    },
    /// Those of standard attention: `dq` lacks the second members.
    StandardGradients {
        dq: Tensor,
        dk: Tensor,
        dv: Tensor,
        head_dim: u32,
    },
}

/// A tensor on the device.
pub(super) struct Tensor {
    pub buffer: wgpu::Buffer,
    pub dtype: DType,
    pub elements: u64,
}

impl Tensor {
    /// Room for results, full of NaN, which every storage type writes as ones.
    ///
    /// # Errors
    /// [`Error::Limit`] above the device's largest buffer.
    pub(super) fn poisoned(attention: &DiffAttention, name: &'static str, dtype: DType, elements: u64) -> Result<Self> {
        let usage = wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = host::create(attention, name, elements * dtype.size(), usage)?;
        attention.queue.write_buffer(&buffer, 0, &vec![0xff; buffer.size() as usize]);
        Ok(Tensor { buffer, dtype, elements })
    }

    async fn read(&self, attention: &DiffAttention) -> Result<Vec<f32>> {
        let bytes = read_buffer(&attention.device, &attention.queue, &self.buffer).await?;
        let mut values = self.dtype.decode(&bytes);
        values.truncate(self.elements as usize);
        Ok(values)
    }
}

impl Subject for OnDevice<'_> {
    fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    fn least_ns(&self) -> f64 {
        self.stopwatch.least_ns()
    }

    async fn results(&self) -> Result<(Lap, Results)> {
        let record = self.judged.as_ref().unwrap_or(&self.record);
        let lap = self.stopwatch.lap(|pass| record(pass)).await?;
        Ok((lap, self.outputs.read(self.attention).await?))
    }

    async fn sample(&self, runs: u32) -> Result<Lap> {
        self.stopwatch.lap(|pass| (0..runs).for_each(|_| (self.record)(pass))).await
    }
}

impl Outputs {
    async fn read(&self, attention: &DiffAttention) -> Result<Results> {
        let read = async |tensor: &Tensor| tensor.read(attention).await;
        Ok(match self {
            Outputs::Y(y) => Results::Y(read(y).await?),
            Outputs::Products(tensors) => {
                let mut products = Vec::new();
                for tensor in tensors {
                    products.push(read(tensor).await?);
                }
                Results::Products(products)
            }
            Outputs::OfModule { dx, plan } => {
                let weights = plan.layer().read_gradients(plan).await?;
                Results::OfModule(layer::HostGradients { dx: read(dx).await?, weights })
            }
            Outputs::Out(out) => Results::Outputs(HostOutputs { out: read(out).await?, ..HostOutputs::default() }),
            Outputs::Gradients { dq, dk, dv, dlam } => Results::Gradients(HostGradients {
                dq: read(dq).await?,
                dk: read(dk).await?,
                dv: read(dv).await?,
                dlam: read(dlam).await?,
            }),
            Outputs::StandardGradients { dq, dk, dv, head_dim } => {
                let first = read(dq).await?;
                let dim = *head_dim as usize;
                // The second members have no part in the result: the gradients by them and by the gate are zero.
                let zeros = vec![0.0; dim];
                let dq = first.chunks_exact(dim).flat_map(|row| [row, &zeros]).flatten().copied().collect();
                let dlam = vec![0.0; first.len() / dim];
                Results::Gradients(HostGradients { dq, dk: read(dk).await?, dv: read(dv).await?, dlam })
            }
        })
    }
}
