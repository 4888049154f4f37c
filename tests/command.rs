//! The `diffattn` command as its users meet it: exit status, what it prints, the files it leaves.

#[path = "command/module.rs"]
mod module;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder for one test, with an input file and room for an output file.
struct Run {
    folder: TempDir,
}

impl Run {
    fn new(input: &[u8]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("in.safetensors"), input).expect("input");
        Run { folder }
    }

    fn input(&self) -> PathBuf {
        self.folder.path().join("in.safetensors")
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out.safetensors")
    }

    /// `diffattn attend IN -o OUT --engine cpu` and `args`.
    fn attend(&self, args: &[&str]) -> Done {
        let (input, output) = (self.input(), self.output());
        let mut all = vec!["attend", text(&input), "-o", text(&output), "--engine", "cpu"];
        all.extend(args);
        diffattn(&all)
    }

    /// The work was refused in one sentence that has `wanted` in it, and left no file.
    fn refused(&self, done: &Done, wanted: &str, case: &str) {
        assert_eq!(done.status, 1, "{case}: {done:?}");
        let error = done.error();
        assert!(error.contains(wanted), "{case}: no \"{wanted}\" in: {error}");
        assert!(!error.chars().any(char::is_control), "{case}: {error:?}");
        let left: Vec<_> =
            std::fs::read_dir(self.folder.path()).expect("folder").map(|at| at.unwrap().path()).collect();
        assert_eq!(left, [self.input()], "{case}");
    }
}

#[derive(Debug)]
struct Done {
    status: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    /// The one line that says what is wrong.
    fn error(&self) -> &str {
        let mut errors = self.stderr.lines().filter(|line| line.starts_with("error: "));
        let error = errors.next().unwrap_or_else(|| panic!("no error line: {self:?}"));
        assert_eq!(errors.next(), None, "{self:?}");
        error
    }
}

fn diffattn(args: &[&str]) -> Done {
    finish(Command::new(env!("CARGO_BIN_EXE_diffattn")).args(args))
}

fn finish(command: &mut Command) -> Done {
    let Output { status, stdout, stderr } = command.output().expect("the command starts");
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8(bytes).expect("UTF-8"));
    let done = Done { status: status.code().unwrap_or_else(|| panic!("killed: {status}, {stderr}")), stdout, stderr };
    assert!(!done.stderr.contains("panicked"), "{done:?}");
    done
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)).expect("fixture")
}

fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

/// A small valid file with 1 everywhere, after `edit` changed its header and its 328 bytes of data.
fn small(edit: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Vec<u8> {
    let mut header = json!({
        "q": { "dtype": "F32", "shape": [1, 2, 2, 8], "data_offsets": [0, 128] },
        "k": { "dtype": "F32", "shape": [1, 3, 1, 8], "data_offsets": [128, 224] },
        "v": { "dtype": "F32", "shape": [1, 3, 1, 8], "data_offsets": [224, 320] },
        "lam": { "dtype": "F32", "shape": [1, 2, 1], "data_offsets": [320, 328] },
    });
    let mut data = 1f32.to_le_bytes().repeat(82);
    edit(&mut header, &mut data);
    file(&header.to_string(), &data)
}

fn with_shapes(shapes: &[(&str, &[usize])]) -> Vec<u8> {
    small(|header, data| {
        for (name, shape) in shapes {
            header[name]["shape"] = json!(shape);
        }
        let mut end = 0;
        for name in ["q", "k", "v", "lam"] {
            let shape = header[name]["shape"].as_array().expect("a shape");
            let count: u64 = shape.iter().map(|size| size.as_u64().expect("a size")).product();
            header[name]["data_offsets"] = json!([end, end + 4 * count]);
            end += 4 * count;
        }
        *data = 1f32.to_le_bytes().repeat(end as usize / 4);
    })
}

fn with_metadata(key: &str, value: &str) -> Vec<u8> {
    small(|header, _| header["__metadata__"] = json!({ key: value }))
}

fn with_value(index: usize, value: f32) -> Vec<u8> {
    small(|_, data| data[4 * index..][..4].copy_from_slice(&value.to_le_bytes()))
}

#[test]
fn golden_files_compare_in_every_storage_type() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("fixtures") {
        let path = entry.expect("entry").path();
        if !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("op_")) {
            continue;
        }
        let run = Run::new(&std::fs::read(&path).expect("fixture"));
        for dtype in ["f32", "f16", "bf16"] {
            let done = run.attend(&["--dtype", dtype, "--grad", "--compare"]);
            assert_eq!(done.status, 0, "{} {dtype}: {done:?}", path.display());
            assert_eq!(done.stdout.matches("pass").count(), 6, "{} {dtype}: {done:?}", path.display());
            count += 1;
        }
    }
    assert!(count > 0, "no golden files");
}

#[test]
fn a_wrong_tensor_fails_the_comparison() {
    let golden = fixture("op_lambda_extremes.safetensors");
    let (header, metadata) = SafeTensors::read_metadata(&golden).expect("header");
    for name in ["out", "lse", "dq", "dk", "dv", "dlam"] {
        for wrong in [1e4, f32::NAN, f32::INFINITY] {
            let at = 8 + header + metadata.info(name).expect(name).data_offsets.0 + 20;
            let mut bytes = golden.clone();
            bytes[at..at + 4].copy_from_slice(&wrong.to_le_bytes());
            let done = Run::new(&bytes).attend(&["--grad", "--compare"]);
            assert_eq!(done.status, 1, "{name} {wrong}: {done:?}");
            assert_eq!(done.error(), "error: 1 of 6 tensors over the bound");
            let row = done.stdout.lines().find(|line| line.contains("FAIL")).expect("a row that says FAIL");
            assert!(row.starts_with(name), "{name} {wrong}: {row}");
        }
    }
}

/// As in `diffattn attend … --compare | head -1`: nobody reads on, and the exit status still tells.
#[test]
fn a_reader_who_leaves_does_not_change_the_verdict() {
    for (window, status) in [("31,0", 0), ("30,0", 1)] {
        let run = Run::new(&fixture("op_window.safetensors"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_diffattn"));
        let (input, output) = (run.input(), run.output());
        command.args(["attend", text(&input), "-o", text(&output), "--engine", "cpu", "--compare", "--window", window]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the command starts");
        drop(child.stdout.take());
        assert_eq!(child.wait().expect("it ends").code(), Some(status), "--window {window}");
        assert!(run.output().exists());
    }
}

/// Nothing passes where the scores are so large that no bound can tell right from wrong.
#[test]
fn what_cannot_be_judged_fails() {
    let run = Run::new(&fixture("op_window.safetensors"));
    let done = run.attend(&["--scale", "1e28", "--compare"]);
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.error().contains("cannot be judged") && done.stdout.contains("cannot tell"), "{done:?}");
}

#[test]
fn flags_override_the_metadata() {
    let run = Run::new(&fixture("op_window.safetensors"));
    for (right, wrong) in [
        (&["--window", "31,0"][..], &["--window", "30,0"][..]),
        (&["--window", "31,-1", "--causal"], &["--window", "31,-1", "--no-causal"]),
        (&["--scale", "0.1767766952966369"], &["--scale", "-.2"]),
        (&["--softcap", "0"], &["--softcap", "1.5"]),
    ] {
        let done = run.attend(&[right, &["--compare"]].concat());
        assert_eq!(done.status, 0, "{right:?}: {done:?}");
        let done = run.attend(&[wrong, &["--compare"]].concat());
        assert_eq!(done.status, 1, "{wrong:?}: {done:?}");
    }
}

#[test]
fn the_output_holds_every_result_and_is_the_same_every_time() {
    let run = Run::new(&fixture("op_gqa_causal.safetensors"));
    let mut before = None;
    for _ in 0..2 {
        let done = run.attend(&["--dtype", "bf16", "--grad"]);
        assert_eq!(done.status, 0, "{done:?}");
        let bytes = std::fs::read(run.output()).expect("output");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let mut found: Vec<_> =
            tensors.iter().map(|(name, tensor)| (name, tensor.dtype(), tensor.shape().to_vec())).collect();
        found.sort_by_key(|(name, ..)| *name);
        let expected = [
            ("dk", Dtype::BF16, vec![2, 65, 2, 64]),
            ("dlam", Dtype::F32, vec![2, 65, 4]),
            ("dq", Dtype::BF16, vec![2, 65, 8, 64]),
            ("dv", Dtype::BF16, vec![2, 65, 2, 64]),
            ("lse", Dtype::F32, vec![2, 8, 65]),
            ("out", Dtype::BF16, vec![2, 65, 4, 64]),
        ];
        assert_eq!(found, expected);
        let before = before.get_or_insert_with(|| bytes.clone());
        assert!(*before == bytes, "two runs wrote different bytes");
    }
}

#[test]
fn half_precision_files_are_read_in_their_own_type() {
    for (name, dtype, one) in [("f16", Dtype::F16, 0x3c00u16), ("bf16", Dtype::BF16, 0x3f80)] {
        let run = Run::new(&small(|header, data| {
            let mut end = 0;
            for tensor in ["q", "k", "v", "lam"] {
                header[tensor]["dtype"] = json!(name.to_uppercase());
                let bytes = header[tensor]["data_offsets"][1].as_u64().expect("an offset") / 2;
                header[tensor]["data_offsets"] = json!([std::mem::replace(&mut end, bytes), bytes]);
            }
            *data = one.to_le_bytes().repeat(82);
        }));
        let done = run.attend(&[]);
        assert_eq!(done.status, 0, "{done:?}");
        let bytes = std::fs::read(run.output()).expect("output");
        let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
        let out = tensors.tensor("out").expect("out");
        // Both members attend to ones: 1 − sigmoid(1).
        let bits = u16::from_le_bytes([out.data()[0], out.data()[1]]);
        let value =
            if name == "f16" { half::f16::from_bits(bits).to_f32() } else { half::bf16::from_bits(bits).to_f32() };
        assert_eq!(out.dtype(), dtype);
        assert!((value - 0.268_941_4).abs() < 1e-3, "{name}: {value}");
    }
}

#[test]
fn broken_files_are_refused_in_one_sentence() {
    let valid = small(|_, _| {});
    let large = u64::MAX / 8;
    let wraps: serde_json::Map<_, _> = (0..8)
        .map(|i| {
            let offsets = [i * large, (i + 1) * large];
            (format!("t{i}"), json!({ "dtype": "U8", "shape": [large], "data_offsets": offsets }))
        })
        .collect();
    let terabytes = json!({ "q": {
        "dtype": "F32", "shape": [1_000_000, 1_000_000, 2, 8], "data_offsets": [0, 64_000_000_000_000_u64],
    }});
    let edit = |edit: fn(&mut Value)| small(|header, _| edit(header));
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "is empty"),
        ("short", b"abc".into(), "too short"),
        ("text", b"q = [1, 2, 3]\n".repeat(9), "not a safetensors file"),
        ("header cut", valid[..50].into(), "cut short"),
        ("data cut", valid[..valid.len() - 5].into(), "claims 328 bytes of tensors but has 323"),
        ("data too long", [&valid[..], b"12"].concat(), "claims 328 bytes of tensors but has 330"),
        ("not JSON", file("{\"q\": nonsense", b""), "bad header"),
        ("deep", file(&format!("{{\"q\":{}", "[".repeat(100_000)), b""), "bad header"),
        ("10¹² elements", file(&terabytes.to_string(), &[0; 64]), "claims 64000000000000 bytes of tensors but has 64"),
        ("offsets to 2⁶⁴", file(&Value::from(wraps).to_string(), &[0; 64]), "bytes of tensors but has 64"),
        ("lying offsets", edit(|header| header["k"]["data_offsets"] = json!([100, 196])), "offset for tensor `k`"),
        ("lying shape", edit(|header| header["k"]["shape"] = json!([1, 4, 1, 8])), "invalid shape"),
        ("integers", edit(|header| header["k"]["dtype"] = json!("I32")), "`k` holds I32 values"),
        ("no tensors", file("{}", b""), "no tensor `q`; it has none"),
        (
            "no k",
            edit(|header| {
                let k = header["k"].take();
                header["key\u{1b}[31m"] = k;
                header.as_object_mut().expect("an object").remove("k");
            }),
            r"no tensor `k`; it has key\u{1b}[31m, lam, q, v",
        ),
        ("rank", with_shapes(&[("q", &[2, 2, 8])]), "`q` has the shape [2, 2, 8], but must be [batch, q_len, 2·heads,"),
        ("odd heads", with_shapes(&[("q", &[1, 2, 3, 8])]), "3 query heads, but they come in pairs"),
        (
            "head_dim of k",
            with_shapes(&[("k", &[1, 3, 1, 16])]),
            "head_dim is 8 by the shape [1, 2, 2, 8] of `q`, but 16",
        ),
        ("kv_len of v", with_shapes(&[("v", &[1, 4, 1, 8])]), "kv_len is 3 by the shape [1, 3, 1, 8] of `k`, but 4"),
        (
            "batch 0",
            with_shapes(&[("q", &[0, 2, 2, 8]), ("k", &[0, 3, 1, 8]), ("v", &[0, 3, 1, 8]), ("lam", &[0, 2, 1])]),
            "`batch` is 0",
        ),
        ("head_dim 12", with_shapes(&[("q", &[1, 2, 2, 12]), ("k", &[1, 3, 1, 12])]), "multiple of 8"),
        (
            "pairs across KV heads",
            with_shapes(&[("q", &[1, 2, 6, 8]), ("lam", &[1, 2, 3]), ("k", &[1, 3, 2, 8]), ("v", &[1, 3, 2, 8])]),
            "3 heads cannot be shared among 2 kv_heads",
        ),
        (
            "metadata disagrees",
            with_metadata("heads", "4"),
            "heads is 1 by the shape [1, 2, 2, 8] of `q`, but 4 by the metadata",
        ),
        ("metadata heads", with_metadata("heads", "-4"), "heads -4, but it must be a whole number"),
        ("metadata scale", with_metadata("scale", "NaN"), "scale NaN, but it must be a finite number"),
        ("metadata scale too large", with_metadata("scale", "1e300"), "scale 1e300"),
        ("metadata softcap", with_metadata("softcap", "-3"), "`softcap` is -3"),
        ("metadata window", with_metadata("window_left", "-7"), "or -1 for an open side"),
        (
            "metadata causal",
            with_metadata("causal", "\u{1b}[31m\nyes"),
            r"causal \u{1b}[31m\nyes, but it must be true or",
        ),
        ("metadata number", edit(|header| header["__metadata__"] = json!({ "scale": 1 })), "expected a string"),
        ("NaN in q", with_value(9, f32::NAN), "`q` is NaN at [0, 0, 1, 1]"),
        ("inf in lam", with_value(81, f32::INFINITY), "`lam` is inf at [0, 1, 0]"),
        ("scores overflow", small(|_, data| *data = 1e30f32.to_le_bytes().repeat(82)), "`out` is NaN at [0, 0, 0, 0]"),
    ];
    for (case, bytes, wanted) in cases {
        let run = Run::new(&bytes);
        run.refused(&run.attend(&[]), wanted, case);
    }
    let run = Run::new(&with_value(40, 1e6));
    run.refused(&run.attend(&["--dtype", "f16"]), "f16 cannot hold 1e6 (`k` at [0, 1, 0, 0])", "f16");
    let run = Run::new(&valid);
    run.refused(&run.attend(&["--grad"]), "no tensor `dout`", "no dout");
    run.refused(&run.attend(&["--compare"]), "nothing to compare with", "no outputs");
}

#[test]
fn mutated_files_never_panic() {
    let golden = fixture("op_lambda_extremes.safetensors");
    let header = 8 + u64::from_le_bytes(golden[..8].try_into().expect("8 bytes")) as usize;
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..250 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = golden.clone();
        for _ in 0..random.usize(1..4) {
            let at = if random.bool() { random.usize(..header) } else { random.usize(..bytes.len()) };
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                // A digit for a digit keeps the header readable, so that what it says is what is wrong.
                1 | 2 => match (at..header.min(bytes.len())).find(|&at| bytes[at].is_ascii_digit()) {
                    Some(at) => bytes[at] = random.u8(b'0'..=b'9'),
                    None => bytes[at] ^= 1 << random.u8(..8),
                },
                _ => bytes.truncate(at.max(8)),
            }
            if bytes.len() < header {
                break;
            }
        }
        let run = Run::new(&bytes);
        let done = run.attend(&["--grad"]);
        if done.status == 0 {
            accepted += 1;
            let written = std::fs::read(run.output()).expect("output");
            SafeTensors::deserialize(&written).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        } else {
            refused += 1;
            run.refused(&done, "", &format!("seed {seed}"));
        }
    }
    assert!(accepted > 10 && refused > 10, "one-sided: {accepted} accepted, {refused} refused");
}

#[test]
fn paths_that_cannot_be_used_are_named() {
    let run = Run::new(&small(|_, _| {}));
    let (input, output) = (run.input(), run.output());
    let (input, output, folder) = (text(&input), text(&output), text(run.folder.path()));
    let missing = format!("{folder}/missing");
    let inside_file = format!("{input}/out");
    let parent = format!("{missing}/..");
    let in_missing = format!("{missing}/out");
    for (input, output, wanted) in [
        (missing.as_str(), output, "cannot open"),
        (folder, output, "is not a regular file"),
        (input, input, "is the input file"),
        (input, folder, "not a regular file"),
        (input, in_missing.as_str(), "there is no directory"),
        (input, inside_file.as_str(), "there is no directory"),
        (input, parent.as_str(), "names no file"),
    ] {
        let done = diffattn(&["attend", input, "-o", output, "--engine", "cpu"]);
        run.refused(&done, wanted, output);
    }
    #[cfg(unix)]
    for (input, output) in [("/dev/zero", output), (input, "/dev/null")] {
        let done = diffattn(&["attend", input, "-o", output, "--engine", "cpu"]);
        run.refused(&done, "not a regular file", output);
    }
}

#[test]
fn wrong_usage_exits_with_2() {
    let run = Run::new(&small(|_, _| {}));
    for args in [
        &["--window", "5"][..],
        &["--window", "5,-2"],
        &["--scale", "nan"],
        &["--softcap", "-1"],
        &["--dtype", "f64"],
        &["--adapter", "0"],
        &["--path", "naive"],
        &["--unknown"],
    ] {
        let done = run.attend(args);
        assert_eq!(done.status, 2, "{args:?}: {done:?}");
        assert!(!run.output().exists(), "{args:?}");
    }
    assert_eq!(diffattn(&[]).status, 2);
}

#[test]
fn the_engine_is_never_chosen_silently() {
    let run = Run::new(&small(|_, _| {}));
    let (input, output) = (run.input(), run.output());
    let done = diffattn(&["attend", text(&input), "-o", text(&output)]);
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.stderr.contains("engine    "), "{done:?}");
}

/// Where the Vulkan loader finds no driver, as on a machine without one.
#[cfg(target_os = "linux")]
#[test]
fn no_adapter_is_said_and_the_cpu_takes_over() {
    let run = Run::new(&small(|_, _| {}));
    let (input, output) = (run.input(), run.output());
    let without = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_diffattn"));
        finish(command.args(args).env("VK_ICD_FILENAMES", "/nonexistent").env("VK_DRIVER_FILES", "/nonexistent"))
    };
    let info = without(&["info"]);
    assert_eq!(info.status, 0, "{info:?}");
    assert!(info.stdout.contains("no GPU adapter was found; install"), "{info:?}");
    let auto = without(&["attend", text(&input), "-o", text(&output)]);
    assert_eq!(auto.status, 0, "{auto:?}");
    assert!(auto.stderr.contains("no GPU adapter was found"), "{auto:?}");
    let gpu = without(&["attend", text(&input), "-o", text(&output), "--engine", "gpu"]);
    assert_eq!(gpu.status, 1, "{gpu:?}");
    assert!(gpu.error().contains("no GPU adapter was found; install"), "{gpu:?}");
}

#[test]
fn info_is_json_on_request() {
    let done = diffattn(&["info", "--json"]);
    assert_eq!(done.status, 0, "{done:?}");
    let info: Value = serde_json::from_str(&done.stdout).expect("JSON");
    for (index, adapter) in info["adapters"].as_array().expect("adapters").iter().enumerate() {
        assert_eq!(adapter["index"], index);
        assert!(adapter["name"].is_string() && adapter["limits"].is_object(), "{adapter}");
    }
    assert!(info["cpu_threads"].as_u64().is_some_and(|threads| threads > 0), "{info}");
}
