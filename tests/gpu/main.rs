//! Every adapter found × every case: `ADAPTER::CASE`. Judged by the float64 reference.

mod allocations;
mod backward;
mod backward_matrix;
mod backward_options;
mod backward_run;
#[cfg(feature = "cli")]
mod bench;
mod cache;
mod decode;
mod device;
mod errors;
mod export;
mod golden;
mod layer;
mod limits;
mod matmul;
mod matrix;
#[path = "../../benches/support/passes.rs"]
mod passes;
mod placement;
mod random;
mod run;
#[path = "../support/mod.rs"]
mod support;

use device::Gpu;
use libtest_mimic::{Arguments, Conclusion, Failed, Trial};
use std::process::ExitCode;
use std::sync::Arc;

/// A case: its name, and what it does on one adapter.
type Case = (String, Box<dyn Fn(&Gpu) -> Result<(), Failed> + Send + Sync>);

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let adapters = device::adapters();
    if adapters.is_empty() {
        println!("\n!! NO ADAPTER: not one GPU test can run here. A software driver will do: see tests/run.sh");
        if std::env::var_os("DIFFATTN_REQUIRE_GPU").is_some_and(|value| value != "0") {
            println!("!! DIFFATTN_REQUIRE_GPU is set: this is a failure");
            return ExitCode::FAILURE;
        }
    }
    let mut trials = Vec::new();
    let mut matrix_units = false;
    for adapter in adapters {
        let gpu = Arc::new(Gpu::new(adapter));
        println!("{}: {}", gpu.name, gpu.attention.caps());
        let mut cases = cases();
        if gpu.attention.caps().matrix.is_some() {
            matrix_units = true;
            cases.extend(matrix::cases());
            cases.extend(backward_matrix::cases());
            cases.extend(matmul::matrix_cases());
            cases.extend(layer::matrix_cases());
        }
        for (name, case) in cases {
            let gpu = gpu.clone();
            trials.push(Trial::test(format!("{}::{name}", gpu.name), move || case(&gpu)));
        }
    }
    let skipped = trials.is_empty();
    if !matrix_units && !skipped {
        println!("!! no adapter has matrix units: their tests are skipped here");
        trials.push(Trial::test("matrix", || Ok(())).with_ignored_flag(true));
    }
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    if skipped {
        println!("test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out (no adapter)");
    }
    conclusion.exit_code()
}

fn cases() -> Vec<Case> {
    let mut cases = golden::cases();
    cases.extend(random::cases());
    cases.extend(placement::cases());
    cases.extend(limits::cases());
    cases.extend(errors::cases());
    cases.extend(export::cases());
    cases.extend(decode::cases());
    cases.extend(allocations::cases());
    cases.extend(backward::cases());
    cases.extend(backward_options::cases());
    #[cfg(feature = "cli")]
    cases.extend(bench::cases());
    cases.extend(matmul::cases());
    cases.extend(layer::cases());
    cases
}

/// A case from a plain function.
fn case(name: impl Into<String>, test: impl Fn(&Gpu) -> Result<(), Failed> + Send + Sync + 'static) -> Case {
    (name.into(), Box::new(test))
}
