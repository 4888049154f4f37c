//! The rate at which a device multiplies and adds in registers, to hold kernels against; and how all are submitted.

use criterion::{BenchmarkGroup, Throughput, measurement::WallTime};
use diffattn::{DiffAttention, wgpu};

const PEAK: &str = "
@group(0) @binding(0) var<storage, read_write> result: array<vec4<f32>>;

// Eight independent chains of 1024 multiply-adds on four elements.
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    let x = vec4<f32>(f32(id.x) * 1e-9 + 0.999);
    let y = vec4<f32>(1e-7);
    var a = x; var b = x * 1.1; var c = x * 1.2; var d = x * 1.3;
    var e = x * 1.4; var f = x * 1.5; var g = x * 1.6; var h = x * 1.7;
    for (var i = 0u; i < 1024u; i++) {
        a = fma(a, x, y); b = fma(b, x, y); c = fma(c, x, y); d = fma(d, x, y);
        e = fma(e, x, y); f = fma(f, x, y); g = fma(g, x, y); h = fma(h, x, y);
    }
    result[id.x] = a + b + c + d + e + f + g + h;
}";
const PEAK_WORKGROUPS: u32 = 512;
const PEAK_FLOPS: u64 = PEAK_WORKGROUPS as u64 * 64 * 8 * 1024 * 4 * 2;

/// Submits one pass and waits for it.
pub fn submit(attention: &DiffAttention, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) {
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    record(&mut encoder.begin_compute_pass(&Default::default()));
    attention.queue().submit([encoder.finish()]);
    attention.device().poll(wgpu::PollType::wait_indefinitely()).expect("device");
}

/// `fma_peak`: a loop over registers only.
pub fn peak(group: &mut BenchmarkGroup<'_, WallTime>, attention: &DiffAttention) {
    let device = attention.device();
    let source = wgpu::ShaderSource::Wgsl(PEAK.into());
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: Some("fma_peak"), source });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("fma_peak"),
        layout: None,
        module: &module,
        entry_point: None,
        compilation_options: Default::default(),
        cache: None,
    });
    let buffer = device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("result"),
        size: u64::from(PEAK_WORKGROUPS) * 64 * 16,
        usage: wgpu::BufferUsages::STORAGE,
        mapped_at_creation: false,
    });
    let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("fma_peak"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
    });
    group.throughput(Throughput::Elements(PEAK_FLOPS));
    group.bench_function("fma_peak", |b| {
        b.iter(|| {
            submit(attention, |pass| {
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, &bind_group, &[]);
                pass.dispatch_workgroups(PEAK_WORKGROUPS, 1, 1);
            });
        });
    });
}
