//! The elementwise loops over one row of scores, compiled once for every vector width worth having.
//!
//! Arrays of lanes let the compiler keep a maximum or a sum in vector registers without changing the order of additions
//! behind our back; a fixed order also gives the same bits on every run.

use super::exp;
use multiversion::{multiversion, target::target_cfg_f};

const LANES: usize = 32;

/// Largest element; −∞ for an empty row. NaN is passed over here and comes back from [`exp2_sum`].
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn max(row: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let (chunks, tail) = row.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane = larger(*lane, x);
        }
    }
    lanes.iter().chain(tail).copied().fold(f32::NEG_INFINITY, larger)
}

/// Replaces every x by 2^(x − `max`) and returns their sum.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn exp2_sum(row: &mut [f32], max: f32) -> f32 {
    let fused = target_cfg_f!(any(target_feature = "fma", target_feature = "avx512f", target_arch = "aarch64"));
    let (chunks, tail) = row.as_chunks_mut::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *x = exp::exp2(*x - max, fused);
            *lane += *x;
        }
    }
    for (lane, x) in lanes.iter_mut().zip(tail) {
        *x = exp::exp2(*x - max, fused);
        *lane += *x;
    }
    lanes.iter().sum()
}

/// Replaces every x by `cap` · tanh(x).
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn softcap(row: &mut [f32], cap: f32) {
    let fused = target_cfg_f!(any(target_feature = "fma", target_feature = "avx512f", target_arch = "aarch64"));
    for x in row {
        *x = cap * exp::tanh(*x, fused);
    }
}
