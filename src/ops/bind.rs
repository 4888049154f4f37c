//! What the operations share in turning a caller's slices into bind groups.

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::slice::{Layout, Part, Tensor, TensorSlice};

/// A tensor together with the buffer that holds it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bound<'a> {
    pub buffer: &'a wgpu::Buffer,
    pub tensor: Tensor,
}

/// Extents of a tensor: sequences, tokens, heads, elements of the innermost axis.
pub(crate) type Extents = [u32; 4];

/// How a kernel uses a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Use {
    pub name: &'static str,
    /// Bytes of an element.
    pub size: u64,
    /// Elements read or written at once.
    pub unit: u64,
    pub writes: bool,
    /// What [`Layout::Default`] means.
    pub default: Layout,
}

impl<'a> Bound<'a> {
    /// Resolves and checks a slice.
    pub(crate) fn new(slice: TensorSlice<'a>, extents: Extents, how: Use) -> Result<Self> {
        let [batch, seq, heads, dim] = extents.map(u64::from);
        let Use { name, size, unit, writes, default } = how;
        let strides = Tensor::strides_of(slice.layout, default, seq, heads, dim);
        let tensor = Tensor { name, batch, seq, heads, dim, strides, size, unit, offset: slice.offset, writes };
        if !slice.buffer.usage().contains(wgpu::BufferUsages::STORAGE) {
            let reason = "its buffer was created without BufferUsages::STORAGE".into();
            return Err(Error::Slice { tensor: name, reason });
        }
        tensor.validate(slice.buffer.size())?;
        Ok(Bound { buffer: slice.buffer, tensor })
    }

    pub(crate) fn entry(&self, binding: u32, part: &Part, caps: &Caps) -> wgpu::BindGroupEntry<'a> {
        let bytes = self.tensor.binding(part, caps.offset_alignment.into());
        entry(binding, self.buffer, bytes.start, bytes.end - bytes.start)
    }
}

/// A bind group entry for a range of a buffer.
pub(crate) fn entry(binding: u32, buffer: &wgpu::Buffer, offset: u64, size: u64) -> wgpu::BindGroupEntry<'_> {
    let size = wgpu::BufferSize::new(size);
    wgpu::BindGroupEntry {
        binding,
        resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding { buffer, offset, size }),
    }
}

/// Refuses one buffer for reading and for writing, and overlapping outputs: WebGPU forbids both in one dispatch.
pub(crate) fn check_aliasing(bound: &[Bound<'_>], caps: &Caps) -> Result<()> {
    for (index, output) in bound.iter().enumerate().filter(|(_, bound)| bound.tensor.writes) {
        for (other_index, other) in bound.iter().enumerate() {
            if index == other_index || output.buffer != other.buffer {
                continue;
            }
            let refuse = |reason| Err(Error::Slice { tensor: output.tensor.name, reason });
            if !other.tensor.writes {
                let other = other.tensor.name;
                return refuse(format!("`{other}` is read from the same buffer; WebGPU needs outputs in another one"));
            }
            let range = |bound: &Bound<'_>| bound.tensor.binding(&bound.tensor.whole(), caps.offset_alignment.into());
            let (a, b) = (range(output), range(other));
            if a.start < b.end && b.start < a.end {
                let (other, align) = (other.tensor.name, caps.offset_alignment);
                return refuse(format!("it overlaps `{other}` once both start at multiples of {align} bytes"));
            }
        }
    }
    Ok(())
}
