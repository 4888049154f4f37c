//! Tests that need no adapter.

mod claims;
mod controls;
mod differences;
mod engine;
mod golden;
mod honest;
mod layer;
mod problem;
mod properties;
mod shaders;
#[path = "../support/mod.rs"]
mod support;

use diffattn::{DType, Options, Problem, Shape};

/// A problem of batch 1 unless changed, value_dim = head_dim.
fn problem(dtype: DType, [q_len, kv_len, heads, kv_heads, head_dim]: [u32; 5], options: Options) -> Problem {
    let shape = Shape { batch: 1, q_len, kv_len, heads, kv_heads, head_dim, value_dim: head_dim };
    Problem::new(shape, dtype, options)
}

/// Options with every output, changed by `set`.
fn options(set: impl FnOnce(&mut Options)) -> Options {
    let mut options = Options::default();
    (options.lse, options.a2) = (true, true);
    set(&mut options);
    options
}
