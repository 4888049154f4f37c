//! The forward kernels of every adapter beside the adapter's own multiply-add peak, in one run.
//!
//! `cargo bench --bench forward [-- FILTER]`. The throughput column counts floating-point operations (causal: half), so
//! `Gelem/s` reads GFLOP/s, for the kernels and for `fma_peak`, a loop over registers only. Wall-clock time of one
//! submission each; meant for software drivers and for before-and-after comparisons on one machine.

mod support {
    pub mod gpu;
}

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use diffattn::{
    DType, DiffAttention, ForwardBuffers, Options, Path, PlanOptions, Problem, Shape, Sizes, TensorSlice, wgpu,
};
use support::gpu::{random, submit};

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

fn peak(group: &mut BenchmarkGroup<'_, WallTime>, attention: &DiffAttention) {
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

/// 1024 × 1024 causal, heads 8, kv_heads 4.
fn kernels(group: &mut BenchmarkGroup<'_, WallTime>, attention: &DiffAttention, dim: u32) {
    let shape = Shape { batch: 1, q_len: 1024, kv_len: 1024, heads: 8, kv_heads: 4, head_dim: dim, value_dim: dim };
    let mut options = Options::default();
    options.causal = true;
    let problem = Problem::new(shape, DType::F32, options);
    let sizes = Sizes::of(&problem).expect("valid sizes");
    let buffer = |len| random(attention, problem.dtype, len);
    let [q, k, v, lam, out] = [sizes.q, sizes.k, sizes.v, sizes.lam, sizes.out].map(buffer);
    let [q, k, v, lam, out] = [&q, &k, &v, &lam, &out].map(TensorSlice::new);
    for path in Path::ALL {
        let plan = match attention.plan_forward_blocking(&problem, PlanOptions::on(path)) {
            Err(error) if error.is_unsupported() => {
                println!("not measured: {error}");
                continue;
            }
            plan => plan.expect("plan"),
        };
        let pass = plan.bind(&ForwardBuffers { q, k, v, lam, out, lse: None, a2: None }).expect("bind");
        group.throughput(Throughput::Elements(problem.flops() as u64));
        group.bench_function(plan.label(), |b| b.iter(|| submit(attention, |recorder| pass.encode(recorder))));
    }
}

fn forward(c: &mut Criterion) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    if adapters.is_empty() {
        println!("no adapter: nothing to measure");
    }
    for adapter in adapters {
        let info = adapter.get_info();
        let (device, queue) = pollster::block_on(diffattn::request_device(&adapter)).expect("device");
        let attention = DiffAttention::new(&device, &queue);
        println!("{} {} | {}", info.name, info.driver_info, attention.caps());
        let mut group = c.benchmark_group(info.name.split_whitespace().next().unwrap_or("adapter").to_lowercase());
        group.sample_size(10);
        peak(&mut group, &attention);
        for dim in [64, 128] {
            kernels(&mut group, &attention, dim);
        }
        group.finish();
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
