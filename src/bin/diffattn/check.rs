//! `diffattn check`: every kernel that this machine supports, against the float64 reference.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use diffattn::reference::{Judge, Verdict};
use diffattn::{DType, HostGradInputs, HostInputs, Options, Path, Problem, Shape, Sizes};

use crate::args::CheckArgs;
use crate::engine::Engine;
use crate::gpu::{Gpu, Kernel};
use crate::{device, tables};

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
        engines.push((Engine::Gpu(gpu), Path::ALL.map(Some).to_vec()));
    }
    if adapters.is_empty() {
        crate::note(format_args!("no GPU adapter was found, so only the CPU engine is checked; {}", device::INSTALL));
    }

    let problems = problems();
    let mut tables: Vec<_> = engines.iter().map(|_| table()).collect();
    // Why something was not run, for each engine.
    let mut skipped = vec![BTreeSet::new(); engines.len()];
    let (mut done, mut failed) = (0, 0);
    let bar = tables::progress(problems.len() * engines.iter().map(|(_, paths)| paths.len()).sum::<usize>());
    for (seed, problem) in problems.iter().enumerate() {
        let case = Case::random(problem, seed as u64)?;
        for (((engine, paths), table), skipped) in engines.iter().zip(&mut tables).zip(&mut skipped) {
            for &path in paths {
                bar.set_message(tables::shape(&problem.shape));
                // The plain gradients are slow, and differ by storage type in loading and storing only.
                let gradients = path != Some(Path::Naive) || problem.dtype == DType::F32;
                let runs = [Some(case.forward(engine, path)), gradients.then(|| case.backward(engine, path))];
                for run in runs.into_iter().flatten() {
                    let (label, worst, cells) = match run {
                        Ok((label, verdict)) => {
                            failed += usize::from(!verdict.passed);
                            (label, verdict.tensor, tables::cells(&verdict))
                        }
                        Err(error) => {
                            let path = path.map_or("cpu", Path::name);
                            let message = format!("{path}: {error:#}");
                            if error.downcast_ref().is_some_and(diffattn::Error::is_unsupported) {
                                skipped.insert(message);
                                continue;
                            }
                            failed += 1;
                            (message, "-", ["-".into(), "-".into(), "FAIL".into()])
                        }
                    };
                    let [error, bound, result] = cells;
                    table.add_row([label, tables::shape(&problem.shape), worst.into(), error, bound, result]);
                    done += 1;
                }
                bar.inc(1);
            }
        }
    }
    bar.finish_and_clear();
    for (((engine, _), table), skipped) in engines.iter().zip(tables).zip(skipped) {
        writeln!(out, "{engine}\n{}", table.trim_fmt())?;
        for reason in skipped {
            writeln!(out, "not run: {reason}")?;
        }
        writeln!(out)?;
    }
    ensure!(failed == 0, "{failed} of {done} results failed");
    writeln!(out, "{done} results passed")?;
    Ok(())
}

fn table() -> comfy_table::Table {
    tables::table(&["kernel", "shape", "worst", "error", "bound", "result"], &["error", "bound"])
}

/// Small problems that take every branch: masks, tails, rows without keys, few queries, all storage types.
fn problems() -> Vec<Problem> {
    let shape = Shape { batch: 2, q_len: 65, kv_len: 65, heads: 4, kv_heads: 2, head_dim: 64, value_dim: 64 };
    let one = Shape { batch: 1, ..shape };
    let with = |causal, window, softcap| {
        let mut options = Options::default();
        (options.causal, options.window, options.softcap) = (causal, window, softcap);
        // Gradients take another way where a₂ is not kept.
        (options.lse, options.a2) = (true, softcap.is_none());
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

/// A problem, random inputs in its storage type, and what they should give.
struct Case<'a> {
    problem: &'a Problem,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    lam: Vec<f32>,
    dout: Vec<f32>,
    /// Of the outputs and of the gradients.
    judges: [Judge; 2],
}

impl<'a> Case<'a> {
    fn random(problem: &'a Problem, seed: u64) -> Result<Self> {
        let Sizes { q, k, v, lam, out, .. } = Sizes::of(problem)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut values = |count: u64, range: f32| -> Vec<f32> {
            (0..count).map(|_| problem.dtype.round(range * (2.0 * random.f32() - 1.0))).collect()
        };
        let (q, k, v, lam, dout) = (values(q, 2.0), values(k, 2.0), values(v, 1.0), values(lam, 4.0), values(out, 1.0));
        let inputs = HostInputs { q: &q, k: &k, v: &v, lam: &lam };
        let grads = HostGradInputs { dout: &dout, dlse: None };
        let judges = [Judge::forward(problem, &inputs)?, Judge::backward(problem, &inputs, &grads)?];
        Ok(Case { problem, q, k, v, lam, dout, judges })
    }

    fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }

    /// Kernel and verdict of the forward pass.
    fn forward(&self, engine: &Engine, path: Option<Path>) -> Result<(String, Verdict)> {
        let run = engine.forward(self.problem, &self.inputs(), path)?;
        Ok((self.label("forward", run.kernel), worst(self.judges[0].outputs(&run.result)?)?))
    }

    /// Kernel and verdict of the gradients.
    fn backward(&self, engine: &Engine, path: Option<Path>) -> Result<(String, Verdict)> {
        let grads = HostGradInputs { dout: &self.dout, dlse: None };
        let run = engine.backward(self.problem, &self.inputs(), &grads, path)?;
        Ok((self.label("backward", run.kernel), worst(self.judges[1].gradients(&run.result)?)?))
    }

    fn label(&self, what: &str, kernel: Option<Kernel>) -> String {
        let (dtype, mask) = (self.problem.dtype.name(), self.problem.options.mask().name());
        kernel.map_or_else(|| format!("cpu.{what}.{dtype}.{mask}"), |kernel| kernel.labels.join("\n"))
    }
}

/// The verdict that comes nearest to its bound, or is furthest over it.
fn worst(verdicts: Vec<Verdict>) -> Result<Verdict> {
    let share = |verdict: &Verdict| verdict.error / verdict.bound;
    verdicts.into_iter().max_by(|a, b| share(a).total_cmp(&share(b))).context("nothing was computed")
}
