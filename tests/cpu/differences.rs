//! The reference's gradients against central differences of its forward.

use crate::options;
use crate::support::{Tensors, rng};
use diffattn::reference::{backward, forward};
use diffattn::{DType, Options, Packed, Problem, Shape};

/// Σ out·dout + Σ lse·dlse; rows that see no key have no lse to differentiate.
fn loss(problem: &Problem, tensors: &Tensors) -> f64 {
    let truth = forward(problem, &tensors.inputs()).unwrap();
    let sum = |values: &[f64], weights: &[f32]| -> f64 {
        let terms = values.iter().zip(weights).filter(|(value, _)| value.is_finite());
        terms.map(|(value, &weight)| value * f64::from(weight)).sum()
    };
    sum(&truth.out, &tensors.dout) + sum(&truth.lse, &tensors.dlse)
}

fn assert_differences(problem: &Problem) {
    let tensors = Tensors::random(problem, &mut rng());
    let gradients = backward(problem, &tensors.inputs(), &tensors.grads_with_dlse()).unwrap();
    type Field = fn(&mut Tensors) -> &mut Vec<f32>;
    let fields: [(&str, Field, &[f64]); 4] = [
        ("dq", |tensors| &mut tensors.q, &gradients.dq),
        ("dk", |tensors| &mut tensors.k, &gradients.dk),
        ("dv", |tensors| &mut tensors.v, &gradients.dv),
        ("dlam", |tensors| &mut tensors.lam, &gradients.dlam),
    ];
    for (name, field, gradient) in fields {
        for (index, &gradient) in gradient.iter().enumerate() {
            let at = |step: f32| {
                let mut tensors = tensors.clone();
                field(&mut tensors)[index] += step;
                (loss(problem, &tensors), f64::from(field(&mut tensors)[index]))
            };
            let ((above, x_above), (below, x_below)) = (at(1e-3), at(-1e-3));
            let difference = (above - below) / (x_above - x_below);
            // The difference is off by step²/6 times the third derivative.
            let close = (gradient - difference).abs() <= 1e-5 * (1.0 + difference.abs());
            assert!(close, "{name}[{index}]: {gradient} instead of {difference}, {problem:?}");
        }
    }
}

const SHAPE: Shape = Shape { batch: 2, q_len: 3, kv_len: 4, heads: 2, kv_heads: 1, head_dim: 8, value_dim: 16 };

fn check(shape: Shape, set: impl FnOnce(&mut Options)) {
    assert_differences(&Problem::new(shape, DType::F32, options(set)));
}

#[test]
fn full() {
    check(SHAPE, |_| ());
}

#[test]
fn causal_with_softcap() {
    check(SHAPE, |options| (options.causal, options.softcap) = (true, Some(1.5)));
}

#[test]
fn window_and_scale() {
    check(SHAPE, |options| (options.window, options.scale) = ((Some(1), Some(0)), Some(-0.7)));
}

#[test]
fn rows_without_keys() {
    check(Shape { q_len: 5, kv_len: 3, kv_heads: 2, ..SHAPE }, |options| options.causal = true);
}

#[test]
fn packed() {
    let packed = Packed { cu_seqlens_q: vec![0, 2, 2, 5], cu_seqlens_k: vec![0, 3, 4, 6] };
    let options = options(|options| options.causal = true);
    assert_differences(&Problem::packed(SHAPE, DType::F32, options, packed).unwrap());
}
