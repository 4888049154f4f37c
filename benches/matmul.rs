//! The matrix products of a linear layer at 1024³, beside the adapter's own limits, in one run.
//!
//! `cargo bench --bench matmul [-- FILTER]`. The throughput column counts floating-point operations, so `Gelem/s` reads
//! GFLOP/s. Wall-clock time of one submission each.

mod support {
    pub mod gpu;
}

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use diffattn::bench::Limits;
use diffattn::layer::{Form, Matmul, MatmulBuffers, MatmulOptions, Matrix};
use diffattn::{DType, DiffAttention, wgpu};
use support::gpu::{random, submit};

const SIZE: u32 = 1024;

fn product(group: &mut BenchmarkGroup<'_, WallTime>, attention: &DiffAttention, form: Form, dtype: DType) {
    let buffers = [(); 3].map(|()| random(attention, dtype, u64::from(SIZE * SIZE)));
    let [a, b, c] = [0, 1, 2].map(|i: usize| Matrix { buffer: &buffers[i], offset: 0, stride: SIZE });
    let problem = Matmul::new(form, [SIZE; 3], dtype);
    let plan = attention.plan_matmul_blocking(&problem, MatmulOptions::default()).expect("plan");
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
        let attention = DiffAttention::with_adapter(&adapter, &device, &queue);
        println!("{} {} | {}", info.name, info.driver_info, attention.caps());
        println!("{:?}", pollster::block_on(Limits::measure(&attention)).expect("limits"));
        let mut group = c.benchmark_group(info.name.split_whitespace().next().unwrap_or("adapter").to_lowercase());
        group.sample_size(10);
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
