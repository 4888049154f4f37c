//! The benchmark suite's runner and its command: every operation, form and runner is judged and timed, and the record
//! says so and names nobody.

use std::process::Command;

use crate::device::Gpu;
use crate::{Case, case};
use diffattn::bench::{self, Form, Observer, Op, Record, Runner, Settings, Stage, Suite};
use diffattn::{DType, Path, Shape};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    vec![case("bench::every_form", every_form), case("bench::command", command)]
}

struct Nobody;

impl Observer for Nobody {
    fn stage(&mut self, _: Stage<'_>) {}
}

/// Small cases of everything, and one so large that the reference sees only a part of it.
fn suite() -> Suite {
    let shape = Shape { batch: 2, q_len: 70, kv_len: 90, heads: 4, kv_heads: 2, head_dim: 16, value_dim: 24 };
    let step = Shape { q_len: 1, kv_len: 1300, ..shape };
    let large = Shape { batch: 1, q_len: 1100, kv_len: 1100, heads: 2, kv_heads: 1, head_dim: 32, value_dim: 32 };
    let new = bench::Case::new;
    let mut cases = vec![new(Op::Forward, large)];
    for op in [Op::Forward, Op::Backward] {
        for &form in op.forms() {
            cases.push(bench::Case { form, dtype: DType::Bf16, ..new(op, shape) });
        }
        cases.extend([Runner::On(Path::Naive), Runner::On(Path::Portable), Runner::Cpu].map(|runner| bench::Case {
            runner,
            causal: false,
            dtype: DType::F32,
            ..new(op, shape)
        }));
    }
    let module = Shape { kv_len: shape.q_len, value_dim: shape.head_dim, ..shape };
    for (op, dtype) in [(Op::Module, DType::F16), (Op::Train, DType::F32)] {
        cases.extend(op.forms().iter().map(|&form| bench::Case { form, dtype, ..new(op, module) }));
        cases.push(bench::Case { runner: Runner::Cpu, dtype, ..new(op, module) });
    }
    for (form, int8, runner) in [
        (Form::Fused, false, Runner::Auto),
        (Form::Fused, true, Runner::Auto),
        (Form::Baseline, false, Runner::Auto),
        (Form::Fused, false, Runner::Cpu),
    ] {
        cases.push(bench::Case { form, int8, runner, ..new(Op::Decode, step) });
    }
    // However slow the device is today: this is no measurement.
    Suite { seconds: 1000.0, ..Suite::custom(cases) }
}

fn every_form(gpu: &Gpu) -> Result<(), Failed> {
    let suite = suite();
    let (settings, mut nobody) = (Settings::default(), Nobody);
    let record = pollster::block_on(bench::run(&gpu.adapter, &gpu.attention, &suite, &settings, &mut nobody))?;
    check(&record, suite.cases.len())?;
    let sampled = record.rows.iter().filter(|row| row.verified == "sample" && row.form != "matmul").count();
    if sampled != 1 || Record::from_jsonl(&record.to_jsonl()?)? != record {
        return Err(format!("{sampled} rows were sampled").into());
    }
    Ok(())
}

fn check(record: &Record, cases: usize) -> Result<(), Failed> {
    if record.rows.len() != cases || !record.header.skipped.is_empty() {
        return Err(format!("{} of {cases} cases have rows: {:?}", record.rows.len(), record.header.skipped).into());
    }
    for row in &record.rows {
        let timed = row.samples_ns.len() == 20 && row.p10_ns <= row.median_ns && row.median_ns <= row.p90_ns;
        if !row.passed || !timed || row.median_ns <= 0.0 || row.max_err > row.err_bound {
            return Err(format!("{row:?}").into());
        }
    }
    Ok(())
}

/// As its users run it; the command in a row makes that row again.
fn command(gpu: &Gpu) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let run = |args: &[&str]| -> Result<Record, Failed> {
        let output = Command::new(env!("CARGO_BIN_EXE_diffattn")).args(args).arg("-o").arg(folder.path()).output()?;
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        if !output.status.success() {
            return Err(format!("{args:?}: {stderr}").into());
        }
        let record = Record::from_jsonl(&stdout)?;
        let path = stderr.lines().find_map(|line| line.strip_prefix("record    ")).ok_or("no record was written")?;
        if std::fs::read_to_string(path)? != stdout {
            return Err("the file is not what was printed".into());
        }
        Ok(record)
    };
    let shape = "--shape b1q33kv40h2/1d16,b2q1kv70h4/2d16/8";
    let line = format!("bench --adapter {} {shape} --dtype f32,int8 --seed 7 --format json", gpu.name);
    let record = run(&line.split(' ').collect::<Vec<_>>())?;
    check(&record, 3)?;
    // One is enough here: a test of the command line has them all.
    for row in &record.rows[..1] {
        let again = row.repro.strip_prefix("diffattn ").ok_or("a command of its own")?;
        let again = run(&format!("{again} --format json").split(' ').collect::<Vec<_>>())?;
        if again.rows.len() != 1 || again.rows[0].label != row.label || again.rows[0].max_err != row.max_err {
            return Err(format!("{}: {:?}", row.repro, again.rows).into());
        }
    }

    let text = record.to_jsonl()?;
    let host =
        Command::new("hostname").output().map(|output| String::from_utf8_lossy(&output.stdout).trim().to_string());
    let user = ["USER", "USERNAME", "LOGNAME", "HOME"].map(|name| std::env::var(name).ok());
    for secret in user.into_iter().flatten().chain(host).chain([folder.path().display().to_string()]) {
        // A user named like a word of the record, such as `cpu`, would be no leak.
        if secret.len() > 3 && text.contains(&secret) {
            return Err(format!("{secret:?} is in the record").into());
        }
    }
    Ok(())
}
