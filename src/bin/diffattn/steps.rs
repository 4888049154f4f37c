//! The decode steps that `diffattn check` computes, beside the problems of the reference.

use diffattn::{DType, DecodeProblem, KvConfig, KvDType, Options, Pages};

/// Decode steps for every storage type of q and of the cache, contiguous and paged: one pair for each KV head, several,
/// and more than few rows; short and long caches, masks; these take turns.
pub fn steps() -> Vec<DecodeProblem> {
    let shapes: [(u32, u32, u32, u32, u32, u32); 3] = [
        // heads, kv_heads, q_len, capacity, head_dim, value_dim
        (4, 2, 1, 515, 64, 64),
        (2, 2, 1, 300, 128, 128),
        (6, 1, 3, 77, 80, 40),
    ];
    let mut steps = Vec::new();
    for dtype in DType::ALL {
        for kv_dtype in [dtype.into(), KvDType::Int8] {
            for page in [None, Some(16)] {
                let (heads, kv_heads, q_len, capacity, head_dim, value_dim) = shapes[steps.len() % shapes.len()];
                let mut options = Options::default();
                options.lse = true;
                match steps.len() % 4 {
                    0 | 1 => options.causal = true,
                    2 => options.window = (Some(40), Some(1)),
                    _ => options.softcap = Some(15.0),
                }
                let sequences = 2;
                let pages = page.map(|size: u32| Pages { size, count: sequences * capacity.div_ceil(size) });
                let cache = KvConfig { sequences, capacity, kv_heads, head_dim, value_dim, dtype: kv_dtype, pages };
                steps.push(DecodeProblem { cache, batch: sequences, q_len, heads, dtype, options });
            }
        }
    }
    steps
}
