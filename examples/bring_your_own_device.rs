//! The operation between two passes of somebody else's, on their device and in their encoder, without a readback: one
//! pass writes q, k, v and λ into an arena, the attention reads slices of it, another pass reduces the output.
//!
//! `cargo run --release --example bring_your_own_device`

use diffattn::{
    DType, DiffAttention, ForwardBuffers, Options, PlanOptions, Problem, Shape, Sizes, TensorSlice, read_buffer, wgpu,
};

/// The caller's own kernels: `fill` makes the inputs, `mean` squares and averages what the attention wrote.
const KERNELS: &str = "
@group(0) @binding(0) var<storage, read_write> arena: array<f32>;

@compute @workgroup_size(64)
fn fill(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    for (var i = id.x; i < arrayLength(&arena); i += groups.x * 64u) {
        arena[i] = sin(f32(i) * 0.7) * cos(f32(i) * 0.013);
    }
}

@group(0) @binding(0) var<storage, read> attended: array<f32>;
@group(0) @binding(1) var<storage, read_write> result: array<f32>;

@compute @workgroup_size(1)
fn mean() {
    var sum = 0.0;
    for (var i = 0u; i < arrayLength(&attended); i++) {
        sum += attended[i] * attended[i];
    }
    result[0] = sqrt(sum / f32(arrayLength(&attended)));
}";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Any device will do: this one asks for nothing.
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default()))?;
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default()))?;

    let shape = Shape { batch: 1, q_len: 128, kv_len: 128, heads: 4, kv_heads: 2, head_dim: 64, value_dim: 64 };
    let mut options = Options::default();
    options.causal = true;
    let problem = Problem::new(shape, DType::F32, options);
    let sizes = Sizes::of(&problem)?;
    let buffer = |label, elements: u64| {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size: elements * 4, usage, mapped_at_creation: false };
        device.create_buffer(&descriptor)
    };
    // All inputs in one arena, one after another; outputs must be in another buffer.
    let arena = buffer("arena", sizes.q + sizes.k + sizes.v + sizes.lam);
    let (out, result) = (buffer("out", sizes.out), buffer("result", 1));
    let input = |elements_before: u64| TensorSlice::new(&arena).at(elements_before * 4);

    // Once: plan and bind.
    let attention = DiffAttention::new(&device, &queue);
    let plan = attention.plan_forward_blocking(&problem, PlanOptions::default())?;
    let forward = plan.bind(&ForwardBuffers {
        q: input(0),
        k: input(sizes.q),
        v: input(sizes.q + sizes.k),
        lam: input(sizes.q + sizes.k + sizes.v),
        out: (&out).into(),
        lse: None,
        a2: None,
    })?;
    let fill = Own::new(&device, "fill", &[&arena]);
    let mean = Own::new(&device, "mean", &[&out, &result]);

    // Every step: three kernels in one pass, one submission.
    let mut encoder = device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        fill.encode(&mut pass, 64);
        forward.encode(&mut pass);
        mean.encode(&mut pass, 1);
    }
    queue.submit([encoder.finish()]);

    let bytes = pollster::block_on(read_buffer(&device, &queue, &result))?;
    println!("{} on {}", plan.label(), adapter.get_info().name);
    println!("root mean square of the output: {}", DType::F32.decode(&bytes)[0]);
    Ok(())
}

/// One of the caller's own kernels.
struct Own {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
}

impl Own {
    fn new(device: &wgpu::Device, entry_point: &str, buffers: &[&wgpu::Buffer]) -> Self {
        let source = wgpu::ShaderSource::Wgsl(KERNELS.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(entry_point),
            layout: None,
            module: &module,
            entry_point: Some(entry_point),
            compilation_options: Default::default(),
            cache: None,
        });
        let entries: Vec<_> = (0..)
            .zip(buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: Some(entry_point), layout: &layout, entries: &entries };
        let bind_group = device.create_bind_group(&descriptor);
        Own { pipeline, bind_group }
    }

    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, workgroups: u32) {
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(workgroups, 1, 1);
    }
}
