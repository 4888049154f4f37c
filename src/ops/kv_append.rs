//! Appending keys and values to a cache: plan → bind → encode.

use std::sync::Arc;

use crate::attention::DiffAttention;
use crate::decode_tile::INVOCATIONS;
use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvConfig, KvDType};
use crate::ops::bind::{Bound, Use};
use crate::ops::cache_launch::{CacheLauncher, Dispatch, cache_params, check_cache};
use crate::pipeline::AnyVariant;
use crate::problem::DType;
use crate::shader::{CacheBinding, CacheKernel, CacheVariant};
use crate::slice::{Layout, TensorSlice};

/// What is appended in one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendProblem {
    /// The cache.
    pub cache: KvConfig,
    /// Sequences of a step, at most.
    pub batch: u32,
    /// New tokens of one sequence, at most.
    pub q_len: u32,
    /// Storage type of the new keys and values: the cache's own, or any for an int8 cache.
    pub dtype: DType,
}

/// An append that is validated and compiled.
#[derive(Debug, Clone)]
pub struct AppendPlan {
    attention: DiffAttention,
    problem: AppendProblem,
    variant: CacheVariant,
    pipeline: Arc<wgpu::ComputePipeline>,
}

/// An append bound to a cache and buffers. Encoding allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct AppendPass {
    dispatches: Vec<Dispatch>,
    directory: wgpu::Buffer,
    batch: u32,
    q_len: u32,
}

impl AppendPlan {
    pub(crate) async fn new(attention: &DiffAttention, problem: &AppendProblem) -> Result<Self> {
        let AppendProblem { cache, batch, q_len, dtype } = *problem;
        check_step(&cache, batch, q_len, cache.capacity, dtype)?;
        let variant = CacheVariant {
            kernel: CacheKernel::Append,
            dtype,
            kv_dtype: cache.dtype,
            unpack_f16: dtype == DType::F16 && cache.dtype == KvDType::Int8 && attention.caps.unpack_f16,
            paged: cache.pages.is_some(),
            head_dim: cache.head_dim,
            value_dim: cache.value_dim,
        };
        let pipeline = attention.pipelines.get(&attention.device, (AnyVariant::Cache(variant), false)).await?;
        Ok(AppendPlan { attention: attention.clone(), problem: *problem, variant, pipeline })
    }

    /// The kernel's name, as in errors, dumps and benchmark rows.
    pub fn label(&self) -> String {
        self.variant.label()
    }

    /// Checks the buffers and creates everything that encoding needs.
    ///
    /// `k` is tokens × kv_heads × head_dim and `v` tokens × kv_heads × value_dim of the plan's dtype, where tokens is
    /// batch · q_len: those of the step lie one after another, in the order that [`KvCache::advance`] was given.
    ///
    /// # Errors
    /// [`Error::Slice`] for a slice that cannot be bound, [`Error::Invalid`] for a cache of another configuration.
    pub fn bind(&self, cache: &KvCache, k: TensorSlice<'_>, v: TensorSlice<'_>) -> Result<AppendPass> {
        let AppendProblem { cache: config, batch, q_len, dtype } = self.problem;
        check_cache(cache, &config, &[("k", k), ("v", v)])?;
        let read = |name| Use { name, size: dtype.size(), unit: 8, writes: false, default: Layout::Bshd };
        let tokens = batch * q_len;
        let tensors = vec![
            (CacheBinding::NewK, Bound::new(k, [1, tokens, config.kv_heads, config.head_dim], read("k"))?),
            (CacheBinding::NewV, Bound::new(v, [1, tokens, config.kv_heads, config.value_dim], read("v"))?),
        ];
        let params = cache_params(&config, batch, q_len);
        let directory = cache.directory();
        let buffers = vec![(CacheBinding::Directory, directory)];
        let launcher = CacheLauncher::new(&self.attention, params, tensors, buffers)?;
        let rows = u64::from(tokens) * u64::from(config.kv_heads) * 2;
        let used = [CacheBinding::NewK, CacheBinding::NewV];
        let workgroups = rows.div_ceil(INVOCATIONS.into());
        let dispatches = launcher.dispatch_shards("diffattn.kv_append", &self.pipeline, cache, &used, workgroups)?;
        Ok(AppendPass { dispatches, directory: directory.clone(), batch, q_len })
    }
}

impl AppendPass {
    /// Records the writes of the cache's current step. Creates, allocates and submits nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the step has more sequences or tokens than planned, or `cache` is not the one bound.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>, cache: &KvCache) -> Result<()> {
        cache.check_step(&self.directory, self.batch, self.q_len)?;
        self.dispatches.iter().for_each(|dispatch| dispatch.encode(pass));
        Ok(())
    }
}

/// Checks what decode and append have in common.
pub(crate) fn check_step(cache: &KvConfig, batch: u32, q_len: u32, most: u32, dtype: DType) -> Result<()> {
    cache.validate()?;
    for (name, value, most) in [("batch", batch, cache.sequences), ("q_len", q_len, most)] {
        if value == 0 || value > most {
            return Err(Error::invalid(name, format!("from 1 to {most}"), value));
        }
    }
    if u64::from(batch) * u64::from(q_len) > 1 << 28 {
        return Err(Error::invalid("batch · q_len", "at most 2²⁸ tokens in one step", format!("{batch} · {q_len}")));
    }
    if cache.dtype != KvDType::Int8 && cache.dtype != dtype.into() {
        let what = format!("{} next to a cache of {:?}", dtype.name(), cache.dtype);
        return Err(Error::Unsupported { what, hint: "use one type for both, or an int8 cache".into() });
    }
    Ok(())
}
