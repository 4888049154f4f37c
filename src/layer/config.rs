//! Which module it is: kind, sizes, and the parameters that follow from them. Pure data and its validation.

use crate::error::{Error, Result};
use crate::problem::{DType, Options, Problem, Shape};
use std::fmt;

/// The three modules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// DIFF V2: two query heads for each output head, λ projected for each token and head.
    DiffV2,
    /// The same module with one query head for each output head, and no λ: an ordinary Transformer's attention.
    Baseline,
    /// DIFF V1: each member of a pair has its own keys, values are 2·head_dim wide, one λ for the layer from four
    /// vectors and the layer's index, and an RMS norm of every head, times 1 − λ_init.
    DiffV1,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 3] = [Kind::DiffV2, Kind::Baseline, Kind::DiffV1];

    /// The name used in files, flags and records: `diff_v2`, `baseline`, `diff_v1`.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::DiffV2 => "diff_v2",
            Kind::Baseline => "baseline",
            Kind::DiffV1 => "diff_v1",
        }
    }
}

/// The sizes of one attention module.
///
/// | per token | DIFF V2 | baseline | DIFF V1 |
/// |---|---|---|---|
/// | q, after rotary embedding | 2·heads × head_dim | heads × head_dim | 2·heads × head_dim |
/// | k, after rotary embedding | kv_heads × head_dim | kv_heads × head_dim | 2·kv_heads × head_dim |
/// | v | kv_heads × head_dim | kv_heads × head_dim | kv_heads × 2·head_dim |
/// | λ | heads | – | – |
/// | o | heads × head_dim | heads × head_dim | heads × 2·head_dim |
///
/// Pair j is the query heads 2j and 2j+1. In V2 both read KV head j / (heads / kv_heads); in V1 that KV head has two
/// key heads, and member m reads key head 2·(KV head) + m. Attention is causal with scale 1/√head_dim.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Config {
    /// Which module.
    pub kind: Kind,
    /// Elements of a token's x and y: a multiple of 8.
    pub d_model: u32,
    /// Output heads.
    pub heads: u32,
    /// Value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a query and of a key: a multiple of 8, at most 256 (128 for V1, whose values are twice as wide).
    pub head_dim: u32,
    /// Index of the layer in its model, from 0: gives V1 its λ_init. Others do not read it.
    pub layer_index: u32,
    /// Base of the rotary embedding (`rope_base`, `rope_theta`); 10000 in the published modules.
    pub rope_theta: f32,
    /// Whether V2's λ projection has a bias. The published module has none, converted checkpoints do.
    pub lambda_bias: bool,
}

/// The name and shape of one parameter. Linear weights are out × in, as PyTorch stores them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// The published name, e.g. `q_proj.weight`.
    pub name: &'static str,
    /// One or two axes.
    pub shape: Vec<u32>,
}

impl Parameter {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().map(|&axis| axis as usize).product()
    }

    /// Whether it has no elements; never for a valid [`Config`].
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What V1's norm adds to the mean of the squares.
pub(crate) const NORM_EPSILON: f64 = 1e-5;

/// Largest d_model and head count: every product of two axes then fits 48 bits.
const MAX_WIDTH: u32 = 1 << 20;

impl Config {
    /// A module without the things that few need: layer 0, the usual rotary base, no λ bias.
    pub fn new(kind: Kind, d_model: u32, heads: u32, kv_heads: u32, head_dim: u32) -> Self {
        Config { kind, d_model, heads, kv_heads, head_dim, layer_index: 0, rope_theta: 10000.0, lambda_bias: false }
    }

    /// Checks every size.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size out of range, [`Error::HeadGroups`] for a pair that would cross KV groups.
    pub fn validate(&self) -> Result<()> {
        let Config { kind, d_model, heads, kv_heads, head_dim, rope_theta, lambda_bias, .. } = *self;
        for (name, value) in [("heads", heads), ("kv_heads", kv_heads)] {
            if value == 0 || value > MAX_WIDTH {
                return Err(Error::invalid(name, format!("from 1 to {MAX_WIDTH}"), value));
            }
        }
        if d_model == 0 || d_model % 8 != 0 || d_model > MAX_WIDTH {
            return Err(Error::invalid("d_model", format!("a multiple of 8 from 8 to {MAX_WIDTH}"), d_model));
        }
        let most = if kind == Kind::DiffV1 { 128 } else { 256 };
        if head_dim == 0 || head_dim % 8 != 0 || head_dim > most {
            let expected = format!("a multiple of 8 from 8 to {most} for {}", kind.name());
            return Err(Error::invalid("head_dim", expected, head_dim));
        }
        if heads % kv_heads != 0 {
            return Err(match kind {
                Kind::Baseline => Error::invalid("heads", format!("a multiple of kv_heads ({kv_heads})"), heads),
                Kind::DiffV2 | Kind::DiffV1 => Error::head_groups(heads, kv_heads),
            });
        }
        if !(rope_theta.is_finite() && rope_theta > 0.0) {
            return Err(Error::invalid("rope_theta", "a number above 0", rope_theta));
        }
        if lambda_bias && kind != Kind::DiffV2 {
            return Err(Error::invalid("lambda_bias", format!("false: {} projects no λ", kind.name()), lambda_bias));
        }
        Ok(())
    }

    /// Query heads: a pair for each output head, but in the baseline.
    pub const fn query_heads(&self) -> u32 {
        match self.kind {
            Kind::DiffV2 | Kind::DiffV1 => 2 * self.heads,
            Kind::Baseline => self.heads,
        }
    }

    /// Key heads: a pair for each value head in V1.
    pub const fn key_heads(&self) -> u32 {
        match self.kind {
            Kind::DiffV2 | Kind::Baseline => self.kv_heads,
            Kind::DiffV1 => 2 * self.kv_heads,
        }
    }

    /// Elements of a value, and of an output head.
    pub const fn value_dim(&self) -> u32 {
        match self.kind {
            Kind::DiffV2 | Kind::Baseline => self.head_dim,
            Kind::DiffV1 => 2 * self.head_dim,
        }
    }

    /// Elements of q for one token.
    pub const fn q_width(&self) -> u32 {
        self.query_heads() * self.head_dim
    }

    /// Elements of k for one token.
    pub const fn k_width(&self) -> u32 {
        self.key_heads() * self.head_dim
    }

    /// Elements of v for one token.
    pub const fn v_width(&self) -> u32 {
        self.kv_heads * self.value_dim()
    }

    /// Elements of the attention's output for one token: the input of the output projection.
    pub const fn o_width(&self) -> u32 {
        self.heads * self.value_dim()
    }

    /// The attention inside the module, over `batch` sequences of `seq_len` tokens: the pair operation in V2, an ordinary
    /// causal attention of `heads` heads in the baseline, and two of those in V1, one for each member.
    pub fn attention(&self, batch: u32, seq_len: u32, dtype: DType) -> Problem {
        let Config { heads, kv_heads, head_dim, .. } = *self;
        let value_dim = self.value_dim();
        let shape = Shape { batch, q_len: seq_len, kv_len: seq_len, heads, kv_heads, head_dim, value_dim };
        Problem::new(shape, dtype, Options { causal: true, ..Options::default() })
    }

    /// V1's λ_init: 0.8 − 0.6·e^(−0.3·layer_index).
    pub fn lambda_init(&self) -> f64 {
        0.8 - 0.6 * (-0.3 * f64::from(self.layer_index)).exp()
    }

    /// Name of the output projection: `o_proj.weight`, but `out_proj.weight` in V1.
    pub const fn output_name(&self) -> &'static str {
        match self.kind {
            Kind::DiffV2 | Kind::Baseline => "o_proj.weight",
            Kind::DiffV1 => "out_proj.weight",
        }
    }

    /// The parameters: the four projections first, and what else the kind has after them.
    pub fn parameters(&self) -> Vec<Parameter> {
        let Config { d_model, heads, head_dim, .. } = *self;
        let mut parameters = vec![
            ("q_proj.weight", vec![self.q_width(), d_model]),
            ("k_proj.weight", vec![self.k_width(), d_model]),
            ("v_proj.weight", vec![self.v_width(), d_model]),
            (self.output_name(), vec![d_model, self.o_width()]),
        ];
        match self.kind {
            Kind::Baseline => {}
            Kind::DiffV2 => {
                parameters.push(("lambda_proj.weight", vec![heads, d_model]));
                if self.lambda_bias {
                    parameters.push(("lambda_proj.bias", vec![heads]));
                }
            }
            Kind::DiffV1 => {
                let vectors = ["lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"];
                parameters.extend(vectors.map(|name| (name, vec![head_dim])));
                parameters.push(("subln.weight", vec![self.value_dim()]));
            }
        }
        parameters.into_iter().map(|(name, shape)| Parameter { name, shape }).collect()
    }
}

/// Kind and sizes, as in `diff_v2, d_model 64, heads 4, kv_heads 2, head_dim 16`.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { kind, d_model, heads, kv_heads, head_dim, layer_index, .. } = *self;
        write!(f, "{}, d_model {d_model}, heads {heads}, kv_heads {kv_heads}, head_dim {head_dim}", kind.name())?;
        if kind == Kind::DiffV1 { write!(f, ", layer {layer_index}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Kind};
    use crate::Error;

    #[test]
    fn sizes_out_of_range_are_refused() {
        let right = Config::new(Kind::DiffV2, 64, 4, 2, 16);
        assert_eq!(right.validate(), Ok(()));
        let refused = |change: &dyn Fn(&mut Config), wanted: &str| {
            let mut config = right;
            change(&mut config);
            match config.validate() {
                Err(Error::Invalid { name, .. }) => assert_eq!(name, wanted),
                other => panic!("{other:?} for {config:?}"),
            }
        };
        refused(&|config| config.d_model = 0, "d_model");
        refused(&|config| config.d_model = 65, "d_model");
        refused(&|config| config.heads = 0, "heads");
        refused(&|config| config.kv_heads = u32::MAX, "kv_heads");
        refused(&|config| config.head_dim = 264, "head_dim");
        refused(&|config| (config.kind, config.head_dim) = (Kind::DiffV1, 136), "head_dim");
        refused(&|config| config.rope_theta = f32::NAN, "rope_theta");
        refused(&|config| (config.kind, config.lambda_bias) = (Kind::Baseline, true), "lambda_bias");
        refused(&|config| (config.kind, config.heads) = (Kind::Baseline, 3), "heads");
        let crossing = Config { heads: 3, ..right };
        assert_eq!(crossing.validate(), Err(Error::HeadGroups { heads: 3, kv_heads: 2, lower: 2, upper: 4 }));
    }
}
