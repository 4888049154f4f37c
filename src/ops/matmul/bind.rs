//! The matrices of a product, resolved to ranges of their buffers.

use super::Matrix;
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::ops::bind;

/// A matrix resolved to a range of its buffer.
#[derive(Clone, Copy)]
pub(super) struct Bound<'a> {
    pub(super) buffer: &'a wgpu::Buffer,
    start: u64,
    end: u64,
    /// In quads.
    pub(super) base: u32,
    pub(super) stride: u32,
}

impl<'a> Bound<'a> {
    pub(super) fn new(
        name: &'static str,
        matrix: Matrix<'a>,
        [rows, len]: [u32; 2],
        size: u64,
        caps: &Caps,
    ) -> Result<Self> {
        let Matrix { buffer, offset, stride } = matrix;
        let refuse = |reason: String| Err(Error::Slice { tensor: name, reason });
        if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            return refuse("its buffer was created without BufferUsages::STORAGE".into());
        }
        if offset % (4 * size) != 0 {
            return refuse(format!("its offset is {offset} bytes; it must be a multiple of {} (4 elements)", 4 * size));
        }
        let padded = len.next_multiple_of(4);
        if stride % 4 != 0 || stride < padded {
            return refuse(format!(
                "its stride is {stride} elements; it must be a multiple of 4 and at least {padded}"
            ));
        }
        let end = offset + (u64::from(rows - 1) * u64::from(stride) + u64::from(padded)) * size;
        if end > buffer.size() {
            return refuse(format!("it ends at byte {end}, but the buffer has {}", buffer.size()));
        }
        let alignment = u64::from(caps.offset_alignment).max(16);
        let start = offset / alignment * alignment;
        if end - start > caps.storage_binding {
            let (limit, what) = ("max_storage_buffer_binding_size", format!("`{name}`"));
            return Err(Error::Limit { name: limit, what, needed: end - start, available: caps.storage_binding });
        }
        Ok(Bound { buffer, start, end, base: ((offset - start) / (4 * size)) as u32, stride: stride / 4 })
    }

    pub(super) fn entry(&self, binding: u32) -> wgpu::BindGroupEntry<'a> {
        bind::entry(binding, self.buffer, self.start, self.end - self.start)
    }
}

/// A whole buffer of at least so many bytes.
pub(super) fn whole<'a>(
    tensor: &'static str,
    buffer: &'a wgpu::Buffer,
    needed: u64,
    binding: u32,
) -> Result<wgpu::BindGroupEntry<'a>> {
    if !buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
        let reason = "its buffer was created without BufferUsages::STORAGE".into();
        return Err(Error::Slice { tensor, reason });
    }
    if buffer.size() < needed {
        let [expected, actual] = [needed, buffer.size()].map(|bytes| format!("{bytes} bytes"));
        return Err(Error::Shape { tensor, expected, actual });
    }
    Ok(bind::entry(binding, buffer, 0, buffer.size()))
}
