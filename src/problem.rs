//! What to compute: sizes, mask, storage type, sequences. Pure data and its validation; knows nothing of a GPU.

use crate::error::{Error, Result};

/// Storage type of q, k, v, out and a₂. λ and LSE are always f32, and every kernel accumulates in f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16. Needs no `SHADER_F16`: without it, values are converted with integer operations.
    F16,
    /// bfloat16, the upper half of an f32. On matrix units it is multiplied as f16: see [`Path::Matrix`](crate::Path::Matrix).
    Bf16,
}

impl DType {
    /// All storage types.
    pub const ALL: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        match self {
            DType::F32 => 4,
            DType::F16 | DType::Bf16 => 2,
        }
    }

    /// The name used in labels, flags and records: `f32`, `f16`, `bf16`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
        }
    }

    /// Distance from 1 to the next larger value.
    pub const fn epsilon(self) -> f64 {
        match self {
            DType::F32 => f32::EPSILON as f64,
            DType::F16 => 1.0 / 1024.0,
            DType::Bf16 => 1.0 / 128.0,
        }
    }

    /// `value` rounded to this type (nearest, ties to even) and widened again.
    pub fn round(self, value: f32) -> f32 {
        match self {
            DType::F32 => value,
            DType::F16 => half::f16::from_f32(value).to_f32(),
            DType::Bf16 => half::bf16::from_f32(value).to_f32(),
        }
    }
}

/// The sizes of one DIFF V2 attention.
///
/// | tensor | shape |
/// |---|---|
/// | q | batch × q_len × **2·heads** × head_dim; query heads 2j and 2j+1 are pair j |
/// | k | batch × kv_len × kv_heads × head_dim |
/// | v | batch × kv_len × kv_heads × value_dim |
/// | λ (`lam`) | batch × q_len × heads, before the sigmoid |
/// | out, a₂ | batch × q_len × heads × value_dim |
/// | lse | batch × 2·heads × q_len |
///
/// Pair j reads KV head j / (heads / kv_heads).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Sequences.
    pub batch: u32,
    /// Queries of each sequence (the longest one, when packed).
    pub q_len: u32,
    /// Keys of each sequence (the longest one, when packed).
    pub kv_len: u32,
    /// Output heads; there are `2 * heads` query heads.
    pub heads: u32,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u32,
    /// Elements of a query and of a key: a multiple of 8 from 8 to 256.
    pub head_dim: u32,
    /// Elements of a value and of an output: a multiple of 8 from 8 to 256.
    pub value_dim: u32,
}

impl Shape {
    /// Output heads that share one KV head.
    pub const fn group(&self) -> u32 {
        self.heads / self.kv_heads
    }
}

/// How to compute it. Names and meanings are those of FlashAttention (`flash_attn_func`).
///
/// ```
/// let mut options = diffattn::Options::default();
/// options.causal = true;
/// options.window = (Some(128), None);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[non_exhaustive]
pub struct Options {
    /// Factor of q·k before the softmax; `None` is 1/√head_dim. (`softmax_scale`)
    pub scale: Option<f32>,
    /// Query i sees keys up to i + kv_len − q_len: the mask is aligned to the bottom **right** corner.
    pub causal: bool,
    /// Keys seen to the left and to the right of i + kv_len − q_len, inclusive; `None` is open. (`window_size`)
    /// With `causal` nothing is seen to the right.
    pub window: (Option<u32>, Option<u32>),
    /// `Some(t)`: scores become t·tanh(score / t), t > 0.
    pub softcap: Option<f32>,
    /// Also write the log-sum-exp of every query head's scores, natural logarithm; −∞ where no key is seen.
    pub lse: bool,
    /// Also write a₂ = softmax(q₂ⱼ₊₁Kᵀ)V, the subtracted member, which the backward pass reads. A forward that saves
    /// memory leaves it out; the backward then recomputes what it needs of it in one more sweep over the keys.
    pub a2: bool,
}

/// Which keys a query sees: [`Options::causal`] and [`Options::window`] brought to one form.
///
/// Query i stands at p = i + kv_len − q_len and sees key j where p − left ≤ j ≤ p + right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mask {
    /// Every key.
    None,
    /// j ≤ p.
    Causal,
    /// p − left ≤ j ≤ p + right; `None` is open.
    Window {
        /// Keys seen before p.
        left: Option<u32>,
        /// Keys seen after p.
        right: Option<u32>,
    },
}

impl Mask {
    /// The name used in labels and records.
    pub const fn name(self) -> &'static str {
        match self {
            Mask::None => "full",
            Mask::Causal => "causal",
            Mask::Window { .. } => "window",
        }
    }

    /// Keys `[first, end)` that the query at position `p` = i + kv_len − q_len sees, out of `kv_len`.
    pub fn keys(self, p: i64, kv_len: u32) -> std::ops::Range<u32> {
        let (left, right) = match self {
            Mask::None => (None, None),
            Mask::Causal => (None, Some(0)),
            Mask::Window { left, right } => (left, right),
        };
        let kv_len = i64::from(kv_len);
        let first = left.map_or(0, |left| (p - i64::from(left)).clamp(0, kv_len));
        let end = right.map_or(kv_len, |right| (p + i64::from(right) + 1).clamp(first, kv_len));
        first as u32..end as u32
    }
}

impl Options {
    /// The mask that `causal` and `window` describe together.
    pub fn mask(&self) -> Mask {
        let (left, right) = self.window;
        match (left, if self.causal { Some(0) } else { right }) {
            (None, None) => Mask::None,
            (None, Some(0)) => Mask::Causal,
            (left, right) => Mask::Window { left, right },
        }
    }
}

/// One sequence of a batch, as ranges of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// First query token, counted along the sequence axis of q (0 unless packed).
    pub q_start: u32,
    /// Queries.
    pub q_len: u32,
    /// First key token, counted along the sequence axis of k (0 unless packed).
    pub kv_start: u32,
    /// Keys.
    pub kv_len: u32,
}

/// Sequences of different lengths packed one after another, without padding (FlashAttention's varlen form).
///
/// q is then total_q × 2·heads × head_dim, k and v total_k × kv_heads × dim, λ total_q × heads, out total_q × heads ×
/// value_dim, lse 2·heads × total_q. Both lists have batch + 1 entries, start with 0 and never fall.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Packed {
    /// Sequence b has queries `cu_seqlens_q[b]..cu_seqlens_q[b + 1]`.
    pub cu_seqlens_q: Vec<u32>,
    /// Sequence b has keys `cu_seqlens_k[b]..cu_seqlens_k[b + 1]`.
    pub cu_seqlens_k: Vec<u32>,
}

impl Packed {
    /// Number of sequences, and the longest one's queries and keys.
    fn lengths(&self) -> Result<[u32; 3]> {
        let longest = |name, list: &[u32]| {
            if list.len() < 2 || list[0] != 0 || !list.is_sorted() {
                let rule = "0 followed by one never-falling end per sequence";
                return Err(Error::invalid(name, rule, format!("{list:?}")));
            }
            Ok(list.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0))
        };
        let q_len = longest("cu_seqlens_q", &self.cu_seqlens_q)?;
        let kv_len = longest("cu_seqlens_k", &self.cu_seqlens_k)?;
        if self.cu_seqlens_q.len() != self.cu_seqlens_k.len() {
            let expected = format!("as long as cu_seqlens_q ({} entries)", self.cu_seqlens_q.len());
            return Err(Error::invalid("cu_seqlens_k", expected, format!("{} entries", self.cu_seqlens_k.len())));
        }
        let batch = u32::try_from(self.cu_seqlens_q.len() - 1)
            .map_err(|_| Error::invalid("cu_seqlens_q", "shorter than 2³² entries", "longer"))?;
        Ok([batch, q_len, kv_len])
    }
}

/// One DIFF V2 attention: out = softmax(q₂ⱼKᵀ·scale)V − sigmoid(λ)·softmax(q₂ⱼ₊₁Kᵀ·scale)V for every output head j.
///
/// Source: "Differential Transformer V2" (Microsoft, January 2026) and its `multihead_flashdiffv2.py`.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// Sizes.
    pub shape: Shape,
    /// Storage type of q, k, v, out and a₂.
    pub dtype: DType,
    /// Mask, scale, softcap and which outputs to write.
    pub options: Options,
    /// Packed sequences of different lengths; set by [`Problem::packed`].
    pub packed: Option<Packed>,
}

impl Problem {
    /// A batch of equally long sequences.
    pub fn new(shape: Shape, dtype: DType, options: Options) -> Self {
        Problem { shape, dtype, options, packed: None }
    }

    /// A packed batch: batch, q_len and kv_len of `shape` are replaced by what the lists say.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a list is empty, does not start with 0, falls, or their lengths differ.
    pub fn packed(shape: Shape, dtype: DType, options: Options, packed: Packed) -> Result<Self> {
        let [batch, q_len, kv_len] = packed.lengths()?;
        Ok(Problem { shape: Shape { batch, q_len, kv_len, ..shape }, dtype, options, packed: Some(packed) })
    }

    /// Checks every size and parameter.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a size or parameter out of range, [`Error::HeadGroups`] for a pair that would cross KV
    /// groups.
    pub fn validate(&self) -> Result<()> {
        let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = self.shape;
        // Positions and lengths are i32 in the shaders, with room for a window on either side.
        let counts = [("batch", batch), ("q_len", q_len), ("kv_len", kv_len), ("heads", heads), ("kv_heads", kv_heads)];
        for (name, value) in counts {
            // A packed batch may consist of empty sequences; nothing else may be empty.
            let least = u32::from(!(self.packed.is_some() && matches!(name, "q_len" | "kv_len")));
            if value < least || value > MAX_LEN {
                return Err(Error::invalid(name, format!("from {least} to {MAX_LEN}"), value));
            }
        }
        for (name, value) in [("head_dim", head_dim), ("value_dim", value_dim)] {
            if value == 0 || value % 8 != 0 || value > 256 {
                return Err(Error::invalid(name, "a multiple of 8 from 8 to 256", value));
            }
        }
        if heads % kv_heads != 0 {
            return Err(Error::head_groups(heads, kv_heads));
        }
        if let Some(packed) = &self.packed {
            let lengths = packed.lengths()?;
            if lengths != [batch, q_len, kv_len] {
                let expected = format!("what cu_seqlens say ([batch, q_len, kv_len] = {lengths:?})");
                return Err(Error::invalid("shape", expected, format!("{:?}", [batch, q_len, kv_len])));
            }
        }
        let Options { scale, window, softcap, .. } = self.options;
        if let Some(scale) = scale.filter(|scale| !(-1e30..=1e30).contains(scale)) {
            return Err(Error::invalid("scale", "a number from -1e30 to 1e30", scale));
        }
        if let Some(softcap) = softcap.filter(|softcap| !(1e-6..=1e30).contains(softcap)) {
            return Err(Error::invalid("softcap", "a number from 1e-6 to 1e30 (leave it out for none)", softcap));
        }
        for (name, side) in [("window.0 (left)", window.0), ("window.1 (right)", window.1)] {
            if let Some(side) = side.filter(|side| *side > MAX_LEN) {
                return Err(Error::invalid(name, format!("at most {MAX_LEN} (leave it out for an open side)"), side));
            }
        }
        Ok(())
    }

    /// The scale in force: the given one, or 1/√head_dim.
    pub fn scale(&self) -> f32 {
        self.options.scale.unwrap_or_else(|| 1.0 / (self.shape.head_dim as f32).sqrt())
    }

    /// Sequence `b` of the batch.
    pub fn sequence(&self, b: u32) -> Sequence {
        let Shape { q_len, kv_len, .. } = self.shape;
        match &self.packed {
            None => Sequence { q_start: 0, q_len, kv_start: 0, kv_len },
            Some(Packed { cu_seqlens_q, cu_seqlens_k }) => {
                let b = b as usize;
                Sequence {
                    q_start: cu_seqlens_q[b],
                    q_len: cu_seqlens_q[b + 1] - cu_seqlens_q[b],
                    kv_start: cu_seqlens_k[b],
                    kv_len: cu_seqlens_k[b + 1] - cu_seqlens_k[b],
                }
            }
        }
    }

    /// Extent of the batch axis of the tensors and tokens along their sequence axis for queries and for keys:
    /// (batch, q_len, kv_len), or (1, total_q, total_k) when packed.
    pub fn extents(&self) -> (u32, u32, u32) {
        let Shape { batch, q_len, kv_len, .. } = self.shape;
        let last = |list: &[u32]| list.last().copied().unwrap_or(0);
        match &self.packed {
            None => (batch, q_len, kv_len),
            Some(Packed { cu_seqlens_q, cu_seqlens_k }) => (1, last(cu_seqlens_q), last(cu_seqlens_k)),
        }
    }

    /// Multiply-adds counted as two operations, over the keys that are really seen (FlashAttention's convention).
    pub fn flops(&self) -> f64 {
        let Shape { batch, heads, head_dim, value_dim, .. } = self.shape;
        let mask = self.options.mask();
        let seen: f64 = (0..batch)
            .map(|b| {
                let Sequence { q_len, kv_len, .. } = self.sequence(b);
                let offset = i64::from(kv_len) - i64::from(q_len);
                (0..q_len).map(|i| mask.keys(i64::from(i) + offset, kv_len).len() as f64).sum::<f64>()
            })
            .sum();
        4.0 * f64::from(heads) * f64::from(head_dim + value_dim) * seen
    }
}

/// Longest sequence, largest head count and widest window: positions are i32 in the shaders.
const MAX_LEN: u32 = 1 << 28;
