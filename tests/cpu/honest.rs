//! A positive control: a fused f32 kernel as bad as WGSL allows passes.

use crate::support::{Tensors, rng};
use crate::{options, problem};
use diffattn::reference::Judge;
use diffattn::{DType, HostInputs, HostOutputs, Problem};
use std::f32::consts::{LN_2, LOG2_E};

/// exp2 with an error of up to the 3 + 2·|x| units in the last place that WGSL grants.
fn exp2(x: f32, rng: &mut fastrand::Rng) -> f32 {
    x.exp2() * (1.0 + f32::EPSILON * (3.0 + 2.0 * x.abs()) * (2.0 * rng.f32() - 1.0))
}

/// One pass over the keys with a running maximum, in base 2, as the kernels do it.
fn fused(problem: &Problem, inputs: &HostInputs, rng: &mut fastrand::Rng) -> HostOutputs {
    let (shape, mask) = (problem.shape, problem.options.mask());
    let [q_len, kv_len, heads, kv_heads] =
        [shape.q_len, shape.kv_len, shape.heads, shape.kv_heads].map(|size| size as usize);
    let dim = shape.head_dim as usize;
    let row = |tensor: &[f32], index: usize| tensor[index * dim..][..dim].to_vec();
    let mut outputs = HostOutputs { out: vec![], lse: Some(vec![0.0; 2 * heads * q_len]), a2: Some(vec![]) };
    for (i, head) in (0..q_len).flat_map(|i| (0..heads).map(move |head| (i, head))) {
        let kv_head = head / (heads / kv_heads);
        let mut members = [vec![], vec![]];
        for (member, a) in members.iter_mut().enumerate() {
            let q = row(inputs.q, i * 2 * heads + 2 * head + member);
            let (mut max, mut sum, mut acc) = (-1e30f32, 0f32, vec![0f32; dim]);
            for j in mask.keys(i as i64 + kv_len as i64 - q_len as i64, shape.kv_len) {
                let at = j as usize * kv_heads + kv_head;
                let dot: f32 = q.iter().zip(row(inputs.k, at)).map(|(q, k)| q * k).sum();
                let score = dot * (problem.scale() * LOG2_E);
                let new = max.max(score);
                let (old, p) = (exp2(max - new, rng), exp2(score - new, rng));
                (max, sum) = (new, sum * old + p);
                acc.iter_mut().zip(row(inputs.v, at)).for_each(|(acc, v)| *acc = *acc * old + p * v);
            }
            *a = acc.iter().map(|acc| if sum > 0.0 { acc / sum } else { 0.0 }).collect();
            let lse = if sum > 0.0 { LN_2 * (max + sum.log2()) } else { f32::NEG_INFINITY };
            outputs.lse.as_mut().unwrap()[(2 * head + member) * q_len + i] = lse;
        }
        let [a1, a2] = members;
        let gate = 1.0 / (1.0 + exp2(-inputs.lam[i * heads + head] * LOG2_E, rng));
        outputs.out.extend(a1.iter().zip(&a2).map(|(a1, a2)| problem.dtype.round(a1 - gate * a2)));
        outputs.a2.as_mut().unwrap().extend(a2.iter().map(|a2| problem.dtype.round(*a2)));
    }
    outputs
}

#[test]
fn fused_kernel_passes() {
    let mut rng = rng();
    for dtype in DType::ALL {
        for (q_len, kv_len) in [(1, 1), (1, 2), (2, 1), (1, 515), (19, 77), (113, 203), (239, 1), (79, 3)] {
            for (scale, lam) in [(0.125, 1.0), (0.125, 40.0), (12.0, 1.0)] {
                let options = options(|options| (options.causal, options.scale) = (true, Some(scale)));
                let problem = problem(dtype, [q_len, kv_len, 2, 1, 64], options);
                let mut tensors = Tensors::random(&problem, &mut rng);
                tensors.lam.iter_mut().for_each(|logit| *logit *= lam);
                let outputs = fused(&problem, &tensors.inputs(), &mut rng);
                for verdict in Judge::forward(&problem, &tensors.inputs()).unwrap().outputs(&outputs).unwrap() {
                    println!("{q_len} x {kv_len}, {}, scale {scale}: {verdict:?}", dtype.name());
                    assert!(verdict.passed, "{q_len} x {kv_len}, {}, scale {scale}: {verdict:?}", dtype.name());
                }
            }
        }
    }
}
