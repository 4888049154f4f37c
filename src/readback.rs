//! Getting a buffer's contents to the host: staging copy, map, await.

use crate::error::{Error, Result};
use crate::ops::host::with_memory;

/// The contents of `buffer`, which needs `BufferUsages::COPY_SRC`. Waits for all work submitted before.
///
/// # Errors
/// [`Error::Readback`] for a buffer without that usage or of a size that is no multiple of 4, or when mapping fails;
/// [`Error::OutOfMemory`]; [`Error::DeviceLost`].
pub async fn read_buffer(device: &wgpu::Device, queue: &wgpu::Queue, buffer: &wgpu::Buffer) -> Result<Vec<u8>> {
    let refuse = |reason: &str| Err(Error::Readback { reason: reason.into() });
    if !buffer.usage().contains(wgpu::BufferUsages::COPY_SRC) {
        return refuse("the buffer was created without BufferUsages::COPY_SRC");
    }
    if !buffer.size().is_multiple_of(wgpu::COPY_BUFFER_ALIGNMENT) {
        return refuse("the buffer's size is not a multiple of 4 bytes");
    }
    if buffer.size() == 0 {
        return Ok(Vec::new());
    }
    let create = || {
        Ok(device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("diffattn.readback"),
            size: buffer.size(),
            usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
            mapped_at_creation: false,
        }))
    };
    let during = "reading back results";
    let staging = with_memory(device, during, create).await?;
    let mut encoder = device.create_command_encoder(&Default::default());
    encoder.copy_buffer_to_buffer(buffer, 0, &staging, 0, buffer.size());
    queue.submit([encoder.finish()]);

    let (sender, receiver) = futures_channel::oneshot::channel();
    staging.map_async(wgpu::MapMode::Read, .., move |result| {
        // The receiver is gone only when the caller dropped this future.
        let _ = sender.send(result);
    });
    // Natively somebody must drive the queue; a browser does so itself, and ignores this.
    let lost = |reason: String| Error::DeviceLost { reason };
    device.poll(wgpu::PollType::wait_indefinitely()).map_err(|error| lost(error.to_string()))?;
    receiver
        .await
        .map_err(|_| lost("the map callback never ran".into()))?
        .map_err(|error| Error::Readback { reason: error.to_string() })?;
    let view = staging.get_mapped_range(..).map_err(|error| Error::Readback { reason: error.to_string() })?;
    let mut contents = Vec::new();
    contents.try_reserve_exact(view.len()).map_err(|_| Error::OutOfMemory { during: during.into() })?;
    contents.extend_from_slice(&view);
    Ok(contents)
}
