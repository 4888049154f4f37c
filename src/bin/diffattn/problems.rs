//! What `diffattn check` computes.

use diffattn::{DType, DecodeProblem, KvConfig, KvDType, Options, Pages, Problem, Shape};

/// Small problems that take every branch: masks, tails, rows without keys, few queries, all storage types.
pub fn problems() -> Vec<Problem> {
    let shape = Shape { batch: 2, q_len: 65, kv_len: 65, heads: 4, kv_heads: 2, head_dim: 64, value_dim: 64 };
    let one = Shape { batch: 1, ..shape };
    let with = |causal, window, softcap| {
        let mut options = Options::default();
        (options.causal, options.window, options.softcap) = (causal, window, softcap);
        // Gradients take another way where a₂ is not kept.
        (options.lse, options.a2) = (true, softcap.is_none());
        options
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
