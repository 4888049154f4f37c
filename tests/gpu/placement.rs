//! Layouts, offsets, and runtime checks.

use crate::device::{Gpu, paths};
use crate::run::{Placement, judge};
use crate::support::{self, Tensors};
use crate::{Case, case};
use diffattn::reference::Judge;
use diffattn::{DType, Layout, Options, PlanOptions, Problem, Shape};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    vec![
        case("placement::layouts_and_offsets", layouts_and_offsets),
        case("placement::runtime_checks_change_no_bit", runtime_checks_change_no_bit),
        case("placement::same_bits_every_run", same_bits_every_run),
    ]
}

fn problem(dtype: DType) -> Problem {
    let shape = Shape { batch: 2, q_len: 37, kv_len: 50, heads: 4, kv_heads: 2, head_dim: 40, value_dim: 24 };
    let mut options = Options::default();
    (options.causal, options.lse, options.a2) = (true, true, true);
    Problem::new(shape, dtype, options)
}

/// Every order of axes and every allowed offset gives the same bits.
fn layouts_and_offsets(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for dtype in DType::ALL {
        let problem = problem(dtype);
        let tensors = Tensors::random(&problem, rng);
        let truth = Judge::forward(&problem, &tensors.inputs())?;
        for path in paths(&gpu.attention) {
            let run = |layout, fence| {
                let placement = Placement { layout, fence };
                judge(&gpu.attention, &problem, PlanOptions::on(path), &tensors, &truth, placement)
            };
            let first = run(Layout::Bshd, 0)?;
            for (layout, fence) in [(Layout::Bshd, 8), (Layout::Bhsd, 0), (Layout::Bhsd, 264)] {
                if run(layout, fence)? != first {
                    return Err(format!("{path:?} {dtype:?} {layout:?} after {fence} elements: other bits").into());
                }
            }
        }
    }
    Ok(())
}

fn runtime_checks_change_no_bit(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for dtype in DType::ALL {
        let problem = problem(dtype);
        let tensors = Tensors::random(&problem, rng);
        let truth = Judge::forward(&problem, &tensors.inputs())?;
        for path in paths(&gpu.attention) {
            let mut options = PlanOptions::on(path);
            let unchecked = judge(&gpu.attention, &problem, options, &tensors, &truth, Placement::PLAIN)?;
            options.runtime_checks = true;
            let checked = judge(&gpu.attention, &problem, options, &tensors, &truth, Placement::PLAIN)?;
            if checked != unchecked {
                return Err(format!("{path:?} {dtype:?}: runtime checks change the result").into());
            }
        }
    }
    Ok(())
}

fn same_bits_every_run(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = problem(DType::F16);
    let tensors = Tensors::random(&problem, rng);
    let truth = Judge::forward(&problem, &tensors.inputs())?;
    for path in paths(&gpu.attention) {
        let run = || judge(&gpu.attention, &problem, PlanOptions::on(path), &tensors, &truth, Placement::PLAIN);
        let first = run()?;
        for _ in 0..3 {
            if run()? != first {
                return Err(format!("{path:?}: two runs differ").into());
            }
        }
    }
    Ok(())
}
