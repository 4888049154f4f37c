//! The whole operation on tensors in host memory, on the first adapter found.
//!
//! `cargo run --release --example forward`

use diffattn::{DType, DiffAttention, HostInputs, Options, PlanOptions, Problem, Shape, Sizes, wgpu};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&wgpu::RequestAdapterOptions {
        power_preference: wgpu::PowerPreference::HighPerformance,
        ..Default::default()
    }))?;
    let (device, queue) = pollster::block_on(diffattn::request_device(&adapter))?;
    let attention = DiffAttention::new(&device, &queue);

    let shape = Shape { batch: 1, q_len: 256, kv_len: 256, heads: 4, kv_heads: 2, head_dim: 64, value_dim: 64 };
    let mut options = Options::default();
    (options.causal, options.lse) = (true, true);
    let problem = Problem::new(shape, DType::F16, options);

    let sizes = Sizes::of(&problem)?;
    let mut rng = fastrand::Rng::with_seed(1);
    let mut random = |len: u64| (0..len).map(|_| rng.f32() * 2.0 - 1.0).collect::<Vec<f32>>();
    let [q, k, v, lam] = [sizes.q, sizes.k, sizes.v, sizes.lam].map(&mut random);

    let plan = attention.plan_forward_blocking(&problem, PlanOptions::default())?;
    println!("{}: {} ({})", adapter.get_info().name, plan.label(), plan.reason());
    let outputs = pollster::block_on(plan.run(&HostInputs { q: &q, k: &k, v: &v, lam: &lam }))?;
    println!("out[0, 0, 0, ..4] = {:?}", &outputs.out[..4]);
    println!("lse[0, 0, ..4]    = {:?}", &outputs.lse.unwrap_or_default()[..4]);
    Ok(())
}
