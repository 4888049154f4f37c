//! The three matrix products of a linear layer, cut into bands of rows for the threads.

use crate::cpu::product::{Into, Matrix, multiply};
use rayon::prelude::*;

/// Rows of one band: enough for the product to run at its peak, few enough to keep every thread busy.
const BAND: usize = 128;

/// x·Wᵀ, rows of both `width` elements long.
pub(super) fn linear(x: &[f32], weight: &[f32], width: u32) -> Vec<f32> {
    let width = width as usize;
    let (rows, outputs) = (x.len() / width, weight.len() / width);
    bands(rows, outputs, |row, out| {
        let x = &x[row * width..][..out.len() / outputs * width];
        multiply(out, Into::Replace, 1.0, Matrix::new(x, width), Matrix::new(weight, width).t());
    })
}

/// dy·W: the gradient of x, whose rows are `width` elements long.
pub(super) fn linear_dx(dy: &[f32], weight: &[f32], width: u32) -> Vec<f32> {
    let width = width as usize;
    let outputs = weight.len() / width;
    bands(dy.len() / outputs, width, |row, out| {
        let dy = &dy[row * outputs..][..out.len() / width * outputs];
        multiply(out, Into::Replace, 1.0, Matrix::new(dy, outputs), Matrix::new(weight, width));
    })
}

/// dyᵀ·x: the gradient of W, whose rows are `width` elements long.
pub(super) fn linear_dw(dy: &[f32], x: &[f32], width: u32) -> Vec<f32> {
    let width = width as usize;
    let tokens = x.len() / width;
    let outputs = dy.len() / tokens;
    bands(outputs, width, |row, out| {
        let columns = Matrix::strided(&dy[row..], tokens, out.len() / width, outputs);
        multiply(out, Into::Replace, 1.0, columns.t(), Matrix::new(x, width));
    })
}

/// A matrix of `rows` × `columns` whose bands `fill` computes, each from its first row on.
fn bands(rows: usize, columns: usize, fill: impl Fn(usize, &mut [f32]) + Sync) -> Vec<f32> {
    let mut matrix = vec![0.0; rows * columns];
    let bands = matrix.par_chunks_mut(BAND * columns).enumerate();
    bands.for_each(|(band, out)| fill(band * BAND, out));
    matrix
}
