//! Buffers for tensors that come from host memory and go back to it.

use crate::error::{Error, Result};

/// A buffer that holds `contents`, for reading.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn upload(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    name: &'static str,
    contents: Vec<u8>,
) -> Result<wgpu::Buffer> {
    // Not `create_buffer_init`, which panics when the device is out of memory.
    let buffer = create(device, name, contents.len() as u64, wgpu::BufferUsages::COPY_DST)?;
    queue.write_buffer(&buffer, 0, &contents);
    Ok(buffer)
}

/// A buffer of so many bytes, to be written by a kernel and read back or by another kernel.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn output(device: &wgpu::Device, name: &'static str, bytes: u64) -> Result<wgpu::Buffer> {
    create(device, name, bytes, wgpu::BufferUsages::COPY_SRC)
}

fn create(device: &wgpu::Device, name: &'static str, needed: u64, usage: wgpu::BufferUsages) -> Result<wgpu::Buffer> {
    let available = device.limits().max_buffer_size;
    if needed > available {
        return Err(Error::Limit { name: "max_buffer_size", what: format!("`{name}`"), needed, available });
    }
    // An empty tensor still needs a binding.
    let (label, size, usage) = (Some(name), needed.max(32), wgpu::BufferUsages::STORAGE | usage);
    Ok(device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false }))
}
