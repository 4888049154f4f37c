//! `module --compare`: what the input file says the outputs are, held against what was computed.

use anyhow::{Context, Result, ensure};
use comfy_table::Table;
use diffattn::reference::{Judge, Verdict};

use super::file::{Module, axes};
use crate::output::Named;
use crate::tables;
use crate::tensors::{Tensor, TensorFile};

/// Tensors of the input file that have the name of an output.
pub struct Expected {
    tensors: Vec<(String, Tensor)>,
}

impl Expected {
    pub fn read(file: &TensorFile, module: &Module) -> Result<Self> {
        let mut outputs = vec![("y".to_string(), module.shape.clone())];
        if module.dy.is_some() {
            outputs.push(("dx".into(), module.shape.clone()));
            let parameters = module.weights.config().parameters();
            outputs.extend(parameters.iter().map(|parameter| (format!("grad.{}", parameter.name), axes(parameter))));
        }
        let mut tensors = Vec::new();
        for (name, wanted) in outputs.iter().filter(|(name, _)| file.has(name)) {
            let (_, actual) = file.describe(name)?;
            ensure!(actual == wanted, "`{name}` has the shape {actual:?}, but must be {wanted:?}");
            tensors.push((name.clone(), file.read(name)?));
        }
        let names: Vec<_> = outputs.into_iter().map(|(name, _)| name).collect();
        let path = file.path().display();
        ensure!(!tensors.is_empty(), "nothing to compare with: {path} has none of {}", names.join(", "));
        Ok(Expected { tensors })
    }

    /// One verdict for each tensor of the file, in order.
    pub fn judge(&self, module: &Module, results: &[Named]) -> Result<Vec<Verdict>> {
        let spinner = tables::spinner("computing the bounds (un-fused, on the CPU)");
        let (weights, tokens) = (&module.weights, module.tokens());
        let forward = Judge::layer_forward(weights, &tokens, module.dtype)?;
        let backward = module.dy.as_ref().map(|dy| Judge::layer_backward(weights, &tokens, dy, module.dtype));
        let backward = backward.transpose()?;
        let verdicts = self.tensors.iter().map(|(name, expected)| {
            let judge = if name == "y" { Some(&forward) } else { backward.as_ref() };
            let actual = results.iter().find(|result| result.name == name);
            let (judge, actual) = judge.zip(actual).with_context(|| format!("`{name}` was not computed"))?;
            // The judge knows gradients by the names of the parameters.
            let known = name.strip_prefix("grad.").unwrap_or(name);
            Ok(judge.against(known, actual.values, &expected.values)?)
        });
        let verdicts = verdicts.collect();
        spinner.finish_and_clear();
        verdicts
    }

    pub fn table(&self, verdicts: &[Verdict]) -> Table {
        let rows = verdicts.iter().zip(&self.tensors);
        tables::verdicts(rows.map(|(verdict, (name, expected))| (&name[..], &expected.shape[..], verdict)))
    }
}
