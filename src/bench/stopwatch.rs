//! Timing a compute pass: the device's own timestamps where they work, and the host's clock always.

use web_time::Instant;

use super::record::Timer;
use crate::attention::DiffAttention;
use crate::error::{Error, Result};

/// Times passes on one device.
#[derive(Debug)]
pub(super) struct Stopwatch {
    device: wgpu::Device,
    queue: wgpu::Queue,
    stamps: Option<Stamps>,
}

/// Where a pass leaves its two timestamps.
#[derive(Debug)]
struct Stamps {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
    /// Nanoseconds of a tick.
    period: f64,
}

/// How long a pass took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lap {
    /// By the device's timestamps.
    pub gpu_ns: Option<f64>,
    /// By the host's clock, from before the submission to the end of the wait.
    pub wall_ns: f64,
}

impl Lap {
    /// The better of the two clocks.
    pub(super) fn ns(&self) -> f64 {
        self.gpu_ns.unwrap_or(self.wall_ns)
    }
}

impl Stopwatch {
    pub(super) fn new(attention: &DiffAttention) -> Self {
        let (device, queue) = (attention.device().clone(), attention.queue().clone());
        let stamps = device.features().contains(wgpu::Features::TIMESTAMP_QUERY).then(|| {
            let buffer = |label, usage| {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some(label),
                    size: 16,
                    usage,
                    mapped_at_creation: false,
                })
            };
            use wgpu::BufferUsages as Usage;
            Stamps {
                set: device.create_query_set(&wgpu::QuerySetDescriptor {
                    label: Some("diffattn.bench.stamps"),
                    ty: wgpu::QueryType::Timestamp,
                    count: 2,
                }),
                resolved: buffer("diffattn.bench.resolved", Usage::QUERY_RESOLVE | Usage::COPY_SRC),
                staging: buffer("diffattn.bench.staging", Usage::COPY_DST | Usage::MAP_READ),
                period: queue.get_timestamp_period().into(),
            }
        });
        Stopwatch { device, queue, stamps }
    }

    /// The clock that [`Lap::ns`] reads.
    pub(super) fn timer(&self) -> Timer {
        match self.stamps {
            None => Timer::Wall,
            Some(_) if cfg!(target_arch = "wasm32") => Timer::Gpu100us,
            Some(_) => Timer::GpuNs,
        }
    }

    /// Whether the device's timestamps are nonsense: far from what the host's clock says of this long pass. They are left
    /// out from now on.
    pub(super) fn distrust(&mut self, lap: Lap) -> bool {
        let wrong = lap.gpu_ns.is_some_and(|gpu| !(0.1 * lap.wall_ns..=1.2 * lap.wall_ns).contains(&gpu));
        if wrong {
            self.stamps = None;
        }
        wrong
    }

    /// How long a pass must last so that its time is good to about a percent.
    pub(super) fn least_ns(&self) -> f64 {
        match self.timer() {
            Timer::GpuNs => 2e6,
            // 100 µs of rounding at either end; some 100 µs of submission.
            Timer::Gpu100us | Timer::Wall => 20e6,
        }
    }

    /// Runs one pass alone and waits for it.
    pub(super) async fn lap(&self, record: impl FnOnce(&mut wgpu::ComputePass<'_>)) -> Result<Lap> {
        let start = Instant::now();
        let mut encoder = self.device.create_command_encoder(&Default::default());
        let timestamp_writes = self.stamps.as_ref().map(|stamps| wgpu::ComputePassTimestampWrites {
            query_set: &stamps.set,
            beginning_of_pass_write_index: Some(0),
            end_of_pass_write_index: Some(1),
        });
        let descriptor = wgpu::ComputePassDescriptor { label: Some("diffattn.bench"), timestamp_writes };
        record(&mut encoder.begin_compute_pass(&descriptor));
        if let Some(Stamps { set, resolved, staging, .. }) = &self.stamps {
            encoder.resolve_query_set(set, 0..2, resolved, 0);
            encoder.copy_buffer_to_buffer(resolved, 0, staging, 0, 16);
        }
        self.queue.submit([encoder.finish()]);
        self.wait().await?;
        let wall_ns = start.elapsed().as_nanos() as f64;
        let gpu_ns = match &self.stamps {
            None => None,
            Some(stamps) => Some(self.read(stamps).await?),
        };
        Ok(Lap { gpu_ns, wall_ns })
    }

    async fn wait(&self) -> Result<()> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        self.queue.on_submitted_work_done(move || {
            let _ = sender.send(());
        });
        self.poll()?;
        receiver.await.map_err(|_| Error::DeviceLost { reason: "submitted work never ended".into() })
    }

    /// Natively somebody must drive the queue; a browser does so itself, and ignores this.
    fn poll(&self) -> Result<()> {
        let done = self.device.poll(wgpu::PollType::wait_indefinitely());
        done.map(|_| ()).map_err(|error| Error::DeviceLost { reason: error.to_string() })
    }

    async fn read(&self, stamps: &Stamps) -> Result<f64> {
        let (sender, receiver) = futures_channel::oneshot::channel();
        stamps.staging.map_async(wgpu::MapMode::Read, .., move |result| {
            let _ = sender.send(result);
        });
        self.poll()?;
        let failed = |reason: String| Error::Readback { reason };
        let mapped = receiver.await.map_err(|_| failed("the map callback never ran".into()))?;
        mapped.map_err(|error| failed(error.to_string()))?;
        let view = stamps.staging.get_mapped_range(..).map_err(|error| failed(error.to_string()))?;
        let [begin, end] = [0, 8].map(|at| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&view[at..at + 8]);
            u64::from_le_bytes(bytes)
        });
        drop(view);
        stamps.staging.unmap();
        Ok(end.saturating_sub(begin) as f64 * stamps.period)
    }
}
