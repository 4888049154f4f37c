//! `diffattn params`: what the three kinds of module cost, side by side.

use std::io::Write;

use anyhow::{Result, ensure};
use clap::Args;
use diffattn::DType;
use diffattn::layer::{Config, Kind};

use crate::args::DTypeArg;
use crate::tables;

/// Print parameters, FLOPs and KV bytes of the three kinds of attention module, side by side
#[derive(Debug, Args)]
pub struct ParamsArgs {
    /// Width of the model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub d_model: u32,

    /// Output heads: those of the baseline, and the pairs of DIFF V2
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub heads: u32,

    /// Key and value heads [default: heads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub kv_heads: Option<u32>,

    /// Elements of a head [default: d_model / heads]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub head_dim: Option<u32>,

    /// Tokens of the sequence that FLOPs are counted for
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1 << 28))]
    pub seq_len: u32,

    /// Storage type of keys and values
    #[arg(long, value_enum, default_value = "f16")]
    pub dtype: DTypeArg,
}

pub fn run(args: &ParamsArgs, out: &mut impl Write) -> Result<()> {
    let ParamsArgs { d_model, heads, seq_len, .. } = *args;
    let kv_heads = args.kv_heads.unwrap_or(heads);
    let head_dim = match args.head_dim {
        Some(head_dim) => head_dim,
        None => {
            ensure!(d_model % heads == 0, "d_model {d_model} is not a multiple of heads {heads}; give --head-dim");
            d_model / heads
        }
    };
    let v2 = Config::new(Kind::DiffV2, d_model, heads, kv_heads, head_dim);
    let baseline = Config { kind: Kind::Baseline, ..v2 };
    let double = Config { heads: heads.saturating_mul(2), ..baseline };
    let v1 = Config { kind: Kind::DiffV1, heads: heads / 2, kv_heads: kv_heads / 2, ..v2 };
    let mut rows = vec![("DIFF V2", v2), ("baseline", baseline), ("baseline, 2 × heads", double)];
    for (_, config) in &rows {
        config.validate()?;
    }
    let reason = if heads % 2 == 1 || kv_heads % 2 == 1 {
        Some("it halves heads and kv_heads, which are not both even".to_string())
    } else {
        v1.validate().err().map(|error| error.to_string())
    };
    if reason.is_none() {
        rows.insert(2, ("DIFF V1", v1));
    }

    let dtype = DType::from(args.dtype);
    let numbers = ["heads", "kv_heads", "parameters", "saving", "projections", "attention", "KV bytes", "read"];
    let columns: Vec<_> = std::iter::once("module").chain(numbers).collect();
    let mut table = tables::table(&columns, &numbers);
    let all = double.parameter_count() as f64;
    for (name, config) in &rows {
        let attention = config.attention_flops() * (f64::from(seq_len) + 1.0) / 2.0;
        table.add_row([
            name.to_string(),
            config.heads.to_string(),
            config.kv_heads.to_string(),
            config.parameter_count().to_string(),
            format!("{:.1} %", 100.0 * (1.0 - config.parameter_count() as f64 / all)),
            format!("{:.2}", config.projection_flops() / 1e6),
            format!("{:.2}", attention / 1e6),
            (dtype.size() * config.cache_elements()).to_string(),
            (dtype.size() * config.decode_elements()).to_string(),
        ]);
    }
    writeln!(out, "d_model {d_model}, head_dim {head_dim}, {}, seq_len {seq_len}\n", dtype.name())?;
    writeln!(out, "{}", table.trim_fmt())?;
    writeln!(out, "\nsaving: parameters, against the baseline of {} heads", double.heads)?;
    writeln!(out, "projections, attention: MFLOP per token of a causal forward (a multiply-add is 2)")?;
    writeln!(out, "KV bytes: cached per token; read: by one decoding step, per cached token")?;
    if let Some(reason) = reason {
        writeln!(out, "DIFF V1 is not shown: {reason}")?;
    } else {
        writeln!(out, "DIFF V1 has half as many heads of twice the width, and reads V once for each member")?;
    }
    Ok(())
}
