//! What holds for every problem, whatever the numbers.

use crate::options;
use crate::support::Tensors;
use diffattn::reference::{backward, forward};
use diffattn::{DType, HostGradInputs, HostInputs, Options, Packed, Problem, Shape};
use fastrand::Rng;
use proptest::prelude::*;

prop_compose! {
    fn any_options()(
        causal in any::<bool>(),
        window in proptest::option::of((0..6u32, 0..6u32)),
        softcap in proptest::option::of(0.5..20f32),
    ) -> Options {
        options(|options| {
            options.causal = causal;
            options.softcap = softcap;
            if let Some((left, right)) = window {
                options.window = (Some(left), Some(right));
            }
        })
    }
}

prop_compose! {
    fn any_problem()(
        sizes in proptest::array::uniform2(1..9u32), batch in 1..3u32, group in 1..3u32, kv_heads in 1..3u32,
        head_dim in 1..4u32, value_dim in 1..4u32, options in any_options(),
    ) -> Problem {
        let [q_len, kv_len] = sizes;
        let heads = group * kv_heads;
        let shape =
            Shape { batch, q_len, kv_len, heads, kv_heads, head_dim: 8 * head_dim, value_dim: 8 * value_dim };
        Problem::new(shape, DType::F32, options)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn without_gate_it_is_plain_attention(problem in any_problem(), seed: u64) {
        let mut tensors = Tensors::random(&problem, &mut Rng::with_seed(seed));
        tensors.lam.fill(-200.0);
        let truth = forward(&problem, &tensors.inputs()).unwrap();
        prop_assert_eq!(truth.out, truth.a1);
    }

    #[test]
    fn row_weights_sum_to_one_minus_the_gate(problem in any_problem(), seed: u64) {
        let mut tensors = Tensors::random(&problem, &mut Rng::with_seed(seed));
        tensors.v.fill(1.0);
        let truth = forward(&problem, &tensors.inputs()).unwrap();
        let dim = problem.shape.value_dim as usize;
        for ((out, a1), lam) in truth.out.chunks(dim).zip(truth.a1.chunks(dim)).zip(&tensors.lam) {
            let expected = if a1[0] == 0.0 { 0.0 } else { 1.0 - 1.0 / (1.0 + (-f64::from(*lam)).exp()) };
            prop_assert!(out.iter().all(|out| (out - expected).abs() < 1e-12), "{out:?} instead of {expected}");
        }
    }

    #[test]
    fn a_gate_moves_one_vector(problem in any_problem(), seed: u64) {
        let mut rng = Rng::with_seed(seed);
        let mut tensors = Tensors::random(&problem, &mut rng);
        let before = forward(&problem, &tensors.inputs()).unwrap();
        let changed = rng.usize(..tensors.lam.len());
        tensors.lam[changed] += 1.0;
        let after = forward(&problem, &tensors.inputs()).unwrap();
        let dim = problem.shape.value_dim as usize;
        for (index, (before_row, after)) in before.out.chunks(dim).zip(after.out.chunks(dim)).enumerate() {
            let masked = before.a2[index * dim..][..dim].iter().all(|&a2| a2 == 0.0);
            prop_assert_eq!(before_row != after, index == changed && !masked);
        }
        prop_assert_eq!((before.a1, before.a2, before.lse), (after.a1, after.a2, after.lse));
    }

    /// With q = 0 every visible key weighs the same: lse counts the keys, and v = position gives their middle.
    #[test]
    fn keys_seen_are_those_of_the_mask(problem in any_problem()) {
        let Shape { q_len, kv_len, .. } = problem.shape;
        let mut tensors = Tensors::random(&problem, &mut Rng::with_seed(0));
        tensors.q.fill(0.0);
        let token = (problem.shape.kv_heads * problem.shape.value_dim) as usize;
        for (index, v) in tensors.v.iter_mut().enumerate() {
            *v = ((index / token) % kv_len as usize) as f32;
        }
        let truth = forward(&problem, &tensors.inputs()).unwrap();
        let out_token = (problem.shape.heads * problem.shape.value_dim) as usize;
        for i in 0..q_len {
            let keys = problem.options.mask().keys(i64::from(i) + i64::from(kv_len) - i64::from(q_len), kv_len);
            prop_assert!((truth.lse[i as usize].exp() - f64::from(keys.end - keys.start)).abs() < 1e-9);
            let middle = if keys.is_empty() { 0.0 } else { f64::from(keys.start + keys.end - 1) / 2.0 };
            prop_assert!((truth.a1[i as usize * out_token] - middle).abs() < 1e-9);
        }
    }

    #[test]
    fn packed_equals_separate(
        lens in proptest::collection::vec((0..6u32, 0..6u32), 1..4), options in any_options(), seed: u64,
    ) {
        let ends = |lens: Vec<u32>| -> Vec<u32> {
            std::iter::once(0).chain(lens.iter().scan(0, |end, len| { *end += len; Some(*end) })).collect()
        };
        let cu_seqlens_q = ends(lens.iter().map(|len| len.0).collect());
        let cu_seqlens_k = ends(lens.iter().map(|len| len.1).collect());
        let shape = Shape { batch: 1, q_len: 1, kv_len: 1, heads: 4, kv_heads: 2, head_dim: 8, value_dim: 16 };
        let lists = Packed { cu_seqlens_q: cu_seqlens_q.clone(), cu_seqlens_k: cu_seqlens_k.clone() };
        let packed = Problem::packed(shape, DType::F32, options, lists).unwrap();
        let tensors = Tensors::random(&packed, &mut Rng::with_seed(seed));
        let truth = forward(&packed, &tensors.inputs()).unwrap();
        let gradients = backward(&packed, &tensors.inputs(), &tensors.grads_with_dlse()).unwrap();

        let total_q = *cu_seqlens_q.last().unwrap() as usize;
        for (b, &(q_len, kv_len)) in lens.iter().enumerate() {
            if q_len == 0 || kv_len == 0 {
                continue; // Nothing that could stand alone.
            }
            let queries = cu_seqlens_q[b] as usize..cu_seqlens_q[b + 1] as usize;
            let keys = cu_seqlens_k[b] as usize..cu_seqlens_k[b + 1] as usize;
            let of = |range: &std::ops::Range<usize>, token: usize| range.start * token..range.end * token;
            let (q, out, lam) = (of(&queries, 64), of(&queries, 64), of(&queries, 4));
            let (k, v) = (of(&keys, 16), of(&keys, 32));
            let lse_rows = |head: usize| head * total_q + queries.start..head * total_q + queries.end;
            let dlse: Vec<f32> = (0..8).flat_map(|head| tensors.dlse[lse_rows(head)].to_vec()).collect();
            let lse: Vec<f64> = (0..8).flat_map(|head| truth.lse[lse_rows(head)].to_vec()).collect();

            let alone = Problem::new(Shape { q_len, kv_len, ..shape }, DType::F32, options);
            let inputs = HostInputs {
                q: &tensors.q[q.clone()],
                k: &tensors.k[k.clone()],
                v: &tensors.v[v.clone()],
                lam: &tensors.lam[lam.clone()],
            };
            let grads = HostGradInputs { dout: &tensors.dout[out.clone()], dlse: Some(&dlse) };
            let expected = forward(&alone, &inputs).unwrap();
            prop_assert_eq!(&truth.out[out], &expected.out[..]);
            prop_assert_eq!(lse, expected.lse);
            let expected = backward(&alone, &inputs, &grads).unwrap();
            prop_assert_eq!(&gradients.dq[q], &expected.dq[..]);
            prop_assert_eq!(&gradients.dk[k], &expected.dk[..]);
            prop_assert_eq!(&gradients.dv[v], &expected.dv[..]);
            prop_assert_eq!(&gradients.dlam[lam], &expected.dlam[..]);
        }
    }
}
