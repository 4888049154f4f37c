//! What the module costs beside its baseline.

use super::{Claim, DERIVED, TEXT, claim, number, shown};
use diffattn::layer::{Config, Kind};
use diffattn::reference::Judge;
use diffattn::{DType, HostInputs, Options, Problem, Shape, cpu};
use fastrand::Rng;

/// heads, kv_heads, head_dim 128, d_model = heads·head_dim.
fn config(kind: Kind, heads: u32, kv_heads: u32) -> Config {
    Config::new(kind, 128 * heads, heads, kv_heads, 128)
}

pub(super) fn claims() -> Vec<Claim> {
    let (v2, baseline) = (config(Kind::DiffV2, 16, 8), config(Kind::Baseline, 16, 8));
    let v1 = Config { kind: Kind::DiffV1, heads: 8, kv_heads: 4, ..v2 };
    let double = Config { heads: 32, ..baseline };
    let read = |config: &Config| config.decode_elements() as f64 / baseline.decode_elements() as f64;
    let intensity = |config: &Config| config.attention_flops() / (2.0 * config.decode_elements() as f64);
    let output = |config: &Config| f64::from(config.o_width()) * f64::from(config.d_model);
    let attention = |config: &Config| config.attention_flops() / baseline.attention_flops();
    let mut claims = vec![
        number("C1", "bytes that decoding reads, V2 / baseline", read(&v2), (1.0, 0.0), TEXT),
        number("C1", "the same, V1 / baseline", read(&v1), (1.5, 0.0), TEXT),
        number("C2", "FLOP per byte of decode in f16, V2 at 16/8 heads", intensity(&v2), (4.0, 0.0), TEXT),
        number("C2", "the same, baseline", intensity(&baseline), (2.0, 0.0), TEXT),
    ];
    let savings = [(16, 8, 19.84), (32, 8, 22.05), (32, 4, 23.35), (64, 8, 23.35), (16, 1, 24.05)];
    claims.extend(savings.map(|(heads, kv_heads, percent)| {
        let v2 = config(Kind::DiffV2, heads, kv_heads);
        let double = Config { kind: Kind::Baseline, heads: 2 * heads, ..v2 };
        let saved = 100.0 * (1.0 - v2.parameter_count() as f64 / double.parameter_count() as f64);
        let what = format!("% of parameters saved against 2h heads, {heads}/{kv_heads}");
        number("C3", what, saved, (percent, 0.01), DERIVED)
    }));
    let more = |config: &Config| config.parameter_count() as f64 - baseline.parameter_count() as f64;
    let d = f64::from(v2.d_model);
    let middle = Config { heads: 24, ..baseline };
    claims.extend([
        number("C3", "parameters of V2 above its baseline (D² + D·h)", more(&v2), (d * d + d * 16.0, 0.0), DERIVED),
        number("C3", "… and above a baseline of 1.5h heads (D·h)", more(&v2) - more(&middle), (d * 16.0, 0.0), TEXT),
        number("C3", "parameters of V1 above its baseline (6·head_dim)", more(&v1), (768.0, 0.0), DERIVED),
        number("C4", "FLOPs of W_O, V2 / baseline", output(&v2) / output(&baseline), (1.0, 0.0), TEXT),
        number("C4", "FLOPs of W_O, V2 / baseline of 2h heads", output(&v2) / output(&double), (0.5, 0.0), TEXT),
        number("C6", "FLOPs of attention in a long prefill, V2 / baseline", attention(&v2), (2.0, 0.0), TEXT),
        number("C6", "the same, V1 / baseline", attention(&v1), (1.5, 0.0), DERIVED),
    ]);
    claims.extend([shared_cache(), rounding()]);
    claims
}

/// q, k, v of deviation 1 and λ = 0.
fn verdict(shape: Shape, dtype: DType, lam: f32) -> diffattn::reference::Verdict {
    let mut options = Options::default();
    options.causal = true;
    let problem = Problem::new(shape, dtype, options);
    let sizes = diffattn::Sizes::of(&problem).expect("a valid problem");
    let mut rng = Rng::with_seed(11);
    let mut tensor = |len: u64| -> Vec<f32> { (0..len).map(|_| dtype.round(super::normal(&mut rng))).collect() };
    let (q, k, v, lam) = (tensor(sizes.q), tensor(sizes.k), tensor(sizes.v), vec![lam; sizes.lam as usize]);
    let inputs = HostInputs { q: &q, k: &k, v: &v, lam: &lam };
    let out = cpu::forward(&problem, &inputs).expect("a valid problem").out;
    Judge::forward(&problem, &inputs).and_then(|judge| judge.tensor("out", &out)).expect("a valid problem")
}

const SHAPE: Shape = Shape { batch: 1, q_len: 5, kv_len: 96, heads: 4, kv_heads: 2, head_dim: 32, value_dim: 32 };

fn shared_cache() -> Claim {
    let verdict = verdict(SHAPE, DType::F32, 0.0);
    let measured = format!("error {:.1e}", verdict.error);
    let expected = format!("right within {:.1e}", verdict.bound);
    claim("C6", "5 queries over another layer's 96 keys (YOCO)", (measured, expected), TEXT, verdict.passed)
}

/// Both relative to |a₁| + σ·|a₂|.
fn rounding() -> Claim {
    let shape = Shape { q_len: 96, ..SHAPE };
    let [v2, ordinary] = [0.0, -40.0].map(|lam| verdict(shape, DType::Bf16, lam).error);
    let what = "bf16 error of V2, of an equally sharp softmax";
    let measured = format!("{}, {}", shown(v2), shown(ordinary));
    claim("C8", what, (measured, "at most as large, × 1.5"), TEXT, v2 <= 1.5 * ordinary)
}
