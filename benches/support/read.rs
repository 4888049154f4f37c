//! The bandwidth at which a device reads: a kernel that does nothing else, to hold others against.

use diffattn::{DiffAttention, wgpu};

const TEXT: &str = "
@group(0) @binding(0) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> result: array<u32>;

// Each workgroup reads one contiguous range.
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let per_group = arrayLength(&data) / 256u;
    var sum = vec4<u32>(0u);
    for (var i = lane; i < per_group; i += 256u) {
        sum ^= data[group.x * per_group + i];
    }
    result[group.x * 256u + lane] = sum.x ^ sum.y ^ sum.z ^ sum.w;
}";
const WORKGROUPS: u32 = 256;

/// Reads [`Read::BYTES`] once.
pub struct Read {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
}

impl Read {
    /// More than the caches of most devices hold.
    pub const BYTES: u64 = 128 << 20;

    pub fn new(attention: &DiffAttention) -> Self {
        let device = attention.device();
        let source = wgpu::ShaderSource::Wgsl(TEXT.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("read_peak"), source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("read_peak"),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: Default::default(),
            cache: None,
        });
        let buffer = |size: u64, usage| {
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
            device.create_buffer(&descriptor)
        };
        let data = buffer(Self::BYTES, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST);
        // Written once, so that its pages are there.
        let part = vec![0x5a; 4 << 20];
        (0..Self::BYTES / part.len() as u64)
            .for_each(|i| attention.queue().write_buffer(&data, i * part.len() as u64, &part));
        let result = buffer(u64::from(WORKGROUPS) * 256 * 4, wgpu::BufferUsages::STORAGE);
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("read_peak"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &[
                wgpu::BindGroupEntry { binding: 0, resource: data.as_entire_binding() },
                wgpu::BindGroupEntry { binding: 1, resource: result.as_entire_binding() },
            ],
        });
        Read { pipeline, bind_group }
    }

    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(WORKGROUPS, 1, 1);
    }
}
