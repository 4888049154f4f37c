//! (problem, sweep, capabilities) → tile of a backward kernel on matrix units. Pure.

use std::fmt;

use super::{BackwardTile, Sweep, limit};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::matrix::units;
use crate::problem::{DType, Problem, Shape};

/// Elements between two rows in workgroup memory beside the row itself, against bank conflicts.
const PADDING: u32 = 8;

/// What one workgroup of `shaders/backward_*_matrix.wgsl` owns and takes in one step; the shaders tell the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackwardMatrixTile {
    /// Side of the device's matrices: 8 or 16.
    pub size: u32,
    /// Lanes of a subgroup; a multiple of `size`.
    pub subgroup: u32,
    /// Subgroups, each with `size` rows of its own: members of pairs for dQ, keys for dK and dV.
    pub subgroups: u32,
    /// Items of a step: keys for dQ, pairs for dK and dV; a multiple of `size`.
    pub items: u32,
    /// Whether loops over matrices are written out, instead of left to the driver.
    pub unrolled: bool,
    /// Whether workgroup memory is an array of scalars instead of vectors, as Metal needs it.
    pub scalars: bool,
}

impl BackwardMatrixTile {
    /// Rows: members of pairs, or keys.
    pub const fn rows(&self) -> u32 {
        self.subgroups * self.size
    }

    /// Invocations in the workgroup.
    pub const fn threads(&self) -> u32 {
        self.subgroups * self.subgroup
    }

    /// Matrices along a dimension.
    pub const fn steps(&self, dim: u32) -> u32 {
        dim.div_ceil(self.size)
    }

    /// f16 elements between two rows of the tile of items in workgroup memory.
    pub fn kv_stride(&self, shape: &Shape) -> u32 {
        self.steps(shape.head_dim.max(shape.value_dim)) * self.size + PADDING
    }

    /// Products of one row and item: S and dP, or S of both members and dP.
    const fn products(sweep: Sweep) -> u32 {
        if matches!(sweep, Sweep::Dkv) { 3 } else { 2 }
    }

    /// f32 elements between two rows of products.
    pub const fn score_stride(&self, sweep: Sweep) -> u32 {
        Self::products(sweep) * self.items + PADDING
    }

    /// Matrices of sums that pass through the place of the products at once, at the end.
    pub const fn batch(&self, sweep: Sweep) -> u32 {
        Self::products(sweep) * self.items / self.size
    }

    /// Matrices of a row of what is multiplied in every step: dS, or dS of both members and W. Q and dout, or K and V, are
    /// on their way into registers in the same place, so many matrices of each row at a time.
    pub const fn row_steps(&self, sweep: Sweep) -> u32 {
        (if matches!(sweep, Sweep::Dkv) { 3 } else { 1 }) * self.items / self.size
    }

    /// f16 elements between two such rows.
    pub const fn weight_stride(&self, sweep: Sweep) -> u32 {
        self.row_steps(sweep) * self.size + PADDING
    }

    /// f16 elements of all of them.
    pub const fn row_slots(&self, sweep: Sweep) -> u32 {
        self.rows() * self.weight_stride(sweep)
    }

    /// f16 elements of a tile of items: K and V, or Q of both members and dout.
    pub fn item_slots(&self, sweep: Sweep, shape: &Shape) -> u32 {
        Self::products(sweep) * self.items * self.kv_stride(shape)
    }

    /// Bytes of workgroup memory: the terms stated at the head of `backward_*_matrix.wgsl`.
    pub fn workgroup_bytes(&self, sweep: Sweep, shape: &Shape) -> u32 {
        let terms = if sweep == Sweep::Dkv { 32 * self.items } else { 0 };
        2 * (self.row_slots(sweep) + self.item_slots(sweep, shape))
            + 4 * self.rows() * self.score_stride(sweep)
            + terms
            + 8 * self.threads()
    }

    /// The tile, and one for each way of writing its text.
    pub(crate) fn kinds(self) -> [Self; 3] {
        [self, Self { unrolled: !self.unrolled, ..self }, Self { scalars: true, ..self }]
    }

    /// Checks the tile against the problem and the device.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without matrix units, [`Error::Unsupported`] for other storage than f16 and for the mean, which has no
    /// kernel on matrix units, [`Error::Invalid`] for a tile that breaks the kernels' rules or is of another device's
    /// matrices, [`Error::Limit`] for too many invocations or too much workgroup memory.
    pub fn validate(&self, sweep: Sweep, problem: &Problem, caps: &Caps) -> Result<()> {
        let (size, subgroup) = units_for(sweep, problem, caps)?;
        let sound = (self.size, self.subgroup) == (size, subgroup)
            && (1..=256).contains(&self.subgroups)
            && (1..=256).contains(&self.items)
            && self.items.is_multiple_of(size)
            && (self.items / 4).is_multiple_of(subgroup / size)
            && (self.scalars || caps.backend != wgpu::Backend::Metal);
        if !sound {
            let rule = format!(
                "matrices of {size} × {size} and subgroups of {subgroup}, items a multiple of {size} and of {}, scalars on \
                 Metal",
                4 * (subgroup / size)
            );
            return Err(Error::invalid("backward tile", rule, self));
        }
        limit("max_compute_invocations_per_workgroup", self.threads(), caps.invocations)?;
        let bytes = self.workgroup_bytes(sweep, &problem.shape);
        limit("max_compute_workgroup_storage_size", bytes, caps.workgroup_storage)
    }
}

/// Rows, items, side of the matrices, threads; `u` unrolled, `s` scalars.
impl fmt::Display for BackwardMatrixTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}i{}m{}t{}", self.rows(), self.items, self.size, self.threads())?;
        f.write_str(if self.unrolled { "u" } else { "" })?;
        f.write_str(if self.scalars { "s" } else { "" })
    }
}

/// Side of the matrices and lanes of a subgroup, where the path can run the sweep.
fn units_for(sweep: Sweep, problem: &Problem, caps: &Caps) -> Result<(u32, u32)> {
    let (size, subgroup) = units(caps)?;
    let refused = |what: String, hint: &str| Err(Error::Unsupported { what, hint: hint.into() });
    if sweep == Sweep::Mean {
        return refused("the mean of the backward pass on matrix units".into(), "use another path, or save a2");
    }
    // Gradients in bf16 reach below what f16 holds, whatever one number they are scaled by.
    if problem.dtype != DType::F16 {
        let what = format!("a backward pass in {} on matrix units, whose operands are f16,", problem.dtype.name());
        return refused(what, "use another path, or store the tensors as f16");
    }
    if subgroup % size != 0 {
        let what = format!("a backward pass on matrices of {size} × {size} with subgroups of {subgroup}");
        return refused(what, "use another path");
    }
    Ok((size, subgroup))
}

/// The tile for a sweep on matrix units: of all that fit the device the one with the most rows, which has the most subgroups
/// to do something while others wait; then the most items.
///
/// # Errors
/// Those of [`BackwardMatrixTile::validate`]; [`Error::Limit`] when not even the smallest tile fits.
pub fn backward_matrix_tile(problem: &Problem, sweep: Sweep, caps: &Caps) -> Result<BackwardMatrixTile> {
    let (size, subgroup) = units_for(sweep, problem, caps)?;
    // A software driver keeps no matrices in registers, and compiles long texts for minutes.
    let (unrolled, scalars) = (caps.kind != wgpu::DeviceType::Cpu, caps.backend == wgpu::Backend::Metal);
    let tile = |subgroups, items| BackwardMatrixTile { size, subgroup, subgroups, items, unrolled, scalars };
    let most_items = if unrolled { 32 } else { 16 };
    let tiles = [8, 6, 4, 3, 2, 1].into_iter().flat_map(|subgroups| [32, 16].map(|items| tile(subgroups, items)));
    let tiles = tiles.filter(|tile| tile.items <= most_items);
    let mut fitting = tiles.filter(|tile| tile.validate(sweep, problem, caps).is_ok());
    fitting.next().ok_or_else(|| Error::Limit {
        name: "max_compute_workgroup_storage_size",
        what: "the smallest tile of the backward kernel on matrix units".into(),
        needed: tile(1, 16).workgroup_bytes(sweep, &problem.shape).into(),
        available: caps.workgroup_storage.into(),
    })
}

/// The tile of a backward kernel, on its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnyBackwardTile {
    /// Of the portable and subgroup paths.
    Tiled(BackwardTile),
    /// Of the matrix path.
    Matrix(BackwardMatrixTile),
}

impl AnyBackwardTile {
    /// Rows of the sweep that a workgroup owns: pairs for dQ and the mean, keys for dK and dV; `members` of each pair.
    pub fn rows(&self, sweep: Sweep, members: u32) -> u32 {
        match self {
            AnyBackwardTile::Tiled(tile) => tile.rows(),
            AnyBackwardTile::Matrix(tile) if sweep == Sweep::Dkv => tile.rows(),
            AnyBackwardTile::Matrix(tile) => tile.rows() / members,
        }
    }
}

impl From<BackwardTile> for AnyBackwardTile {
    fn from(tile: BackwardTile) -> Self {
        AnyBackwardTile::Tiled(tile)
    }
}

impl From<BackwardMatrixTile> for AnyBackwardTile {
    fn from(tile: BackwardMatrixTile) -> Self {
        AnyBackwardTile::Matrix(tile)
    }
}

/// As in labels.
impl fmt::Display for AnyBackwardTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyBackwardTile::Matrix(tile) => tile.fmt(f),
            AnyBackwardTile::Tiled(tile) => {
                write!(f, "r{}i{}t{}n{}", tile.rows(), tile.items(), tile.threads, tile.per_lane)?;
                f.write_str(if tile.separate { "s" } else { "" })
            }
        }
    }
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
            for (head_dim, value_dim) in [8, 64, 96, 128, 192, 256].map(|dim| (dim, dim)).into_iter().chain([(8, 256)])
            {
                let shape = Shape { batch: 1, q_len: 100, kv_len: 64, heads: 16, kv_heads: 8, head_dim, value_dim };
                let problem = Problem::new(shape, DType::F16, Options::default());
                for sweep in [Sweep::Dq, Sweep::Dkv] {
                    let tile = backward_matrix_tile(&problem, sweep, caps).expect("a tile fits");
                    tile.validate(sweep, &problem, caps).expect("it is valid");
                }
                assert!(backward_matrix_tile(&problem, Sweep::Mean, caps).unwrap_err().is_unsupported());
                for dtype in [DType::F32, DType::Bf16] {
                    let problem = Problem { dtype, ..problem.clone() };
                    assert!(backward_matrix_tile(&problem, Sweep::Dq, caps).unwrap_err().is_unsupported());
                }
            }
        }
        let odd = Caps { subgroups: Some((8, 8)), ..cuda };
        let shape = Shape { batch: 1, q_len: 1, kv_len: 1, heads: 1, kv_heads: 1, head_dim: 64, value_dim: 64 };
        let problem = Problem::new(shape, DType::F16, Options::default());
        assert!(backward_matrix_tile(&problem, Sweep::Dq, &odd).unwrap_err().is_unsupported());
    }
}
