//! The suites: lists of cases that are the same everywhere. Pure data.

use super::case::{Case, Form, Op, Runner};
use crate::error::{Error, Result};
use crate::problem::{DType, Shape};
use crate::tile::Path;

/// A list of cases that is the same everywhere, so that records can be put side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// `quick`, `standard`, `full` or `custom`.
    pub name: &'static str,
    /// Raised whenever a case is added, dropped or changed.
    pub version: u32,
    /// The cases, in order.
    pub cases: Vec<Case>,
    /// Seconds that one case may be timed for; one that certainly needs more is skipped.
    pub seconds: f64,
}

/// Version of the suites below.
const VERSION: u32 = 2;

impl Suite {
    /// Names of the fixed suites.
    pub const NAMES: [&'static str; 3] = ["quick", "standard", "full"];

    /// A fixed suite by its name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for another name.
    pub fn named(name: &str) -> Result<Self> {
        match name {
            "quick" => Ok(Suite::quick()),
            "standard" => Ok(Suite::standard()),
            "full" => Ok(Suite::full()),
            _ => Err(Error::invalid("suite", Suite::NAMES.join(", "), name)),
        }
    }

    /// Cases of one's own.
    pub fn custom(cases: Vec<Case>) -> Self {
        Suite { name: "custom", version: VERSION, cases, seconds: 60.0 }
    }

    /// For any device: shapes that a software driver can finish, and larger ones that it skips.
    pub fn quick() -> Self {
        let mut cases = Vec::new();
        cases.extend(all_forms(Case::new(Op::Forward, square(256, 4, 64)), true));
        cases.extend(all_forms(Case::new(Op::Forward, square(1024, 16, 64)), true));
        cases.extend(all_forms(Case::new(Op::Forward, square(4096, 16, 128)), false));
        cases.extend(steps(Case::new(Op::Decode, cached(1, 4096, 64)), true));
        cases.extend(steps(Case::new(Op::Decode, cached(4, 16384, 128)), false));
        cases.extend(all_forms(Case::new(Op::Backward, square(256, 4, 64)), true));
        cases.extend(all_forms(Case::new(Op::Backward, square(2048, 16, 128)), false));
        cases.extend(modules(square(128, 4, 64), true));
        cases.extend(modules(square(2048, 16, 128), false));
        Suite { name: "quick", version: VERSION, cases, seconds: 4.0 }
    }

    /// Prefill of 512 to 16384 tokens, causal and full, at three head sizes; decode steps of 1, 8 and 32 sequences of up
    /// to 131072 tokens; gradients of 1024 to 16384 tokens; modules of 1024 and 4096.
    pub fn standard() -> Self {
        let mut cases = Vec::new();
        for dim in [64, 128, 256] {
            for causal in [true, false] {
                for len in [512, 1024, 2048, 4096, 8192, 16384] {
                    let case = Case { causal, ..Case::new(Op::Forward, square(len, 16, dim)) };
                    cases.extend(all_forms(case, len <= 2048 && dim == 128));
                }
            }
        }
        for batch in [1, 8, 32] {
            for len in [4096, 32768, 131072] {
                cases.extend(steps(Case::new(Op::Decode, cached(batch, len, 128)), batch == 1 && len == 4096));
            }
        }
        for dim in [64, 128] {
            for len in [1024, 2048, 4096, 8192, 16384] {
                cases.extend(all_forms(Case::new(Op::Backward, square(len, 16, dim)), len <= 1024));
            }
        }
        for len in [1024, 4096] {
            cases.extend(modules(square(len, 16, 128), false));
        }
        Suite { name: "standard", version: VERSION, cases, seconds: 20.0 }
    }

    /// The standard suite on every path, in every storage type.
    pub fn full() -> Self {
        let mut suite = Suite { name: "full", seconds: 60.0, ..Suite::standard() };
        let chosen = |case: &&Case| {
            case.form == Form::Fused && case.runner == Runner::Auto && !case.int8 && !case.op.is_module()
        };
        let fused: Vec<_> = suite.cases.iter().filter(chosen).copied().collect();
        for case in fused {
            for path in [Path::Portable, Path::Subgroup, Path::Matrix] {
                suite.cases.push(Case { runner: Runner::On(path), ..case });
            }
            for dtype in [DType::F32, DType::Bf16] {
                suite.cases.push(Case { dtype, ..case });
            }
        }
        suite
    }
}

/// A square problem of one sequence, with two output heads for each KV head.
fn square(len: u32, heads: u32, dim: u32) -> Shape {
    let kv_heads = heads / 2;
    Shape { batch: 1, q_len: len, kv_len: len, heads, kv_heads, head_dim: dim, value_dim: dim }
}

/// A step of one token for each sequence.
fn cached(batch: u32, len: u32, dim: u32) -> Shape {
    Shape { batch, q_len: 1, ..square(len, 16, dim) }
}

/// A fused case and what it is compared with; where it is `small`, the plain kernel and the CPU engine too.
fn all_forms(case: Case, small: bool) -> Vec<Case> {
    let mut cases = vec![case];
    cases.extend([Form::Unfused, Form::Baseline].map(|form| Case { form, ..case }));
    if small {
        cases.extend([Runner::On(Path::Naive), Runner::Cpu].map(|runner| Case { runner, ..case }));
    }
    cases
}

/// A fused step, ordinary attention's, and one from an int8 cache; where it is `small`, the CPU engine too.
///
/// There is no un-fused step: 2·heads heads of standard attention read K and V as often as the fused step, and differ in
/// the subtraction only. Nor is there a plain kernel.
fn steps(case: Case, small: bool) -> Vec<Case> {
    let mut cases = vec![case, Case { form: Form::Baseline, ..case }, Case { int8: true, ..case }];
    cases.extend(small.then_some(Case { runner: Runner::Cpu, ..case }));
    cases
}

/// The three modules and a product of theirs, forward and with gradients; where it is `small`, V2's on the CPU engine too.
fn modules(shape: Shape, small: bool) -> Vec<Case> {
    let of = |op: Op| {
        let on_cpu = small.then_some(Case { runner: Runner::Cpu, ..Case::new(op, shape) });
        op.forms().iter().map(move |&form| Case { form, ..Case::new(op, shape) }).chain(on_cpu)
    };
    [Op::Module, Op::Train].into_iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_hold_valid_cases_once_each() {
        for name in Suite::NAMES {
            let suite = Suite::named(name).unwrap();
            assert_eq!(suite.name, name);
            for (index, case) in suite.cases.iter().enumerate() {
                case.validate().unwrap();
                assert!(!suite.cases[..index].contains(case), "{name}: {case} twice");
            }
        }
        assert!(Suite::named("slow").is_err());
    }
}
