//! The experiments, each one switch away from a base, with what it is expected to change. Pure data.

use crate::bench::{Case, Op, Runner};
use crate::caps::Caps;
use crate::decode_tile::{DecodeTile, decode_tile};
use crate::error::Result;
use crate::matrix::MatrixTile;
use crate::tile::{AnyTile, Path, Tile, forward_tile};

/// One switch, and the prediction to hold the measurement against.
#[derive(Debug, Clone, Copy)]
pub struct Experiment {
    /// What it is an experiment on: `matrix` or `portable`, the forward's paths, or `decode`.
    pub of: &'static str,
    /// By which `diffattn tune --sweep` knows it; one of its kind.
    pub name: &'static str,
    /// What it should change, and by how much, on a CUDA-class GPU at head_dim 128.
    pub prediction: &'static str,
    change: Change,
}

#[derive(Debug, Clone, Copy)]
enum Change {
    Matrix(fn(&mut MatrixTile)),
    Tiled(fn(&mut Tile)),
    Decode(fn(&mut DecodeTile)),
    Splits(fn(u32) -> u32),
    /// Another path, with the same tile.
    Path(Path),
    /// The matrix tile of a device with half the workgroup memory.
    HalfMemory,
    /// The driver's bounds checks.
    Checks,
}

const fn matrix(name: &'static str, prediction: &'static str, change: fn(&mut MatrixTile)) -> Experiment {
    Experiment { of: "matrix", name, prediction, change: Change::Matrix(change) }
}

const fn portable(name: &'static str, prediction: &'static str, change: fn(&mut Tile)) -> Experiment {
    Experiment { of: "portable", name, prediction, change: Change::Tiled(change) }
}

const fn decode(name: &'static str, prediction: &'static str, change: fn(&mut DecodeTile)) -> Experiment {
    Experiment { of: "decode", name, prediction, change: Change::Decode(change) }
}

const fn splits(name: &'static str, prediction: &'static str, change: fn(u32) -> u32) -> Experiment {
    Experiment { of: "decode", name, prediction, change: Change::Splits(change) }
}

const fn checks(of: &'static str, prediction: &'static str) -> Experiment {
    Experiment { of, name: "checks", prediction, change: Change::Checks }
}

/// All of them, in the order in which to run them.
const EXPERIMENTS: &[Experiment] = &[
    matrix(
        "loops",
        "slower than written out by 2 to 10 times if the driver leaves indexed arrays of matrices in memory, equal if not",
        |tile| tile.unrolled = false,
    ),
    matrix("unrolled", "the reverse of `loops`", |tile| tile.unrolled = true),
    matrix(
        "rows16",
        "16 rows a subgroup: K and V fragments cost twice the bytes, about 0.65 of the throughput",
        |tile| set_rows(tile, 16),
    ),
    matrix("rows32", "32 rows a subgroup: the base by arithmetic", |tile| set_rows(tile, 32)),
    matrix(
        "rows64",
        "64 rows a subgroup: at head_dim 128 spills (256 accumulators a lane), a fifth; at 64 up to 1.2 times",
        |tile| set_rows(tile, 64),
    ),
    matrix("keys16", "16 keys a step: twice the barriers, about 0.8", |tile| tile.keys = 16),
    matrix("keys32", "32 keys a step: the base by arithmetic", |tile| tile.keys = 32),
    matrix("keys64", "64 keys a step: half the barriers, but 32 more registers a lane: between 0.7 and 1.15", |tile| {
        tile.keys = 64
    }),
    matrix("subgroups4", "4 subgroups: two workgroups fit a core", |tile| tile.subgroups = 4),
    matrix(
        "subgroups8",
        "8 subgroups: half the traffic from the second-level cache, but barriers wait for more: 0.8 to 1.1",
        |tile| tile.subgroups = 8,
    ),
    matrix(
        "subgroups16",
        "16 subgroups of one strip: half the registers a lane, K and V read twice as often, more to do while one waits",
        |tile| (tile.strips, tile.subgroups) = (1, 16),
    ),
    matrix("padding0", "no padding: rows of 256 bytes meet in one bank, 0.5 or less", |tile| tile.padding = 0),
    matrix("padding16", "32 bytes of padding: as 16 or up to 5 % slower", |tile| tile.padding = 16),
    matrix(
        "columns1",
        "a subgroup takes all keys and elements of its rows: K and V cost twice the bytes, 0.92",
        |tile| set_columns(tile, 1),
    ),
    matrix("columns2", "two subgroups share rows: the base", |tile| set_columns(tile, 2)),
    matrix(
        "q-resident",
        "Q in registers: saves the reads of Q (a third of the fragments' bytes), but 64 registers more a lane: 0.6 to 1.1",
        |tile| tile.q_resident = true,
    ),
    matrix(
        "q-reread",
        "Q in workgroup memory, read again for every tile: a quarter of the rows fit 48 KiB, 0.5",
        |tile| (tile.q_resident, tile.subgroups) = (false, (tile.subgroups / 4).max(tile.columns)),
    ),
    matrix("growth1", "rescales whenever a maximum doubles: 0.9 to 0.97 on random scores", |tile| tile.growth = 1),
    matrix("growth15", "rescales least: within 1 % of 8", |tile| tile.growth = 15),
    matrix("scalars", "workgroup memory by single elements: what 16-byte moves bring, 0.4 to 0.9", |tile| {
        tile.scalars = true
    }),
    matrix(
        "by-head",
        "the queries of one head next to each other: K and V of fewer heads in the cache; within 3 % at 4k, up to 1.1 at 16k",
        |tile| tile.by_head = true,
    ),
    matrix("by-query", "the heads of one query next to each other: the base", |tile| tile.by_head = false),
    Experiment {
        of: "matrix",
        name: "two-resident",
        prediction: "the largest tile of which two fit a core's workgroup memory, so that one's softmax overlaps the other's \
                     products: up to 1.3 if the base does not fit twice, 1 if it does",
        change: Change::HalfMemory,
    },
    checks("matrix", "the driver's bounds checks on: 0.6 to 0.9, or 1 if the driver removes them by itself"),
    portable("rows4", "4 rows a lane: K's and V's loads serve half the products, about 0.75", |tile| {
        tile.row_quads = 1
    }),
    portable("rows8", "8 rows a lane: the base where its accumulators fit 128 registers", |tile| tile.row_quads = 2),
    portable("keys2", "2 keys a lane: Q's loads serve fewer products, about 0.7", |tile| tile.keys_per_lane = 2),
    portable("keys4", "4 keys a lane: within 10 % of the base", |tile| tile.keys_per_lane = 4),
    portable("keys8", "8 keys a lane: fewest loads a product; 0.7 if its scores spill, else up to 1.1", |tile| {
        tile.keys_per_lane = 8
    }),
    portable("lanes-half", "half the lanes share a row: twice the outputs a lane, 0.5 if they spill", |tile| {
        tile.key_lanes /= 2
    }),
    portable(
        "lanes-double",
        "twice the lanes share a row: half the outputs a lane, more loads of scores: 0.8",
        |tile| tile.key_lanes *= 2,
    ),
    portable("threads64", "64 invocations: cheaper barriers, K and V brought more often: 0.8 to 1.1", |tile| {
        tile.threads = 64
    }),
    portable("threads128", "128 invocations: within 10 % of the base", |tile| tile.threads = 128),
    portable("threads256", "256 invocations: K and V brought half as often as by 128: 0.9 to 1.1", |tile| {
        tile.threads = 256
    }),
    portable(
        "q-staged",
        "Q in workgroup memory: 0.9 to 1.1, since the first-level cache serves it nearly as well",
        |tile| tile.stage_q = true,
    ),
    portable("q-global", "Q from the first-level cache: the reverse of `q-staged`", |tile| tile.stage_q = false),
    portable("v-apart", "V beside K: one barrier less, half the workgroups a core: 0.8 to 1.05", |tile| {
        tile.separate_v = true
    }),
    portable("heads1", "one head of a group a tile: within 3 % at 4k", |tile| tile.heads_per_tile = 1),
    portable("heads2", "two heads of a group a tile: K and V brought for both, within 3 % at 4k", |tile| {
        tile.heads_per_tile = 2
    }),
    Experiment {
        of: "portable",
        name: "broadcast",
        prediction: "scores pass between lanes by subgroup shuffles, not through workgroup memory: 1.05 to 1.3",
        change: Change::Path(Path::Subgroup),
    },
    checks("portable", "the driver's bounds checks on: 0.7 to 1"),
    splits(
        "splits1",
        "no splits, one dispatch: batch × kv_heads workgroups, 0.5 at 64 of them, less with fewer",
        |_| 1,
    ),
    splits("splits-half", "half the splits: 0.7 to 1", |splits| splits / 2),
    splits("splits-double", "twice the splits: 0.95 to 1.05, since the merge reads twice as much", |splits| splits * 2),
    splits("splits-4x", "four times the splits: 0.8 to 1", |splits| splits * 4),
    decode("parts1", "a lane reads a key alone, 16 bytes at a time: 32 rows of memory at once, about 0.5", |tile| {
        set_parts(tile, 1)
    }),
    decode("parts2", "two lanes a key: 32 bytes together, about 0.8", |tile| set_parts(tile, 2)),
    decode("parts4", "four lanes a key: 64 bytes together, the base", |tile| set_parts(tile, 4)),
    decode("parts8", "eight lanes a key: 128 bytes together, 1 to 1.1", |tile| set_parts(tile, 8)),
    decode("parts16", "sixteen lanes a key: all of it together; more shuffles a key, 0.9 to 1.1", |tile| {
        set_parts(tile, 16)
    }),
    decode("keys1", "1 key a lane and step: less in flight, about 0.7", |tile| tile.keys_per_lane = 1),
    decode("keys2", "2 keys a lane and step: about 0.9", |tile| tile.keys_per_lane = 2),
    decode("keys4", "4 keys a lane and step: the base", |tile| tile.keys_per_lane = 4),
    decode("keys8", "8 keys a lane and step: more in flight, more registers: 0.8 to 1.1", |tile| {
        tile.keys_per_lane = 8
    }),
    decode("ahead1", "every load used at once: 0.6", |tile| tile.ahead = 1),
    decode("ahead4", "4 loads of K and of V on their way: 0.8", |tile| tile.ahead = 4),
    decode("ahead8", "8 loads on their way, fewer registers: 0.93", |tile| tile.ahead = 8),
    decode("ahead16", "16 loads on their way: the base", |tile| tile.ahead = 16),
    decode("threads32", "workgroups of 32: cheapest barriers, 0.9 to 1.1", |tile| set_threads(tile, 32)),
    decode("threads64", "workgroups of 64: the base", |tile| set_threads(tile, 64)),
    decode("threads128", "workgroups of 128: fewer partial results to merge, 0.9 to 1.05", |tile| {
        set_threads(tile, 128)
    }),
    decode("rows2", "rows packed in twos: as many products, each half as wide: 0.9 to 1", |tile| set_pack(tile, 2)),
    decode("rows4", "rows packed in fours: the base where a KV head has four", |tile| set_pack(tile, 4)),
    Experiment {
        of: "decode",
        name: "no-shuffles",
        prediction: "the portable path, each lane with keys of its own: about 0.5, as parts1",
        change: Change::Path(Path::Portable),
    },
    checks("decode", "the driver's bounds checks on: 0.9 to 1, since memory binds"),
];

/// Rows of a subgroup, with its workgroup's rows as they are.
fn set_rows(tile: &mut MatrixTile, rows: u32) {
    let all = tile.rows();
    tile.strips = (rows / tile.size).max(1);
    tile.subgroups = (all * tile.columns / (tile.strips * tile.size)).max(1);
}

/// Subgroups that share rows, with the workgroup's rows and subgroups as they are.
fn set_columns(tile: &mut MatrixTile, columns: u32) {
    tile.strips = (tile.strips * columns / tile.columns).max(1);
    tile.columns = columns;
}

/// Lanes that share a key, with the keys of a step as they are where they can.
fn set_parts(tile: &mut DecodeTile, parts: u32) {
    let keys = tile.keys();
    tile.parts = parts;
    tile.keys_per_lane = (keys * parts / tile.key_lanes).max(1);
}

/// Invocations that share all rows.
fn set_threads(tile: &mut DecodeTile, threads: u32) {
    (tile.threads, tile.key_lanes) = (threads, threads);
}

/// Rows of a vector, with all rows as they are.
fn set_pack(tile: &mut DecodeTile, pack: u32) {
    let rows = tile.pack * tile.row_packs;
    (tile.pack, tile.row_packs) = (pack, rows.div_ceil(pack));
}

impl Experiment {
    /// Every experiment, in the order in which to run them.
    pub fn all() -> &'static [Experiment] {
        EXPERIMENTS
    }

    /// `base` with the switch thrown; `None` where that changes nothing, or gives what the device does not allow.
    fn on(&self, base: &Case, caps: &Caps) -> Option<Case> {
        let mut case = *base;
        let Runner::On(path) = base.runner else { return None };
        match self.change {
            Change::Path(other) => case.runner = Runner::On(other),
            Change::Splits(change) => case.splits = case.splits.map(change).map(|splits| splits.max(1)),
            Change::Decode(change) => case.decode_tile.as_mut().map_or((), change),
            Change::Checks => case.runtime_checks = true,
            Change::HalfMemory => {
                let half = Caps { workgroup_storage: caps.workgroup_storage / 2, ..caps.clone() };
                case.tile = Some(forward_tile(&case.problem(), Path::Matrix, &half).ok()?.tile);
            }
            Change::Matrix(change) => {
                let Some(AnyTile::Matrix(tile)) = &mut case.tile else { return None };
                change(tile);
            }
            Change::Tiled(change) => {
                let Some(AnyTile::Tiled(tile)) = &mut case.tile else { return None };
                change(tile);
                // What then needs too much workgroup memory takes fewer keys a step.
                let shape = &case.shape;
                while tile.keys_per_lane > 1 && tile.workgroup_bytes(shape, path) > caps.workgroup_storage {
                    tile.keys_per_lane -= 1;
                }
            }
        }
        (case != *base && runs(&case, caps)).then_some(case)
    }
}

/// Whether the device can run a case that says its path and tile.
fn runs(case: &Case, caps: &Caps) -> bool {
    let Runner::On(path) = case.runner else { return false };
    match (case.tile, case.decode_tile) {
        (Some(tile), _) => tile.validate(&case.problem(), path, caps).is_ok(),
        (None, Some(tile)) => tile.validate(case.decode_problem().dims(), path, caps).is_ok(),
        (None, None) => false,
    }
}

/// An experiment and its case; `None` where it changes nothing, or gives what the problem or the device does not allow.
pub type Planned = (Experiment, Option<Case>);

/// The base, which is what the planner takes for the case, on its path or else on the matrix path, and every experiment on it.
///
/// # Errors
/// Those of planning the base: [`crate::Error::MissingFeature`] for a path that the device cannot run;
/// [`crate::Error::Unsupported`] for an operation without experiments.
pub fn experiments(case: &Case, caps: &Caps) -> Result<(Case, Vec<Planned>)> {
    let (of, base) = base(case, caps)?;
    let those = EXPERIMENTS.iter().filter(|experiment| experiment.of == of);
    Ok((base, those.map(|experiment| (*experiment, experiment.on(&base, caps))).collect()))
}

fn base(case: &Case, caps: &Caps) -> Result<(&'static str, Case)> {
    match case.op {
        Op::Decode => {
            let problem = case.decode_problem();
            let (path, tile) = decode_tile(problem.dims(), case.runner.path(), caps)?;
            let splits = Some(problem.splits(&tile, caps));
            Ok(("decode", Case { runner: Runner::On(path), decode_tile: Some(tile), splits, ..*case }))
        }
        Op::Forward => {
            let path = case.runner.path().unwrap_or(Path::Matrix);
            let tile = Some(forward_tile(&case.problem(), path, caps)?.tile);
            let of = if path == Path::Matrix { "matrix" } else { "portable" };
            Ok((of, Case { runner: Runner::On(path), tile, ..*case }))
        }
        Op::Backward | Op::Module | Op::Train => {
            let hint = "name forward or decode with --op; others are measured without --sweep".into();
            Err(crate::Error::Unsupported { what: format!("experiments on {}", case.op.name()), hint })
        }
    }
}
