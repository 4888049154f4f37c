//! Cases of one matrix product: a module's output projection alone, y = x·Wᵀ, and for gradients dx = dy·W and dW = dyᵀ·x.

use web_time::Instant;

use super::case::{Case, Op};
use super::module::Inputs;
use super::on_device::{OnDevice, Outputs, Tensor};
use super::stopwatch::Stopwatch;
use super::subject::{Kernel, Results};
use super::verify::Check;
use crate::attention::DiffAttention;
use crate::error::{Error, Result};
use crate::layer::{Form, Matmul, MatmulBuffers, MatmulOptions, Matrix};
use crate::ops::host;
use crate::problem::DType;

/// The products of a case. The gradient of the weight is f32, as a module keeps it.
fn products(case: &Case, inputs: &Inputs) -> Vec<Matmul> {
    let (tokens, width) = (inputs.tokens().count() as u32, case.config().d_model);
    let product = |form, sizes| Matmul::new(form, sizes, case.dtype);
    let mut products = vec![product(Form::Forward, [tokens, width, width])];
    if case.op == Op::Train {
        products.push(product(Form::InputGradient, [tokens, width, width]));
        products.push(Matmul { c_f32: true, ..product(Form::WeightGradient, [width, width, tokens]) });
    }
    products
}

pub(super) async fn prepare<'a>(
    attention: &'a DiffAttention,
    stopwatch: &'a Stopwatch,
    case: &Case,
    inputs: &Inputs,
) -> Result<OnDevice<'a>> {
    if case.runtime_checks {
        let what = "a product with --runtime-checks".into();
        return Err(Error::Unsupported { what, hint: "leave them out".into() });
    }
    let products = products(case, inputs);
    let (x, w, dy, outputs) = host::with_memory(&attention.device, "creating the tensors", || {
        let upload = |name, values: &[f32]| host::upload(attention, name, case.dtype.encode(values));
        let output = |product: &Matmul| {
            let dtype = if product.c_f32 { DType::F32 } else { product.dtype };
            let elements = u64::from(product.rows) * u64::from(product.columns);
            Tensor::poisoned(attention, "product", dtype, elements)
        };
        let outputs = products.iter().map(output).collect::<Result<Vec<_>>>()?;
        // A buffer must not be empty.
        let dy = if inputs.dy.is_empty() { &inputs.x } else { &inputs.dy };
        Ok((upload("x", &inputs.x)?, upload("w", inputs.weights.o_proj())?, upload("dy", dy)?, outputs))
    })
    .await?;

    let start = Instant::now();
    let mut kernel = Kernel::default();
    let mut passes = Vec::new();
    let mut labels = Vec::new();
    for (product, output) in products.iter().zip(&outputs) {
        let plan = attention.plan_matmul(product, MatmulOptions { path: case.runner.path(), tile: None }).await?;
        let matrix = |buffer| Matrix { buffer, offset: 0, stride: case.config().d_model };
        let [a, b] = match product.form {
            Form::Forward => [&x, &w],
            Form::InputGradient => [&dy, &w],
            Form::WeightGradient => [&dy, &x],
        };
        let (a, b, c) = (matrix(a), matrix(b), matrix(&output.buffer));
        passes.push(plan.bind(&MatmulBuffers { a, b, c, rotary: None, bias: None, add: false })?);
        labels.push(plan.label());
        // That of the forward, where a gradient cannot have it.
        if product.form == Form::Forward {
            kernel.path = plan.path().name();
        }
    }
    kernel.label = labels.join(" + ");
    kernel.dispatches = passes.len();
    kernel.cold_ns = start.elapsed().as_nanos() as f64;
    let record = Box::new(move |recorder: &mut wgpu::ComputePass<'_>| {
        passes.iter().for_each(|pass| pass.encode(recorder));
    });
    Ok(OnDevice { attention, stopwatch, kernel, record, judged: None, outputs: Outputs::Products(outputs) })
}

/// Rows of a product that are judged: some of the first, the middle and the last.
const ROWS: u32 = 8;

/// Holds rows of each product against sums in float64. The error is given as a share of its bound: f32 sums of `depth` terms,
/// rounded to the storage type.
pub(super) fn judge(case: &Case, inputs: &Inputs, results: &Results) -> Result<Check> {
    let Results::Products(tensors) = results else {
        return Err(results.unexpected("those of products"));
    };
    let width = case.config().d_model as usize;
    let mut worst = 0.0f64;
    for (product, c) in products(case, inputs).iter().zip(tensors) {
        let Matmul { rows, columns, depth, dtype, c_f32, .. } = *product;
        let epsilon = if c_f32 { DType::F32.epsilon() } else { dtype.epsilon() };
        let (x, w, dy) = (&inputs.x, inputs.weights.o_proj(), &inputs.dy);
        let terms = |row: usize, column: usize, k: usize| match product.form {
            Form::Forward => (x[row * width + k], w[column * width + k]),
            Form::InputGradient => (dy[row * width + k], w[k * width + column]),
            Form::WeightGradient => (dy[k * width + row], x[k * width + column]),
        };
        let blocks = [0, (rows / 2).saturating_sub(ROWS / 2), rows.saturating_sub(ROWS)];
        for row in blocks.into_iter().flat_map(|first| first..(first + ROWS).min(rows)) {
            for column in 0..columns as usize {
                let products = (0..depth as usize).map(|k| terms(row as usize, column, k));
                let products = products.map(|(a, b)| f64::from(a) * f64::from(b));
                let (sum, size) = products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                let bound = f64::from(depth + 2) * DType::F32.epsilon() * size + epsilon * sum.abs() + 1e-7;
                let error = (f64::from(c[row as usize * columns as usize + column]) - sum).abs() / bound;
                worst = if error.is_nan() { f64::MAX } else { worst.max(error.min(f64::MAX)) };
            }
        }
    }
    Ok(Check { passed: worst <= 1.0, error: worst, bound: 1.0 })
}

#[cfg(test)]
mod tests {
    use super::super::case;
    use super::*;
    use crate::problem::Shape;

    /// What is right in float64, but for one element in the rows that are judged.
    #[test]
    fn a_wrong_element_is_seen() {
        let shape = Shape { batch: 1, q_len: 20, kv_len: 20, heads: 2, kv_heads: 1, head_dim: 8, value_dim: 8 };
        let case = Case { form: case::Form::Matmul, dtype: DType::F32, ..Case::new(Op::Train, shape) };
        let inputs = Inputs::random(&case, 1).unwrap();
        let (tokens, width, w) = (20, 16, inputs.weights.o_proj());
        let sum = |terms: &dyn Fn(usize) -> (f32, f32), depth: usize| {
            (0..depth).map(terms).map(|(a, b)| f64::from(a) * f64::from(b)).sum::<f64>() as f32
        };
        let filled = |rows: usize, element: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
            (0..rows * width).map(|i| element(i / width, i % width)).collect()
        };
        let (x, dy) = (&inputs.x, &inputs.dy);
        let right = vec![
            filled(tokens, &|i, j| sum(&|k| (x[i * width + k], w[j * width + k]), width)),
            filled(tokens, &|i, j| sum(&|k| (dy[i * width + k], w[k * width + j]), width)),
            filled(width, &|i, j| sum(&|k| (dy[k * width + i], x[k * width + j]), tokens)),
        ];
        let passed = |products: Vec<Vec<f32>>| judge(&case, &inputs, &Results::Products(products)).unwrap().passed;
        assert!(passed(right.clone()));
        for product in 0..3 {
            for value in [0.1, f32::NAN, f32::INFINITY] {
                let mut wrong = right.clone();
                *wrong[product].last_mut().unwrap() += value;
                assert!(!passed(wrong), "product {product} with {value}");
            }
        }
        assert!(judge(&case, &inputs, &Results::Y(vec![])).is_err());
    }
}
