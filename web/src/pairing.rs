//! The second panel: what happens when the members of a pair read different KV heads.
//!
//! Two pairs of query heads and one or two KV heads. The queries of a pair have most of their noise in common, as
//! training would make them. Neighbours (0, 1), (2, 3) always read one KV head. Halves (0, 2), (1, 3) read two of them
//! unless there is only one; the kernel has no such wiring, so it is given neighbours that are halves, asked for both
//! softmax maps of each, and the subtraction across is done here.

use diffattn::HostInputs;
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::explain::explain;
use crate::scene::{self, HEADS, Random, Recipe, Sums};
use crate::text::Text;

/// One wiring, computed.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Wiring {
    n: usize,
    weights: Vec<f32>,
    answer: usize,
}

#[wasm_bindgen]
impl Wiring {
    /// The n × n difference map of the first pair.
    #[wasm_bindgen(getter)]
    pub fn weights(&self) -> Vec<f32> {
        self.weights.clone()
    }

    /// Needle, sink, noise and root mean square of row `i`.
    pub fn sums(&self, i: usize) -> Vec<f32> {
        let Sums { needle, sink, noise, rms } = Sums::of(&self.weights[i * self.n..][..self.n], self.answer);
        vec![needle, sink, noise, rms]
    }
}

/// Computes the first pair's difference map; `halves` pairs query head j with j + 2 instead of with its neighbour.
///
/// # Errors
/// Those of the library.
#[wasm_bindgen]
pub async fn wire(
    engine: &Engine,
    halves: bool,
    kv_heads: usize,
    n: usize,
    lam: f32,
    seed: u32,
) -> Result<Wiring, JsValue> {
    let text = Text::new(n);
    let (q, k) = tensors(&text, halves, kv_heads, seed);
    let (problem, v) = (scene::problem(n, HEADS, kv_heads), scene::values(n, kv_heads));
    let gates = vec![lam; n * HEADS];
    let inputs = HostInputs { q: &q, k: &k, v: &v, lam: &gates };
    let (outputs, _) = engine.forward(&problem, &inputs, None).await.map_err(explain)?;
    let gate = 1.0 / (1.0 + (-lam).exp());
    let [fused, second] = [&outputs.out[..], outputs.a2.as_deref().unwrap_or_default()];
    let weights = if halves {
        // First members of the kernel's pairs are out + gate·a₂; they are heads 0 and 2 of the four.
        let first = |head| {
            let [out, a2] = [fused, second].map(|tensor| scene::weights(tensor, n, HEADS, head));
            out.into_iter().zip(a2).map(move |(out, a2)| out + gate * a2)
        };
        first(0).zip(first(1)).map(|(plus, minus)| plus - gate * minus).collect()
    } else {
        scene::weights(fused, n, HEADS, 0)
    };
    Ok(Wiring { n, weights, answer: text.answers[0] })
}

/// q: n × 4 × 64, and k: n × kv_heads × 64.
fn tensors(text: &Text, halves: bool, kv_heads: usize, seed: u32) -> (Vec<f32>, Vec<f32>) {
    let recipe = Recipe::preset("needle");
    let mut random = Random::new(seed.into());
    let mut k = Vec::new();
    for j in 0..text.words.len() {
        // Always as many draws, so that both wirings and both numbers of KV heads look at the same keys.
        let keys = [(); HEADS].map(|()| scene::key(text, j, &mut random));
        k.extend(keys[..kv_heads].concat());
    }
    let mut q = Vec::new();
    for i in 0..text.words.len() {
        let [first, second] = [0, 1].map(|head| scene::pair(&recipe, head, i >= text.question, &mut random));
        let order = if halves {
            [first[0], second[0], first[1], second[1]]
        } else {
            [first[0], first[1], second[0], second[1]]
        };
        q.extend(order.concat());
    }
    (q, k)
}
