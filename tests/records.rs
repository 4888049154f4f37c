//! `diffattn report` and `diffattn compare` as their users meet them, and the records that are committed.
//!
//! The numbers of the records here are made up. They say nothing about any device.

use std::path::{Path, PathBuf};
use std::process::Command;

use diffattn::bench::{Header, Limits, Record, Row, SCHEMA, Skipped, Timer};
use tempfile::TempDir;

const LIMITS: Limits = Limits {
    fma_f32_tflops: Some(10.0),
    fma_f16_tflops: None,
    matrix_tflops: Some(100.0),
    read_gb_s: Some(500.0),
    copy_gb_s: Some(450.0),
    dispatch_us: Some(3.0),
};

/// A made-up record: forward at two lengths in each form, and a decode step.
fn made_up(adapter: &str, slowness: f64) -> Record {
    let header = Header {
        schema: SCHEMA,
        suite: "quick".into(),
        suite_version: 7,
        stack: "diffattn".into(),
        version: "0.0.0".into(),
        commit: Some("0123abc".into()),
        dirty: Some(false),
        rustc: None,
        wgpu: None,
        backend: "vulkan".into(),
        adapter: adapter.into(),
        vendor_id: 0,
        device_id: 0,
        device_type: "discrete".into(),
        driver: "made up".into(),
        subgroup: None,
        workgroup_storage: 16384,
        invocations: 256,
        storage_binding: 128 << 20,
        features: Vec::new(),
        os: "linux x86_64".into(),
        cpu: None,
        browser: None,
        timestamp: "2026-01-01T00:00:00Z".into(),
        seed: 1,
        command: "diffattn bench --suite quick".into(),
        limits_before: LIMITS,
        limits_after: Some(LIMITS),
        throttled: false,
        skipped: vec![Skipped { case: "backward of everything".into(), reason: "made-up reason".into() }],
    };
    let mut rows = Vec::new();
    for len in [512, 1024] {
        for (form, path, ns) in [
            ("fused", "portable", 2.0),
            ("fused", "subgroup", 1.5),
            ("fused", "cpu", 0.1),
            ("unfused", "subgroup", 3.0),
            ("baseline", "subgroup", 1.0),
        ] {
            rows.push(row("forward", form, path, len, slowness * ns * 1e-3 * f64::from(len * len)));
        }
    }
    rows.push(row("decode", "fused", "subgroup", 4096, slowness * 40e3));
    Record { header, rows }
}

fn row(op: &str, form: &str, path: &str, len: u32, ns: f64) -> Row {
    let q_len = if op == "decode" { 1 } else { len };
    let row = Row {
        label: format!("diffattn.{op}.f16.causal.d64.{path}"),
        form: form.into(),
        op: op.into(),
        path: path.into(),
        tile: String::new(),
        batch: 1,
        q_len,
        kv_len: len,
        heads: 16,
        kv_heads: 8,
        head_dim: 64,
        value_dim: 64,
        dtype: "f16".into(),
        causal: true,
        window: [None, None],
        passed: true,
        max_err: 1e-4,
        err_bound: 9e-4,
        verified: "whole".into(),
        timer: Timer::GpuNs,
        warmup: 3,
        inner_repeats: 1,
        cold_ns: 1e9,
        samples_ns: Vec::new(),
        median_ns: 0.0,
        p10_ns: 0.0,
        p90_ns: 0.0,
        wall_median_ns: 0.0,
        flop: 1e3 * f64::from(q_len) * f64::from(len),
        bytes_min: 1e3 * f64::from(q_len + len),
        tflops: 0.0,
        gb_s: 0.0,
        bound_by: if op == "decode" { "read".into() } else { "matrix".into() },
        pct_of_limit: 0.0,
        scratch_bytes: 1 << 20,
        repro: format!("diffattn bench --op {op} --form {form} --path {path} --shape made-up"),
    };
    timed(row, (0..20).map(|sample| ns * (0.99 + 1e-3 * f64::from(sample))).collect())
}

/// The row with these samples, and what follows from them.
fn timed(mut row: Row, samples: Vec<f64>) -> Row {
    let mut sorted = samples.clone();
    sorted.sort_by(f64::total_cmp);
    let between = |share: f64| {
        let place = share * (sorted.len() - 1) as f64;
        let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        below + (above - below) * place.fract()
    };
    (row.p10_ns, row.median_ns, row.p90_ns) = (between(0.1), between(0.5), between(0.9));
    row.wall_median_ns = 1.1 * row.median_ns;
    (row.tflops, row.gb_s) = (row.flop / row.median_ns / 1e3, row.bytes_min / row.median_ns);
    row.pct_of_limit = if row.bound_by == "read" { row.gb_s / 500.0 } else { row.tflops / 100.0 } * 100.0;
    row.samples_ns = samples;
    row
}

/// A folder with records in it.
struct Folder(TempDir);

impl Folder {
    fn new(records: &[(&str, &Record)]) -> Self {
        let folder = Folder(tempfile::tempdir().expect("a temporary folder"));
        for (name, record) in records {
            folder.write(name, &record.to_jsonl().expect("a record"));
        }
        folder
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("a file");
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).expect("a file")
    }

    /// Exit status, standard output and standard error.
    fn diffattn(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diffattn"));
        let output = command.args(args).current_dir(self.0.path()).output().expect("the command starts");
        let [stdout, stderr] = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
        assert!(!stderr.contains("panicked"), "{stderr}");
        (output.status.code().expect("a status"), stdout, stderr)
    }

    fn report(&self, args: &[&str]) -> String {
        let (status, stdout, stderr) = self.diffattn(&[&["report"], args].concat());
        assert_eq!(status, 0, "{stderr}");
        stdout
    }

    /// The command refuses in one line with each of these in it, and leaves no other file.
    fn refuses(&self, args: &[&str], wanted: &[&str]) {
        let files = || std::fs::read_dir(self.0.path()).expect("the folder").count();
        let before = files();
        let (status, _, stderr) = self.diffattn(args);
        assert_eq!((status, stderr.lines().count()), (1, 1), "{stderr}");
        for wanted in wanted {
            assert!(stderr.contains(wanted), "no {wanted:?} in {stderr}");
        }
        assert_eq!(files(), before, "{stderr}");
    }
}

fn count(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

#[test]
fn the_page_has_everything_and_loads_nothing() {
    let mut slow = made_up("Made-up B", 2.0);
    slow.header.throttled = true;
    slow.rows[0] = Row { passed: false, samples_ns: Vec::new(), max_err: 0.3, ..slow.rows[0].clone() };
    let fast = made_up("Made-up A", 1.0);
    let folder = Folder::new(&[("a.jsonl", &fast), ("b.jsonl", &slow)]);
    assert_eq!(folder.report(&["a.jsonl", "b.jsonl"]), "wrote report.html\n");
    let page = folder.read("report.html");
    for row in &fast.rows {
        assert!(page.contains(&row.repro), "{}", row.repro);
    }
    for wanted in [
        "2 records of suite quick, version 7",
        "1 of 22 results was outside its error bound",
        "wrong result, not timed",
        "backward of everything",
        "made-up reason",
        ">throttled</span>",
        "prefers-color-scheme",
        "width=device-width",
    ] {
        assert!(page.contains(wanted), "no {wanted:?}");
    }
    // A roofline, bars for both operations, and throughput of the one that has two lengths.
    assert_eq!(count(&page, "<svg "), 4);
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["<script", "<link", "<img", "http:", "https:", "url(", "@import", "src="] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn names_from_a_record_are_only_text() {
    const NASTY: &str = "<script>alert(1)</script>\"'|`&\n# x";
    let mut record = made_up(NASTY, 1.0);
    record.header.driver = NASTY.into();
    record.header.skipped[0].reason = NASTY.into();
    for row in &mut record.rows {
        for text in [&mut row.op, &mut row.dtype, &mut row.path, &mut row.label, &mut row.repro] {
            *text += NASTY;
        }
    }
    let folder = Folder::new(&[("nasty.jsonl", &record)]);
    folder.report(&["nasty.jsonl"]);
    let page = folder.read("report.html");
    assert!(page.contains("&lt;script&gt;alert(1)"));
    assert!(!page.contains("<script"));
    let text = folder.report(&["nasty.jsonl", "--format", "md"]);
    assert!(text.contains("&lt;script&gt;alert(1)"));
    assert!(!text.contains("<script") && !text.contains("\n# x"));
    for line in text.lines().filter(|line| line.starts_with("| ")) {
        assert!(line.ends_with(" |"), "{line}");
    }
}

#[test]
fn only_devices_that_can_be_compared_are_ranked() {
    let (a, b) = (made_up("Made-up A", 1.0), made_up("Made-up B", 2.0));
    let best = |records: &[(&str, &Record)]| {
        let folder = Folder::new(records);
        let names: Vec<_> = records.iter().map(|(name, _)| *name).collect();
        folder.report(&names);
        count(&folder.read("report.html"), "class=\"best\"")
    };
    assert_eq!(best(&[("a.jsonl", &a), ("b.jsonl", &b)]), 3);
    assert_eq!(best(&[("a.jsonl", &a)]), 0);
    let mut throttled = b.clone();
    throttled.header.throttled = true;
    assert_eq!(best(&[("a.jsonl", &a), ("b.jsonl", &throttled)]), 0);
    let mut software = b;
    software.header.device_type = "cpu".into();
    assert_eq!(best(&[("a.jsonl", &a), ("b.jsonl", &software)]), 0);
}

#[test]
fn markdown_tables_are_whole() {
    let folder = Folder::new(&[("a.jsonl", &made_up("A | B", 1.0)), ("b.jsonl", &made_up("B", 2.0))]);
    let text = folder.report(&["a.jsonl", "b.jsonl", "--format", "md"]);
    let bars = |line: &str| count(line, "|") - count(line, "\\|");
    let mut width = None;
    for line in text.lines() {
        if line.starts_with('|') {
            assert_eq!(bars(line), *width.get_or_insert(bars(line)), "{line}");
        } else {
            width = None;
        }
    }
    // The faster device, with the fastest of its own kernels; the CPU engine is not the device.
    assert!(text.contains(r"| A \| B | fused subgroup | **393 ns** |"), "{text}");
    assert!(text.contains("| un-fused 2.00×, CPU engine 0.067×, ordinary attention 0.667× |"), "{text}");
}

#[test]
fn broken_records_are_refused_by_file_and_line() {
    let record = made_up("Made-up A", 1.0);
    let text = record.to_jsonl().unwrap();
    let folder = Folder::new(&[("good.jsonl", &record)]);
    let cases = [
        ("cut.jsonl", text[..text.len() - 9].to_string(), "line 12"),
        ("empty.jsonl", String::new(), "empty"),
        ("schema.jsonl", text.replace("\"schema\":1", "\"schema\":99"), "schema 99"),
        ("other.jsonl", "hello".into(), "line 1"),
        ("median.jsonl", text.replacen("\"median_ns\":", "\"median_ns\":1", 1), "line 2"),
        ("rate.jsonl", text.replacen("\"tflops\":", "\"tflops\":9", 1), "tflops is 9"),
        ("limit.jsonl", text.replacen("\"pct_of_limit\":", "\"pct_of_limit\":9", 1), "pct_of_limit is 9"),
        ("error.jsonl", text.replacen("\"max_err\":", "\"max_err\":9", 1), "err_bound"),
    ];
    for (name, text, wanted) in cases {
        folder.write(name, &text);
        folder.refuses(&["report", "good.jsonl", name], &[name, wanted]);
        folder.refuses(&["compare", "good.jsonl", name], &[name, wanted]);
    }
    folder.refuses(&["report", "missing.jsonl"], &["missing.jsonl"]);
    folder.refuses(&["report", "good.jsonl", "-o", "good.jsonl"], &["input"]);
    let mut newer = record;
    newer.header.suite_version = 8;
    folder.write("newer.jsonl", &newer.to_jsonl().unwrap());
    folder.refuses(&["report", "good.jsonl", "newer.jsonl"], &["version 7", "version 8"]);
    folder.refuses(&["compare", "good.jsonl", "newer.jsonl"], &["version 7", "version 8"]);
}

/// What `compare` says of a record and of the same with its samples changed.
fn compare(change: impl Fn(usize, f64) -> f64, args: &[&str]) -> (i32, String, String) {
    let before = made_up("Made-up A", 1.0);
    let mut after = before.clone();
    after.rows = after
        .rows
        .iter()
        .map(|row| {
            let samples = row.samples_ns.iter().enumerate().map(|(index, &ns)| change(index, ns));
            timed(row.clone(), samples.collect())
        })
        .collect();
    let folder = Folder::new(&[("before.jsonl", &before), ("after.jsonl", &after)]);
    folder.diffattn(&[&["compare", "before.jsonl", "after.jsonl"], args].concat())
}

#[test]
fn only_a_change_beyond_the_noise_and_the_threshold_counts() {
    let (status, text, _) = compare(|_, ns| ns, &[]);
    assert_eq!((status, count(&text, "| no change |")), (0, 11), "{text}");
    let (status, text, error) = compare(|_, ns| 1.1 * ns, &[]);
    assert_eq!((status, count(&text, "| +10.0 % |"), count(&text, "| **slower** |")), (1, 11, 11), "{text}");
    assert!(error.contains("11 rows of 11 became worse"), "{error}");
    let (status, text, _) = compare(|_, ns| 0.9 * ns, &[]);
    assert_eq!((status, count(&text, "| faster |")), (0, 11), "{text}");
    // Certain, but small.
    let (status, text, _) = compare(|_, ns| 1.025 * ns, &[]);
    assert_eq!((status, count(&text, "| no change |")), (0, 11), "{text}");
    assert_eq!(compare(|_, ns| 1.025 * ns, &["--threshold", "2%"]).0, 1);
    assert_eq!(compare(|_, ns| 1.1 * ns, &["--threshold", "20%"]).0, 0);
    // The median is 4.7 % higher, but half of the samples are far lower and half far higher.
    let (status, text, _) = compare(|index, ns| ns * if index % 2 == 0 { 0.75 } else { 1.35 }, &[]);
    assert_eq!((status, count(&text, "| no change |")), (0, 11), "{text}");
    assert!(text.contains("| +4.7 % |"), "{text}");
}

#[test]
fn a_result_that_became_wrong_is_worse_and_other_machines_are_named() {
    let before = made_up("Made-up A", 1.0);
    let mut after = made_up("Made-up B", 1.0);
    after.header.throttled = true;
    after.rows[0] = Row { passed: false, samples_ns: Vec::new(), ..after.rows[0].clone() };
    after.rows.pop();
    let folder = Folder::new(&[("before.jsonl", &before), ("after.jsonl", &after)]);
    let (status, text, error) = folder.diffattn(&["compare", "before.jsonl", "after.jsonl"]);
    assert_eq!((status, count(&text, "| **wrong result** |")), (1, 1), "{text}");
    assert!(text.contains("Only in the first record:\n\n- decode"), "{text}");
    for wanted in ["another adapter", "throttled", "1 row of 10 became worse"] {
        assert!(error.contains(wanted), "no {wanted:?} in {error}");
    }
}

/// Parts of a record that tell about the machine or its user; a record must have none.
const PRIVATE: [&str; 6] = ["/home/", "/root", "/Users/", "/tmp", ":\\", "\\\\"];

/// Why a text cannot be committed as a record; `None` when it can.
fn fault(text: &str) -> Option<String> {
    let checked = Record::from_jsonl(text).and_then(|record| record.validate());
    let private = || PRIVATE.iter().find(|part| text.contains(*part)).map(|part| format!("it has {part:?} in it"));
    checked.err().map(|error| error.to_string()).or_else(private)
}

#[test]
fn committed_records_are_whole_and_private() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/record")];
    let mut faults = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("benches/record") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "jsonl") {
                let text = std::fs::read_to_string(&path).expect("a record");
                faults.extend(fault(&text).map(|fault| format!("{}: {fault}", path.display())));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_check_of_committed_records_can_fail() {
    let text = made_up("Made-up A", 1.0).to_jsonl().unwrap();
    assert_eq!(fault(&text), None);
    assert!(fault(&text.replace("made-up", "/home/someone")).is_some());
    assert!(fault(&text.replace("made-up", r"C:\\made-up")).is_some());
    assert!(fault(&text.replacen("\"gb_s\":", "\"gb_s\":9", 1)).unwrap().contains("gb_s"));
    assert!(fault("").is_some());
}
