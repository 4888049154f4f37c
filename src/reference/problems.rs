//! What a machine is checked with.

use crate::problem::{DType, Options, Problem, Shape};

/// Small problems that take every branch: masks, tails, rows without keys, few queries, wide and odd heads, each in all
/// storage types. `diffattn check` and the page run them.
pub fn problems() -> Vec<Problem> {
    let shape = Shape { batch: 2, q_len: 65, kv_len: 65, heads: 4, kv_heads: 2, head_dim: 64, value_dim: 64 };
    let one = Shape { batch: 1, ..shape };
    // Gradients take another way where a₂ is not kept.
    let with = |causal, window, softcap: Option<f32>| Options {
        causal,
        window,
        softcap,
        lse: true,
        a2: softcap.is_none(),
        ..Options::default()
    };
    let full = with(false, (None, None), None);
    let causal = with(true, (None, None), None);
    let cases = [
        (shape, full),
        (shape, causal),
        (Shape { q_len: 96, kv_len: 131, ..one }, with(false, (Some(31), Some(7)), None)),
        (Shape { q_len: 1, kv_len: 515, heads: 8, head_dim: 128, value_dim: 128, ..shape }, causal),
        (Shape { q_len: 40, kv_len: 24, head_dim: 32, value_dim: 32, ..one }, causal),
        (Shape { q_len: 19, kv_len: 77, heads: 3, kv_heads: 1, head_dim: 80, value_dim: 40, ..one }, full),
        (Shape { q_len: 34, kv_len: 34, kv_heads: 1, head_dim: 256, value_dim: 256, ..one }, causal),
        (one, with(true, (None, None), Some(15.0))),
    ];
    let types = DType::ALL.into_iter();
    types.flat_map(|dtype| cases.map(|(shape, options)| Problem::new(shape, dtype, options))).collect()
}
