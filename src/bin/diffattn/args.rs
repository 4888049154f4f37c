//! The command line.

use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use diffattn::{AnyTile, DType, Path, PlanOptions};

use crate::bench_args::BenchArgs;
use crate::compare::CompareArgs;
use crate::export::ExportArgs;
use crate::module::ModuleArgs;
use crate::params::ParamsArgs;
use crate::report::ReportArgs;

/// Differential Transformer V2 attention on any GPU, or on the CPU
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Reads the command line, and exits with 2 when it makes no sense.
    pub fn parse_and_check() -> Self {
        let cli = Cli::parse();
        if let Command::Module(ModuleArgs { engine: EngineArg::Cpu, adapter: Some(_), .. }) = &cli.command {
            let message = "--adapter chooses what runs on a GPU; leave it out with --engine cpu";
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
        if let Command::Attend(AttendArgs { run, .. }) = &cli.command
            && run.engine == EngineArg::Cpu
            && (run.adapter.is_some() || run.plan() != PlanOptions::default())
        {
            let message = "--adapter, --path and --tile choose what runs on a GPU; leave them out with --engine cpu";
            Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
        }
        cli
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Attend(AttendArgs),
    Module(ModuleArgs),
    Params(ParamsArgs),
    Info(InfoArgs),
    Check(CheckArgs),
    Bench(BenchArgs),
    Compare(CompareArgs),
    Report(ReportArgs),
    Export(ExportArgs),
    Tune(crate::tune::TuneArgs),
}

/// Compute attention on the tensors q, k, v and lam of a safetensors file
///
/// The file's metadata may give causal, window_left, window_right, scale and softcap, each
/// JSON-encoded; flags override it. Sizes come from the shapes of the tensors:
///
///   q     batch × q_len × 2·heads × head_dim
///   k     batch × kv_len × kv_heads × head_dim
///   v     batch × kv_len × kv_heads × value_dim
///   lam   batch × q_len × heads, before the sigmoid
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct AttendArgs {
    /// Safetensors file with q, k, v, lam, each f32, f16 or bf16 (and dout for --grad)
    pub input: PathBuf,

    /// File for out and lse (and dq, dk, dv, dlam); appears whole or not at all
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Storage type of the computation; inputs are rounded to it [default: that of q]
    #[arg(long, value_enum)]
    pub dtype: Option<DTypeArg>,

    #[command(flatten)]
    pub run: EngineArgs,

    #[command(flatten)]
    pub options: OptionArgs,

    /// Hold every tensor of the input that is named like an output against it; exit with 1 when one is over its bound
    #[arg(long)]
    pub compare: bool,

    /// Also compute the gradients dq, dk, dv, dlam from dout
    #[arg(long)]
    pub grad: bool,
}

/// Where and how it runs
#[derive(Debug, Args)]
pub struct EngineArgs {
    /// What computes; auto takes a GPU where there is one, and the CPU otherwise
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineArg,

    /// GPU adapter, by its number in `diffattn info` or by a part of its name
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,

    /// GPU kernels to use
    #[arg(long, value_enum, default_value_t)]
    pub path: PathArg,

    /// The forward kernel's tile, as labels name it: r64k16t64n4 [default: the planner's]
    #[arg(long, value_name = "TILE")]
    pub tile: Option<AnyTile>,
}

/// What is computed, instead of what the file says
#[derive(Debug, Default, Args)]
pub struct OptionArgs {
    /// Mask keys after the query (aligned to the last key)
    #[arg(long, overrides_with = "no_causal")]
    pub causal: bool,

    /// Do not mask keys after the query
    #[arg(long, overrides_with = "causal")]
    pub no_causal: bool,

    /// Keys seen to the left and to the right of the query; -1 is open
    #[arg(long, value_name = "L,R", value_parser = window, allow_hyphen_values = true)]
    pub window: Option<Window>,

    /// Factor of q·k before the softmax [default: 1/√head_dim]
    #[arg(long, value_name = "X", value_parser = finite, allow_hyphen_values = true)]
    pub scale: Option<f32>,

    /// Scores become X·tanh(score/X); 0 is off
    #[arg(long, value_name = "X", value_parser = cap, allow_hyphen_values = true)]
    pub softcap: Option<f32>,
}

/// List the adapters, what they can do, and the tiles that common shapes get
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Run every kernel that the machine supports and hold the results against the float64 reference
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Only these storage types [default: all]
    #[arg(long, value_delimiter = ',', value_enum)]
    pub dtype: Vec<DTypeArg>,

    /// Only this GPU adapter, by its number in `diffattn info` or by a part of its name
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,

    /// Compile the kernels with the driver's bounds checks, which they do not need
    #[arg(long)]
    pub runtime_checks: bool,
}

impl EngineArgs {
    /// What the flags force of a plan.
    pub fn plan(&self) -> PlanOptions {
        let mut options = PlanOptions::default();
        (options.path, options.tile) = (self.path.path(), self.tile);
        options
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum EngineArg {
    #[default]
    Auto,
    Gpu,
    Cpu,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum PathArg {
    #[default]
    Auto,
    Naive,
    Portable,
    Subgroup,
    Matrix,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum DTypeArg {
    F32,
    F16,
    Bf16,
}

impl From<DTypeArg> for DType {
    fn from(arg: DTypeArg) -> Self {
        match arg {
            DTypeArg::F32 => DType::F32,
            DTypeArg::F16 => DType::F16,
            DTypeArg::Bf16 => DType::Bf16,
        }
    }
}

impl PathArg {
    /// The path; `None` leaves it to the planner.
    pub fn path(self) -> Option<Path> {
        match self {
            PathArg::Auto => None,
            PathArg::Naive => Some(Path::Naive),
            PathArg::Portable => Some(Path::Portable),
            PathArg::Subgroup => Some(Path::Subgroup),
            PathArg::Matrix => Some(Path::Matrix),
        }
    }
}

/// Keys seen to the left and to the right; `None` is open.
pub type Window = (Option<u32>, Option<u32>);

/// One side of a window: −1 is open.
pub fn window_side(side: i64) -> Option<Option<u32>> {
    if side == -1 { Some(None) } else { u32::try_from(side).ok().map(Some) }
}

fn window(text: &str) -> Result<Window, String> {
    let side = |text: &str| text.trim().parse().ok().and_then(window_side);
    let sides = text.split_once(',').and_then(|(left, right)| Some((side(left)?, side(right)?)));
    sides.ok_or_else(|| "two whole numbers are needed, as in 128,0; -1 is an open side".into())
}

fn finite(text: &str) -> Result<f32, String> {
    let number = text.parse().ok().filter(|number: &f32| number.is_finite());
    number.ok_or_else(|| "a finite number is needed".into())
}

fn cap(text: &str) -> Result<f32, String> {
    finite(text).ok().filter(|cap| *cap >= 0.0).ok_or_else(|| "a number above 0 is needed, or 0 for none".into())
}
