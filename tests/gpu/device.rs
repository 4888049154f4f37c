//! Adapters and devices.

use diffattn::{DType, DiffAttention, Path, wgpu};

/// An adapter under test, with a device that has all it offers and one with WebGPU's default limits.
pub struct Gpu {
    /// Unique, short, without spaces.
    pub name: String,
    pub adapter: wgpu::Adapter,
    pub attention: DiffAttention,
    /// Default limits and no optional feature.
    pub floor: DiffAttention,
}

/// Every adapter of the native backends.
pub fn adapters() -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY))
}

impl Gpu {
    pub fn new(adapter: wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let name: String = info.name.split_whitespace().next().unwrap_or("adapter").to_lowercase();
        let (device, queue) = pollster::block_on(diffattn::request_device(&adapter)).expect("device");
        let (floor, floor_queue) = pollster::block_on(diffattn::request_floor_device(&adapter)).expect("floor device");
        let attention = DiffAttention::with_adapter(&adapter, &device, &queue);
        Gpu { name, attention, floor: DiffAttention::new(&floor, &floor_queue), adapter }
    }

    /// A device like the floor's, with some limits lowered.
    pub fn with_limits(&self, lower: impl FnOnce(&mut wgpu::Limits)) -> DiffAttention {
        let mut required_limits = wgpu::Limits::default();
        lower(&mut required_limits);
        let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
        let (device, queue) = pollster::block_on(self.adapter.request_device(&descriptor)).expect("lower limits");
        DiffAttention::new(&device, &queue)
    }
}

/// The paths that have a backward pass on a device.
pub fn backward_paths(attention: &DiffAttention) -> Vec<Path> {
    let mut paths = paths(attention, DType::F32);
    paths.retain(|&path| path != Path::Matrix);
    paths
}

/// The paths that a device can run in a storage type.
pub fn paths(attention: &DiffAttention, dtype: DType) -> Vec<Path> {
    let caps = attention.caps();
    let runs = |path: &Path| match path {
        Path::Naive | Path::Portable => true,
        Path::Subgroup => caps.subgroups.is_some(),
        Path::Matrix => caps.matrix.is_some() && dtype != DType::F32,
        other => panic!("{other:?} is not listed"),
    };
    Path::ALL.into_iter().filter(runs).collect()
}
