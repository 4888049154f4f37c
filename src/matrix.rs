//! (problem, capabilities) → tile of the matrix path. Pure.

use std::fmt;
use std::str::FromStr;

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::problem::{DType, Problem, Shape};
use crate::tile::{BARRIER, CORES, Choice, Fields, MATRIX_REGISTERS, Path, UNITS, limit};

/// What one workgroup of `shaders/forward_matrix.wgsl` owns, and how it works; the shader tells the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatrixTile {
    /// Side of the device's matrices: 8 or 16.
    pub size: u32,
    /// Lanes of a subgroup.
    pub subgroup: u32,
    /// Subgroups in the workgroup.
    pub subgroups: u32,
    /// Strips of `size` rows that one subgroup multiplies.
    pub strips: u32,
    /// Subgroups that share those rows: each takes its share of a step's keys, then of the value's elements.
    pub columns: u32,
    /// Keys of one step; a multiple of `size`.
    pub keys: u32,
    /// Output heads of one KV group whose rows share the tile.
    pub heads_per_tile: u32,
    /// f16 elements between two rows in workgroup memory beside the row itself, against bank conflicts; a multiple of 8.
    pub padding: u32,
    /// log2 of the largest weight: outputs are rescaled when a row's maximum grows by more. At most 15.
    pub growth: u32,
    /// Whether Q's matrices stay in registers, instead of being read from workgroup memory for every key tile.
    pub q_resident: bool,
    /// Whether loops over matrices are written out, instead of left to the driver.
    pub unrolled: bool,
    /// Whether workgroup memory is an array of scalars instead of vectors, as Metal needs it.
    pub scalars: bool,
    /// Whether the queries of one head follow each other in the grid, instead of the heads of one query.
    pub by_head: bool,
}

impl MatrixTile {
    /// Packed query rows: position × output head of the tile × member of the pair.
    pub const fn rows(&self) -> u32 {
        self.subgroups / self.columns * self.strips * self.size
    }

    /// Invocations in the workgroup.
    pub const fn threads(&self) -> u32 {
        self.subgroups * self.subgroup
    }

    /// Matrices along a dimension of so many elements.
    pub const fn steps(&self, dim: u32) -> u32 {
        dim.div_ceil(self.size)
    }

    /// Matrices along the value's elements that one subgroup multiplies.
    pub const fn value_steps(&self, value_dim: u32) -> u32 {
        value_dim.div_ceil(self.size * self.columns)
    }

    /// Groups of eight elements of K and V together that one lane carries from global to workgroup memory.
    const fn octets_per_lane(&self, shape: &Shape) -> u32 {
        let (keys, values) = (self.steps(shape.head_dim), self.columns * self.value_steps(shape.value_dim));
        let octets = self.keys * self.size / 8;
        let lanes = self.threads();
        (octets * keys).div_ceil(lanes) + (octets * values).div_ceil(lanes)
    }

    /// Matrices of a row of Q that are in workgroup memory together: all, or on their way into registers as many as fit
    /// the place of K and V, at least one.
    pub const fn q_steps(&self, shape: &Shape) -> u32 {
        let all = self.steps(shape.head_dim);
        if !self.q_resident {
            return all;
        }
        let fitting = (self.kv_slots(shape) / self.q_pass_rows()).saturating_sub(self.padding) / self.size;
        if fitting > all {
            all
        } else if fitting == 0 {
            1
        } else {
            fitting
        }
    }

    /// Rows of Q that are on their way into registers together: a strip of every subgroup that has its own.
    const fn q_pass_rows(&self) -> u32 {
        self.subgroups / self.columns * self.size
    }

    /// f16 elements between two rows of Q in workgroup memory.
    pub const fn q_stride(&self, shape: &Shape) -> u32 {
        self.q_steps(shape) * self.size + self.padding
    }

    /// f16 elements between two keys of K and V.
    pub const fn kv_stride(&self, shape: &Shape) -> u32 {
        let head = shape.head_dim.next_multiple_of(self.size);
        let value = shape.value_dim.next_multiple_of(self.size * self.columns);
        (if head > value { head } else { value }) + self.padding
    }

    /// f32 elements between two rows of scores.
    pub const fn score_stride(&self) -> u32 {
        self.keys + self.padding
    }

    /// f16 elements between two rows of weights.
    pub const fn weight_stride(&self) -> u32 {
        self.keys + self.padding
    }

    /// f16 elements of Q in workgroup memory.
    const fn q_slots(&self, shape: &Shape) -> u32 {
        if self.q_resident { 0 } else { self.rows() * self.q_stride(shape) }
    }

    /// First f16 element of the weights: behind Q.
    pub const fn weight_base(&self, shape: &Shape) -> u32 {
        self.q_slots(shape)
    }

    /// f16 elements of Q and weights.
    pub const fn row_slots(&self, shape: &Shape) -> u32 {
        self.weight_base(shape) + self.rows() * self.weight_stride()
    }

    /// f16 elements of K and V.
    const fn kv_slots(&self, shape: &Shape) -> u32 {
        2 * self.keys * self.kv_stride(shape)
    }

    /// f16 elements of K and V, and of Q in their place.
    pub const fn item_slots(&self, shape: &Shape) -> u32 {
        let queries = if self.q_resident { self.q_pass_rows() * self.q_stride(shape) } else { 0 };
        if queries > self.kv_slots(shape) { queries } else { self.kv_slots(shape) }
    }

    /// Bytes of workgroup memory: the terms stated at the head of forward_matrix.wgsl, and alignment between them.
    pub const fn workgroup_bytes(&self, shape: &Shape) -> u32 {
        let halves = self.row_slots(shape) + self.item_slots(shape);
        2 * halves + 4 * self.rows() * (self.score_stride() + 1) + 4 + 16
    }

    /// The tile, and those that differ from it in one way of working: every kind of text that the kernel has.
    pub(crate) fn kinds(self) -> [MatrixTile; 7] {
        let mut kinds = [self; 7];
        kinds[1].q_resident = !self.q_resident;
        kinds[2].unrolled = !self.unrolled;
        kinds[3].scalars = !self.scalars;
        kinds[4].by_head = !self.by_head;
        (kinds[5].strips, kinds[5].subgroups) = (4 * self.strips, 1);
        (kinds[6].strips, kinds[6].columns, kinds[6].keys) = (2 * self.strips, 2, 2 * self.keys);
        kinds
    }

    /// Whether the kernel's own rules hold, apart from any device.
    fn is_sound(&self, shape: &Shape) -> bool {
        let rows = self.strips * self.size / self.columns.max(1);
        let counts = [self.subgroup, self.subgroups, self.strips, self.columns, self.keys, self.heads_per_tile];
        matches!(self.size, 8 | 16)
            && counts.iter().all(|&count| (1..=256).contains(&count))
            && self.subgroups.is_multiple_of(self.columns)
            && (self.strips * self.size).is_multiple_of(self.columns)
            && self.keys.is_multiple_of(self.size * self.columns)
            // A lane takes whole rows, or whole quads of a row's keys.
            && rows.max(self.subgroup).is_multiple_of(rows.min(self.subgroup))
            && (self.keys / (self.subgroup / rows).max(1)).is_multiple_of(4)
            && shape.group().is_multiple_of(self.heads_per_tile)
            && self.rows() >= 2 * self.heads_per_tile
            && self.padding.is_multiple_of(8)
            && self.padding <= 64
            && (1..=15).contains(&self.growth)
    }

    /// Checks the tile against the problem and the device.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] without matrix units (or without the adapter, see
    /// [`crate::DiffAttention::with_adapter`]), [`Error::Unsupported`] for f32 storage, [`Error::Invalid`] for a tile that
    /// breaks the kernel's rules or is of another device's matrices, [`Error::Limit`] for too many invocations or too much
    /// workgroup memory.
    pub fn validate(&self, problem: &Problem, caps: &Caps) -> Result<()> {
        let (size, subgroup) = units_for(problem, caps)?;
        if (self.size, self.subgroup) != (size, subgroup) {
            let device = format!("of matrices of {size} × {size} and subgroups of {subgroup}, which the device has");
            return Err(Error::invalid("tile", device, self));
        }
        if !self.is_sound(&problem.shape) {
            let rule = "subgroups a multiple of columns; keys a multiple of columns × the matrices' side; a \
                        subgroup's share of the rows and its lanes one a multiple of the other, with whole quads of keys \
                        for each lane; heads_per_tile a divisor of heads / kv_heads; rows for at least one position; \
                        padding a multiple of 8 up to 64; growth from 1 to 15";
            return Err(Error::invalid("tile", rule, self));
        }
        if caps.backend == wgpu::Backend::Metal && !self.scalars {
            return Err(Error::invalid("tile", "one with workgroup memory in scalars (s) on Metal", self));
        }
        limit("max_compute_invocations_per_workgroup", self.threads(), caps.invocations)?;
        limit("max_compute_workgroup_storage_size", self.workgroup_bytes(&problem.shape), caps.workgroup_storage)
    }

    /// The tile with its estimate.
    pub(crate) fn choice(self, problem: &Problem) -> Choice {
        Choice { path: Path::Matrix, tile: self.into(), cost: self.cost(problem) }
    }

    /// Estimated time in the unit of the tiled kernels' estimate (`src/tile.rs`): slots of one multiply-add of a lane.
    ///
    /// Four bytes from workgroup memory or a cache cost a slot, as there. For each key tile and subgroup: its share of the
    /// fragments of K and V once, those of the weights for every strip, and 12 bytes for each score to pass from
    /// accumulators to lanes and back. Q is free in registers. More registers than every device has cost a factor of five,
    /// as there.
    fn cost(&self, problem: &Problem) -> f64 {
        let shape = &problem.shape;
        let head = f64::from(shape.head_dim.next_multiple_of(self.size));
        let value = f64::from(self.value_steps(shape.value_dim) * self.columns * self.size);
        let (keys, lanes, columns) = (f64::from(self.keys), f64::from(self.subgroup), f64::from(self.columns));
        let rows = f64::from(self.strips * self.size); // of one subgroup, shared by `columns`
        let products = rows * keys * (head + value) / columns / lanes / UNITS;
        let queries = if self.q_resident { 0.0 } else { rows * head };
        let fragments = 2.0 * (keys * (head + value) / columns + queries + rows * keys) / lanes;
        let softmax = rows / columns * keys / lanes * (12.0 / 4.0 + 12.0);
        let loading = keys * (head + value) / 8.0 * 12.0 / f64::from(self.threads());
        let accumulators = rows * (value + 2.0 * keys) / columns / lanes;
        let resident = if self.q_resident { rows * head / 2.0 / lanes } else { 0.0 };
        let carried = 4.0 * f64::from(self.octets_per_lane(shape));
        let spill = if accumulators + resident + carried > MATRIX_REGISTERS { 5.0 } else { 1.0 };
        let per_invocation = (products + fragments / 4.0) * spill + softmax + loading + 2.0 * BARRIER;

        let positions = self.rows() / (2 * self.heads_per_tile);
        let tiles = f64::from(shape.q_len.max(1).div_ceil(positions)) * f64::from(shape.group() / self.heads_per_tile);
        let workgroups = tiles * f64::from(shape.batch) * f64::from(shape.kv_heads);
        let idle = (f64::from(CORES) / workgroups).max(1.0);
        per_invocation * f64::from(self.threads()) * tiles * idle / keys
    }
}

/// Rows, keys, side of the matrices, strips, threads; columns and heads where there are several, padding where it is not 8,
/// growth (`w`) where it is not 8; then a letter for each way of working: `i` Q in registers, `u` unrolled, `s` scalars,
/// `o` by head.
impl fmt::Display for MatrixTile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}k{}m{}x{}t{}", self.rows(), self.keys, self.size, self.strips, self.threads())?;
        for (letter, number, usual) in
            [('c', self.columns, 1), ('h', self.heads_per_tile, 1), ('p', self.padding, 8), ('w', self.growth, 8)]
        {
            if number != usual {
                write!(f, "{letter}{number}")?;
            }
        }
        let ways = [("i", self.q_resident), ("u", self.unrolled), ("s", self.scalars), ("o", self.by_head)];
        ways.iter().filter(|(_, on)| *on).try_for_each(|(letter, _)| f.write_str(letter))
    }
}

impl FromStr for MatrixTile {
    type Err = Error;

    /// Reads what [`MatrixTile`] prints.
    fn from_str(text: &str) -> Result<Self> {
        let rule = "as in r64k32m16x1t128u or r64k32m16x2t128c2h2p16w6iuso: rows, keys, side of the matrices, strips, \
                    threads, columns, heads, padding, growth, then letters: i (Q in registers), u (unrolled), s (scalars), \
                    o (by head)";
        let mut fields = Fields::read(text, rule)?;
        let [rows, keys, size] = [fields.count('r')?, fields.count('k')?, fields.count('m')?];
        let [strips, threads] = [fields.count('x')?, fields.count('t')?];
        let columns = fields.number('c')?.unwrap_or(1);
        let subgroups = fields.share(fields.share(rows, size)?, strips)? * columns;
        let tile = MatrixTile {
            size,
            subgroup: fields.share(threads, subgroups)?,
            subgroups,
            strips,
            columns,
            keys,
            heads_per_tile: fields.number('h')?.unwrap_or(1),
            padding: fields.number('p')?.unwrap_or(8),
            growth: fields.number('w')?.unwrap_or(8),
            q_resident: fields.flag('i')?,
            unrolled: fields.flag('u')?,
            scalars: fields.flag('s')?,
            by_head: fields.flag('o')?,
        };
        fields.done(tile)
    }
}

/// Side of the matrices and lanes of a subgroup, on a device with matrix units.
pub(crate) fn units(caps: &Caps) -> Result<(u32, u32)> {
    let (Some(size), Some((subgroup, _))) = (caps.matrix, caps.subgroups) else {
        if let Some(varying) = caps.varying_subgroups() {
            let what = format!("the matrix path on a device whose {varying}");
            let hint = "use another path: these kernels need one size, whether or not matrix units are enabled".into();
            return Err(Error::Unsupported { what, hint });
        }
        let hint = "create the device with diffattn::request_device and the handle with DiffAttention::with_adapter, \
                    or use another path";
        return Err(Error::MissingFeature { path: "matrix", feature: "EXPERIMENTAL_COOPERATIVE_MATRIX", hint });
    };
    Ok((size, subgroup))
}

/// Scores of f16 operands times this stay far below the sentinels of the softmax, so that none need be clamped:
/// 256 · 65504² · 1e24 · log2(e) is 1.6e36.
const LARGEST_SCALE: f32 = 1e24;

/// The same, where the path can run the problem.
fn units_for(problem: &Problem, caps: &Caps) -> Result<(u32, u32)> {
    let units = units(caps)?;
    if problem.scale().abs() > LARGEST_SCALE {
        let what = format!("a scale beyond ±{LARGEST_SCALE:e} on matrix units");
        return Err(Error::Unsupported { what, hint: "use another path".into() });
    }
    if problem.dtype == DType::F32 {
        let what = "f32 storage on matrix units, whose operands are f16,".into();
        return Err(Error::Unsupported { what, hint: "store q, k and v as f16 or bf16, or use another path".into() });
    }
    Ok(units)
}

/// Every tile worth estimating for a problem on a device with such units.
pub(crate) fn candidates(problem: &Problem, caps: &Caps, size: u32, subgroup: u32) -> Vec<MatrixTile> {
    let scalars = caps.backend == wgpu::Backend::Metal;
    let group = problem.shape.group();
    // A software driver keeps no matrices in registers, and compiles long texts for minutes.
    let software = caps.kind == wgpu::DeviceType::Cpu;
    let base = MatrixTile {
        size,
        subgroup,
        subgroups: 1,
        strips: 1,
        columns: 1,
        keys: 16,
        heads_per_tile: 1,
        padding: 8,
        growth: 8,
        q_resident: false,
        unrolled: !software,
        scalars,
        by_head: false,
    };
    // Strips and columns.
    let grids = if software { &[(1, 1)][..] } else { &[(2, 2), (1, 1), (2, 1), (1, 2), (4, 1), (4, 2)][..] };
    let mut tiles = Vec::new();
    for &keys in if software { &[16][..] } else { &[32, 64, 16][..] } {
        for &(strips, columns) in grids {
            for subgroups in [8, 4, 2, 1].into_iter().filter(|subgroups: &u32| subgroups.is_multiple_of(columns)) {
                for heads_per_tile in (1..=group).filter(|heads| group.is_multiple_of(*heads)) {
                    let tile = MatrixTile { subgroups, strips, columns, keys, heads_per_tile, ..base };
                    tiles.push(tile);
                    tiles.extend((!software).then_some(MatrixTile { q_resident: true, ..tile }));
                }
            }
        }
    }
    tiles
}

/// Every tile that fits the device, with its estimate.
pub(crate) fn fitting(problem: &Problem, caps: &Caps) -> Result<Vec<Choice>> {
    let (size, subgroup) = units_for(problem, caps)?;
    let mut tiles = candidates(problem, caps, size, subgroup);
    let needed = tiles.iter().map(|tile| tile.workgroup_bytes(&problem.shape)).min().unwrap_or(u32::MAX);
    tiles.retain(|tile| tile.validate(problem, caps).is_ok());
    if tiles.is_empty() {
        return Err(Error::Limit {
            name: "max_compute_workgroup_storage_size",
            what: "the smallest tile of the matrix kernel".into(),
            needed: needed.into(),
            available: caps.workgroup_storage.into(),
        });
    }
    Ok(tiles.into_iter().map(|tile| tile.choice(problem)).collect())
}

/// The tile for the matrix path: the cheapest, by estimate, of all that fit the device.
///
/// # Errors
/// Those of [`MatrixTile::validate`]; [`Error::Limit`] when not even the smallest tile fits.
pub(crate) fn matrix_tile(problem: &Problem, caps: &Caps) -> Result<Choice> {
    let tiles = fitting(problem, caps)?.into_iter();
    let best = tiles.reduce(|best, choice| if choice.cost < best.cost { choice } else { best });
    best.ok_or_else(|| Error::invalid("path", "one with tiles", Path::Matrix.name()))
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
