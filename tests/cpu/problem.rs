//! What `Problem` refuses, whatever it is given.

use diffattn::{DType, Error, HostInputs, Options, Packed, Problem, Shape, Sizes};
use proptest::prelude::*;

/// Any number, and often a valid one.
fn size() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0..20u32, (0..40u32).prop_map(|n| 8 * n), Just(1 << 28), Just(u32::MAX)]
}

fn shape() -> impl Strategy<Value = Shape> {
    proptest::array::uniform7(size()).prop_map(|[batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim]| Shape {
        batch,
        q_len,
        kv_len,
        heads,
        kv_heads,
        head_dim,
        value_dim,
    })
}

fn number() -> impl Strategy<Value = Option<f32>> {
    proptest::option::of(proptest::num::f32::ANY)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn validate_names_what_is_wrong(
        shape in shape(), scale in number(), softcap in number(),
        window in proptest::array::uniform2(proptest::option::of(size())),
    ) {
        let mut options = Options::default();
        (options.scale, options.softcap, options.window) = (scale, softcap, (window[0], window[1]));
        let problem = Problem::new(shape, DType::F16, options);
        let Shape { batch, q_len, kv_len, heads, kv_heads, head_dim, value_dim } = shape;
        let length = |value: u32| (1..=1 << 28).contains(&value);
        let dim = |value: u32| value.is_multiple_of(8) && (8..=256).contains(&value);
        let lengths = [batch, q_len, kv_len, heads, kv_heads].into_iter().all(length);
        let sides = window.into_iter().flatten().all(|side| side <= 1 << 28);
        let numbers = scale.is_none_or(|scale| (-1e30..=1e30).contains(&scale))
            && softcap.is_none_or(|softcap| (1e-6..=1e30).contains(&softcap));
        let right = lengths && dim(head_dim) && dim(value_dim) && heads % kv_heads == 0 && sides && numbers;
        match problem.validate() {
            Ok(()) => {
                prop_assert!(right);
                // Never a panic: a count or an error.
                if let Err(error) = Sizes::of(&problem) {
                    prop_assert!(error.to_string().contains("2⁴⁸"), "{error}");
                }
                let inputs = HostInputs { q: &[], k: &[], v: &[], lam: &[] };
                prop_assert!(inputs.validate(&problem).is_err());
            }
            Err(Error::Invalid { name, actual, .. }) => {
                prop_assert!(!right);
                let value = match name {
                    "batch" => batch.to_string(),
                    "q_len" => q_len.to_string(),
                    "kv_len" => kv_len.to_string(),
                    "heads" => heads.to_string(),
                    "kv_heads" => kv_heads.to_string(),
                    "head_dim" => head_dim.to_string(),
                    "value_dim" => value_dim.to_string(),
                    "scale" => scale.unwrap().to_string(),
                    "softcap" => softcap.unwrap().to_string(),
                    "window.0 (left)" => window[0].unwrap().to_string(),
                    "window.1 (right)" => window[1].unwrap().to_string(),
                    name => name.to_owned(),
                };
                prop_assert_eq!(actual, value, "{}", name);
            }
            Err(error) => prop_assert!(matches!(error, Error::HeadGroups { .. }) && heads % kv_heads != 0, "{error}"),
        }
    }

    #[test]
    fn pairing_across_groups_is_refused(heads in 1..1000u32, kv_heads in 1..1000u32) {
        let shape = Shape { batch: 1, q_len: 1, kv_len: 1, heads, kv_heads, head_dim: 64, value_dim: 64 };
        match Problem::new(shape, DType::F32, Options::default()).validate() {
            Ok(()) => prop_assert_eq!(heads % kv_heads, 0),
            Err(error) => {
                prop_assert!(error.to_string().contains("pair"), "{error}");
                let Error::HeadGroups { lower, upper, .. } = error else { panic!("{error}") };
                for heads in [lower, upper] {
                    let shape = Shape { heads, ..shape };
                    prop_assert_eq!(Problem::new(shape, DType::F32, Options::default()).validate(), Ok(()));
                }
            }
        }
    }

    #[test]
    fn packed_lists(
        cu_seqlens_q in proptest::collection::vec(prop_oneof![0..6u32, any::<u32>()], 0..4),
        cu_seqlens_k in proptest::collection::vec(prop_oneof![0..6u32, any::<u32>()], 0..4),
    ) {
        let right = |list: &[u32]| list.len() >= 2 && list[0] == 0 && list.is_sorted();
        let shape = Shape { batch: 9, q_len: 9, kv_len: 9, heads: 2, kv_heads: 1, head_dim: 8, value_dim: 8 };
        let lists = Packed { cu_seqlens_q: cu_seqlens_q.clone(), cu_seqlens_k: cu_seqlens_k.clone() };
        let same = cu_seqlens_q.len() == cu_seqlens_k.len();
        match Problem::packed(shape, DType::F32, Options::default(), lists) {
            Ok(problem) => {
                prop_assert!(right(&cu_seqlens_q) && right(&cu_seqlens_k) && same);
                prop_assert_eq!(problem.shape.batch as usize, cu_seqlens_q.len() - 1);
                let ends = (1, *cu_seqlens_q.last().unwrap(), *cu_seqlens_k.last().unwrap());
                prop_assert_eq!(problem.extents(), ends);
                if problem.validate().is_ok() {
                    prop_assert!(Sizes::of(&problem).is_ok());
                }
            }
            Err(error) => {
                let named = if right(&cu_seqlens_q) { "`cu_seqlens_k`" } else { "`cu_seqlens_q`" };
                prop_assert!(error.to_string().starts_with(named), "{error}");
                prop_assert!(!(right(&cu_seqlens_q) && right(&cu_seqlens_k) && same));
            }
        }
    }
}
