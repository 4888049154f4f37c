//! What the un-fused form needs around standard attention: the subtraction, and its gradient.

use std::fmt::Write as _;

use crate::attention::DiffAttention;
use crate::error::Result;
use crate::ops::bind;
use crate::ops::launch;
use crate::pipeline;
use crate::problem::DType;
use crate::shader;

/// A kernel beside attention: everything that its text depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Glue {
    /// Whether it is the gradient.
    pub backward: bool,
    /// Storage type.
    pub dtype: DType,
    /// Output rows: tokens × heads.
    pub rows: u32,
    /// Elements of a row.
    pub value_dim: u32,
}

/// A kernel bound to its buffers.
#[derive(Debug)]
pub(super) struct GluePass {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    grid: [u32; 2],
}

impl Glue {
    /// Its name in labels and errors.
    pub fn label(self) -> String {
        let name = if self.backward { "split" } else { "subtract" };
        format!("diffattn.bench.{name}.{}.d{}", self.dtype.name(), self.value_dim)
    }

    /// The complete WGSL text. It needs no optional feature.
    pub fn source(self) -> String {
        let mut text = format!("// {}\n", self.label());
        for (name, value) in [("ROWS", self.rows), ("VALUE_DIM", self.value_dim)] {
            let _ = writeln!(text, "const {name}: u32 = {value}u;");
        }
        let body = if self.backward {
            include_str!("../../shaders/bench/split.wgsl")
        } else {
            include_str!("../../shaders/bench/subtract.wgsl")
        };
        let elements: &[&str] = match self.dtype {
            DType::F32 => &["elem/f32.wgsl"],
            DType::F16 => &["elem/f16.wgsl", "elem/unpack_f16_bits.wgsl"],
            DType::Bf16 => &["elem/bf16.wgsl"],
        };
        elements.iter().fold(text + body, |text, name| text + "\n" + shader::file(name))
    }

    /// The numbers of its bindings.
    pub fn bindings(self) -> Vec<u32> {
        if self.backward { vec![0, 1, 2, 3, 4] } else { vec![0, 1, 2] }
    }

    /// Compiles it and binds the buffers, in the order of the shader's bindings.
    pub(super) async fn bind(self, attention: &DiffAttention, buffers: &[&wgpu::Buffer]) -> Result<GluePass> {
        let device = &attention.device;
        let pipeline = pipeline::compile(device, &self.label(), self.source(), false).await?;
        let entries: Vec<_> =
            (0..).zip(buffers).map(|(binding, buffer)| bind::entry(binding, buffer, 0, buffer.size())).collect();
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("diffattn.bench.glue"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let invocations = u64::from(self.rows) * if self.backward { 1 } else { u64::from(self.value_dim / 8) };
        let grid = launch::grid(invocations.div_ceil(64), attention.caps());
        Ok(GluePass { pipeline, bind_group, grid })
    }
}

impl GluePass {
    pub(super) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}
