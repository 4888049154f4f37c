//! Reading benchmark records, and what makes two rows the same measurement.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use diffattn::Shape;
use diffattn::bench::{Header, Record, Row, ShapeText};

use crate::tables;

/// Reads records that can stand side by side: all of one version of the suite.
pub fn read_all(paths: &[PathBuf]) -> Result<Vec<Record>> {
    let records = paths.iter().map(|path| read(path)).collect::<Result<Vec<_>>>()?;
    for (record, path) in records.iter().zip(paths).skip(1) {
        let (first, version) = (records[0].header.suite_version, record.header.suite_version);
        ensure!(
            first == version,
            "{} is of version {first} of the suite and {} of version {version}: rows compare only within one version; \
             run `diffattn bench` again where it is older",
            paths[0].display(),
            path.display(),
        );
    }
    Ok(records)
}

fn read(path: &Path) -> Result<Record> {
    let shown = path.display();
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
    let record = Record::from_jsonl(&text).with_context(|| shown.to_string())?;
    record.validate().with_context(|| shown.to_string())?;
    Ok(record)
}

/// What is computed, whoever computes it and how.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Case {
    pub op: String,
    pub shape: Shape,
    pub dtype: String,
    pub causal: bool,
    pub window: [Option<u32>; 2],
}

impl Case {
    pub fn of(row: &Row) -> Self {
        let Row { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim, causal, window, .. } = *row;
        let shape = Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim };
        Case { op: row.op.clone(), shape, dtype: row.dtype.clone(), causal, window }
    }

    /// The words that name it where a record lists what it skipped.
    pub fn words(&self) -> [String; 4] {
        [self.op.clone(), self.dtype.clone(), self.mask(), ShapeText(self.shape).to_string()]
    }

    /// `causal`, `full`, or the keys seen to the left and to the right.
    pub fn mask(&self) -> String {
        let causal = if self.causal { "causal" } else { "full" };
        match self.window {
            [None, None] => causal.into(),
            sides => {
                let [left, right] = sides.map(|side| side.map_or("-1".into(), |keys| keys.to_string()));
                format!("window {left},{right}{}", if self.causal { " causal" } else { "" })
            }
        }
    }
}

/// `b1 q1024 kv1024 h8/4 d64 f16 causal`, without the operation.
impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", tables::shape(&self.shape), self.dtype, self.mask())
    }
}

/// Whether the adapter is a program on the CPU: its rows say nothing about a GPU, and are not ranked.
pub fn is_software(header: &Header) -> bool {
    header.device_type == "cpu"
}

/// A time in the unit that suits it.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", digits(value))
}

/// Three significant digits, and no fewer before the point than there are.
pub fn digits(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        size if size >= 99.95 => format!("{value:.0}"),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        size if size >= 0.001 => format!("{value:.3}"),
        _ => format!("{value:.1e}"),
    }
}

/// Floating-point operations in a second, given in TFLOP/s.
pub fn flops(tflops: f64) -> String {
    if tflops < 1.0 { format!("{} GFLOP/s", digits(tflops * 1e3)) } else { format!("{} TFLOP/s", digits(tflops)) }
}

/// Bytes in a second, given in GB/s.
pub fn bandwidth(gb_s: f64) -> String {
    if gb_s >= 1e3 { format!("{} TB/s", digits(gb_s / 1e3)) } else { format!("{} GB/s", digits(gb_s)) }
}

/// So many bytes of memory.
pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        0.0 => "0".into(),
        bytes if bytes < 1024.0 * 1024.0 => format!("{} KiB", digits(bytes / 1024.0)),
        bytes => format!("{} MiB", digits(bytes / 1024.0 / 1024.0)),
    }
}
