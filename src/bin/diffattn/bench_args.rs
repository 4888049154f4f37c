//! The command line of `diffattn bench`, and the suite that it asks for.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use diffattn::bench::{Case, Form, Op, Runner, ShapeText, Suite};
use diffattn::tile::AnyTile;
use diffattn::{DType, DecodeTile};

/// Measure this device: its own limits, then every kernel, judged by the float64 reference first
///
/// Columns of the table:
///
///   op, form    what is computed; fused is DIFF V2 in one pass, unfused the same by standard
///               attention with 2·heads heads and a subtraction, baseline standard attention with
///               `heads` heads; module and train are the whole module with d_model = heads · head_dim
///               (train: with its gradients), also as DIFF V1 (v1), or its output projection alone (matmul)
///   path        the kernels; the tile says what a workgroup owns (rows, keys, threads)
///   shape       batch, q_len, kv_len, heads/kv_heads, head_dim
///   error       of the bound that the reference allows, in percent
///   median      of at least 20 samples (n says how many where fewer fit the time), p10–p90 beside it;
///               by the device's own timestamps, or by the host's clock where it has none (wall)
///   TFLOP/s     of the operations that the form needs; causal counts what is seen
///   GB/s        of the bytes that must be read and written at least; 10⁹ bytes
///   limit       the device's limit that binds, and how much of it the median reached
///   scratch     device memory beside inputs and outputs
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct BenchArgs {
    /// Cases to run; records can be compared within one suite and version
    #[arg(long, value_parser = Suite::NAMES, default_value = "quick", conflicts_with = "shape")]
    pub suite: String,

    /// Only these operations
    #[arg(long, value_delimiter = ',', value_name = "OP", value_parser = by_name(&Op::ALL, Op::name))]
    pub op: Vec<Op>,

    /// Only these forms
    #[arg(long, value_delimiter = ',', value_name = "FORM", value_parser = by_name(&Form::ALL, Form::name))]
    pub form: Vec<Form>,

    /// GPU adapter, by its number in `diffattn info` or by a part of its name [default: the best]
    #[arg(long, value_name = "NAME|INDEX")]
    pub adapter: Option<String>,

    /// Run these kernels instead of the suite's own choice
    #[arg(long, value_delimiter = ',', value_name = "PATH", value_parser = by_name(&Runner::ALL, Runner::name))]
    pub path: Vec<Runner>,

    /// Storage types instead of the suite's; int8 is a cache of a decode step
    #[arg(long, value_delimiter = ',', value_enum)]
    pub dtype: Vec<BenchDType>,

    /// Shapes instead of a suite, as in b1q512kv512h16/8d64 (a decode step: q1)
    #[arg(long, value_delimiter = ',')]
    pub shape: Vec<ShapeText>,

    /// Tile of the forward kernels, as in their labels: r64k16t64n4
    #[arg(long)]
    pub tile: Option<AnyTile>,

    /// Tile of the decode kernel, as in its label: r4k64t64n4p4v4a8
    #[arg(long, value_name = "TILE")]
    pub decode_tile: Option<DecodeTile>,

    /// Workgroups that share the keys of one sequence and KV head in a decode step
    #[arg(long, value_name = "N")]
    pub splits: Option<u32>,

    /// Compile the kernels with the driver's bounds checks, which they do not need
    #[arg(long)]
    pub runtime_checks: bool,

    /// With --shape: every query sees every key, instead of a causal mask
    #[arg(long, requires = "shape")]
    pub full: bool,

    /// Only list the cases, one JSON object a line after one that names the suite; needs no device
    #[arg(long, conflicts_with_all = ["output", "format", "adapter"])]
    pub list: bool,

    /// Seed of the random inputs
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Folder for the record, VENDOR-ADAPTER/DATE-COMMIT.jsonl; it appears whole or not at all
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,

    /// What is printed
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// A table in Markdown
    #[default]
    Md,
    /// Every column but the samples
    Csv,
    /// The record: one JSON object a line
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchDType {
    F32,
    F16,
    Bf16,
    Int8,
}

impl BenchDType {
    /// `case` in this storage type; `None` for int8 without a cache.
    fn apply(self, case: Case) -> Option<Case> {
        let (dtype, int8) = match self {
            BenchDType::F32 => (DType::F32, false),
            BenchDType::F16 => (DType::F16, false),
            BenchDType::Bf16 => (DType::Bf16, false),
            BenchDType::Int8 => (DType::F16, true),
        };
        (!int8 || case.op == Op::Decode).then_some(Case { dtype, int8, ..case })
    }
}

impl BenchArgs {
    /// The cases that the flags ask for.
    pub fn suite(&self) -> Result<Suite> {
        let mut suite = match &self.shape[..] {
            [] => Suite::named(&self.suite)?,
            shapes => Suite::custom(shapes.iter().flat_map(|shape| self.cases_of(*shape)).collect()),
        };
        suite.cases.retain(|case| self.op.is_empty() || self.op.contains(&case.op));
        suite.cases.retain(|case| self.form.is_empty() || self.form.contains(&case.form));
        if !self.path.is_empty() {
            suite = replace(suite, |case| self.path.iter().map(|&runner| Case { runner, ..case }).collect());
        }
        if !self.dtype.is_empty() {
            suite = replace(suite, |case| self.dtype.iter().filter_map(|dtype| dtype.apply(case)).collect());
        }
        if self.tile.is_some() {
            suite.cases.retain(|case| case.op == Op::Forward);
            suite = replace(suite, |case| vec![Case { tile: self.tile, ..case }]);
        }
        if self.decode_tile.is_some() || self.splits.is_some() {
            suite.cases.retain(|case| case.op == Op::Decode);
            let (decode_tile, splits) = (self.decode_tile, self.splits);
            suite = replace(suite, |case| vec![Case { decode_tile, splits, ..case }]);
        }
        if self.runtime_checks {
            suite = replace(suite, |case| vec![Case { runtime_checks: true, ..case }]);
        }
        ensure!(!suite.cases.is_empty(), "no case is left; give other flags");
        suite.cases.iter().try_for_each(|case| case.validate())?;
        Ok(suite)
    }

    /// One query is a decode step, unless asked otherwise.
    fn cases_of(&self, ShapeText(shape): ShapeText) -> Vec<Case> {
        let default = [if shape.q_len == 1 { Op::Decode } else { Op::Forward }];
        let ops = if self.op.is_empty() { &default[..] } else { &self.op };
        let forms = if self.form.is_empty() { &[Form::Fused][..] } else { &self.form };
        let pairs = ops.iter().flat_map(|&op| forms.iter().map(move |&form| (op, form)));
        pairs.map(|(op, form)| Case { form, causal: !self.full, ..Case::new(op, shape) }).collect()
    }

    /// The flags that chose the cases, for the record.
    pub fn arguments(&self) -> String {
        let list = |name: &str, values: Vec<String>| {
            if values.is_empty() { String::new() } else { format!(" --{name} {}", values.join(",")) }
        };
        let names = |values: &[&'static str]| values.iter().map(|name| name.to_string()).collect();
        let mut text = if self.shape.is_empty() {
            format!("--suite {}", self.suite)
        } else {
            list("shape", self.shape.iter().map(|shape| shape.to_string()).collect()).trim_start().into()
        };
        text += &list("op", names(&self.op.iter().map(|op| op.name()).collect::<Vec<_>>()));
        text += &list("form", names(&self.form.iter().map(|form| form.name()).collect::<Vec<_>>()));
        text += &list("path", names(&self.path.iter().map(|path| path.name()).collect::<Vec<_>>()));
        let dtypes = self.dtype.iter().filter_map(|dtype| Some(dtype.to_possible_value()?.get_name().to_string()));
        text += &list("dtype", dtypes.collect());
        text += &self.tile.map_or(String::new(), |tile| format!(" --tile {tile}"));
        text += &self.decode_tile.map_or(String::new(), |tile| format!(" --decode-tile {tile}"));
        text += &self.splits.map_or(String::new(), |splits| format!(" --splits {splits}"));
        text += if self.runtime_checks { " --runtime-checks" } else { "" };
        text + if self.full { " --full" } else { "" }
    }
}

/// The suite with every case replaced by some, each of them once; no fixed suite any more.
fn replace(suite: Suite, by: impl Fn(Case) -> Vec<Case>) -> Suite {
    let mut cases: Vec<Case> = Vec::new();
    for case in suite.cases.into_iter().flat_map(by) {
        if !cases.contains(&case) {
            cases.push(case);
        }
    }
    Suite { seconds: suite.seconds, ..Suite::custom(cases) }
}

/// A parser that knows some values by their names, and lists them in the help.
pub fn by_name<T: Copy + Send + Sync + 'static>(
    all: &'static [T],
    name: fn(T) -> &'static str,
) -> impl clap::builder::TypedValueParser<Value = T> {
    use clap::builder::TypedValueParser as _;
    clap::builder::PossibleValuesParser::new(all.iter().map(|&value| name(value))).map(move |text| {
        let found = all.iter().find(|&&value| name(value) == text);
        *found.unwrap_or_else(|| unreachable!("{text} was among the names"))
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn suite(flags: &str) -> Suite {
        let words = ["diffattn", "bench"].into_iter().chain(flags.split_whitespace());
        let Command::Bench(args) = Cli::try_parse_from(words).expect(flags).command else { panic!("{flags}") };
        let suite = args.suite().expect(flags);
        // What the record says of it makes the same suite again.
        let arguments = args.arguments();
        let again = ["diffattn", "bench"].into_iter().chain(arguments.split_whitespace());
        let Command::Bench(again) = Cli::try_parse_from(again).expect("arguments").command else { panic!("{flags}") };
        assert_eq!(again.suite().expect("suite"), suite, "{flags}: {arguments}");
        suite
    }

    #[test]
    fn the_command_of_a_row_chooses_its_case() {
        for name in Suite::NAMES {
            for case in suite(&format!("--suite {name}")).cases {
                assert_eq!(suite(&case.flags()).cases, [case], "{}", case.flags());
            }
        }
        let forward = Case { tile: "r64k16t64n4".parse().ok(), ..suite("--op forward").cases[0] };
        let decode_tile = "r4k64t64n4p4v4a8".parse().ok();
        let decode = Case { decode_tile, splits: Some(3), runtime_checks: true, ..suite("--op decode").cases[0] };
        for case in [forward, decode] {
            assert_eq!(suite(&case.flags()).cases, [case], "{}", case.flags());
        }
    }

    #[test]
    fn flags_choose_from_a_suite_or_change_it() {
        assert_eq!(suite("").name, "quick");
        let decode = suite("--suite standard --op decode,backward");
        assert_eq!(decode.name, "standard");
        assert!(decode.cases.iter().all(|case| case.op != Op::Forward) && decode.cases.len() > 20);
        let paths = suite("--op forward --form fused --path naive,subgroup");
        assert_eq!(paths.name, "custom");
        assert!(paths.cases.iter().all(|case| matches!(case.runner, Runner::On(_))));
        let int8 = suite("--dtype int8,f32");
        assert!(int8.cases.iter().all(|case| !case.int8 || case.op == Op::Decode));
        assert_eq!(suite("--shape b1q1kv64h4/2d16,b1q64kv64h4/2d16 --full").cases.len(), 2);
    }
}
