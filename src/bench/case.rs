//! What is measured: one case. Pure data.

use std::fmt;
use std::str::FromStr;

use crate::decode_tile::DecodeTile;
use crate::error::{Error, Result};
use crate::kv_cache::{KvConfig, KvDType};
use crate::layer::{Config, Kind};
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
    /// A whole attention module: projections, rotary embedding, attention.
    Module,
    /// The same with its gradients, by x and by every parameter.
    Train,
}

impl Op {
    /// All of them.
    pub const ALL: [Op; 5] = [Op::Forward, Op::Decode, Op::Backward, Op::Module, Op::Train];

    /// The name used in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Op::Forward => "forward",
            Op::Decode => "decode",
            Op::Backward => "backward",
            Op::Module => "module",
            Op::Train => "train",
        }
    }

    /// What it is measured in.
    pub const fn forms(self) -> &'static [Form] {
        match self {
            Op::Forward | Op::Decode | Op::Backward => &[Form::Fused, Form::Unfused, Form::Baseline],
            Op::Module | Op::Train => &[Form::Fused, Form::Baseline, Form::V1, Form::Matmul],
        }
    }

    /// Whether it is one of a module.
    pub const fn is_module(self) -> bool {
        matches!(self, Op::Module | Op::Train)
    }
}

/// What is computed: DIFF V2, or what it is held against. Of a module `Fused` is DIFF V2's, `Baseline` the ordinary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// DIFF V2 in one pass over K and V.
    Fused,
    /// The same result by standard attention with 2·heads heads through the same kernels, then the subtraction.
    Unfused,
    /// Standard attention with `heads` heads through the same kernels: what V2 costs over it.
    Baseline,
    /// DIFF V1's module with the same d_model, K and V: half the heads, of twice the width.
    V1,
    /// Of a module the output projection alone: a product of tokens × d_model × d_model.
    Matmul,
}

impl Form {
    /// All of them.
    pub const ALL: [Form; 5] = [Form::Fused, Form::Unfused, Form::Baseline, Form::V1, Form::Matmul];

    /// The name used in flags and records.
    pub const fn name(self) -> &'static str {
        match self {
            Form::Fused => "fused",
            Form::Unfused => "unfused",
            Form::Baseline => "baseline",
            Form::V1 => "v1",
            Form::Matmul => "matmul",
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
    /// Sizes; of a decode step `kv_len` cached tokens, the new one included; of a module those of DIFF V2's attention, with
    /// d_model = heads · head_dim.
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

    /// Checks the sizes, and that the operation has the form.
    ///
    /// # Errors
    /// Those of [`Problem::validate`] and [`Config::validate`]; [`Error::Invalid`] for a form that the operation does not
    /// have, and for a module that is not causal, or whose keys are not those of its own tokens.
    pub fn validate(&self) -> Result<()> {
        let Shape { q_len, kv_len, heads, kv_heads, head_dim, value_dim, .. } = self.shape;
        if !self.op.forms().contains(&self.form) {
            let names: Vec<_> = self.op.forms().iter().map(|form| form.name()).collect();
            let rule = format!("{} for {}", names.join(", "), self.op.name());
            return Err(Error::invalid("form", rule, self.form.name()));
        }
        if !self.op.is_module() {
            return self.problem().validate();
        }
        let halves = self.form != Form::V1 || (heads.is_multiple_of(2) && kv_heads.is_multiple_of(2));
        if !(self.causal && q_len == kv_len && head_dim == value_dim && halves) {
            let rule = "causal, with q_len = kv_len and one head size; for v1 even heads and kv_heads";
            return Err(Error::invalid("shape of a module", rule, ShapeText(self.shape)));
        }
        self.config().validate()
    }

    /// The module of the case.
    pub(crate) fn config(&self) -> Config {
        let Shape { heads, kv_heads, head_dim, .. } = self.shape;
        let (kind, share) = match self.form {
            Form::Baseline => (Kind::Baseline, 1),
            Form::V1 => (Kind::DiffV1, 2),
            Form::Fused | Form::Unfused | Form::Matmul => (Kind::DiffV2, 1),
        };
        Config::new(kind, heads.saturating_mul(head_dim), heads / share, kv_heads / share, head_dim)
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
}
