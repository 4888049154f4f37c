//! What every GPU bench needs: filled buffers, and one timed submission.

use diffattn::{DType, DiffAttention, wgpu};
use std::time::{Duration, Instant};
use wgpu::util::DeviceExt as _;

/// A storage buffer of so many elements from -1 to 1, the same on every run.
pub fn random(attention: &DiffAttention, dtype: DType, elements: u64) -> wgpu::Buffer {
    let mut rng = fastrand::Rng::with_seed(0);
    let values: Vec<f32> = (0..elements).map(|_| rng.f32() * 2.0 - 1.0).collect();
    let (contents, usage) = (dtype.encode(&values), wgpu::BufferUsages::STORAGE);
    let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents: &contents, usage };
    attention.device().create_buffer_init(&descriptor)
}

/// Submits one pass, waits for it, and tells how long that took.
pub fn submit(attention: &DiffAttention, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Duration {
    let start = Instant::now();
    let mut encoder = attention.device().create_command_encoder(&Default::default());
    record(&mut encoder.begin_compute_pass(&Default::default()));
    attention.queue().submit([encoder.finish()]);
    attention.device().poll(wgpu::PollType::wait_indefinitely()).expect("device");
    start.elapsed()
}
