//! (problem, capabilities, path) → tile: which part of the work a workgroup owns. Pure.

use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::matrix::matrix_tile;
use crate::problem::{Problem, Shape};

mod any;
mod backward;
mod backward_matrix;
mod cost;
mod ladder;
mod matmul;
mod matmul_matrix;
mod measured;
mod text;
pub use any::{AnyMatmulTile, AnyTile};
pub use backward::{BackwardChoice, BackwardTile, Sweep, backward_tile};
pub use backward_matrix::{AnyBackwardTile, BackwardMatrixTile, backward_matrix_tile};
pub(crate) use cost::{BARRIER, CORES, MATRIX_REGISTERS, UNITS};
use cost::{CACHED_LOAD, EXCHANGE, LOAD, STAGE, park, spill};
pub use ladder::choose_forward;
pub(crate) use matmul::cost as matmul_cost;
pub use matmul::{Form, MatmulTile, matmul_tile};
pub(crate) use matmul_matrix::unfit_for_matrix_units;
pub use matmul_matrix::{MatmulMatrixTile, matmul_matrix_tile};
pub(crate) use text::Fields;

/// The kernel family that runs a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// One invocation per output row: the on-device check, never chosen by itself.
    Naive,
    /// Tiled and register-blocked; needs no optional feature.
    Portable,
    /// The tiled kernel with subgroup shuffles instead of workgroup memory; needs `SUBGROUP`.
    Subgroup,
    /// Both products on matrix units, f16 operands with f32 sums; needs cooperative matrices, f16 or bf16 storage. bf16 is
    /// multiplied as f16, which holds it exactly from 2⁻¹⁷ to 65504: what is larger overflows, what is smaller is rounded.
    Matrix,
}

impl Path {
    /// Every path, in the order of a ladder's rungs.
    pub const ALL: [Path; 4] = [Path::Naive, Path::Portable, Path::Subgroup, Path::Matrix];

    /// The name used in labels, flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Path::Naive => "naive",
            Path::Portable => "portable",
            Path::Subgroup => "subgroup",
            Path::Matrix => "matrix",
        }
    }
}

/// What one workgroup of the tiled kernels owns; `shaders/forward.wgsl` tells the meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tile {
    /// Invocations in the workgroup; a multiple of `key_lanes`.
    pub threads: u32,
    /// Rows of one invocation, in fours.
    pub row_quads: u32,
    /// Invocations that share rows; a power of two.
    pub key_lanes: u32,
    /// Keys whose scores one invocation computes for its rows.
    pub keys_per_lane: u32,
    /// Output heads of one KV group whose rows share the tile; divides `heads / kv_heads`.
    pub heads_per_tile: u32,
    /// Whether Q is held in workgroup memory instead of being re-read for every key tile.
    pub stage_q: bool,
    /// Whether V has its own place in workgroup memory instead of K's.
    pub separate_v: bool,
}

impl Tile {
    /// Invocation rows: each owns `4 * row_quads` packed query rows.
    pub const fn row_lanes(&self) -> u32 {
        self.threads / self.key_lanes
    }

    /// Packed query rows: position × output head of the tile × member of the pair.
    pub const fn rows(&self) -> u32 {
        4 * self.row_quads * self.row_lanes()
    }

    /// Keys of one step.
    pub const fn keys(&self) -> u32 {
        self.key_lanes * self.keys_per_lane
    }

    /// Query positions.
    pub const fn positions(&self) -> u32 {
        self.rows() / (2 * self.heads_per_tile)
    }

    /// vec4 output accumulators of one invocation and row.
    pub const fn quads_per_lane(&self, shape: &Shape) -> u32 {
        (shape.value_dim / 4).div_ceil(self.key_lanes)
    }

    /// vec4 slots between two keys in workgroup memory: odd, so that neighbouring keys fall into different banks.
    pub const fn kv_stride(&self, shape: &Shape) -> u32 {
        let values = self.key_lanes * self.quads_per_lane(shape);
        let keys = shape.head_dim / 4;
        (if values > keys { values } else { keys }) | 1
    }

    /// First vec4 slot of V: 0 where it takes K's place.
    pub const fn v_base(&self, shape: &Shape) -> u32 {
        if self.separate_v { self.keys() * self.kv_stride(shape) } else { 0 }
    }

    /// vec4 slots of K and V together.
    pub const fn kv_slots(&self, shape: &Shape) -> u32 {
        self.v_base(shape) + self.keys() * self.kv_stride(shape)
    }

    /// vec4 slots between two staged rows of Q.
    pub const fn q_stride(&self, shape: &Shape) -> u32 {
        (shape.head_dim / 4) | 1
    }

    /// vec4 slots of Q; one where Q is not staged, since an array cannot be empty.
    pub const fn q_slots(&self, shape: &Shape) -> u32 {
        if self.stage_q { self.rows() * self.q_stride(shape) } else { 1 }
    }

    /// Bytes of workgroup memory: the terms stated at the head of forward.wgsl and of exchange/*.wgsl.
    pub const fn workgroup_bytes(&self, shape: &Shape, path: Path) -> u32 {
        let exchange = match path {
            Path::Portable => self.threads * self.row_quads + self.row_lanes() * (self.keys() * self.row_quads + 1),
            Path::Naive | Path::Subgroup | Path::Matrix => 0,
        };
        16 * (self.kv_slots(shape) + self.q_slots(shape) + exchange)
    }

    /// Whether the kernel's own rules hold, apart from any device.
    fn is_sound(&self, shape: &Shape) -> bool {
        self.key_lanes.is_power_of_two()
            && (self.key_lanes..=1 << 12).contains(&self.threads)
            && self.threads.is_multiple_of(self.key_lanes)
            && (1..=2).contains(&self.row_quads)
            && (1..=64).contains(&self.keys_per_lane)
            && self.heads_per_tile > 0
            && shape.group().is_multiple_of(self.heads_per_tile)
            && self.positions() > 0
    }

    /// Checks the tile against the problem and the device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tile that breaks the kernel's rules, [`Error::MissingFeature`] for the subgroup path
    /// without subgroups or with subgroups smaller than `key_lanes`, [`Error::Limit`] for too many invocations or too
    /// much workgroup memory.
    pub fn validate(&self, shape: &Shape, path: Path, caps: &Caps) -> Result<()> {
        if !self.is_sound(shape) {
            let rule = "key_lanes a power of two that divides threads (at most 4096), row_quads 1 or 2, keys_per_lane \
                        from 1 to 64, heads_per_tile a divisor of heads / kv_heads, at most rows / 2";
            return Err(Error::invalid("tile", rule, format!("{self:?}")));
        }
        if path == Path::Subgroup {
            let smallest = subgroup_min(caps)?;
            if self.key_lanes > smallest {
                let rule = format!("at most {smallest}, the device's smallest subgroup");
                return Err(Error::invalid("tile.key_lanes", rule, self.key_lanes));
            }
        }
        limit("max_compute_invocations_per_workgroup", self.threads, caps.invocations)?;
        limit("max_compute_workgroup_storage_size", self.workgroup_bytes(shape, path), caps.workgroup_storage)
    }
}

pub(crate) fn limit(name: &'static str, needed: u32, available: u32) -> Result<()> {
    if needed <= available {
        return Ok(());
    }
    let what = "one workgroup of the kernel".to_string();
    Err(Error::Limit { name, what, needed: needed.into(), available: available.into() })
}

pub(crate) fn subgroup_min(caps: &Caps) -> Result<u32> {
    let hint = "request the feature when creating the device, or use the portable path";
    let missing = Error::MissingFeature { path: "subgroup", feature: "SUBGROUP", hint };
    caps.subgroups.map(|(smallest, _)| smallest).ok_or(missing)
}

/// Invocations of the naive kernel's workgroups: enough to fill any subgroup, within every device's limit.
pub(crate) const NAIVE_THREADS: u32 = 64;

/// A tile, and what it is estimated to cost; comparable between tiles and paths of one problem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The kernel family.
    pub path: Path,
    /// What a workgroup owns.
    pub tile: AnyTile,
    /// Estimated issue slots of the whole problem for each key.
    pub cost: f64,
}

/// The tile for a forward kernel: the one that was measured to be fastest on such a device, where there is a record, or else
/// the cheapest, by estimate, of all that fit the device.
///
/// # Errors
/// [`Error::MissingFeature`] for the subgroup path on a device without subgroups and the matrix path on one without matrix
/// units; [`Error::Unsupported`] for f32 storage on the latter; [`Error::Limit`] when not even the smallest tile fits,
/// which for the portable path cannot happen at the default limits of WebGPU; [`Error::Invalid`] for a path without tiles.
pub fn forward_tile(problem: &Problem, path: Path, caps: &Caps) -> Result<Choice> {
    match measured::measured_tile(problem, path, caps) {
        Some(AnyTile::Matrix(tile)) => return Ok(tile.choice(problem)),
        Some(AnyTile::Tiled(tile)) => {
            return Ok(Choice { path, tile: tile.into(), cost: cost(problem, path, caps, &tile) });
        }
        None if path == Path::Matrix => return matrix_tile(problem, caps),
        None => {}
    }
    let most_lanes = if path == Path::Subgroup { subgroup_min(caps)?.min(32) } else { 32 };
    let mut best: Option<Choice> = None;
    let mut smallest: Option<(u32, Error)> = None; // of those that do not fit, to say what is missing
    for tile in candidates(problem.shape.group(), path, most_lanes) {
        match tile.validate(&problem.shape, path, caps) {
            Ok(()) => {
                let cost = cost(problem, path, caps, &tile);
                if best.is_none_or(|best| cost < best.cost) {
                    best = Some(Choice { path, tile: tile.into(), cost });
                }
            }
            Err(error) => {
                let size = tile.threads + tile.workgroup_bytes(&problem.shape, path);
                if smallest.as_ref().is_none_or(|(least, _)| size < *least) {
                    smallest = Some((size, error));
                }
            }
        }
    }
    match (best, smallest) {
        (Some(best), _) => Ok(best),
        (None, Some((_, error))) => Err(error),
        (None, None) => Err(Error::invalid("path", "portable or subgroup, which have tiles", path.name())),
    }
}

/// Every tile of a path that fits the device, the cheapest by estimate first; none where the path cannot run the problem.
#[cfg(all(feature = "tune", not(target_arch = "wasm32")))]
pub(crate) fn ranked_tiles(problem: &Problem, path: Path, caps: &Caps) -> Vec<Choice> {
    let mut choices: Vec<Choice> = if path == Path::Matrix {
        crate::matrix::fitting(problem, caps).unwrap_or_default()
    } else {
        let most_lanes = if path == Path::Subgroup { subgroup_min(caps).unwrap_or(0).min(32) } else { 32 };
        let fitting = candidates(problem.shape.group(), path, most_lanes)
            .filter(|tile| tile.validate(&problem.shape, path, caps).is_ok());
        fitting.map(|tile| Choice { path, tile: tile.into(), cost: cost(problem, path, caps, &tile) }).collect()
    };
    choices.sort_by(|a, b| a.cost.total_cmp(&b.cost));
    choices
}

/// Every tile worth estimating.
pub(crate) fn candidates(group: u32, path: Path, most_lanes: u32) -> impl Iterator<Item = Tile> {
    let tiled = matches!(path, Path::Portable | Path::Subgroup);
    let lanes = [4, 8, 16, 32].into_iter().filter(move |&lanes| tiled && lanes <= most_lanes);
    let blocks = lanes.flat_map(|key_lanes| {
        [256, 128, 64, 32].into_iter().flat_map(move |threads| {
            [1, 2].into_iter().flat_map(move |row_quads| {
                (1..=8).map(move |keys_per_lane| (threads, row_quads, key_lanes, keys_per_lane))
            })
        })
    });
    blocks.flat_map(move |(threads, row_quads, key_lanes, keys_per_lane)| {
        // Only the subgroup exchange saves a barrier by keeping V apart.
        let places = if path == Path::Subgroup { &[false, true][..] } else { &[false] };
        let pairs = 2 * row_quads * (threads / key_lanes);
        let packings = (1..=group.min(pairs)).filter(move |heads| group.is_multiple_of(*heads));
        packings.flat_map(move |heads_per_tile| {
            places.iter().flat_map(move |&separate_v| {
                [false, true].into_iter().map(move |stage_q| Tile {
                    threads,
                    row_quads,
                    key_lanes,
                    keys_per_lane,
                    heads_per_tile,
                    stage_q,
                    separate_v,
                })
            })
        })
    })
}

/// Estimated time of a tile in issue slots of one multiply-add, relative to other tiles of the same problem.
///
/// Counts, for one invocation and one key tile, what the kernel executes: multiply-adds; loads; bringing K and V;
/// barriers; what does not fit the registers. Rows without work, keys that a tile visits for few of its rows, and
/// workgroups that cannot fill a small device are paid for like the others.
fn cost(problem: &Problem, path: Path, caps: &Caps, tile: &Tile) -> f64 {
    let shape = &problem.shape;
    let (keys, per_lane) = (f64::from(tile.keys()), f64::from(tile.keys_per_lane));
    let row_quads = f64::from(tile.row_quads);
    let (head_quads, value_quads) = (f64::from(shape.head_dim / 4), f64::from(shape.value_dim / 4));
    let quads = f64::from(tile.quads_per_lane(shape));
    let unpack = cost::unpack(problem, caps);

    // Accumulators, and the operands that are held beside them.
    let scores = 4 * tile.row_quads * tile.keys_per_lane;
    let outputs = 16 * tile.row_quads * tile.quads_per_lane(shape);
    let kept = if path == Path::Subgroup { scores } else { 0 };
    let qk_registers = scores + 16 * tile.row_quads + 4;
    let pv_registers = outputs + kept + 4 * tile.quads_per_lane(shape) + 4;

    let query_load = if tile.stage_q { LOAD } else { CACHED_LOAD + unpack };
    let qk = head_quads * (16.0 * row_quads * per_lane + 4.0 * row_quads * query_load + per_lane * LOAD);
    let pv = keys * (16.0 * row_quads * quads + quads * LOAD + row_quads * EXCHANGE);
    let bring = keys * (head_quads + value_quads) * (STAGE + unpack) / f64::from(tile.threads);
    let row_max = row_quads * LOAD * f64::from(tile.key_lanes);
    let softmax = 30.0 * row_quads * per_lane;
    let barriers = if path == Path::Subgroup && tile.separate_v { 2.0 } else { 4.0 };
    let per_invocation = qk * spill(qk_registers)
        + pv * spill(pv_registers)
        + park(scores + outputs)
        + bring
        + row_max
        + softmax
        + BARRIER * barriers;

    // Whole tiles cover q_len × the group's rows; a device with idle cores takes as long as a full one.
    let q_tiles = shape.q_len.max(1).div_ceil(tile.positions());
    let tiles = f64::from(q_tiles) * f64::from(shape.group() / tile.heads_per_tile);
    let workgroups = tiles * f64::from(shape.batch) * f64::from(shape.kv_heads);
    let idle = (f64::from(CORES) / workgroups).max(1.0);
    let needed = cost::mean_keys(problem);
    let edges = cost::visited(problem, needed, tile.positions(), tile.keys()) / needed;
    per_invocation * cost::lanes(tile.threads, caps) * tiles * idle * edges / keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, Options};

    fn problem(q_len: u32, heads: u32, kv_heads: u32, head_dim: u32, value_dim: u32, dtype: DType) -> Problem {
        let shape = Shape { batch: 1, q_len, kv_len: 1024, heads, kv_heads, head_dim, value_dim };
        Problem::new(shape, dtype, Options::default())
    }

    #[test]
    fn every_dimension_has_a_tile_at_the_floor() {
        for subgroups in [None, Some((4, 128)), Some((8, 8)), Some((32, 32)), Some((128, 128))] {
            let caps = Caps { subgroups, ..Caps::floor() };
            for head_dim in (8..=256).step_by(8) {
                for value_dim in (8..=256).step_by(8) {
                    for dtype in [DType::F32, DType::F16] {
                        let problem = problem(100, 6, 2, head_dim, value_dim, dtype);
                        for path in [Path::Portable, Path::Subgroup] {
                            if path == Path::Subgroup && subgroups.is_none() {
                                continue;
                            }
                            let tile = forward_tile(&problem, path, &caps).expect("a tile fits").tile;
                            tile.validate(&problem, path, &caps).expect("it is valid");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn few_queries_pack_the_heads_of_a_group() {
        // With workgroups enough for every core; otherwise heads apart keep more of them busy.
        let mut few = problem(2, 16, 2, 64, 64, DType::F32);
        few.shape.batch = 64;
        let few = forward_tile(&few, Path::Portable, &Caps::floor()).unwrap().tile;
        assert_eq!(few.heads_per_tile(), 8, "{few:?}");
        let many =
            forward_tile(&problem(4096, 16, 2, 64, 64, DType::F32), Path::Portable, &Caps::floor()).unwrap().tile;
        assert_eq!(many.heads_per_tile(), 1, "{many:?}");
    }

    #[test]
    fn more_workgroup_memory_never_gives_a_costlier_tile() {
        for head_dim in [64, 128, 256] {
            let problem = problem(1024, 16, 8, head_dim, head_dim, DType::F16);
            let mut last = f64::INFINITY;
            for kib in [16, 32, 48] {
                let caps = Caps { workgroup_storage: kib << 10, ..Caps::floor() };
                let choice = forward_tile(&problem, Path::Portable, &caps).unwrap();
                let now = choice.cost;
                assert!(now <= last, "{kib} KiB: {choice:?}, a smaller one costs {last}");
                last = now;
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let problem = problem(64, 4, 2, 128, 128, DType::F32);
        let AnyTile::Tiled(mut tile) = forward_tile(&problem, Path::Portable, &Caps::floor()).unwrap().tile else {
            panic!("not a tiled kernel's");
        };
        tile.keys_per_lane = 16;
        let error = tile.validate(&problem.shape, Path::Portable, &Caps::floor()).unwrap_err();
        assert!(matches!(error, Error::Limit { name: "max_compute_workgroup_storage_size", .. }), "{error}");
        assert!(error.is_unsupported());
        let error = forward_tile(&problem, Path::Subgroup, &Caps::floor()).unwrap_err();
        assert!(matches!(error, Error::MissingFeature { feature: "SUBGROUP", .. }), "{error}");
    }
}
