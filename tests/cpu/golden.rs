//! The reference and the yardstick against the golden files.

use crate::support::Golden;
use diffattn::DType;
use diffattn::reference::{self, Judge, yardstick};

/// Golden files are float64 results stored in f32, with the scale in f64: agreement is that of one f32 rounding of the
/// result and of the scale.
fn assert_agrees(what: &str, actual: &[f64], expected: &[f32]) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let largest = expected.iter().filter(|e| e.is_finite()).fold(0.0, |max, &e| f64::max(max, f64::from(e.abs())));
    for (index, (&actual, &expected)) in actual.iter().zip(expected).enumerate() {
        let expected = f64::from(expected);
        let agrees = actual == expected || (actual - expected).abs() <= 1e-6 * largest;
        assert!(agrees, "{what}[{index}]: {actual} instead of {expected}, largest {largest}");
    }
}

#[test]
fn reference_agrees() {
    for golden in Golden::all(DType::F32) {
        let name = &golden.name;
        let truth = reference::forward(&golden.problem, &golden.inputs()).unwrap();
        assert_agrees(&format!("{name} out"), &truth.out, golden.tensor("out"));
        assert_agrees(&format!("{name} lse"), &truth.lse, golden.tensor("lse"));
        let gradients = reference::backward(&golden.problem, &golden.inputs(), &golden.grads()).unwrap();
        assert_agrees(&format!("{name} dq"), &gradients.dq, golden.tensor("dq"));
        assert_agrees(&format!("{name} dk"), &gradients.dk, golden.tensor("dk"));
        assert_agrees(&format!("{name} dv"), &gradients.dv, golden.tensor("dv"));
        assert_agrees(&format!("{name} dlam"), &gradients.dlam, golden.tensor("dlam"));
    }
}

/// What `--compare` does, with the yardstick as the engine.
#[test]
fn yardstick_passes_against_the_files() {
    for dtype in DType::ALL {
        for golden in Golden::all(dtype) {
            let outputs = yardstick::forward(&golden.problem, &golden.inputs()).unwrap();
            let judge = Judge::forward(&golden.problem, &golden.inputs()).unwrap();
            let lse = outputs.lse.expect("lse");
            let mut verdicts = [("out", &outputs.out), ("lse", &lse)]
                .map(|(n, t)| judge.against(n, t, golden.tensor(n)).unwrap())
                .to_vec();

            let gradients = yardstick::backward(&golden.problem, &golden.inputs(), &golden.grads()).unwrap();
            let judge = Judge::backward(&golden.problem, &golden.inputs(), &golden.grads()).unwrap();
            let tensors =
                [("dq", &gradients.dq), ("dk", &gradients.dk), ("dv", &gradients.dv), ("dlam", &gradients.dlam)];
            verdicts.extend(tensors.map(|(name, tensor)| judge.against(name, tensor, golden.tensor(name)).unwrap()));
            for verdict in verdicts {
                println!("{} {} {verdict:?}", golden.name, dtype.name());
                assert!(verdict.passed, "{} {}: {verdict:?}", golden.name, dtype.name());
            }
        }
    }
}
