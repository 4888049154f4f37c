//! Matrix products on strided views, by the `gemm` crate.

/// A matrix inside a slice: element (i, j) is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `rows` × `columns`, each row contiguous and `row_stride` after the one before.
    pub(super) fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        Matrix { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Contiguous, `columns` wide.
    pub(super) fn new(data: &'a [f32], columns: usize) -> Self {
        Matrix::strided(data, data.len() / columns, columns, columns)
    }

    /// The transpose, without a copy.
    pub(super) fn t(self) -> Self {
        let Matrix { data, rows, columns, row_stride, column_stride } = self;
        Matrix { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }

    fn is_inside(&self) -> bool {
        let last = (self.rows.saturating_sub(1)).checked_mul(self.row_stride);
        let last =
            last.and_then(|last| last.checked_add(self.columns.saturating_sub(1).checked_mul(self.column_stride)?));
        self.rows == 0 || self.columns == 0 || last.is_some_and(|last| last < self.data.len())
    }
}

/// Whether a product replaces what is in its destination or is added to it.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Into {
    Replace,
    Add,
}

/// `out` = `factor` · `left` · `right`, or that added to it; `out` is contiguous. One thread: the tiles are the threads'.
///
/// # Panics
/// When the sizes do not fit together or a view reaches outside its slice: a defect of the caller in this module.
pub(super) fn multiply(out: &mut [f32], into: Into, factor: f32, left: Matrix, right: Matrix) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert!(right.rows == k && out.len() == m * n, "sizes {m}x{k}, {}x{n}, {}", right.rows, out.len());
    assert!(left.is_inside() && right.is_inside(), "a view outside its slice");
    #[expect(
        unsafe_code,
        reason = "gemm takes raw pointers: the assertions above keep every access inside the three \
                                    slices, which borrow rules keep apart; strides come from usize and fit isize"
    )]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n as isize,
            into == Into::Add,
            left.data.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.data.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            1.0,
            factor,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{Into, Matrix, multiply};

    #[test]
    fn strided_and_transposed_views_give_the_plain_product() {
        let left: Vec<f32> = (0..12).map(|i| i as f32).collect();
        // The middle two of four columns of a 3 × 4 matrix.
        let right: Vec<f32> = (0..12).map(|i| (i * i) as f32).collect();
        let mut out = vec![1.0; 8];
        multiply(&mut out, Into::Add, 0.5, Matrix::new(&left, 4).t(), Matrix::strided(&right[1..], 3, 2, 4));
        for i in 0..4 {
            for j in 0..2 {
                let sum: f32 = (0..3).map(|k| left[k * 4 + i] * right[k * 4 + 1 + j]).sum();
                assert_eq!(out[i * 2 + j], 1.0 + 0.5 * sum);
            }
        }
    }

    #[test]
    #[should_panic(expected = "outside")]
    fn a_view_outside_its_slice_is_refused() {
        multiply(&mut [0.0; 4], Into::Replace, 1.0, Matrix::strided(&[0.0; 5], 2, 2, 4), Matrix::new(&[0.0; 4], 2));
    }
}
