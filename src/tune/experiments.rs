//! The experiments of the matrix path, each one switch away from a base, with what it is expected to change. Pure data.

use crate::caps::Caps;
use crate::error::Result;
use crate::matrix::MatrixTile;
use crate::problem::Problem;
use crate::tile::{AnyTile, Path, forward_tile};

/// One switch, and the prediction to hold the measurement against.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// By which `diffattn tune --sweep` knows it.
    pub name: &'static str,
    /// What it should change, and by how much, on a CUDA-class GPU at head_dim 128.
    pub prediction: &'static str,
    change: fn(MatrixTile, &Problem, &Caps) -> MatrixTile,
}

macro_rules! experiment {
    ($name:literal, $prediction:literal, |$tile:ident $(, $problem:ident, $caps:ident)?| $change:expr) => {
        Experiment {
            name: $name,
            prediction: $prediction,
            change: experiment!(@change $tile $(, $problem, $caps)?, $change),
        }
    };
    (@change $tile:ident, $change:expr) => {
        |tile, _, _| {
            let mut $tile = tile;
            $change;
            $tile
        }
    };
}

/// All of them, in the order in which to run them.
const EXPERIMENTS: &[Experiment] = &[
    experiment!(
        "loops",
        "slower than written out by 2 to 10 times if the driver leaves indexed arrays of matrices in memory, equal if not",
        |tile| tile.unrolled = false
    ),
    experiment!("unrolled", "the reverse of `loops`", |tile| tile.unrolled = true),
    experiment!(
        "rows16",
        "16 rows a subgroup: K and V fragments cost twice the bytes, about 0.65 of the throughput",
        |tile| { set_rows(&mut tile, 16) }
    ),
    experiment!("rows32", "32 rows a subgroup: the base by arithmetic", |tile| set_rows(&mut tile, 32)),
    experiment!(
        "rows64",
        "64 rows a subgroup: at head_dim 128 spills (256 accumulators a lane), a fifth; at 64 up to 1.2 times",
        |tile| set_rows(&mut tile, 64)
    ),
    experiment!("keys16", "16 keys a step: twice the barriers, about 0.8", |tile| tile.keys = 16),
    experiment!("keys32", "32 keys a step: the base by arithmetic", |tile| tile.keys = 32),
    experiment!(
        "keys64",
        "64 keys a step: half the barriers, but 32 more registers a lane: between 0.7 and 1.15",
        |tile| { tile.keys = 64 }
    ),
    experiment!("subgroups4", "4 subgroups: two workgroups fit a core", |tile| tile.subgroups = 4),
    experiment!(
        "subgroups8",
        "8 subgroups: half the traffic from the second-level cache, but barriers wait for more: 0.8 to 1.1",
        |tile| tile.subgroups = 8
    ),
    experiment!("padding0", "no padding: rows of 256 bytes meet in one bank, 0.5 or less", |tile| tile.padding = 0),
    experiment!("padding16", "32 bytes of padding: as 16 or up to 5 % slower", |tile| tile.padding = 16),
    experiment!("q-staged", "Q in workgroup memory: half the rows fit 48 KiB, 0.7", |tile| tile.q_global = false),
    experiment!("q-global", "Q from the first-level cache: room for 128 rows, the base by arithmetic", |tile| {
        tile.q_global = true
    }),
    experiment!(
        "q-resident",
        "Q in registers: saves the reads of Q (a third of the fragments' bytes), but 64 registers more a lane: 0.6 to 1.1",
        |tile| tile.q_resident = true
    ),
    experiment!(
        "kv-global",
        "K and V from the caches without workgroup memory: two barriers less, four times the cache reads: 0.6 to 1.1",
        |tile| tile.kv_global = true
    ),
    experiment!("ahead", "loads one product ahead: hides their latency, the base by arithmetic", |tile| tile.ahead =
        true),
    experiment!(
        "not-ahead",
        "loads where they are used: 0.8 to 0.95 with two workgroups a core, less with one",
        |tile| { tile.ahead = false }
    ),
    experiment!("growth1", "rescales whenever a maximum doubles: 0.9 to 0.97 on random scores", |tile| tile.growth = 1),
    experiment!("growth15", "rescales least: within 1 % of 8", |tile| tile.growth = 15),
    experiment!("scalars", "workgroup memory by single elements: what 16-byte moves bring, 0.4 to 0.9", |tile| {
        tile.scalars = true
    }),
    experiment!(
        "by-head",
        "the queries of one head next to each other: K and V of fewer heads in the cache; within 3 % at 4k, up to 1.1 at 16k",
        |tile| tile.by_head = true
    ),
    experiment!("by-query", "the heads of one query next to each other: the base", |tile| tile.by_head = false),
    Experiment {
        name: "two-resident",
        prediction: "the largest tile of which two fit a core's workgroup memory, so that one's softmax overlaps the other's \
                     products: up to 1.3 if the base does not fit twice, 1 if it does",
        change: |tile, problem, caps| {
            let half = Caps { workgroup_storage: caps.workgroup_storage / 2, ..caps.clone() };
            match forward_tile(problem, Path::Matrix, &half).map(|choice| choice.tile) {
                Ok(AnyTile::Matrix(smaller)) => smaller,
                _ => tile,
            }
        },
    },
];

/// Rows of a subgroup, with its workgroup's rows as they are.
fn set_rows(tile: &mut MatrixTile, rows: u32) {
    let all = tile.rows();
    tile.strips = (rows / tile.size).max(1);
    tile.subgroups = (all / (tile.strips * tile.size)).max(1);
}

impl Experiment {
    /// Every experiment, in the order in which to run them.
    pub fn all() -> &'static [Experiment] {
        EXPERIMENTS
    }
}

/// An experiment and its tile; `None` where it changes nothing, or gives what the problem or the device does not allow.
pub type Planned = (Experiment, Option<AnyTile>);

/// The base, which is what the matrix path's planner takes, and every experiment.
///
/// # Errors
/// Those of [`forward_tile`] on the matrix path.
pub fn experiments(problem: &Problem, caps: &Caps) -> Result<(AnyTile, Vec<Planned>)> {
    let base = forward_tile(problem, Path::Matrix, caps)?.tile;
    let AnyTile::Matrix(tile) = base else { return Ok((base, Vec::new())) };
    let tiles = EXPERIMENTS.iter().map(|experiment| {
        let changed = AnyTile::Matrix((experiment.change)(tile, problem, caps));
        let possible = changed != base && changed.validate(problem, Path::Matrix, caps).is_ok();
        (*experiment, possible.then_some(changed))
    });
    Ok((base, tiles.collect()))
}
