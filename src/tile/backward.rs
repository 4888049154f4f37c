//! Tiles of the backward kernels: dQ and the mean sweep over keys, dK and dV over pairs of queries.

use super::cost::{self, BARRIER, CACHED_LOAD, CORES, EXCHANGE, LOAD, STAGE, park, spill};
use super::{limit, subgroup_min};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::problem::{Problem, Shape};
use crate::tile::Path;

/// A tiled backward kernel; `shaders/backward_*.wgsl` tell what each does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sweep {
    /// dQ, over tiles of keys.
    Dq,
    /// The row term that a₂ would give, over tiles of keys.
    Mean,
    /// dK and dV, over tiles of pairs.
    Dkv,
}

/// What one workgroup of a tiled backward kernel owns and takes in one step.
///
/// The rows that it owns are pairs (query, output head) for dQ, keys for dK and dV; the items of a step are the reverse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackwardTile {
    /// Invocations in the workgroup; a multiple of `lanes`.
    pub threads: u32,
    /// Rows of one invocation, in fours; one for the sweeps over keys, whose rows are pairs.
    pub row_quads: u32,
    /// Invocations that share rows; a power of two.
    pub lanes: u32,
    /// Items of a step for which one invocation computes with its rows.
    pub per_lane: u32,
    /// Whether K has its own place in workgroup memory instead of V's; always so for dK and dV.
    pub separate: bool,
}

impl BackwardTile {
    /// Rows: pairs, or keys.
    pub const fn rows(&self) -> u32 {
        4 * self.row_quads * (self.threads / self.lanes)
    }

    /// Items of one step: keys, or pairs.
    pub const fn items(&self) -> u32 {
        self.lanes * self.per_lane
    }

    /// vec4 accumulators of one invocation and row, along a dimension of so many elements.
    pub const fn quads_per_lane(&self, dim: u32) -> u32 {
        (dim / 4).div_ceil(self.lanes)
    }

    /// vec4 slots between two rows in workgroup memory: odd, so that neighbours fall into different banks.
    pub const fn stride(&self, dim: u32) -> u32 {
        let (whole, quads) = (self.lanes * self.quads_per_lane(dim), dim / 4);
        (if whole > quads { whole } else { quads }) | 1
    }

    /// First vec4 slot of K in the sweeps over keys: 0 where it takes V's place.
    pub const fn k_base(&self, shape: &Shape) -> u32 {
        if self.separate { self.items() * self.stride(shape.value_dim) } else { 0 }
    }

    /// vec4 slots of what a step loads.
    pub const fn slots(&self, sweep: Sweep, shape: &Shape) -> u32 {
        let (head, value) = (self.stride(shape.head_dim), self.stride(shape.value_dim));
        let row = match sweep {
            Sweep::Dkv => 2 * head + value,
            Sweep::Dq | Sweep::Mean if self.separate => head + value,
            Sweep::Dq | Sweep::Mean if head > value => head,
            Sweep::Dq | Sweep::Mean => value,
        };
        self.items() * row
    }

    /// vec4s that the lanes of a group exchange for each item.
    pub const fn parts(&self, sweep: Sweep) -> u32 {
        self.row_quads
            * match sweep {
                Sweep::Mean => 1,
                Sweep::Dq => 2,
                Sweep::Dkv => 3,
            }
    }

    /// Bytes of workgroup memory: the terms stated at the head of backward_*.wgsl and of exchange/parts_*.wgsl.
    pub const fn workgroup_bytes(&self, sweep: Sweep, shape: &Shape, path: Path) -> u32 {
        let exchange = match path {
            Path::Portable => self.threads / self.lanes * (self.parts(sweep) * self.items() + 1),
            Path::Naive | Path::Subgroup | Path::Matrix => 0,
        };
        16 * (self.slots(sweep, shape) + exchange)
    }

    /// Checks the tile against the problem and the device.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a tile that breaks the kernel's rules or has more lanes than the smallest subgroup,
    /// [`Error::MissingFeature`] for the subgroup path without subgroups, [`Error::Limit`] for too many invocations or
    /// too much workgroup memory.
    pub fn validate(&self, sweep: Sweep, shape: &Shape, path: Path, caps: &Caps) -> Result<()> {
        let sound = self.lanes.is_power_of_two()
            && (self.lanes..=1 << 12).contains(&self.threads)
            && self.threads.is_multiple_of(self.lanes)
            && (1..=2).contains(&self.row_quads)
            && (self.row_quads == 1 || sweep == Sweep::Dkv)
            && (1..=64).contains(&self.per_lane)
            && (self.separate || sweep != Sweep::Dkv);
        if !sound {
            let rule = "lanes a power of two that divides threads (at most 4096), row_quads 1, or 2 for dK and dV, per_lane \
                        from 1 to 64";
            return Err(Error::invalid("backward tile", rule, format!("{self:?}")));
        }
        if path == Path::Subgroup {
            let smallest = subgroup_min(caps)?;
            if self.lanes > smallest {
                let rule = format!("at most {smallest}, the device's smallest subgroup");
                return Err(Error::invalid("backward tile.lanes", rule, self.lanes));
            }
        }
        limit("max_compute_invocations_per_workgroup", self.threads, caps.invocations)?;
        let bytes = self.workgroup_bytes(sweep, shape, path);
        limit("max_compute_workgroup_storage_size", bytes, caps.workgroup_storage)
    }
}

/// A tile, and what it is estimated to cost; comparable between tiles and paths of one problem.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BackwardChoice {
    /// What a workgroup owns.
    pub tile: BackwardTile,
    /// Estimated issue slots of the whole problem.
    pub cost: f64,
}

/// The tile for a tiled backward kernel: the cheapest, by estimate, of all that fit the device.
///
/// # Errors
/// [`Error::MissingFeature`] for the subgroup path on a device without subgroups; [`Error::Limit`] when not even the
/// smallest tile fits, which cannot happen at the default limits of WebGPU.
pub fn backward_tile(problem: &Problem, sweep: Sweep, path: Path, caps: &Caps) -> Result<BackwardChoice> {
    let most_lanes = if path == Path::Subgroup { subgroup_min(caps)?.min(32) } else { 32 };
    let fits = |tile: &BackwardTile| tile.validate(sweep, &problem.shape, path, caps).is_ok();
    let choices = candidates(sweep, most_lanes).filter(fits);
    let choices = choices.map(|tile| BackwardChoice { tile, cost: cost(problem, sweep, path, caps, &tile) });
    choices.min_by(|a, b| a.cost.total_cmp(&b.cost)).ok_or_else(|| Error::Limit {
        name: "max_compute_workgroup_storage_size",
        what: format!("the smallest tile of the {} backward kernel", path.name()),
        needed: 16 << 10,
        available: caps.workgroup_storage.into(),
    })
}

/// Every tile worth estimating.
fn candidates(sweep: Sweep, most_lanes: u32) -> impl Iterator<Item = BackwardTile> {
    let (places, row_quads) = if sweep == Sweep::Dkv { (&[true][..], 1..=2) } else { (&[true, false][..], 1..=1) };
    let lanes = [4, 8, 16, 32].into_iter().filter(move |&lanes| lanes <= most_lanes);
    lanes.flat_map(move |lanes| {
        let row_quads = row_quads.clone();
        [256, 128, 64, 32].into_iter().flat_map(move |threads| {
            row_quads.clone().flat_map(move |row_quads| {
                (1..=8).flat_map(move |per_lane| {
                    places.iter().map(move |&separate| BackwardTile { threads, row_quads, lanes, per_lane, separate })
                })
            })
        })
    })
}

/// What one invocation does in one step of a sweep, beside dP.
struct Work {
    /// The product that gives the scores.
    scores: f64,
    /// The products that give the sums.
    sums: f64,
    /// vec4s brought for each item.
    quads: f64,
    /// Accumulators that live through the step.
    live: u32,
    /// Registers that the loop over scores touches, and the greediest loop over sums.
    score_registers: u32,
    sum_registers: u32,
}

impl Work {
    fn of(shape: &Shape, sweep: Sweep, path: Path, unpack: f64, tile: &BackwardTile) -> Self {
        let (items, per_lane) = (f64::from(tile.items()), f64::from(tile.per_lane));
        let rows = f64::from(tile.row_quads);
        let (head_quads, value_quads) = (f64::from(shape.head_dim / 4), f64::from(shape.value_dim / 4));
        let (head_sums, value_sums) = (tile.quads_per_lane(shape.head_dim), tile.quads_per_lane(shape.value_dim));
        let (head, value) = (f64::from(head_sums), f64::from(value_sums));
        let row_load = CACHED_LOAD + unpack;
        // Scores of one member; shuffles need them until they are summed.
        let one = 4 * tile.row_quads * tile.per_lane;
        let kept = if path == Path::Subgroup { one } else { 0 };
        match sweep {
            Sweep::Dq => Work {
                scores: head_quads * (32.0 * per_lane + 8.0 * row_load + per_lane * LOAD),
                sums: items * (32.0 * head + head * LOAD + 2.0 * EXCHANGE),
                quads: head_quads + value_quads,
                live: 3 * one + 32 * head_sums,
                score_registers: 2 * one + 32 + 4,
                sum_registers: 32 * head_sums + 2 * kept + 4 + 8,
            },
            Sweep::Mean => Work {
                scores: head_quads * (16.0 * per_lane + 4.0 * row_load + per_lane * LOAD),
                sums: 0.0,
                quads: head_quads + value_quads,
                live: 2 * one,
                score_registers: one + 16 + 4,
                sum_registers: 0,
            },
            Sweep::Dkv => Work {
                scores: head_quads * (32.0 * rows * per_lane + 4.0 * rows * row_load + 2.0 * per_lane * LOAD),
                sums: items
                    * (16.0 * rows * (2.0 * head + value) + (2.0 * head + value) * LOAD + 3.0 * rows * EXCHANGE),
                quads: 2.0 * head_quads + value_quads,
                live: 3 * one + 16 * tile.row_quads * (head_sums + value_sums),
                score_registers: 2 * one + 16 * tile.row_quads + 4,
                sum_registers: (16 * tile.row_quads + 4) * head_sums.max(value_sums) + kept + 4,
            },
        }
    }
}

/// Estimated time of a tile in issue slots of one multiply-add, relative to other tiles of the same problem: the terms of
/// the forward's estimate, see [`super::forward_tile`].
fn cost(problem: &Problem, sweep: Sweep, path: Path, caps: &Caps, tile: &BackwardTile) -> f64 {
    let shape = &problem.shape;
    let (items, per_lane) = (f64::from(tile.items()), f64::from(tile.per_lane));
    let rows = f64::from(tile.row_quads);
    let unpack = cost::unpack(problem, caps);
    let work = Work::of(shape, sweep, path, unpack, tile);
    let value_quads = f64::from(shape.value_dim / 4);
    let dp = value_quads * (16.0 * rows * per_lane + 4.0 * rows * (CACHED_LOAD + unpack) + per_lane * LOAD);
    let bring = items * work.quads * (STAGE + unpack) / f64::from(tile.threads);
    let barriers = 2.0 + if path == Path::Portable { 1.0 } else { 0.0 } + if tile.separate { 0.0 } else { 2.0 };
    let per_invocation = work.scores * spill(work.score_registers)
        + dp
        + work.sums * spill(work.sum_registers)
        + park(work.live)
        + bring
        + BARRIER * barriers
        + 60.0 * rows * per_lane;

    // Whole tiles cover the rows; a device with idle cores takes as long as a full one. Rows and items are pairs and keys
    // for the sweeps over keys, and the reverse for dK and dV.
    let group = shape.group();
    let pairs = f64::from(shape.q_len) * f64::from(group);
    let mean_keys = cost::mean_keys(problem);
    let (rows, visited) = match sweep {
        Sweep::Dq | Sweep::Mean => {
            (pairs, cost::visited(problem, mean_keys, tile.rows().div_ceil(group), tile.items()))
        }
        Sweep::Dkv => {
            let keys = f64::from(shape.kv_len.max(1));
            let needed = mean_keys * pairs / keys;
            (keys, cost::visited(problem, needed, tile.rows() * group, tile.items()))
        }
    };
    let workgroups =
        (rows.max(1.0) / f64::from(tile.rows())).ceil() * f64::from(shape.batch) * f64::from(shape.kv_heads);
    let idle = (f64::from(CORES) / workgroups).max(1.0);
    per_invocation * cost::lanes(tile.threads, caps) * workgroups * idle * visited / items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, Options};

    #[test]
    fn every_dimension_has_a_tile_at_the_floor() {
        for subgroups in [None, Some((4, 128)), Some((8, 8)), Some((32, 32)), Some((128, 128))] {
            let caps = Caps { subgroups, ..Caps::floor() };
            for (head_dim, value_dim) in (8..=256).step_by(8).flat_map(|d| [(d, d), (d, 8), (d, 256)]) {
                let shape = Shape { batch: 1, q_len: 100, kv_len: 90, heads: 6, kv_heads: 2, head_dim, value_dim };
                let problem = Problem::new(shape, DType::F16, Options::default());
                for sweep in [Sweep::Dq, Sweep::Mean, Sweep::Dkv] {
                    for path in [Path::Portable, Path::Subgroup] {
                        if path == Path::Subgroup && subgroups.is_none() {
                            continue;
                        }
                        let tile = backward_tile(&problem, sweep, path, &caps).expect("a tile fits").tile;
                        tile.validate(sweep, &problem.shape, path, &caps).expect("it is valid");
                    }
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let shape = Shape { batch: 1, q_len: 64, kv_len: 64, heads: 4, kv_heads: 2, head_dim: 128, value_dim: 128 };
        let tile = BackwardTile { threads: 128, row_quads: 1, lanes: 16, per_lane: 4, separate: true };
        let error = tile.validate(Sweep::Dkv, &shape, Path::Portable, &Caps::floor()).unwrap_err();
        assert!(matches!(error, Error::Limit { name: "max_compute_workgroup_storage_size", .. }), "{error}");
        let tile = BackwardTile { per_lane: 1, separate: false, ..tile };
        assert!(tile.validate(Sweep::Dkv, &shape, Path::Subgroup, &Caps::floor()).is_err());
    }
}
