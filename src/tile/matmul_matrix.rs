//! (sizes, capabilities) → tile of the matrix product on matrix units. Pure.

use std::fmt;

use super::{BARRIER, CORES, Form, MATRIX_REGISTERS, UNITS, limit};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::matrix::units;
use crate::problem::DType;

/// f16 elements between two lines of A and of B beside the line itself, against bank conflicts.
const PADDING: u32 = 8;

/// What keeps a product from matrix units, whose operands are f16, on any device; `None` where they lose nothing that
/// matters.
///
/// f16 goes in as it is. bf16 is exact from 2⁻¹⁷ to 65504, as in the forward pass of attention; the gradients of a model
/// reach far below, which is why it is trained in bf16, so they stay where bf16 is widened to f32.
pub(crate) fn unfit_for_matrix_units(form: Form, dtype: DType, a_f32: bool) -> Option<&'static str> {
    match (dtype, form) {
        (DType::F32, _) => Some("f32 storage"),
        _ if a_f32 => Some("an operand in f32"),
        (DType::Bf16, Form::InputGradient | Form::WeightGradient) => Some("a gradient in bf16, finer than f16,"),
        (DType::F16, _) | (DType::Bf16, Form::Forward) => None,
    }
}

/// What one workgroup of `shaders/matmul_matrix.wgsl` owns; the shader tells the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatmulMatrixTile {
    /// Side of the device's matrices: 8 or 16.
    pub size: u32,
    /// Lanes of a subgroup.
    pub subgroup: u32,
    /// Subgroups below and beside each other.
    pub subgroups: [u32; 2],
    /// Matrices of C that one subgroup owns, below and beside each other.
    pub steps: [u32; 2],
    /// Steps of depth between two barriers; a multiple of `size`.
    pub depth: u32,
    /// Whether loops over matrices are written out, instead of left to the driver.
    pub unrolled: bool,
    /// Whether workgroup memory is an array of scalars instead of vectors, as Metal needs it.
    pub scalars: bool,
}

impl MatmulMatrixTile {
    /// Rows of C.
    pub const fn rows(&self) -> u32 {
        self.subgroups[0] * self.steps[0] * self.size
    }

    /// Columns of C.
    pub const fn columns(&self) -> u32 {
        self.subgroups[1] * self.steps[1] * self.size
    }

    /// Invocations in the workgroup.
    pub const fn threads(&self) -> u32 {
        self.subgroups[0] * self.subgroups[1] * self.subgroup
    }

    /// f16 elements between two lines of A and of B in workgroup memory.
    pub fn strides(&self, form: Form) -> [u32; 2] {
        let [a_along_depth, b_along_depth] = form.along_depth();
        let line = |along_depth, across| if along_depth { self.depth } else { across } + PADDING;
        [line(a_along_depth, self.rows()), line(b_along_depth, self.columns())]
    }

    /// f16 elements of A and of B in workgroup memory.
    pub fn slots(&self, form: Form) -> [u32; 2] {
        let [a_along_depth, b_along_depth] = form.along_depth();
        let [a, b] = self.strides(form);
        let lines = |along_depth, across| if along_depth { across } else { self.depth };
        [a * lines(a_along_depth, self.rows()), b * lines(b_along_depth, self.columns())]
    }

    /// f32 elements between two rows of C in workgroup memory.
    pub const fn c_stride(&self) -> u32 {
        self.steps[1] * self.size + PADDING / 2
    }

    /// f32 elements of C in workgroup memory: one row of matrices of every subgroup.
    pub const fn c_slots(&self) -> u32 {
        self.subgroups[0] * self.subgroups[1] * self.size * self.c_stride()
    }

    /// Bytes of workgroup memory: the terms stated at the head of matmul_matrix.wgsl, and alignment between them.
    pub fn workgroup_bytes(&self, form: Form) -> u32 {
        let [a, b] = self.slots(form);
        2 * (a + b) + 4 * self.c_slots() + 32
    }

    /// The tile, and those that differ from it in one way of working: every kind of text that the kernel has.
    pub(crate) fn kinds(self) -> [MatmulMatrixTile; 3] {
        let mut kinds = [self; 3];
        kinds[1].unrolled = !self.unrolled;
        kinds[2].scalars = !self.scalars;
        kinds
    }

    /// Whether the kernel's own rules hold, apart from any device.
    fn is_sound(&self) -> bool {
        let counts = [self.subgroup, self.depth].into_iter().chain(self.subgroups).chain(self.steps);
        matches!(self.size, 8 | 16)
            && counts.into_iter().all(|count| (1..=256).contains(&count))
            && self.depth.is_multiple_of(self.size)
            // Every lane carries as many quads as the others.
            && [self.rows(), self.columns()].iter().all(|side| (side * self.depth / 4).is_multiple_of(self.threads()))
    }

    /// Checks the tile against the device.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without matrix units (or without the adapter, see
    /// [`crate::DiffAttention::with_adapter`]), [`Error::Invalid`] for a tile that breaks the kernel's rules or is of
    /// another device's matrices, [`Error::Limit`] for too many invocations or too much workgroup memory.
    pub fn validate(&self, form: Form, caps: &Caps) -> Result<()> {
        let (size, subgroup) = units(caps)?;
        if (self.size, self.subgroup) != (size, subgroup) {
            let device = format!("of matrices of {size} × {size} and subgroups of {subgroup}, which the device has");
            return Err(Error::invalid("tile", device, self));
        }
        if !self.is_sound() {
            let rule = "depth a multiple of the matrices' side; rows and columns times depth multiples of four times the \
                        threads; all from 1 to 256";
            return Err(Error::invalid("tile", rule, self));
        }
        if caps.backend == wgpu::Backend::Metal && !self.scalars {
            return Err(Error::invalid("tile", "one with workgroup memory in scalars (s) on Metal", self));
        }
        limit("max_compute_invocations_per_workgroup", self.threads(), caps.invocations)?;
        limit("max_compute_workgroup_storage_size", self.workgroup_bytes(form), caps.workgroup_storage)
    }

    /// Estimated time in the unit of the estimate of `src/tile/matmul.rs`, for four steps of depth as there. Four bytes
    /// from workgroup memory cost a slot, as in `src/matrix.rs`; four elements brought to it cost twelve.
    pub(crate) fn cost(&self, rows: u32, columns: u32) -> f64 {
        let [threads, depth, lanes] = [self.threads(), self.depth, self.subgroup].map(f64::from);
        let [below, beside] = self.steps.map(|steps| f64::from(steps * self.size)); // of one subgroup
        let products = 4.0 * below * beside / lanes / UNITS;
        // Two bytes for each element, where four cost a slot.
        let fragments = 4.0 * (below + beside) / 2.0 / lanes;
        let staging = f64::from(self.rows() + self.columns()) * 12.0 / threads;
        let barriers = 2.0 * BARRIER * 4.0 / depth;
        let carried = f64::from(self.rows() + self.columns()) * depth / 2.0 / threads;
        let spill = if below * beside / lanes + carried > MATRIX_REGISTERS { 5.0 } else { 1.0 };
        let tiles = f64::from(rows.div_ceil(self.rows())) * f64::from(columns.div_ceil(self.columns()));
        let idle = (f64::from(CORES) / tiles).max(1.0);
        ((products + fragments) * spill + staging + barriers) * threads * tiles * idle
    }
}

/// Rows, columns, steps of depth, side of the matrices, threads, matrices of a subgroup below (`x`) and beside (`y`) each
/// other; `u` unrolled, `s` scalars.
impl fmt::Display for MatmulMatrixTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [below, beside] = self.steps;
        write!(f, "r{}c{}k{}m{}", self.rows(), self.columns(), self.depth, self.size)?;
        write!(f, "t{}x{below}y{beside}", self.threads())?;
        f.write_str(if self.unrolled { "u" } else { "" })?;
        f.write_str(if self.scalars { "s" } else { "" })
    }
}

/// Every tile worth estimating on a device with such units.
fn candidates(caps: &Caps, size: u32, subgroup: u32) -> Vec<MatmulMatrixTile> {
    let scalars = caps.backend == wgpu::Backend::Metal;
    let of = |steps, subgroups, depth, unrolled| MatmulMatrixTile {
        size,
        subgroup,
        subgroups,
        steps,
        depth,
        unrolled,
        scalars,
    };
    // A software driver keeps no matrices in registers, and compiles long texts for minutes.
    if caps.software {
        return vec![of([1, 1], [1, 1], size, false)];
    }
    let mut tiles = Vec::new();
    for steps in [[4, 4], [4, 2], [2, 4], [2, 2], [1, 4], [1, 2]] {
        for subgroups in [[2, 2], [1, 4], [4, 1], [1, 2], [1, 1]] {
            tiles.extend([32, 64].map(|depth| of(steps, subgroups, depth, true)));
        }
    }
    tiles
}

/// The tile of a product on matrix units: the cheapest, by estimate, of all that fit the device.
///
/// # Errors
/// [`Error::MissingFeature`] without matrix units; [`Error::Limit`] when not even the smallest tile fits.
pub fn matmul_matrix_tile(form: Form, rows: u32, columns: u32, caps: &Caps) -> Result<MatmulMatrixTile> {
    let (size, subgroup) = units(caps)?;
    let fitting = candidates(caps, size, subgroup).into_iter().filter(|tile| tile.validate(form, caps).is_ok());
    let best = fitting.min_by(|a, b| a.cost(rows, columns).total_cmp(&b.cost(rows, columns)));
    best.ok_or_else(|| {
        let bytes = candidates(caps, size, subgroup).iter().map(|tile| tile.workgroup_bytes(form)).min();
        Error::Limit {
            name: "max_compute_workgroup_storage_size",
            what: "the smallest tile of the matrix product on matrix units".into(),
            needed: bytes.unwrap_or(u32::MAX).into(),
            available: caps.workgroup_storage.into(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(size: u32, subgroup: u32, kib: u32) -> Caps {
        Caps {
            workgroup_storage: kib << 10,
            subgroups: Some((subgroup, subgroup)),
            matrix: Some(size),
            ..Caps::floor()
        }
    }

    #[test]
    fn the_choice_fits_and_is_large_where_there_is_room() {
        let mut software = device(8, 8, 32);
        software.software = true;
        for caps in [device(16, 32, 48), device(16, 64, 64), device(8, 32, 32), software] {
            for form in Form::ALL {
                for (rows, columns) in [(1, 1), (1, 4096), (4096, 3), (1024, 1024), (8192, 8192)] {
                    let tile = matmul_matrix_tile(form, rows, columns, &caps).expect("a tile fits");
                    tile.validate(form, &caps).unwrap_or_else(|error| panic!("{form:?} {rows} × {columns}: {error}"));
                }
            }
            if !caps.software {
                let tile = matmul_matrix_tile(Form::Forward, 4096, 4096, &caps).expect("a tile fits");
                assert_eq!(tile.steps, [4, 4], "{tile}");
            }
        }
        let none = matmul_matrix_tile(Form::Forward, 64, 64, &Caps::floor());
        assert!(matches!(none, Err(Error::MissingFeature { .. })), "{none:?}");
        let small = matmul_matrix_tile(Form::Forward, 64, 64, &device(16, 32, 1));
        assert!(matches!(small, Err(Error::Limit { .. })), "{small:?}");
    }

    #[test]
    fn broken_tiles_are_refused() {
        let caps = device(16, 32, 48);
        let right = matmul_matrix_tile(Form::Forward, 1024, 1024, &caps).expect("a tile fits");
        let refused = |tile: MatmulMatrixTile| {
            matches!(tile.validate(Form::Forward, &caps), Err(Error::Invalid { name: "tile", .. }))
        };
        assert!(refused(MatmulMatrixTile { size: 8, ..right }));
        assert!(refused(MatmulMatrixTile { subgroup: 64, ..right }));
        assert!(refused(MatmulMatrixTile { depth: 24, ..right }));
        assert!(refused(MatmulMatrixTile { subgroups: [4, 4], steps: [1, 1], depth: 16, ..right }));
        let metal = Caps { backend: wgpu::Backend::Metal, ..caps.clone() };
        assert!(right.validate(Form::Forward, &metal).is_err());
        let much = MatmulMatrixTile { depth: 256, ..right };
        assert!(matches!(much.validate(Form::Forward, &caps), Err(Error::Limit { .. })));
    }
}
