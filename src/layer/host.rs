//! Activations in host memory, as the CPU engine, the reference and the convenience calls take and give them.

use super::{Config, Weights};
use crate::error::{Error, Result};

/// The tokens that go into a module.
#[derive(Debug, Clone, Copy)]
pub struct HostTokens<'a> {
    /// Sequences, all of the same length.
    pub batch: u32,
    /// Tokens of each sequence; the first stands at position 0.
    pub seq_len: u32,
    /// batch × seq_len × d_model, widened to f32. Values are to be finite.
    pub x: &'a [f32],
}

/// Gradients of a module, widened to f32.
#[derive(Debug, Clone, PartialEq)]
pub struct HostGradients {
    /// batch × seq_len × d_model.
    pub dx: Vec<f32>,
    /// One for each parameter, of the same name and shape.
    pub weights: Weights,
}

/// Longest sequence and largest batch, as for the operation.
const MAX_LEN: u32 = 1 << 28;

impl HostTokens<'_> {
    /// Number of tokens of all sequences together.
    pub fn count(&self) -> usize {
        self.batch as usize * self.seq_len as usize
    }

    /// Checks the sizes and the length of x.
    ///
    /// # Errors
    /// Those of [`Config::validate`], [`Error::Invalid`] for an empty batch or sequence, and [`Error::Shape`] for an x
    /// of the wrong length.
    pub fn validate(&self, config: &Config) -> Result<()> {
        config.validate()?;
        for (name, value) in [("batch", self.batch), ("seq_len", self.seq_len)] {
            if value == 0 || value > MAX_LEN {
                return Err(Error::invalid(name, format!("from 1 to {MAX_LEN}"), value));
            }
        }
        self.check("x", self.x, config)
    }

    /// Checks the length of a tensor shaped as x.
    ///
    /// # Errors
    /// [`Error::Shape`].
    pub(crate) fn check(&self, tensor: &'static str, values: &[f32], config: &Config) -> Result<()> {
        let (batch, seq_len, d_model) = (self.batch, self.seq_len, config.d_model);
        let expected = u128::from(batch) * u128::from(seq_len) * u128::from(d_model);
        if values.len() as u128 == expected {
            return Ok(());
        }
        let expected = format!("batch {batch} × seq_len {seq_len} × d_model {d_model} = {expected} elements");
        Err(Error::Shape { tensor, expected, actual: format!("{} elements", values.len()) })
    }
}
