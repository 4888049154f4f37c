//! What decode and append share: kernels that are bound to a KV cache.

use std::sync::Arc;

use wgpu::util::DeviceExt as _;

use crate::attention::DiffAttention;
use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvConfig};
use crate::ops::bind::{self, Bound};
use crate::ops::launch::grid;
use crate::params::CacheParams;
use crate::shader::CacheBinding;
use crate::slice::TensorSlice;

/// A bind group and its grid.
#[derive(Debug, Clone)]
pub(crate) struct Dispatch {
    pub(crate) pipeline: Arc<wgpu::ComputePipeline>,
    pub(crate) bind_group: wgpu::BindGroup,
    pub(crate) grid: [u32; 2],
}

impl Dispatch {
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.grid[0], self.grid[1], 1);
    }
}

/// The tensors and the parameters of a kernel around a cache.
pub(crate) struct CacheLauncher<'a> {
    pub attention: &'a DiffAttention,
    pub params: CacheParams,
    /// The caller's tensors by binding number.
    pub tensors: Vec<(CacheBinding, Bound<'a>)>,
    /// Whole buffers by binding number.
    pub buffers: Vec<(CacheBinding, &'a wgpu::Buffer)>,
}

impl<'a> CacheLauncher<'a> {
    /// Fills in the views of the tensors, after checking that each fits a binding.
    pub(crate) fn new(
        attention: &'a DiffAttention,
        params: CacheParams,
        tensors: Vec<(CacheBinding, Bound<'a>)>,
        buffers: Vec<(CacheBinding, &'a wgpu::Buffer)>,
    ) -> Result<Self> {
        let caps = attention.caps();
        let mut launcher = CacheLauncher { attention, params, tensors, buffers };
        for (number, bound) in &launcher.tensors {
            let alignment = caps.offset_alignment.into();
            let bytes = bound.tensor.binding(&bound.tensor.whole(), alignment);
            let needed = bytes.end - bytes.start;
            if needed > caps.storage_binding {
                let (name, what) = ("max_storage_buffer_binding_size", format!("`{}`", bound.tensor.name));
                return Err(Error::Limit { name, what, needed, available: caps.storage_binding });
            }
            let view = bound.tensor.view(&bound.tensor.whole(), alignment);
            match *number {
                CacheBinding::Q => launcher.params.q = view,
                CacheBinding::Lam => launcher.params.lam = view,
                CacheBinding::Out => launcher.params.out = view,
                CacheBinding::Lse => launcher.params.lse = view,
                CacheBinding::NewK => launcher.params.new_k = view,
                CacheBinding::NewV => launcher.params.new_v = view,
                _ => {}
            }
        }
        Ok(launcher)
    }

    /// One dispatch with those of the tensors and buffers that the kernel uses.
    ///
    /// # Errors
    /// [`Error::Limit`] for a grid that the device cannot run.
    pub(crate) fn dispatch(
        &self,
        label: &str,
        pipeline: &Arc<wgpu::ComputePipeline>,
        params: CacheParams,
        used: &[CacheBinding],
        workgroups: u64,
    ) -> Result<Dispatch> {
        let DiffAttention { device, caps, .. } = self.attention;
        let available = u64::from(caps.workgroups).pow(2).min(u64::from(u32::MAX / 64));
        if workgroups > available {
            let name = "max_compute_workgroups_per_dimension";
            return Err(Error::Limit { name, what: format!("the grid of {label}"), needed: workgroups, available });
        }
        let grid = grid(workgroups, caps);
        let params = CacheParams { grid_width: grid[0], workgroups: workgroups as u32, ..params };
        let uniform = device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(label),
            contents: bytemuck::bytes_of(&params),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let mut entries = vec![bind::entry(CacheBinding::Params as u32, &uniform, 0, size_of::<CacheParams>() as u64)];
        for (number, bound) in self.tensors.iter().filter(|(number, _)| used.contains(number)) {
            entries.push(bound.entry(*number as u32, &bound.tensor.whole(), caps));
        }
        for (number, buffer) in self.buffers.iter().filter(|(number, _)| used.contains(number)) {
            entries.push(bind::entry(*number as u32, buffer, 0, buffer.size()));
        }
        let layout = &pipeline.get_bind_group_layout(0);
        let bind_group =
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: Some(label), layout, entries: &entries });
        Ok(Dispatch { pipeline: pipeline.clone(), bind_group, grid })
    }

    /// One dispatch for each part of the cache, which is bound with the tensors and buffers that the kernel uses.
    ///
    /// # Errors
    /// Those of [`CacheLauncher::dispatch`].
    pub(crate) fn dispatch_shards(
        &self,
        label: &str,
        pipeline: &Arc<wgpu::ComputePipeline>,
        cache: &'a KvCache,
        used: &[CacheBinding],
        workgroups: u64,
    ) -> Result<Vec<Dispatch>> {
        let used = [used, &[CacheBinding::K, CacheBinding::V, CacheBinding::Scales, CacheBinding::Directory]].concat();
        let dispatch = |shard: &'a crate::kv_cache::Shard| {
            let mut buffers = self.buffers.clone();
            buffers.extend([(CacheBinding::K, &shard.k), (CacheBinding::V, &shard.v)]);
            buffers.extend(shard.scales.as_ref().map(|scales| (CacheBinding::Scales, scales)));
            let tensors = self.tensors.clone();
            let with_shard = CacheLauncher { attention: self.attention, params: self.params, tensors, buffers };
            let params = CacheParams { first_unit: shard.first, end_unit: shard.end, ..self.params };
            with_shard.dispatch(label, pipeline, params, &used, workgroups)
        };
        cache.shards().iter().map(dispatch).collect()
    }
}

/// The parameters that say where a cache's rows lie.
pub(crate) fn cache_params(config: &KvConfig, batch: u32, q_len: u32) -> CacheParams {
    CacheParams {
        batch,
        q_len,
        kv_heads: config.kv_heads,
        group: 1,
        row_tiles: 1,
        splits: 1,
        places: config.places(),
        pages: config.table_len(),
        table: config.table_start(),
        ..CacheParams::default()
    }
}

/// Refuses a cache that a plan was not made for, and outputs that lie in one of its buffers.
pub(crate) fn check_cache(
    cache: &KvCache,
    planned: &KvConfig,
    slices: &[(&'static str, TensorSlice<'_>)],
) -> Result<()> {
    if cache.config() != planned {
        let (expected, actual) = (format!("as planned ({planned:?})"), format!("{:?}", cache.config()));
        return Err(Error::invalid("cache.config", expected, actual));
    }
    for (tensor, slice) in slices {
        if cache.shards().iter().any(|shard| *slice.buffer == shard.k || *slice.buffer == shard.v) {
            return Err(Error::Slice { tensor, reason: "it lies in a buffer of the cache".into() });
        }
    }
    Ok(())
}
