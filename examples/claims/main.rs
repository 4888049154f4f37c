//! What the authors of DIFF V2 and V1 state, and what follows from it: measured here with the CPU engine.
//!
//! `cargo run --release --example claims` prints every item with the measured value, the expected one and its source,
//! and fails when one does not hold. The tests run the same items (`tests/cpu/claims.rs`).

mod items;

use comfy_table::{Table, presets};
use std::process::ExitCode;

fn main() -> ExitCode {
    let claims = items::all();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["item", "what", "measured", "expected", "holds", "source"]);
    for claim in &claims {
        let holds = if claim.holds { "yes" } else { "NO" };
        table.add_row([claim.item, &claim.what, &claim.measured, &claim.expected, holds, claim.source]);
    }
    println!("{}\n", table.trim_fmt());
    println!(
        "Not shown, because no kernel can or because it is not built: C5 training throughput, C7 block-sparse attention."
    );
    println!("Nothing here says how well a model learns: that needs training runs.");
    let failed = claims.iter().filter(|claim| !claim.holds).count();
    println!("\n{} of {} items hold", claims.len() - failed, claims.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
