//! The module's reference: against the golden files, against central differences, and what its judge accepts.

use crate::support::{GoldenModule, rng};
use diffattn::DType;
use diffattn::layer::{Config, HostTokens, Kind, Weights};
use diffattn::reference::{Judge, layer};
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
        values.map(|value| if parameter.name == "subln.weight" { value + rng.f32() } else { *value }).collect()
    });
    let (batch, seq_len) = (rng.u32(1..=2), rng.u32(2..=5));
    let x = (0..batch * seq_len * config.d_model).map(|_| 4.0 * rng.f32() - 2.0).collect();
    (weights.unwrap(), x, [batch, seq_len])
}

/// The gradient along a random direction of x and of every parameter is that of Σ y·dy.
#[test]
fn gradients_agree_with_central_differences() {
    const STEP: f32 = 1.0 / 1024.0;
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
                // Powers of two, so that no step is rounded by much.
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

#[test]
fn wrong_sizes_are_errors() {
    let golden = GoldenModule::of(Kind::DiffV2);
    let short = HostTokens { seq_len: 32, ..golden.tokens() };
    let error = layer::forward(&golden.weights, &short).unwrap_err();
    assert!(matches!(error, diffattn::Error::Shape { tensor: "x", .. }), "{error}");
    let empty = HostTokens { seq_len: 0, ..golden.tokens() };
    let error = layer::forward(&golden.weights, &empty).unwrap_err();
    assert!(matches!(error, diffattn::Error::Invalid { name: "seq_len", .. }), "{error}");
    let error = layer::backward(&golden.weights, &golden.tokens(), &golden.dy[1..]).unwrap_err();
    assert!(matches!(error, diffattn::Error::Shape { tensor: "dy", .. }), "{error}");
}
