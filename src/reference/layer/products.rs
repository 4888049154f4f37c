//! The three matrix products of a linear layer, each element of the result stored once.

use crate::reference::arithmetic::{Arithmetic, add_scaled, dot};
use num_traits::Zero;
use rayon::prelude::*;

/// x·Wᵀ: rows of x (`width` elements) by rows of W.
pub(super) fn linear<A: Arithmetic>(arithmetic: A, x: &[A::Number], w: &[A::Number], width: usize) -> Vec<A::Number> {
    let rows = x.par_chunks_exact(width);
    rows.flat_map_iter(|x| w.chunks_exact(width).map(move |w| arithmetic.store(dot(x, w)))).collect()
}

/// dy·W: the gradient of x, whose rows have `width` elements.
pub(super) fn linear_dx<A: Arithmetic>(
    arithmetic: A,
    dy: &[A::Number],
    w: &[A::Number],
    width: usize,
) -> Vec<A::Number> {
    let outputs = w.len() / width;
    let rows = dy.par_chunks_exact(outputs).flat_map_iter(|dy| {
        let mut sum = vec![A::Number::zero(); width];
        dy.iter().zip(w.chunks_exact(width)).for_each(|(&dy, w)| add_scaled(&mut sum, dy, w));
        sum.into_iter().map(move |sum| arithmetic.store(sum))
    });
    rows.collect()
}

/// dyᵀ·x: the gradient of W, whose rows have `width` elements.
pub(super) fn linear_dw<A: Arithmetic>(
    arithmetic: A,
    dy: &[A::Number],
    x: &[A::Number],
    width: usize,
) -> Vec<A::Number> {
    let outputs = dy.len() / (x.len() / width);
    let rows = (0..outputs).into_par_iter().flat_map_iter(|output| {
        let mut sum = vec![A::Number::zero(); width];
        let column = dy.iter().skip(output).step_by(outputs);
        column.zip(x.chunks_exact(width)).for_each(|(&dy, x)| add_scaled(&mut sum, dy, x));
        sum.into_iter().map(move |sum| arithmetic.store(sum))
    });
    rows.collect()
}
