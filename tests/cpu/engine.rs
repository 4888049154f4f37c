//! The CPU engine against the golden files and the float64 reference.

use crate::support::{Golden, Tensors, rng};
use diffattn::reference::{Judge, Verdict};
use diffattn::{DType, HostGradInputs, HostInputs, Options, Packed, Problem, Shape, cpu};
use fastrand::Rng;

fn assert_passed(what: &str, verdicts: &[Verdict]) {
    for verdict in verdicts {
        assert!(verdict.passed, "{what}: {verdict:?}");
    }
}

/// Holds outputs and gradients of the engine against the reference, and two runs of it against each other.
fn assert_right(problem: &Problem, inputs: &HostInputs, grads: &HostGradInputs) {
    let outputs = cpu::forward(problem, inputs).unwrap();
    let verdicts = Judge::forward(problem, inputs).unwrap().outputs(&outputs).unwrap();
    assert_passed(&format!("{problem:?}"), &verdicts);
    let gradients = cpu::backward(problem, inputs, grads).unwrap();
    let verdicts = Judge::backward(problem, inputs, grads).unwrap().gradients(&gradients).unwrap();
    assert_passed(&format!("{problem:?}"), &verdicts);

    assert_eq!(outputs, cpu::forward(problem, inputs).unwrap(), "{problem:?}: the forward differs between runs");
    assert_eq!(gradients, cpu::backward(problem, inputs, grads).unwrap(), "{problem:?}: gradients differ between runs");
}

/// A problem of the given lengths with everything else at random.
fn random_problem(q_len: u32, kv_len: u32, rng: &mut Rng) -> Problem {
    let kv_heads = rng.u32(1..=3);
    let shape = Shape {
        batch: rng.u32(1..=2),
        q_len,
        kv_len,
        heads: kv_heads * rng.u32(1..=3),
        kv_heads,
        head_dim: 8 * rng.u32(1..=10),
        value_dim: 8 * rng.u32(1..=10),
    };
    let mut options = Options::default();
    options.causal = rng.bool();
    let side = |rng: &mut Rng| rng.bool().then(|| rng.u32(0..kv_len + 20));
    options.window = (side(rng), side(rng));
    options.softcap = rng.bool().then(|| 1.0 + 30.0 * rng.f32());
    options.scale = rng.bool().then(|| 0.5 * rng.f32() - 0.1);
    (options.lse, options.a2) = (true, true);
    Problem::new(shape, rng.choice(DType::ALL).unwrap(), options)
}

#[test]
fn golden_files() {
    for dtype in DType::ALL {
        for golden in Golden::all(dtype) {
            let (problem, inputs, grads) = (&golden.problem, &golden.inputs(), &golden.grads());
            assert_right(problem, inputs, grads);
            let outputs = cpu::forward(problem, inputs).unwrap();
            let gradients = cpu::backward(problem, inputs, grads).unwrap();
            let judge = Judge::forward(problem, inputs).unwrap();
            for (name, tensor) in [("out", &outputs.out), ("lse", outputs.lse.as_ref().unwrap())] {
                assert_passed(&golden.name, &[judge.against(name, tensor, golden.tensor(name)).unwrap()]);
            }
            let judge = Judge::backward(problem, inputs, grads).unwrap();
            let tensors =
                [("dq", &gradients.dq), ("dk", &gradients.dk), ("dv", &gradients.dv), ("dlam", &gradients.dlam)];
            for (name, tensor) in tensors {
                assert_passed(&golden.name, &[judge.against(name, tensor, golden.tensor(name)).unwrap()]);
            }
        }
    }
}

#[test]
fn random_problems_with_tails() {
    let mut rng = rng();
    let lengths = [(1, 1), (1, 515), (19, 77), (113, 203), (128, 217), (239, 1), (257, 300), (300, 65), (33, 129)];
    for (q_len, kv_len) in lengths {
        for _ in 0..4 {
            let problem = random_problem(q_len, kv_len, &mut rng);
            let tensors = Tensors::random(&problem, &mut rng);
            assert_right(&problem, &tensors.inputs(), &tensors.grads_with_dlse());
        }
    }
}

#[test]
fn packed_sequences() {
    let mut rng = rng();
    for _ in 0..10 {
        let (mut cu_seqlens_q, mut cu_seqlens_k) = (vec![0], vec![0]);
        for _ in 0..rng.u32(1..6) {
            cu_seqlens_q.push(cu_seqlens_q.last().unwrap() + rng.choice([0, 1, 5, 130]).unwrap());
            cu_seqlens_k.push(cu_seqlens_k.last().unwrap() + rng.choice([0, 1, 9, 140]).unwrap());
        }
        let Problem { shape, dtype, options, .. } = random_problem(1, 150, &mut rng);
        let problem = Problem::packed(shape, dtype, options, Packed { cu_seqlens_q, cu_seqlens_k }).unwrap();
        let tensors = Tensors::random(&problem, &mut rng);
        assert_right(&problem, &tensors.inputs(), &tensors.grads_with_dlse());
    }
}

#[test]
fn a_group_larger_than_a_tile() {
    let mut rng = rng();
    let shape = Shape { batch: 1, q_len: 3, kv_len: 40, heads: 300, kv_heads: 1, head_dim: 16, value_dim: 8 };
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    let problem = Problem::new(shape, DType::F32, options);
    let tensors = Tensors::random(&problem, &mut rng);
    assert_right(&problem, &tensors.inputs(), &tensors.grads());
}

#[test]
fn extreme_values() {
    let mut rng = rng();
    for _ in 0..4 {
        let problem = random_problem(70, 300, &mut rng);
        let heads = 2 * problem.shape.heads as usize;
        let head_dim = problem.shape.head_dim as usize;
        let ordinary = Tensors::random(&problem, &mut rng);

        let mut gates = ordinary.clone();
        gates.lam.iter_mut().enumerate().for_each(|(i, lam)| *lam = if i % 2 == 0 { 40.0 } else { -40.0 });
        assert_right(&problem, &gates.inputs(), &gates.grads());

        let mut large = ordinary.clone();
        large.q.iter_mut().for_each(|q| *q = problem.dtype.round(*q * 100.0));
        assert_right(&problem, &large.inputs(), &large.grads());

        let mut identical = ordinary;
        for token in identical.q.chunks_exact_mut(heads * head_dim) {
            for pair in token.chunks_exact_mut(2 * head_dim) {
                pair.copy_within(..head_dim, head_dim);
            }
        }
        identical.lam.fill(12.0);
        assert_right(&problem, &identical.inputs(), &identical.grads());
    }
}

/// Values that the storage type cannot hold are rounded to it first, as on a device.
#[test]
fn inputs_are_stored_before_they_are_used() {
    let mut rng = rng();
    let shape = Shape { batch: 1, q_len: 20, kv_len: 20, heads: 2, kv_heads: 1, head_dim: 16, value_dim: 24 };
    let exact = Tensors::random(&Problem::new(shape, DType::F32, Options::default()), &mut rng);
    for dtype in [DType::F16, DType::Bf16] {
        let problem = Problem::new(shape, dtype, Options::default());
        let mut stored = exact.clone();
        for tensor in [&mut stored.q, &mut stored.k, &mut stored.v, &mut stored.dout] {
            tensor.iter_mut().for_each(|value| *value = dtype.round(*value));
        }
        assert_ne!(stored.q, exact.q);
        let forward = |tensors: &Tensors| cpu::forward(&problem, &tensors.inputs()).unwrap();
        assert_eq!(forward(&exact), forward(&stored));
        let backward = |tensors: &Tensors| cpu::backward(&problem, &tensors.inputs(), &tensors.grads()).unwrap();
        assert_eq!(backward(&exact), backward(&stored));
    }
}

#[test]
fn queries_that_see_no_key() {
    let mut rng = rng();
    let shape = Shape { batch: 1, q_len: 150, kv_len: 20, heads: 2, kv_heads: 1, head_dim: 16, value_dim: 24 };
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    let problem = Problem::new(shape, DType::F32, options);
    let tensors = Tensors::random(&problem, &mut rng);
    assert_right(&problem, &tensors.inputs(), &tensors.grads_with_dlse());
    let outputs = cpu::forward(&problem, &tensors.inputs()).unwrap();
    let gradients = cpu::backward(&problem, &tensors.inputs(), &tensors.grads_with_dlse()).unwrap();
    let blind = 130;
    assert!(outputs.out[..blind * 2 * 24].iter().all(|&x| x == 0.0));
    assert!(outputs.lse.unwrap().chunks(150).all(|lse| lse[..blind].iter().all(|&x| x == f32::NEG_INFINITY)));
    assert!(gradients.dq[..blind * 4 * 16].iter().chain(&gradients.dlam[..blind * 2]).all(|&x| x == 0.0));
    assert!(gradients.dq[blind * 4 * 16..].iter().any(|&x| x != 0.0));
}

#[test]
fn wrong_sizes_are_errors() {
    let problem = random_problem(4, 5, &mut rng());
    let tensors = Tensors::random(&problem, &mut rng());
    let short = HostInputs { k: &tensors.k[1..], ..tensors.inputs() };
    assert!(matches!(cpu::forward(&problem, &short), Err(diffattn::Error::Shape { tensor: "k", .. })));
    let short = HostGradInputs { dout: &tensors.dout[1..], dlse: None };
    assert!(matches!(
        cpu::backward(&problem, &tensors.inputs(), &short),
        Err(diffattn::Error::Shape { tensor: "dout", .. })
    ));
    let short = HostGradInputs { dout: &tensors.dout, dlse: Some(&tensors.dlse[1..]) };
    assert!(matches!(
        cpu::backward(&problem, &tensors.inputs(), &short),
        Err(diffattn::Error::Shape { tensor: "dlse", .. })
    ));
}

/// What the judge would miss is no test: each of these mistakes must be seen.
#[test]
fn the_judge_rejects_mistakes_of_this_engine() {
    let mut rng = rng();
    let shape = Shape { batch: 1, q_len: 40, kv_len: 60, heads: 4, kv_heads: 2, head_dim: 16, value_dim: 16 };
    let mut options = Options::default();
    options.causal = true;
    let problem = Problem::new(shape, DType::F32, options);
    let tensors = Tensors::random(&problem, &mut rng);
    let judge = Judge::forward(&problem, &tensors.inputs()).unwrap();
    let rejected = |wrong: &Problem, inputs: &HostInputs| {
        let outputs = cpu::forward(wrong, inputs).unwrap();
        assert!(judge.outputs(&outputs).unwrap().iter().any(|verdict| !verdict.passed), "{wrong:?}");
    };
    let mut off_by_one = problem.clone();
    (off_by_one.options.causal, off_by_one.options.window) = (false, (None, Some(1)));
    rejected(&off_by_one, &tensors.inputs());
    let mut swapped = tensors.q.clone();
    swapped.chunks_exact_mut(32).for_each(|pair| pair.rotate_left(16));
    rejected(&problem, &HostInputs { q: &swapped, ..tensors.inputs() });
    let no_gate = vec![40.0; tensors.lam.len()];
    rejected(&problem, &HostInputs { lam: &no_gate, ..tensors.inputs() });
}
