//! `diffattn tune`: which path and tile is fastest here, measured and remembered; and the experiments, one switch each.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use diffattn::bench::{Case, Op, Record, Row, Runner, ShapeText, Skipped, Suite};
use diffattn::tune::{self, Experiment, Memory};
use diffattn::{Path, Shape};

use crate::args::DTypeArg;
use crate::bench::{measure, on_this_machine, save};
use crate::bench_args::by_name;
use crate::gpu::Gpu;
use crate::{device, note, tables};

/// Measure which path and tile is fastest on this device, and remember it for `attend` and `bench`
///
/// Every candidate is held against the float64 reference before it is timed. What is remembered
/// is for one adapter, driver version and version of diffattn, and for problems like the one
/// measured; --list shows it, --forget removes it.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct TuneArgs {
    /// GPU adapter, by its number in `diffattn info` or by a part of its name [default: the best]
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,

    /// Shapes to tune for [default: prefill of 4096, heads 16, kv_heads 8, head_dim 64, 128 and 256]
    #[arg(long, value_delimiter = ',')]
    pub shape: Vec<ShapeText>,

    /// Operations; of the backward and of decode only the path is tuned
    #[arg(long, value_delimiter = ',', value_name = "OP", value_parser = by_name(&[Op::Forward, Op::Decode, Op::Backward], Op::name), default_value = "forward")]
    pub op: Vec<Op>,

    /// Storage type
    #[arg(long, value_enum, default_value = "f16")]
    pub dtype: DTypeArg,

    /// Every query sees every key, instead of a causal mask
    #[arg(long)]
    pub full: bool,

    /// Candidates to time for each shape
    #[arg(long, default_value_t = 12)]
    pub count: usize,

    /// Seconds that one candidate may be timed for
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,

    /// Instead of tuning, run these experiments on the first operation and shape, by name, or `all`
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub sweep: Vec<String>,

    /// With --sweep: the path whose planned tile the experiments change [default: matrix; of decode, the planner's]
    #[arg(long, value_name = "PATH", requires = "sweep", value_parser = by_name(&SWEPT, Path::name))]
    pub path: Option<Path>,

    /// Print the experiments and what each is expected to change
    #[arg(long)]
    pub list_experiments: bool,

    /// Print what is remembered
    #[arg(long)]
    pub list: bool,

    /// Forget everything that is remembered
    #[arg(long)]
    pub forget: bool,

    /// Folder for a record of all that was measured
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

/// The paths that have tiles to change.
const SWEPT: [Path; 3] = [Path::Portable, Path::Subgroup, Path::Matrix];

pub fn run(args: &TuneArgs, out: &mut impl Write) -> Result<()> {
    if args.list_experiments {
        let mut table = tables::table(&["of", "experiment", "prediction (a CUDA-class GPU, head_dim 128)"], &[]);
        for experiment in Experiment::all() {
            table.add_row([experiment.of, experiment.name, experiment.prediction]);
        }
        writeln!(out, "{}", table.trim_fmt())?;
        return Ok(());
    }
    if args.list || args.forget {
        let file = Memory::usual_file().context("this system has no cache directory for the user")?;
        return if args.forget { forget(&file, out) } else { list(&file, out) };
    }
    let adapters = device::adapters();
    let index = device::choose(&adapters, args.adapter.as_deref())?;
    let gpu = Gpu::open(&adapters[index]).with_context(|| format!("cannot use adapter {index}"))?;
    let mut cases = args.cases();
    cases.iter().try_for_each(|case| case.validate())?;
    let timed = |cases: Vec<Case>| -> Result<Record> {
        let mut suite = Suite::custom(cases);
        suite.seconds = args.seconds;
        let mut settings = on_this_machine("diffattn bench", args.adapter.as_deref());
        settings.arguments = "(cases of diffattn tune)".into();
        let record = measure(&adapters[index], &gpu, &suite, &settings)?;
        if let Some(folder) = &args.output {
            note(format_args!("record    {}", save(folder, &record)?.display()));
        }
        Ok(record)
    };
    if !args.sweep.is_empty() {
        cases.truncate(1);
        return sweep(args, cases[0], &gpu, timed, out);
    }
    let caps = gpu.attention().caps();
    let every =
        cases.iter().map(|case| tune::candidates(case, caps, args.count)).collect::<diffattn::Result<Vec<_>>>()?;
    let record = timed(every.concat())?;
    let file = Memory::usual_file();
    let (mut memory, broken) = file.as_deref().map(Memory::read).unwrap_or_default();
    if let Some(broken) = broken {
        note(format_args!("{broken}"));
    }
    for (case, candidates) in cases.iter().zip(&every) {
        let of_case = |row: &&Row| row.op == case.op.name() && shape_of(row) == case.shape;
        let rows: Vec<Row> = record.rows.iter().filter(of_case).cloned().collect();
        writeln!(out, "{}\n{}", tune::class(case), table(&rows).trim_fmt())?;
        // The first candidate is the untuned plan: without its time there is nothing that another could be faster than.
        let untuned = candidates.first().map(Case::to_string).unwrap_or_default();
        if record.header.skipped.iter().any(|skipped| skipped.case == untuned) {
            writeln!(out, "the plan taken without tuning was not measured, so nothing is remembered\n")?;
            continue;
        }
        match tune::decide(&rows) {
            None => writeln!(out, "nothing could be timed, so nothing is remembered\n")?,
            Some(choice) => {
                memory.remember(caps, case, choice);
                let tile = choice.tile.map(|tile| format!(" {tile}")).unwrap_or_default();
                writeln!(out, "takes {}{tile}\n", choice.path.name())?;
            }
        }
    }
    skipped(&record, out)?;
    let file = file.context("this system has no cache directory for the user, so nothing is remembered")?;
    memory.write(&file).with_context(|| format!("cannot write {}", file.display()))?;
    writeln!(out, "remembered in {}", file.display())?;
    Ok(())
}

impl TuneArgs {
    fn cases(&self) -> Vec<Case> {
        let usual =
            |dim| Shape { batch: 1, q_len: 4096, kv_len: 4096, heads: 16, kv_heads: 8, head_dim: dim, value_dim: dim };
        let given: Vec<Shape> = self.shape.iter().map(|ShapeText(shape)| *shape).collect();
        let shapes = if given.is_empty() { [64, 128, 256].map(usual).to_vec() } else { given };
        let (dtype, causal) = (self.dtype.into(), !self.full);
        let every = shapes.iter().flat_map(|shape| self.op.iter().map(|&op| (op, *shape)));
        every.map(|(op, shape)| Case { dtype, causal, ..Case::new(op, shape) }).collect()
    }
}

fn shape_of(row: &Row) -> Shape {
    let Row { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim, .. } = *row;
    Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim }
}

/// Rows as they were measured; times relative to the first.
fn table(rows: &[Row]) -> comfy_table::Table {
    let mut table =
        tables::table(&["path", "tile", "median", "TFLOP/s", "of first"], &["median", "TFLOP/s", "of first"]);
    let first = rows.first().map_or(0.0, |row| row.median_ns);
    for row in rows {
        let cells = match row.passed {
            true => [
                format!("{:.3} ms", row.median_ns / 1e6),
                format!("{:.2}", row.tflops),
                format!("{:.3}", row.median_ns / first),
            ],
            false => ["WRONG".into(), "-".into(), "-".into()],
        };
        let [median, tflops, relative] = cells;
        table.add_row([row.path.clone(), row.tile.clone(), median, tflops, relative]);
    }
    table
}

fn skipped(record: &Record, out: &mut impl Write) -> Result<()> {
    for Skipped { case, reason } in &record.header.skipped {
        writeln!(out, "not measured: {case}: {reason}")?;
    }
    Ok(())
}

fn sweep(
    args: &TuneArgs,
    case: Case,
    gpu: &Gpu,
    timed: impl Fn(Vec<Case>) -> Result<Record>,
    out: &mut impl Write,
) -> Result<()> {
    let asked = Case { runner: args.path.map_or(Runner::Auto, Runner::On), ..case };
    let (base, experiments) = tune::experiments(&asked, gpu.attention().caps())?;
    let names: Vec<_> = experiments.iter().map(|(experiment, _)| experiment.name).collect();
    let all = args.sweep.iter().any(|name| name == "all");
    if let Some(unknown) = args.sweep.iter().find(|name| *name != "all" && !names.contains(&name.as_str())) {
        bail!("there is no experiment \"{unknown}\"; there are all, {}", names.join(", "));
    }
    let wanted =
        experiments.into_iter().filter(|(experiment, _)| all || args.sweep.iter().any(|n| n == experiment.name));
    let (possible, others): (Vec<_>, Vec<_>) = wanted.partition(|(_, case)| case.is_some());
    let cases = [base].into_iter().chain(possible.iter().filter_map(|(_, case)| *case));
    let record = timed(cases.collect())?;
    let row = |case: &Case| record.rows.iter().find(|row| row.repro.ends_with(&case.flags()));
    let base_ns = row(&base).filter(|row| row.passed).map(|row| row.median_ns);
    writeln!(out, "{}\nbase: {}", tune::class(&base), switches(&base))?;
    let columns = ["experiment", "runs", "median", "throughput of base", "prediction"];
    let mut table = tables::table(&columns, &["median", "throughput of base"]);
    for (experiment, case) in possible {
        let Some(case) = case else { continue };
        let (median, ratio) = match (row(&case), base_ns) {
            (Some(row), _) if !row.passed => ("WRONG".into(), "-".into()),
            (Some(row), Some(base)) => {
                (format!("{:.3} ms", row.median_ns / 1e6), format!("{:.3}", base / row.median_ns))
            }
            (Some(row), None) => (format!("{:.3} ms", row.median_ns / 1e6), "-".into()),
            (None, _) => ("-".into(), "-".into()),
        };
        table.add_row([experiment.name, &switches(&case), &median, &ratio, experiment.prediction]);
    }
    writeln!(out, "{}", table.trim_fmt())?;
    for (experiment, _) in others {
        writeln!(out, "not run: {}: it is the base, or does not fit this problem or device", experiment.name)?;
    }
    skipped(&record, out)?;
    let wrong = record.rows.iter().filter(|row| !row.passed).count();
    ensure!(wrong == 0, "{wrong} of {} tiles gave wrong results and were not timed", record.rows.len());
    Ok(())
}

/// What tells a case of a sweep from the others: its path and tile, and a step's splits.
fn switches(case: &Case) -> String {
    let tile = case.tile.map(|tile| tile.to_string()).or(case.decode_tile.map(|tile| tile.to_string()));
    let splits = case.splits.map(|splits| format!("{splits} splits"));
    let checks = case.runtime_checks.then(|| "runtime checks".into());
    [Some(case.runner.name().into()), tile, splits, checks].into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn list(file: &std::path::Path, out: &mut impl Write) -> Result<()> {
    let (memory, broken) = Memory::read(file);
    if let Some(broken) = broken {
        note(format_args!("{broken}"));
    }
    let mut table = tables::table(&["device", "problems", "takes", "median"], &["median"]);
    for (device, class, takes, median_ns) in memory.entries() {
        table.add_row([device, class, &takes, &format!("{:.3} ms", median_ns / 1e6)]);
    }
    if table.is_empty() {
        writeln!(out, "nothing is remembered in {}", file.display())?;
    } else {
        writeln!(out, "{}\nin {}", table.trim_fmt(), file.display())?;
    }
    Ok(())
}

fn forget(file: &std::path::Path, out: &mut impl Write) -> Result<()> {
    match std::fs::remove_file(file) {
        Ok(()) => writeln!(out, "removed {}", file.display())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => writeln!(out, "nothing was remembered")?,
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", file.display())),
    }
    Ok(())
}
