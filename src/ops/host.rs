//! Buffers for tensors that come from host memory and go back to it.

use crate::attention::DiffAttention;
use crate::error::{Error, Result};

/// What `create` makes on the device, unless the device has no room for it.
///
/// # Errors
/// [`Error::OutOfMemory`] while doing `during`, and those of `create`.
pub(crate) async fn with_memory<T>(
    device: &wgpu::Device,
    during: &str,
    create: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let created = create();
    let out_of_memory = scope.pop();
    match out_of_memory.await {
        None => created,
        Some(_) => Err(Error::OutOfMemory { during: during.into() }),
    }
}

/// A buffer that holds `contents`, for reading. Not `create_buffer_init`, which panics when the device is out of memory.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn upload(attention: &DiffAttention, name: &'static str, contents: Vec<u8>) -> Result<wgpu::Buffer> {
    let buffer = room(attention, name, contents.len() as u64)?;
    attention.queue.write_buffer(&buffer, 0, &contents);
    Ok(buffer)
}

/// A buffer of so many bytes, to be written by the queue and read by a kernel.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn room(attention: &DiffAttention, name: &'static str, bytes: u64) -> Result<wgpu::Buffer> {
    create(attention, name, bytes, wgpu::BufferUsages::COPY_DST)
}

/// A buffer of so many bytes, to be written by a kernel and read back or by another kernel.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn output(attention: &DiffAttention, name: &'static str, bytes: u64) -> Result<wgpu::Buffer> {
    create(attention, name, bytes, wgpu::BufferUsages::COPY_SRC)
}

/// A buffer of so many bytes that kernels can use.
///
/// # Errors
/// [`Error::Limit`] above the device's largest buffer.
pub(crate) fn create(
    attention: &DiffAttention,
    name: &'static str,
    needed: u64,
    usage: wgpu::BufferUsages,
) -> Result<wgpu::Buffer> {
    let available = attention.device.limits().max_buffer_size;
    if needed > available {
        return Err(Error::Limit { name: "max_buffer_size", what: format!("`{name}`"), needed, available });
    }
    // An empty tensor still needs a binding.
    let (label, size, usage) = (Some(name), needed.max(32), wgpu::BufferUsages::STORAGE | usage);
    Ok(attention.device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false }))
}
