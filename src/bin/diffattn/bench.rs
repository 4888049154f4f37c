//! `diffattn bench`: how fast, and how near to this device's own limits.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use diffattn::bench::{
    self, Case, Form, Header, Limits, Observer, Record, Row, Runner, Settings, Skipped, Stage, Suite,
};
use diffattn::{PlanOptions, Shape, wgpu};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::bench_args::{BenchArgs, Format};
use crate::bench_table::{banner, csv, limits, markdown};
use crate::gpu::Gpu;
use crate::output::Output;
use crate::{device, note};

/// Commit that this was built from, as `git describe --always --dirty --exclude '*'` prints it. Whoever builds for a
/// record sets it, as `benches/run.sh` does: a build script that asks git would compile everything anew after every commit.
const COMMIT: Option<&str> = option_env!("DIFFATTN_COMMIT");

/// The compiler, as `rustc --version` prints it; set likewise.
const RUSTC: Option<&str> = option_env!("DIFFATTN_RUSTC");

pub fn run(args: &BenchArgs, out: &mut impl Write) -> Result<()> {
    let mut suite = args.suite()?;
    if args.list {
        return list(&suite, out);
    }
    let adapters = device::adapters();
    let index = device::choose(&adapters, args.adapter.as_deref())?;
    let gpu = Gpu::open(&adapters[index]).with_context(|| format!("cannot use adapter {index}"))?;
    let tuned = |case: &&mut Case| case.form == Form::Fused && case.runner == Runner::Auto && case.tile.is_none();
    for case in suite.cases.iter_mut().filter(tuned) {
        if let Some(PlanOptions { path: Some(path), tile, .. }) = gpu.remembered(case) {
            (case.runner, case.tile) = (Runner::On(path), tile);
        }
    }
    let record = measure(&adapters[index], &gpu, &suite, &settings(args))?;

    match args.format {
        Format::Md => print(&record, out)?,
        Format::Csv => write!(out, "{}", csv(&record)?)?,
        Format::Json => write!(out, "{}", record.to_jsonl()?)?,
    }
    if let Some(folder) = &args.output {
        let path = save(folder, &record)?;
        note(format_args!("record    {}", path.display()));
    }
    let wrong = record.rows.iter().filter(|row| !row.passed).count();
    ensure!(wrong == 0, "{wrong} of {} kernels gave wrong results and were not timed", record.rows.len());
    let failed = record.header.skipped.iter().filter(|skipped| skipped.is_failure()).count();
    ensure!(failed == 0, "{failed} of {} cases failed", suite.cases.len());
    Ok(())
}

/// The cases in the columns of a record's rows, for programs that run them on another stack.
fn list(suite: &Suite, out: &mut impl Write) -> Result<()> {
    writeln!(out, "{}", json!({ "suite": suite.name, "suite_version": suite.version }))?;
    for case in &suite.cases {
        let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = case.shape;
        let cost = case.cost();
        let columns = json!({
            "op": case.op.name(), "form": case.form.name(), "path": case.runner.name(), "dtype": case.dtype_name(),
            "batch": batch, "q_len": q_len, "kv_len": kv_len, "heads": heads, "kv_heads": kv_heads,
            "head_dim": head_dim, "value_dim": value_dim, "causal": case.causal,
            "flop": cost.flop, "bytes_min": cost.bytes,
        });
        writeln!(out, "{columns}")?;
    }
    Ok(())
}

/// Runs a suite with a progress bar; Ctrl-C ends it with what was measured so far.
pub fn measure(adapter: &wgpu::Adapter, gpu: &Gpu, suite: &Suite, settings: &Settings) -> Result<Record> {
    let stop = Arc::new(AtomicBool::new(false));
    let handler = stop.clone();
    ctrlc::set_handler(move || {
        if handler.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })?;
    let mut watcher = Watcher::new(suite, stop);
    let record = pollster::block_on(bench::run(adapter, gpu.attention(), suite, settings, &mut watcher))?;
    watcher.bar.finish_and_clear();
    Ok(record)
}

fn settings(args: &BenchArgs) -> Settings {
    let mut settings = on_this_machine("diffattn bench", args.adapter.as_deref());
    settings.seed = args.seed;
    if args.seed != Settings::default().seed {
        settings.program += &format!(" --seed {}", args.seed);
    }
    settings.arguments = args.arguments();
    settings
}

/// What a record says of this program and machine.
pub fn on_this_machine(program: &str, adapter: Option<&str>) -> Settings {
    let mut settings = Settings::default();
    settings.program = program.into();
    if let Some(adapter) = adapter {
        settings.program += &format!(" --adapter {}", quoted(adapter));
    }
    settings.commit = COMMIT.map(|commit| commit.trim_end_matches("-dirty").into());
    settings.dirty = COMMIT.map(|commit| commit.ends_with("-dirty"));
    settings.rustc = RUSTC.map(str::to_string);
    let system = sysinfo::System::new_with_specifics(
        sysinfo::RefreshKind::nothing().with_cpu(sysinfo::CpuRefreshKind::nothing()),
    );
    settings.cpu = system.cpus().first().map(|cpu| cpu.brand().trim().to_string()).filter(|name| !name.is_empty());
    settings
}

/// A word for a shell.
fn quoted(word: &str) -> String {
    let plain = !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if plain { word.into() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn print(record: &Record, out: &mut impl Write) -> Result<()> {
    let Header { suite, suite_version, command, throttled, skipped, limits_before, limits_after, .. } = &record.header;
    writeln!(out, "{}", banner(&record.header))?;
    writeln!(out, "suite {suite} v{suite_version} · {command}")?;
    writeln!(out, "limits before: {}", limits(limits_before))?;
    if let Some(after) = limits_after {
        writeln!(out, "limits after:  {}", limits(after))?;
    }
    if *throttled {
        writeln!(out, "THROTTLED: a limit fell by more than 5 % during the run; do not compare these rows")?;
    }
    writeln!(out, "\n{}", markdown(&record.rows))?;
    if !skipped.is_empty() {
        writeln!(out, "\n{} of {} cases were not measured:", skipped.len(), skipped.len() + record.rows.len())?;
        for Skipped { case, reason } in skipped {
            writeln!(out, "- {case}: {reason}")?;
        }
    }
    Ok(())
}

/// Writes `VENDOR-ADAPTER/DATE-COMMIT.jsonl` below the folder. Never over another record.
pub fn save(folder: &Path, record: &Record) -> Result<PathBuf> {
    let header = &record.header;
    let folder = folder.join(slug(&format!("{} {}", vendor(header.vendor_id), header.adapter)));
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let commit = header.commit.clone().unwrap_or_else(|| format!("v{}", header.version));
    let (date, _) = header.timestamp.split_once('T').unwrap_or((&header.timestamp, ""));
    let numbered = |number: u32| if number == 1 { String::new() } else { format!("-{number}") };
    let paths = (1..).map(|number| folder.join(format!("{date}-{commit}{}.jsonl", numbered(number))));
    let path = paths.into_iter().find(|path| !path.exists()).context("no name is free")?;
    Output::create(&path, &[])?.write(record.to_jsonl()?.as_bytes())?;
    Ok(path)
}

/// Lower case, words joined by dashes.
fn slug(text: &str) -> String {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join("-").to_lowercase()
}

/// By PCI numbers and, for software, Khronos's.
fn vendor(id: u32) -> String {
    let known = match id {
        0x1002 => "amd",
        0x10de => "nvidia",
        0x8086 => "intel",
        0x106b => "apple",
        0x5143 => "qualcomm",
        0x13b5 => "arm",
        0x1010 => "imagination",
        0x10005 => "mesa",
        0x1ae0 => "google",
        0x1414 => "microsoft",
        _ => return format!("{id:04x}"),
    };
    known.into()
}

/// Draws the progress bar.
struct Watcher<'a> {
    bar: ProgressBar,
    suite: &'a Suite,
    limits: Limits,
    stop: Arc<AtomicBool>,
    /// When the first case began.
    start: Option<Instant>,
}

impl<'a> Watcher<'a> {
    fn new(suite: &'a Suite, stop: Arc<AtomicBool>) -> Self {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}");
        let bar = ProgressBar::new(suite.cases.len() as u64);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(200));
        Watcher { bar, suite, limits: Limits::default(), stop, start: None }
    }

    /// Seconds left: what was estimated of the rest, corrected by what the cases so far took of theirs.
    fn left(&self, index: usize) -> f64 {
        let estimate = |cases: &[bench::Case]| -> f64 {
            cases.iter().map(|case| case.estimate(&self.limits, self.suite.seconds)).sum()
        };
        let (done, rest) = self.suite.cases.split_at(index);
        let spent = self.start.map_or(0.0, |start| start.elapsed().as_secs_f64());
        let factor = if index == 0 { 1.0 } else { spent / estimate(done).max(1e-3) };
        estimate(rest) * factor
    }
}

impl Observer for Watcher<'_> {
    fn stage(&mut self, stage: Stage<'_>) {
        let message = match stage {
            Stage::Limits => "this device's limits".into(),
            Stage::Case { index, case } => {
                self.start.get_or_insert_with(Instant::now);
                self.bar.set_position(index as u64);
                format!("about {:.0} s left  {case}", self.left(index))
            }
        };
        // Where no bar can be drawn, a line tells that there is progress.
        if self.bar.is_hidden() {
            note(format_args!("{}/{}  {message}", self.bar.position(), self.suite.cases.len()));
        }
        self.bar.set_message(message);
    }

    fn limits(&mut self, limits: &Limits) {
        self.limits = *limits;
    }

    fn row(&mut self, row: &Row) {
        if !row.passed {
            self.bar.suspend(|| note(format_args!("WRONG: {} is off by {:e}", row.label, row.max_err)));
        }
    }

    fn stop(&mut self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_are_plain() {
        assert_eq!(slug("mesa llvmpipe (LLVM 15.0.6, 256 bits)"), "mesa-llvmpipe-llvm-15-0-6-256-bits");
        assert_eq!(slug(&format!("{} A/../b", vendor(0x1234))), "1234-a-b");
        assert_eq!(quoted("NVIDIA H100"), "'NVIDIA H100'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted("0"), "0");
    }
}
