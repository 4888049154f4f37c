//! The golden files, in every storage type, on every path.

use crate::device::{Gpu, paths};
use crate::run::{Placement, queue_of, run, verdicts};
use crate::support::Golden;
use crate::{Case, case};
use diffattn::reference::Judge;
use diffattn::{DType, Path, PlanOptions};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        for golden in Golden::all(dtype) {
            let name = format!("golden::{}::{}", golden.name, dtype.name());
            cases.push(case(name, move |gpu| check(gpu, &golden, &paths(&gpu.attention))));
        }
    }
    cases
}

/// A file's outputs on some paths, against the file and against the reference.
pub fn check(gpu: &Gpu, golden: &Golden, paths: &[Path]) -> Result<(), Failed> {
    let judge = Judge::forward(&golden.problem, &golden.inputs())?;
    for &path in paths {
        let plan = gpu.attention.plan_forward_blocking(&golden.problem, PlanOptions::on(path))?;
        let outputs = run(&queue_of(&gpu.attention), &plan, &golden.inputs(), Placement::PLAIN)?;
        let lse = outputs.lse.as_deref().unwrap_or_default();
        let against = vec![
            judge.against("out", &outputs.out, golden.tensor("out"))?,
            judge.against("lse", lse, golden.tensor("lse"))?,
        ];
        verdicts(&plan, against)?;
        verdicts(&plan, judge.outputs(&outputs)?)?;
    }
    Ok(())
}
