//! What is measured: cases and the suites that they form. Pure data.

use std::fmt;
use std::str::FromStr;

use crate::decode_tile::DecodeTile;
use crate::error::{Error, Result};
use crate::kv_cache::{KvConfig, KvDType};
use crate::ops::decode::DecodeProblem;
use crate::problem::{DType, Options, Problem, Shape};
use crate::tile::{AnyTile, Path};

/// The operation of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// Prefill: many queries, out only.
    Forward,
    /// One new token of each sequence against a cache.
    Decode,
    /// Gradients, from what the forward saved.
    Backward,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 3] = [Op::Forward, Op::Decode, Op::Backward];

    /// The name used in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Forward => "forward",
            Op::Decode => "decode",
            Op::Backward => "backward",
        }
    }
}

/// What is computed: DIFF V2, or what it is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// DIFF V2 in one pass over K and V.
    Fused,
    /// The same result by standard attention with 2·heads heads through the same kernels, then the subtraction.
    Unfused,
    /// Standard attention with `heads` heads through the same kernels: what V2 costs over it.
    Baseline,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 3] = [Form::Fused, Form::Unfused, Form::Baseline];

    /// The name used in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Fused => "fused",
            Form::Unfused => "unfused",
            Form::Baseline => "baseline",
        }
    }
}

/// What runs a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Runner {
    /// The kernels that the planner chooses.
    Auto,
    /// The kernels of one path.
    On(Path),
    /// The CPU engine.
    Cpu,
}

impl Runner {
    /// All of them.
    pub const ALL: [Runner; 6] = [
        Runner::Auto,
        Runner::On(Path::Naive),
        Runner::On(Path::Portable),
        Runner::On(Path::Subgroup),
        Runner::On(Path::Matrix),
        Runner::Cpu,
    ];

    /// The name used in flags.
    pub const fn name(self) -> &'static str {
        match self {
            Runner::Auto => "auto",
            Runner::On(path) => path.name(),
            Runner::Cpu => "cpu",
        }
    }

    /// The path asked for.
    pub(crate) fn path(self) -> Option<Path> {
        match self {
            Runner::On(path) => Some(path),
            Runner::Auto | Runner::Cpu => None,
        }
    }
}

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Case {
    /// The operation.
    pub op: Op,
    /// What is computed.
    pub form: Form,
    /// What runs it.
    pub runner: Runner,
    /// Sizes; of a decode step `kv_len` cached tokens, the new one included.
    pub shape: Shape,
    /// Storage type.
    pub dtype: DType,
    /// Whether the cache of a decode step is int8.
    pub int8: bool,
    /// Whether the mask is causal. Of one new token it makes no difference.
    pub causal: bool,
    /// The forward's tile, instead of the planner's.
    pub tile: Option<AnyTile>,
    /// The decode step's tile, instead of the planner's.
    pub decode_tile: Option<DecodeTile>,
    /// Workgroups that share the keys of a sequence and KV head in a decode step, instead of the planner's number.
    pub splits: Option<u32>,
    /// Whether the kernels are compiled with the driver's bounds checks, which they do not need.
    pub runtime_checks: bool,
}

impl Case {
    /// The fused form of an operation, on whatever the planner chooses, in f16 and causal.
    pub fn new(op: Op, shape: Shape) -> Self {
        let (form, runner, dtype) = (Form::Fused, Runner::Auto, DType::F16);
        Case {
            op,
            form,
            runner,
            shape,
            dtype,
            int8: false,
            causal: true,
            tile: None,
            decode_tile: None,
            splits: None,
            runtime_checks: false,
        }
    }

    /// The DIFF V2 problem that the case is made from. The backward reads lse and a₂ of its forward.
    ///
    /// The kernels of a decode step have no standard form: `heads` query heads of ordinary attention are half as many
    /// pairs, which read K and V alike and differ in what is written.
    pub fn problem(&self) -> Problem {
        let backward = self.op == Op::Backward;
        let options = Options { causal: self.causal, lse: backward, a2: backward, ..Options::default() };
        let mut shape = self.shape;
        if (self.op, self.form) == (Op::Decode, Form::Baseline) {
            shape.heads /= 2;
        }
        Problem::new(shape, self.dtype, options)
    }

    /// The same as a decode step against full caches.
    pub(crate) fn decode_problem(&self) -> DecodeProblem {
        let Problem { shape, options, .. } = self.problem();
        let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = shape;
        let dtype = if self.int8 { KvDType::Int8 } else { self.dtype.into() };
        let cache = KvConfig { sequences: batch, capacity: kv_len, kv_heads, head_dim, value_dim, dtype, pages: None };
        DecodeProblem { cache, batch, q_len, heads, dtype: self.dtype, options }
    }

    /// What the attention kernels are asked for, and whether it is standard attention.
    pub(super) fn kernel_problem(&self) -> (Problem, bool) {
        let mut problem = self.problem();
        problem.shape.heads *= if self.form == Form::Unfused { 2 } else { 1 };
        let standard = self.form != Form::Fused;
        problem.options.a2 &= !standard;
        (problem, standard)
    }

    /// Name of the storage type in records and flags: `int8` is that of the cache.
    pub fn dtype_name(&self) -> &'static str {
        if self.int8 { "int8" } else { self.dtype.name() }
    }

    /// The flags of `diffattn bench` that choose this case.
    pub fn flags(&self) -> String {
        let Case { op, form, runner, shape, .. } = self;
        let mut flags = format!("--op {} --form {} --path {}", op.name(), form.name(), runner.name());
        flags += &format!(" --dtype {} --shape {}", self.dtype_name(), ShapeText(*shape));
        flags += if self.causal { "" } else { " --full" };
        flags += &self.tile.map_or(String::new(), |tile| format!(" --tile {tile}"));
        flags += &self.decode_tile.map_or(String::new(), |tile| format!(" --decode-tile {tile}"));
        flags += &self.splits.map_or(String::new(), |splits| format!(" --splits {splits}"));
        flags + if self.runtime_checks { " --runtime-checks" } else { "" }
    }
}

/// For progress and messages: `forward fused f16 causal b1q512kv512h16/8d64 auto`.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mask = if self.causal { "causal" } else { "full" };
        let Case { op, form, runner, shape, .. } = self;
        let (op, form, runner) = (op.name(), form.name(), runner.name());
        write!(f, "{op} {form} {} {mask} {} {runner}", self.dtype_name(), ShapeText(*shape))
    }
}

/// A shape as one word: `b1q512kv512h16/8d64`, with `/VALUE_DIM` at the end where it differs from head_dim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShapeText(pub Shape);

impl fmt::Display for ShapeText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = self.0;
        write!(f, "b{batch}q{q_len}kv{kv_len}h{heads}/{kv_heads}d{head_dim}")?;
        if value_dim != head_dim { write!(f, "/{value_dim}") } else { Ok(()) }
    }
}

impl FromStr for ShapeText {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parsed = (|| {
            let rest = text.strip_prefix('b')?;
            let (batch, rest) = rest.split_once('q')?;
            let (q_len, rest) = rest.split_once("kv")?;
            let (kv_len, rest) = rest.split_once('h')?;
            let (heads, dims) = rest.split_once('d')?;
            let (heads, kv_heads) = heads.split_once('/')?;
            let (head_dim, value_dim) = dims.split_once('/').unwrap_or((dims, dims));
            let size = |text: &str| text.parse().ok();
            Some(Shape {
                batch: size(batch)?,
                q_len: size(q_len)?,
                kv_len: size(kv_len)?,
                heads: size(heads)?,
                kv_heads: size(kv_heads)?,
                head_dim: size(head_dim)?,
                value_dim: size(value_dim)?,
            })
        })();
        parsed.map(ShapeText).ok_or_else(|| Error::invalid("shape", "like b1q512kv512h16/8d64", text))
    }
}

/// A list of cases that is the same everywhere, so that records can be put side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// `quick`, `standard`, `full` or `custom`.
    pub name: &'static str,
    /// Raised whenever a case is added, dropped or changed.
    pub version: u32,
    /// The cases, in order.
    pub cases: Vec<Case>,
    /// Seconds that one case may be timed for; one that certainly needs more is skipped.
    pub seconds: f64,
}

/// Version of the suites below.
const VERSION: u32 = 1;

impl Suite {
    /// Names of the fixed suites.
    pub const NAMES: [&'static str; 3] = ["quick", "standard", "full"];

    /// A fixed suite by its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another name.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "quick" => Ok(Suite::quick()),
            "standard" => Ok(Suite::standard()),
            "full" => Ok(Suite::full()),
            _ => Err(Error::invalid("suite", Suite::NAMES.join(", "), name)),
        }
    }

    /// Cases of one's own.
    pub fn custom(cases: Vec<Case>) -> Self {
        Suite { name: "custom", version: VERSION, cases, seconds: 60.0 }
    }

    /// For any device: shapes that a software driver can finish, and larger ones that it skips.
    pub fn quick() -> Self {
        let mut cases = Vec::new();
        cases.extend(all_forms(Case::new(Op::Forward, square(256, 4, 64)), true));
        cases.extend(all_forms(Case::new(Op::Forward, square(1024, 16, 64)), true));
        cases.extend(all_forms(Case::new(Op::Forward, square(4096, 16, 128)), false));
        cases.extend(steps(Case::new(Op::Decode, cached(1, 4096, 64)), true));
        cases.extend(steps(Case::new(Op::Decode, cached(4, 16384, 128)), false));
        cases.extend(all_forms(Case::new(Op::Backward, square(256, 4, 64)), true));
        cases.extend(all_forms(Case::new(Op::Backward, square(2048, 16, 128)), false));
        Suite { name: "quick", version: VERSION, cases, seconds: 4.0 }
    }

    /// Prefill of 512 to 16384 tokens, causal and full, at three head sizes; decode steps of 1, 8 and 32 sequences of up
    /// to 131072 tokens; gradients of 1024 to 16384 tokens.
    pub fn standard() -> Self {
        let mut cases = Vec::new();
        for dim in [64, 128, 256] {
            for causal in [true, false] {
                for len in [512, 1024, 2048, 4096, 8192, 16384] {
                    let case = Case { causal, ..Case::new(Op::Forward, square(len, 16, dim)) };
                    cases.extend(all_forms(case, len <= 2048 && dim == 128));
                }
            }
        }
        for batch in [1, 8, 32] {
            for len in [4096, 32768, 131072] {
                cases.extend(steps(Case::new(Op::Decode, cached(batch, len, 128)), batch == 1 && len == 4096));
            }
        }
        for dim in [64, 128] {
            for len in [1024, 2048, 4096, 8192, 16384] {
                cases.extend(all_forms(Case::new(Op::Backward, square(len, 16, dim)), len <= 1024));
            }
        }
        Suite { name: "standard", version: VERSION, cases, seconds: 20.0 }
    }

    /// The standard suite on every path, in every storage type.
    pub fn full() -> Self {
        let mut suite = Suite { name: "full", seconds: 60.0, ..Suite::standard() };
        let chosen = |case: &&Case| case.form == Form::Fused && case.runner == Runner::Auto && !case.int8;
        let fused: Vec<_> = suite.cases.iter().filter(chosen).copied().collect();
        for case in fused {
            for path in [Path::Portable, Path::Subgroup, Path::Matrix] {
                suite.cases.push(Case { runner: Runner::On(path), ..case });
            }
            for dtype in [DType::F32, DType::Bf16] {
                suite.cases.push(Case { dtype, ..case });
            }
        }
        suite
    }
}

/// A square problem of one sequence, with two output heads for each KV head.
fn square(len: u32, heads: u32, dim: u32) -> Shape {
    let kv_heads = heads / 2;
    Shape { batch: 1, q_len: len, kv_len: len, heads, kv_heads, head_dim: dim, value_dim: dim }
}

/// A step of one token for each sequence.
fn cached(batch: u32, len: u32, dim: u32) -> Shape {
    Shape { batch, q_len: 1, ..square(len, 16, dim) }
}

/// A fused case and what it is compared with; where it is `small`, the plain kernel and the CPU engine too.
fn all_forms(case: Case, small: bool) -> Vec<Case> {
    let mut cases = vec![case];
    cases.extend([Form::Unfused, Form::Baseline].map(|form| Case { form, ..case }));
    if small {
        cases.extend([Runner::On(Path::Naive), Runner::Cpu].map(|runner| Case { runner, ..case }));
    }
    cases
}

/// A fused step, ordinary attention's, and one from an int8 cache; where it is `small`, the CPU engine too.
///
/// There is no un-fused step: 2·heads heads of standard attention read K and V as often as the fused step, and differ in
/// the subtraction only. Nor is there a plain kernel.
fn steps(case: Case, small: bool) -> Vec<Case> {
    let mut cases = vec![case, Case { form: Form::Baseline, ..case }, Case { int8: true, ..case }];
    cases.extend(small.then_some(Case { runner: Runner::Cpu, ..case }));
    cases
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_written() {
        for text in ["b1q512kv512h16/8d64", "b32q1kv131072h16/8d128/64"] {
            assert_eq!(text.parse::<ShapeText>().unwrap().to_string(), text);
        }
        for text in ["", "b1", "b1q512kv512h16d64", "b1q512kv512h16/8d", "b1q512kv512h16/8d64 ", "q1b1kv1h1/1d8"] {
            let error = text.parse::<ShapeText>().unwrap_err().to_string();
            assert!(error.contains("b1q512kv512h16/8d64"), "{text}: {error}");
        }
    }

    #[test]
    fn suites_hold_valid_cases_once_each() {
        for name in Suite::NAMES {
            let suite = Suite::named(name).unwrap();
            assert_eq!(suite.name, name);
            for (index, case) in suite.cases.iter().enumerate() {
                case.problem().validate().unwrap();
                assert!(!suite.cases[..index].contains(case), "{name}: {case} twice");
            }
        }
        assert!(Suite::named("slow").is_err());
    }
}
