//! How results look on a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use diffattn::reference::Verdict;
use diffattn::{AnyTile, Path, Problem, Shape};
use indicatif::{ProgressBar, ProgressStyle};

/// An empty table with these columns; those named in `numbers` are aligned to the right.
pub fn table(columns: &[&str], numbers: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.to_vec());
    for (index, name) in columns.iter().enumerate() {
        if let Some(column) = table.column_mut(index) {
            column.set_padding((0, 2));
            if numbers.contains(name) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
    }
    table
}

/// `error`, `bound` and `result` cells of a verdict.
pub fn cells(verdict: &Verdict) -> [String; 3] {
    let result = match verdict.passed {
        true => "pass",
        false if verdict.can_tell() => "FAIL",
        false => "FAIL (cannot tell)",
    };
    [format!("{:.1e}", verdict.error), format!("{:.1e}", verdict.bound), result.into()]
}

/// Verdicts on tensors of the given names and shapes, a row each.
pub fn verdicts<'a>(rows: impl Iterator<Item = (&'a str, &'a [usize], &'a Verdict)>) -> Table {
    let mut table = table(&["tensor", "error", "bound", "result", "worst element"], &["error", "bound"]);
    for (name, shape, verdict) in rows {
        let [error, bound, result] = cells(verdict);
        table.add_row([name.to_string(), error, bound, result, place(verdict.index, shape)]);
    }
    table
}

/// Index of an element along every axis: `[0, 3, 1, 5]`.
pub fn place(mut index: usize, shape: &[usize]) -> String {
    let mut axes = Vec::new();
    for &size in shape.iter().rev() {
        axes.push(index % size.max(1));
        index /= size.max(1);
    }
    axes.reverse();
    format!("{axes:?}")
}

/// Sizes of a problem, for a column: `b2 q65 kv65 h4/2 d64`.
pub fn shape(shape: &Shape) -> String {
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = *shape;
    let values = if value_dim == head_dim { String::new() } else { format!("/{value_dim}") };
    format!("b{batch} q{q_len} kv{kv_len} h{heads}/{kv_heads} d{head_dim}{values}")
}

/// Sizes, storage type and options of a problem, in one line.
pub fn problem(problem: &Problem) -> String {
    let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = problem.shape;
    let mut text = format!(
        "batch {batch}, q_len {q_len}, kv_len {kv_len}, heads {heads}, kv_heads {kv_heads}, head_dim {head_dim}"
    );
    if value_dim != head_dim {
        let _ = write!(text, ", value_dim {value_dim}");
    }
    let _ = write!(text, ", {}, {}", problem.dtype.name(), problem.options.mask().name());
    if let (left, right) = problem.options.window
        && (left, right) != (None, None)
    {
        let side = |side: Option<u32>| side.map_or("-1".into(), |keys| keys.to_string());
        let _ = write!(text, " {},{}", side(left), side(right));
        text.push_str(if problem.options.causal { " causal" } else { "" });
    }
    let _ = write!(text, ", scale {}", problem.scale());
    if let Some(softcap) = problem.options.softcap {
        let _ = write!(text, ", softcap {softcap}");
    }
    text
}

/// What a workgroup owns and needs.
pub fn tile(tile: &AnyTile, shape: &Shape, path: Path) -> String {
    let kib = f64::from(tile.workgroup_bytes(shape, path)) / 1024.0;
    let (rows, keys, threads, heads) = (tile.rows(), tile.keys(), tile.threads(), tile.heads_per_tile());
    let heads = if heads == 1 { "1 head".into() } else { format!("{heads} heads") };
    format!("{rows} rows × {keys} keys, {heads}, {threads} threads, {kib:.1} KiB")
}

/// Something is going on: shown on a terminal, nowhere else.
pub fn spinner(what: &'static str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(what);
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// So much of the whole is done: shown on a terminal, nowhere else.
pub fn progress(total: usize) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}").unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style)
}
