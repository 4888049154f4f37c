//! What planning and encoding take from the heap: nothing of ours. Counted on the calling thread, not timed.

use crate::device::Gpu;
use crate::passes::{self, Passes};
use crate::{Case, case};
use allocation_counter::measure;
use diffattn::{DecodeOptions, DiffAttention, Error, KvConfig, Pages, PlanOptions, wgpu};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    vec![
        case("allocations::warm_plans", warm_plans),
        case("allocations::encoding", encoding),
        case("allocations::next_token", next_token),
    ]
}

type Planning<'a> = &'a dyn Fn() -> Result<(), Error>;
type Encoding<'a> = &'a dyn Fn(&mut wgpu::ComputePass<'_>);

/// Allocations of some work.
fn count(work: impl FnOnce()) -> u64 {
    measure(work).count_total
}

/// A plan of a problem that was planned before allocates nothing.
fn warm_plans(gpu: &Gpu) -> Result<(), Failed> {
    let attention = &DiffAttention::new(gpu.attention.device(), gpu.attention.queue()); // which knows no plan yet
    let (problem, step, append) = (passes::problem(), passes::step(), passes::append());
    let plans: [(&str, Planning<'_>); 4] = [
        ("forward", &|| attention.plan_forward_blocking(&problem, PlanOptions::default()).map(drop)),
        ("backward", &|| attention.plan_backward_blocking(&problem, PlanOptions::default()).map(drop)),
        ("decode", &|| attention.plan_decode_blocking(&step, DecodeOptions::default()).map(drop)),
        ("append", &|| attention.plan_append_blocking(&append).map(drop)),
    ];
    for (name, plan) in plans {
        let mut result = Ok(());
        let cold = count(|| result = plan());
        result?;
        let warm = count(|| drop(plan()));
        if (cold == 0, warm) != (false, 0) {
            return Err(format!("{name}: {cold} allocations for the first plan, {warm} for the second").into());
        }
    }
    Ok(())
}

/// Encoding allocates what wgpu allocates for the same calls, and nothing more.
fn encoding(gpu: &Gpu) -> Result<(), Failed> {
    let passes = Passes::new(&gpu.attention)?;
    let by_hand = ByHand::new(&gpu.attention);
    let Passes { forward, backward, decode, cache } = &passes;
    let decode_calls = vec![1; decode.dispatches()];
    let encodes: [(&str, Encoding<'_>, Vec<usize>); 3] = [
        ("forward", &|pass| forward.encode(pass), vec![forward.dispatches()]),
        ("backward", &|pass| backward.encode(pass), vec![1; backward.dispatches()]),
        ("decode", &|pass| decode.encode(pass, cache).expect("the planned step"), decode_calls),
    ];
    for (name, encode, dispatches) in encodes {
        let ours = encoded(&gpu.attention, encode);
        let least = encoded(&gpu.attention, |pass| by_hand.encode(pass, &dispatches));
        if ours != least {
            return Err(format!("{name}: {ours} allocations, where wgpu alone makes {least}").into());
        }
        // The comparison can fail.
        let wasteful = encoded(&gpu.attention, |pass| {
            drop(std::hint::black_box(vec![0u8]));
            encode(pass);
        });
        if wasteful != least + 1 {
            return Err(format!("{name}: an allocation more was counted as {wasteful}, not {}", least + 1).into());
        }
    }
    Ok(())
}

/// Advancing a cache by a token allocates what wgpu allocates to write a buffer, and nothing more, unless a page is taken.
fn next_token(gpu: &Gpu) -> Result<(), Failed> {
    let attention = &gpu.attention;
    let size = 4 * size_of::<u32>() as u64;
    let usage = wgpu::BufferUsages::COPY_DST;
    let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
    let buffer = attention.device().create_buffer(&descriptor);
    // The least of several: now and then a list of wgpu's own grows.
    let least = (0..8).map(|_| count(|| attention.queue().write_buffer(&buffer, 0, &[0; 16]))).min();
    for pages in [None, Some(Pages { size: 16, count: 4 })] {
        let mut cache = attention.kv_cache_blocking(&KvConfig { capacity: 64, pages, ..passes::step().cache })?;
        let sequence = cache.create()?;
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        cache.advance(&mut encoder, &[(sequence, 1)])?;
        let ours = (0..8).map(|_| count(|| cache.advance(&mut encoder, &[(sequence, 1)]).expect("room"))).min();
        if ours != least {
            return Err(format!("{pages:?}: {ours:?} allocations, where wgpu alone makes {least:?}").into());
        }
    }
    Ok(())
}

/// Allocations while something is recorded into a new pass.
fn encoded(attention: &DiffAttention, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> u64 {
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    let mut pass = encoder.begin_compute_pass(&Default::default());
    count(|| record(&mut pass))
}

/// The smallest kernels, to record the same calls without this crate. Two, since wgpu skips what is set already.
struct ByHand {
    kernels: [(wgpu::ComputePipeline, wgpu::BindGroup); 2],
}

impl ByHand {
    fn new(attention: &DiffAttention) -> Self {
        let device = attention.device();
        let text = "@group(0) @binding(0) var<storage, read_write> x: array<u32>;
            @compute @workgroup_size(1) fn main() { x[0] = 1u; }";
        let source = wgpu::ShaderSource::Wgsl(text.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let (size, usage) = (256, wgpu::BufferUsages::STORAGE);
        let descriptor = wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false };
        let buffer = device.create_buffer(&descriptor);
        let kernel = || {
            let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: None,
                layout: None,
                module: &module,
                entry_point: None,
                compilation_options: Default::default(),
                cache: None,
            });
            let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &pipeline.get_bind_group_layout(0),
                entries: &[wgpu::BindGroupEntry { binding: 0, resource: buffer.as_entire_binding() }],
            });
            (pipeline, bind_group)
        };
        ByHand { kernels: [kernel(), kernel()] }
    }

    /// So many dispatches after each change of the pipeline.
    fn encode(&self, pass: &mut wgpu::ComputePass<'_>, dispatches: &[usize]) {
        for (&count, (pipeline, bind_group)) in dispatches.iter().zip(self.kernels.iter().cycle()) {
            pass.set_pipeline(pipeline);
            for _ in 0..count {
                pass.set_bind_group(0, bind_group, &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        }
    }
}
