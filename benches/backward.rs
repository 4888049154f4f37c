//! The backward kernels of every adapter beside the forward's, and beside the same kernels un-fused, in one run.
//!
//! `cargo bench --bench backward [-- ROUNDS]`: medians of so many rounds (5 unless told), in each of which every
//! candidate runs once, so that a machine's moods meet all of them. Un-fused is standard attention's backward over
//! 2·heads heads through the same kernels: two independent passes for each pair, with 14 products instead of 11. Its
//! time lacks the work of splitting dout and merging dλ, which favours it. Wall-clock time of one submission each.

mod support {
    pub mod gpu;
}

use diffattn::{
    AnyBackwardTile, BackwardBuffers, BackwardPass, BackwardTile, DType, DiffAttention, ForwardBuffers, Options, Path,
    PlanOptions, Problem, Shape, Sizes, TensorSlice, wgpu,
};
use std::time::Duration;
use support::gpu::{random, submit};

/// What is timed: a name, and how to record it.
type Candidate = (String, Box<dyn Fn(&mut wgpu::ComputePass<'_>)>);

/// 1024 × 1024 causal, heads 8, kv_heads 4, head_dim 64, f32.
fn problem() -> Problem {
    let shape = Shape { batch: 1, q_len: 1024, kv_len: 1024, heads: 8, kv_heads: 4, head_dim: 64, value_dim: 64 };
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    Problem::new(shape, DType::F32, options)
}

fn candidates(attention: &DiffAttention, path: Path) -> Vec<Candidate> {
    let fused = problem();
    let mut lean = fused.clone();
    lean.options.a2 = false;
    let mut split = fused.clone();
    split.shape.heads *= 2;
    split.options.a2 = false;
    let sizes = Sizes::of(&fused).expect("valid sizes");
    let buffer = |len| random(attention, DType::F32, len);
    // Tensors of 2·heads output heads also serve where only the first half is used.
    let [q, k, v, lam] = [sizes.q, sizes.k, sizes.v, 2 * sizes.lam].map(buffer);
    let [out, a2, dout, lse] = [2 * sizes.out, sizes.out, 2 * sizes.out, sizes.lse].map(buffer);
    let [dq, dk, dv, dlam] = [sizes.q, sizes.k, sizes.v, 2 * sizes.lam].map(buffer);
    let [q, k, v, lam, out, a2, dout, lse] = [&q, &k, &v, &lam, &out, &a2, &dout, &lse].map(TensorSlice::new);
    let [dq, dk, dv, dlam] = [&dq, &dk, &dv, &dlam].map(TensorSlice::new);

    let plan = PlanOptions::on(path);
    let forward = attention.plan_forward_blocking(&fused, plan).expect("plan");
    let pass = forward.bind(&ForwardBuffers { q, k, v, lam, out, lse: Some(lse), a2: Some(a2) }).expect("bind");
    let mut candidates: Vec<Candidate> = vec![(forward.label(), Box::new(move |recorder| pass.encode(recorder)))];
    let mut backward = |name: &str, problem: &Problem, standard: bool, tiles: Option<[BackwardTile; 2]>| {
        let mut options = plan;
        options.backward_tiles = tiles.map(|tiles| tiles.map(AnyBackwardTile::from));
        let plan = if standard {
            pollster::block_on(attention.plan_standard_backward(problem, options))
        } else {
            attention.plan_backward_blocking(problem, options)
        };
        let plan = match plan {
            // A larger tile may not fit.
            Err(error) if tiles.is_some() && error.is_unsupported() => return Vec::new(),
            plan => plan.expect("plan"),
        };
        let a2 = problem.options.a2.then_some(a2);
        let buffers =
            BackwardBuffers { q, k, v, lam, out, lse, a2, dout, dlse: None, dq, dk, dv, dlam, accumulate: false };
        let pass: BackwardPass = plan.bind(&buffers).expect("bind");
        println!("{name}: {}", plan.labels().join(" "));
        candidates.push((name.into(), Box::new(move |recorder| pass.encode(recorder))));
        plan.tiles()
    };
    backward("backward", &fused, false, None);
    backward("backward without a2", &lean, false, None);
    let tiles = backward("backward un-fused", &split, true, None);
    // One member alone needs fewer registers than a pair, for which the planner chooses.
    let longer = |tile: BackwardTile| BackwardTile {
        threads: tile.threads / 2,
        per_lane: (4 * tile.per_lane).div_ceil(3),
        ..tile
    };
    let wider = |tile: BackwardTile| BackwardTile { threads: tile.threads / 2, lanes: tile.lanes / 2, ..tile };
    let [AnyBackwardTile::Tiled(dq), AnyBackwardTile::Tiled(dkv)] = tiles[..] else { return candidates };
    let tiles = [dq, dkv];
    backward("backward un-fused, longer steps", &split, true, Some(tiles.map(longer)));
    backward("backward un-fused, fewer lanes", &split, true, Some(tiles.map(wider)));
    candidates
}

fn measure(attention: &DiffAttention, path: Path, rounds: usize) {
    let candidates = candidates(attention, path);
    let mut times = vec![Vec::new(); candidates.len()];
    // The first round warms up.
    for round in 0..=rounds {
        for ((_, record), times) in candidates.iter().zip(&mut times) {
            let time = submit(attention, record);
            if round > 0 {
                times.push(time);
            }
        }
    }
    let medians: Vec<Duration> = times
        .iter_mut()
        .map(|times| {
            times.sort();
            times[times.len() / 2]
        })
        .collect();
    let ratio = |a: usize, b: usize| medians[a].as_secs_f64() / medians[b].as_secs_f64();
    for ((name, _), median) in candidates.iter().zip(&medians) {
        println!("{:9} {:8.1} ms  {name}", path.name(), 1e3 * median.as_secs_f64());
    }
    println!("{:9} backward ÷ forward {:.2}, without a2 {:.2}", path.name(), ratio(1, 0), ratio(2, 0));
    let unfused = (3..medians.len()).min_by_key(|&index| medians[index]).expect("at least one");
    println!("{:9} fused ÷ fastest un-fused {:.2}", path.name(), ratio(1, unfused));
}

fn main() {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(5);
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
    if adapters.is_empty() {
        println!("no adapter: nothing to measure");
    }
    for adapter in adapters {
        let info = adapter.get_info();
        let (device, queue) = pollster::block_on(diffattn::request_device(&adapter)).expect("device");
        let attention = DiffAttention::new(&device, &queue);
        println!("{} {} | {}", info.name, info.driver_info, attention.caps());
        for path in [Path::Portable, Path::Subgroup] {
            if path == Path::Portable || attention.caps().subgroups.is_some() {
                measure(&attention, path, rounds);
            }
        }
    }
}
