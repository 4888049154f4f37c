//! What the page shows: a short text, queries and keys built so that their scores are known, and what they add up to.
//!
//! No trained model: the scores of a query are a sum of what the presets name. With the scale 1/√64 that the kernels
//! use, a key feature of 1 and a query feature of 8·x give a score of x.
//!
//! * the sink: every query scores the first token alike;
//! * the needle: queries of the question score the answer, in the first map only;
//! * noise: normally distributed scores, of which the two maps share a part.

use diffattn::{DType, HostInputs, HostOutputs, Options, Problem, Shape};

use crate::text::Text;

/// Elements of a key.
pub const HEAD_DIM: usize = 64;
/// Score of one unit, as a query feature: 1/scale.
const UNIT: f32 = 8.0;
/// Features of keys: sink, one needle for each head, then the directions of noise.
const SINK: usize = 0;
const NEEDLE: usize = 1;
const NOISE: usize = 3;
/// λ of a gate that is shut: sigmoid(−80) is below the smallest normal f32.
const SHUT: f32 = -80.0;
/// The constant λ that DIFF V1 starts from in its twelfth layer: 0.8 − 0.6·exp(−0.3·11).
pub const V1_LAMBDA: f32 = 0.7779;

/// Heads that are shown.
pub const HEADS: usize = 2;

/// What the scores are made of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Recipe {
    /// Score of the answer in the first map and in the second.
    pub needle: [f32; 2],
    /// Score of another answer, the same in both maps.
    pub second_needle: f32,
    /// Score of the first token in the first map and in the second.
    pub sink: [f32; 2],
    /// Standard deviation of the scores' noise.
    pub noise: f32,
    /// The part of the noise that both maps share, 0 to 1 (their correlation).
    pub shared: f32,
}

impl Recipe {
    /// The preset of this name; the first one for any other.
    pub fn preset(name: &str) -> Self {
        let needle = Recipe { needle: [4.0, 0.0], second_needle: 0.0, sink: [4.0; 2], noise: 1.0, shared: 0.95 };
        match name {
            "sink" => Recipe { needle: [0.0; 2], sink: [5.0; 2], noise: 0.5, ..needle },
            "two" => Recipe { second_needle: 4.0, ..needle },
            "noise" => Recipe { needle: [0.0; 2], sink: [0.0; 2], shared: 1.0, ..needle },
            "apart" => Recipe { sink: [4.0, 0.0], shared: 0.0, ..needle },
            _ => needle,
        }
    }
}

/// The tensors of a scene, and where in the text to look.
#[derive(Debug, Clone)]
pub struct Scene {
    /// The words.
    pub text: Text,
    /// 1 × n × 12 × 64: for each head the pair three times, since each has three kinds of gate.
    pub q: Vec<f32>,
    /// 1 × n × 2 × 64.
    pub k: Vec<f32>,
    /// 1 × n × 2 × n: √n times the identity, so that an output divided by √n is a row of weights.
    pub v: Vec<f32>,
}

/// The gates that a head is computed with, in the order of the kernel's output heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Shut: the first map alone, ordinary attention.
    Ordinary,
    /// One constant for all tokens: DIFF V1, before its norm.
    V1,
    /// What the slider says.
    V2,
}

impl Gate {
    /// In the order of the output heads.
    pub const ALL: [Gate; 3] = [Gate::Ordinary, Gate::V1, Gate::V2];

    fn logit(self, lam: f32) -> f32 {
        match self {
            Gate::Ordinary => SHUT,
            Gate::V1 => (V1_LAMBDA / (1.0 - V1_LAMBDA)).ln(),
            Gate::V2 => lam,
        }
    }
}

/// Where the noise comes from.
#[derive(Debug)]
pub struct Random(fastrand::Rng);

impl Random {
    /// The same numbers for the same seed, on every machine.
    pub fn new(seed: u64) -> Self {
        Random(fastrand::Rng::with_seed(seed))
    }

    /// Normally distributed numbers for the directions of noise (Box and Muller).
    fn noise(&mut self) -> [f32; HEAD_DIM - NOISE] {
        std::array::from_fn(|_| {
            let (radius, angle) = (1.0 - self.0.f32(), self.0.f32());
            (-2.0 * radius.ln()).sqrt() * (std::f32::consts::TAU * angle).cos()
        })
    }
}

/// Both queries of one token of one head.
pub fn pair(recipe: &Recipe, head: usize, asks: bool, random: &mut Random) -> [[f32; HEAD_DIM]; 2] {
    let common = random.noise();
    [0, 1].map(|member| {
        let own = random.noise();
        let mut q = [0.0; HEAD_DIM];
        q[SINK] = UNIT * recipe.sink[member];
        if asks {
            q[NEEDLE + head] = UNIT * recipe.needle[member];
            q[NEEDLE + (head + 1) % HEADS] = UNIT * recipe.second_needle;
        }
        let spread = UNIT * recipe.noise / (own.len() as f32).sqrt();
        for (q, (common, own)) in q[NOISE..].iter_mut().zip(common.iter().zip(own)) {
            *q = spread * (recipe.shared.sqrt() * common + (1.0 - recipe.shared).sqrt() * own);
        }
        q
    })
}

/// The key of token `j`.
pub fn key(text: &Text, j: usize, random: &mut Random) -> [f32; HEAD_DIM] {
    let mut k = [0.0; HEAD_DIM];
    k[SINK] = f32::from(j == 0);
    for head in 0..HEADS {
        k[NEEDLE + head] = f32::from(j == text.answers[head]);
    }
    k[NOISE..].copy_from_slice(&random.noise());
    k
}

/// √n times the identity, for each of `kv_heads`.
pub fn values(n: usize, kv_heads: usize) -> Vec<f32> {
    let mut v = vec![0.0; n * kv_heads * n];
    for (row, v) in v.chunks_exact_mut(n).enumerate() {
        v[row / kv_heads] = (n as f32).sqrt();
    }
    v
}

/// A causal problem over `n` tokens with all outputs, whose values are [`values`].
pub fn problem(n: usize, heads: usize, kv_heads: usize) -> Problem {
    let [n, heads, kv_heads] = [n, heads, kv_heads].map(|count| count as u32);
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    let shape = Shape { batch: 1, q_len: n, kv_len: n, heads, kv_heads, head_dim: HEAD_DIM as u32, value_dim: n };
    Problem::new(shape, DType::F32, options)
}

impl Scene {
    /// A scene of `n` tokens, a multiple of 8 from 16 to 256.
    pub fn new(recipe: &Recipe, n: usize, seed: u64) -> Self {
        let text = Text::new(n);
        let mut random = Random::new(seed);
        let k = (0..n * HEADS).flat_map(|row| key(&text, row / HEADS, &mut random)).collect();
        let mut q = Vec::new();
        for i in 0..n {
            for head in 0..HEADS {
                let pair = pair(recipe, head, i >= text.question, &mut random).concat();
                q.extend(Gate::ALL.iter().flat_map(|_| pair.iter().copied()));
            }
        }
        Scene { text, q, k, v: values(n, HEADS) }
    }

    /// Number of tokens.
    pub fn n(&self) -> usize {
        self.text.words.len()
    }

    /// The problem that the kernel is given.
    pub fn problem(&self) -> Problem {
        problem(self.n(), HEADS * Gate::ALL.len(), HEADS)
    }

    /// λ of every token and output head, from that of each shown head.
    pub fn lam(&self, lam: [f32; HEADS]) -> Vec<f32> {
        let token = lam.iter().flat_map(|&lam| Gate::ALL.map(|gate| gate.logit(lam)));
        token.collect::<Vec<_>>().repeat(self.n())
    }

    /// The inputs, with what [`Scene::lam`] gives.
    pub fn inputs<'a>(&'a self, lam: &'a [f32]) -> HostInputs<'a> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam }
    }
}

/// The weights of one output head: n × n, row by row, out of a tensor that is n × heads × n.
pub fn weights(tensor: &[f32], n: usize, heads: usize, head: usize) -> Vec<f32> {
    let unit = (n as f32).sqrt().recip();
    let row = |i: usize| &tensor[(i * heads + head) * n..][..n];
    (0..n).flat_map(row).map(|value| value * unit).collect()
}

/// What a row of weights adds up to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sums {
    /// On the answer.
    pub needle: f32,
    /// On the first token.
    pub sink: f32,
    /// On everything else, absolute.
    pub noise: f32,
    /// Root mean square of the context, for values of unit mean square: √Σw².
    pub rms: f32,
}

impl Sums {
    /// Of one row, whose answer is at `answer`.
    pub fn of(weights: &[f32], answer: usize) -> Self {
        let others = weights.iter().enumerate().filter(|(j, _)| *j != 0 && *j != answer);
        Sums {
            needle: weights[answer],
            sink: weights[0],
            noise: others.map(|(_, weight)| weight.abs()).sum(),
            rms: weights.iter().map(|weight| weight * weight).sum::<f32>().sqrt(),
        }
    }
}

/// σ* = exp(LSE₂ − LSE₁): the gate that cancels what both maps have in common. Above 1 no gate can.
pub fn cancelling_gate(outputs: &HostOutputs, n: usize, head: usize, i: usize) -> f32 {
    let lse = outputs.lse.as_deref().unwrap_or_default();
    let of = |member: usize| lse[(2 * head + member) * n + i];
    (of(1) - of(0)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;
    use diffattn::reference::Judge;

    const LAST: usize = 31;

    /// The outputs of a preset of 32 words, in which the maps share all noise or nothing, and which the reference has
    /// accepted.
    fn outputs(preset: &str, lam: f32) -> HostOutputs {
        let recipe = Recipe::preset(preset);
        let scene = Scene::new(&Recipe { shared: recipe.shared.round(), ..recipe }, 32, 7);
        let gates = scene.lam([lam; HEADS]);
        let outputs = diffattn::cpu::forward(&scene.problem(), &scene.inputs(&gates)).unwrap();
        let judge = Judge::forward(&scene.problem(), &scene.inputs(&gates)).unwrap();
        assert!(judge.outputs(&outputs).unwrap().iter().all(|verdict| verdict.passed));
        outputs
    }

    /// The last row of the first head.
    fn row(outputs: &HostOutputs, gate: Gate) -> Vec<f32> {
        let map = weights(&outputs.out, 32, HEADS * Gate::ALL.len(), gate as usize);
        map[LAST * 32..].to_vec()
    }

    fn sums(outputs: &HostOutputs, gate: Gate) -> Sums {
        Sums::of(&row(outputs, gate), Text::new(32).answers[0])
    }

    #[test]
    fn rows_sum_to_one_less_the_gate() {
        let outputs = outputs("needle", 0.5);
        for (gate, sigma) in [(Gate::Ordinary, 0.0), (Gate::V1, V1_LAMBDA), (Gate::V2, 1.0 / (1.0 + (-0.5f32).exp()))] {
            let sum: f32 = row(&outputs, gate).iter().sum();
            assert!((sum - (1.0 - sigma)).abs() < 1e-5, "{gate:?}: {sum}");
        }
    }

    #[test]
    fn the_gate_cancels_what_is_shared_and_keeps_the_answer() {
        let star = cancelling_gate(&outputs("needle", 0.0), 32, 0, LAST);
        let outputs = outputs("needle", (star / (1.0 - star)).ln());
        let (ordinary, v2) = (sums(&outputs, Gate::Ordinary), sums(&outputs, Gate::V2));
        assert!(v2.sink.abs() < 1e-5 && ordinary.sink > 0.1, "{ordinary:?} {v2:?}");
        assert!(v2.needle > 0.95 * ordinary.needle && v2.noise < 1e-4, "{ordinary:?} {v2:?}");
    }

    #[test]
    fn two_equal_maps_leave_nothing() {
        let outputs = outputs("noise", 20.0);
        assert!(sums(&outputs, Gate::V2).rms < 1e-5 && sums(&outputs, Gate::Ordinary).rms > 1.0 / 32f32.sqrt());
    }

    #[test]
    fn maps_without_anything_in_common_gain_nothing() {
        let outputs = outputs("apart", 0.0);
        assert!(sums(&outputs, Gate::V2).noise > sums(&outputs, Gate::Ordinary).noise);
    }
}
