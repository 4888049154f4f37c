//! The backward operation: plan → bind → encode.

mod bind;
mod run;

use std::sync::Arc;

use crate::attention::{DiffAttention, PlanOptions};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::host::Sizes;
use crate::memo::Asked;
use crate::ops::launch::{Launch, Tiling};
use crate::pipeline::AnyVariant;
use crate::problem::Problem;
use crate::shader::{Kernel, Variant};
use crate::slice::TensorSlice;
use crate::split::Piece;
use crate::tile::{self, AnyBackwardTile, NAIVE_THREADS, Path, Sweep};

/// The buffers of a backward pass; shapes are those of [`crate::Shape`].
#[derive(Debug, Clone, Copy)]
pub struct BackwardBuffers<'a> {
    /// batch × q_len × 2·heads × head_dim, storage type; read.
    pub q: TensorSlice<'a>,
    /// batch × kv_len × kv_heads × head_dim, storage type; read.
    pub k: TensorSlice<'a>,
    /// batch × kv_len × kv_heads × value_dim, storage type; read.
    pub v: TensorSlice<'a>,
    /// batch × q_len × heads, f32, before the sigmoid; read.
    pub lam: TensorSlice<'a>,
    /// The forward's output: batch × q_len × heads × value_dim, storage type; read.
    pub out: TensorSlice<'a>,
    /// The forward's log-sum-exp: batch × 2·heads × q_len, f32, natural logarithm; read.
    pub lse: TensorSlice<'a>,
    /// The forward's subtracted member: batch × q_len × heads × value_dim, storage type; read. Given exactly when
    /// [`crate::Options::a2`] is set.
    pub a2: Option<TensorSlice<'a>>,
    /// Gradient of the loss by `out`, shaped as it, storage type; read.
    pub dout: TensorSlice<'a>,
    /// Gradient of the loss by `lse`, shaped as it, f32, where the loss reads it; read.
    pub dlse: Option<TensorSlice<'a>>,
    /// Gradient by q, shaped as it, storage type; written.
    pub dq: TensorSlice<'a>,
    /// Gradient by k, shaped as it, storage type; written.
    pub dk: TensorSlice<'a>,
    /// Gradient by v, shaped as it, storage type; written.
    pub dv: TensorSlice<'a>,
    /// Gradient by λ, shaped as it, f32; written.
    pub dlam: TensorSlice<'a>,
    /// Add to what dq, dk, dv and dlam hold, instead of overwriting it.
    pub accumulate: bool,
}

/// A backward pass that is validated, tiled and compiled. Bind it to buffers, then encode it as often as needed.
///
/// Three steps, each of them one kernel: row terms with dλ; dQ; dK with dV. There are no atomics, so that one device
/// gives the same bits on every run.
#[derive(Debug, Clone)]
pub struct BackwardPlan {
    attention: DiffAttention,
    problem: Problem,
    options: PlanOptions,
    chosen: Arc<Chosen>,
    rows: Step,
    /// Recomputes what a₂ would have given; only where the forward saves none.
    mean: Option<Step>,
    dq: Step,
    dkv: Step,
}

/// The kernels that were chosen, and why.
#[derive(Debug)]
pub(crate) struct Chosen {
    path: Path,
    reason: String,
    rows: Variant,
    mean: Option<Variant>,
    dq: Variant,
    dkv: Variant,
}

/// A compiled kernel.
#[derive(Debug, Clone)]
struct Step {
    variant: Variant,
    pipeline: Arc<wgpu::ComputePipeline>,
}

/// A backward pass bound to buffers. Encoding allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct BackwardPass {
    launches: Vec<Launch>,
    terms_bytes: u64,
}

impl BackwardPlan {
    pub(crate) async fn new(
        attention: &DiffAttention,
        problem: &Problem,
        options: PlanOptions,
        standard: bool,
    ) -> Result<Self> {
        problem.validate()?;
        Sizes::of(problem)?;
        let asked = Asked::new(problem, options, standard);
        let choose = || Chosen::new(problem, options, standard, attention.caps());
        let chosen = attention.choices.backward.get(asked, choose)?;
        let step = async |variant| {
            let key = (AnyVariant::Tensors(variant), options.runtime_checks);
            let pipeline = attention.pipelines.get(&attention.device, key).await?;
            Ok::<_, Error>(Step { variant, pipeline })
        };
        Ok(BackwardPlan {
            rows: step(chosen.rows).await?,
            mean: match chosen.mean {
                Some(mean) => Some(step(mean).await?),
                None => None,
            },
            dq: step(chosen.dq).await?,
            dkv: step(chosen.dkv).await?,
            attention: attention.clone(),
            problem: problem.clone(),
            options,
            chosen,
        })
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The kernel family that was chosen.
    pub fn path(&self) -> Path {
        self.chosen.path
    }

    /// The tiles of the sweeps, in the order of [`BackwardPlan::labels`]; none on the naive path.
    pub fn tiles(&self) -> Vec<AnyBackwardTile> {
        let tile = |step: &Step| match step.variant.kernel {
            Kernel::Backward(_, tile) => tile,
            Kernel::Forward | Kernel::BackwardRows => None,
        };
        self.steps().filter_map(tile).collect()
    }

    /// The kernels' names, in the order in which they run, as in errors, dumps and benchmark rows.
    pub fn labels(&self) -> Vec<String> {
        self.steps().map(|step| step.variant.label()).collect()
    }

    /// Why this path was chosen, in one clause.
    pub fn reason(&self) -> &str {
        &self.chosen.reason
    }

    fn steps(&self) -> impl Iterator<Item = &Step> {
        [Some(&self.rows), self.mean.as_ref(), Some(&self.dq), Some(&self.dkv)].into_iter().flatten()
    }
}

impl Chosen {
    fn new(problem: &Problem, options: PlanOptions, standard: bool, caps: &Caps) -> Result<Self> {
        let (path, reason) = choose(problem, options, caps)?;
        let variant = |kernel, path| Variant { standard, ..Variant::backward(problem, kernel, path, caps) };
        let sweep = |sweep| {
            // The mean sums nothing, and has no kernel on matrix units.
            let path = if (path, sweep) == (Path::Matrix, Sweep::Mean) { by_estimate(problem, caps)?.0 } else { path };
            let tile = match path {
                Path::Naive => None,
                Path::Portable | Path::Subgroup | Path::Matrix => Some(tile_of(problem, sweep, path, options, caps)?),
            };
            Ok::<_, Error>(variant(Kernel::Backward(sweep, tile), path))
        };
        Ok(Chosen {
            rows: variant(Kernel::BackwardRows, path),
            mean: if problem.options.a2 || standard { None } else { Some(sweep(Sweep::Mean)?) },
            dq: sweep(Sweep::Dq)?,
            dkv: sweep(Sweep::Dkv)?,
            path,
            reason,
        })
    }
}

impl BackwardPass {
    /// Records the dispatches. Creates, allocates and submits nothing.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        for launch in &self.launches {
            launch.encode(pass);
        }
    }

    /// Dispatches that [`BackwardPass::encode`] records: one for each kernel, more where a device limit made it split.
    pub fn dispatches(&self) -> usize {
        self.launches.iter().map(Launch::dispatches).sum()
    }

    /// Bytes of device memory held beside the caller's buffers: 32 for each output head of each token, and parameters.
    pub fn scratch_bytes(&self) -> u64 {
        self.terms_bytes + self.launches.iter().flat_map(Launch::allocations).sum::<u64>()
    }
}

/// How a sweep cuts a piece into tiles.
fn tiling(problem: &Problem, sweep: Sweep, tile: Option<AnyBackwardTile>, members: u32, piece: &Piece) -> Tiling {
    let (queries, group) = (piece.queries.len() as u64, u64::from(problem.shape.group()));
    let keys = u64::from(problem.shape.kv_len);
    match (tile, sweep) {
        // One query and output head, or one key, for each invocation.
        (None, Sweep::Dq | Sweep::Mean) => {
            Tiling { head_tiles: group, q_tiles: queries, tiles_per_workgroup: NAIVE_THREADS }
        }
        (None, Sweep::Dkv) => Tiling { head_tiles: 1, q_tiles: keys, tiles_per_workgroup: NAIVE_THREADS },
        (Some(tile), Sweep::Dq | Sweep::Mean) => {
            let q_tiles = (queries * group).div_ceil(tile.rows(sweep, members).into());
            Tiling { head_tiles: 1, q_tiles, tiles_per_workgroup: 1 }
        }
        (Some(tile), Sweep::Dkv) => {
            Tiling { head_tiles: 1, q_tiles: keys.div_ceil(tile.rows(sweep, members).into()), tiles_per_workgroup: 1 }
        }
    }
}

/// The tile asked for, or the planner's.
fn tile_of(problem: &Problem, sweep: Sweep, path: Path, options: PlanOptions, caps: &Caps) -> Result<AnyBackwardTile> {
    let tile = match (options.backward_tiles, sweep) {
        (Some([dq, _]), Sweep::Dq) => dq,
        (Some([_, dkv]), Sweep::Dkv) => dkv,
        (_, Sweep::Mean) | (None, _) if path == Path::Matrix => {
            return Ok(tile::backward_matrix_tile(problem, sweep, caps)?.into());
        }
        (_, Sweep::Mean) | (None, _) => return Ok(tile::backward_tile(problem, sweep, path, caps)?.tile.into()),
    };
    match (tile, path) {
        (AnyBackwardTile::Matrix(tile), Path::Matrix) => tile.validate(sweep, problem, caps)?,
        (AnyBackwardTile::Tiled(tile), Path::Portable | Path::Subgroup) => {
            tile.validate(sweep, &problem.shape, path, caps)?;
        }
        _ => return Err(Error::invalid("backward tile", format!("one of the {} path", path.name()), tile)),
    }
    Ok(tile)
}

/// Heads up to which matrix units are taken unasked: at 128, on one GPU and 4096 × 4096, they took an eleventh of the subgroup
/// path's time; larger ones leave fewer rows to a workgroup, and were not measured.
const MEASURED_DIM: u32 = 128;

/// Path, and why: that of the tiles asked for; matrix units where they can run both sweeps, and nothing speaks against them;
/// by estimate elsewhere.
fn choose(problem: &Problem, options: PlanOptions, caps: &Caps) -> Result<(Path, String)> {
    if let Some(path) = options.path {
        return Ok((path, "asked for".into()));
    }
    match options.backward_tiles {
        Some([AnyBackwardTile::Matrix(_), _]) => return Ok((Path::Matrix, "that of the tiles asked for".into())),
        Some([AnyBackwardTile::Tiled(_), _]) => return by_estimate(problem, caps),
        None => {}
    }
    let wide = problem.shape.head_dim.max(problem.shape.value_dim) > MEASURED_DIM;
    let unmeasured = || wide.then(|| format!("heads beyond {MEASURED_DIM} were not measured"));
    let unfit = || {
        let tile = |sweep| tile::backward_matrix_tile(problem, sweep, caps);
        tile(Sweep::Dq).and_then(|_| tile(Sweep::Dkv)).err().map(|error| error.to_string())
    };
    let Some(objection) = caps.objection(Path::Matrix).or_else(unmeasured).or_else(unfit) else {
        return Ok((Path::Matrix, "an eleventh of the subgroup path's time where it was measured".into()));
    };
    let (path, reason) = by_estimate(problem, caps)?;
    Ok((path, format!("{reason}; not matrix: {objection}")))
}

/// Subgroup or portable path, and why.
fn by_estimate(problem: &Problem, caps: &Caps) -> Result<(Path, String)> {
    let cost = |path| {
        let dq = tile::backward_tile(problem, Sweep::Dq, path, caps)?.cost;
        let dkv = tile::backward_tile(problem, Sweep::Dkv, path, caps)?.cost;
        Ok::<_, Error>(dq + dkv)
    };
    if let Some(objection) = caps.objection(Path::Subgroup) {
        return Ok((Path::Portable, format!("not subgroup: {objection}")));
    }
    let (portable, subgroup) = (cost(Path::Portable)?, cost(Path::Subgroup)?);
    let (path, other, ratio) = if subgroup < portable {
        (Path::Subgroup, Path::Portable, subgroup / portable)
    } else {
        (Path::Portable, Path::Subgroup, portable / subgroup)
    };
    Ok((path, format!("estimated at {:.0} % of the {} path's work", 100.0 * ratio, other.name())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, Options, Shape};

    #[test]
    fn matrix_units_are_taken_where_they_fit_and_nothing_else_is_asked_for() {
        let caps = Caps {
            kind: wgpu::DeviceType::DiscreteGpu,
            workgroup_storage: 48 << 10,
            invocations: 1024,
            subgroups: Some((32, 32)),
            matrix: Some(16),
            ..Caps::floor()
        };
        let problem = |dtype, head_dim| {
            let shape = Shape { batch: 1, q_len: 64, kv_len: 64, heads: 2, kv_heads: 1, head_dim, value_dim: head_dim };
            Problem::new(shape, dtype, Options::default())
        };
        let f16 = problem(DType::F16, 128);
        let path = |problem: &Problem, options, caps: &Caps| choose(problem, options, caps).expect("a tile fits").0;
        assert_eq!(path(&f16, PlanOptions::default(), &caps), Path::Matrix);
        for other in [problem(DType::Bf16, 128), problem(DType::F32, 128), problem(DType::F16, 256)] {
            let (path, reason) = choose(&other, PlanOptions::default(), &caps).expect("a tile fits");
            assert!(path != Path::Matrix && reason.contains("not matrix: "), "{reason}");
        }
        let tiled = tile::backward_tile(&f16, Sweep::Dq, Path::Portable, &caps).expect("a tile fits").tile.into();
        let options = PlanOptions { backward_tiles: Some([tiled, tiled]), ..PlanOptions::default() };
        assert_ne!(path(&f16, options, &caps), Path::Matrix);
        let wrong_shuffles = Caps { vendor: 0x5143, matrix: None, ..caps };
        assert_eq!(path(&f16, PlanOptions::default(), &wrong_shuffles), Path::Portable);
    }
}
