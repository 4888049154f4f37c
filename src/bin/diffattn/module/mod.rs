//! `diffattn module`: a whole attention module on the tensors of a file.

mod compare;
mod engine;
mod file;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};
use diffattn::DType;
use diffattn::layer::{HostGradients, Kind};

use crate::args::{DTypeArg, EngineArg, EngineArgs, PathArg};
use crate::engine::Engine;
use crate::expected::conclude;
use crate::note;
use crate::output::{Named, Output, check_finite};
use crate::tensors::TensorFile;
use compare::Expected;
use file::Module;

/// Compute an attention module on the tokens and parameters of a safetensors file
///
/// Reads x (batch × seq_len × d_model) and every parameter as param.NAME, by its published name;
/// linear weights are out × in. The file's metadata says kind, heads, kv_heads and head_dim (and
/// depth, the layer's index, for diff_v1; rope_base, if it is not 10000), each JSON-encoded.
///
/// Writes y; with --grad also dx and every parameter's gradient as grad.NAME, from dy. Rotary
/// embedding over the whole head, interleaved, positions from 0; the mask is causal.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ModuleArgs {
    /// Safetensors file with x and the parameters, each f32, f16 or bf16 (and dy for --grad)
    pub input: PathBuf,

    /// File for y (and dx, grad.NAME); appears whole or not at all
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Which module [default: what the file's metadata says]
    #[arg(long, value_enum)]
    pub kind: Option<KindArg>,

    /// Storage type of the computation; inputs are rounded to it [default: that of x]
    #[arg(long, value_enum)]
    pub dtype: Option<DTypeArg>,

    /// What computes; auto takes a GPU where there is one, and the CPU otherwise
    #[arg(long, value_enum, default_value_t)]
    pub engine: EngineArg,

    /// GPU adapter, by its number in `diffattn info` or by a part of its name
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,

    /// Also compute the gradients from dy
    #[arg(long)]
    pub grad: bool,

    /// Hold every tensor of the input that is named like an output against it; exit with 1 when one is over its bound
    #[arg(long)]
    pub compare: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum KindArg {
    #[value(name = "diff_v2")]
    DiffV2,
    #[value(name = "baseline")]
    Baseline,
    #[value(name = "diff_v1")]
    DiffV1,
}

impl From<KindArg> for Kind {
    fn from(arg: KindArg) -> Self {
        match arg {
            KindArg::DiffV2 => Kind::DiffV2,
            KindArg::Baseline => Kind::Baseline,
            KindArg::DiffV1 => Kind::DiffV1,
        }
    }
}

pub fn run(args: &ModuleArgs, out: &mut impl Write) -> Result<()> {
    let file = TensorFile::open(&args.input)?;
    let module = Module::read(&file, args.kind.map(Kind::from), args.dtype.map(DType::from), args.grad)?;
    let expected = if args.compare { Some(Expected::read(&file, &module)?) } else { None };
    let output = Output::create(&args.output, std::slice::from_ref(&args.input))?;

    let chosen = EngineArgs { engine: args.engine, adapter: args.adapter.clone(), path: PathArg::Auto, tile: None };
    let (engine, reason) = Engine::choose(&chosen)?;
    note(format_args!("engine    {engine}: {reason}"));
    if !module.rounded.is_empty() {
        note(format_args!("rounded   {} to {}", module.rounded.join(", "), module.dtype.name()));
    }
    let (batch, seq_len) = (module.tokens().batch, module.tokens().seq_len);
    let config = module.weights.config();
    writeln!(out, "module    {config}, batch {batch}, seq_len {seq_len}, {}", module.dtype.name())?;
    writeln!(out, "params    {}", config.parameter_count())?;
    let forward = engine::forward(&engine, &module)?;
    forward.print(out, "forward")?;
    let backward = engine::backward(&engine, &module)?;
    if let Some(backward) = &backward {
        backward.print(out, "backward")?;
    }

    let gradients = backward.as_ref().map(|run| &run.result);
    let names: Vec<_> = config.parameters().iter().map(|parameter| format!("grad.{}", parameter.name)).collect();
    let results = results(&module, &forward.result, gradients, &names);
    check_finite(&results)?;
    output.write_tensors(&results.iter().collect::<Vec<_>>())?;
    let written: Vec<_> = results.iter().map(|named| named.name).collect();
    writeln!(out, "wrote     {} to {}", written.join(", "), args.output.display())?;

    if let Some(expected) = expected {
        let verdicts = expected.judge(&module, &results)?;
        writeln!(out, "\n{}", expected.table(&verdicts).trim_fmt())?;
        conclude(&verdicts)?;
    }
    Ok(())
}

/// Everything that was computed, by its name in files. Gradients of parameters are kept in f32.
fn results<'a>(
    module: &Module,
    y: &'a [f32],
    gradients: Option<&'a HostGradients>,
    names: &'a [String],
) -> Vec<Named<'a>> {
    let mut results = vec![Named { name: "y", dtype: module.dtype, shape: module.shape.clone(), values: y }];
    if let Some(HostGradients { dx, weights }) = gradients {
        results.push(Named { name: "dx", dtype: module.dtype, shape: module.shape.clone(), values: dx });
        results.extend(names.iter().zip(weights.iter()).map(|(name, (parameter, values))| Named {
            name,
            dtype: DType::F32,
            shape: file::axes(parameter),
            values,
        }));
    }
    results
}
