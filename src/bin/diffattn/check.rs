//! `diffattn check`: every kernel that this machine supports, against the float64 reference.

use std::collections::BTreeSet;
use std::io::Write;

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use diffattn::reference::{self, Verdict};
use diffattn::{DType, DecodeOptions, Path, PlanOptions, Shape};

use crate::args::CheckArgs;
use crate::case::Case;
use crate::engine::Engine;
use crate::gpu::Gpu;
use crate::steps::steps;
use crate::{device, tables};

pub fn run(args: &CheckArgs, out: &mut impl Write) -> Result<()> {
    let adapters = device::adapters();
    let chosen = match &args.adapter {
        Some(wanted) => vec![device::find(&adapters, wanted)?],
        None => (0..adapters.len()).collect(),
    };
    let mut sheets = Vec::new();
    if args.adapter.is_none() {
        sheets.push(Sheet::new(Engine::Cpu, vec![None]));
    }
    for index in chosen {
        let gpu = Gpu::open(&adapters[index]).with_context(|| format!("cannot use adapter {index}"))?;
        sheets.push(Sheet::new(Engine::Gpu(gpu), Path::ALL.map(Some).to_vec()));
    }
    if adapters.is_empty() {
        crate::note(format_args!("no GPU adapter was found, so only the CPU engine is checked; {}", device::INSTALL));
    }

    let wanted = |dtype: DType| args.dtype.is_empty() || args.dtype.iter().any(|&asked| DType::from(asked) == dtype);
    let (mut problems, mut steps) = (reference::problems(), steps());
    problems.retain(|problem| wanted(problem.dtype));
    steps.retain(|step| wanted(step.dtype));
    let bar = tables::progress((problems.len() + steps.len()) * sheets.len());
    for (seed, problem) in problems.iter().enumerate() {
        bar.set_message(tables::shape(&problem.shape));
        let case = Case::random(problem, seed as u64)?;
        for sheet in &mut sheets {
            for path in sheet.paths.clone() {
                let mut options = PlanOptions::default();
                (options.path, options.runtime_checks) = (path, args.runtime_checks);
                sheet.add(&problem.shape, path, case.forward(&sheet.engine, options));
                // The plain gradients are slow, and differ by storage type in loading and storing only.
                if path != Some(Path::Naive) || problem.dtype == DType::F32 {
                    sheet.add(&problem.shape, path, case.backward(&sheet.engine, options));
                }
            }
            bar.inc(1);
        }
    }
    for (seed, step) in steps.iter().enumerate() {
        let case = Case::of_step(step, seed as u64)?;
        let shape = &case.problem.shape;
        bar.set_message(tables::shape(shape));
        for sheet in &mut sheets {
            if let Engine::Gpu(gpu) = &sheet.engine {
                let results = [Path::Portable, Path::Subgroup].map(|path| {
                    let mut options = DecodeOptions::default();
                    (options.path, options.runtime_checks) = (Some(path), args.runtime_checks);
                    (path, case.decode(gpu, step, options))
                });
                results.into_iter().for_each(|(path, result)| sheet.add(shape, Some(path), result));
            }
            bar.inc(1);
        }
    }
    bar.finish_and_clear();
    for Sheet { engine, table, skipped, .. } in &sheets {
        writeln!(out, "{engine}\n{}", table.trim_fmt())?;
        for reason in skipped {
            writeln!(out, "not run: {reason}")?;
        }
        writeln!(out)?;
    }
    let sum = |count: fn(&Sheet) -> usize| sheets.iter().map(count).sum::<usize>();
    let (done, failed) = (sum(|sheet| sheet.done), sum(|sheet| sheet.failed));
    ensure!(failed == 0, "{failed} of {done} results failed");
    writeln!(out, "{done} results passed")?;
    Ok(())
}

/// What one engine did.
struct Sheet {
    engine: Engine,
    paths: Vec<Option<Path>>,
    table: Table,
    /// Why something was not run.
    skipped: BTreeSet<String>,
    done: usize,
    failed: usize,
}

impl Sheet {
    fn new(engine: Engine, paths: Vec<Option<Path>>) -> Self {
        let columns = ["kernel", "shape", "worst", "error", "bound", "result"];
        let table = tables::table(&columns, &["error", "bound"]);
        Sheet { engine, paths, table, skipped: BTreeSet::new(), done: 0, failed: 0 }
    }

    /// Takes down the kernel and the verdict of a run, or what went wrong.
    fn add(&mut self, shape: &Shape, path: Option<Path>, run: Result<(String, Verdict)>) {
        let (label, worst, cells) = match run {
            Ok((label, verdict)) => {
                self.failed += usize::from(!verdict.passed);
                (label, verdict.tensor, tables::cells(&verdict))
            }
            Err(error) => {
                let message = format!("{}: {error:#}", path.map_or("cpu", Path::name));
                if error.downcast_ref().is_some_and(diffattn::Error::is_unsupported) {
                    self.skipped.insert(message);
                    return;
                }
                self.failed += 1;
                (message, "-", ["-".into(), "-".into(), "FAIL".into()])
            }
        };
        let [error, bound, result] = cells;
        self.table.add_row([label, tables::shape(shape), worst.into(), error, bound, result]);
        self.done += 1;
    }
}
