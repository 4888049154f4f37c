//! Small blocks that a launch uploads, packed into few buffers, none of them large. Pure until they are uploaded.

use wgpu::util::DeviceExt as _;

/// Bytes of the largest buffer that a launch allocates, whatever the problem.
pub(crate) const LARGEST: u64 = 512 << 10;

/// Blocks of bytes one after another, in as many buffers as they need.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    contents: Vec<Vec<u8>>,
    places: Vec<Place>,
}

/// Where a block lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index of the buffer.
    pub buffer: usize,
    /// Bytes before the block.
    pub offset: u64,
    /// Bytes of the block.
    pub size: u64,
}

impl Blocks {
    /// Adds a block of at most [`LARGEST`] bytes, whose offset is a multiple of `alignment`.
    pub(crate) fn push(&mut self, block: &[u8], alignment: usize) {
        let fits = |last: &mut Vec<u8>| {
            let offset = last.len().next_multiple_of(alignment);
            (offset + block.len() <= LARGEST as usize).then_some(offset)
        };
        let offset = self.contents.last_mut().and_then(fits).unwrap_or_else(|| {
            self.contents.push(Vec::new());
            0
        });
        let buffer = self.contents.len() - 1;
        let contents = &mut self.contents[buffer];
        contents.resize(offset, 0);
        contents.extend_from_slice(block);
        self.places.push(Place { buffer, offset: offset as u64, size: block.len() as u64 });
    }

    /// Where the blocks lie, in the order in which they came.
    pub(crate) fn places(&self) -> &[Place] {
        &self.places
    }

    /// Creates the buffers.
    pub(crate) fn upload(&self, device: &wgpu::Device, label: &str, usage: wgpu::BufferUsages) -> Vec<wgpu::Buffer> {
        let buffer = |contents: &Vec<u8>| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: Some(label), contents, usage })
        };
        self.contents.iter().map(buffer).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_buffer_grows_beyond_the_largest() {
        let mut blocks = Blocks::default();
        let sizes = [20, LARGEST as usize, 512, LARGEST as usize - 512, 1, 300_000, 300_000, 20];
        let block = |index: usize, size: usize| vec![index as u8 + 1; size];
        sizes.iter().enumerate().for_each(|(index, &size)| blocks.push(&block(index, size), 256));
        assert!(blocks.contents.iter().all(|contents| contents.len() as u64 <= LARGEST));
        for (index, (place, &size)) in blocks.places().iter().zip(&sizes).enumerate() {
            assert!(place.offset % 256 == 0 && place.size == size as u64);
            let start = place.offset as usize;
            assert_eq!(blocks.contents[place.buffer][start..start + size], block(index, size));
        }
        assert_eq!(blocks.places()[3], Place { buffer: 2, offset: 512, size: LARGEST - 512 });
        assert_eq!(blocks.contents.len(), 5);
    }
}
