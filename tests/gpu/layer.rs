//! The attention module, of every kind: golden files and random sizes, judged by the float64 reference.

use crate::device::Gpu;
use crate::support::{self, GoldenModule};
use crate::{Case, case};
use diffattn::layer::{Config, HostTokens, Kind, MultiheadDiffAttention, Weights};
use diffattn::reference::{Judge, Verdict};
use diffattn::{DType, DiffAttention, Error};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        for dtype in DType::ALL {
            cases.push(case(format!("layer::golden::{}::{}", kind.name(), dtype.name()), move |gpu| {
                golden(gpu, kind, dtype)
            }));
        }
        cases.push(case(format!("layer::random::{}", kind.name()), move |gpu| random(gpu, kind)));
    }
    cases.push(case("layer::mistakes", mistakes));
    cases
}

fn pass(what: &str, verdict: Verdict) -> Result<(), Failed> {
    let Verdict { tensor, error, bound, index, passed } = verdict;
    if passed {
        return Ok(());
    }
    Err(format!("{what}: `{tensor}` is wrong at {index}: error {error:.3e}, bound {bound:.3e}").into())
}

/// Runs a module both ways and judges everything that comes out; with results from elsewhere against those as well.
fn check(
    attention: &DiffAttention,
    weights: &Weights,
    tokens: &HostTokens<'_>,
    dy: &[f32],
    dtype: DType,
    expected: Option<&GoldenModule>,
) -> Result<(), Failed> {
    let what = format!("{} {}", weights.config(), dtype.name());
    let layer = MultiheadDiffAttention::new(attention, weights, dtype)?;
    let forward = Judge::layer_forward(weights, tokens, dtype)?;
    let y = layer.forward_blocking(tokens)?;
    pass(&what, forward.tensor("y", &y)?)?;
    let (again, gradients) = layer.backward_blocking(tokens, dy)?;
    if dtype == DType::F32 || expected.is_none() {
        pass(&what, forward.tensor("y", &again)?)?;
    }
    let backward = Judge::layer_backward(weights, tokens, dy, dtype)?;
    pass(&what, backward.tensor("dx", &gradients.dx)?)?;
    for (parameter, values) in gradients.weights.iter() {
        pass(&what, backward.tensor(parameter.name, values)?)?;
    }
    let Some(golden) = expected else { return Ok(()) };
    pass(&what, forward.against("y", &y, &golden.y)?)?;
    pass(&what, backward.against("dx", &gradients.dx, &golden.dx)?)?;
    for ((parameter, values), (_, expected)) in gradients.weights.iter().zip(golden.gradients.iter()) {
        pass(&what, backward.against(parameter.name, values, expected)?)?;
    }
    Ok(())
}

fn golden(gpu: &Gpu, kind: Kind, dtype: DType) -> Result<(), Failed> {
    let golden = GoldenModule::of(kind);
    check(&gpu.attention, &golden.weights, &golden.tokens(), &golden.dy, dtype, Some(&golden))
}

/// Sizes that are tails of every tile, on a device with nothing but what WebGPU promises.
fn random(gpu: &Gpu, kind: Kind) -> Result<(), Failed> {
    let mut rng = support::rng();
    let (batch, seq_len) = (2, 19);
    let mut config = Config::new(kind, 40, 6, 3, 24);
    (config.layer_index, config.lambda_bias) = (rng.u32(..12), kind == Kind::DiffV2);
    let start = Weights::random(&config, || rng.f32())?;
    // The norm's weight starts as ones, which would hide where it is left out.
    let weights = Weights::from_fn(&config, |parameter| {
        let values = start.get(parameter.name).unwrap_or_default().iter();
        values.map(|value| if parameter.name == "subln.weight" { value + rng.f32() } else { *value }).collect()
    })?;
    let mut tensor = || (0..batch * seq_len * config.d_model).map(|_| 4.0 * rng.f32() - 2.0).collect::<Vec<f32>>();
    let (x, dy) = (tensor(), tensor());
    check(&gpu.floor, &weights, &HostTokens { batch, seq_len, x: &x }, &dy, DType::F32, None)
}

fn mistakes(gpu: &Gpu) -> Result<(), Failed> {
    let config = Config::new(Kind::Baseline, 16, 2, 1, 8);
    let layer = MultiheadDiffAttention::new(&gpu.attention, &Weights::zeros(&config)?, DType::F32)?;
    let short = layer.forward_blocking(&HostTokens { batch: 1, seq_len: 2, x: &[0.0; 31] });
    assert!(matches!(short, Err(Error::Shape { tensor: "x", .. })), "{short:?}");
    let none = layer.plan_blocking(1, 0, false);
    assert!(matches!(none, Err(Error::Invalid { .. })), "{none:?}");
    let plan = layer.plan_blocking(1, 2, false)?;
    let buffer = layer.plan_blocking(1, 2, true)?.gradient("q_proj.weight").expect("a parameter").buffer.clone();
    let untrained = plan.bind_backward(&buffer, &buffer, &buffer);
    assert!(matches!(untrained, Err(Error::Unsupported { .. })), "{untrained:?}");
    assert!(plan.gradient("q_proj.weight").is_none());
    Ok(())
}
