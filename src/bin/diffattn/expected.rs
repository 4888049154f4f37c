//! `attend --compare`: what the input file says the outputs are, held against what was computed.

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use diffattn::reference::{Judge, Verdict};
use diffattn::{Problem, Shape};

use crate::inputs::Inputs;
use crate::output::Named;
use crate::parameters::axes;
use crate::tables;
use crate::tensors::{Tensor, TensorFile};

/// Tensors of the input file that have the name of an output.
pub struct Expected {
    tensors: Vec<(&'static str, Tensor)>,
}

const OUTPUTS: [&str; 3] = ["out", "lse", "a2"];
const GRADIENTS: [&str; 4] = ["dq", "dk", "dv", "dlam"];

impl Expected {
    pub fn read(file: &TensorFile, shape: &Shape, grad: bool) -> Result<Self> {
        let names: Vec<_> = OUTPUTS.into_iter().chain(GRADIENTS.into_iter().filter(|_| grad)).collect();
        let mut tensors = Vec::new();
        for &name in names.iter().filter(|name| file.has(name)) {
            let (_, actual) = file.describe(name)?;
            let wanted = axes(shape, name);
            ensure!(actual == wanted, "`{name}` has the shape {actual:?}, but must be {wanted:?}");
            tensors.push((name, file.read(name)?));
        }
        let path = file.path().display();
        ensure!(!tensors.is_empty(), "nothing to compare with: {path} has none of {}", names.join(", "));
        Ok(Expected { tensors })
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.iter().any(|(tensor, _)| *tensor == name)
    }

    /// One verdict for each tensor of the file, in order.
    pub fn judge(&self, problem: &Problem, inputs: &Inputs, results: &[Named]) -> Result<Vec<Verdict>> {
        let spinner = tables::spinner("computing the bounds (un-fused, on the CPU)");
        let any = |names: &[&str]| self.tensors.iter().any(|(name, _)| names.contains(name));
        let forward = any(&OUTPUTS).then(|| Judge::forward(problem, &inputs.forward())).transpose()?;
        let grads = inputs.backward().filter(|_| any(&GRADIENTS));
        let backward = grads.map(|grads| Judge::backward(problem, &inputs.forward(), &grads)).transpose()?;
        let verdicts = self.tensors.iter().map(|(name, expected)| {
            let judge = if OUTPUTS.contains(name) { &forward } else { &backward };
            let actual = results.iter().find(|result| result.name == *name);
            let (judge, actual) = judge.as_ref().zip(actual).with_context(|| format!("`{name}` was not computed"))?;
            Ok(judge.against(name, actual.values, &expected.values)?)
        });
        let verdicts = verdicts.collect();
        spinner.finish_and_clear();
        verdicts
    }

    pub fn table(&self, verdicts: &[Verdict]) -> Table {
        let rows = verdicts.iter().zip(&self.tensors);
        tables::verdicts(rows.map(|(verdict, (name, expected))| (*name, &expected.shape[..], verdict)))
    }
}

/// An error unless all passed.
pub fn conclude(verdicts: &[Verdict]) -> Result<()> {
    let failed = verdicts.iter().filter(|verdict| !verdict.passed).count();
    let loose = verdicts.iter().filter(|verdict| !verdict.can_tell()).count();
    let scores = "scores this large drown in their rounding";
    ensure!(loose == 0, "{loose} of {} tensors cannot be judged: {scores}", verdicts.len());
    ensure!(failed == 0, "{failed} of {} tensors over the bound", verdicts.len());
    Ok(())
}
