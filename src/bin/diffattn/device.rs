//! Finding adapters and choosing one.

use anyhow::{Context, Result, bail};
use diffattn::wgpu;

/// What to do where there is no adapter.
pub const INSTALL: &str = "install a Vulkan driver (on Debian or Ubuntu: apt-get install mesa-vulkan-drivers)";

/// Keeps Mesa's layer for choosing among several GPUs from printing errors where there is no desktop session.
///
/// The layer only sorts the adapters, which we do ourselves. To be called before any other thread starts.
pub fn quiet_driver() {
    if cfg!(target_os = "linux") && std::env::var_os("XDG_RUNTIME_DIR").is_none() {
        // SAFETY: called first in `main`, where no other thread can read the environment.
        unsafe { std::env::set_var("NODEVICE_SELECT", "1") };
    }
}

/// Every adapter of this machine, in the order of their numbers.
pub fn adapters() -> Vec<wgpu::Adapter> {
    // A driver that has no room left may borrow the host's memory, and go on at a crawl.
    let memory_budget_thresholds =
        wgpu::MemoryBudgetThresholds { for_resource_creation: Some(95), for_device_loss: None };
    let descriptor = wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        memory_budget_thresholds,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let instance = wgpu::Instance::new(descriptor);
    pollster::block_on(instance.enumerate_adapters(wgpu::Backends::PRIMARY))
}

/// The number of the adapter to prefer: the fastest kind, and the first of its kind.
pub fn preferred(adapters: &[wgpu::Adapter]) -> Option<usize> {
    let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    (0..adapters.len()).min_by_key(|&index| rank(&adapters[index]))
}

/// The number of the adapter to measure on: the one that the user means, or the preferred one.
pub fn choose(adapters: &[wgpu::Adapter], wanted: Option<&str>) -> Result<usize> {
    match wanted {
        Some(wanted) => find(adapters, wanted),
        None => preferred(adapters)
            .with_context(|| format!("no GPU adapter was found, so there is nothing to measure; {INSTALL}")),
    }
}

/// The number of the adapter that the user means: a number, or a part of one adapter's name in any case.
pub fn find(adapters: &[wgpu::Adapter], wanted: &str) -> Result<usize> {
    let names: Vec<_> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
    if names.is_empty() {
        bail!("no GPU adapter was found, so none is \"{wanted}\"; {INSTALL}, or use --engine cpu");
    }
    let list = || {
        let numbered = names.iter().enumerate().map(|(index, name)| format!("{index}: {name}"));
        numbered.collect::<Vec<_>>().join(", ")
    };
    // A number beyond the list may be a part of a name: 3060.
    if let Some(index) = wanted.parse().ok().filter(|&index: &usize| index < names.len()) {
        return Ok(index);
    }
    let lower = wanted.to_lowercase();
    let matching: Vec<_> = (0..names.len()).filter(|&index| names[index].to_lowercase().contains(&lower)).collect();
    match matching[..] {
        [index] => Ok(index),
        [] => bail!("no adapter has the number or name \"{wanted}\"; there are {}", list()),
        _ => bail!("several adapters match \"{wanted}\"; give a number: {}", list()),
    }
}

/// Whether the adapter is a program on the CPU, such as llvmpipe or SwiftShader.
pub fn is_software(adapter: &wgpu::Adapter) -> bool {
    adapter.get_info().device_type == wgpu::DeviceType::Cpu
}

/// Kind of an adapter, in words.
pub fn kind(device_type: wgpu::DeviceType) -> &'static str {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete GPU",
        wgpu::DeviceType::IntegratedGpu => "integrated GPU",
        wgpu::DeviceType::VirtualGpu => "virtual GPU",
        wgpu::DeviceType::Cpu => "software",
        wgpu::DeviceType::Other => "unknown kind",
    }
}
