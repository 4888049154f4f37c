//! The first panel: the maps of a scene, and what a row of them adds up to.

use diffattn::HostOutputs;
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::explain::explain;
use crate::scene::{self, Gate, HEADS, Recipe, Scene, Sums, V1_LAMBDA};

/// A scene that can be computed with any gates.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Idea {
    scene: Scene,
}

/// What the sliders say when a preset is chosen: noise, and the part that is shared.
#[wasm_bindgen(js_name = presetNoise)]
pub fn preset_noise(name: &str) -> Vec<f32> {
    let recipe = Recipe::preset(name);
    vec![recipe.noise, recipe.shared]
}

#[wasm_bindgen]
impl Idea {
    /// The scene of a preset, with the noise, shared part and length that the sliders say.
    #[wasm_bindgen(constructor)]
    pub fn new(preset: &str, noise: f32, shared: f32, n: usize, seed: u32) -> Idea {
        let recipe = Recipe { noise, shared, ..Recipe::preset(preset) };
        Idea { scene: Scene::new(&recipe, n, seed.into()) }
    }

    /// The words, one for each token.
    #[wasm_bindgen(getter)]
    pub fn words(&self) -> Vec<String> {
        self.scene.text.words.iter().map(|word| word.to_string()).collect()
    }

    /// First token of the question.
    #[wasm_bindgen(getter)]
    pub fn question(&self) -> usize {
        self.scene.text.question
    }

    /// The token that answers, for each head.
    #[wasm_bindgen(getter)]
    pub fn answers(&self) -> Vec<usize> {
        self.scene.text.answers.to_vec()
    }

    /// Computes every map of every head; `lam` has one logit for each head.
    ///
    /// # Errors
    /// Those of the library.
    pub async fn compute(&self, engine: &Engine, lam: Vec<f32>) -> Result<Maps, JsValue> {
        let lam: [f32; HEADS] = lam.try_into().map_err(|_| JsValue::from("one λ for each head is needed"))?;
        let gates = self.scene.lam(lam);
        let (problem, inputs) = (self.scene.problem(), self.scene.inputs(&gates));
        let (outputs, label) = engine.forward(&problem, &inputs, None).await.map_err(explain)?;
        Ok(Maps { n: self.scene.n(), answers: self.scene.text.answers, gates: gates.clone(), outputs, label })
    }

    /// The tensors q, k, v of the kernel's input, in the order of [`diffattn::HostInputs`].
    pub fn tensors(&self) -> Vec<js_sys::Float32Array> {
        [&self.scene.q, &self.scene.k, &self.scene.v].map(|tensor| tensor[..].into()).to_vec()
    }
}

/// The kernel's outputs for a scene.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Maps {
    n: usize,
    answers: [usize; HEADS],
    gates: Vec<f32>,
    outputs: HostOutputs,
    label: String,
}

/// Output heads of the kernel.
const OUTPUTS: usize = HEADS * Gate::ALL.len();

#[wasm_bindgen]
impl Maps {
    /// The kernel that computed them.
    #[wasm_bindgen(getter)]
    pub fn label(&self) -> String {
        self.label.clone()
    }

    /// Four n × n maps of a head, one after another: ordinary attention (the first softmax), DIFF V1, DIFF V2, and the
    /// second softmax.
    pub fn weights(&self, head: usize) -> Vec<f32> {
        let map = |tensor: &[f32], gate: usize| scene::weights(tensor, self.n, OUTPUTS, head * Gate::ALL.len() + gate);
        let second = self.outputs.a2.as_deref().unwrap_or_default();
        [map(&self.outputs.out, 0), map(&self.outputs.out, 1), map(&self.outputs.out, 2), map(second, 2)].concat()
    }

    /// Needle, sink, noise and root mean square of a row, for each of the first three maps: twelve numbers.
    pub fn sums(&self, head: usize, i: usize) -> Vec<f32> {
        let maps = self.weights(head);
        let rows = (0..Gate::ALL.len()).map(|map| &maps[(map * self.n + i) * self.n..][..self.n]);
        let sums = rows.map(|row| Sums::of(row, self.answers[head]));
        sums.flat_map(|Sums { needle, sink, noise, rms }| [needle, sink, noise, rms]).collect()
    }

    /// σ*, the gate that cancels what both maps of a row have in common.
    #[wasm_bindgen(js_name = cancellingGate)]
    pub fn cancelling_gate(&self, head: usize, i: usize) -> f32 {
        scene::cancelling_gate(&self.outputs, self.n, head * Gate::ALL.len(), i)
    }

    /// The tensors lam, out, lse and a2, as the kernel was given and gave them.
    pub fn tensors(&self) -> Vec<js_sys::Float32Array> {
        let HostOutputs { out, lse, a2 } = &self.outputs;
        let [lse, a2] = [lse, a2].map(|tensor| tensor.as_deref().unwrap_or_default());
        [&self.gates[..], out, lse, a2].map(js_sys::Float32Array::from).to_vec()
    }
}

/// The constant λ of the V1 maps.
#[wasm_bindgen(js_name = v1Lambda)]
pub fn v1_lambda() -> f32 {
    V1_LAMBDA
}
