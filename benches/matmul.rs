//! The matrix products of a linear layer at 1024³, beside the adapter's own multiply-add peak, in one run.
//!
//! `cargo bench --bench matmul [-- FILTER]`. The throughput column counts floating-point operations, so `Gelem/s` reads
//! GFLOP/s, for the products and for `fma_peak`, a loop over registers only. Wall-clock time of one submission each.

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use diffattn::layer::{Form, Matmul, MatmulBuffers, Matrix};
use diffattn::{DType, DiffAttention, wgpu};
use wgpu::util::DeviceExt as _;

#[path = "support/peak.rs"]
mod support;

use support::{peak, submit};

const SIZE: u32 = 1024;

fn product(group: &mut BenchmarkGroup<'_, WallTime>, attention: &DiffAttention, form: Form, dtype: DType) {
    let mut rng = fastrand::Rng::with_seed(0);
    let buffers = [(); 3].map(|()| {
        let values: Vec<f32> = (0..SIZE * SIZE).map(|_| rng.f32() - 0.5).collect();
        let (contents, usage) = (dtype.encode(&values), wgpu::BufferUsages::STORAGE);
        let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents: &contents, usage };
        attention.device().create_buffer_init(&descriptor)
    });
    let [a, b, c] = [0, 1, 2].map(|i: usize| Matrix { buffer: &buffers[i], offset: 0, stride: SIZE });
    let problem = Matmul::new(form, [SIZE; 3], dtype);
    let plan = attention.plan_matmul_blocking(&problem, None).expect("plan");
    let pass = plan.bind(&MatmulBuffers { a, b, c, rotary: None, bias: None, add: false }).expect("bind");
    group.throughput(Throughput::Elements(problem.flops() as u64));
    group.bench_function(plan.label(), |b| b.iter(|| submit(attention, |recorder| pass.encode(recorder))));
}

fn matmul(c: &mut Criterion) {
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
        for form in Form::ALL {
            product(&mut group, &attention, form, DType::F32);
        }
        product(&mut group, &attention, Form::Forward, DType::F16);
        product(&mut group, &attention, Form::Forward, DType::Bf16);
        group.finish();
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
