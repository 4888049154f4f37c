//! Generation: a prompt is attended to at once by the forward pass on the cache, then token after token by decode.
//!
//!     cargo run --release --example decode [PROMPT_TOKENS [NEW_TOKENS]]
//!
//! Queries, keys and values are random here; a model would compute them. Prints tokens per second, and what share of the
//! bandwidth that the device reads with (measured in the same run) the cache is read with.

use diffattn::bench::Limits;
use diffattn::{
    AppendProblem, DType, DecodeBuffers, DecodeOptions, DecodeProblem, DiffAttention, ForwardBuffers, KvConfig,
    Options, PlanOptions, Problem, Shape, wgpu,
};
use std::time::{Duration, Instant};
use wgpu::util::DeviceExt as _;

const DTYPE: DType = DType::F16;
const HEADS: u32 = 16;
const KV_HEADS: u32 = 8;
const DIM: u32 = 128;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse());
    let prompt = arguments.next().transpose()?.unwrap_or(512);
    let new_tokens: u32 = arguments.next().transpose()?.unwrap_or(64);
    if prompt == 0 || new_tokens == 0 {
        return Err("both numbers must be above 0".into());
    }

    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(diffattn::request_device(&adapter))?;
    let attention = DiffAttention::new(&device, &queue);
    println!("{}: heads {HEADS}, kv_heads {KV_HEADS}, head_dim {DIM}, {}", adapter.get_info().name, DTYPE.name());

    let mut options = Options::default();
    options.causal = true;
    let config = KvConfig {
        sequences: 1,
        capacity: prompt + new_tokens,
        kv_heads: KV_HEADS,
        head_dim: DIM,
        value_dim: DIM,
        dtype: DTYPE.into(),
        pages: None,
    };
    let mut cache = attention.kv_cache_blocking(&config)?;
    let sequence = cache.create()?;

    // The prompt: append its keys and values, and attend to them where they lie.
    let [q, k, v, lam, out] = Tensors::new(&attention, prompt).buffers;
    let append = AppendProblem { cache: config, batch: 1, q_len: prompt, dtype: DTYPE };
    let append = attention.plan_append_blocking(&append)?.bind(&cache, (&k).into(), (&v).into())?;
    let shape = Shape {
        batch: 1,
        q_len: prompt,
        kv_len: prompt,
        heads: HEADS,
        kv_heads: KV_HEADS,
        head_dim: DIM,
        value_dim: DIM,
    };
    let plan = attention.plan_forward_blocking(&Problem::new(shape, DTYPE, options), PlanOptions::default())?;
    let [cached_k, cached_v] = cache.keys_and_values(sequence)?;
    let (q, lam, out) = ((&q).into(), (&lam).into(), (&out).into());
    let prefill = plan.bind(&ForwardBuffers { q, k: cached_k, v: cached_v, lam, out, lse: None, a2: None })?;
    let time = timed(&attention, |encoder| {
        cache.advance(encoder, &[(sequence, prompt)])?;
        let mut pass = encoder.begin_compute_pass(&Default::default());
        append.encode(&mut pass, &cache)?;
        prefill.encode(&mut pass);
        Ok(())
    })?;
    println!("prefill: {prompt} tokens in {time:.1?}, {:.0} tokens/s", f64::from(prompt) / time.as_secs_f64());

    // The answer: everything is bound once; a step changes the cache's length only.
    let [q, k, v, lam, out] = Tensors::new(&attention, 1).buffers;
    let append = AppendProblem { cache: config, batch: 1, q_len: 1, dtype: DTYPE };
    let append = attention.plan_append_blocking(&append)?.bind(&cache, (&k).into(), (&v).into())?;
    let problem = DecodeProblem { cache: config, batch: 1, q_len: 1, heads: HEADS, dtype: DTYPE, options };
    let plan = attention.plan_decode_blocking(&problem, DecodeOptions::default())?;
    let (q, lam, out) = ((&q).into(), (&lam).into(), (&out).into());
    let decode = plan.bind(&cache, &DecodeBuffers { q, lam, out, lse: None, loads: None })?;
    let (mut time, mut bytes) = (Duration::ZERO, 0);
    for _ in 0..new_tokens {
        time += timed(&attention, |encoder| {
            cache.advance(encoder, &[(sequence, 1)])?;
            let mut pass = encoder.begin_compute_pass(&Default::default());
            append.encode(&mut pass, &cache)?;
            decode.encode(&mut pass, &cache)
        })?;
        bytes += u64::from(cache.len(sequence)?) * config.bytes_per_token();
    }
    println!("decode: {} in {} splits", plan.label(), plan.splits());
    println!("{new_tokens} tokens in {time:.1?}, {:.0} tokens/s", f64::from(new_tokens) / time.as_secs_f64());

    let limits = pollster::block_on(Limits::measure(&attention))?;
    let (rate, peak) = (bytes as f64 / time.as_secs_f64() / 1e9, limits.read_gb_s.unwrap_or(f64::NAN));
    println!("cache read at {rate:.1} GB/s, {:.0} % of {peak:.1} GB/s", 100.0 * rate / peak);
    Ok(())
}

/// Random tensors of so many tokens: q, k, v, λ, and room for out.
struct Tensors {
    buffers: [wgpu::Buffer; 5],
}

impl Tensors {
    fn new(attention: &DiffAttention, tokens: u32) -> Self {
        let mut rng = fastrand::Rng::with_seed(0);
        let mut buffer = |elements: u32, dtype: DType| {
            let values: Vec<f32> = (0..tokens * elements).map(|_| rng.f32() * 2.0 - 1.0).collect();
            let (contents, usage) = (dtype.encode(&values), wgpu::BufferUsages::STORAGE);
            let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents: &contents, usage };
            attention.device().create_buffer_init(&descriptor)
        };
        let (q, kv, out) = (2 * HEADS * DIM, KV_HEADS * DIM, HEADS * DIM);
        let buffers = [(q, DTYPE), (kv, DTYPE), (kv, DTYPE), (HEADS, DType::F32), (out, DTYPE)]
            .map(|(n, dtype)| buffer(n, dtype));
        Tensors { buffers }
    }
}

/// Records, submits and waits.
fn timed(
    attention: &DiffAttention,
    record: impl FnOnce(&mut wgpu::CommandEncoder) -> diffattn::Result<()>,
) -> Result<Duration, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    record(&mut encoder)?;
    attention.queue().submit([encoder.finish()]);
    attention.device().poll(wgpu::PollType::wait_indefinitely())?;
    Ok(start.elapsed())
}
