//! The command: DIFF V2 attention on safetensors files, and what this machine can do.

mod args;
mod attend;
mod bench;
mod bench_args;
mod bench_table;
mod case;
mod check;
mod compare;
mod device;
mod engine;
mod expected;
mod export;
mod gpu;
mod info;
mod inputs;
mod markdown;
mod module;
mod output;
mod parameters;
mod params;
mod records;
mod report;
mod steps;
mod tables;
mod tensors;
mod tune;

use std::io::{self, Write};
use std::process::ExitCode;

use args::{Cli, Command};

fn main() -> ExitCode {
    // Silent unless asked: what wgpu has to say about drivers is for RUST_LOG.
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("off")).init();
    device::quiet_driver();
    let cli = Cli::parse_and_check();
    let mut stdout = Listener(io::stdout().lock());
    let done = match &cli.command {
        Command::Attend(args) => attend::run(args, &mut stdout),
        Command::Module(args) => module::run(args, &mut stdout),
        Command::Params(args) => params::run(args, &mut stdout),
        Command::Info(args) => info::run(args, &mut stdout),
        Command::Check(args) => check::run(args, &mut stdout),
        Command::Export(args) => export::run(args, &mut stdout),
        Command::Bench(args) => bench::run(args, &mut stdout),
        Command::Compare(args) => compare::run(args, &mut stdout),
        Command::Report(args) => report::run(args, &mut stdout),
        Command::Tune(args) => tune::run(args, &mut stdout),
    };
    match done.and_then(|()| Ok(stdout.flush()?)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(format_args!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Who reads our output. They may go away (`diffattn check | head -1`): the work and its verdict go on without them.
struct Listener<W>(W);

impl<W: Write> Write for Listener<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        unless_gone(self.0.write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        unless_gone(self.0.flush(), ())
    }
}

fn unless_gone<T>(done: io::Result<T>, instead: T) -> io::Result<T> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(instead),
        done => done,
    }
}

/// One line on stderr; unlike `eprintln!` it does not panic when nobody listens.
fn note(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{line}");
}
