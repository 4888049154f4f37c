//! On what a record is made. It names no host, user or path.

use super::record::{Header, Limits, SCHEMA};
use super::run::Settings;
use super::suite::Suite;
use crate::attention::DiffAttention;

/// Version of wgpu, as in Cargo.toml; a test compares them.
const WGPU: &str = "30.0";

impl Header {
    /// Everything but what is measured.
    pub(super) fn new(info: &wgpu::AdapterInfo, attention: &DiffAttention, suite: &Suite, settings: &Settings) -> Self {
        let caps = attention.caps();
        let seconds = web_time::SystemTime::now().duration_since(web_time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let timestamp = jiff::Timestamp::from_second(seconds as i64).unwrap_or_default().to_string();
        let features = attention.device().features();
        let Settings { program, arguments, .. } = settings;
        Header {
            schema: SCHEMA,
            suite: suite.name.into(),
            suite_version: suite.version,
            stack: "diffattn".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            commit: settings.commit.clone(),
            dirty: settings.dirty,
            rustc: settings.rustc.clone(),
            wgpu: Some(WGPU.into()),
            backend: info.backend.to_str().into(),
            adapter: info.name.clone(),
            vendor_id: info.vendor,
            device_id: info.device,
            device_type: device_type(info.device_type).into(),
            driver: [info.driver.trim(), info.driver_info.trim()].join(" ").trim().into(),
            subgroup: caps.subgroups.map(|(min, max)| [min, max]),
            workgroup_storage: caps.workgroup_storage,
            invocations: caps.invocations,
            storage_binding: caps.storage_binding,
            features: features.iter_names().map(|(name, _)| name.to_string()).collect(),
            os: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH).trim().into(),
            cpu: settings.cpu.clone(),
            browser: settings.browser.clone(),
            timestamp,
            seed: settings.seed,
            command: format!("{program} {arguments}").trim().into(),
            limits_before: Limits::default(),
            limits_after: None,
            throttled: false,
            skipped: Vec::new(),
        }
    }
}

const fn device_type(device_type: wgpu::DeviceType) -> &'static str {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => "discrete",
        wgpu::DeviceType::IntegratedGpu => "integrated",
        wgpu::DeviceType::VirtualGpu => "virtual",
        wgpu::DeviceType::Cpu => "cpu",
        wgpu::DeviceType::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_of_wgpu_is_that_of_the_manifest() {
        let manifest = include_str!("../../Cargo.toml");
        assert!(manifest.contains(&format!("\nwgpu = {{ version = \"{WGPU}.")), "WGPU says {WGPU}");
    }
}
