//! The device's own limits, measured by loops that do one thing each.

use super::record::Limits;
use super::shaders::Probe;
use super::stopwatch::Stopwatch;
use crate::attention::DiffAttention;
use crate::caps::Caps;
use crate::error::Result;
use crate::ops::bind;

/// Laps of which the fastest counts: a limit is what the device can do, not what it did on average.
const LAPS: usize = 7;

/// A rate of the device that fell by more than this share in the course of a run says that its clock went down.
const DROP: f64 = 0.05;

/// Bytes that the last cache of most devices does not hold: of a GPU's own, or of the host's.
pub(super) fn beyond_caches(caps: &Caps) -> u64 {
    if caps.kind == wgpu::DeviceType::DiscreteGpu { 512 << 20 } else { 128 << 20 }
}

/// Dispatches in one pass, to find what one costs.
const DISPATCHES: u32 = 1000;

impl Limits {
    /// Measures every limit that the device has.
    ///
    /// # Errors
    /// [`Shader`](crate::Error::Shader), [`DeviceLost`](crate::Error::DeviceLost), [`Readback`](crate::Error::Readback).
    pub async fn measure(attention: &DiffAttention) -> Result<Limits> {
        measure(attention, &mut Stopwatch::new(attention)).await
    }
}

/// [`Limits::measure`]. The first pass also tells whether the device's timestamps are to be believed.
///
/// # Errors
/// [`Shader`](crate::Error::Shader), [`DeviceLost`](crate::Error::DeviceLost), [`Readback`](crate::Error::Readback).
pub(super) async fn measure(attention: &DiffAttention, stopwatch: &mut Stopwatch) -> Result<Limits> {
    let f16 = attention.device().features().contains(wgpu::Features::SHADER_F16);
    let fma_f32_tflops = Some(arithmetic(attention, stopwatch, Probe::FmaF32).await?);
    let fma_f16_tflops = match f16 {
        true => Some(arithmetic(attention, stopwatch, Probe::FmaF16).await?),
        false => None,
    };
    let matrix_tflops = match Probe::matrix(attention.caps()) {
        Some(probe) => Some(arithmetic(attention, stopwatch, probe).await?),
        None => None,
    };
    let [read_gb_s, copy_gb_s] = memory(attention, stopwatch).await?;
    let empty = Probe::Empty.compile(attention.device()).await?;
    let dispatches = best(stopwatch, 1, |pass| {
        pass.set_pipeline(&empty);
        (0..DISPATCHES).for_each(|_| pass.dispatch_workgroups(1, 1, 1));
    });
    let dispatch_us = Some(dispatches.await? / 1e3 / f64::from(DISPATCHES));
    Ok(Limits { fma_f32_tflops, fma_f16_tflops, matrix_tflops, read_gb_s, copy_gb_s, dispatch_us })
}

impl Limits {
    /// Whether a rate is lower by more than 5 % in `after`.
    pub fn throttled(&self, after: &Limits) -> bool {
        let rates = |limits: &Limits| {
            let Limits { fma_f32_tflops, fma_f16_tflops, matrix_tflops, read_gb_s, copy_gb_s, dispatch_us: _ } =
                *limits;
            [fma_f32_tflops, fma_f16_tflops, matrix_tflops, read_gb_s, copy_gb_s]
        };
        let pairs = rates(self).into_iter().zip(rates(after));
        pairs.into_iter().any(|pair| matches!(pair, (Some(before), Some(after)) if after < (1.0 - DROP) * before))
    }
}

/// Nanoseconds of one run, at best, of passes of so many runs or more.
async fn best(stopwatch: &Stopwatch, runs: u32, record: impl Fn(&mut wgpu::ComputePass<'_>)) -> Result<f64> {
    let repeat = async |runs: u32| stopwatch.lap(|pass| (0..runs).for_each(|_| record(pass))).await;
    let first = repeat(runs).await?.ns();
    let runs = runs * ((stopwatch.least_ns() / first.max(1.0)).ceil().clamp(1.0, 1000.0) as u32);
    let mut best = f64::INFINITY;
    for _ in 0..LAPS {
        best = best.min(repeat(runs).await?.ns() / f64::from(runs));
    }
    Ok(best)
}

/// TFLOP/s of a loop in registers.
async fn arithmetic(attention: &DiffAttention, stopwatch: &mut Stopwatch, probe: Probe) -> Result<f64> {
    let device = attention.device();
    let pipeline = probe.compile(device).await?;
    let result = buffer(device, 16, wgpu::BufferUsages::empty());
    let bind_group = group(device, &pipeline, &[&result]);
    let record = |pass: &mut wgpu::ComputePass<'_>, workgroups: u32| {
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &bind_group, &[]);
        pass.dispatch_workgroups(workgroups, 1, 1);
    };
    // As many workgroups as fill the device and last long enough.
    let mut workgroups = 16;
    loop {
        let lap = stopwatch.lap(|pass| record(pass, workgroups)).await?;
        let enough = 2.0 * stopwatch.least_ns().max(5e6);
        if lap.wall_ns > enough && stopwatch.distrust(lap) {
            log::warn!("the device's timestamps say {:?} ns, the host {} ns", lap.gpu_ns, lap.wall_ns);
        }
        if lap.wall_ns > enough || workgroups * 2 > attention.caps().workgroups {
            break;
        }
        workgroups *= 2;
    }
    let ns = best(stopwatch, 1, |pass| record(pass, workgroups)).await?;
    Ok(probe.flop_per_workgroup() * f64::from(workgroups) / ns / 1e3)
}

/// GB/s of reading and of copying; `None` where there is no room for the buffers.
async fn memory(attention: &DiffAttention, stopwatch: &Stopwatch) -> Result<[Option<f64>; 2]> {
    let (device, queue) = (attention.device(), attention.queue());
    let largest = attention.caps().storage_binding.min(device.limits().max_buffer_size);
    let bytes = beyond_caches(attention.caps()).min(largest) / PART as u64 * PART as u64;
    if bytes == 0 {
        return Ok([None, None]);
    }
    let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let [data, target] = [(); 2].map(|()| buffer(device, bytes, wgpu::BufferUsages::COPY_DST));
    if scope.pop().await.is_some() {
        return Ok([None, None]);
    }
    let mut random = fastrand::Rng::with_seed(0);
    let part: Vec<u8> = (0..PART).map(|_| random.u8(..)).collect();
    for at in (0..bytes).step_by(PART) {
        queue.write_buffer(&data, at, &part);
    }
    let result = buffer(device, 16, wgpu::BufferUsages::empty());
    let mut rates = [None; 2];
    for (rate, (probe, output, times)) in
        rates.iter_mut().zip([(Probe::Read, &result, 1.0), (Probe::Copy, &target, 2.0)])
    {
        let pipeline = probe.compile(device).await?;
        let bind_group = group(device, &pipeline, &[&data, output]);
        let ns = best(stopwatch, 1, |pass| {
            pass.set_pipeline(&pipeline);
            pass.set_bind_group(0, &bind_group, &[]);
            pass.dispatch_workgroups(MEMORY_WORKGROUPS, 1, 1);
        });
        *rate = Some(times * bytes as f64 / ns.await?);
    }
    Ok(rates)
}

/// Random bytes that the buffer is filled with, over and over.
const PART: usize = 4 << 20;

/// Workgroups that share a buffer: a power of two, enough for the largest devices.
const MEMORY_WORKGROUPS: u32 = 4096;

fn buffer(device: &wgpu::Device, size: u64, usage: wgpu::BufferUsages) -> wgpu::Buffer {
    let usage = usage | wgpu::BufferUsages::STORAGE;
    let label = Some("diffattn.bench.limits");
    device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation: false })
}

fn group(device: &wgpu::Device, pipeline: &wgpu::ComputePipeline, buffers: &[&wgpu::Buffer]) -> wgpu::BindGroup {
    let entries: Vec<_> =
        (0..).zip(buffers).map(|(binding, buffer)| bind::entry(binding, buffer, 0, buffer.size())).collect();
    let layout = &pipeline.get_bind_group_layout(0);
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("diffattn.bench.limits"),
        layout,
        entries: &entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_of_more_than_five_percent_is_told() {
        let before = Limits { fma_f32_tflops: Some(10.0), read_gb_s: Some(100.0), ..Limits::default() };
        assert!(!before.throttled(&before));
        assert!(!before.throttled(&Limits { read_gb_s: Some(95.5), ..before }));
        assert!(before.throttled(&Limits { read_gb_s: Some(94.0), ..before }));
        assert!(before.throttled(&Limits { fma_f32_tflops: Some(9.0), read_gb_s: None, ..before }));
        assert!(!before.throttled(&Limits { fma_f32_tflops: Some(11.0), matrix_tflops: Some(1.0), ..before }));
    }
}
