//! Tensors in host memory, as the CPU engine, the reference and the convenience calls take and give them.

use crate::error::{Error, Result};
use crate::problem::{DType, Problem, Shape};

/// Inputs in host memory: contiguous, batch-sequence-head order (tokens-head when packed), widened to f32.
///
/// Shapes are those of [`Shape`]. Values are to be finite; engines round them to the problem's storage type, to nearest.
/// The [`reference`](mod@crate::reference) takes them as they are given: a judge should see what the engine sees.
#[derive(Debug, Clone, Copy)]
pub struct HostInputs<'a> {
    /// batch × q_len × 2·heads × head_dim.
    pub q: &'a [f32],
    /// batch × kv_len × kv_heads × head_dim.
    pub k: &'a [f32],
    /// batch × kv_len × kv_heads × value_dim.
    pub v: &'a [f32],
    /// batch × q_len × heads, before the sigmoid.
    pub lam: &'a [f32],
}

/// Outputs in host memory, in the same order, widened to f32.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostOutputs {
    /// batch × q_len × heads × value_dim.
    pub out: Vec<f32>,
    /// batch × 2·heads × q_len (2·heads × total_q when packed); natural logarithm. With [`crate::Options::lse`].
    pub lse: Option<Vec<f32>>,
    /// The subtracted member, shaped as `out`. With [`crate::Options::a2`].
    pub a2: Option<Vec<f32>>,
}

/// What the backward pass is given beside the forward's inputs; shapes and order as in [`HostOutputs`].
#[derive(Debug, Clone, Copy)]
pub struct HostGradInputs<'a> {
    /// Gradient of the loss by `out`: batch × q_len × heads × value_dim.
    pub dout: &'a [f32],
    /// Gradient of the loss by `lse`, when the loss reads it: batch × 2·heads × q_len.
    pub dlse: Option<&'a [f32]>,
}

/// Gradients in host memory, shaped and ordered as their inputs, widened to f32.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostGradients {
    /// batch × q_len × 2·heads × head_dim.
    pub dq: Vec<f32>,
    /// batch × kv_len × kv_heads × head_dim.
    pub dk: Vec<f32>,
    /// batch × kv_len × kv_heads × value_dim.
    pub dv: Vec<f32>,
    /// batch × q_len × heads, by the logit λ (before the sigmoid).
    pub dlam: Vec<f32>,
}

/// Number of elements of each tensor of a problem, counted without overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Elements of q.
    pub q: u64,
    /// Elements of k.
    pub k: u64,
    /// Elements of v.
    pub v: u64,
    /// Elements of λ.
    pub lam: u64,
    /// Elements of out and of a₂.
    pub out: u64,
    /// Elements of lse.
    pub lse: u64,
}

impl Sizes {
    /// The sizes of a problem's tensors.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a tensor would have 2⁴⁸ elements or more.
    pub fn of(problem: &Problem) -> Result<Self> {
        let Shape { heads, kv_heads, head_dim, value_dim, .. } = problem.shape;
        let (batch, q_len, kv_len) = problem.extents();
        let count = |factors: [u32; 5]| {
            let product = factors.iter().fold(1u128, |product, &factor| product.saturating_mul(u128::from(factor)));
            u64::try_from(product).ok().filter(|count| *count < 1 << 48).ok_or_else(|| {
                let product = factors.map(|factor| factor.to_string()).join(" × ");
                Error::invalid("shape", "small enough for tensors below 2⁴⁸ elements", product)
            })
        };
        Ok(Sizes {
            q: count([batch, q_len, 2, heads, head_dim])?,
            k: count([batch, kv_len, kv_heads, head_dim, 1])?,
            v: count([batch, kv_len, kv_heads, value_dim, 1])?,
            lam: count([batch, q_len, heads, 1, 1])?,
            out: count([batch, q_len, heads, value_dim, 1])?,
            lse: count([batch, q_len, 2, heads, 1])?,
        })
    }
}

impl HostInputs<'_> {
    /// Checks the problem and the length of every slice against it.
    ///
    /// # Errors
    /// Those of [`Problem::validate`], and [`Error::Shape`] for a slice of the wrong length.
    pub fn validate(&self, problem: &Problem) -> Result<Sizes> {
        problem.validate()?;
        let sizes = Sizes::of(problem)?;
        self.check(problem, &sizes)?;
        Ok(sizes)
    }

    /// Checks the length of every slice.
    pub(crate) fn check(&self, problem: &Problem, sizes: &Sizes) -> Result<()> {
        let slices =
            [("q", self.q, sizes.q), ("k", self.k, sizes.k), ("v", self.v, sizes.v), ("lam", self.lam, sizes.lam)];
        for (tensor, slice, expected) in slices {
            if slice.len() as u64 != expected {
                return Err(Error::Shape {
                    tensor,
                    expected: format!("{expected} elements for {:?}", problem.shape),
                    actual: format!("{} elements", slice.len()),
                });
            }
        }
        Ok(())
    }
}

impl HostGradInputs<'_> {
    /// Checks the length of every slice against the problem, which has been validated.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slice of the wrong length.
    pub(crate) fn validate(&self, problem: &Problem) -> Result<()> {
        let sizes = Sizes::of(problem)?;
        for (tensor, slice, expected) in [("dout", Some(self.dout), sizes.out), ("dlse", self.dlse, sizes.lse)] {
            if let Some(slice) = slice.filter(|slice| slice.len() as u64 != expected) {
                let expected = format!("{expected} elements for {:?}", problem.shape);
                return Err(Error::Shape { tensor, expected, actual: format!("{} elements", slice.len()) });
            }
        }
        Ok(())
    }
}

impl DType {
    /// `values` rounded to this type, as the bytes of a buffer.
    pub fn encode(self, values: &[f32]) -> Vec<u8> {
        fn bytes<T: bytemuck::NoUninit>(values: &[f32], round: fn(f32) -> T) -> Vec<u8> {
            bytemuck::cast_slice(&values.iter().map(|&value| round(value)).collect::<Vec<T>>()).to_vec()
        }
        match self {
            DType::F32 => bytemuck::cast_slice(values).to_vec(),
            DType::F16 => bytes(values, half::f16::from_f32),
            DType::Bf16 => bytes(values, half::bf16::from_f32),
        }
    }

    /// The bytes of a buffer, widened to f32. A rest shorter than one element is left out.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            DType::F32 => bytes.as_chunks().0.iter().map(|&four| f32::from_le_bytes(four)).collect(),
            DType::F16 => bytes.as_chunks().0.iter().map(|&two| half::f16::from_le_bytes(two).to_f32()).collect(),
            DType::Bf16 => bytes.as_chunks().0.iter().map(|&two| half::bf16::from_le_bytes(two).to_f32()).collect(),
        }
    }
}
