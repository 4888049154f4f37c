//! What the device can do, read once. Pure data afterwards: every decision about tiles and variants is made from it.

use std::fmt;

use crate::tile::Path;

mod quirks;
pub use quirks::Quirk;

/// Capabilities of a device that the kernels care about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caps {
    /// Name of the adapter, for messages; empty where the browser hides it.
    pub adapter: String,
    /// What the adapter is: a GPU of its own, one beside a CPU, a program.
    pub kind: wgpu::DeviceType,
    /// The interface that wgpu reaches it through.
    pub backend: wgpu::Backend,
    /// PCI vendor number; 0 where the browser hides it.
    pub vendor: u32,
    /// Name of the driver, as it gives it.
    pub driver: String,
    /// Version of the driver, in its own words.
    pub driver_info: String,
    /// Bytes of workgroup memory (`max_compute_workgroup_storage_size`).
    pub workgroup_storage: u32,
    /// Invocations in a workgroup (`max_compute_invocations_per_workgroup`, and its x dimension).
    pub invocations: u32,
    /// Bytes of one storage binding (`max_storage_buffer_binding_size`).
    pub storage_binding: u64,
    /// Alignment of a storage binding's offset, in bytes.
    pub offset_alignment: u32,
    /// Workgroups along one dimension of a dispatch.
    pub workgroups: u32,
    /// Whether `unpack2x16float` may be used (`SHADER_F16`, or a browser).
    pub unpack_f16: bool,
    /// Whether the device is a CPU: lanes of a vector unit, for which only loads at one address are cheap.
    pub software: bool,
    /// Smallest and largest subgroup, where subgroup operations are enabled.
    pub subgroups: Option<(u32, u32)>,
    /// Side of the square matrices that the device multiplies as f16 × f16 → f32: 8 or 16, where matrix units are
    /// enabled. Only the adapter knows: see [`Caps::with_matrices`].
    pub matrix: Option<u32>,
}

impl Caps {
    /// Reads the capabilities that `device` was created with.
    pub fn of(device: &wgpu::Device) -> Self {
        let limits = device.limits();
        let features = device.features();
        // Some browsers lack `GPUDevice.adapterInfo`, and none passes subgroups on through wgpu 30.
        let info = (!cfg!(target_arch = "wasm32")).then(|| device.adapter_info());
        Caps {
            workgroup_storage: limits.max_compute_workgroup_storage_size,
            invocations: limits.max_compute_invocations_per_workgroup.min(limits.max_compute_workgroup_size_x),
            storage_binding: limits.max_storage_buffer_binding_size,
            offset_alignment: limits.min_storage_buffer_offset_alignment,
            workgroups: limits.max_compute_workgroups_per_dimension,
            unpack_f16: cfg!(target_arch = "wasm32") || features.contains(wgpu::Features::SHADER_F16),
            software: info.as_ref().is_some_and(|info| info.device_type == wgpu::DeviceType::Cpu),
            subgroups: info
                .as_ref()
                .filter(|_| features.contains(wgpu::Features::SUBGROUP))
                .map(|info| (info.subgroup_min_size, info.subgroup_max_size)),
            kind: info.as_ref().map_or(wgpu::DeviceType::Other, |info| info.device_type),
            backend: info.as_ref().map_or(wgpu::Backend::BrowserWebGpu, |info| info.backend),
            vendor: info.as_ref().map_or(0, |info| info.vendor),
            driver: info.as_ref().map(|info| info.driver.clone()).unwrap_or_default(),
            driver_info: info.as_ref().map(|info| info.driver_info.clone()).unwrap_or_default(),
            adapter: info.map(|info| info.name).unwrap_or_default(),
            matrix: None,
        }
    }

    /// Adds what only the adapter knows about the device's matrix units, when `features` has everything they need:
    /// cooperative matrices, f16, subgroups, and one subgroup size.
    pub fn with_matrices(self, adapter: &wgpu::Adapter, features: wgpu::Features) -> Self {
        use wgpu::CooperativeScalarType::{F16, F32};
        let sizes = adapter.cooperative_matrix_properties();
        let side = |size: u32| {
            let square = |p: &wgpu::CooperativeMatrixProperties| [p.m_size, p.n_size, p.k_size] == [size; 3];
            sizes.iter().any(|p| square(p) && p.ab_type == F16 && p.cr_type == F32).then_some(size)
        };
        let one_size = self.subgroups.is_some_and(|(min, max)| min == max);
        let enabled = features.contains(MATRIX_FEATURES) && one_size;
        Caps { matrix: side(16).or(side(8)).filter(|_| enabled), ..self }
    }

    /// Why a planner does not take `path` on this device unless asked to, in one clause; `None` where it may.
    ///
    /// Matrix units are taken unasked on GPUs of their own only: elsewhere nobody has measured them yet, and a software
    /// driver's are no faster than the rest of it.
    pub fn objection(&self, path: Path) -> Option<String> {
        let missing = match path {
            Path::Subgroup if self.subgroups.is_none() => Some("no subgroup operations are enabled".to_string()),
            Path::Matrix if self.matrix.is_none() => Some(match self.varying_subgroups() {
                None => "no matrix units are enabled".to_string(),
                Some(varying) => format!("{varying}, where its kernels need one size"),
            }),
            Path::Matrix if self.kind == wgpu::DeviceType::Cpu => {
                Some("a software driver's are not faster".to_string())
            }
            Path::Matrix if self.kind != wgpu::DeviceType::DiscreteGpu => {
                Some("untried on GPUs that are not discrete; `diffattn tune` tries it".to_string())
            }
            Path::Naive | Path::Portable | Path::Subgroup | Path::Matrix => None,
        };
        let known = |quirk: &Quirk| format!("{} ({})", quirk.reason, quirk.link);
        missing.or_else(|| self.quirk(path).map(known))
    }

    /// The sizes of the device's subgroups, in one clause, where they have more than one.
    pub(crate) fn varying_subgroups(&self) -> Option<String> {
        let (min, max) = self.subgroups.filter(|(min, max)| min != max)?;
        Some(format!("subgroups have from {min} to {max} lanes"))
    }

    /// The entry of the table of known-bad drivers that speaks against `path` on this device.
    pub fn quirk(&self, path: Path) -> Option<&'static Quirk> {
        Quirk::find(quirks::QUIRKS, path, self)
    }

    /// The limits that every WebGPU device has, without optional features: the floor that each kernel must fit.
    pub fn floor() -> Self {
        Caps {
            adapter: "WebGPU default limits".into(),
            kind: wgpu::DeviceType::Other,
            backend: wgpu::Backend::BrowserWebGpu,
            vendor: 0,
            driver: String::new(),
            driver_info: String::new(),
            workgroup_storage: 16 << 10,
            invocations: 256,
            storage_binding: 128 << 20,
            offset_alignment: 256,
            workgroups: 65535,
            unpack_f16: false,
            software: false,
            subgroups: None,
            matrix: None,
        }
    }
}

/// What the matrix path needs of a device.
pub(crate) const MATRIX_FEATURES: wgpu::Features =
    wgpu::Features::EXPERIMENTAL_COOPERATIVE_MATRIX.union(wgpu::Features::SHADER_F16).union(wgpu::Features::SUBGROUP);

impl fmt::Display for Caps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kib = self.workgroup_storage >> 10;
        write!(f, "{kib} KiB workgroup storage, {} invocations, ", self.invocations)?;
        match self.subgroups {
            None => write!(f, "no subgroups")?,
            Some((min, max)) if min == max => write!(f, "subgroups of {min}")?,
            Some((min, max)) => write!(f, "subgroups of {min} to {max}")?,
        }
        if let Some(size) = self.matrix {
            write!(f, ", matrices of {size} × {size}")?;
        }
        write!(f, ", {} MiB storage bindings", self.storage_binding >> 20)
    }
}
