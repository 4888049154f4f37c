//! Buffers for tensors that come from host memory and go back to it.

use wgpu::util::DeviceExt as _;

use crate::error::{Error, Result};

/// A buffer that holds `contents`, for reading. Empty tensors get a few bytes, since a binding cannot be empty.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn upload(device: &wgpu::Device, name: &'static str, mut contents: Vec<u8>) -> Result<wgpu::Buffer> {
    fits(device, name, contents.len() as u64)?;
    if contents.is_empty() {
        contents.resize(32, 0);
    }
    let usage = wgpu::BufferUsages::STORAGE;
    let descriptor = wgpu::util::BufferInitDescriptor { label: Some(name), contents: &contents, usage };
    Ok(device.create_buffer_init(&descriptor))
}

/// A buffer of so many bytes, to be written by a kernel and read back or by another kernel.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn output(device: &wgpu::Device, name: &'static str, bytes: u64) -> Result<wgpu::Buffer> {
    fits(device, name, bytes)?;
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let size = bytes.max(32);
    Ok(device.create_buffer(&wgpu::BufferDescriptor { label: Some(name), size, usage, mapped_at_creation: false }))
}

fn fits(device: &wgpu::Device, name: &'static str, needed: u64) -> Result<()> {
    let available = device.limits().max_buffer_size;
    if needed > available {
        return Err(Error::Limit { name: "max_buffer_size", what: format!("`{name}`"), needed, available });
    }
    Ok(())
}
