//! The attention modules of every kind on every adapter: forward, and forward with backward.
//!
//! `cargo bench --bench layer [-- FILTER]`. The throughput column of the forward counts floating-point operations
//! (causal: half), so `Gelem/s` reads GFLOP/s. Wall-clock time of one submission each. The kinds have the same d_model
//! and the same K and V: V1 has half the heads, of twice the width.

mod support {
    pub mod gpu;
}

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use diffattn::bench::Limits;
use diffattn::layer::{Config, Kind, MultiheadDiffAttention, Weights};
use diffattn::{DType, DiffAttention, wgpu};
use support::gpu::{random, submit};

const SEQ_LEN: u32 = 512;

fn module(group: &mut BenchmarkGroup<'_, WallTime>, attention: &DiffAttention, kind: Kind) {
    let mut rng = fastrand::Rng::with_seed(0);
    let [heads, kv_heads] = if kind == Kind::DiffV1 { [4, 2] } else { [8, 4] };
    let config = Config::new(kind, 512, heads, kv_heads, 64);
    let weights = Weights::random(&config, || rng.f32()).expect("weights");
    let layer = MultiheadDiffAttention::new(attention, &weights, DType::F32).expect("module");
    let tokens = u64::from(SEQ_LEN * config.d_model);
    let [x, y, dy, dx] = [(); 4].map(|()| random(attention, DType::F32, tokens));
    let plan = layer.plan_blocking(1, SEQ_LEN, false).expect("plan");
    let forward = plan.bind_forward(&x, &y).expect("bind");
    group.throughput(Throughput::Elements(config.flops(1, SEQ_LEN) as u64));
    group.bench_function(format!("{}.forward", kind.name()), |b| {
        b.iter(|| submit(attention, |recorder| forward.encode(recorder)));
    });
    let plan = layer.plan_blocking(1, SEQ_LEN, true).expect("plan");
    let passes = [plan.bind_forward(&x, &y).expect("bind"), plan.bind_backward(&x, &dy, &dx).expect("bind")];
    group.throughput(Throughput::Elements(3 * config.flops(1, SEQ_LEN) as u64));
    group.bench_function(format!("{}.train", kind.name()), |b| {
        b.iter(|| submit(attention, |recorder| passes.iter().for_each(|pass| pass.encode(recorder))));
    });
}

fn layer(c: &mut Criterion) {
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
        let name = info.name.split_whitespace().next().unwrap_or("adapter").to_lowercase();
        let mut group = c.benchmark_group(format!("{name}.layer"));
        group.sample_size(10);
        for kind in Kind::ALL {
            module(&mut group, &attention, kind);
        }
        group.finish();
    }
}

criterion_group!(benches, layer);
criterion_main!(benches);
