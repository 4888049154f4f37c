//! (form, sizes, capabilities) → tile of the matrix product. Pure.

use super::{BARRIER, CORES, limit};
use crate::caps::Caps;
use crate::error::{Error, Result};

/// Which of a linear layer's three products, by how A and B lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// y = x·Wᵀ: A is rows × depth, B is columns × depth.
    Forward,
    /// dx = dy·W: A is rows × depth, B is depth × columns.
    InputGradient,
    /// dW = dyᵀ·x: A is depth × rows, B is depth × columns.
    WeightGradient,
}

impl Form {
    /// All three.
    pub const ALL: [Form; 3] = [Form::Forward, Form::InputGradient, Form::WeightGradient];

    /// The name used in labels: which operands are transposed, as BLAS writes it.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Forward => "nt",
            Form::InputGradient => "nn",
            Form::WeightGradient => "tn",
        }
    }

    /// Whether A and B lie along depth, instead of along the rows and columns of C.
    pub const fn along_depth(self) -> [bool; 2] {
        match self {
            Form::Forward => [true, true],
            Form::InputGradient => [true, false],
            Form::WeightGradient => [false, false],
        }
    }
}

/// What one workgroup of `shaders/matmul.wgsl` owns; the shader tells the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatmulTile {
    /// Invocations in the workgroup; a multiple of `column_lanes`.
    pub threads: u32,
    /// Invocations that share rows.
    pub column_lanes: u32,
    /// Rows of one invocation.
    pub rows_per_lane: u32,
    /// Column quads of one invocation.
    pub quads_per_lane: u32,
    /// Steps of depth between two barriers: a multiple of 4.
    pub depth: u32,
    /// Whether B comes by way of workgroup memory.
    pub stage_b: bool,
}

impl MatmulTile {
    /// Invocations that share columns.
    pub const fn row_lanes(&self) -> u32 {
        self.threads / self.column_lanes
    }

    /// Rows of C.
    pub const fn rows(&self) -> u32 {
        self.rows_per_lane * self.row_lanes()
    }

    /// Column quads of C.
    pub const fn column_quads(&self) -> u32 {
        self.quads_per_lane * self.column_lanes
    }

    /// Whether loops over an invocation's vectors of C are written out: of so many, drivers leave a loop, and the vectors
    /// then lie in memory at addresses that they take for different ones in each lane.
    pub const fn unrolled(&self) -> bool {
        self.rows_per_lane * self.quads_per_lane > 32
    }

    /// vec4 slots between two rows of A in workgroup memory: odd.
    pub const fn a_stride(&self) -> u32 {
        (self.depth / 4) | 1
    }

    /// vec4 slots of B; one where it is not staged, since an array cannot be empty.
    pub const fn b_slots(&self) -> u32 {
        if self.stage_b { self.depth * self.column_quads() } else { 1 }
    }

    /// Bytes of workgroup memory: the terms stated at the head of matmul.wgsl.
    pub const fn workgroup_bytes(&self) -> u32 {
        16 * (self.rows() * self.a_stride() + self.b_slots())
    }

    /// Checks the tile against the device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tile that breaks the kernel's rules, [`Error::Limit`] for too many invocations or too
    /// much workgroup memory.
    pub fn validate(&self, caps: &Caps) -> Result<()> {
        let counts = [self.threads, self.column_lanes, self.rows_per_lane, self.quads_per_lane, self.depth];
        let sound = counts.iter().all(|count| (1..=1 << 12).contains(count))
            && self.threads.is_multiple_of(self.column_lanes)
            && self.rows().is_multiple_of(4)
            && self.depth.is_multiple_of(4)
            && (self.stage_b || self.row_lanes() == 1);
        if !sound {
            let rule = "threads a multiple of column_lanes, rows and depth multiples of 4, all from 1 to 4096, B staged \
                        unless threads is column_lanes";
            return Err(Error::invalid("tile", rule, format!("{self:?}")));
        }
        limit("max_compute_invocations_per_workgroup", self.threads, caps.invocations)?;
        limit("max_compute_workgroup_storage_size", self.workgroup_bytes(), caps.workgroup_storage)
    }
}

/// The tile of a product: the cheapest, by estimate, of all that fit the device.
pub fn matmul_tile(form: Form, rows: u32, columns: u32, caps: &Caps) -> MatmulTile {
    let fitting = candidates(caps.software).filter(|tile| tile.validate(caps).is_ok());
    let by_cost = |a: &MatmulTile, b: &MatmulTile| {
        cost(form, rows, columns, caps, a).total_cmp(&cost(form, rows, columns, caps, b))
    };
    fitting.min_by(by_cost).unwrap_or(SMALLEST)
}

/// Fits every device.
const SMALLEST: MatmulTile =
    MatmulTile { threads: 32, column_lanes: 8, rows_per_lane: 4, quads_per_lane: 1, depth: 16, stage_b: true };

/// Every tile worth estimating; `software` says that registers are memory anyway.
fn candidates(software: bool) -> impl Iterator<Item = MatmulTile> {
    let lanes = [256, 128, 64, 32].into_iter().flat_map(|threads| {
        [8, 16, 32, 64, 128, 256]
            .into_iter()
            .filter(move |&lanes| lanes <= threads)
            .map(move |column_lanes| (threads, column_lanes))
    });
    // Sixteen vectors of C are as many as every GPU keeps in registers beside the operands.
    let most = if software { 64 } else { 16 };
    let blocks = [(64, 1), (32, 1), (16, 1), (8, 2), (8, 1), (4, 2), (4, 1), (2, 1), (1, 1)];
    lanes.flat_map(move |(threads, column_lanes)| {
        let blocks = blocks.into_iter().filter(move |(rows, quads)| rows * quads <= most);
        blocks.flat_map(move |(rows_per_lane, quads_per_lane)| {
            [32, 16, 8].into_iter().flat_map(move |depth| {
                [true, false].into_iter().map(move |stage_b| MatmulTile {
                    threads,
                    column_lanes,
                    rows_per_lane,
                    quads_per_lane,
                    depth,
                    stage_b,
                })
            })
        })
    })
}

/// Estimated time of a product in issue slots of one multiply-add for each step of depth, relative to other tiles.
///
/// Counts, for one invocation and four steps of depth, what the kernel executes: multiply-adds; vec4 loads; staging;
/// barriers. Rows and columns that do not exist and workgroups that cannot fill a small device are paid for like others.
pub(crate) fn cost(form: Form, rows: u32, columns: u32, caps: &Caps, tile: &MatmulTile) -> f64 {
    // A vec4 load at an address of its own, and at one that all lanes share. On a CPU the first is a loop over the lanes
    // with its components apart; the second is four scalars.
    let (apart, shared) = if caps.software { (100.0, 6.0) } else { (4.0, 4.0) };
    // Of a buffer, where neighbouring lanes read neighbouring elements, or rows of their own.
    let buffer = match form {
        _ if caps.software => apart,
        Form::Forward => 64.0,
        Form::InputGradient | Form::WeightGradient => 16.0,
    };
    let [threads, depth] = [tile.threads, tile.depth].map(f64::from);
    let [per_lane, quads] = [tile.rows_per_lane, tile.quads_per_lane].map(f64::from);
    let b_load = if tile.stage_b { apart } else { buffer };
    let a_load = if tile.row_lanes() == 1 { shared } else { apart };
    let inner = 16.0 * per_lane * quads + per_lane * a_load + 4.0 * quads * b_load;
    let staged = f64::from(tile.rows()) + if tile.stage_b { 4.0 * f64::from(tile.column_quads()) } else { 0.0 };
    let stage = staged * (16.0f64.max(apart) + apart) / threads;
    let barriers = 2.0 * BARRIER * 4.0 / depth;
    let tiles = f64::from(rows.div_ceil(tile.rows())) * f64::from(columns.div_ceil(4 * tile.column_quads()));
    let idle = (f64::from(CORES) / tiles).max(1.0);
    (inner + stage + barriers) * threads * tiles * idle
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_fits_and_is_large_where_there_is_room() {
        let mut large = Caps::floor();
        (large.workgroup_storage, large.invocations) = (48 << 10, 1024);
        let mut software = Caps::floor();
        software.software = true;
        for caps in [Caps::floor(), large, software] {
            for form in Form::ALL {
                for (rows, columns) in [(1, 1), (1, 4096), (4096, 3), (1024, 1024), (8192, 8192)] {
                    let tile = matmul_tile(form, rows, columns, &caps);
                    tile.validate(&caps).unwrap_or_else(|error| panic!("{form:?} {rows} × {columns}: {error}"));
                }
                let tile = matmul_tile(form, 4096, 4096, &caps);
                assert_eq!(tile.rows_per_lane * tile.quads_per_lane, if caps.software { 64 } else { 16 }, "{tile:?}");
                assert_eq!(tile.stage_b, !caps.software, "{tile:?}");
            }
        }
        let few = matmul_tile(Form::Forward, 1, 4096, &Caps::floor());
        assert!(few.rows() <= 8, "one row does not take a tile of many: {few:?}");
    }

    #[test]
    fn broken_tiles_are_refused() {
        let right = matmul_tile(Form::Forward, 64, 64, &Caps::floor());
        let refused = |tile: MatmulTile| matches!(tile.validate(&Caps::floor()), Err(Error::Invalid { .. }));
        assert!(refused(MatmulTile { column_lanes: 3, ..right }));
        assert!(refused(MatmulTile { depth: 6, ..right }));
        assert!(refused(MatmulTile { threads: 64, column_lanes: 8, stage_b: false, ..right }));
        let much = MatmulTile { depth: 256, ..right };
        assert!(matches!(much.validate(&Caps::floor()), Err(Error::Limit { .. })));
    }
}
