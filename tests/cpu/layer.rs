//! The module's reference: against the golden files, against central differences, and what its judge accepts.

use crate::support::{GoldenModule, rng};
use diffattn::layer::{Config, HostTokens, Kind, Weights};
use diffattn::reference::{Judge, layer};
use diffattn::{DType, cpu};
use fastrand::Rng;

/// Golden files are float64 results stored in f32.
fn assert_agrees(what: &str, actual: &[f64], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0.0, |max, &e| f64::max(max, f64::from(e.abs())));
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let agrees = (actual - f64::from(expected)).abs() <= 1e-6 * largest;
        assert!(agrees, "{what}[{index}]: {actual} instead of {expected}, largest {largest}");
    }
}

#[test]
fn the_reference_agrees_with_the_golden_files() {
    for golden in GoldenModule::all() {
        let name = golden.weights.config().kind.name();
        let y = layer::forward(&golden.weights, &golden.tokens()).unwrap();
        assert_agrees(&format!("{name} y"), &y, &golden.y);
        let gradients = layer::backward(&golden.weights, &golden.tokens(), &golden.dy).unwrap();
        assert_agrees(&format!("{name} dx"), &gradients.dx, &golden.dx);
        assert_eq!(gradients.weights.len(), golden.gradients.iter().count());
        for ((actual_name, actual), (parameter, expected)) in gradients.weights.iter().zip(golden.gradients.iter()) {
            assert_eq!(*actual_name, parameter.name);
            assert_agrees(&format!("{name} {actual_name}"), actual, expected);
        }
    }
}

/// The step of the differences. Weights and tokens are multiples of it, so that no step is rounded.
const STEP: f32 = 1.0 / 4096.0;

/// A random module and its tokens.
fn random(kind: Kind, rng: &mut Rng) -> (Weights, Vec<f32>, [u32; 2]) {
    let kv_heads = rng.u32(1..=2);
    let heads = kv_heads * rng.u32(1..=2);
    let mut config = Config::new(kind, 8 * rng.u32(1..=3), heads, kv_heads, 8 * rng.u32(1..=2));
    config.layer_index = rng.u32(0..12);
    config.lambda_bias = kind == Kind::DiffV2 && rng.bool();
    config.rope_theta = rng.choice([100.0, 10000.0, 500000.0]).unwrap();
    let weights = Weights::random(&config, || rng.f32()).unwrap();
    // The norm's weight starts as ones, which would hide where it is left out.
    let weights = Weights::from_fn(&config, |parameter| {
        let values = weights.get(parameter.name).unwrap().iter();
        let extra = if parameter.name == "subln.weight" { 1.0 } else { 0.0 };
        values.map(|value| on_grid(value + extra * rng.f32())).collect()
    });
    let (batch, seq_len) = (rng.u32(1..=2), rng.u32(2..=5));
    let x = (0..batch * seq_len * config.d_model).map(|_| on_grid(4.0 * rng.f32() - 2.0)).collect();
    (weights.unwrap(), x, [batch, seq_len])
}

fn on_grid(value: f32) -> f32 {
    (value / STEP).round() * STEP
}

/// The gradient along a random direction of x and of every parameter is that of Σ y·dy.
#[test]
fn gradients_agree_with_central_differences() {
    let mut rng = rng();
    for kind in Kind::ALL {
        for _ in 0..4 {
            let (weights, x, [batch, seq_len]) = random(kind, &mut rng);
            let dy: Vec<f32> = x.iter().map(|_| 2.0 * rng.f32() - 1.0).collect();
            let tokens = HostTokens { batch, seq_len, x: &x };
            let gradients = layer::backward(&weights, &tokens, &dy).unwrap();
            let loss = |weights: &Weights, x: &[f32]| -> f64 {
                let y = layer::forward(weights, &HostTokens { batch, seq_len, x }).unwrap();
                y.iter().zip(&dy).map(|(y, dy)| y * f64::from(*dy)).sum()
            };
            let mut check = |name: &str, gradient: &[f64], at: &dyn Fn(&[f32]) -> f64| {
                let direction: Vec<f32> = gradient.iter().map(|_| if rng.bool() { STEP } else { -STEP }).collect();
                let back: Vec<f32> = direction.iter().map(|step| -step).collect();
                let numeric = (at(&direction) - at(&back)) / f64::from(2.0 * STEP);
                let products = gradient.iter().zip(&direction).map(|(g, step)| g * f64::from(step / STEP));
                let (exact, size) = (products.clone().sum::<f64>(), products.map(f64::abs).sum::<f64>());
                let kind = weights.config();
                assert!((numeric - exact).abs() <= 1e-3 * size, "{kind} {name}: {numeric}, {exact}, {size}");
            };
            let moved =
                |values: &[f32], by: &[f32]| -> Vec<f32> { values.iter().zip(by).map(|(v, b)| v + b).collect() };
            check("x", &gradients.dx, &|by| loss(&weights, &moved(&x, by)));
            for (name, gradient) in &gradients.weights {
                check(name, gradient, &|by| {
                    let changed = Weights::from_fn(weights.config(), |parameter| {
                        let values = weights.get(parameter.name).unwrap();
                        if parameter.name == *name { moved(values, by) } else { values.to_vec() }
                    });
                    loss(&changed.unwrap(), &x)
                });
            }
        }
    }
}

/// float64 results, rounded once, are as right as can be; the same with an error anywhere are wrong.
#[test]
fn the_judge_tells_right_from_wrong() {
    for golden in GoldenModule::all() {
        let (config, tokens) = (golden.weights.config(), golden.tokens());
        for dtype in DType::ALL {
            let forward = Judge::layer_forward(&golden.weights, &tokens, dtype).unwrap();
            let backward = Judge::layer_backward(&golden.weights, &tokens, &golden.dy, dtype).unwrap();
            let tensors = std::iter::once(("y", &golden.y[..], &forward))
                .chain(std::iter::once(("dx", &golden.dx[..], &backward)))
                .chain(golden.gradients.iter().map(|(parameter, values)| (parameter.name, values, &backward)));
            for (name, values, judge) in tensors {
                let right = judge.tensor(name, values).unwrap();
                println!("{config} {} {name}: error {:.1e}, bound {:.1e}", dtype.name(), right.error, right.bound);
                assert!(right.passed, "{right:?}");
                let largest = values.iter().fold(0.0, |max, value| f32::max(max, value.abs()));
                let index = values.iter().position(|value| value.abs() == largest).unwrap();
                let mut wrong = values.to_vec();
                wrong[index] *= 0.5;
                assert!(!judge.tensor(name, &wrong).unwrap().passed, "{config} {} {name}", dtype.name());
            }
        }
    }
}

/// Each of these modules is another one than the file's.
#[test]
fn the_judge_rejects_other_modules() {
    let rejected = |golden: &GoldenModule, wrong: &Weights, what: &str| {
        let judge = Judge::layer_forward(&golden.weights, &golden.tokens(), DType::Bf16).unwrap();
        let y: Vec<f32> = layer::forward(wrong, &golden.tokens()).unwrap().into_iter().map(|y| y as f32).collect();
        assert!(!judge.tensor("y", &y).unwrap().passed, "{what}");
    };
    for golden in GoldenModule::all() {
        let config = *golden.weights.config();
        let with = |config: &Config, change: &dyn Fn(&str, &mut Vec<f32>)| {
            let changed = Weights::from_fn(config, |parameter| {
                let mut values = golden.weights.get(parameter.name).unwrap().to_vec();
                change(parameter.name, &mut values);
                values
            });
            changed.unwrap()
        };
        let same = |_: &str, _: &mut Vec<f32>| {};
        rejected(&golden, &with(&Config { rope_theta: 500.0, ..config }, &same), "another rotary base");
        match config.kind {
            Kind::Baseline => {}
            Kind::DiffV2 => {
                let zero = golden.weights.clone().zero_lambda();
                rejected(&golden, &zero, "no projection of λ");
                let halves = with(&config, &|name, values| {
                    if name == "q_proj.weight" {
                        // First half minus second half: pair j is made of query heads j and j + heads.
                        let rows = (config.head_dim * config.d_model) as usize;
                        let heads: Vec<Vec<f32>> = values.chunks(rows).map(<[f32]>::to_vec).collect();
                        let (first, second) = heads.split_at(config.heads as usize);
                        *values =
                            first.iter().zip(second).flat_map(|(a, b)| [a.clone(), b.clone()]).flatten().collect();
                    }
                });
                rejected(&golden, &halves, "pairs of halves");
            }
            Kind::DiffV1 => {
                rejected(&golden, &with(&Config { layer_index: 2, ..config }, &same), "another layer");
                let no_norm = with(&config, &|name, values| {
                    if name == "subln.weight" {
                        values.fill(1.0);
                    }
                });
                rejected(&golden, &no_norm, "a norm without weight");
            }
        }
    }
}

/// Holds y and every gradient of the CPU engine against the reference, and two runs against each other.
fn assert_right(weights: &Weights, tokens: &HostTokens, dy: &[f32], dtype: DType) {
    let y = cpu::layer::forward(weights, tokens, dtype).unwrap();
    let verdict = Judge::layer_forward(weights, tokens, dtype).unwrap().tensor("y", &y).unwrap();
    assert!(verdict.passed, "{} {dtype:?}: {verdict:?}", weights.config());
    let gradients = cpu::layer::backward(weights, tokens, dy, dtype).unwrap();
    let judge = Judge::layer_backward(weights, tokens, dy, dtype).unwrap();
    let parameters = gradients.weights.iter().map(|(parameter, values)| (parameter.name, values));
    for (name, values) in std::iter::once(("dx", &gradients.dx[..])).chain(parameters) {
        let verdict = judge.tensor(name, values).unwrap();
        assert!(verdict.passed, "{} {dtype:?}: {verdict:?}", weights.config());
    }
    assert_eq!(y, cpu::layer::forward(weights, tokens, dtype).unwrap(), "y differs between runs");
    assert_eq!(gradients, cpu::layer::backward(weights, tokens, dy, dtype).unwrap(), "gradients differ between runs");
}

#[test]
fn the_cpu_engine_passes_on_the_golden_files() {
    for golden in GoldenModule::all() {
        for dtype in DType::ALL {
            assert_right(&golden.weights, &golden.tokens(), &golden.dy, dtype);
        }
    }
}

#[test]
fn the_cpu_engine_passes_on_random_modules() {
    let mut rng = rng();
    for kind in Kind::ALL {
        for dtype in DType::ALL {
            for _ in 0..3 {
                let (weights, _, [batch, _]) = random(kind, &mut rng);
                let weights = weights.rounded(dtype);
                let d_model = weights.config().d_model;
                let seq_len = rng.choice([1, 7, 130, 201]).unwrap();
                let x: Vec<f32> = (0..batch * seq_len * d_model).map(|_| dtype.round(4.0 * rng.f32() - 2.0)).collect();
                let dy: Vec<f32> = x.iter().map(|_| dtype.round(2.0 * rng.f32() - 1.0)).collect();
                assert_right(&weights, &HostTokens { batch, seq_len, x: &x }, &dy, dtype);
            }
        }
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let golden = GoldenModule::of(Kind::DiffV2);
    let short = HostTokens { seq_len: 32, ..golden.tokens() };
    let error = layer::forward(&golden.weights, &short).unwrap_err();
    assert!(matches!(error, diffattn::Error::Shape { tensor: "x", .. }), "{error}");
    let empty = HostTokens { seq_len: 0, ..golden.tokens() };
    let error = layer::forward(&golden.weights, &empty).unwrap_err();
    assert!(matches!(error, diffattn::Error::Invalid { name: "seq_len", .. }), "{error}");
    let error = cpu::layer::forward(&golden.weights, &short, DType::F32).unwrap_err();
    assert!(matches!(error, diffattn::Error::Shape { tensor: "x", .. }), "{error}");
    let error = layer::backward(&golden.weights, &golden.tokens(), &golden.dy[1..]).unwrap_err();
    assert!(matches!(error, diffattn::Error::Shape { tensor: "dy", .. }), "{error}");
}
