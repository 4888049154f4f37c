//! Who computes: a GPU of the visitor, or the CPU in wasm.

use diffattn::{DiffAttention, Error, HostInputs, HostOutputs, Path, PlanOptions, Problem, cpu, wgpu};
use wasm_bindgen::prelude::*;

use crate::explain::explain;

/// An engine that stays for the life of the page, or until its device is lost.
#[wasm_bindgen]
#[derive(Debug, Clone)]
pub struct Engine {
    gpu: Option<(wgpu::Adapter, DiffAttention)>,
}

/// Opens the best adapter of the browser. `lost` is called with the reason when its device is gone.
///
/// # Errors
/// `NoAdapter` when there is none or it refuses a device.
#[wasm_bindgen(js_name = openGpu)]
pub async fn open_gpu(lost: js_sys::Function) -> Result<Engine, JsValue> {
    let descriptor = wgpu::InstanceDescriptor {
        backends: wgpu::Backends::BROWSER_WEBGPU,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let options =
        wgpu::RequestAdapterOptions { power_preference: wgpu::PowerPreference::HighPerformance, ..Default::default() };
    // A new adapter each time: the first device uses it up.
    let adapter = wgpu::Instance::new(descriptor).request_adapter(&options).await;
    let adapter = adapter.map_err(|error| explain(Error::NoAdapter { reason: error.to_string() }))?;
    let (device, queue) = diffattn::request_device(&adapter).await.map_err(explain)?;
    device.set_device_lost_callback(move |_, reason| {
        let _ = lost.call1(&JsValue::NULL, &reason.into());
    });
    let attention = DiffAttention::new(&device, &queue);
    Ok(Engine { gpu: Some((adapter, attention)) })
}

/// The CPU engine, on one thread.
#[wasm_bindgen(js_name = openCpu)]
pub fn open_cpu() -> Engine {
    Engine { gpu: None }
}

#[wasm_bindgen]
impl Engine {
    /// What the device can do, in words.
    pub fn describe(&self) -> String {
        self.gpu().map_or_else(|| "one thread of wasm".into(), |gpu| gpu.caps().to_string())
    }

    /// Whether it is a GPU.
    #[wasm_bindgen(getter, js_name = isGpu)]
    pub fn is_gpu(&self) -> bool {
        self.gpu.is_some()
    }
}

impl Engine {
    /// The kernels, where it is a GPU.
    pub(crate) fn gpu(&self) -> Option<&DiffAttention> {
        self.gpu.as_ref().map(|(_, attention)| attention)
    }

    /// Where the kernels run.
    pub(crate) fn adapter(&self) -> Option<&wgpu::Adapter> {
        self.gpu.as_ref().map(|(adapter, _)| adapter)
    }

    /// The outputs, and the label of what computed them.
    pub(crate) async fn forward(
        &self,
        problem: &Problem,
        inputs: &HostInputs<'_>,
        path: Option<Path>,
    ) -> diffattn::Result<(HostOutputs, String)> {
        let Some(gpu) = self.gpu() else {
            return Ok((cpu::forward(problem, inputs)?, "cpu".into()));
        };
        let mut options = PlanOptions::default();
        options.path = path;
        let plan = gpu.plan_forward(problem, options).await?;
        Ok((plan.run(inputs).await?, plan.label()))
    }
}
