//! Launching the small kernels of `shaders/layer/`.

use std::sync::Arc;

use wgpu::util::DeviceExt as _;

use crate::attention::DiffAttention;
use crate::error::Result;
use crate::ops::bind;
use crate::ops::cache_launch::Dispatch;
use crate::ops::launch::grid;
use crate::params::LayerParams;
use crate::pipeline::AnyVariant;
use crate::problem::DType;
use crate::shader::{LayerKernel, LayerVariant};

/// A compiled kernel.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    attention: DiffAttention,
    variant: LayerVariant,
    pipeline: Arc<wgpu::ComputePipeline>,
}

impl Kernel {
    pub(super) async fn new(attention: &DiffAttention, kernel: LayerKernel, dtype: DType) -> Result<Self> {
        let variant = LayerVariant::new(kernel, dtype, attention.caps());
        let pipeline = attention.pipelines.get(&attention.device, (AnyVariant::Layer(variant), false)).await?;
        Ok(Kernel { attention: attention.clone(), variant, pipeline })
    }

    /// Binds whole buffers in the shader's order; `params.work` says how much there is to do.
    pub(super) fn bind(&self, params: LayerParams, buffers: &[&wgpu::Buffer]) -> Dispatch {
        let label = self.variant.label();
        let workgroups = u64::from(params.work).div_ceil(self.variant.work_per_workgroup().into());
        let grid = grid(workgroups, self.attention.caps());
        let params = LayerParams { grid_width: grid[0], ..params };
        let device = &self.attention.device;
        let uniform = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(&label),
            contents: bytemuck::bytes_of(&params),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let mut entries = vec![bind::entry(0, &uniform, 0, size_of::<LayerParams>() as u64)];
        entries.extend((1..).zip(buffers).map(|(binding, buffer)| bind::entry(binding, buffer, 0, buffer.size())));
        let layout = &self.pipeline.get_bind_group_layout(0);
        let bind_group =
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(&label), layout, entries: &entries });
        Dispatch { pipeline: self.pipeline.clone(), bind_group, grid }
    }
}
