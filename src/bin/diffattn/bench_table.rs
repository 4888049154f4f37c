//! How a record looks on a terminal: a banner, the limits, and a table; or its rows as CSV.

use anyhow::Result;
use comfy_table::presets;
use diffattn::bench::{Header, Limits, Record, Row, Timer};
use serde_json::Value;

use crate::tables;

/// The line that everybody pastes.
pub fn banner(header: &Header) -> String {
    let has = |feature: &str, name: &str| {
        let found = header.features.iter().any(|known| known == feature);
        if found { name.into() } else { format!("no {name}") }
    };
    let subgroups = match header.subgroup {
        None => "no subgroups".into(),
        Some([min, max]) if min == max => format!("subgroups {min}"),
        Some([min, max]) => format!("subgroups {min}–{max}"),
    };
    let parts = [
        header.adapter.clone(),
        header.device_type.clone(),
        format!("{} · {}", header.backend, header.driver),
        has("SHADER_F16", "f16"),
        subgroups,
        format!("{} KiB shared", header.workgroup_storage >> 10),
        has("TIMESTAMP_QUERY", "timestamps"),
        has("EXPERIMENTAL_COOPERATIVE_MATRIX", "matrix units"),
        match (&header.commit, header.dirty) {
            (None, _) => format!("diffattn {}", header.version),
            (Some(commit), Some(true)) => format!("diffattn {}@{commit}+changes", header.version),
            (Some(commit), _) => format!("diffattn {}@{commit}", header.version),
        },
    ];
    parts.join(" | ")
}

/// What the device can do, in one line.
pub fn limits(limits: &Limits) -> String {
    let Limits { fma_f32_tflops, fma_f16_tflops, matrix_tflops, read_gb_s, copy_gb_s, dispatch_us } = *limits;
    let known = [
        ("f32", fma_f32_tflops, "TFLOP/s"),
        ("f16", fma_f16_tflops, "TFLOP/s"),
        ("matrix", matrix_tflops, "TFLOP/s"),
        ("read", read_gb_s, "GB/s"),
        ("copy", copy_gb_s, "GB/s"),
        ("dispatch", dispatch_us, "µs"),
    ];
    let known = known.iter().filter_map(|(name, value, unit)| Some(format!("{name} {} {unit}", digits((*value)?))));
    known.collect::<Vec<_>>().join(", ")
}

/// The rows as a Markdown table.
pub fn markdown(rows: &[Row]) -> String {
    let columns = [
        "op",
        "form",
        "path",
        "tile",
        "dtype",
        "shape",
        "error",
        "median ms",
        "p10–p90",
        "TFLOP/s",
        "GB/s",
        "limit",
        "scratch MB",
    ];
    let numbers = ["error", "median ms", "p10–p90", "TFLOP/s", "GB/s", "limit", "scratch MB"];
    let mut table = tables::table(&columns, &numbers);
    table.load_style(presets::ASCII_MARKDOWN);
    for index in 0..columns.len() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((1, 1));
        }
    }
    for row in rows {
        let mask = if row.causal { "causal" } else { "full" };
        let Row { batch, q_len, kv_len, heads, kv_heads, head_dim, .. } = row;
        let mut cells = vec![row.op.clone(), row.form.clone(), row.path.clone(), row.tile.clone(), row.dtype.clone()];
        cells.push(format!("b{batch} q{q_len} kv{kv_len} h{heads}/{kv_heads} d{head_dim} {mask}"));
        if row.passed {
            cells.push(format!("{:.0} %", 100.0 * row.max_err / row.err_bound));
            let fewer = if row.samples_ns.len() < 20 { format!(" n={}", row.samples_ns.len()) } else { String::new() };
            let wall = if row.timer == Timer::Wall { " wall" } else { "" };
            cells.push(format!("{}{wall}{fewer}", digits(row.median_ns / 1e6)));
            cells.push(format!("{}–{}", digits(row.p10_ns / 1e6), digits(row.p90_ns / 1e6)));
            cells.extend([digits(row.tflops), digits(row.gb_s)]);
            let limit = format!("{} {} %", row.bound_by, digits(row.pct_of_limit));
            cells.push(if row.bound_by.is_empty() { "–".into() } else { limit });
            cells.push(digits(row.scratch_bytes as f64 / 1e6));
        } else {
            cells.push("WRONG".into());
        }
        table.add_row(cells);
    }
    table.trim_fmt()
}

/// The rows with every column but the samples; on what they were measured comes first.
pub fn csv(record: &Record) -> Result<String> {
    let Header { suite, suite_version, stack, version, commit, backend, adapter, driver, timestamp, throttled, .. } =
        &record.header;
    let first = [
        ("suite", suite.clone()),
        ("suite_version", suite_version.to_string()),
        ("stack", stack.clone()),
        ("version", version.clone()),
        ("commit", commit.clone().unwrap_or_default()),
        ("backend", backend.clone()),
        ("adapter", adapter.clone()),
        ("driver", driver.clone()),
        ("timestamp", timestamp.clone()),
        ("throttled", throttled.to_string()),
    ];
    let mut writer = csv::Writer::from_writer(Vec::new());
    for (index, row) in record.rows.iter().enumerate() {
        let Value::Object(mut row) = serde_json::to_value(row)? else { unreachable!("a row is an object") };
        row.remove("samples_ns");
        if index == 0 {
            writer.write_record(first.iter().map(|(name, _)| *name).chain(row.keys().map(String::as_str)))?;
        }
        let cell = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Array(values) => values.iter().map(Value::to_string).collect::<Vec<_>>().join(" "),
            other => other.to_string(),
        };
        writer.write_record(first.iter().map(|(_, value)| value.clone()).chain(row.values().map(cell)))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// Three digits of a number, without an exponent.
fn digits(value: f64) -> String {
    let places = if value > 0.0 { (2 - value.log10().floor() as i32).clamp(0, 6) } else { 0 };
    format!("{value:.*}", places as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits() {
        let shown = [0.0, 0.000123456, 0.0718, 1.0, 9.999, 12.34, 123.4, 4321.0].map(digits);
        assert_eq!(shown, ["0", "0.000123", "0.0718", "1.00", "10.00", "12.3", "123", "4321"]);
    }
}
