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

/// Σ aᵢ·bᵢ.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let ((a_chunks, a_tail), (b_chunks, b_tail)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    let mut lanes = [0.0; LANES];
    for (a, b) in a_chunks.iter().zip(b_chunks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_tail).zip(b_tail) {
        *lane += a * b;
    }
    lanes.iter().sum()
}

/// One member's terms for consecutive rows: see `backward::Terms`.
#[derive(Clone, Copy)]
pub(super) struct Member<'a> {
    pub(super) lse: &'a [f32],
    pub(super) delta: &'a [f32],
}

/// P, and the derivative of the capped score by the score.
#[inline(always)]
fn weight(x: f32, lse: f32, cap: Option<f32>, fused: bool) -> (f32, f32) {
    match cap {
        None => (exp::exp2(x - lse, fused), 1.0),
        Some(cap) => {
            let tanh = exp::tanh(x, fused);
            (exp::exp2(cap * tanh - lse, fused), 1.0 - tanh * tanh)
        }
    }
}

/// For one key and consecutive rows of a single member: scores become their gradients, dP becomes P.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn gradients((scores, member): (&mut [f32], Member), dp: &mut [f32], cap: Option<f32>) {
    let fused = target_cfg_f!(any(target_feature = "fma", target_feature = "avx512f", target_arch = "aarch64"));
    for (((x, lse), delta), dp) in scores.iter_mut().zip(member.lse).zip(member.delta).zip(dp) {
        let (p, slope) = weight(*x, *lse, cap, fused);
        *x = p * slope * (*dp - delta);
        *dp = p;
    }
}

/// For one key and consecutive rows of both members: scores become their gradients, dP becomes P₁ − gate·P₂.
#[multiversion(targets("x86_64+avx512f", "x86_64+avx2+fma"))]
pub(super) fn pair_gradients(
    (scores1, member1): (&mut [f32], Member),
    (scores2, member2): (&mut [f32], Member),
    dp: &mut [f32],
    gate: &[f32],
    cap: Option<f32>,
) {
    let fused = target_cfg_f!(any(target_feature = "fma", target_feature = "avx512f", target_arch = "aarch64"));
    let rows1 = scores1.iter_mut().zip(member1.lse).zip(member1.delta);
    let rows2 = scores2.iter_mut().zip(member2.lse).zip(member2.delta);
    for (((((x1, lse1), delta1), ((x2, lse2), delta2)), dp), gate) in rows1.zip(rows2).zip(dp).zip(gate) {
        let ((p1, slope1), (p2, slope2)) = (weight(*x1, *lse1, cap, fused), weight(*x2, *lse2, cap, fused));
        *x1 = p1 * slope1 * (*dp - delta1);
        *x2 = p2 * slope2 * (-gate * *dp - delta2);
        *dp = p1 - gate * p2;
    }
}
