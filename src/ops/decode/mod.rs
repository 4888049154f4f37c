//! Decode, few new tokens against a cache: plan → bind → encode.

mod bind;
mod problem;
mod run;

use std::sync::Arc;

pub use problem::DecodeProblem;
use problem::MOST_SPLITS;

use crate::attention::DiffAttention;
use crate::decode_tile::{DecodeTile, decode_tile};
use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvConfig};
use crate::ops::cache_launch::Dispatch;
use crate::pipeline::AnyVariant;
use crate::problem::DType;
use crate::shader::{CacheKernel, CacheVariant};
use crate::slice::TensorSlice;
use crate::tile::Path;

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
    /// 2·heads × tokens, f32; written. Given exactly when [`crate::Options::lse`] is set.
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
    merge: Option<(CacheVariant, Arc<wgpu::ComputePipeline>)>,
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

impl DecodePlan {
    pub(crate) async fn new(
        attention: &DiffAttention,
        problem: &DecodeProblem,
        options: DecodeOptions,
    ) -> Result<Self> {
        problem.validate()?;
        let DecodeProblem { cache, dtype, options: how, .. } = *problem;
        let KvConfig { head_dim, value_dim, dtype: kv_dtype, .. } = cache;
        let dims = problem.dims();
        let (path, tile) = match options.tile {
            None => decode_tile(dims, options.path, attention.caps())?,
            Some(tile) => {
                let path = options.path.unwrap_or(Path::Portable);
                tile.validate(dims, path, attention.caps())?;
                (path, tile)
            }
        };
        if options.splits.is_some_and(|splits| splits == 0 || splits > MOST_SPLITS) {
            return Err(Error::invalid("splits", format!("from 1 to {MOST_SPLITS}"), options.splits.unwrap_or(0)));
        }
        let splits = options.splits.unwrap_or_else(|| problem.splits(&tile, attention.caps()));
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
                Some((merge, compile(merge).await?))
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

    /// Workgroups that share the keys of one sequence and KV head: unless asked for, as many as fill such a device,
    /// which is a guess, since WebGPU does not tell its cores.
    pub fn splits(&self) -> u32 {
        self.splits
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &DecodeProblem {
        &self.problem
    }

    /// The kernel's name, as in errors, dumps and benchmark rows.
    pub fn label(&self) -> String {
        self.decode.0.label()
    }

    /// The names of all kernels, in the order in which they run: decode, and the merge where the keys are split.
    pub fn labels(&self) -> Vec<String> {
        let merge = self.merge.as_ref().map(|(variant, _)| variant.label());
        [self.label()].into_iter().chain(merge).collect()
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

    /// Bytes of device memory held beside the caller's buffers and the cache: mostly the splits' states, which the
    /// planner keeps to 1 MiB or to 1/64 of the keys and values that a step reads at most, whichever is more.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }
}
