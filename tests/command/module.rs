//! `diffattn module` and `diffattn params`.

use super::{Done, Run, diffattn, file, fixture, text};
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};

const FILES: [(&str, usize); 3] =
    [("module_diff_v2_gqa.safetensors", 7), ("module_baseline_gqa.safetensors", 6), ("module_diff_v1.safetensors", 11)];

fn module(run: &Run, args: &[&str]) -> Done {
    let (input, output) = (run.input(), run.output());
    let mut all = vec!["module", text(&input), "-o", text(&output), "--engine", "cpu"];
    all.extend(args);
    diffattn(&all)
}

/// A golden file after `edit` changed its header.
fn edited(name: &str, edit: impl FnOnce(&mut Value)) -> Vec<u8> {
    let golden = fixture(name);
    let end = 8 + u64::from_le_bytes(golden[..8].try_into().expect("8 bytes")) as usize;
    let mut header = serde_json::from_slice(&golden[8..end]).expect("header");
    edit(&mut header);
    file(&header.to_string(), &golden[end..])
}

/// Gives a tensor another name.
fn rename(header: &mut Value, from: &str, to: &str) {
    let tensors = header.as_object_mut().expect("an object");
    let tensor = tensors.remove(from).expect(from);
    tensors.insert(to.into(), tensor);
}

#[test]
fn golden_files_compare_in_every_storage_type() {
    for (name, tensors) in FILES {
        let run = Run::new(&fixture(name));
        for dtype in ["f32", "f16", "bf16"] {
            let done = module(&run, &["--dtype", dtype, "--grad", "--compare"]);
            assert_eq!(done.status, 0, "{name} {dtype}: {done:?}");
            assert_eq!(done.stdout.matches("  pass  ").count(), tensors, "{name} {dtype}: {done:?}");
            let done = module(&run, &["--dtype", dtype, "--compare"]);
            assert_eq!(done.status, 0, "{name} {dtype}: {done:?}");
            assert_eq!(done.stdout.matches("  pass  ").count(), 1, "{name} {dtype}: {done:?}");
        }
    }
}

#[test]
fn a_wrong_tensor_fails_the_comparison() {
    for (name, tensors) in FILES {
        let golden = fixture(name);
        let (header, metadata) = SafeTensors::read_metadata(&golden).expect("header");
        for tensor in metadata.offset_keys() {
            if !(tensor == "y" || tensor == "dx" || tensor.starts_with("grad.")) {
                continue;
            }
            for wrong in [1e4, f32::NAN] {
                let at = 8 + header + metadata.info(&tensor).expect("info").data_offsets.0 + 20;
                let mut bytes = golden.clone();
                bytes[at..at + 4].copy_from_slice(&f32::to_le_bytes(wrong));
                let done = module(&Run::new(&bytes), &["--grad", "--compare"]);
                assert_eq!(done.status, 1, "{tensor} {wrong}: {done:?}");
                assert_eq!(done.error(), format!("error: 1 of {tensors} tensors over the bound"));
                let row = done.stdout.lines().find(|line| line.contains("FAIL")).expect("a row that says FAIL");
                assert!(row.starts_with(&tensor), "{tensor} {wrong}: {row}");
            }
        }
    }
}

#[test]
fn the_output_holds_y_and_every_gradient() {
    for (name, tensors) in FILES {
        let run = Run::new(&fixture(name));
        let done = module(&run, &["--dtype", "f16", "--grad"]);
        assert_eq!(done.status, 0, "{done:?}");
        let (golden, written) = (fixture(name), std::fs::read(run.output()).expect("output"));
        let golden = SafeTensors::deserialize(&golden).expect("safetensors");
        let written = SafeTensors::deserialize(&written).expect("safetensors");
        assert_eq!(written.len(), tensors);
        for (name, tensor) in written.iter() {
            assert_eq!(tensor.shape(), golden.tensor(name).expect(name).shape(), "{name}");
            let stored = if name.starts_with("grad.") { Dtype::F32 } else { Dtype::F16 };
            assert_eq!(tensor.dtype(), stored, "{name}");
        }
    }
}

#[test]
fn every_parameter_at_fault_is_named_in_one_sentence() {
    let bytes = edited("module_diff_v2_gqa.safetensors", |header| {
        rename(header, "param.q_proj.weight", "param.wq\u{1b}[31m");
        header["param.k_proj.weight"]["shape"] = json!([64, 32]);
        header["param.v_proj.weight"]["dtype"] = json!("I32");
    });
    let run = Run::new(&bytes);
    let done = module(&run, &[]);
    for wanted in [
        "parameters of diff_v2, d_model 64, heads 4, kv_heads 2, head_dim 16",
        "`q_proj.weight` [128, 64] is missing",
        "`k_proj.weight` has the shape [64, 32], but must be [32, 64]",
        "`v_proj.weight` holds I32 values",
        r"`wq\u{1b}[31m` is unknown",
    ] {
        run.refused(&done, wanted, wanted);
    }
}

#[test]
fn broken_files_are_refused_in_one_sentence() {
    let name = "module_diff_v2_gqa.safetensors";
    let metadata = |key: &str, value: Option<&str>| {
        edited(name, |header| match value {
            Some(value) => header["__metadata__"][key] = json!(value),
            None => drop(header["__metadata__"].as_object_mut().expect("metadata").remove(key)),
        })
    };
    let cases = [
        ("no x", edited(name, |header| rename(header, "x", "z")), "no tensor `x`"),
        ("rank of x", edited(name, |header| header["x"]["shape"] = json!([66, 64])), "[batch, seq_len, d_model]"),
        ("no kind", metadata("kind", None), "does not say kind; give --kind (diff_v2, baseline, diff_v1)"),
        ("kind", metadata("kind", Some("\"diff_v3\"")), "must be one of diff_v2, baseline, diff_v1"),
        ("no heads", metadata("heads", None), "does not say heads"),
        ("heads 0", metadata("heads", Some("0")), "`heads` is 0"),
        ("heads 3", metadata("heads", Some("3")), "3 heads cannot be shared among 2 kv_heads"),
        ("heads 2³¹", metadata("heads", Some("2147483648")), "`heads` is 2147483648"),
        ("head_dim", metadata("head_dim", Some("12")), "multiple of 8"),
        ("d_model", metadata("d_model", Some("72")), "d_model is 64 by the shape [2, 33, 64] of `x`, but 72"),
        ("rope_base", metadata("rope_base", Some("-1")), "`rope_theta` is -1"),
        ("empty batch", edited(name, |header| header["x"]["shape"] = json!([2, 0, 64])), "invalid shape"),
    ];
    for (case, bytes, wanted) in cases {
        let run = Run::new(&bytes);
        run.refused(&module(&run, &[]), wanted, case);
    }
    let run = Run::new(&edited(name, |header| rename(header, "dy", "d")));
    run.refused(&module(&run, &["--grad"]), "no tensor `dy`", "no dy");
    let run = Run::new(&edited(name, |header| rename(header, "y", "z")));
    run.refused(&module(&run, &["--compare"]), "nothing to compare with", "no y");
    let run = Run::new(&fixture("module_diff_v1.safetensors"));
    run.refused(&module(&run, &["--kind", "diff_v2"]), "`lambda_proj.weight` [2, 64] is missing", "another kind");
}

#[test]
fn mutated_files_never_panic() {
    let golden = fixture("module_diff_v1.safetensors");
    let header = 8 + u64::from_le_bytes(golden[..8].try_into().expect("8 bytes")) as usize;
    let (mut accepted, mut refused) = (0, 0);
    for seed in 0..100 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut bytes = golden.clone();
        for _ in 0..random.usize(1..4) {
            let at = if random.bool() { random.usize(8..header) } else { random.usize(header..bytes.len()) };
            match (at..header).find(|&at| bytes[at].is_ascii_digit()) {
                Some(at) => bytes[at] = random.u8(b'0'..=b'9'),
                None => bytes[at] ^= 1 << random.u8(..8),
            }
        }
        let run = Run::new(&bytes);
        let done = module(&run, &["--grad"]);
        if done.status == 0 {
            accepted += 1;
        } else {
            refused += 1;
            run.refused(&done, "", &format!("seed {seed}"));
        }
    }
    assert!(accepted > 5 && refused > 5, "one-sided: {accepted} accepted, {refused} refused");
}

#[test]
fn params_prints_the_saving_of_each_kind() {
    let done = diffattn(&["params", "--d-model", "4096", "--heads", "32", "--kv-heads", "8"]);
    assert_eq!(done.status, 0, "{done:?}");
    let row = |name: &str| {
        let row = done.stdout.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {done:?}"));
        row[name.len()..].split_whitespace().map(str::to_string).collect::<Vec<_>>()
    };
    // D = 4096: 2D²(1 + 8/32) for the baseline, D² + 32·D more for V2, of 4D² + 2D²·8/32 with 64 heads.
    assert_eq!(row("DIFF V2")[..5], ["32", "8", "58851328", "22.0", "%"]);
    assert_eq!(row("baseline  ")[..3], ["32", "8", "41943040"]);
    assert_eq!(row("baseline, 2 × heads")[..3], ["64", "8", "75497472"]);
    assert_eq!(row("DIFF V1")[..3], ["16", "4", "41943808"]);
    let bytes = |name: &str| row(name)[row(name).len() - 2..].to_vec();
    assert_eq!(bytes("DIFF V2"), ["4096", "4096"]);
    assert_eq!(bytes("DIFF V1"), ["4096", "6144"]);

    let odd = diffattn(&["params", "--d-model", "1024", "--heads", "3", "--head-dim", "64"]);
    assert!(odd.status == 0 && odd.stdout.contains("DIFF V1 is not shown"), "{odd:?}");
    let crossing = diffattn(&["params", "--d-model", "1024", "--heads", "16", "--kv-heads", "3"]);
    assert_eq!(crossing.status, 1, "{crossing:?}");
    assert!(crossing.error().contains("16 heads cannot be shared among 3 kv_heads"), "{crossing:?}");
    let uneven = diffattn(&["params", "--d-model", "100", "--heads", "16"]);
    assert!(uneven.status == 1 && uneven.error().contains("give --head-dim"), "{uneven:?}");
    for wrong in [["--heads", "0"], ["--heads", "-1"], ["--heads", "99999999999"]] {
        assert_eq!(diffattn(&["params", "--d-model", "1024", wrong[0], wrong[1]]).status, 2);
    }
    let huge = diffattn(&["params", "--d-model", "4294967288", "--heads", "4294967295", "--head-dim", "256"]);
    assert!(huge.status == 1 && huge.error().contains("from 1 to"), "{huge:?}");
}
