//! What the operation is: pairs, gates, and the ordinary attentions that it equals.

use super::{Claim, DERIVED, MODULE, TEXT, claim, normals, number, relative_difference, same};
use diffattn::layer::{Config, HostTokens, Kind, Weights};
use diffattn::reference::Truth;
use diffattn::{DType, Error, HostInputs, Options, Problem, Shape, cpu, reference};
use fastrand::Rng;

const HEAD_DIM: u32 = 16;

pub(super) fn claims() -> Vec<Claim> {
    let mut rng = Rng::with_seed(2);
    let mut claims = vec![refused(), read_by_halves()];
    claims.extend([1, 2].map(|kv_heads| halves(kv_heads, &mut rng)));
    claims.extend([first_head_alone(&mut rng), saturated(&mut rng), identical_pair(&mut rng)]);
    claims.extend([flipped_output(&mut rng), row_sums(), one_gate(&mut rng), same_attention()]);
    claims
}

fn problem(heads: u32, kv_heads: u32) -> Problem {
    let len = 24;
    let shape = Shape { batch: 1, q_len: len, kv_len: len, heads, kv_heads, head_dim: HEAD_DIM, value_dim: HEAD_DIM };
    let mut options = Options::default();
    options.causal = true;
    Problem::new(shape, DType::F32, options)
}

/// Random inputs of a problem.
struct Tensors {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    lam: Vec<f32>,
}

impl Tensors {
    fn random(problem: &Problem, rng: &mut Rng) -> Self {
        let sizes = diffattn::Sizes::of(problem).expect("a valid problem");
        let [q, k, v, lam] = [sizes.q, sizes.k, sizes.v, sizes.lam].map(|len| normals(rng, len as usize));
        Tensors { q, k, v, lam }
    }

    fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }

    fn out(&self, problem: &Problem) -> Vec<f32> {
        cpu::forward(problem, &self.inputs()).expect("a valid problem").out
    }

    fn truth(&self, problem: &Problem) -> Truth {
        reference::forward(problem, &self.inputs()).expect("a valid problem")
    }
}

fn refused() -> Claim {
    let error = problem(3, 2).validate();
    let measured = if matches!(error, Err(Error::HeadGroups { .. })) { "refused" } else { "accepted" };
    let what = "3 heads over 2 KV heads, where a pair would read two of them";
    claim("O1", what, (measured, "refused"), TEXT, measured == "refused")
}

fn read_by_halves() -> Claim {
    let (heads, kv_heads) = (4, 2);
    let kv_head = |query_head: u32| query_head / (2 * heads / kv_heads);
    let crossing = |pair: &dyn Fn(u32) -> [u32; 2]| {
        (0..heads).map(pair).filter(|[first, second]| kv_head(*first) != kv_head(*second)).count()
    };
    let (right, halves) = (crossing(&|j| [2 * j, 2 * j + 1]), crossing(&|j| [j, j + heads]));
    let measured = format!("{right} of 4 by (2j, 2j+1), {halves} of 4 by halves");
    let what = "pairs that read two KV heads, of 8 query heads over 2";
    claim("O1", what, (measured, "0 and 4"), TEXT, (right, halves) == (0, 4))
}

/// First half minus second half of the heads of an ordinary attention, against pairs made of those heads.
fn halves(kv_heads: u32, rng: &mut Rng) -> Claim {
    let (heads, dim) = (4, HEAD_DIM as usize);
    let problem = problem(heads, kv_heads);
    let tensors = Tensors::random(&problem, rng);
    // The members of (2j, 2j+1) are the heads of an ordinary attention with 2·heads.
    let Truth { a1, a2, .. } = tensors.truth(&problem);
    let heads = heads as usize;
    let head = |token: usize, i: usize| {
        let member = [&a1, &a2][i % 2];
        &member[(token * heads + i / 2) * dim..][..dim]
    };
    let mut split = vec![];
    for token in 0..problem.shape.q_len as usize {
        for j in 0..heads {
            let gate = 1.0 / (1.0 + f64::from(-tensors.lam[token * heads + j]).exp());
            let members = head(token, j).iter().zip(head(token, j + heads));
            split.extend(members.map(|(first, second)| (first - gate * second) as f32));
        }
    }
    let mut q = vec![];
    for token in tensors.q.chunks_exact(2 * heads * dim) {
        let (first, second) = token.split_at(heads * dim);
        let pairs = first.chunks_exact(dim).zip(second.chunks_exact(dim));
        q.extend(pairs.flat_map(|(first, second)| [first, second]).flatten());
    }
    let difference = relative_difference(&split, &Tensors { q, ..tensors }.out(&problem));
    let harmless = kv_heads == 1;
    let expected = if harmless { "0, within 1e-5" } else { "another result (above 0.1)" };
    let holds = if harmless { difference <= 1e-5 } else { difference > 0.1 };
    let what = format!("halves of the heads subtracted instead of pairs, kv_heads {kv_heads}");
    claim("O2", what, (format!("differ by {difference:.1e}"), expected), DERIVED, holds)
}

/// A V2 module whose gate does not depend on the token, random but for that.
fn constant_gate(lam: f32, rng: &mut Rng) -> Weights {
    let config = Config { lambda_bias: true, ..Config::new(Kind::DiffV2, 64, 4, 2, HEAD_DIM) };
    let weights = Weights::random(&config, || rng.f32()).expect("a valid module").zero_lambda();
    let with_bias = Weights::from_fn(&config, |parameter| match parameter.name {
        "lambda_proj.bias" => vec![lam; parameter.len()],
        name => weights.get(name).expect(name).to_vec(),
    });
    with_bias.expect("a valid module")
}

fn y(weights: &Weights, x: &[f32]) -> Vec<f32> {
    let tokens = HostTokens { batch: 1, seq_len: 24, x };
    cpu::layer::forward(weights, &tokens, DType::F32).expect("a valid module")
}

/// Rows of q_proj of every other query head.
fn even_heads(q_proj: &[f32], d_model: u32) -> Vec<f32> {
    q_proj.chunks_exact((HEAD_DIM * d_model) as usize).step_by(2).flatten().copied().collect()
}

fn first_head_alone(rng: &mut Rng) -> Claim {
    let v2 = constant_gate(-40.0, rng);
    let config = Config { kind: Kind::Baseline, lambda_bias: false, ..*v2.config() };
    let baseline = Weights::from_fn(&config, |parameter| match parameter.name {
        "q_proj.weight" => even_heads(v2.q_proj(), config.d_model),
        name => v2.get(name).expect(name).to_vec(),
    });
    let x = normals(rng, 24 * 64);
    let what = "λ → −∞ (−40): the module is the baseline with the first query head of every pair";
    same("O3", what, &y(&v2, &x), &y(&baseline.expect("a valid module"), &x), MODULE)
}

fn saturated(rng: &mut Rng) -> Claim {
    let problem = problem(4, 2);
    let mut tensors = Tensors::random(&problem, rng);
    tensors.lam.fill(40.0);
    let Truth { a1, a2, .. } = tensors.truth(&problem);
    let difference: Vec<f32> = a1.iter().zip(&a2).map(|(a1, a2)| (a1 - a2) as f32).collect();
    same("O4", "λ → +∞ (40): a₁ − a₂, their second ablation", &tensors.out(&problem), &difference, TEXT)
}

fn identical_pair(rng: &mut Rng) -> Claim {
    let problem = problem(4, 2);
    let mut tensors = Tensors::random(&problem, rng);
    let dim = HEAD_DIM as usize;
    tensors.q.chunks_exact_mut(2 * dim).for_each(|pair| pair.copy_within(..dim, dim));
    tensors.lam.fill(1.0);
    let gate = 1.0 / (1.0 + (-1f64).exp());
    let scaled: Vec<f32> = tensors.truth(&problem).a1.iter().map(|a1| ((1.0 - gate) * a1) as f32).collect();
    same("O5", "both members alike: (1 − σ)·a₁", &tensors.out(&problem), &scaled, DERIVED)
}

fn flipped_output(rng: &mut Rng) -> Claim {
    let lam = 0.7;
    let gate = 1.0 / (1.0 + f32::exp(-lam));
    let v2 = constant_gate(lam, rng);
    let config = Config { kind: Kind::Baseline, heads: 8, lambda_bias: false, ..*v2.config() };
    let double = Weights::from_fn(&config, |parameter| match parameter.name {
        "o_proj.weight" => {
            let heads = v2.o_proj().chunks_exact(HEAD_DIM as usize);
            heads.flat_map(|head| head.iter().copied().chain(head.iter().map(|w| -gate * w))).collect()
        }
        name => v2.get(name).expect(name).to_vec(),
    });
    let x = normals(rng, 24 * 64);
    let what = "constant σ: an ordinary 2h-head module with W_O of head 2i+1 = −σ × that of head 2i";
    same("O6", what, &y(&v2, &x), &y(&double.expect("a valid module"), &x), TEXT)
}

fn row_sums() -> Claim {
    let mut rng = Rng::with_seed(7);
    let (first, second) = (normals(&mut rng, 64), normals(&mut rng, 64));
    let weights = super::magnitude::weights(&first, &second, 2.0);
    let (sum, gate) = (weights.iter().sum::<f32>(), 1.0 / (1.0 + (-2f32).exp()));
    let negative = weights.iter().filter(|weight| **weight < 0.0).count();
    let measured = format!("{sum:.4}, {negative} of 64 negative");
    let expected = format!("{:.4}, some negative", 1.0 - gate);
    let holds = (sum - (1.0 - gate)).abs() < 1e-5 && negative > 0;
    claim("O7", "a row of weights at λ = 2 sums to 1 − σ, not to 1", (measured, expected), DERIVED, holds)
}

fn one_gate(rng: &mut Rng) -> Claim {
    let problem = problem(4, 2);
    let mut tensors = Tensors::random(&problem, rng);
    let before = tensors.out(&problem);
    tensors.lam[17] += 1.0;
    let after = tensors.out(&problem);
    let dim = HEAD_DIM as usize;
    let rows = before.chunks_exact(dim).zip(after.chunks_exact(dim)).enumerate();
    let changed: Vec<_> = rows.filter(|(_, (before, after))| before != after).map(|(row, _)| row).collect();
    let measured = format!("rows {changed:?} of {}", before.len() / dim);
    claim("O8", "output vectors changed by one λ (token 4, head 1)", (measured, "row [17]"), MODULE, changed == [17])
}

fn same_attention() -> Claim {
    let config = |kind, heads| Config::new(kind, 4096, heads, 8, 128);
    let ratio = config(Kind::DiffV2, 32).attention_flops() / config(Kind::Baseline, 64).attention_flops();
    number("O9", "FLOPs of attention, of an ordinary one with 2h heads", ratio, (1.0, 0.0), TEXT)
}
