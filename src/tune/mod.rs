//! Choosing by measurement: candidates for a kind of problem, what their times decide, and where that is remembered.
//!
//! Nothing here runs by itself. [`candidates`] proposes paths and tiles, the best-estimated first, as [`Case`]s for
//! [`crate::bench::run`], which judges each by the float64 reference before it takes its time; [`decide`] reads the
//! rows; [`Memory`] keeps the choice for the device and the kind of problem ([`class`]); [`Memory::recall`] gives it back as
//! [`PlanOptions`]. The command does all of this in `diffattn tune`.
//!
//! What records have decided already, an untuned plan takes by itself: the table in `src/tile/measured.rs`. Elsewhere it goes
//! by the estimates of `src/tile.rs` and `src/matrix.rs`.

mod experiments;
mod memory;

pub use experiments::{Experiment, Planned, experiments};
pub use memory::Memory;

use crate::attention::PlanOptions;
use crate::bench::{Case, Op, Row, Runner};
use crate::caps::Caps;
use crate::error::Result;
use crate::problem::DType;
use crate::tile::{AnyTile, Path, ranked_tiles};

/// Problems that share a choice: `forward.f16.causal.d128.g2n8.q4096kv4096`. Lengths, and the number `n` of sequences times
/// KV heads, are rounded up to powers of two; `g` is the number of heads that share a KV head.
pub fn class(case: &Case) -> String {
    let shape = &case.shape;
    let mask = if case.causal { "causal" } else { "full" };
    let values = if shape.value_dim == shape.head_dim { String::new() } else { format!("v{}", shape.value_dim) };
    let [group, streams] = [shape.group(), shape.batch.saturating_mul(shape.kv_heads)];
    let [streams, q_len, kv_len] =
        [streams, shape.q_len, shape.kv_len].map(|length| u64::from(length).next_power_of_two());
    let (op, dtype, dim) = (case.op.name(), case.dtype_name(), shape.head_dim);
    format!("{op}.{dtype}.{mask}.d{dim}{values}.g{group}n{streams}.q{q_len}kv{kv_len}")
}

/// What is worth timing for a case, on every path that the device can run: first what an untuned plan takes, then for a
/// forward each path's best-estimated tiles, at most `count` in all.
///
/// # Errors
/// Those of [`crate::Problem::validate`].
pub fn candidates(case: &Case, caps: &Caps, count: usize) -> Result<Vec<Case>> {
    let problem = case.problem();
    problem.validate()?;
    let untuned = Case { runner: Runner::Auto, tile: None, ..*case };
    let mut cases = vec![untuned];
    let paths = [Path::Matrix, Path::Subgroup, Path::Portable];
    if case.op != Op::Forward {
        let able = paths.into_iter().filter(|path| match path {
            Path::Matrix => case.op == Op::Backward && caps.matrix.is_some() && case.dtype == DType::F16,
            Path::Subgroup => caps.subgroups.is_some(),
            Path::Portable | Path::Naive => true,
        });
        cases.extend(able.map(|path| Case { runner: Runner::On(path), ..untuned }));
        return Ok(cases);
    }
    // The n-th best of each path in turn: estimates compare tiles of one path better than paths.
    let ranked = paths.map(|path| ranked_tiles(&problem, path, caps));
    let longest = ranked.iter().map(Vec::len).max().unwrap_or(0);
    for place in 0..longest {
        for choice in ranked.iter().filter_map(|path| path.get(place)) {
            cases.push(Case { runner: Runner::On(choice.path), tile: Some(choice.tile), ..*case });
        }
    }
    cases.truncate(count.max(1));
    Ok(cases)
}

/// A path, and for a forward its tile.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// The kernel family.
    pub path: Path,
    /// The forward's tile; `None` leaves it to the planner.
    pub tile: Option<AnyTile>,
    /// Median of one run, in nanoseconds.
    pub median_ns: f64,
}

impl Choice {
    /// What a plan is told.
    pub fn plan(&self) -> PlanOptions {
        PlanOptions { path: Some(self.path), tile: self.tile, ..PlanOptions::default() }
    }

    fn of(row: &Row) -> Option<Self> {
        let path = Path::ALL.into_iter().find(|path| path.name() == row.path)?;
        let tile = if row.op == Op::Forward.name() { row.tile.parse().ok() } else { None };
        Some(Choice { path, tile, median_ns: row.median_ns })
    }
}

/// What the times of [`candidates`] decide: the fastest of those whose result was right. The first row is the untuned plan
/// and stays, unless the other's median is below even its 10th percentile: less is noise. `None` where nothing was timed.
pub fn decide(rows: &[Row]) -> Option<Choice> {
    let timed = |row: &&Row| row.passed && row.median_ns > 0.0;
    let best = rows.iter().filter(timed).min_by(|a, b| a.median_ns.total_cmp(&b.median_ns))?;
    let untuned = rows.first().filter(timed);
    let kept = untuned.filter(|untuned| best.median_ns >= untuned.p10_ns);
    Choice::of(kept.unwrap_or(best))
}

#[cfg(test)]
mod tests;
