//! How large the context is: V2's reaches below what any softmax can, and does not grow with the length.
//!
//! With V = √n times the identity, the RMS of a context vector is the root of the sum of its squared weights.

use super::{Claim, DERIVED, TEXT, claim, normals, number};
use diffattn::{DType, HostInputs, Options, Problem, Shape, cpu};
use fastrand::Rng;

/// The row of weights that one query gives its keys: the engine's output for values that are the identity, and keys
/// that make the query the logits.
pub(super) fn weights(first: &[f32], second: &[f32], lam: f32) -> Vec<f32> {
    let n = first.len();
    let mut identity = vec![0.0; n * n];
    identity.iter_mut().step_by(n + 1).for_each(|diagonal| *diagonal = 1.0);
    let size = n as u32;
    let shape = Shape { batch: 1, q_len: 1, kv_len: size, heads: 1, kv_heads: 1, head_dim: size, value_dim: size };
    let mut options = Options::default();
    options.scale = Some(1.0);
    let q = [first, second].concat();
    let inputs = HostInputs { q: &q, k: &identity, v: &identity, lam: &[lam] };
    cpu::forward(&Problem::new(shape, DType::F32, options), &inputs).expect("a valid problem").out
}

fn rms(weights: &[f32]) -> f64 {
    weights.iter().map(|&weight| f64::from(weight).powi(2)).sum::<f64>().sqrt()
}

/// All logits 0, but one.
fn peak(n: usize, at: usize) -> Vec<f32> {
    let mut logits = vec![0.0; n];
    logits[at] = 100.0;
    logits
}

const N: usize = 64;

pub(super) fn claims() -> Vec<Claim> {
    let mut claims = softmax();
    claims.extend(differential());
    claims.extend(at_initialisation());
    claims.extend([without_sigmoid(), relatives(), sink()]);
    claims
}

/// λ = −40 leaves the first member alone.
fn softmax() -> Vec<Claim> {
    let flat = vec![0.0; N];
    let alone = |logits: &[f32]| rms(&weights(logits, &flat, -40.0));
    vec![
        number("M1", "context RMS of a softmax, one-hot", alone(&peak(N, 5)), (1.0, 1e-6), TEXT),
        number("M1", "context RMS of a softmax, uniform over 64", alone(&flat), (0.125, 1e-6), TEXT),
    ]
}

fn differential() -> Vec<Claim> {
    let mut rng = Rng::with_seed(3);
    let (one, other) = (peak(N, 5), peak(N, 9));
    let (mut least, mut most) = (f64::INFINITY, 0.0);
    for _ in 0..2000 {
        let spread = 20.0 * rng.f32();
        let mut logits = || normals(&mut rng, N).into_iter().map(|x| spread * x).collect::<Vec<_>>();
        let (first, second) = (logits(), logits());
        let rms = rms(&weights(&first, &second, 20.0 * rng.f32() - 10.0));
        (least, most) = (f64::min(least, rms), f64::max(most, rms));
    }
    let root2 = std::f64::consts::SQRT_2;
    let range = format!("{least:.4} to {most:.4}");
    let holds = least < 0.125 && most < root2;
    vec![
        number(
            "M2",
            "V2, two one-hot rows, σ → 1, by √2",
            rms(&weights(&one, &other, 40.0)) / root2,
            (1.0, 1e-6),
            TEXT,
        ),
        number("M2", "V2, twice the same row, σ → 1", rms(&weights(&one, &one, 40.0)), (0.0, 1e-6), TEXT),
        claim("M2", "V2, 2000 random rows over 64 keys", (range, "below 1/√n = 0.125, and under √2"), TEXT, holds),
    ]
}

/// Independent logits of deviation s: RMS·√n = √((1 + σ²)·e^(s²) − 2σ).
fn at_initialisation() -> Vec<Claim> {
    let mut rng = Rng::with_seed(4);
    let (n, s) = (256, 0.1f64);
    let cases = [(0.0, 0.5, 0.51), (40.0, 1.0, 0.14)];
    let claims = cases.map(|(lam, gate, rounded)| {
        let mut sum = 0.0;
        for _ in 0..200 {
            let mut logits = || normals(&mut rng, n).into_iter().map(|x| s as f32 * x).collect::<Vec<_>>();
            let (first, second) = (logits(), logits());
            sum += rms(&weights(&first, &second, lam)).powi(2);
        }
        let measured = (sum / 200.0 * n as f64).sqrt();
        let formula = ((1.0 + gate * gate) * (s * s).exp() - 2.0 * gate).sqrt();
        let what = format!("RMS·√n at init, logits of deviation 0.1, σ = {gate} (formula: {formula:.3})");
        number("M3", what, measured, (rounded, 0.01), DERIVED)
    });
    claims.into()
}

fn without_sigmoid() -> Claim {
    let (one, other) = (weights(&peak(N, 5), &peak(N, 5), -40.0), weights(&peak(N, 9), &peak(N, 9), -40.0));
    let grown = [1.0, 2.0, 5.0, 10.0].map(|lambda| {
        let row: Vec<f32> = one.iter().zip(&other).map(|(one, other)| one - lambda * other).collect();
        rms(&row)
    });
    let measured = grown.map(|rms| format!("{rms:.2}")).join(", ");
    let holds = grown.is_sorted() && grown[3] > 10.0;
    let what = "a₁ − λ·a₂ without the sigmoid, λ = 1, 2, 5, 10: RMS";
    claim("M4", what, (measured, "√(1 + λ²), no bound"), TEXT, holds)
}

/// One softmax, scaled: off by one in the denominator, a sink logit there, a gate on the output.
fn relatives() -> Claim {
    let mut rng = Rng::with_seed(5);
    let (mut least, mut most) = (f64::INFINITY, 0.0);
    for _ in 0..1000 {
        let spread = 10.0 * rng.f32();
        let logits: Vec<f32> = normals(&mut rng, N).into_iter().map(|x| spread * x - 2.0).collect();
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let softmax = rms(&weights(&logits, &logits, -40.0));
        let sink = f64::from(4.0 * rng.f32()).exp();
        for factor in [sum / (1.0 + sum), sum / (sink + sum), rng.f64()] {
            (least, most) = (f64::min(least, factor * softmax), f64::max(most, factor * softmax));
        }
    }
    let measured = format!("{least:.4} to {most:.4}");
    let what = "off-by-one softmax, sink logit, gated attention: RMS of 1000 random rows each";
    claim("M5", what, (measured, "within (0, 1)"), TEXT, least > 0.0 && most < 1.0)
}

fn sink() -> Claim {
    let mut rng = Rng::with_seed(6);
    let mut rows = [0, 1].map(|_| normals(&mut rng, N));
    (rows[0][0], rows[1][0]) = (4.0, 5.0);
    let share = |lam: f32| weights(&rows[0], &rows[1], lam)[0];
    let [alone, half, full] = [-40.0, 0.0, 4.0].map(share);
    let measured = format!("{alone:.2}, {half:.2}, {full:.2}");
    let what = "weight on a sink at token 0 for σ = 0, 0.5, 0.98";
    claim("M7", what, (measured, "falls, below 0 at last"), DERIVED, alone > half && half > full && full < 0.0)
}
