//! V1 beside V2: what its norm does to long, nearly uniform attention.

use super::{Claim, DERIVED, TEXT, V1, claim, normal, number};
use diffattn::DType;
use diffattn::cpu;
use diffattn::layer::{Config, HostTokens, Kind, Weights};
use fastrand::Rng;

/// Tokens of near-uniform attention.
const LONG: u32 = 8192;

pub(super) fn claims() -> Vec<Claim> {
    let lambda_init = |layer_index| Config { layer_index, ..config(Kind::DiffV1) }.lambda_init();
    let inits = [0, 1, 3, 11].map(|index| format!("{:.3}", lambda_init(index))).join(", ");
    let holds = inits == "0.200, 0.356, 0.556, 0.778";
    let mut claims =
        vec![claim("V1", "λ_init of layers 0, 1, 3, 11", (inits, "0.200, 0.356, 0.556, 0.778"), V1, holds)];
    let growth = |kind| gradient(kind, LONG, 4) / gradient(kind, 1, 256);
    let what = |kind: &str| format!("gradient to the attention of {kind} at 8192 uniform tokens, by that at 1");
    // `gain` of λ near λ_init = 0.2, times 1 − λ_init, is 85; and 1 for a single token.
    claims.push(number("M6", what("V1"), growth(Kind::DiffV1), (85.0, 15.0), TEXT));
    claims.push(number("M6", what("V2"), growth(Kind::DiffV2), (1.0, 0.01), TEXT));
    let gains = [0.2, 0.5, 0.8].map(|lambda| format!("{:.0}", gain(lambda, 8192.0) / (1.0 - lambda)));
    let gains = gains.join(", ");
    let holds = gains == "107, 157, 259";
    claims.push(claim(
        "M6",
        "factor of V1's norm on uniform rows of 8192, by the formula, λ 0.2, 0.5, 0.8",
        (gains, "107, 157, 259"),
        DERIVED,
        holds,
    ));
    claims
}

/// How much V1's norm multiplies (1 − λ)·a of a uniform row of n unit values.
fn gain(lambda: f64, n: f64) -> f64 {
    (1.0 - lambda) / ((1.0 - lambda).powi(2) / n + 1e-5).sqrt()
}

fn config(kind: Kind) -> Config {
    Config::new(kind, 32, 2, 2, 8)
}

/// Size of the gradient that reaches the attention's output of the last token, for a gradient of y that does not
/// depend on the length.
///
/// Queries are zero, so that attention is uniform. Values are of deviation 1 but do not read the first feature of x,
/// which is 1: its column in the gradient of v_proj is the sum of dV over all tokens, which is that of the attention's
/// output (times 1 − λ in V1, 1 − σ in V2).
fn gradient(kind: Kind, seq_len: u32, batch: u32) -> f64 {
    let mut rng = Rng::with_seed(12);
    let config = config(kind);
    let d_model = config.d_model as usize;
    let random = Weights::random(&config, || rng.f32()).expect("a valid module").zero_lambda();
    let weights = Weights::from_fn(&config, |parameter| match parameter.name {
        "q_proj.weight" => vec![0.0; parameter.len()],
        "v_proj.weight" => {
            let scale = 1.0 / ((d_model - 1) as f32).sqrt();
            let row =
                |_| std::iter::once(0.0).chain((1..d_model).map(|_| scale * normal(&mut rng))).collect::<Vec<_>>();
            (0..parameter.len() / d_model).flat_map(row).collect()
        }
        name => random.get(name).expect(name).to_vec(),
    });
    let weights = weights.expect("a valid module");
    let last_dy: Vec<f32> = (0..d_model).map(|_| normal(&mut rng)).collect();
    let tokens = (batch * seq_len) as usize;
    let mut x: Vec<f32> = (0..tokens * d_model).map(|_| normal(&mut rng)).collect();
    x.iter_mut().step_by(d_model).for_each(|first| *first = 1.0);
    // One sequence at a time, so that the gradients of different ones do not cancel.
    let mut squares = 0.0;
    let mut dy = vec![0.0; seq_len as usize * d_model];
    let last = dy.len() - d_model;
    dy[last..].copy_from_slice(&last_dy);
    for x in x.chunks_exact(seq_len as usize * d_model) {
        let tokens = HostTokens { batch: 1, seq_len, x };
        let gradients = cpu::layer::backward(&weights, &tokens, &dy, DType::F32).expect("a valid module");
        let column = gradients.weights.v_proj().iter().step_by(d_model);
        squares += column.map(|&sum| f64::from(sum).powi(2)).sum::<f64>();
    }
    (squares / f64::from(batch)).sqrt()
}
