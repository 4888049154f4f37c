//! What the test binaries share: golden files, random problems' tensors, seeds.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part")]

mod golden;
mod golden_module;
mod tensors;

pub use golden::Golden;
pub use golden_module::GoldenModule;
pub use tensors::Tensors;

/// A random generator whose seed is printed, which the test harness shows when the test fails. `DIFFATTN_SEED`
/// repeats a run.
pub fn rng() -> fastrand::Rng {
    let seed = match std::env::var("DIFFATTN_SEED") {
        Ok(seed) => seed.parse().expect("DIFFATTN_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("repeat with DIFFATTN_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
