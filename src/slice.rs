//! Buffer slices: where a tensor lies in a caller's buffer, and how a part of it is bound.

use crate::error::{Error, Result};
use crate::params::View;

/// Order of a tensor's axes in memory. The innermost axis (head_dim or value_dim) is always contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Layout {
    /// Contiguous batch × token × head × dim (FlashAttention, FlashInfer's NHD). lse: batch × token × head.
    Bshd,
    /// Contiguous batch × head × token × dim (PyTorch SDPA, Burn). lse: batch × head × token.
    Bhsd,
    /// Any strides, in elements.
    Strided(Strides),
    /// The order documented for the tensor: batch × head × token for lse, batch × token × head × dim for the others.
    #[default]
    Default,
}

/// Distance between neighbours along each axis, in elements of the storage type.
///
/// For tensors of the storage type all three must be multiples of 8 (out and a₂: of 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strides {
    /// Between sequences; ignored when packed.
    pub batch: u64,
    /// Between tokens.
    pub seq: u64,
    /// Between heads.
    pub head: u64,
}

/// A tensor inside a caller's buffer. The buffer needs `BufferUsages::STORAGE`.
#[derive(Debug, Clone, Copy)]
pub struct TensorSlice<'a> {
    /// The buffer.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element; a multiple of eight elements (out and a₂: four; λ and lse: one).
    pub offset: u64,
    /// Order of the axes.
    pub layout: Layout,
}

impl<'a> TensorSlice<'a> {
    /// A tensor at the start of `buffer`, in its documented order.
    pub fn new(buffer: &'a wgpu::Buffer) -> Self {
        TensorSlice { buffer, offset: 0, layout: Layout::Default }
    }

    /// The same, starting `offset` bytes into the buffer.
    pub fn at(self, offset: u64) -> Self {
        TensorSlice { offset, ..self }
    }

    /// The same, with its axes in another order.
    pub fn layout(self, layout: Layout) -> Self {
        TensorSlice { layout, ..self }
    }
}

impl<'a> From<&'a wgpu::Buffer> for TensorSlice<'a> {
    fn from(buffer: &'a wgpu::Buffer) -> Self {
        TensorSlice::new(buffer)
    }
}

/// A tensor of a problem, resolved: its extents, and its place in memory in elements. Pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tensor {
    pub name: &'static str,
    /// Extents: sequences, tokens, heads, elements of the innermost axis.
    pub batch: u64,
    pub seq: u64,
    pub heads: u64,
    pub dim: u64,
    pub strides: Strides,
    /// Bytes of an element, and elements that the shader reads or writes at once.
    pub size: u64,
    pub unit: u64,
    /// Bytes before the first element.
    pub offset: u64,
    pub writes: bool,
}

/// Part of a tensor: half-open ranges along the three outer axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Part {
    pub batch: std::ops::Range<u64>,
    pub seq: std::ops::Range<u64>,
    pub heads: std::ops::Range<u64>,
}

impl Part {
    fn is_empty(&self) -> bool {
        self.batch.is_empty() || self.seq.is_empty() || self.heads.is_empty()
    }
}

impl Tensor {
    pub(crate) fn whole(&self) -> Part {
        Part { batch: 0..self.batch, seq: 0..self.seq, heads: 0..self.heads }
    }

    /// The strides of `layout`, given the extents.
    pub(crate) fn strides_of(layout: Layout, default: Layout, seq: u64, heads: u64, dim: u64) -> Strides {
        match layout {
            Layout::Strided(strides) => strides,
            Layout::Bshd => Strides { batch: seq * heads * dim, seq: heads * dim, head: dim },
            Layout::Bhsd => Strides { batch: seq * heads * dim, seq: dim, head: seq * dim },
            // `default` is one of the two above.
            Layout::Default => Self::strides_of(default, default, seq, heads, dim),
        }
    }

    /// Bytes `[first, end)` of the buffer that `part` touches, gaps included. Saturates instead of overflowing.
    pub(crate) fn bytes(&self, part: &Part) -> std::ops::Range<u64> {
        if part.is_empty() {
            return self.offset..self.offset;
        }
        let at = |batch: u64, seq: u64, head: u64| {
            [(batch, self.strides.batch), (seq, self.strides.seq), (head, self.strides.head)]
                .iter()
                .fold(0u64, |sum, (index, stride)| sum.saturating_add(index.saturating_mul(*stride)))
        };
        let first = at(part.batch.start, part.seq.start, part.heads.start);
        let end = at(part.batch.end - 1, part.seq.end - 1, part.heads.end - 1).saturating_add(self.dim);
        let byte = |element: u64| element.saturating_mul(self.size).saturating_add(self.offset);
        byte(first)..byte(end)
    }

    /// The bytes to bind for `part`: moved down to an allowed offset, up to a whole unit and to wgpu's multiple of 4.
    pub(crate) fn binding(&self, part: &Part, alignment: u64) -> std::ops::Range<u64> {
        let bytes = self.bytes(part);
        let unit = self.unit * self.size;
        let start = bytes.start / alignment.max(unit) * alignment.max(unit);
        let least = unit.max(4); // an empty tensor still needs a binding
        start..bytes.end.max(start.saturating_add(least))
    }

    /// How the shader addresses `part` inside its binding.
    pub(crate) fn view(&self, part: &Part, alignment: u64) -> View {
        let first = self.bytes(part).start - self.binding(part, alignment).start;
        // The binding limit keeps every offset below 2³² units; a stride along an axis of one is never used.
        let stride = |stride: u64, extent: &std::ops::Range<u64>| {
            if extent.end - extent.start > 1 { (stride / self.unit) as u32 } else { 0 }
        };
        View {
            base: (first / (self.unit * self.size)) as u32,
            batch: stride(self.strides.batch, &part.batch),
            seq: stride(self.strides.seq, &part.seq),
            head: stride(self.strides.head, &part.heads),
        }
    }

    /// Checks strides and offset against the unit, and the extent against the buffer.
    pub(crate) fn validate(&self, buffer_size: u64) -> Result<()> {
        let Tensor { name, unit, .. } = *self;
        let refuse = |reason: String| Err(Error::Slice { tensor: name, reason });
        if !self.offset.is_multiple_of(unit * self.size) {
            let bytes = unit * self.size;
            return refuse(format!(
                "its offset is {} bytes; it must be a multiple of {bytes} ({unit} elements)",
                self.offset
            ));
        }
        let axes = [
            ("batch", self.strides.batch, self.batch),
            ("seq", self.strides.seq, self.seq),
            ("head", self.strides.head, self.heads),
        ];
        for (axis, stride, extent) in axes {
            if extent > 1 && stride % unit != 0 {
                return refuse(format!("its {axis} stride is {stride} elements; it must be a multiple of {unit}"));
            }
            if extent > 1 && stride / unit > u64::from(u32::MAX) {
                return refuse(format!("its {axis} stride is {stride} elements; shaders address at most 2³² units"));
            }
        }
        if self.writes && !self.whole().is_empty() {
            self.check_disjoint_rows()?;
        }
        let needed = self.binding(&self.whole(), 1).end;
        if needed > buffer_size {
            return refuse(format!("it ends at byte {needed}, but the buffer has {buffer_size}"));
        }
        Ok(())
    }
}

impl Tensor {
    /// Rows that are written must not overlap: each axis must step over all that the shorter ones span.
    fn check_disjoint_rows(&self) -> Result<()> {
        let Strides { batch, seq, head } = self.strides;
        let mut axes = [("batch", batch, self.batch), ("seq", seq, self.seq), ("head", head, self.heads)];
        axes.sort_by_key(|(_, stride, _)| *stride);
        let mut span = self.dim;
        for (axis, stride, extent) in axes.into_iter().filter(|(_, _, extent)| *extent > 1) {
            if stride < span {
                let reason = format!("its {axis} stride is {stride} elements, less than the {span} written in between");
                return Err(Error::Slice { tensor: self.name, reason });
            }
            span = span.saturating_add(stride.saturating_mul(extent - 1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(layout: Layout) -> Tensor {
        let (batch, seq, heads, dim) = (2, 5, 3, 16);
        let strides = Tensor::strides_of(layout, Layout::Bshd, seq, heads, dim);
        Tensor { name: "k", batch, seq, heads, dim, strides, size: 2, unit: 8, offset: 32, writes: false }
    }

    #[test]
    fn a_part_is_addressed_as_the_whole_is() {
        for layout in [Layout::Bshd, Layout::Bhsd, Layout::Strided(Strides { batch: 1024, seq: 24, head: 160 })] {
            let tensor = tensor(layout);
            let part = Part { batch: 1..2, seq: 2..5, heads: 1..3 };
            for alignment in [4, 16, 256] {
                let (view, binding) = (tensor.view(&part, alignment), tensor.binding(&part, alignment));
                assert_eq!(binding.start % alignment, 0);
                for (seq, head) in [(0, 0), (2, 1), (1, 0)] {
                    let unit = u64::from(view.base) + seq * u64::from(view.seq) + head * u64::from(view.head);
                    let whole = &tensor.strides;
                    let element = whole.batch + (2 + seq) * whole.seq + (1 + head) * whole.head;
                    assert_eq!(binding.start + unit * 16, 32 + element * 2, "{layout:?} {alignment}");
                }
                assert!(binding.end <= tensor.bytes(&tensor.whole()).end);
            }
        }
    }

    #[test]
    fn bad_slices_are_named() {
        let message = |tensor: Tensor, size| tensor.validate(size).unwrap_err().to_string();
        let good = tensor(Layout::Bshd);
        let end = good.bytes(&good.whole()).end;
        assert_eq!(good.validate(end), Ok(()));
        assert!(message(good, end - 1).contains("but the buffer has"));
        assert!(message(Tensor { offset: 8, ..good }, end).contains("multiple of 16"));
        let strides = Strides { head: 17, ..good.strides };
        assert!(message(Tensor { strides, ..good }, u64::MAX).contains("head stride is 17"));
        let strides = Strides { seq: 0, ..good.strides };
        assert!(message(Tensor { strides, writes: true, ..good }, end).contains("written in between"));
        let strides = Strides { batch: 240, seq: 16, head: 24 };
        assert!(message(Tensor { strides, writes: true, ..good }, end).contains("head stride is 24"));
        assert_eq!(
            Tensor { seq: 0, strides: Strides { seq: 0, ..strides }, writes: true, ..good }.validate(end),
            Ok(())
        );
        let strides = Strides { batch: u64::MAX - 7, ..good.strides };
        assert!(Tensor { strides, ..good }.validate(u64::MAX).is_err());
    }
}
