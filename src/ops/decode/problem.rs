//! What a decode step computes, and over how many workgroups its keys are split. Pure.

use crate::caps::Caps;
use crate::decode_tile::{DecodeTile, Dims, decode_tile};
use crate::error::{Error, Result};
use crate::kv_cache::KvConfig;
use crate::ops::kv_append::check_step;
use crate::problem::{DType, Mask, Options, Problem, Shape};
use crate::tile::{CORES, Path};

/// Most new tokens of one sequence in a decode step.
const MOST_QUERIES: u32 = 16;

/// Rows of one KV head at most: far more than one reads a cache for at once.
const MOST_ROWS: u64 = 1 << 16;

/// Splits of the keys, at most.
pub(super) const MOST_SPLITS: u32 = 1 << 12;

/// Invocations that fill a discrete GPU. WebGPU does not tell its cores; of 132 of them, 64 streams of 32768 keys reach 5, 17,
/// 69, 68 and 64 % of the read bandwidth in 1, 4, 16, 32 and 48 splits of 64 invocations.
const DISCRETE_LANES: u32 = 1 << 16;

/// The states of splits are at most this share of what a step reads.
const STATES_SHARE: u64 = 64;

/// Attention of few new tokens to a cache: for each sequence, [`Problem`] with the cached tokens as keys.
///
/// The new tokens' own keys are appended before, so that under a causal mask a token sees itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct DecodeProblem {
    /// The cache.
    pub cache: KvConfig,
    /// Sequences of a step, at most.
    pub batch: u32,
    /// New tokens of one sequence, at most: from 1 to 16.
    pub q_len: u32,
    /// Output heads (query heads are twice as many); a multiple of the cache's `kv_heads`.
    pub heads: u32,
    /// Storage type of q and out: the cache's own, or any for an int8 cache.
    pub dtype: DType,
    /// Mask, scale, softcap, and whether LSE is written. a₂ cannot be.
    pub options: Options,
}

impl DecodeProblem {
    /// The step that computes a problem of few queries: a contiguous cache that its keys fill, and its last queries.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where decode cannot: packed sequences, more than 16 queries, more queries than keys, a₂.
    pub fn of(problem: &Problem) -> Result<Self> {
        let Problem { shape, dtype, options, ref packed } = *problem;
        let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = shape;
        let refuse = |what: String| Err(Error::Unsupported { what, hint: "use the forward pass".into() });
        if packed.is_some() {
            return refuse("decode of packed sequences".into());
        }
        if q_len > MOST_QUERIES {
            return refuse(format!("decode of {q_len} queries at once (at most {MOST_QUERIES})"));
        }
        if q_len > kv_len {
            return refuse("decode of more queries than keys".into());
        }
        if options.a2 {
            return refuse("a2 from decode".into());
        }
        let (sequences, capacity) = (batch, kv_len);
        let cache = KvConfig { sequences, capacity, kv_heads, head_dim, value_dim, dtype: dtype.into(), pages: None };
        Ok(DecodeProblem { cache, batch, q_len, heads, dtype, options })
    }

    /// Whether a problem has so few queries that one expects decode to take it.
    pub fn is_few(problem: &Problem) -> bool {
        problem.shape.q_len <= MOST_QUERIES
    }

    /// Checks every size and parameter.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::HeadGroups`], [`Error::Unsupported`] for a₂ and for types that do not go together.
    pub fn validate(&self) -> Result<()> {
        check_step(&self.cache, self.batch, self.q_len, MOST_QUERIES.min(self.cache.capacity), self.dtype)?;
        if self.options.a2 {
            let hint = "only training needs it; use the forward pass".into();
            return Err(Error::Unsupported { what: "a2 from decode".into(), hint });
        }
        self.as_problem().validate()?;
        let rows = 2 * u64::from(self.heads / self.cache.kv_heads) * u64::from(self.q_len);
        if rows > MOST_ROWS {
            let what = format!("decode of {rows} rows a KV head (2 · heads / kv_heads · q_len; at most {MOST_ROWS})");
            return Err(Error::Unsupported { what, hint: "use the forward pass".into() });
        }
        Ok(())
    }

    /// The same operation on tensors, with a full cache.
    pub fn as_problem(&self) -> Problem {
        let KvConfig { capacity, kv_heads, head_dim, value_dim, .. } = self.cache;
        let (batch, q_len, heads) = (self.batch, self.q_len, self.heads);
        let shape = Shape { batch, q_len, kv_len: capacity, heads, kv_heads, head_dim, value_dim };
        Problem::new(shape, self.dtype, self.options)
    }

    /// Packed query rows of one KV head.
    pub(super) fn rows(&self) -> u32 {
        2 * (self.heads / self.cache.kv_heads) * self.q_len
    }

    /// What the tile depends on.
    pub(crate) fn dims(&self) -> Dims {
        let KvConfig { head_dim, value_dim, dtype: kv_dtype, .. } = self.cache;
        Dims { rows: self.rows(), head_dim, value_dim, kv_dtype }
    }

    /// The path and tile that a plan takes on such a device.
    ///
    /// # Errors
    /// As [`DiffAttention::plan_decode`](crate::DiffAttention::plan_decode).
    pub fn tile(&self, caps: &Caps) -> Result<(Path, DecodeTile)> {
        self.validate()?;
        decode_tile(self.dims(), None, caps)
    }

    /// Keys that a step reads at most.
    fn most_keys(&self) -> u32 {
        match self.options.mask() {
            Mask::Window { left: Some(left), right } => {
                (left + right.unwrap_or(self.q_len) + self.q_len).min(self.cache.capacity)
            }
            Mask::None | Mask::Causal | Mask::Window { .. } => self.cache.capacity,
        }
    }

    /// Workgroups that fill the device, at least two tiles of keys for each split, and states that are small: below 1 MiB, as
    /// everything that is allocated beside the caller's tensors, or beside what the step reads.
    pub(crate) fn splits(&self, tile: &DecodeTile, caps: &Caps) -> u32 {
        let row_tiles = self.rows().div_ceil(tile.rows());
        let KvConfig { head_dim, value_dim, kv_heads, dtype, .. } = self.cache;
        let streams = u64::from(self.batch) * u64::from(kv_heads);
        let workgroups = streams * u64::from(row_tiles);
        let lanes = if caps.kind == wgpu::DeviceType::DiscreteGpu { DISCRETE_LANES } else { 2 * CORES * 128 };
        let wanted = (u64::from(lanes / tile.threads) / workgroups) as u32;
        let states = workgroups * u64::from(tile.rows()) * 4 * (u64::from(value_dim) + 4);
        let key = u64::from(head_dim + value_dim) * dtype.size();
        let read = streams.saturating_mul(u64::from(self.most_keys())).saturating_mul(key);
        let room = ((read / STATES_SHARE).max(1 << 20) / states.max(1)).min(u64::from(MOST_SPLITS)) as u32;
        wanted.min(self.most_keys().div_ceil(tile.keys()) / 2).min(room).max(1)
    }
}
