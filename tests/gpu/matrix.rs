//! The matrix path, on adapters that have matrix units. Apart from the others, since only few drivers have them.

use crate::device::Gpu;
use crate::run::{Placement, judge};
use crate::support::{self, Golden, Tensors};
use crate::{Case, case, golden, random};
use diffattn::reference::Judge;
use diffattn::{DType, Error, Layout, Options, Path, PlanOptions, Problem, Shape};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F16, DType::Bf16] {
        for golden in Golden::all(dtype) {
            let name = format!("matrix::golden::{}::{}", golden.name, dtype.name());
            cases.push(case(name, move |gpu| golden::check(gpu, &golden, &[Path::Matrix])));
        }
        cases.push(case(format!("matrix::packed::{}", dtype.name()), move |gpu| packed(gpu, dtype)));
        cases.push(case(format!("matrix::growing_scores::{}", dtype.name()), move |gpu| growing_scores(gpu, dtype)));
        cases.push(case(format!("matrix::layouts::{}", dtype.name()), move |gpu| layouts(gpu, dtype)));
    }
    for (q_len, kv_len) in random::LENGTHS {
        cases.push(case(format!("matrix::random::{q_len}x{kv_len}"), move |gpu| tails(gpu, q_len, kv_len)));
    }
    cases.push(case("matrix::f32_is_refused", f32_is_refused));
    cases
}

fn check(gpu: &Gpu, problem: &Problem, tensors: &Tensors, placement: Placement) -> Result<(), Failed> {
    let truth = Judge::forward(problem, &tensors.inputs())?;
    judge(&gpu.attention, problem, PlanOptions::on(Path::Matrix), tensors, &truth, placement)?;
    Ok(())
}

fn tails(gpu: &Gpu, q_len: u32, kv_len: u32) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = Problem::new(random::shape(rng, q_len, kv_len), DType::F16, random::options(rng, kv_len));
    check(gpu, &problem, &Tensors::random(&problem, rng), Placement::PLAIN)
}

fn packed(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = random::packed_problem(rng, dtype)?;
    check(gpu, &problem, &Tensors::random(&problem, rng), Placement::PLAIN)
}

/// Scores that grow along the keys, by more than the lazy rescale tolerates, first slowly and late by much: the
/// accumulators are rescaled again and again, after many tiles in which they were not.
fn growing_scores(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut options = Options::default();
    (options.scale, options.lse, options.a2) = (Some(1.0), true, true);
    let shape = Shape { batch: 1, q_len: 20, kv_len: 300, heads: 2, kv_heads: 1, head_dim: 16, value_dim: 32 };
    let problem = Problem::new(shape, dtype, options);
    let mut tensors = Tensors::random(&problem, rng);
    for query in tensors.q.chunks_exact_mut(16) {
        query[0] = 1.0;
    }
    for (j, key) in tensors.k.chunks_exact_mut(16).enumerate() {
        key.iter_mut().for_each(|k| *k = dtype.round(*k * 0.1));
        key[0] = dtype.round(if j < 200 { j as f32 * 0.02 } else { (j - 200) as f32 * 0.5 });
    }
    check(gpu, &problem, &tensors, Placement::PLAIN)
}

fn layouts(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let shape = Shape { batch: 2, q_len: 37, kv_len: 50, heads: 6, kv_heads: 2, head_dim: 40, value_dim: 24 };
    let mut options = Options::default();
    options.causal = true;
    let problem = Problem::new(shape, dtype, options);
    let tensors = Tensors::random(&problem, rng);
    for (layout, fence) in [(Layout::Bshd, 0), (Layout::Bhsd, 264)] {
        check(gpu, &problem, &tensors, Placement { layout, fence })?;
    }
    Ok(())
}

fn f32_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    let shape = Shape { batch: 1, q_len: 4, kv_len: 4, heads: 2, kv_heads: 1, head_dim: 16, value_dim: 16 };
    let problem = Problem::new(shape, DType::F32, Options::default());
    match gpu.attention.plan_forward_blocking(&problem, PlanOptions::on(Path::Matrix)) {
        Err(error @ Error::Unsupported { .. }) if error.is_unsupported() => Ok(()),
        other => Err(format!("expected f32 to be refused, found {:?}", other.map(|plan| plan.label())).into()),
    }
}
