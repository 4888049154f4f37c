//! The attention module, of every kind: golden files and random sizes, judged by the float64 reference.

use crate::device::Gpu;
use crate::support::{self, GoldenModule};
use crate::{Case, case};
use diffattn::layer::{Config, HostTokens, Kind, MultiheadDiffAttention, Weights};
use diffattn::reference::{Judge, Verdict};
use diffattn::{DType, DiffAttention, Error, Path, read_buffer, wgpu};
use libtest_mimic::Failed;
use wgpu::util::DeviceExt as _;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for kind in Kind::ALL {
        for dtype in DType::ALL {
            cases.push(case(format!("layer::golden::{}::{}", kind.name(), dtype.name()), move |gpu| {
                golden(gpu, kind, dtype, None)
            }));
        }
        cases.push(case(format!("layer::random::{}", kind.name()), move |gpu| random(gpu, kind)));
    }
    for (kind, dtype) in [(Kind::DiffV2, DType::F32), (Kind::Baseline, DType::F32), (Kind::DiffV1, DType::F16)] {
        cases.push(case(format!("layer::decode::{}::{}", kind.name(), dtype.name()), move |gpu| {
            decode(gpu, kind, dtype)
        }));
    }
    cases.push(case("layer::mistakes", mistakes));
    cases
}

/// The golden files with the products on matrix units, for adapters that have them.
pub fn matrix_cases() -> Vec<Case> {
    let types = [DType::F16, DType::Bf16];
    let each = Kind::ALL.into_iter().flat_map(|kind| types.map(|dtype| (kind, dtype)));
    let name = |kind: Kind, dtype: DType| format!("matrix::layer::{}::{}", kind.name(), dtype.name());
    each.map(|(kind, dtype)| case(name(kind, dtype), move |gpu| golden(gpu, kind, dtype, Some(Path::Matrix)))).collect()
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
    products: Option<Path>,
) -> Result<(), Failed> {
    let what = format!("{} {}", weights.config(), dtype.name());
    let mut layer = MultiheadDiffAttention::new(attention, weights, dtype)?;
    if let Some(path) = products {
        layer = layer.with_products_on(path);
        let labels = layer.plan_blocking(tokens.batch, tokens.seq_len, true)?.labels();
        // All but the gradient through λ, which is f32, and gradients in bf16.
        for label in labels.iter().filter(|label| label.contains(".matmul.")) {
            let gradient = !label.contains(".nt.");
            let able = !gradient || (dtype == DType::F16 && !label.contains(".a32"));
            assert_eq!(label.ends_with(path.name()), able, "{label}");
        }
        assert!(labels.iter().any(|label| label.contains(".matmul.nt.")), "{labels:?}");
    }
    let forward = Judge::layer_forward(weights, tokens, dtype)?;
    let y = layer.forward_blocking(tokens)?;
    pass(&what, forward.tensor("y", &y)?)?;
    if let Some(golden) = expected {
        pass(&what, forward.against("y", &y, &golden.y)?)?;
    }
    if dtype == DType::Bf16 || products.is_some() {
        // The gradients in bf16 differ from those in f16 in nothing but the fragment that the forward has as well, and
        // drivers with matrix units compile long: their products are tested apart.
        return Ok(());
    }
    let (again, gradients) = layer.backward_blocking(tokens, dy)?;
    pass(&what, forward.tensor("y", &again)?)?;
    let backward = Judge::layer_backward(weights, tokens, dy, dtype)?;
    pass(&what, backward.tensor("dx", &gradients.dx)?)?;
    for (parameter, values) in gradients.weights.iter() {
        pass(&what, backward.tensor(parameter.name, values)?)?;
    }
    let Some(golden) = expected else { return Ok(()) };
    pass(&what, backward.against("dx", &gradients.dx, &golden.dx)?)?;
    for ((parameter, values), (_, expected)) in gradients.weights.iter().zip(golden.gradients.iter()) {
        pass(&what, backward.against(parameter.name, values, expected)?)?;
    }
    Ok(())
}

fn golden(gpu: &Gpu, kind: Kind, dtype: DType, products: Option<Path>) -> Result<(), Failed> {
    let golden = GoldenModule::of(kind);
    check(&gpu.attention, &golden.weights, &golden.tokens(), &golden.dy, dtype, Some(&golden), products)
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
    check(&gpu.floor, &weights, &HostTokens { batch, seq_len, x: &x }, &dy, DType::F32, None, None)
}

/// A prompt, then steps of one token (and one of three): every y is that of one pass over all tokens.
fn decode(gpu: &Gpu, kind: Kind, dtype: DType) -> Result<(), Failed> {
    let golden = GoldenModule::of(kind);
    let config = golden.weights.config();
    let (batch, seq_len, d_model) = (golden.batch, golden.seq_len, config.d_model as usize);
    let layer = MultiheadDiffAttention::new(&gpu.attention, &golden.weights, dtype)?;
    let (device, queue) = (gpu.attention.device(), gpu.attention.queue());
    let mut cache = pollster::block_on(layer.cache(batch, seq_len, batch * seq_len))?;
    let ids = [cache.create()?, cache.create()?];
    let mut y = vec![f32::NAN; golden.x.len()];
    let row = |b: u32, position: u32| (b * seq_len + position) as usize * d_model;
    let mut first = 0;
    let mut planned = None;
    for tokens in [20, 3].into_iter().chain(std::iter::repeat_n(1, seq_len as usize - 23)) {
        // The tokens of a step, sequence by sequence.
        let rows: Vec<usize> = (0..batch).flat_map(|b| (first..first + tokens).map(move |p| row(b, p))).collect();
        let x: Vec<f32> = rows.iter().flat_map(|&row| golden.x[row..row + d_model].to_vec()).collect();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let place = |values: &[f32]| {
            let contents = dtype.encode(values);
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: &contents, usage })
        };
        let (input, output) = (place(&x), place(&vec![f32::NAN; x.len()]));
        if planned.as_ref().is_none_or(|(of, _)| *of != tokens) {
            planned = Some((tokens, pollster::block_on(layer.plan_step(&cache, batch, tokens))?));
        }
        let (_, plan) = planned.as_ref().expect("planned above");
        let pass = plan.bind(&cache, &input, &output)?;
        let mut encoder = device.create_command_encoder(&Default::default());
        cache.advance(&mut encoder, &ids.map(|id| (id, tokens)))?;
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()), &cache)?;
        queue.submit([encoder.finish()]);
        let values = dtype.decode(&pollster::block_on(read_buffer(device, queue, &output))?);
        for (&row, values) in rows.iter().zip(values.chunks_exact(d_model)) {
            y[row..row + d_model].copy_from_slice(values);
        }
        first += tokens;
        if tokens == 20 {
            let mut encoder = device.create_command_encoder(&Default::default());
            let again = pass.encode(&mut encoder.begin_compute_pass(&Default::default()), &cache);
            again?;
            cache.advance(&mut encoder, &[])?;
            let none = pass.encode(&mut encoder.begin_compute_pass(&Default::default()), &cache);
            assert!(matches!(none, Err(Error::Invalid { name: "step", .. })), "{none:?}");
        }
    }
    assert_eq!(cache.len(ids[1])?, seq_len);
    let judge = Judge::layer_forward(&golden.weights, &golden.tokens(), dtype)?;
    pass(&format!("{config} {}", dtype.name()), judge.tensor("y", &y)?)?;
    // A cache that forgot, or a position that is off by one, would not pass.
    y.rotate_right(d_model);
    assert!(!judge.tensor("y", &y)?.passed);
    Ok(())
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
