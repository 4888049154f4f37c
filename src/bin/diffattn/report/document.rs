//! The report in Markdown, to paste into an issue.

use std::fmt::Write as _;

use diffattn::bench::Header;

use super::view::{Device, View, rate};
use crate::markdown::{cell, table};
use crate::records::{Case, digits, time};

pub fn markdown(view: &View) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}\n", cell(&view.summary()));
    for device in &view.devices {
        let _ = writeln!(text, "- {}: {}.", named(device), cell(&device.sentences(&view.cases).join(". ")));
    }
    text.push('\n');
    for op in view.ops() {
        if view.cases_of(op).any(|case| view.devices.iter().any(|device| device.best(case).is_some())) {
            let _ = writeln!(text, "### {}\n\n{}", cell(op), best(view, op));
        }
    }
    for device in &view.devices {
        let missing = device.missing(&view.cases);
        if !missing.is_empty() {
            let _ = writeln!(text, "Not measured on {}:\n", cell(&device.name));
        }
        for (case, reason) in &missing {
            let _ = writeln!(text, "- {}: {}", cell(case), cell(reason));
        }
        let _ = writeln!(text, "\n{}", rows(device));
    }
    text
}

/// Devices side by side: the best time of each case.
fn best(view: &View, op: &str) -> String {
    let columns = ["case", "device", "kernel", "median", "rate", "% of own limit", "others take"];
    let rows = view.cases_of(op).flat_map(|case| {
        let fastest = view.fastest(case);
        view.devices.iter().enumerate().filter_map(move |(index, device)| {
            let best = device.best(case)?;
            let others = best.others.iter().map(|(name, times)| format!("{name} {}×", digits(*times)));
            let median = time(best.v2.median_ns);
            let share = best.v2.pct_of_limit;
            Some([
                cell(&case.to_string()),
                named(device),
                cell(&format!("{} {}", best.v2.form, best.v2.path)),
                if fastest == Some(index) { format!("**{median}**") } else { median },
                rate(best.v2),
                if share > 0.0 { format!("{} ({})", digits(share), cell(&best.v2.bound_by)) } else { "–".into() },
                others.collect::<Vec<_>>().join(", "),
            ])
        })
    });
    table(&columns, &["median", "rate", "% of own limit"], rows)
}

/// A device, and why it is not ranked.
fn named(device: &Device) -> String {
    let marks = device.marks();
    let marks = if marks.is_empty() { String::new() } else { format!(" ({})", marks.join(", ")) };
    cell(&device.name) + &marks
}

/// Every row of a record, folded up.
fn rows(device: &Device) -> String {
    let Header { backend, driver, version, commit, command, .. } = device.header;
    let commit = commit.as_ref().map_or(String::new(), |commit| format!(" @ {commit}"));
    let columns =
        ["op", "case", "form", "path", "median", "± half of p10–p90", "TFLOP/s", "GB/s", "error", "bound", "command"];
    let rows = device.rows.iter().map(|row| {
        let timed = |text: String| if row.passed { text } else { "–".into() };
        [
            cell(&row.op),
            cell(&Case::of(row).to_string()),
            cell(&row.form),
            cell(&row.path),
            if row.passed { time(row.median_ns) } else { "**wrong result**".into() },
            timed(time((row.p90_ns - row.p10_ns) / 2.0)),
            timed(digits(row.tflops)),
            timed(digits(row.gb_s)),
            format!("{:.1e}", row.max_err),
            format!("{:.1e}", row.err_bound),
            cell(&row.repro),
        ]
    });
    let numbers = ["median", "± half of p10–p90", "TFLOP/s", "GB/s", "error", "bound"];
    format!(
        "<details><summary>{}: every row</summary>\n\n{} · {} · diffattn {version}{} · {}\n\n{}\n</details>\n",
        named(device),
        cell(backend),
        cell(driver),
        cell(&commit),
        cell(command),
        table(&columns, &numbers, rows),
    )
}
