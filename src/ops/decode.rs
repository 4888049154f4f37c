//! Decode, few new tokens against a cache: plan → bind → encode.

use std::sync::Arc;

use crate::attention::DiffAttention;
use crate::decode_tile::{DecodeTile, Dims, INVOCATIONS, decode_tile};
use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvConfig};
use crate::ops::bind::{self, Bound, Use};
use crate::ops::cache_launch::{CacheLauncher, Dispatch, cache_params, check_cache};
use crate::ops::forward::wanted;
use crate::ops::kv_append::check_step;
use crate::params::CacheParams;
use crate::pipeline::AnyVariant;
use crate::problem::{DType, Mask, Options, Problem, Shape};
use crate::shader::{CacheBinding, CacheKernel, CacheVariant};
use crate::slice::{Layout, TensorSlice};
use crate::tile::{CORES, Path};

/// Most new tokens of one sequence in a decode step.
const MOST_QUERIES: u32 = 16;

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

/// Choices that are normally left to the planner; tests, benchmarks and tuners force them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DecodeOptions {
    /// [`Path::Portable`] or [`Path::Subgroup`]; `None` lets the planner choose.
    pub path: Option<Path>,
    /// The tile; `None` lets the planner choose.
    pub tile: Option<DecodeTile>,
    /// Workgroups that share the keys of one sequence and KV head; `None` lets the planner choose.
    pub splits: Option<u32>,
    /// Compile with the driver's bounds checks, which the kernels do not need.
    pub runtime_checks: bool,
    /// Count every load of K and V into [`DecodeBuffers::loads`].
    pub count_loads: bool,
}

/// The buffers of a decode pass. Tokens is batch · q_len; those of a step lie one after another, in the order that
/// [`KvCache::advance`] was given.
#[derive(Debug, Clone, Copy)]
pub struct DecodeBuffers<'a> {
    /// tokens × 2·heads × head_dim, storage type; read.
    pub q: TensorSlice<'a>,
    /// tokens × heads, f32, before the sigmoid; read.
    pub lam: TensorSlice<'a>,
    /// tokens × heads × value_dim, storage type; written.
    pub out: TensorSlice<'a>,
    /// 2·heads × tokens, f32; written. Given exactly when [`Options::lse`] is set.
    pub lse: Option<TensorSlice<'a>>,
    /// Two u32 for every eight elements of K and V as the cache stores them: how often K's and V's were loaded; added
    /// to. Given exactly when [`DecodeOptions::count_loads`] is set.
    pub loads: Option<&'a wgpu::Buffer>,
}

/// A decode step that is validated, tiled and compiled. Bind it to a cache, then encode it for every step.
#[derive(Debug, Clone)]
pub struct DecodePlan {
    attention: DiffAttention,
    problem: DecodeProblem,
    path: Path,
    tile: DecodeTile,
    splits: u32,
    decode: (CacheVariant, Arc<wgpu::ComputePipeline>),
    merge: Option<Arc<wgpu::ComputePipeline>>,
    counted: bool,
}

/// A decode step bound to a cache and buffers. Encoding allocates, creates, maps and submits nothing.
#[derive(Debug, Clone)]
pub struct DecodePass {
    dispatches: Vec<Dispatch>,
    directory: wgpu::Buffer,
    batch: u32,
    q_len: u32,
    scratch_bytes: u64,
}

impl DecodeProblem {
    /// Checks every size and parameter.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::HeadGroups`], [`Error::Unsupported`] for a₂ and for types that do not go together.
    pub fn validate(&self) -> Result<()> {
        check_step(&self.cache, self.batch, self.q_len, MOST_QUERIES, self.dtype)?;
        if self.options.a2 {
            let hint = "only training needs it; use the forward pass".into();
            return Err(Error::Unsupported { what: "a2 from decode".into(), hint });
        }
        self.as_problem().validate()
    }

    /// The same operation on tensors, with a full cache.
    fn as_problem(&self) -> Problem {
        let KvConfig { capacity, kv_heads, head_dim, value_dim, .. } = self.cache;
        let (batch, q_len, heads) = (self.batch, self.q_len, self.heads);
        let shape = Shape { batch, q_len, kv_len: capacity, heads, kv_heads, head_dim, value_dim };
        Problem::new(shape, self.dtype, self.options)
    }

    /// Packed query rows of one KV head.
    fn rows(&self) -> u32 {
        2 * (self.heads / self.cache.kv_heads) * self.q_len
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

    /// For each core two workgroups of 128 invocations, or as many more as they are smaller; at least two tiles for each
    /// split.
    fn splits(&self, tile: &DecodeTile) -> u32 {
        let row_tiles = self.rows().div_ceil(tile.rows());
        let workgroups = u64::from(self.batch) * u64::from(self.cache.kv_heads) * u64::from(row_tiles);
        let wanted = (u64::from(2 * CORES * 128 / tile.threads) / workgroups) as u32;
        wanted.min(self.most_keys().div_ceil(tile.keys()) / 2).max(1)
    }
}

impl DecodePlan {
    pub(crate) async fn new(
        attention: &DiffAttention,
        problem: &DecodeProblem,
        options: DecodeOptions,
    ) -> Result<Self> {
        problem.validate()?;
        let DecodeProblem { cache, dtype, options: how, .. } = *problem;
        let KvConfig { head_dim, value_dim, dtype: kv_dtype, .. } = cache;
        let dims = Dims { rows: problem.rows(), head_dim, value_dim, kv_dtype };
        let (path, tile) = match options.tile {
            None => decode_tile(dims, options.path, attention.caps())?,
            Some(tile) => {
                let path = options.path.unwrap_or(Path::Portable);
                tile.validate(dims, path, attention.caps())?;
                (path, tile)
            }
        };
        if options.splits.is_some_and(|splits| splits == 0 || splits > 1 << 12) {
            return Err(Error::invalid("splits", "from 1 to 4096", options.splits.unwrap_or(0)));
        }
        let splits = options.splits.unwrap_or_else(|| problem.splits(&tile));
        let split = splits > 1;
        let counted = options.count_loads;
        let variant = CacheVariant {
            kernel: CacheKernel::Decode {
                path,
                tile,
                mask: how.mask().into(),
                softcap: how.softcap.is_some(),
                split,
                lse: how.lse && !split,
                counted,
            },
            dtype,
            kv_dtype,
            unpack_f16: dtype == DType::F16 && attention.caps.unpack_f16,
            paged: cache.pages.is_some(),
            head_dim,
            value_dim,
        };
        let pipelines = &attention.pipelines;
        let compile = |variant| pipelines.get(&attention.device, (AnyVariant::Cache(variant), options.runtime_checks));
        let decode = (variant, compile(variant).await?);
        let merge = match split {
            true => {
                let kernel = CacheKernel::Merge { lse: how.lse };
                // The merge reads no cache, nor any tensor of the storage type.
                let kv_dtype = dtype.into();
                let merge = CacheVariant { kernel, kv_dtype, paged: false, unpack_f16: false, ..variant };
                Some(compile(merge).await?)
            }
            false => None,
        };
        Ok(DecodePlan { attention: attention.clone(), problem: *problem, path, tile, splits, decode, merge, counted })
    }

    /// The kernel family that was chosen.
    pub fn path(&self) -> Path {
        self.path
    }

    /// The tile that was chosen.
    pub fn tile(&self) -> DecodeTile {
        self.tile
    }

    /// Workgroups that share the keys of one sequence and KV head.
    pub fn splits(&self) -> u32 {
        self.splits
    }

    /// The kernel's name, as in errors, dumps and benchmark rows.
    pub fn label(&self) -> String {
        self.decode.0.label()
    }

    /// Checks the buffers and creates everything that encoding needs.
    ///
    /// # Errors
    /// [`Error::Slice`] for a slice that cannot be bound; [`Error::Shape`] for an output missing or too many;
    /// [`Error::Invalid`] for a cache of another configuration; [`Error::Limit`] for what is too large to bind.
    pub fn bind(&self, cache: &KvCache, buffers: &DecodeBuffers<'_>) -> Result<DecodePass> {
        let DecodeProblem { cache: config, batch, q_len, heads, .. } = self.problem;
        let DecodeBuffers { q, lam, out, .. } = *buffers;
        let lse = wanted("lse", self.problem.options.lse, buffers.lse)?;
        let slices = [Some(("q", q)), Some(("lam", lam)), Some(("out", out)), lse.map(|lse| ("lse", lse))];
        check_cache(cache, &config, &slices.into_iter().flatten().collect::<Vec<_>>())?;
        let tensors = self.tensors(buffers, lse)?;
        bind::check_aliasing(&tensors.iter().map(|(_, bound)| *bound).collect::<Vec<_>>(), self.attention.caps())?;

        let directory = cache.directory();
        let partials = self.partials()?;
        let mut whole = vec![(CacheBinding::Directory, directory)];
        whole.extend(partials.as_ref().map(|buffer| (CacheBinding::Partials, buffer)));
        whole.extend(self.loads(cache, buffers.loads)?.map(|buffer| (CacheBinding::Loads, buffer)));
        let launcher = CacheLauncher::new(&self.attention, self.params(), tensors, whole)?;

        let outputs = [CacheBinding::Lam, CacheBinding::Out, CacheBinding::Lse];
        let used = if self.merge.is_some() { &[CacheBinding::Partials][..] } else { &outputs };
        let used = [used, &[CacheBinding::Q, CacheBinding::Loads]].concat();
        let workgroups = [batch, config.kv_heads, self.row_tiles(), self.splits];
        let workgroups = workgroups.iter().fold(1u64, |product, factor| product.saturating_mul((*factor).into()));
        let label = "diffattn.decode";
        let mut dispatches = launcher.dispatch_shards(label, &self.decode.1, cache, &used, workgroups)?;
        if let Some(merge) = &self.merge {
            let quads = u64::from(batch * q_len) * u64::from(heads) * u64::from(config.value_dim / 4);
            let used = [&outputs[..], &[CacheBinding::Partials, CacheBinding::Directory]].concat();
            let workgroups = quads.div_ceil(INVOCATIONS.into());
            dispatches.push(launcher.dispatch("diffattn.decode_merge", merge, launcher.params, &used, workgroups)?);
        }
        let scratch_bytes =
            dispatches.len() as u64 * size_of::<CacheParams>() as u64 + partials.map_or(0, |buffer| buffer.size());
        Ok(DecodePass { dispatches, directory: directory.clone(), batch, q_len, scratch_bytes })
    }

    fn tensors<'a>(
        &self,
        buffers: &DecodeBuffers<'a>,
        lse: Option<TensorSlice<'a>>,
    ) -> Result<Vec<(CacheBinding, Bound<'a>)>> {
        let DecodeProblem { cache, batch, q_len, heads, dtype, .. } = self.problem;
        let tokens = batch * q_len;
        let read = |name| Use { name, size: dtype.size(), unit: 8, writes: false, default: Layout::Bshd };
        let written = |name| Use { unit: 4, writes: true, ..read(name) };
        let lam = Use { size: 4, unit: 1, ..read("lam") };
        let mut tensors = vec![
            (CacheBinding::Q, Bound::new(buffers.q, [1, tokens, 2 * heads, cache.head_dim], read("q"))?),
            (CacheBinding::Lam, Bound::new(buffers.lam, [1, tokens, heads, 1], lam)?),
            (CacheBinding::Out, Bound::new(buffers.out, [1, tokens, heads, cache.value_dim], written("out"))?),
        ];
        if let Some(slice) = lse {
            let how = Use { size: 4, unit: 1, default: Layout::Bhsd, ..written("lse") };
            tensors.push((CacheBinding::Lse, Bound::new(slice, [1, tokens, 2 * heads, 1], how)?));
        }
        Ok(tensors)
    }

    fn row_tiles(&self) -> u32 {
        self.problem.rows().div_ceil(self.tile.rows())
    }

    fn params(&self) -> CacheParams {
        let DecodeProblem { cache, batch, q_len, heads, options, .. } = self.problem;
        let (left, right) = window(&options);
        let problem = self.problem.as_problem();
        CacheParams {
            group: heads / cache.kv_heads,
            row_tiles: self.row_tiles(),
            splits: self.splits,
            left,
            right,
            scale: problem.scale() * if options.softcap.is_some() { 1.0 } else { std::f32::consts::LOG2_E },
            softcap: options.softcap.unwrap_or(0.0),
            ..cache_params(&cache, batch, q_len)
        }
    }

    /// Room for the states of the splits.
    fn partials(&self) -> Result<Option<wgpu::Buffer>> {
        if self.merge.is_none() {
            return Ok(None);
        }
        let DecodeProblem { cache, batch, .. } = self.problem;
        let row = 4 * (u64::from(cache.value_dim) + 4);
        let rows = [batch, cache.kv_heads, self.splits, self.problem.rows()];
        let needed = rows.iter().fold(row, |product, factor| product.saturating_mul((*factor).into()));
        let available = self.attention.caps().storage_binding;
        if needed > available {
            let (name, what) = ("max_storage_buffer_binding_size", "the states of the splits".into());
            return Err(Error::Limit { name, what, needed, available });
        }
        Ok(Some(self.attention.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("diffattn.decode.partials"),
            size: needed,
            usage: wgpu::BufferUsages::STORAGE,
            mapped_at_creation: false,
        })))
    }

    fn loads<'a>(&self, cache: &KvCache, loads: Option<&'a wgpu::Buffer>) -> Result<Option<&'a wgpu::Buffer>> {
        let loads = match (self.counted, loads) {
            (true, Some(buffer)) => buffer,
            (false, None) => return Ok(None),
            (counted, _) => {
                let expected = format!("{} since count_loads is {counted}", if counted { "a buffer" } else { "none" });
                let actual = if counted { "none" } else { "a buffer" }.into();
                return Err(Error::Shape { tensor: "loads", expected, actual });
            }
        };
        let [shard] = cache.shards() else {
            let hint = "count on a smaller cache".into();
            return Err(Error::Unsupported { what: "counting loads of a cache in several buffers".into(), hint });
        };
        let KvConfig { head_dim, value_dim, .. } = self.problem.cache;
        let rows = u64::from(shard.end) * u64::from(self.problem.cache.places());
        let needed = rows * u64::from(head_dim.max(value_dim) / 8) * 8;
        if loads.size() < needed {
            let [expected, actual] = [needed, loads.size()].map(|bytes| format!("{bytes} bytes"));
            return Err(Error::Shape { tensor: "loads", expected, actual });
        }
        Ok(Some(loads))
    }
}

impl DecodePass {
    /// Records the cache's current step. Creates, allocates, maps and submits nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the step has more sequences or tokens than planned, or `cache` is not the one bound.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>, cache: &KvCache) -> Result<()> {
        cache.check_step(&self.directory, self.batch, self.q_len)?;
        self.dispatches.iter().for_each(|dispatch| dispatch.encode(pass));
        Ok(())
    }

    /// Dispatches that [`DecodePass::encode`] records: one for each buffer of the cache, and one to merge splits.
    pub fn dispatches(&self) -> usize {
        self.dispatches.len()
    }

    /// Bytes of device memory held beside the caller's buffers and the cache.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }
}

/// Keys seen to the left and right of a query's own position, as the shaders take them.
fn window(options: &Options) -> (i32, i32) {
    let side = |side: Option<u32>| side.map_or(1 << 29, |side| side as i32);
    match options.mask() {
        Mask::None | Mask::Causal => (0, 0),
        Mask::Window { left, right } => (side(left), side(right)),
    }
}
