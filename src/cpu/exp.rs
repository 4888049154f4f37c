//! 2ˣ and tanh as straight-line arithmetic, so that the loops of [`super::rows`] vectorise; the C library's cannot.
//!
//! `fused` says whether the surrounding function is compiled for a processor that has fused multiply-add. Without it,
//! `f32::mul_add` would be a call into the C library for every element.

/// Minimax fit of (2ᶠ − 1)/f on −½ ≤ f ≤ ½: relative error of 2ᶠ below 2·10⁻⁹, so rounding is what remains.
const COEFFICIENTS: [f32; 6] =
    [std::f32::consts::LN_2, 0.240_226_48, 0.055_503_324, 0.009_618_437, 0.001_339_887_4, 0.000_153_533_62];

/// 1.5·2²³: adding it leaves round(x) in the low bits of the sum. The 127 makes them the biased exponent of 2^round(x).
const ROUND: f32 = 12_582_912.0 + 127.0;

#[inline(always)]
fn mul_add(a: f32, b: f32, c: f32, fused: bool) -> f32 {
    if fused { a.mul_add(b, c) } else { a * b + c }
}

/// (2ⁿ, 2ᶠ − 1) with n = round(x) and f = x − n, for −126 ≤ x < 127.5. A NaN comes out in the second part.
#[inline(always)]
fn split(x: f32, fused: bool) -> (f32, f32) {
    let rounded = x + ROUND;
    let f = x - (rounded - ROUND);
    let power = f32::from_bits(rounded.to_bits() << 23);
    let [c1, c2, c3, c4, c5, c6] = COEFFICIENTS;
    let q = mul_add(f, mul_add(f, c6, c5, fused), c4, fused);
    let q = mul_add(f, mul_add(f, mul_add(f, q, c3, fused), c2, fused), c1, fused);
    (power, f * q)
}

/// 2ˣ for x below 127.5, within 1.25 units in the last place (2 without fused multiply-add).
///
/// Below 2⁻¹²⁶ the result is 0, also for −∞; NaN stays NaN.
#[inline(always)]
pub(super) fn exp2(x: f32, fused: bool) -> f32 {
    let (power, rest) = split(x, fused);
    if x < -126.0 { 0.0 } else { mul_add(power, rest, power, fused) }
}

/// tanh(x) within 4 units in the last place, also near 0, where (e²ˣ − 1)/(e²ˣ + 1) would cancel; NaN stays NaN.
#[inline(always)]
pub(super) fn tanh(x: f32, fused: bool) -> f32 {
    // From |x| = 9.02 on, tanh is ±1 in f32; 2^±26.5 stays well inside the range of `split`.
    let y = x * (2.0 * std::f32::consts::LOG2_E);
    let y = if y > 26.5 { 26.5 } else { y };
    let y = if y < -26.5 { -26.5 } else { y };
    let (power, rest) = split(y, fused);
    // e²ˣ − 1
    let u = mul_add(power, rest, power - 1.0, fused);
    u / (u + 2.0)
}

#[cfg(test)]
mod tests {
    use super::{exp2, tanh};

    /// Largest error in units in the last place of the true value, over `count` values from `low` to `high`.
    fn worst(low: f64, high: f64, count: u32, f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64) -> f64 {
        (0..=count)
            .map(|i| {
                let x = (low + (high - low) * f64::from(i) / f64::from(count)) as f32;
                let truth = truth(f64::from(x));
                let ulp = 2f64.powi(truth.abs().max(1e-37).log2().floor() as i32 - 23);
                (f64::from(f(x)) - truth).abs() / ulp
            })
            .fold(0.0, f64::max)
    }

    #[test]
    fn exp2_is_accurate_over_its_whole_range() {
        for (fused, bound) in [(true, 1.25), (false, 2.0)] {
            for (low, high) in [(-125.9, 0.0), (-1.0, 1.0), (0.0, 127.0), (-1e-6, 1e-6)] {
                let error = worst(low, high, 300_000, |x| exp2(x, fused), f64::exp2);
                assert!(error <= bound, "{error} units on {low}..{high}, fused {fused}");
            }
        }
    }

    #[test]
    fn exp2_of_special_values() {
        for fused in [true, false] {
            for n in -126..=127 {
                assert_eq!(exp2(n as f32, fused), 2f32.powi(n));
            }
            for x in [-126.1, -1000.0, -1e30, f32::MIN, f32::NEG_INFINITY] {
                assert_eq!(exp2(x, fused), 0.0, "2^{x}");
            }
            assert_eq!(exp2(-0.0, fused), 1.0);
            assert!(exp2(f32::NAN, fused).is_nan());
        }
    }

    #[test]
    fn tanh_is_accurate_near_and_far() {
        for fused in [true, false] {
            for (low, high) in [(-20.0, 20.0), (-1.0, 1.0), (1e-6, 1e-3)] {
                let error = worst(low, high, 300_000, |x| tanh(x, fused), f64::tanh);
                assert!(error <= 4.0, "{error} units on {low}..{high}, fused {fused}");
            }
            assert_eq!((tanh(f32::MAX, fused), tanh(f32::NEG_INFINITY, fused)), (1.0, -1.0));
            assert!(tanh(f32::NAN, fused).is_nan());
        }
    }
}
