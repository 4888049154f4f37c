//! The decisions, with made-up times.

use super::*;
use crate::problem::{DType, Shape};

fn case(q_len: u32) -> Case {
    let shape = Shape { batch: 1, q_len, kv_len: 4096, heads: 16, kv_heads: 8, head_dim: 128, value_dim: 128 };
    Case::new(Op::Forward, shape)
}

fn cuda() -> Caps {
    Caps {
        adapter: "A GPU".into(),
        workgroup_storage: 48 << 10,
        invocations: 1024,
        unpack_f16: true,
        subgroups: Some((32, 32)),
        matrix: Some(16),
        kind: wgpu::DeviceType::DiscreteGpu,
        backend: wgpu::Backend::Vulkan,
        ..Caps::floor()
    }
}

fn row(path: &str, tile: &str, median_ns: f64, p10_ns: f64, passed: bool) -> Row {
    let row = serde_json::json!({
        "label": "", "form": "fused", "op": "forward", "path": path, "tile": tile, "batch": 1, "q_len": 1, "kv_len": 1,
        "heads": 1, "kv_heads": 1, "head_dim": 8, "value_dim": 8, "dtype": "f16", "causal": true, "window": [null, null],
        "passed": passed, "max_err": 0.0, "err_bound": 1.0, "timer": "wall", "warmup": 1, "inner_repeats": 1,
        "cold_ns": 1.0, "samples_ns": [], "median_ns": median_ns, "p10_ns": p10_ns, "p90_ns": median_ns,
        "wall_median_ns": median_ns, "flop": 1.0, "bytes_min": 1.0, "tflops": 1.0, "gb_s": 1.0, "bound_by": "",
        "pct_of_limit": 0.0, "scratch_bytes": 0, "repro": "",
    });
    serde_json::from_value(row).expect("a row")
}

#[test]
fn candidates_take_every_path_and_the_untuned_plan_goes_first() {
    let cases = candidates(&case(4096), &cuda(), 12).unwrap();
    assert_eq!(cases.len(), 12);
    assert_eq!((cases[0].runner, cases[0].tile), (Runner::Auto, None));
    for path in [Path::Matrix, Path::Subgroup, Path::Portable] {
        assert!(cases.iter().filter(|case| case.runner == Runner::On(path)).count() >= 3, "{path:?}");
    }
    for (i, case) in cases.iter().enumerate() {
        assert!(!cases[..i].contains(case), "{case:?} twice");
        let (Runner::On(path), Some(tile)) = (case.runner, case.tile) else { continue };
        tile.validate(&case.problem(), path, &cuda()).expect("it fits");
    }
    // f32 has no matrices, the floor no subgroups.
    let f32 = candidates(&Case { dtype: DType::F32, ..case(64) }, &cuda(), 9).unwrap();
    assert!(f32.iter().all(|case| case.runner != Runner::On(Path::Matrix)));
    let floor = candidates(&case(64), &Caps::floor(), 9).unwrap();
    assert!(floor.iter().all(|case| matches!(case.runner, Runner::Auto | Runner::On(Path::Portable))));
}

#[test]
fn the_fastest_right_one_wins_and_noise_does_not() {
    let [slow, fast] = ["r64k16t64n4", "r128k32m16x2t128iu"];
    let untuned = || row("subgroup", slow, 100.0, 95.0, true);
    let path = |rows: &[Row]| decide(rows).map(|choice| (choice.path, choice.tile.unwrap().to_string()));
    let matrix = Some((Path::Matrix, fast.to_string()));
    let stays = Some((Path::Subgroup, slow.to_string()));
    assert_eq!(path(&[untuned(), row("matrix", fast, 50.0, 49.0, true)]), matrix);
    assert_eq!(path(&[untuned(), row("matrix", fast, 96.0, 90.0, true)]), stays, "within the noise");
    assert_eq!(path(&[untuned(), row("matrix", fast, 50.0, 49.0, false)]), stays, "a wrong result");
    assert_eq!(path(&[row("subgroup", slow, 0.0, 0.0, false), row("matrix", fast, 50.0, 49.0, true)]), matrix);
    assert_eq!(path(&[row("subgroup", slow, 0.0, 0.0, false)]), None);
    assert_eq!(decide(&[]), None);
}

#[test]
fn memory_gives_back_what_it_was_told_to_this_device_only() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("deep/tuned.json");
    let (mut memory, note) = Memory::read(&file);
    assert_eq!(note, None, "a file that is not there");
    let tile: AnyTile = "r128k32m16x2t128iu".parse().unwrap();
    memory.remember(&cuda(), &case(4000), Choice { path: Path::Matrix, tile: Some(tile), median_ns: 5.0 });
    memory.write(&file).unwrap();
    let (memory, note) = Memory::read(&file);
    assert_eq!(note, None);
    let plan = memory.recall(&cuda(), &case(4096)).expect("the same class");
    assert_eq!((plan.path, plan.tile), (Some(Path::Matrix), Some(tile)));
    assert_eq!(memory.recall(&cuda(), &case(5000)), None, "another class");
    assert_eq!(memory.recall(&Caps { driver_info: "2".into(), ..cuda() }, &case(4096)), None, "another driver");
    let smaller = Caps { workgroup_storage: 16 << 10, ..cuda() };
    assert_eq!(memory.recall(&smaller, &case(4096)), None, "no longer fits");
    assert_eq!(memory.entries().count(), 1);
}

#[test]
fn broken_and_foreign_files_are_ignored_with_a_message() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tuned.json");
    for text in
        ["", "{", "[1]", "{\"format\":2,\"devices\":{}}", "{\"name\":\"x\"}", "\0\0", "{\"format\":1,\"devices\":7}"]
    {
        std::fs::write(&file, text).unwrap();
        let (memory, note) = Memory::read(&file);
        assert_eq!(memory.entries().count(), 0);
        assert!(note.is_some_and(|note| note.contains("tuned.json") && note.contains("--forget")), "{text}");
    }
    // Words that mean nothing to this version are no choice.
    let (mut memory, _) = Memory::read(&folder.path().join("other.json"));
    memory.remember(&cuda(), &case(64), Choice { path: Path::Portable, tile: None, median_ns: 1.0 });
    memory.write(&file).unwrap();
    let text = std::fs::read_to_string(&file).unwrap().replace("\"portable\"", "\"quantum\"");
    std::fs::write(&file, text).unwrap();
    assert_eq!(Memory::read(&file).0.recall(&cuda(), &case(64)), None);
}

#[test]
fn every_experiment_is_one_switch_that_a_cuda_class_device_can_run_or_is_its_base() {
    let portable = Case { runner: Runner::On(Path::Portable), ..case(4096) };
    let step = Shape { batch: 8, q_len: 1, kv_len: 32768, ..case(1).shape };
    let mut names = 0;
    for case in [case(4096), portable, Case::new(Op::Decode, step)] {
        let (base, planned) = experiments(&case, &cuda()).unwrap();
        names += planned.len();
        assert!(planned.iter().filter(|(_, case)| case.is_some()).count() >= 9, "{}: {planned:#?}", base.flags());
        for (i, (experiment, case)) in planned.iter().enumerate() {
            assert!(planned[..i].iter().all(|(other, _)| other.name != experiment.name), "{} twice", experiment.name);
            let Some(case) = case else { continue };
            if let Some(tile) = case.tile {
                assert_eq!(tile.to_string().parse(), Ok(tile));
            }
            if let Some(tile) = case.decode_tile {
                assert_eq!(tile.to_string().parse(), Ok(tile));
            }
        }
    }
    assert_eq!(names, Experiment::all().len(), "each is of one of these");
    let error = experiments(&case(4096), &Caps::floor()).unwrap_err();
    assert!(error.is_unsupported(), "no matrix units: {error}");
}

#[test]
fn classes_tell_apart_what_needs_another_tile() {
    assert_eq!(class(&case(4000)), "forward.f16.causal.d128.g2n8.q4096kv4096");
    assert_eq!(class(&Case { causal: false, dtype: DType::Bf16, ..case(1) }), "forward.bf16.full.d128.g2n8.q1kv4096");
}
