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

/// Invocations that fill a discrete GPU: 512 workgroups of 64, each of which takes all registers that it is given. WebGPU
/// does not tell its cores; 132 of them hold 528 at a time. What does not fit waits for a second turn: 64 streams of 32768
/// keys reach 85 % of the read bandwidth in 8 splits, 82 % in 16, which take two turns, and 68 % in 12.
const DISCRETE_LANES: u32 = 512 * 64;

/// Invocations that fill any other: for each core two workgroups of 128, or as many more as they are smaller.
const OTHER_LANES: u32 = 2 * CORES * 128;

/// Bytes that the states of splits may take at any size, as everything that is allocated beside the caller's tensors.
const LEAST_ROOM: u64 = 1 << 20;

/// And for a step that reads more than that: the share of K's and V's bytes up to which what is written stays small.
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

    /// As many as fill the device with workgroups, while each has two tiles of keys and their states have room.
    pub(crate) fn splits(&self, tile: &DecodeTile, caps: &Caps) -> u32 {
        let row_tiles = self.rows().div_ceil(tile.rows());
        let KvConfig { head_dim, value_dim, kv_heads, dtype, .. } = self.cache;
        let streams = u64::from(self.batch) * u64::from(kv_heads);
        let workgroups = streams.saturating_mul(row_tiles.into()).max(1);
        let lanes = if caps.kind == wgpu::DeviceType::DiscreteGpu { DISCRETE_LANES } else { OTHER_LANES };
        let wanted = u64::from(lanes / tile.threads) / workgroups;
        let row = 4 * (u64::from(value_dim) + 4);
        let states = workgroups.saturating_mul(u64::from(tile.rows()) * row);
        let key = (u64::from(head_dim) + u64::from(value_dim)) * dtype.size();
        let read = streams.saturating_mul(u64::from(self.most_keys())).saturating_mul(key);
        let room = (read / STATES_SHARE).max(LEAST_ROOM) / states;
        let whole = u64::from(self.most_keys().div_ceil(tile.keys()) / 2);
        wanted.min(whole).min(room).clamp(1, MOST_SPLITS.into()) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv_cache::KvDType;
    use wgpu::DeviceType;

    fn problem(batch: u32, capacity: u32) -> DecodeProblem {
        let (kv_heads, dim) = (8, 128);
        let cache = KvConfig {
            sequences: batch,
            capacity,
            kv_heads,
            head_dim: dim,
            value_dim: dim,
            dtype: KvDType::F16,
            pages: None,
        };
        let options = Options { causal: true, ..Options::default() };
        DecodeProblem { cache, batch, q_len: 1, heads: 16, dtype: DType::F16, options }
    }

    fn device(kind: DeviceType) -> Caps {
        Caps { kind, software: kind == DeviceType::Cpu, subgroups: Some((8, 8)), ..Caps::floor() }
    }

    fn splits(problem: &DecodeProblem, kind: DeviceType) -> u32 {
        let (_, tile) = problem.tile(&device(kind)).expect("a tile");
        problem.splits(&tile, &device(kind))
    }

    #[test]
    fn splits_fill_the_device() {
        // Workgroups of 64 on GPUs, of 32 on a software driver.
        for (batch, discrete, integrated, software) in [(1, 64, 8, 16), (8, 8, 1, 2), (64, 1, 1, 1), (1000, 1, 1, 1)] {
            let problem = problem(batch, 32768);
            assert_eq!(splits(&problem, DeviceType::DiscreteGpu), discrete, "{batch} sequences");
            assert_eq!(splits(&problem, DeviceType::IntegratedGpu), integrated, "{batch} sequences");
            assert_eq!(splits(&problem, DeviceType::Other), integrated, "{batch} sequences");
            assert_eq!(splits(&problem, DeviceType::Cpu), software, "{batch} sequences");
        }
    }

    #[test]
    fn each_split_has_two_tiles_of_keys() {
        for (keys, expected) in [(1, 1), (64, 1), (129, 1), (256, 2), (1024, 8)] {
            assert_eq!(splits(&problem(1, keys), DeviceType::DiscreteGpu), expected, "{keys} keys");
        }
        let mut windowed = problem(1, 32768);
        windowed.options.window = (Some(255), None);
        assert_eq!(splits(&windowed, DeviceType::DiscreteGpu), 2);
    }

    #[test]
    fn states_of_splits_are_small_beside_what_is_read() {
        for batch in [1, 2, 8, 32] {
            for keys in [512, 4096, 32768] {
                for q_len in [1, 2, 16] {
                    let problem = DecodeProblem { q_len, ..problem(batch, keys) };
                    let (_, tile) = problem.tile(&device(DeviceType::DiscreteGpu)).expect("a tile");
                    let splits = problem.splits(&tile, &device(DeviceType::DiscreteGpu));
                    let states = u64::from(batch * 8 * problem.rows() * splits) * 4 * (128 + 4);
                    let read = u64::from(batch * 8) * u64::from(keys) * 512;
                    let least = splits == 1 || states <= (1 << 20).max(read / 64);
                    assert!(least, "{states} bytes of states for {read}: {splits} splits of {problem:?}");
                }
            }
        }
        // Nothing overflows at sizes that no device holds.
        let mut huge = problem(u32::MAX, u32::MAX);
        (huge.cache.kv_heads, huge.heads) = (1 << 30, 1 << 30);
        let tile = "r4k64t64n4p4v4a8".parse().expect("a tile");
        assert_eq!(huge.splits(&tile, &device(DeviceType::DiscreteGpu)), 1);
    }
}
