//! Runs a plan on buffers that would betray a mistake: outputs filled with NaN, everything fenced with canaries.

use crate::support::Tensors;
use diffattn::reference::{Judge, Verdict};
use diffattn::{
    DType, DiffAttention, Error, ForwardBuffers, ForwardPlan, HostInputs, HostOutputs, Layout, PlanOptions, Problem,
    Sizes, TensorSlice, read_buffer, wgpu,
};
use libtest_mimic::Failed;
use wgpu::util::DeviceExt as _;

/// Where the tensors lie in their buffers.
#[derive(Debug, Clone, Copy)]
pub struct Placement {
    pub layout: Layout,
    /// Elements before and after each tensor, a multiple of 8.
    pub fence: usize,
}

impl Placement {
    pub const PLAIN: Placement = Placement { layout: Layout::Default, fence: 64 };
}

/// What fills the fences: a value that no kernel writes, and that spoils whatever it is read into.
const CANARY: f32 = -7.0e4;

/// A tensor between two fences.
pub struct Placed {
    buffer: wgpu::Buffer,
    fence: usize,
    dtype: DType,
}

impl Placed {
    pub fn new(
        attention: &(wgpu::Device, wgpu::Queue),
        name: &str,
        values: &[f32],
        fence: usize,
        dtype: DType,
    ) -> Self {
        let canaries = vec![CANARY; fence];
        let all = [&canaries, values, &canaries].concat();
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::util::BufferInitDescriptor { label: Some(name), contents: &dtype.encode(&all), usage };
        Placed { buffer: attention.0.create_buffer_init(&descriptor), fence, dtype }
    }

    pub fn slice(&self, layout: Layout) -> TensorSlice<'_> {
        TensorSlice::new(&self.buffer).at(self.fence as u64 * self.dtype.size()).layout(layout)
    }

    /// The tensor, after checking that its fences still stand.
    pub fn read(&self, gpu: &(wgpu::Device, wgpu::Queue)) -> Result<Vec<f32>, Failed> {
        let bytes = pollster::block_on(read_buffer(&gpu.0, &gpu.1, &self.buffer))?;
        let all = self.dtype.decode(&bytes);
        let (before, rest) = all.split_at(self.fence);
        let (values, after) = rest.split_at(rest.len() - self.fence);
        let canary = self.dtype.round(CANARY);
        if before.iter().chain(after).any(|value| value.to_bits() != canary.to_bits()) {
            return Err("a canary beside an output was overwritten".into());
        }
        Ok(values.to_vec())
    }
}

/// Runs `plan` on `inputs` placed as asked; outputs come back in the default order.
pub fn run(
    gpu: &(wgpu::Device, wgpu::Queue),
    plan: &ForwardPlan,
    inputs: &HostInputs<'_>,
    placement: Placement,
) -> Result<HostOutputs, Failed> {
    let problem = plan.problem();
    let sizes = Sizes::of(problem)?;
    let Placement { layout, fence } = placement;
    let (batch, q_len, kv_len) = problem.extents();
    let shape = &problem.shape;
    let bhsd = layout == Layout::Bhsd;
    let order = |values: &[f32], seq: u32, heads: u32, dim: u32| {
        if bhsd { transpose(values, [batch, seq, heads, dim]) } else { values.to_vec() }
    };
    let place = |name, values: &[f32], dtype| Placed::new(gpu, name, values, fence, dtype);
    let q = place("q", &order(inputs.q, q_len, 2 * shape.heads, shape.head_dim), problem.dtype);
    let k = place("k", &order(inputs.k, kv_len, shape.kv_heads, shape.head_dim), problem.dtype);
    let v = place("v", &order(inputs.v, kv_len, shape.kv_heads, shape.value_dim), problem.dtype);
    let lam = place("lam", &order(inputs.lam, q_len, shape.heads, 1), DType::F32);
    let nan = |len: u64| vec![f32::NAN; len as usize];
    let out = place("out", &nan(sizes.out), problem.dtype);
    let lse = problem.options.lse.then(|| place("lse", &nan(sizes.lse), DType::F32));
    let a2 = problem.options.a2.then(|| place("a2", &nan(sizes.out), problem.dtype));
    let pass = plan.bind(&ForwardBuffers {
        q: q.slice(layout),
        k: k.slice(layout),
        v: v.slice(layout),
        lam: lam.slice(layout),
        out: out.slice(layout),
        lse: lse.as_ref().map(|lse| lse.slice(Layout::Default)),
        a2: a2.as_ref().map(|a2| a2.slice(layout)),
    })?;
    let mut encoder = gpu.0.create_command_encoder(&Default::default());
    pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
    gpu.1.submit([encoder.finish()]);
    // Back from batch × head × token × dim.
    let back = |values: Vec<f32>| {
        if bhsd { transpose(&values, [batch, shape.heads, q_len, shape.value_dim]) } else { values }
    };
    Ok(HostOutputs {
        out: back(out.read(gpu)?),
        lse: lse.map(|lse| lse.read(gpu)).transpose()?,
        a2: a2.map(|a2| a2.read(gpu)).transpose()?.map(back),
    })
}

/// Swaps the second and third of four axes.
pub fn transpose(values: &[f32], [a, b, c, d]: [u32; 4]) -> Vec<f32> {
    let [a, b, c, d] = [a, b, c, d].map(|extent| extent as usize);
    let mut result = Vec::with_capacity(values.len());
    for i in 0..a {
        for k in 0..c {
            for j in 0..b {
                let row = ((i * b + j) * c + k) * d;
                result.extend_from_slice(&values[row..row + d]);
            }
        }
    }
    result
}

/// The device and queue of a handle.
pub fn queue_of(attention: &DiffAttention) -> (wgpu::Device, wgpu::Queue) {
    (attention.device().clone(), attention.queue().clone())
}

/// Plans, runs and judges one problem.
pub fn judge(
    attention: &DiffAttention,
    problem: &Problem,
    options: PlanOptions,
    tensors: &Tensors,
    judge: &Judge,
    placement: Placement,
) -> Result<HostOutputs, Failed> {
    let plan = match attention.plan_forward_blocking(problem, options) {
        Err(Error::Shader { label, message }) => return Err(format!("{label}: {message}").into()),
        plan => plan?,
    };
    let outputs = run(&queue_of(attention), &plan, &tensors.inputs(), placement)?;
    verdicts(&plan, judge.outputs(&outputs)?)?;
    Ok(outputs)
}

/// Fails with everything needed to find the fault.
pub fn verdicts(plan: &ForwardPlan, verdicts: Vec<Verdict>) -> Result<(), Failed> {
    for Verdict { tensor, error, bound, index, passed } in verdicts {
        if !passed {
            let (label, shape, options) = (plan.label(), plan.problem().shape, plan.problem().options);
            let what = format!("`{tensor}` is wrong at {index}: error {error:.3e}, bound {bound:.3e}");
            return Err(format!("{label}: {what}\n{shape:?}\n{options:?}\n{:?}", plan.problem().packed).into());
        }
    }
    Ok(())
}
