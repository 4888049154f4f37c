//! Mistakes of a caller are named, before anything is dispatched.

use crate::device::Gpu;
use crate::{Case, case};
use diffattn::{
    DType, Error, ForwardBuffers, Layout, Options, PlanOptions, Problem, Shape, Strides, TensorSlice, wgpu,
};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    vec![case("errors::slices_are_named", slices_are_named), case("errors::outputs_are_counted", outputs_are_counted)]
}

struct Buffers {
    input: wgpu::Buffer,
    other: wgpu::Buffer,
    no_storage: wgpu::Buffer,
}

fn buffers(gpu: &Gpu) -> Buffers {
    let buffer = |usage| {
        let descriptor = wgpu::BufferDescriptor { label: None, size: 1 << 16, usage, mapped_at_creation: false };
        gpu.attention.device().create_buffer(&descriptor)
    };
    let storage = wgpu::BufferUsages::STORAGE;
    Buffers { input: buffer(storage), other: buffer(storage), no_storage: buffer(wgpu::BufferUsages::COPY_DST) }
}

fn problem() -> Problem {
    let shape = Shape { batch: 1, q_len: 4, kv_len: 4, heads: 2, kv_heads: 1, head_dim: 16, value_dim: 16 };
    Problem::new(shape, DType::F32, Options::default())
}

fn slices_are_named(gpu: &Gpu) -> Result<(), Failed> {
    let Buffers { input, other, no_storage } = &buffers(gpu);
    let plan = gpu.attention.plan_forward_blocking(&problem(), PlanOptions::default())?;
    let slice = TensorSlice::new(input);
    let good = ForwardBuffers { q: slice, k: slice, v: slice, lam: slice, out: other.into(), lse: None, a2: None };
    plan.bind(&good)?;
    let strided = |seq| slice.layout(Layout::Strided(Strides { batch: 0, seq, head: 16 }));
    let wrong = [
        ("out", "read from the same buffer", ForwardBuffers { out: slice, ..good }),
        ("q", "offset is 20 bytes", ForwardBuffers { q: slice.at(20), ..good }),
        ("k", "but the buffer has 65536", ForwardBuffers { k: slice.at((1 << 16) - 32), ..good }),
        ("v", "seq stride is 17", ForwardBuffers { v: strided(17), ..good }),
        ("v", "without BufferUsages::STORAGE", ForwardBuffers { v: no_storage.into(), ..good }),
        ("lam", "offset is 2 bytes", ForwardBuffers { lam: slice.at(2), ..good }),
    ];
    for (tensor, words, buffers) in wrong {
        match plan.bind(&buffers) {
            Err(error @ Error::Slice { .. })
                if error.to_string().contains(words) && error.to_string().contains(tensor) => {}
            other => return Err(format!("`{tensor}`: expected “{words}”, found {other:?}").into()),
        }
    }
    Ok(())
}

fn outputs_are_counted(gpu: &Gpu) -> Result<(), Failed> {
    let Buffers { input, other, .. } = &buffers(gpu);
    let slice = TensorSlice::new(input);
    let mut problem = problem();
    problem.options.lse = true;
    let plan = gpu.attention.plan_forward_blocking(&problem, PlanOptions::default())?;
    let without = ForwardBuffers { q: slice, k: slice, v: slice, lam: slice, out: other.into(), lse: None, a2: None };
    let overlapping = ForwardBuffers { lse: Some(other.into()), ..without };
    let too_many = ForwardBuffers { lse: Some(TensorSlice::new(other).at(1 << 12)), a2: Some(other.into()), ..without };
    for (buffers, words) in
        [(without, "options.lse is set"), (overlapping, "overlaps"), (too_many, "options.a2 is not set")]
    {
        match plan.bind(&buffers) {
            Err(error) if error.to_string().contains(words) => {}
            other => return Err(format!("expected “{words}”, found {other:?}").into()),
        }
    }
    Ok(())
}
