//! Tiles that records say are fastest, by vendor: an untuned run takes them before any estimate. Pure data.

use super::{AnyTile, Path};
use crate::caps::Caps;
use crate::problem::Problem;

/// A tile for problems of one kind on the discrete GPUs of one vendor.
struct Measured {
    /// PCI vendor number.
    vendor: u32,
    path: Path,
    /// Both head_dim and value_dim.
    dim: u32,
    /// As in labels.
    tile: &'static str,
}

/// Every row is from the sweeps in benches/record/nvidia-nvidia-h200.
const MEASURED: &[Measured] = &[
    Measured { vendor: 0x10de, path: Path::Matrix, dim: 128, tile: "r128k32m16x2t256c2iu" },
    Measured { vendor: 0x10de, path: Path::Matrix, dim: 96, tile: "r128k32m16x2t256c2iu" },
    Measured { vendor: 0x10de, path: Path::Matrix, dim: 64, tile: "r128k32m16x2t256c2iu" },
    Measured { vendor: 0x10de, path: Path::Portable, dim: 128, tile: "r128k40t256n5h2" },
    Measured { vendor: 0x10de, path: Path::Portable, dim: 64, tile: "r128k40t256n5h2" },
];

/// Queries from which a row applies; all were measured at 4096, and their tiles take 64 at a time.
const LEAST_QUERIES: u32 = 512;

/// The measured tile for a problem on a path, where there is one that the device runs. All were measured on f16, and that of
/// head_dim 128 on bf16 too: whatever is stored, the kernels compute in the same type.
pub(crate) fn measured_tile(problem: &Problem, path: Path, caps: &Caps) -> Option<AnyTile> {
    let shape = &problem.shape;
    let row = MEASURED
        .iter()
        .find(|row| (row.vendor, row.path, row.dim, row.dim) == (caps.vendor, path, shape.head_dim, shape.value_dim))?;
    let tile: AnyTile = row.tile.parse().ok()?;
    let applies = caps.kind == wgpu::DeviceType::DiscreteGpu && shape.q_len >= LEAST_QUERIES;
    (applies && tile.validate(problem, path, caps).is_ok()).then_some(tile)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_reads_as_a_tile() {
        for row in MEASURED {
            let tile: AnyTile = row.tile.parse().expect("a tile");
            assert_eq!(tile.to_string(), row.tile);
        }
    }
}
