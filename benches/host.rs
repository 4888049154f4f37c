//! The host's part of a call: planning a problem that was planned before, and encoding what was bound before.
//!
//! `cargo bench --bench host`. Allocations on the calling thread are counted and printed before the times; those of
//! encoding are wgpu's own, as the test `allocations::encoding` shows. On the first adapter.

#[path = "support/passes.rs"]
mod passes;

use allocation_counter::measure;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use diffattn::{DecodeOptions, DiffAttention, PlanOptions, wgpu};
use passes::Passes;
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Encodings that share a command encoder, whose own cost is not measured.
const ENCODINGS: u64 = 64;

fn plan(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut work: impl FnMut()) {
    work(); // from now on warm
    println!("{name}: {} allocations", measure(&mut work).count_total);
    group.bench_function(name, |b| b.iter(&mut work));
}

fn encode(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    attention: &DiffAttention,
    work: impl Fn(&mut wgpu::ComputePass<'_>),
) {
    let timed = |count: u64| {
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        let mut pass = encoder.begin_compute_pass(&Default::default());
        let start = Instant::now();
        (0..count).for_each(|_| work(&mut pass));
        start.elapsed()
    };
    let allocations = measure(|| {
        black_box(timed(ENCODINGS));
    });
    println!("{name}: {} allocations in {ENCODINGS} encodings", allocations.count_total);
    group.bench_function(name, |b| {
        b.iter_custom(|iterations| {
            let rounds = iterations.div_ceil(ENCODINGS);
            let time: Duration = (0..rounds).map(|_| timed(ENCODINGS)).sum();
            time.mul_f64(iterations as f64 / (rounds * ENCODINGS) as f64)
        });
    });
}

fn host(c: &mut Criterion) {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let Ok(adapter) = pollster::block_on(instance.request_adapter(&Default::default())) else {
        println!("no adapter: nothing to measure");
        return;
    };
    let (device, queue) = pollster::block_on(diffattn::request_device(&adapter)).expect("device");
    let attention = &DiffAttention::new(&device, &queue);
    println!("{}", adapter.get_info().name);
    let mut group = c.benchmark_group("plan");
    let (problem, step, append) = (passes::problem(), passes::step(), passes::append());
    plan(&mut group, "forward", || {
        black_box(attention.plan_forward_blocking(&problem, PlanOptions::default()).expect("plan"));
    });
    plan(&mut group, "backward", || {
        black_box(attention.plan_backward_blocking(&problem, PlanOptions::default()).expect("plan"));
    });
    plan(&mut group, "decode", || {
        black_box(attention.plan_decode_blocking(&step, DecodeOptions::default()).expect("plan"));
    });
    plan(&mut group, "append", || {
        black_box(attention.plan_append_blocking(&append).expect("plan"));
    });
    group.finish();

    let Passes { forward, backward, decode, cache } = Passes::new(attention).expect("passes");
    let mut group = c.benchmark_group("encode");
    encode(&mut group, "forward", attention, |pass| forward.encode(pass));
    encode(&mut group, "backward", attention, |pass| backward.encode(pass));
    encode(&mut group, "decode", attention, |pass| decode.encode(pass, &cache).expect("the planned step"));
    group.finish();
}

criterion_group!(benches, host);
criterion_main!(benches);
