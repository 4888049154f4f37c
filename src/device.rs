//! Asking an adapter for a device with everything that the kernels can use.

use crate::caps::MATRIX_FEATURES;
use crate::error::{Error, Result};

/// A device with the adapter's own limits and every feature that the kernels use where it is there.
///
/// Callers that have a device already need none of this: [`crate::DiffAttention`] takes any device.
///
/// # Errors
/// [`Error::NoAdapter`] when the adapter refuses.
pub async fn request_device(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue)> {
    let features = adapter.features();
    let mut wanted = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
    let mut experimental_features = wgpu::ExperimentalFeatures::disabled();
    if features.contains(MATRIX_FEATURES) {
        wanted |= MATRIX_FEATURES;
        #[expect(unsafe_code, reason = "wgpu asks for it before any experimental feature")]
        // SAFETY: of the experimental features only cooperative matrices are requested, and only this crate's own
        // shaders use them, in the forms that the tests run.
        let enabled = unsafe { wgpu::ExperimentalFeatures::enabled() };
        experimental_features = enabled;
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("diffattn"),
        required_features: features & wanted,
        required_limits: adapter.limits(),
        experimental_features,
        ..Default::default()
    };
    adapter.request_device(&descriptor).await.map_err(|error| Error::NoAdapter { reason: error.to_string() })
}

/// A device with the default limits of WebGPU and no optional feature: the floor that every kernel must run on.
///
/// # Errors
/// [`Error::NoAdapter`] when the adapter refuses.
pub async fn request_floor_device(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue)> {
    let descriptor = wgpu::DeviceDescriptor { label: Some("diffattn.floor"), ..Default::default() };
    adapter.request_device(&descriptor).await.map_err(|error| Error::NoAdapter { reason: error.to_string() })
}
