//! The items, each measured anew.

mod cost;
mod magnitude;
mod operation;
mod v1;

/// One statement and what was found.
pub struct Claim {
    /// O: the operation, M: magnitudes, C: cost, V: V1 beside it.
    pub item: &'static str,
    pub what: String,
    pub measured: String,
    pub expected: String,
    /// Who says so, or from what it is derived.
    pub source: &'static str,
    pub holds: bool,
}

/// "Differential Transformer V2", January 2026.
const TEXT: &str = "V2 text";
/// The published modules.
const MODULE: &str = "multihead_flashdiffv2.py";
/// arXiv 2410.05258 and its modules.
const V1: &str = "V1 paper, multihead_flashdiff_1.py";
const DERIVED: &str = "derived";

pub fn all() -> Vec<Claim> {
    [operation::claims(), magnitude::claims(), cost::claims(), v1::claims()].into_iter().flatten().collect()
}

fn claim(
    item: &'static str,
    what: impl Into<String>,
    (measured, expected): (impl ToString, impl ToString),
    source: &'static str,
    holds: bool,
) -> Claim {
    Claim { item, what: what.into(), measured: measured.to_string(), expected: expected.to_string(), source, holds }
}

/// A number that is to be `expected` within `tolerance`.
fn number(
    item: &'static str,
    what: impl Into<String>,
    measured: f64,
    (expected, tolerance): (f64, f64),
    source: &'static str,
) -> Claim {
    let holds = (measured - expected).abs() <= tolerance;
    let expected = if tolerance == 0.0 { format!("{expected}") } else { format!("{expected} ± {tolerance}") };
    claim(item, what, (shown(measured), expected), source, holds)
}

/// Something that is to be zero but for f32 rounding: the difference of two results, relative to the larger one.
fn same(item: &'static str, what: impl Into<String>, a: &[f32], b: &[f32], source: &'static str) -> Claim {
    let difference = relative_difference(a, b);
    claim(item, what, (format!("differ by {difference:.1e}"), "0, within 1e-5"), source, difference <= 1e-5)
}

fn relative_difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = a.iter().chain(b).fold(0.0, |max, value| f32::max(max, value.abs()));
    let difference = a.iter().zip(b).fold(0.0, |max, (a, b)| f32::max(max, (a - b).abs()));
    f64::from(difference / largest)
}

fn shown(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        small if small < 1e-3 => format!("{value:.1e}"),
        medium if medium < 10.0 => format!("{value:.3}"),
        _ if value.abs() < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

/// Normally distributed.
fn normal(rng: &mut fastrand::Rng) -> f32 {
    let (u, v) = (1.0 - rng.f32(), rng.f32());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

fn normals(rng: &mut fastrand::Rng, len: usize) -> Vec<f32> {
    (0..len).map(|_| normal(rng)).collect()
}
