//! (problem, capabilities) → tile of the matrix path. Pure.

use std::fmt;
use std::str::FromStr;

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::problem::{DType, Problem, Shape};
use crate::tile::{CORES, Choice, Fields, Path, limit};

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

    /// Invocations in the workgroup.
    pub const fn threads(&self) -> u32 {
        self.subgroups * self.subgroup
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

    /// Whether the kernel's own rules hold, apart from any device.
    fn is_sound(&self, shape: &Shape) -> bool {
        let rows = self.strips * self.size;
        let counts = [self.subgroup, self.subgroups, self.strips, self.keys, self.heads_per_tile];
        matches!(self.size, 8 | 16)
            && counts.iter().all(|&count| (1..=256).contains(&count))
            && self.subgroups <= 4
            && self.keys.is_multiple_of(self.size)
            // A lane takes whole rows, or whole quads of a row's keys.
            && rows.max(self.subgroup).is_multiple_of(rows.min(self.subgroup))
            && (self.keys / (self.subgroup / rows).max(1)).is_multiple_of(4)
            && shape.group().is_multiple_of(self.heads_per_tile)
            && self.rows() >= 2 * self.heads_per_tile
    }

    /// Checks the tile against the problem and the device.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without matrix units (or without the adapter, see
    /// [`crate::DiffAttention::with_adapter`]), [`Error::Unsupported`] for f32 storage, [`Error::Invalid`] for a tile that
    /// breaks the kernel's rules or is of another device's matrices, [`Error::Limit`] for too many invocations or too much
    /// workgroup memory.
    pub fn validate(&self, problem: &Problem, caps: &Caps) -> Result<()> {
        let (size, subgroup) = units(problem, caps)?;
        if (self.size, self.subgroup) != (size, subgroup) {
            let device = format!("of matrices of {size} × {size} and subgroups of {subgroup}, which the device has");
            return Err(Error::invalid("tile", device, self));
        }
        if !self.is_sound(&problem.shape) {
            let rule = "at most 4 subgroups, keys a multiple of the matrices' side, a subgroup's rows and lanes one a \
                        multiple of the other with whole quads of keys for each lane, heads_per_tile a divisor of \
                        heads / kv_heads, at most rows / 2";
            return Err(Error::invalid("tile", rule, self));
        }
        limit("max_compute_invocations_per_workgroup", self.threads(), caps.invocations)?;
        limit("max_compute_workgroup_storage_size", self.workgroup_bytes(&problem.shape), caps.workgroup_storage)
    }

    /// Estimated time in the unit of the tiled kernels' estimate (`src/tile.rs`): slots of one multiply-add of a lane.
    ///
    /// A matrix unit is taken to do eight multiply-adds in a slot, which is low: 8 to 32 are built. Four bytes of
    /// workgroup memory cost a slot, as there. For each key tile and subgroup: fragments of K and V once, of Q and of the
    /// weights for every strip, and for each score 12 bytes to pass from accumulators to lanes and back.
    fn cost(&self, problem: &Problem) -> f64 {
        const UNITS: f64 = 8.0;
        const BARRIER: f64 = 40.0;
        let shape = &problem.shape;
        let dims = f64::from(shape.head_dim.next_multiple_of(self.size) + shape.value_dim.next_multiple_of(self.size));
        let (keys, lanes) = (f64::from(self.keys), f64::from(self.subgroup));
        let rows = f64::from(self.strips * self.size); // of one subgroup
        let products = rows * keys * dims / lanes / UNITS;
        let fragments =
            (2.0 * keys * dims + 2.0 * rows * f64::from(shape.head_dim) * keys / f64::from(self.size)) / lanes;
        let softmax = rows * keys / lanes * (12.0 / 4.0 + 16.0);
        let loading = keys * dims / 8.0 * 12.0 / f64::from(self.threads());
        let per_invocation = products + fragments / 4.0 + softmax + loading + 6.0 * BARRIER;

        let positions = self.rows() / (2 * self.heads_per_tile);
        let tiles = f64::from(shape.q_len.max(1).div_ceil(positions)) * f64::from(shape.group() / self.heads_per_tile);
        let workgroups = tiles * f64::from(shape.batch) * f64::from(shape.kv_heads);
        let idle = (f64::from(CORES) / workgroups).max(1.0);
        per_invocation * f64::from(self.threads()) * tiles * idle / keys
    }
}

/// Rows, keys, side of the matrices, strips, threads; heads where there are several.
impl fmt::Display for MatrixTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}k{}m{}x{}t{}", self.rows(), self.keys, self.size, self.strips, self.threads())?;
        if self.heads_per_tile > 1 {
            write!(f, "h{}", self.heads_per_tile)?;
        }
        Ok(())
    }
}

impl FromStr for MatrixTile {
    type Err = Error;

    /// Reads what [`MatrixTile`] prints.
    fn from_str(text: &str) -> Result<Self> {
        let rule =
            "as in r64k32m16x1t128 or r64k32m16x1t128h2: rows, keys, side of the matrices, strips and threads, heads";
        let mut fields = Fields::read(text, rule)?;
        let [rows, keys, size] = [fields.count('r')?, fields.count('k')?, fields.count('m')?];
        let [strips, threads] = [fields.count('x')?, fields.count('t')?];
        let subgroups = fields.share(fields.share(rows, size)?, strips)?;
        let subgroup = fields.share(threads, subgroups)?;
        let heads_per_tile = fields.number('h')?.unwrap_or(1);
        fields.done(MatrixTile { size, subgroup, subgroups, strips, keys, heads_per_tile })
    }
}

/// Side of the matrices and lanes of a subgroup, where the path can run the problem.
fn units(problem: &Problem, caps: &Caps) -> Result<(u32, u32)> {
    let (Some(size), Some((subgroup, _))) = (caps.matrix, caps.subgroups) else {
        let hint = "create the device with diffattn::request_device and the handle with DiffAttention::with_adapter, \
                    or use another path";
        return Err(Error::MissingFeature { path: "matrix", feature: "EXPERIMENTAL_COOPERATIVE_MATRIX", hint });
    };
    if problem.dtype == DType::F32 {
        let what = "f32 storage on matrix units, whose operands are f16,".into();
        return Err(Error::Unsupported { what, hint: "store q, k and v as f16 or bf16, or use another path".into() });
    }
    Ok((size, subgroup))
}

/// Every tile worth estimating on a device with such units.
pub(crate) fn candidates(group: u32, size: u32, subgroup: u32) -> impl Iterator<Item = MatrixTile> {
    [32, 16].into_iter().flat_map(move |keys| {
        [2, 1].into_iter().flat_map(move |strips| {
            [4, 2, 1].into_iter().flat_map(move |subgroups| {
                let packings = (1..=group).filter(move |heads| group.is_multiple_of(*heads));
                packings.map(move |heads_per_tile| MatrixTile {
                    size,
                    subgroup,
                    subgroups,
                    strips,
                    keys,
                    heads_per_tile,
                })
            })
        })
    })
}

/// The tile for the matrix path: the cheapest, by estimate, of all that fit the device.
///
/// # Errors
/// Those of [`MatrixTile::validate`]; [`Error::Limit`] when not even the smallest tile fits.
pub(crate) fn matrix_tile(problem: &Problem, caps: &Caps) -> Result<Choice> {
    let (size, subgroup) = units(problem, caps)?;
    let mut best: Option<Choice> = None;
    let mut needed = u32::MAX;
    for tile in candidates(problem.shape.group(), size, subgroup) {
        needed = needed.min(tile.workgroup_bytes(&problem.shape));
        let cost = tile.cost(problem);
        if tile.validate(problem, caps).is_ok() && best.is_none_or(|best| cost < best.cost) {
            best = Some(Choice { path: Path::Matrix, tile: tile.into(), cost });
        }
    }
    let limit = || Error::Limit {
        name: "max_compute_workgroup_storage_size",
        what: "the smallest tile of the matrix kernel".into(),
        needed: needed.into(),
        available: caps.workgroup_storage.into(),
    };
    best.ok_or_else(limit)
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
                    let tile = matrix_tile(&problem, caps).expect("a tile fits").tile;
                    tile.validate(&problem, Path::Matrix, caps).expect("it is valid");
                    assert_eq!(tile.to_string().parse(), Ok(tile));
                }
            }
        }
        let f32 = Shape { batch: 1, q_len: 1, kv_len: 1, heads: 1, kv_heads: 1, head_dim: 64, value_dim: 64 };
        let problem = Problem::new(f32, DType::F32, Options::default());
        assert!(matrix_tile(&problem, &cuda).unwrap_err().is_unsupported());
        assert!(matrix_tile(&problem, &Caps::floor()).unwrap_err().is_unsupported());
    }
}
