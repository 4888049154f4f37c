//! `diffattn check`: every kernel that this machine supports, against the float64 reference.

use std::io::Write;

use anyhow::{Context, Result, ensure};
use diffattn::reference::{Judge, Verdict};
use diffattn::{DType, HostInputs, Options, Path, Problem, Shape, Sizes};

use crate::args::CheckArgs;
use crate::engine::Engine;
use crate::gpu::Gpu;
use crate::{device, report};

pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<()> {
    let adapters = device::adapters();
    let chosen = match &args.adapter {
        Some(wanted) => vec![device::find(&adapters, wanted)?],
        None => (0..adapters.len()).collect(),
    };
    let mut engines = Vec::new();
    if args.adapter.is_none() {
        engines.push((Engine::Cpu, vec![None]));
    }
    for index in chosen {
        let gpu = Gpu::open(&adapters[index]).with_context(|| format!("cannot use adapter {index}"))?;
        let subgroups = gpu.attention().caps().subgroups.is_some();
        let paths = Path::ALL.into_iter().filter(|path| *path != Path::Subgroup || subgroups);
        let paths = paths.map(Some).collect();
        engines.push((Engine::Gpu(gpu), paths));
    }
    if adapters.is_empty() {
        crate::note(format_args!("no GPU adapter was found, so only the CPU engine is checked; {}", device::INSTALL));
    }

    let problems = problems();
    let mut tables: Vec<_> = engines.iter().map(|_| table()).collect();
    let (mut done, mut failed) = (0, 0);
    let bar = report::progress(problems.len() * engines.iter().map(|(_, paths)| paths.len()).sum::<usize>());
    for (seed, problem) in problems.iter().enumerate() {
        let values = Values::random(problem, seed as u64)?;
        let judge = Judge::forward(problem, &values.inputs())?;
        for ((engine, paths), table) in engines.iter().zip(&mut tables) {
            for path in paths {
                bar.set_message(report::shape(&problem.shape));
                let (label, worst, cells) = match one(engine, problem, &values.inputs(), *path, &judge) {
                    Ok((label, verdict)) => {
                        failed += usize::from(!verdict.passed);
                        (label, verdict.tensor, report::cells(&verdict))
                    }
                    Err(error) => {
                        failed += 1;
                        let path = path.map_or("cpu", Path::name);
                        (format!("{path}: {error:#}"), "-", ["-".into(), "-".into(), "FAIL".into()])
                    }
                };
                let [error, bound, result] = cells;
                table.add_row([label, report::shape(&problem.shape), worst.into(), error, bound, result]);
                done += 1;
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    for ((engine, _), table) in engines.iter().zip(tables) {
        writeln!(out, "{engine}\n{}\n", table.trim_fmt())?;
    }
    ensure!(failed == 0, "{failed} of {done} kernels failed");
    writeln!(out, "{done} kernels passed")?;
    Ok(())
}

fn table() -> comfy_table::Table {
    report::table(&["kernel", "shape", "worst", "error", "bound", "result"], &["error", "bound"])
}

/// Runs one kernel; the verdict is that of the tensor that comes nearest to its bound, or over it.
fn one(
    engine: &Engine,
    problem: &Problem,
    inputs: &HostInputs,
    path: Option<Path>,
    judge: &Judge,
) -> Result<(String, Verdict)> {
    let run = engine.forward(problem, inputs, path)?;
    let label = run.kernel.map_or_else(
        || format!("cpu.forward.{}.{}", problem.dtype.name(), problem.options.mask().name()),
        |kernel| kernel.label,
    );
    let share = |verdict: &Verdict| verdict.error / verdict.bound;
    let worst = judge.outputs(&run.result)?.into_iter().max_by(|a, b| share(a).total_cmp(&share(b)));
    Ok((label, worst.context("nothing was computed")?))
}

/// Small problems that take every branch: masks, tails, rows without keys, few queries, all storage types.
fn problems() -> Vec<Problem> {
    let shape = Shape { batch: 2, q_len: 65, kv_len: 65, heads: 4, kv_heads: 2, head_dim: 64, value_dim: 64 };
    let one = Shape { batch: 1, ..shape };
    let with = |causal, window, softcap| {
        let mut options = Options::default();
        (options.causal, options.window, options.softcap) = (causal, window, softcap);
        (options.lse, options.a2) = (true, true);
        options
    };
    let full = with(false, (None, None), None);
    let causal = with(true, (None, None), None);
    let cases = [
        (shape, full),
        (shape, causal),
        (Shape { q_len: 96, kv_len: 131, ..one }, with(false, (Some(31), Some(7)), None)),
        (Shape { q_len: 1, kv_len: 515, heads: 8, head_dim: 128, value_dim: 128, ..shape }, causal),
        (Shape { q_len: 40, kv_len: 24, head_dim: 32, value_dim: 32, ..one }, causal),
        (Shape { q_len: 19, kv_len: 77, heads: 3, kv_heads: 1, head_dim: 80, value_dim: 40, ..one }, full),
        (Shape { q_len: 34, kv_len: 34, kv_heads: 1, head_dim: 256, value_dim: 256, ..one }, causal),
        (one, with(true, (None, None), Some(15.0))),
    ];
    let types = DType::ALL.into_iter();
    types.flat_map(|dtype| cases.map(|(shape, options)| Problem::new(shape, dtype, options))).collect()
}

/// Random inputs in the storage type of a problem.
struct Values {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    lam: Vec<f32>,
}

impl Values {
    fn random(problem: &Problem, seed: u64) -> Result<Self> {
        let Sizes { q, k, v, lam, .. } = Sizes::of(problem)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut values = |count: u64, range: f32| -> Vec<f32> {
            (0..count).map(|_| problem.dtype.round(range * (2.0 * random.f32() - 1.0))).collect()
        };
        Ok(Values { q: values(q, 2.0), k: values(k, 2.0), v: values(v, 1.0), lam: values(lam, 4.0) })
    }

    fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }
}
