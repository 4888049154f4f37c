//! The third panel: every kernel that the visitor's GPU can run, against the float64 reference.

use diffattn::reference::{self, Judge, Verdict};
use diffattn::{HostGradInputs, HostInputs, Path, PlanOptions, Problem, Shape, Sizes, cpu};
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::explain::explain;

/// How one kernel did on one problem: its worst tensor.
#[wasm_bindgen(getter_with_clone)]
#[derive(Debug, Clone)]
pub struct Checked {
    /// The kernels.
    pub label: String,
    /// The problem.
    pub shape: String,
    /// Name of the tensor that came nearest to its bound.
    pub tensor: String,
    /// Its largest error.
    pub error: f64,
    /// The largest error allowed.
    pub bound: f64,
    /// Whether every tensor is within its bound.
    pub passed: bool,
}

/// Number of problems.
#[wasm_bindgen(js_name = checkCount)]
pub fn check_count() -> usize {
    reference::problems().len()
}

/// Runs every kernel on problem `index`, forward and backward.
///
/// # Errors
/// Those of the library, but for kernels that the device cannot run: those are left out.
#[wasm_bindgen(js_name = checkProblem)]
pub async fn check_problem(engine: &Engine, index: usize) -> Result<Vec<Checked>, JsValue> {
    run(engine, index).await.map_err(explain)
}

async fn run(engine: &Engine, index: usize) -> diffattn::Result<Vec<Checked>> {
    let problem = reference::problems().swap_remove(index);
    let tensors = Tensors::random(&problem, index as u64)?;
    let (inputs, grads) = (tensors.inputs(), HostGradInputs { dout: &tensors.dout, dlse: None });
    let paths = if engine.is_gpu() { Path::ALL.map(Some).to_vec() } else { vec![None] };
    let mut rows = Vec::new();
    let judge = Judge::forward(&problem, &inputs)?;
    for &path in &paths {
        match engine.forward(&problem, &inputs, path).await {
            Ok((outputs, label)) => rows.extend(worst(label, &problem, judge.outputs(&outputs)?)),
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    let judge = Judge::backward(&problem, &inputs, &grads)?;
    for path in paths {
        let run = match engine.gpu() {
            None => cpu::backward(&problem, &inputs, &grads).map(|gradients| (gradients, "cpu".into())),
            Some(gpu) => backward(gpu, &problem, &inputs, &grads, path).await,
        };
        match run {
            Ok((gradients, label)) => rows.extend(worst(label, &problem, judge.gradients(&gradients)?)),
            Err(error) if error.is_unsupported() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(rows)
}

async fn backward(
    gpu: &diffattn::DiffAttention,
    problem: &Problem,
    inputs: &HostInputs<'_>,
    grads: &HostGradInputs<'_>,
    path: Option<Path>,
) -> diffattn::Result<(diffattn::HostGradients, String)> {
    let mut options = PlanOptions::default();
    options.path = path;
    let plan = gpu.plan_backward(problem, options).await?;
    Ok((plan.run(inputs, grads).await?, plan.labels().join("\n")))
}

/// The verdict that comes nearest to its bound, or is furthest over it.
fn worst(label: String, problem: &Problem, verdicts: Vec<Verdict>) -> Option<Checked> {
    let passed = verdicts.iter().all(|verdict| verdict.passed);
    let share = |verdict: &Verdict| verdict.error / verdict.bound;
    let worst = verdicts.into_iter().max_by(|a, b| share(a).total_cmp(&share(b)))?;
    let Verdict { tensor, error, bound, .. } = worst;
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, .. } = problem.shape;
    let shape = format!("b{batch} q{q_len} kv{kv_len} h{heads}/{kv_heads} d{head_dim}");
    Some(Checked { label, shape, tensor: tensor.into(), error, bound, passed })
}

/// Random tensors of a problem, representable in its storage type.
struct Tensors {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    lam: Vec<f32>,
    dout: Vec<f32>,
}

impl Tensors {
    fn random(problem: &Problem, seed: u64) -> diffattn::Result<Self> {
        let Sizes { q, k, v, lam, out, .. } = Sizes::of(problem)?;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut values = |count: u64, range: f32| -> Vec<f32> {
            (0..count).map(|_| problem.dtype.round(range * (2.0 * random.f32() - 1.0))).collect()
        };
        let (q, k, v) = (values(q, 2.0), values(k, 2.0), values(v, 1.0));
        Ok(Tensors { q, k, v, lam: values(lam, 4.0), dout: values(out, 1.0) })
    }

    fn inputs(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }
}
