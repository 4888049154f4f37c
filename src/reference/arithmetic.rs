//! The two arithmetics in which the un-fused graph is run.

use crate::problem::DType;
use num_traits::Float;

/// What numbers are, and what storing an intermediate result does to them.
pub(super) trait Arithmetic: Copy + Sync {
    /// Type of every sum and product.
    type Number: Float + From<f32> + Into<f64> + Send + Sync;

    /// `value` as it is read back after being stored.
    fn store(self, value: Self::Number) -> Self::Number;
}

/// float64 throughout: the truth.
#[derive(Debug, Clone, Copy)]
pub(super) struct Exact;

impl Arithmetic for Exact {
    type Number = f64;

    fn store(self, value: f64) -> f64 {
        value
    }
}

/// f32 sums, one term after the other, and every intermediate tensor in the storage type: the yardstick.
impl Arithmetic for DType {
    type Number = f32;

    fn store(self, value: f32) -> f32 {
        self.round(value)
    }
}

/// `values` in the arithmetic's numbers.
pub(super) fn widen<N: From<f32>>(values: &[f32]) -> Vec<N> {
    values.iter().map(|&value| value.into()).collect()
}

/// Σ a·b, in order.
pub(super) fn dot<N: Float>(a: &[N], b: &[N]) -> N {
    a.iter().zip(b).fold(N::zero(), |sum, (&a, &b)| sum + a * b)
}

/// `sum` += `factor` · `row`.
pub(super) fn add_scaled<N: Float>(sum: &mut [N], factor: N, row: &[N]) {
    for (sum, &element) in sum.iter_mut().zip(row) {
        *sum = *sum + factor * element;
    }
}
