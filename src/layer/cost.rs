//! What a module costs: parameters, arithmetic, and the bytes of its keys and values.

use super::config::{Config, Kind};

impl Config {
    /// Number of parameters.
    pub fn parameter_count(&self) -> u64 {
        self.parameters().iter().map(|parameter| parameter.len() as u64).sum()
    }

    /// Floating-point operations of the projections for one token of one forward pass: 2 for each element of a weight
    /// matrix (rotary embedding, norm and gate are left out).
    pub fn projection_flops(&self) -> f64 {
        let matrices = self.parameters().into_iter().filter(|parameter| parameter.shape.len() == 2);
        matrices.map(|matrix| 2.0 * matrix.len() as f64).sum()
    }

    /// Floating-point operations of the two products of attention for one query and one key that it sees:
    /// 2·(head_dim + value_dim) for each query head.
    pub fn attention_flops(&self) -> f64 {
        2.0 * f64::from(self.query_heads()) * f64::from(self.head_dim + self.value_dim())
    }

    /// Floating-point operations of one causal forward pass over `batch` sequences of `seq_len` tokens.
    pub fn flops(&self, batch: u32, seq_len: u32) -> f64 {
        let (batch, tokens) = (f64::from(batch), f64::from(seq_len));
        batch * (tokens * self.projection_flops() + tokens * (tokens + 1.0) / 2.0 * self.attention_flops())
    }

    /// Elements of keys and values that a cache holds for each token.
    pub fn cache_elements(&self) -> u64 {
        u64::from(self.k_width()) + u64::from(self.v_width())
    }

    /// Elements of keys and values that decoding one token reads for each token in the cache.
    ///
    /// V2 reads what the cache holds once, since the members of a pair share it. V1 is two attentions with keys of
    /// their own over the same values, and reads the values for each.
    pub fn decode_elements(&self) -> u64 {
        let sweeps = if self.kind == Kind::DiffV1 { 2 } else { 1 };
        u64::from(self.k_width()) + sweeps * u64::from(self.v_width())
    }
}

#[cfg(test)]
mod tests {
    use super::{Config, Kind};

    /// With D = heads·head_dim = d_model, as the DIFF V2 text counts them.
    #[test]
    fn counts_are_those_of_the_formulas() {
        let (heads, kv_heads, head_dim) = (32, 8, 128);
        let d = u64::from(heads * head_dim);
        let config = |kind, heads, kv_heads| Config::new(kind, heads * head_dim, heads, kv_heads, head_dim);
        let baseline = config(Kind::Baseline, heads, kv_heads);
        assert_eq!(baseline.parameter_count(), 2 * d * d + 2 * d * d * 8 / 32);
        let v2 = config(Kind::DiffV2, heads, kv_heads);
        assert_eq!(v2.parameter_count(), baseline.parameter_count() + d * d + d * 32);
        // Half the heads, of twice the width: the same matrices, four vectors and the norm's weight.
        let v1 = Config { d_model: heads * head_dim, ..config(Kind::DiffV1, heads / 2, kv_heads / 2) };
        assert_eq!(v1.parameter_count(), baseline.parameter_count() + 4 * 128 + 256);
        assert_eq!(v2.cache_elements(), baseline.cache_elements());
        assert_eq!(v1.cache_elements(), baseline.cache_elements());
        assert_eq!(v2.decode_elements(), baseline.decode_elements());
        assert_eq!(2 * v1.decode_elements(), 3 * baseline.decode_elements());
    }
}
