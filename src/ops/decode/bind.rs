//! From a cache and a caller's slices to recorded dispatches.

use super::{DecodeBuffers, DecodePass, DecodePlan, DecodeProblem};
use crate::decode_tile::INVOCATIONS;
use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvConfig};
use crate::ops::bind::{self, Bound, Use};
use crate::ops::cache_launch::{CacheLauncher, cache_params, check_cache};
use crate::ops::forward::wanted;
use crate::params::CacheParams;
use crate::problem::{Mask, Options};
use crate::shader::CacheBinding;
use crate::slice::{Layout, TensorSlice};

impl DecodePlan {
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
        if let Some((_, merge)) = &self.merge {
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

    /// Workgroups that share the rows of a KV head: how often a step reads each element of K and V. 1 unless there are
    /// more rows, 2 · heads / kv_heads · q_len, than one workgroup holds.
    pub fn row_tiles(&self) -> u32 {
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

/// Keys seen to the left and right of a query's own position, as the shaders take them.
fn window(options: &Options) -> (i32, i32) {
    let side = |side: Option<u32>| side.map_or(1 << 29, |side| side as i32);
    match options.mask() {
        Mask::None | Mask::Causal => (0, 0),
        Mask::Window { left, right } => (side(left), side(right)),
    }
}
