//! (problem, capabilities) → tile of the matrix path. Pure.

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::problem::{DType, Problem, Shape};

/// What one workgroup of `shaders/forward_matrix.wgsl` owns; the shader tells the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixTile {
    /// Side of the device's matrices: 8 or 16.
    pub size: u32,
    /// Lanes of a subgroup.
    pub subgroup: u32,
    /// Subgroups in the workgroup, at most 4.
    pub subgroups: u32,
    /// Strips of `size` rows that one subgroup owns.
    pub strips: u32,
    /// Keys of one step; a multiple of `size`.
    pub keys: u32,
    /// Output heads of one KV group whose rows share the tile.
    pub heads_per_tile: u32,
}

impl MatrixTile {
    /// Packed query rows: position × output head of the tile × member of the pair.
    pub const fn rows(&self) -> u32 {
        self.subgroups * self.strips * self.size
    }

    /// Query positions.
    pub const fn positions(&self) -> u32 {
        self.rows() / (2 * self.heads_per_tile)
    }

    /// f16 elements between two rows of Q: padded to whole matrices, and by 16 bytes against bank conflicts.
    pub const fn q_stride(&self, shape: &Shape) -> u32 {
        shape.head_dim.next_multiple_of(self.size) + 8
    }

    /// f16 elements between two keys of K and V.
    pub const fn kv_stride(&self, shape: &Shape) -> u32 {
        let widest = if shape.head_dim > shape.value_dim { shape.head_dim } else { shape.value_dim };
        widest.next_multiple_of(self.size) + 8
    }

    /// f32 elements between two rows of scores.
    pub const fn score_stride(&self) -> u32 {
        self.keys + 4
    }

    /// f16 elements between two rows of weights.
    pub const fn weight_stride(&self) -> u32 {
        self.keys + 8
    }

    /// Bytes of workgroup memory: the terms stated at the head of forward_matrix.wgsl.
    pub const fn workgroup_bytes(&self, shape: &Shape) -> u32 {
        let halves = self.rows() * (self.q_stride(shape) + self.weight_stride()) + self.keys * self.kv_stride(shape);
        let words = self.rows() * (self.score_stride() + 1) + self.subgroups * self.size * self.size + 4;
        2 * halves + 4 * words
    }
}

/// The tile for the matrix path: as many rows as fit, since every K and V fragment then serves more of them.
///
/// # Errors
/// [`Error::MissingFeature`] without matrix units (or without the adapter, see [`crate::DiffAttention::with_adapter`]),
/// [`Error::Unsupported`] for f32 storage, [`Error::Limit`] when not even the smallest tile fits.
pub fn matrix_tile(problem: &Problem, caps: &Caps) -> Result<MatrixTile> {
    let (Some(size), Some((subgroup, _))) = (caps.matrix, caps.subgroups) else {
        let hint = "create the device with diffattn::request_device and the handle with DiffAttention::with_adapter, \
                    or use another path";
        return Err(Error::MissingFeature { path: "matrix", feature: "EXPERIMENTAL_COOPERATIVE_MATRIX", hint });
    };
    if problem.dtype == DType::F32 {
        let what = "f32 storage on matrix units, whose operands are f16,".into();
        return Err(Error::Unsupported { what, hint: "store q, k and v as f16 or bf16, or use another path".into() });
    }
    let shape = &problem.shape;
    let group = shape.group();
    // Rows that exist for one KV head; more would only be padding.
    let rows = u64::from(shape.q_len.max(1)) * 2 * u64::from(group);
    let mut best: Option<(u64, MatrixTile)> = None;
    let mut needed = u32::MAX;
    for keys in [32, 16] {
        for strips in [2, 1] {
            for subgroups in [4, 2, 1] {
                for heads_per_tile in (1..=group).filter(|heads| group.is_multiple_of(*heads)) {
                    let tile = MatrixTile { size, subgroup, subgroups, strips, keys, heads_per_tile };
                    needed = needed.min(tile.workgroup_bytes(shape));
                    let fits = tile.workgroup_bytes(shape) <= caps.workgroup_storage
                        && subgroups * subgroup <= caps.invocations
                        && tile.positions() > 0;
                    let lanes = (strips * size).max(subgroup) % (strips * size).min(subgroup) == 0;
                    // One lane takes whole quads of a row's keys.
                    let lanes_per_row = (subgroup / (strips * size)).max(1);
                    if !fits || !lanes || !(keys / lanes_per_row).is_multiple_of(4) {
                        continue;
                    }
                    // Key steps × workgroups, weighed by their rows: padding counts, small tiles re-read K and V.
                    let tiles =
                        u64::from(shape.q_len.max(1).div_ceil(tile.positions())) * u64::from(group / heads_per_tile);
                    let work = tiles * u64::from(tile.rows() + 64) * u64::from(32 / keys + 3);
                    if rows > 0 && best.is_none_or(|(least, _)| work < least) {
                        best = Some((work, tile));
                    }
                }
            }
        }
    }
    let limit = || Error::Limit {
        name: "max_compute_workgroup_storage_size",
        what: "the smallest tile of the matrix kernel".into(),
        needed: needed.into(),
        available: caps.workgroup_storage.into(),
    };
    best.map(|(_, tile)| tile).ok_or_else(limit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Options;

    #[test]
    fn every_head_size_fits_a_cuda_class_device_and_a_software_driver() {
        let cuda = Caps { workgroup_storage: 48 << 10, subgroups: Some((32, 32)), matrix: Some(16), ..Caps::floor() };
        let software = Caps { workgroup_storage: 32 << 10, subgroups: Some((8, 8)), matrix: Some(8), ..Caps::floor() };
        for caps in [&cuda, &software] {
            for dim in [8, 64, 96, 128, 192, 256] {
                for q_len in [1, 100, 4096] {
                    let shape =
                        Shape { batch: 1, q_len, kv_len: 64, heads: 16, kv_heads: 8, head_dim: dim, value_dim: dim };
                    let problem = Problem::new(shape, DType::F16, Options::default());
                    let tile = matrix_tile(&problem, caps).expect("a tile fits");
                    assert!(tile.workgroup_bytes(&shape) <= caps.workgroup_storage, "{tile:?}");
                }
            }
        }
        let f32 = Shape { batch: 1, q_len: 1, kv_len: 1, heads: 1, kv_heads: 1, head_dim: 64, value_dim: 64 };
        let problem = Problem::new(f32, DType::F32, Options::default());
        assert!(matrix_tile(&problem, &cuda).unwrap_err().is_unsupported());
        assert!(matrix_tile(&problem, &Caps::floor()).unwrap_err().is_unsupported());
    }
}
