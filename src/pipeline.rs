//! Variant → compiled pipeline, kept for the life of the handle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::shader::{CacheVariant, LayerVariant, Variant};

/// A kernel of any operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AnyVariant {
    /// Attention over whole tensors.
    Tensors(Variant),
    /// Decode, merge and append, around a KV cache.
    Cache(CacheVariant),
    /// The attention module around it.
    Layer(LayerVariant),
}

/// What a pipeline is compiled from: the kernel, and whether the driver's runtime checks are on.
pub(crate) type Key = (AnyVariant, bool);

/// Compiled pipelines by variant.
#[derive(Debug, Default)]
pub(crate) struct Pipelines {
    compiled: Mutex<HashMap<Key, Arc<wgpu::ComputePipeline>>>,
}

impl Pipelines {
    /// The pipeline of a variant, compiled on first use.
    ///
    /// # Errors
    /// [`Error::Limit`] for more storage buffers than the device binds at once; [`Error::Shader`] with what wgpu or the
    /// driver said; [`Error::OutOfMemory`].
    pub(crate) async fn get(&self, device: &wgpu::Device, key: Key) -> Result<Arc<wgpu::ComputePipeline>> {
        if let Some(pipeline) = self.lock().get(&key) {
            return Ok(pipeline.clone());
        }
        // The lock is not held while compiling: two callers may compile one variant, and the first result stays.
        let (label, source) = match key.0 {
            AnyVariant::Tensors(variant) => (variant.label(), variant.source()),
            AnyVariant::Cache(variant) => (variant.label(), variant.source()),
            AnyVariant::Layer(variant) => (variant.label(), variant.source()),
        };
        let pipeline = Arc::new(compile(device, &label, source, key.1).await?);
        Ok(self.lock().entry(key).or_insert(pipeline).clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<wgpu::ComputePipeline>>> {
        // A panic elsewhere cannot leave a half-inserted pipeline behind.
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Compiles one of this crate's own shaders.
///
/// # Errors
/// As [`Pipelines::get`].
pub(crate) async fn compile(
    device: &wgpu::Device,
    label: &str,
    source: String,
    runtime_checks: bool,
) -> Result<wgpu::ComputePipeline> {
    #[cfg(not(target_arch = "wasm32"))]
    dump(label, &source);
    let needed = source.matches("var<storage").count() as u64;
    let available = device.limits().max_storage_buffers_per_shader_stage.into();
    if needed > available {
        let name = "max_storage_buffers_per_shader_stage";
        return Err(Error::Limit { name, what: label.into(), needed, available });
    }
    let checks =
        if runtime_checks { wgpu::ShaderRuntimeChecks::checked() } else { wgpu::ShaderRuntimeChecks::unchecked() };
    let out_of_memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let descriptor =
        wgpu::ShaderModuleDescriptor { label: Some(label), source: wgpu::ShaderSource::Wgsl(source.into()) };
    #[expect(unsafe_code, reason = "bounds checks cost up to a third; see the safety comment")]
    // SAFETY: the text is this crate's own. Every index is derived from sizes that `bind` checked against the bound
    // ranges and from lane numbers below the workgroup's size, loops end by construction, and the tests give the same
    // bits with the checks on and off.
    let module = unsafe { device.create_shader_module_trusted(descriptor, checks) };
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some(label),
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: wgpu::PipelineCompilationOptions {
            // Every kernel writes workgroup memory before it uses what it reads.
            zero_initialize_workgroup_memory: false,
            ..Default::default()
        },
        cache: None,
    });
    // All scopes are popped, innermost first, before anything is awaited: a scope must not outlive this call, where
    // another plan could open one in between.
    for error in [validation.pop(), internal.pop(), out_of_memory.pop()] {
        match error.await {
            None => {}
            Some(wgpu::Error::OutOfMemory { .. }) => {
                return Err(Error::OutOfMemory { during: format!("compiling {label}") });
            }
            Some(error) => return Err(Error::Shader { label: label.into(), message: error.to_string() }),
        }
    }
    Ok(pipeline)
}

/// Writes the text to the folder named by `DIFFATTN_DUMP_WGSL`, under its label.
#[cfg(not(target_arch = "wasm32"))]
fn dump(label: &str, source: &str) {
    let Some(folder) = std::env::var_os("DIFFATTN_DUMP_WGSL") else { return };
    let path = std::path::Path::new(&folder).join(format!("{label}.wgsl"));
    // A debugging aid must not stop the program, but it must not fail silently either.
    if let Err(error) = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, source)) {
        log::warn!("DIFFATTN_DUMP_WGSL: cannot write {}: {error}", path.display());
    }
}
