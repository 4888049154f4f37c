//! Trains λ and the query and key projections of one pair until it finds the needle among distractors.
//!
//! `cargo run --release --example train_step`
//!
//! Each sequence holds every token type once, in random order, with random values. A query names one type and should
//! get that token's value: the answer is known, and a loss of 0 is possible. The gradients come from the GPU where
//! there is an adapter, otherwise from the CPU engine.

use diffattn::{
    BackwardPlan, DType, DiffAttention, ForwardPlan, HostGradInputs, HostGradients, HostInputs, Options, PlanOptions,
    Problem, Shape, cpu, wgpu,
};
use indicatif::{ProgressBar, ProgressStyle};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const STEPS: u64 = 300;
const BATCH: usize = 8;
const QUERIES: usize = 16;
/// Token types, and so keys of each sequence.
const TYPES: usize = 48;
/// Width of an embedding, a query, a key and a value.
const DIM: usize = 32;

fn main() -> Result<()> {
    let shape = Shape {
        batch: BATCH as u32,
        q_len: QUERIES as u32,
        kv_len: TYPES as u32,
        heads: 1,
        kv_heads: 1,
        head_dim: DIM as u32,
        value_dim: DIM as u32,
    };
    let mut options = Options::default();
    (options.lse, options.a2) = (true, true);
    let engine = Engine::new(Problem::new(shape, DType::F32, options))?;

    let mut rng = fastrand::Rng::with_seed(1);
    let mut random = |len: usize, scale: f32| (0..len).map(|_| (rng.f32() * 2.0 - 1.0) * scale).collect::<Vec<_>>();
    let embeddings = random(TYPES * DIM, 0.3);
    // Two query projections, one of keys, and λ.
    let mut weights = [random(2 * DIM * DIM, 0.3), random(DIM * DIM, 0.3), vec![0.0]];
    let mut adam = weights.each_ref().map(|weights| Adam::new(weights.len()));

    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {msg}")?;
    let bar = ProgressBar::new(STEPS).with_style(style);
    let mut history = Vec::new();
    for step in 0..STEPS {
        let task = Task::random(&embeddings, step);
        let (loss, found, gradients) = step_of(&engine, &weights, &task)?;
        for ((weights, adam), gradient) in weights.iter_mut().zip(&mut adam).zip(&gradients) {
            adam.step(weights, gradient);
        }
        bar.set_message(format!("loss {loss:.4}"));
        bar.inc(1);
        if step % 50 == 0 || step + 1 == STEPS {
            let gate = 1.0 / (1.0 + (-weights[2][0]).exp());
            bar.suspend(|| println!("step {step:3}: loss {loss:.6}, needles found {found:3.0} %, gate {gate:.3}"));
            history.push((loss, found));
        }
    }
    bar.finish_and_clear();

    let ((first, _), (last, found)) = (history[0], history[history.len() - 1]);
    println!("loss {first:.6} -> {last:.6}");
    if last > 0.2 * first || found < 95.0 {
        return Err(format!("the needle was not learnt: loss {first} -> {last}, {found} % found").into());
    }
    Ok(())
}

/// Where the attention is computed.
enum Engine {
    Gpu(Box<(ForwardPlan, BackwardPlan)>),
    Cpu(Problem),
}

impl Engine {
    fn new(problem: Problem) -> Result<Self> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let Ok(adapter) = pollster::block_on(instance.request_adapter(&Default::default())) else {
            println!("no GPU adapter: gradients from the threaded CPU engine");
            return Ok(Engine::Cpu(problem));
        };
        let (device, queue) = pollster::block_on(diffattn::request_device(&adapter))?;
        let attention = DiffAttention::new(&device, &queue);
        let forward = attention.plan_forward_blocking(&problem, PlanOptions::default())?;
        let backward = attention.plan_backward_blocking(&problem, PlanOptions::default())?;
        println!("{}: {}", adapter.get_info().name, backward.labels().join(", "));
        Ok(Engine::Gpu(Box::new((forward, backward))))
    }

    fn out(&self, inputs: &HostInputs) -> Result<Vec<f32>> {
        Ok(match self {
            Engine::Gpu(plans) => pollster::block_on(plans.0.run(inputs))?.out,
            Engine::Cpu(problem) => cpu::forward(problem, inputs)?.out,
        })
    }

    fn gradients(&self, inputs: &HostInputs, grads: &HostGradInputs) -> Result<HostGradients> {
        Ok(match self {
            Engine::Gpu(plans) => pollster::block_on(plans.1.run(inputs, grads))?,
            Engine::Cpu(problem) => cpu::backward(problem, inputs, grads)?,
        })
    }
}

/// A batch of sequences and queries.
struct Task {
    /// Embedding of each key's and each query's type.
    keys: Vec<f32>,
    queries: Vec<f32>,
    values: Vec<f32>,
    /// Row of `values` that each query should get.
    needles: Vec<usize>,
}

impl Task {
    fn random(embeddings: &[f32], seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut task = Task { keys: vec![], queries: vec![], values: vec![], needles: vec![] };
        for sequence in 0..BATCH {
            let mut types: Vec<usize> = (0..TYPES).collect();
            rng.shuffle(&mut types);
            for &kind in &types {
                task.keys.extend(&embeddings[kind * DIM..][..DIM]);
                task.values.extend((0..DIM).map(|_| rng.f32() * 2.0 - 1.0));
            }
            for _ in 0..QUERIES {
                let needle = rng.usize(0..TYPES);
                task.queries.extend(&embeddings[types[needle] * DIM..][..DIM]);
                task.needles.push(sequence * TYPES + needle);
            }
        }
        task
    }
}

/// Loss (mean square error), percentage of needles found, and the gradients of the three weights.
fn step_of(engine: &Engine, [wq, wk, lam]: &[Vec<f32>; 3], task: &Task) -> Result<(f32, f32, [Vec<f32>; 3])> {
    let (q, k) = (project(&task.queries, wq), project(&task.keys, wk));
    let lam = vec![lam[0]; BATCH * QUERIES];
    let inputs = HostInputs { q: &q, k: &k, v: &task.values, lam: &lam };
    let out = engine.out(&inputs)?;

    let value = |row: usize| &task.values[row * DIM..][..DIM];
    let error: Vec<f32> = out
        .chunks_exact(DIM)
        .zip(&task.needles)
        .flat_map(|(out, &needle)| out.iter().zip(value(needle)).map(|(out, value)| out - value))
        .collect();
    let loss = error.iter().map(|error| error * error).sum::<f32>() / error.len() as f32;
    let dout: Vec<f32> = error.iter().map(|difference| 2.0 * difference / error.len() as f32).collect();
    let nearest = |out: &[f32], sequence: usize| {
        let distance = |row: usize| out.iter().zip(value(row)).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        (sequence * TYPES..(sequence + 1) * TYPES).min_by(|&a, &b| distance(a).total_cmp(&distance(b)))
    };
    let found = out
        .chunks_exact(DIM)
        .zip(&task.needles)
        .filter(|(out, needle)| nearest(out, **needle / TYPES) == Some(**needle));
    let found = 100.0 * found.count() as f32 / task.needles.len() as f32;

    let HostGradients { dq, dk, dlam, .. } = engine.gradients(&inputs, &HostGradInputs { dout: &dout, dlse: None })?;
    let gradients = [weight_gradient(&dq, &task.queries), weight_gradient(&dk, &task.keys), vec![dlam.iter().sum()]];
    Ok((loss, found, gradients))
}

/// rows × DIM times the transpose of a matrix of any number of rows of DIM.
fn project(rows: &[f32], matrix: &[f32]) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    rows.chunks_exact(DIM).flat_map(|row| matrix.chunks_exact(DIM).map(move |column| dot(row, column))).collect()
}

/// Gradient of `project`'s matrix: Σ over rows of (gradient of the result) ⊗ row.
fn weight_gradient(gradient: &[f32], rows: &[f32]) -> Vec<f32> {
    let width = gradient.len() / (rows.len() / DIM);
    let mut sum = vec![0.0; width * DIM];
    for (gradient, row) in gradient.chunks_exact(width).zip(rows.chunks_exact(DIM)) {
        for (sum, gradient) in sum.chunks_exact_mut(DIM).zip(gradient) {
            sum.iter_mut().zip(row).for_each(|(sum, row)| *sum += gradient * row);
        }
    }
    sum
}

/// Kingma & Ba, 2015.
struct Adam {
    steps: i32,
    mean: Vec<f32>,
    square: Vec<f32>,
}

impl Adam {
    fn new(len: usize) -> Self {
        Adam { steps: 0, mean: vec![0.0; len], square: vec![0.0; len] }
    }

    fn step(&mut self, weights: &mut [f32], gradient: &[f32]) {
        const RATE: f32 = 0.03;
        self.steps += 1;
        let (unbias_mean, unbias_square) = (1.0 - 0.9f32.powi(self.steps), 1.0 - 0.999f32.powi(self.steps));
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((weight, gradient), (mean, square)) in weights.iter_mut().zip(gradient).zip(moments) {
            *mean += 0.1 * (gradient - *mean);
            *square += 0.001 * (gradient * gradient - *square);
            *weight -= RATE * (*mean / unbias_mean) / ((*square / unbias_square).sqrt() + 1e-8);
        }
    }
}
