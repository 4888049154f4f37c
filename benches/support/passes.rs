//! One small problem for each operation, planned and bound: what host-side work is measured on.

use diffattn::{
    AppendProblem, BackwardBuffers, BackwardPass, DType, DecodeBuffers, DecodeOptions, DecodePass, DecodeProblem,
    DiffAttention, ForwardBuffers, ForwardPass, KvCache, KvConfig, Options, PlanOptions, Problem, Result, Shape, wgpu,
};

const SHAPE: Shape = Shape { batch: 1, q_len: 32, kv_len: 64, heads: 4, kv_heads: 2, head_dim: 64, value_dim: 64 };

/// A problem of the forward and the backward pass.
pub fn problem() -> Problem {
    let mut options = Options::default();
    (options.causal, options.lse) = (true, true);
    Problem::new(SHAPE, DType::F16, options)
}

/// A decode step on a cache.
pub fn step() -> DecodeProblem {
    let Shape { kv_heads, head_dim, value_dim, heads, .. } = SHAPE;
    let dtype = DType::F16;
    let cache =
        KvConfig { sequences: 1, capacity: 4096, kv_heads, head_dim, value_dim, dtype: dtype.into(), pages: None };
    DecodeProblem { cache, batch: 1, q_len: 1, heads, dtype, options: Options::default() }
}

/// The append that goes before it.
pub fn append() -> AppendProblem {
    let DecodeProblem { cache, batch, q_len, dtype, .. } = step();
    AppendProblem { cache, batch, q_len, dtype }
}

/// A pass of each operation, on buffers of its own.
pub struct Passes {
    pub forward: ForwardPass,
    pub backward: BackwardPass,
    pub decode: DecodePass,
    pub cache: KvCache,
}

impl Passes {
    pub fn new(attention: &DiffAttention) -> Result<Self> {
        let buffer = || {
            let (size, usage) = (1 << 18, wgpu::BufferUsages::STORAGE);
            let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
            attention.device().create_buffer(&descriptor)
        };
        let input = buffer();
        let [out, lse, dq, dk, dv, dlam] = std::array::from_fn(|_| buffer());
        let [q, k, v, lam, dout] = [(&input).into(); 5];
        let problem = problem();
        let forward = attention.plan_forward_blocking(&problem, PlanOptions::default())?;
        let (lse_out, out) = (Some((&lse).into()), (&out).into());
        let forward = forward.bind(&ForwardBuffers { q, k, v, lam, out, lse: lse_out, a2: None })?;
        let backward = attention.plan_backward_blocking(&problem, PlanOptions::default())?.bind(&BackwardBuffers {
            q,
            k,
            v,
            lam,
            out,
            lse: (&lse).into(),
            a2: None,
            dout,
            dlse: None,
            dq: (&dq).into(),
            dk: (&dk).into(),
            dv: (&dv).into(),
            dlam: (&dlam).into(),
            accumulate: false,
        })?;
        let mut cache = attention.kv_cache_blocking(&step().cache)?;
        let sequence = cache.create()?;
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        cache.advance(&mut encoder, &[(sequence, 1)])?;
        let decode = attention.plan_decode_blocking(&step(), DecodeOptions::default())?;
        let decode = decode.bind(&cache, &DecodeBuffers { q, lam, out, lse: None, loads: None })?;
        Ok(Passes { forward, backward, decode, cache })
    }
}
