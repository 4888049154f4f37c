//! Tables in Markdown, as GitHub reads it.

use std::fmt::Write as _;

/// A table with these columns; those named in `numbers` are aligned to the right. The cells are Markdown: what comes
/// from a record goes through [`cell`] first.
pub fn table<const N: usize>(
    columns: &[&str; N],
    numbers: &[&str],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut text = format!("| {} |\n|", columns.join(" | "));
    for column in columns {
        text.push_str(if numbers.contains(column) { "--:|" } else { "---|" });
    }
    text.push('\n');
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
    text
}

/// Text that is nothing but text in a table: no markup, no HTML, one line.
pub fn cell(text: &str) -> String {
    let mut cell = String::new();
    for char in text.chars() {
        match char {
            '&' => cell.push_str("&amp;"),
            '<' => cell.push_str("&lt;"),
            '>' => cell.push_str("&gt;"),
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' | '~' | '#' => cell.extend(['\\', char]),
            char if char.is_control() => cell.push(' '),
            char => cell.push(char),
        }
    }
    cell
}
