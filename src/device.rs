//! Asking an adapter for a device with everything that the kernels can use.

use crate::error::{Error, Result};

/// A device with the adapter's own limits and every feature that the kernels use where it is there.
///
/// Callers that have a device already need none of this: [`crate::DiffAttention`] takes any device.
///
/// # Errors
/// [`Error::NoAdapter`] when the adapter refuses.
pub async fn request_device(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue)> {
    let useful = wgpu::Features::SHADER_F16 | wgpu::Features::SUBGROUP | wgpu::Features::TIMESTAMP_QUERY;
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("diffattn"),
        required_features: adapter.features() & useful,
        required_limits: adapter.limits(),
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
