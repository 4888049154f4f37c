//! Decode steps of every adapter beside the adapter's own reading speed, in one run.
//!
//! `cargo bench --bench decode [-- FILTER]`. The throughput column counts the bytes of K and V that a step reads (each
//! once); the adapter's limits are printed first. Names: sequences, cached tokens, output heads over KV heads, cache
//! type, path. Eight heads over eight KV heads are 16 query heads, two for each KV head: the step of an ordinary 16-head
//! attention through the same kernels, which compute two rows there and four for 16 heads. Wall-clock time of one
//! submission each. The long caches run on the path that the planner takes; with eight sequences they need 1.1 GB.

mod support {
    pub mod gpu;
}

use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime};
use diffattn::bench::Limits;
use diffattn::{
    AppendProblem, DType, DecodeBuffers, DecodeOptions, DecodePass, DecodeProblem, DiffAttention, KvCache, KvConfig,
    KvDType, Options, Path, wgpu,
};
use std::cell::LazyCell;
use std::time::Duration;
use support::gpu::{random, submit};

/// One step: `batch` sequences of `len` tokens, f16, kv_heads 8.
#[derive(Clone, Copy)]
struct Case {
    batch: u32,
    len: u32,
    dim: u32,
    dtype: KvDType,
}

impl Case {
    fn config(self) -> KvConfig {
        let Case { batch, len, dim, dtype } = self;
        let (kv_heads, head_dim, value_dim) = (8, dim, dim);
        KvConfig { sequences: batch, capacity: len, kv_heads, head_dim, value_dim, dtype, pages: None }
    }

    /// A cache full of random tokens.
    fn cache(self, attention: &DiffAttention) -> KvCache {
        let config = self.config();
        let chunk = self.len.min(1024);
        let mut cache = attention.kv_cache_blocking(&config).expect("cache");
        let problem = AppendProblem { cache: config, batch: 1, q_len: chunk, dtype: DType::F16 };
        let new = random(attention, DType::F16, (chunk * 8 * self.dim).into());
        let plan = attention.plan_append_blocking(&problem).expect("append");
        let append = plan.bind(&cache, (&new).into(), (&new).into()).expect("bind");
        let ids: Vec<_> = (0..self.batch).map(|_| cache.create().expect("room")).collect();
        for &id in &ids {
            for _ in 0..self.len / chunk {
                let mut encoder = attention.device().create_command_encoder(&Default::default());
                cache.advance(&mut encoder, &[(id, chunk)]).expect("room");
                append.encode(&mut encoder.begin_compute_pass(&Default::default()), &cache).expect("a step");
                attention.queue().submit([encoder.finish()]);
            }
        }
        // A step of one new token each, which is there already.
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        ids.iter().for_each(|id| cache.truncate(*id, self.len - 1).expect("shorter"));
        cache.advance(&mut encoder, &ids.iter().map(|id| (*id, 1)).collect::<Vec<_>>()).expect("room");
        cache
    }

    fn pass(self, attention: &DiffAttention, cache: &KvCache, heads: u32, path: Path) -> DecodePass {
        let mut options = Options::default();
        options.causal = true;
        let Case { batch, dim, .. } = self;
        let problem = DecodeProblem { cache: self.config(), batch, q_len: 1, heads, dtype: DType::F16, options };
        let mut how = DecodeOptions::default();
        how.path = Some(path);
        let [q, lam, out] =
            [2 * heads * dim, 2 * heads, heads * dim].map(|len| random(attention, DType::F16, (batch * len).into()));
        let (q, lam, out) = ((&q).into(), (&lam).into(), (&out).into());
        let plan = attention.plan_decode_blocking(&problem, how).expect("plan");
        plan.bind(cache, &DecodeBuffers { q, lam, out, lse: None, loads: None }).expect("bind")
    }

    fn bench(self, group: &mut BenchmarkGroup<'_, WallTime>, attention: &DiffAttention, paths: &[Path]) {
        let Case { batch, len, dim, dtype } = self;
        let cache = LazyCell::new(|| self.cache(attention));
        group.throughput(Throughput::Bytes(u64::from(batch * len) * self.config().bytes_per_token()));
        for heads in [16, 8] {
            for &path in paths {
                let pass = LazyCell::new(|| self.pass(attention, &cache, heads, path));
                let name = format!("b{batch}.n{len}.d{dim}.h{heads}over8.{dtype:?}.{}", path.name()).to_lowercase();
                group.bench_function(name, |b| {
                    let (pass, cache) = (&*pass, &*cache);
                    b.iter(|| submit(attention, |recorder| pass.encode(recorder, cache).expect("the planned step")));
                });
            }
        }
    }
}

fn decode(c: &mut Criterion) {
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
        group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
        let subgroups = attention.caps().subgroups.is_some();
        let paths = if subgroups { &[Path::Subgroup, Path::Portable][..] } else { &[Path::Portable] };
        for dim in [64, 128] {
            for dtype in [KvDType::F16, KvDType::Int8] {
                Case { batch: 1, len: 4096, dim, dtype }.bench(&mut group, &attention, paths);
            }
        }
        for batch in [1, 8] {
            for dtype in [KvDType::F16, KvDType::Int8] {
                Case { batch, len: 32768, dim: 128, dtype }.bench(&mut group, &attention, &paths[..1]); // the planner's
            }
        }
        group.finish();
    }
}

criterion_group!(benches, decode);
criterion_main!(benches);
