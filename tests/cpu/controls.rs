//! Negative controls: the judge must reject the plain computation of a slightly different problem.

use crate::support::{Golden, Tensors, rng};
use crate::{options, problem};
use diffattn::reference::{Judge, Verdict, yardstick};
use diffattn::{DType, HostGradients, HostOutputs, Options, Problem};

/// q_len, kv_len, heads, kv_heads, head_dim.
const SHAPES: [[u32; 5]; 4] = [[19, 77, 2, 1, 64], [65, 65, 4, 2, 32], [33, 40, 2, 2, 128], [130, 203, 2, 2, 8]];

/// What an engine gives that computes `wrong` from `tensors` where `right` from `inputs` was asked for.
fn reject(what: &str, right: &Problem, inputs: &Tensors, wrong: &Problem, tensors: &Tensors) {
    let outputs = yardstick::forward(wrong, &tensors.inputs()).unwrap();
    let verdicts = Judge::forward(right, &inputs.inputs()).unwrap().outputs(&outputs).unwrap();
    let what = format!("{what}, {} {:?}", right.dtype.name(), right.shape);
    println!("{what}: {verdicts:?}");
    assert!(!verdicts[0].passed, "{what}: accepted {:?}", verdicts[0]);
    let mut gradients = yardstick::backward(wrong, &tensors.inputs(), &tensors.grads()).unwrap();
    // Keys that the wrong problem does not have get no gradient.
    gradients.dk.resize(inputs.k.len(), 0.0);
    gradients.dv.resize(inputs.v.len(), 0.0);
    let judge = Judge::backward(right, &inputs.inputs(), &inputs.grads()).unwrap();
    let verdicts = judge.gradients(&gradients).unwrap();
    println!("{what}: {verdicts:?}");
    assert!(verdicts.iter().all(|verdict| !verdict.passed), "{what}: accepted one of {verdicts:?}");
}

/// Runs `check` on every shape in every storage type, with random inputs.
fn everywhere(set: impl Fn(&mut Options), check: impl Fn(&Problem, &Tensors)) {
    let mut rng = rng();
    for dtype in DType::ALL {
        for shape in SHAPES {
            let problem = problem(dtype, shape, options(&set));
            check(&problem, &Tensors::random(&problem, &mut rng));
        }
    }
}

fn with_options(problem: &Problem, set: impl FnOnce(&mut Options)) -> Problem {
    let mut problem = problem.clone();
    set(&mut problem.options);
    problem
}

#[test]
fn itself_is_accepted() {
    let all = |verdicts: Vec<Verdict>| assert!(verdicts.iter().all(|verdict| verdict.passed), "{verdicts:?}");
    everywhere(
        |options| (options.causal, options.softcap) = (true, Some(5.0)),
        |problem, tensors| {
            let judge = Judge::forward(problem, &tensors.inputs()).unwrap();
            all(judge.outputs(&yardstick::forward(problem, &tensors.inputs()).unwrap()).unwrap());
            let judge = Judge::backward(problem, &tensors.inputs(), &tensors.grads_with_dlse()).unwrap();
            let gradients = yardstick::backward(problem, &tensors.inputs(), &tensors.grads_with_dlse()).unwrap();
            all(judge.gradients(&gradients).unwrap());
        },
    );
}

#[test]
fn swapped_pair() {
    everywhere(
        |options| options.causal = true,
        |problem, tensors| {
            let mut wrong = tensors.clone();
            let dim = problem.shape.head_dim as usize;
            for pair in wrong.q.chunks_exact_mut(2 * dim) {
                pair.rotate_left(dim);
            }
            reject("swapped pair", problem, tensors, problem, &wrong);
        },
    );
}

#[test]
fn dropped_gate() {
    everywhere(
        |options| options.causal = true,
        |problem, tensors| {
            for lam in [100.0, -100.0] {
                let wrong = Tensors { lam: vec![lam; tensors.lam.len()], ..tensors.clone() };
                reject("dropped gate", problem, tensors, problem, &wrong);
            }
        },
    );
}

#[test]
fn causal_edge() {
    everywhere(
        |options| options.causal = true,
        |problem, tensors| {
            let wrong = with_options(problem, |options| (options.causal, options.window) = (false, (None, Some(1))));
            reject("one key too many", problem, tensors, &wrong, tensors);
            // One key fewer moves the diagonal, too.
            reject("one key too few", problem, tensors, &shorter(problem), &tail_missed(problem, tensors));
        },
    );
}

#[test]
fn window_edges() {
    everywhere(
        |options| options.window = (Some(12), Some(5)),
        |problem, tensors| {
            for window in [(11, 5), (13, 5), (12, 4), (12, 6)] {
                let wrong = with_options(problem, |options| options.window = (Some(window.0), Some(window.1)));
                reject("window off by one", problem, tensors, &wrong, tensors);
            }
        },
    );
}

#[test]
fn tail_key() {
    everywhere(
        |_| (),
        |problem, tensors| reject("tail key", problem, tensors, &shorter(problem), &tail_missed(problem, tensors)),
    );
}

#[test]
fn wrong_kv_head() {
    everywhere(
        |options| options.causal = true,
        |problem, tensors| {
            let (heads, dim) = (problem.shape.kv_heads as usize, problem.shape.head_dim as usize);
            if heads == 1 {
                return;
            }
            let mut wrong = tensors.clone();
            for token in wrong.k.chunks_exact_mut(heads * dim).chain(wrong.v.chunks_exact_mut(heads * dim)) {
                token.rotate_left(dim);
            }
            reject("wrong KV head", problem, tensors, problem, &wrong);
        },
    );
}

#[test]
fn wrong_softcap_and_scale() {
    everywhere(
        |options| options.softcap = Some(3.0),
        |problem, tensors| {
            reject("no softcap", problem, tensors, &with_options(problem, |o| o.softcap = None), tensors);
            let scale = 1.25 * problem.scale();
            reject("scale", problem, tensors, &with_options(problem, |o| o.scale = Some(scale)), tensors);
        },
    );
}

/// One NaN or infinity in any tensor is fatal, and so is an lse that is −∞ where keys are seen, or not where none is.
#[test]
fn values_that_are_not_numbers() {
    let mut rng = rng();
    for dtype in DType::ALL {
        let problem = problem(dtype, [9, 5, 2, 1, 8], options(|options| options.causal = true));
        let tensors = Tensors::random(&problem, &mut rng);
        let judge = Judge::forward(&problem, &tensors.inputs()).unwrap();
        let outputs = yardstick::forward(&problem, &tensors.inputs()).unwrap();
        let fails = |tensor: usize, index: usize, value: f32| {
            let mut outputs = outputs.clone();
            let HostOutputs { out, lse, a2 } = &mut outputs;
            [out, lse.as_mut().unwrap(), a2.as_mut().unwrap()][tensor][index] = value;
            let verdicts = judge.outputs(&outputs).unwrap();
            let failed: Vec<_> = (0..3).filter(|&tensor| !verdicts[tensor].passed).collect();
            assert_eq!(failed, [tensor], "{value} at {index}: {verdicts:?}");
            assert_eq!(verdicts[tensor].index, index);
        };
        for tensor in 0..3 {
            for value in [f32::NAN, f32::INFINITY] {
                fails(tensor, rng.usize(..4 * 9), value);
            }
        }
        // Of 9 queries the first 4 see none of the 5 keys.
        assert_eq!(outputs.lse.as_ref().unwrap()[3], f32::NEG_INFINITY);
        fails(1, 3, -1e30);
        fails(1, 4, f32::NEG_INFINITY);
        fails(0, 0, 1e-3);

        let judge = Judge::backward(&problem, &tensors.inputs(), &tensors.grads()).unwrap();
        let gradients = yardstick::backward(&problem, &tensors.inputs(), &tensors.grads()).unwrap();
        for tensor in 0..4 {
            let mut gradients = gradients.clone();
            let HostGradients { dq, dk, dv, dlam } = &mut gradients;
            [dq, dk, dv, dlam][tensor][1] = f32::NAN;
            assert!(!judge.gradients(&gradients).unwrap()[tensor].passed);
        }
    }
}

/// Numbers that are large, but exact, loosen no bound: zeros are wrong beside any gate.
#[test]
fn zeros_beside_a_huge_gate() {
    everywhere(
        |options| options.causal = true,
        |problem, tensors| {
            for lam in [1e9, -1e9] {
                let mut tensors = tensors.clone();
                tensors.lam[0] = lam;
                let zeros = HostOutputs { out: vec![0.0; tensors.dout.len()], ..Default::default() };
                let verdicts = Judge::forward(problem, &tensors.inputs()).unwrap().outputs(&zeros).unwrap();
                assert!(!verdicts[0].passed && verdicts[0].can_tell(), "{verdicts:?}");
            }
        },
    );
}

/// Scores of hundreds are off by their rounding in f32, which is 20 times less than this.
#[test]
fn small_errors_beside_large_scores() {
    let golden =
        Golden::all(DType::F32).into_iter().find(|golden| golden.name == "large_logits").expect("large_logits");
    let judge = Judge::forward(&golden.problem, &golden.inputs()).unwrap();
    let mut outputs = yardstick::forward(&golden.problem, &golden.inputs()).unwrap();
    let passed = |outputs: &HostOutputs| {
        judge.outputs(outputs).unwrap().iter().map(|verdict| verdict.passed).collect::<Vec<_>>()
    };
    assert_eq!(passed(&outputs), [true; 3]);
    outputs.out.iter_mut().for_each(|out| *out *= 1.0 + 1e-4);
    outputs.lse.iter_mut().flatten().for_each(|lse| *lse *= 1.0 + 1e-4);
    outputs.a2.iter_mut().flatten().for_each(|a2| *a2 *= 1.0 + 1e-4);
    assert_eq!(passed(&outputs), [false; 3], "{:?}", judge.outputs(&outputs));
    println!("{:?}", judge.outputs(&outputs));
}

/// Scores that f32 cannot tell apart make no result right.
#[test]
fn scores_that_drown_in_their_rounding() {
    let problem = problem(DType::F32, [9, 5, 2, 1, 8], options(|options| options.scale = Some(1e28)));
    let tensors = Tensors::random(&problem, &mut rng());
    let outputs = yardstick::forward(&problem, &tensors.inputs()).unwrap();
    let verdicts = Judge::forward(&problem, &tensors.inputs()).unwrap().outputs(&outputs).unwrap();
    assert!(!verdicts[0].can_tell() && !verdicts[0].passed, "{verdicts:?}");
    let gradients = yardstick::backward(&problem, &tensors.inputs(), &tensors.grads()).unwrap();
    let verdicts = Judge::backward(&problem, &tensors.inputs(), &tensors.grads()).unwrap();
    let verdicts = verdicts.gradients(&gradients).unwrap();
    assert!(verdicts.iter().all(|verdict| !verdict.can_tell() && !verdict.passed), "{verdicts:?}");
}

#[test]
fn wrong_lengths_and_names_are_errors() {
    let problem = problem(DType::F32, [3, 3, 1, 1, 8], options(|_| ()));
    let tensors = Tensors::random(&problem, &mut rng());
    let judge = Judge::forward(&problem, &tensors.inputs()).unwrap();
    let error = judge.outputs(&HostOutputs { out: vec![0.0; 7], ..Default::default() }).unwrap_err();
    assert!(error.to_string().contains("`out`"), "{error}");
    let error = judge.gradients(&HostGradients::default()).unwrap_err();
    assert!(error.to_string().contains("dq"), "{error}");
    let error = judge.against("lse", &[0.0; 6], &[0.0; 5]).unwrap_err();
    assert!(error.to_string().contains("`lse`"), "{error}");
}

/// The problem without its last key.
fn shorter(problem: &Problem) -> Problem {
    let mut problem = problem.clone();
    problem.shape.kv_len -= 1;
    problem
}

fn tail_missed(problem: &Problem, tensors: &Tensors) -> Tensors {
    let mut tensors = tensors.clone();
    let token = (problem.shape.kv_heads * problem.shape.head_dim) as usize;
    tensors.k.truncate(tensors.k.len() - token);
    tensors.v.truncate(tensors.v.len() - token);
    tensors
}
