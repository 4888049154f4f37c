//! The forward kernels of every adapter, beside the adapter's own limits, in one run.
//!
//! `cargo bench --bench forward [-- FILTER]`. The throughput column counts floating-point operations (causal: half), so
//! `Gelem/s` reads GFLOP/s. Wall-clock time of one submission each; meant for software drivers and for before-and-after
//! comparisons on one machine.

mod support {
    pub mod gpu;
}

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use diffattn::bench::Limits;
use diffattn::{
    DType, DiffAttention, ForwardBuffers, Options, Path, PlanOptions, Problem, Shape, Sizes, TensorSlice, wgpu,
};
use support::gpu::{random, submit};

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
        println!("{:?}", pollster::block_on(Limits::measure(&attention)).expect("limits"));
        let mut group = c.benchmark_group(info.name.split_whitespace().next().unwrap_or("adapter").to_lowercase());
        group.sample_size(10);
        for dim in [64, 128] {
            kernels(&mut group, &attention, dim);
        }
        group.finish();
    }
}

criterion_group!(benches, forward);
criterion_main!(benches);
