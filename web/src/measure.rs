//! The fourth panel: the quick suite, for the page to show while it runs.

use diffattn::bench::{Case, Limits, Observer, Row, Runner, Settings, Skipped, Stage, Suite, run};
use diffattn::{Error, Sizes};
use wasm_bindgen::prelude::*;

use crate::engine::Engine;
use crate::explain::explain;

#[wasm_bindgen]
extern "C" {
    /// The page, watching a run.
    pub type Watcher;

    #[wasm_bindgen(method)]
    fn stage(this: &Watcher, text: &str, index: i32);

    #[wasm_bindgen(method)]
    fn limits(this: &Watcher, json: &str);

    #[wasm_bindgen(method)]
    fn row(this: &Watcher, json: &str);

    #[wasm_bindgen(method)]
    fn stop(this: &Watcher) -> bool;
}

/// Bytes of the two buffers that the device's memory is measured with.
const LIMITS_BYTES: u64 = 2 * (128 << 20);

/// The part of the machine's memory that a page may take without being killed.
const SHARE: f64 = 0.25;

/// Number of cases with texts up to `longest`.
#[wasm_bindgen(js_name = suiteSize)]
pub fn suite_size(longest: u32) -> usize {
    suite(longest).0.cases.len()
}

/// The lengths of the suite, in order.
#[wasm_bindgen(js_name = suiteLengths)]
pub fn suite_lengths() -> Vec<u32> {
    let mut lengths: Vec<_> = suite(u32::MAX).0.cases.iter().map(|case| case.shape.kv_len).collect();
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// Judges and times the quick suite up to `longest`, and gives the record as JSON Lines.
///
/// # Errors
/// Those of [`run`].
#[wasm_bindgen]
pub async fn measure(
    engine: &Engine,
    longest: u32,
    browser: String,
    adapter: String,
    software: bool,
    watcher: Watcher,
) -> Result<String, JsValue> {
    let (suite, left_out) = suite(longest);
    let Some((on, gpu)) = engine.adapter().zip(engine.gpu()) else {
        return Err(explain(Error::NoAdapter { reason: "the CPU engine is not measured in a page".into() }));
    };
    let mut settings = Settings::default();
    settings.browser = Some(browser);
    let mut observer = Watched { watcher, cases: suite.cases.len() };
    let mut record = run(on, gpu, &suite, &settings, &mut observer).await.map_err(explain)?;
    // What wgpu does not pass on.
    record.header.adapter = adapter;
    if software {
        record.header.device_type = "cpu".into();
    }
    record.header.skipped.extend(left_out);
    record.to_jsonl().map_err(explain)
}

/// The quick suite without what a page leaves out, and that.
fn suite(longest: u32) -> (Suite, Vec<Skipped>) {
    let quick = Suite::quick();
    let reason = |case: &Case| match case.runner {
        Runner::Cpu => Some("the CPU engine would hold up the page".to_string()),
        _ if case.op.is_module() => Some("modules are measured by the command".into()),
        _ if case.shape.kv_len > longest => Some("longer than was asked for".into()),
        _ => None,
    };
    let (cases, rest): (Vec<_>, Vec<_>) = quick.cases.iter().partition(|case| reason(case).is_none());
    let skipped = |case: &Case| Some(Skipped { case: case.to_string(), reason: reason(case)? });
    (Suite { cases, ..quick }, rest.iter().filter_map(skipped).collect())
}

#[wasm_bindgen]
impl Engine {
    /// Why texts of this length would not fit, in a machine with so many bytes of memory.
    pub fn refuses(&self, length: u32, memory: f64) -> Option<String> {
        let gpu = self.gpu()?;
        let (suite, _) = suite(length);
        let problems = suite.cases.iter().filter(|case| case.shape.kv_len == length).map(Case::problem);
        let sizes = problems.filter_map(|problem| Some((Sizes::of(&problem).ok()?, problem.dtype.size())));
        let mb = |bytes: u64| bytes.div_ceil(1_000_000);
        let limits = gpu.device().limits();
        for (Sizes { q, k, v, lam, out, .. }, element) in sizes {
            let largest = q.max(k).max(v).max(out) * element;
            if largest > limits.max_buffer_size {
                let allowed = mb(limits.max_buffer_size);
                return Some(format!("needs a buffer of {} MB; max_buffer_size is {allowed} MB.", mb(largest)));
            }
            let total = (q + k + v + out) * element + lam * 4 + LIMITS_BYTES;
            if total as f64 > SHARE * memory {
                return Some(format!("needs {} MB, a quarter of this machine's memory or more.", mb(total)));
            }
        }
        None
    }
}

/// Passes on what happens.
struct Watched {
    watcher: Watcher,
    cases: usize,
}

impl Observer for Watched {
    fn stage(&mut self, stage: Stage<'_>) {
        match stage {
            Stage::Limits => self.watcher.stage("Measuring what the GPU can do", -1),
            Stage::Case { index, case } => {
                self.watcher.stage(&format!("{} of {}: {case}", index + 1, self.cases), index as i32);
            }
        }
    }

    fn limits(&mut self, limits: &Limits) {
        self.watcher.limits(&serde_json::to_string(limits).unwrap_or_default());
    }

    fn row(&mut self, row: &Row) {
        self.watcher.row(&serde_json::to_string(row).unwrap_or_default());
    }

    fn stop(&mut self) -> bool {
        self.watcher.stop()
    }
}
