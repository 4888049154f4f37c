//! The record of a run: one JSON object a line, the header first. Flat, so that every line is also a row of a table.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Version of the fields below. A reader refuses another one.
pub const SCHEMA: u32 = 1;

/// One run on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// On what it ran, and with what.
    pub header: Header,
    /// One for each case, in the order of the suite.
    pub rows: Vec<Row>,
}

/// On what a record was made. It names no host, user or path.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Name of the suite: `quick`, `standard`, `full`, or `custom` for cases chosen by flags.
    pub suite: String,
    /// Rows are comparable only within one version of the suite.
    pub suite_version: u32,
    /// What ran the cases: `diffattn` or `torch`.
    pub stack: String,
    /// Version of the stack, e.g. of this crate.
    pub version: String,
    /// Commit that the program was built from; `None` where it is not known.
    pub commit: Option<String>,
    /// Whether the tree differed from that commit.
    pub dirty: Option<bool>,
    /// Compiler that built the program.
    pub rustc: Option<String>,
    /// Version of wgpu; `None` for other stacks.
    pub wgpu: Option<String>,
    /// `vulkan`, `metal`, `dx12`, `webgpu`, `cuda`, `cpu` …
    pub backend: String,
    /// Name of the adapter.
    pub adapter: String,
    /// PCI vendor; 0 where it is hidden.
    pub vendor_id: u32,
    /// PCI device; 0 where it is hidden.
    pub device_id: u32,
    /// `discrete`, `integrated`, `virtual`, `cpu` or `other`. `cpu` adapters stay out of rankings.
    pub device_type: String,
    /// Driver and its version.
    pub driver: String,
    /// Smallest and largest subgroup; `None` without subgroups.
    pub subgroup: Option<[u32; 2]>,
    /// Bytes of workgroup memory.
    pub workgroup_storage: u32,
    /// Invocations of a workgroup.
    pub invocations: u32,
    /// Bytes of one storage binding.
    pub storage_binding: u64,
    /// Optional features that the kernels may use here, by their wgpu names.
    pub features: Vec<String>,
    /// Operating system and architecture, e.g. `linux x86_64`.
    pub os: String,
    /// Processor; `None` where it is not known.
    pub cpu: Option<String>,
    /// The browser's own description of itself; `None` outside of one.
    pub browser: Option<String>,
    /// When the run began: UTC, RFC 3339.
    pub timestamp: String,
    /// Seed of the random inputs.
    pub seed: u64,
    /// Command that makes this record again.
    pub command: String,
    /// The device's own limits, measured before the first case.
    pub limits_before: Limits,
    /// The same after the last case; `None` when the run was stopped.
    pub limits_after: Option<Limits>,
    /// Whether a limit fell by more than 5 % in between: the clock went down, and the rows are not to be compared.
    pub throttled: bool,
    /// Cases of the suite without a row, and why.
    #[serde(default)]
    pub skipped: Vec<Skipped>,
}

/// A case that was not measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The case, in words.
    pub case: String,
    /// Why: what the device lacks, how long it would take, how much memory it needs, or that the run was stopped.
    pub reason: String,
}

/// What the device itself can do, measured in the run. `None` is "not measured here", never zero.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Limits {
    /// Multiply-adds on f32 in registers, TFLOP/s (a multiply-add counts as two).
    pub fma_f32_tflops: Option<f64>,
    /// The same on packed f16.
    pub fma_f16_tflops: Option<f64>,
    /// Matrix units, f16 × f16 → f32, in registers, TFLOP/s.
    pub matrix_tflops: Option<f64>,
    /// Reading a buffer larger than the caches, GB/s (10⁹).
    pub read_gb_s: Option<f64>,
    /// Copying one, bytes read and written, GB/s.
    pub copy_gb_s: Option<f64>,
    /// One empty dispatch among many, µs.
    pub dispatch_us: Option<f64>,
}

/// How the samples were timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Timer {
    /// Timestamps of the device, in nanoseconds.
    GpuNs,
    /// Timestamps of the device that a browser rounds to 100 µs.
    #[serde(rename = "gpu-100us")]
    Gpu100us,
    /// The host's clock around submit and wait.
    Wall,
}

/// One case, verified and timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Label of the kernel: the pipeline's own. Of a composition, its parts joined by ` + `.
    pub label: String,
    /// What is computed: `fused` (DIFF V2), `unfused` (2·heads standard heads, then the subtraction), `baseline`
    /// (standard attention with `heads` heads); of a module also `v1` (DIFF V1 with half the heads, of twice the width) and
    /// `matmul` (the output projection alone).
    pub form: String,
    /// `forward`, `decode`, `backward`; of a whole module with d_model = heads · head_dim `module`, its forward, or `train`,
    /// with its gradients.
    pub op: String,
    /// `naive`, `portable`, `subgroup`, `matrix`, `cpu`, or a backend of another stack.
    pub path: String,
    /// The kernel's tile as in its label; empty where there is none.
    pub tile: String,
    /// Sequences.
    pub batch: u32,
    /// Queries (new tokens) of each sequence.
    pub q_len: u32,
    /// Keys of each sequence.
    pub kv_len: u32,
    /// Output heads.
    pub heads: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a key.
    pub head_dim: u32,
    /// Elements of a value.
    pub value_dim: u32,
    /// Storage type: `f32`, `f16`, `bf16`; of a decode with an int8 cache `int8`.
    pub dtype: String,
    /// Whether the mask is causal.
    pub causal: bool,
    /// Keys seen to the left and to the right; `None` is open.
    pub window: [Option<u32>; 2],
    /// Whether the result was within its bound before it was timed. Rows that failed carry no times.
    pub passed: bool,
    /// Largest error, by the measure of the bound.
    pub max_err: f64,
    /// The bound.
    pub err_bound: f64,
    /// What was held against the reference: `whole`, every element; `sample`, every element of a smaller problem through
    /// the same kernel, and rows of the case itself (of a product only these); or `prefix`, the first tokens of a module,
    /// and the gradients where dy is zero behind them.
    #[serde(default)]
    pub verified: String,
    /// How the samples were timed.
    pub timer: Timer,
    /// Runs before the first sample.
    pub warmup: u32,
    /// Runs that each sample is the mean of.
    pub inner_repeats: u32,
    /// The first run, with whatever it compiles or allocates.
    pub cold_ns: f64,
    /// Time of one run, for each sample.
    pub samples_ns: Vec<f64>,
    /// Median of the samples.
    pub median_ns: f64,
    /// 10th percentile.
    pub p10_ns: f64,
    /// 90th percentile.
    pub p90_ns: f64,
    /// Median of the same runs by the host's clock.
    pub wall_median_ns: f64,
    /// Floating-point operations of the form; a multiply-add is two, causal counts what is seen.
    pub flop: f64,
    /// Bytes that must at least be read and written.
    pub bytes_min: f64,
    /// `flop` / median.
    pub tflops: f64,
    /// `bytes_min` / median.
    pub gb_s: f64,
    /// The limit that binds: `matrix`, `fma-f32`, `read`, or `dispatch`; empty where none was measured.
    pub bound_by: String,
    /// The time that this limit alone would take / median, in percent; 0 where none was measured.
    pub pct_of_limit: f64,
    /// Bytes of device memory beside inputs and outputs.
    pub scratch_bytes: u64,
    /// Command that measures this row alone.
    pub repro: String,
}

impl Record {
    /// JSON Lines: the header, then each row.
    ///
    /// # Errors
    /// [`Error::Record`] for a number that JSON cannot hold.
    pub fn to_jsonl(&self) -> Result<String> {
        let fault = |line: usize| move |error: serde_json::Error| Error::Record { line, reason: error.to_string() };
        let mut text = serde_json::to_string(&self.header).map_err(fault(1))?;
        text.push('\n');
        for (index, row) in self.rows.iter().enumerate() {
            text.push_str(&serde_json::to_string(row).map_err(fault(index + 2))?);
            text.push('\n');
        }
        Ok(text)
    }

    /// Reads what [`Record::to_jsonl`] wrote.
    ///
    /// # Errors
    /// [`Error::Record`] with the line that is not as it should be, also for another [`SCHEMA`].
    pub fn from_jsonl(text: &str) -> Result<Self> {
        let fault = |line: usize| move |error: serde_json::Error| Error::Record { line, reason: error.to_string() };
        let mut lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let (index, first) =
            lines.next().ok_or_else(|| Error::Record { line: 1, reason: "the file is empty".into() })?;
        let header: Header = serde_json::from_str(first).map_err(fault(index + 1))?;
        if header.schema != SCHEMA {
            let reason = format!("schema {} is not {SCHEMA}, which this version reads", header.schema);
            return Err(Error::Record { line: index + 1, reason });
        }
        let rows = lines.map(|(index, line)| serde_json::from_str(line).map_err(fault(index + 1)));
        Ok(Record { header, rows: rows.collect::<Result<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            schema: SCHEMA,
            suite: "quick".into(),
            suite_version: 1,
            stack: "diffattn".into(),
            version: "0.1.0".into(),
            commit: Some("0123abc".into()),
            dirty: Some(false),
            rustc: None,
            wgpu: Some("30".into()),
            backend: "vulkan".into(),
            adapter: "llvmpipe".into(),
            vendor_id: 0x10005,
            device_id: 0,
            device_type: "cpu".into(),
            driver: "Mesa".into(),
            subgroup: Some([8, 8]),
            workgroup_storage: 32768,
            invocations: 1024,
            storage_binding: 128 << 20,
            features: vec!["SUBGROUP".into()],
            os: "linux x86_64".into(),
            cpu: None,
            browser: None,
            timestamp: "2026-11-24T00:00:00Z".into(),
            seed: 1,
            command: "diffattn bench".into(),
            limits_before: Limits { fma_f32_tflops: Some(0.07), ..Limits::default() },
            limits_after: None,
            throttled: false,
            skipped: vec![Skipped { case: "decode".into(), reason: "no room".into() }],
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let record = Record { header: header(), rows: Vec::new() };
        assert_eq!(Record::from_jsonl(&record.to_jsonl().unwrap()).unwrap(), record);
    }

    #[test]
    fn a_broken_line_and_another_schema_are_named() {
        let record = Record { header: header(), rows: Vec::new() };
        let text = record.to_jsonl().unwrap() + "{\"label\": 1}\n";
        let error = Record::from_jsonl(&text).unwrap_err();
        assert!(matches!(error, Error::Record { line: 2, .. }), "{error}");
        let text = record.to_jsonl().unwrap().replace("\"schema\":1", "\"schema\":2");
        assert!(Record::from_jsonl(&text).unwrap_err().to_string().contains("schema 2"));
        assert!(Record::from_jsonl("").is_err());
    }
}
