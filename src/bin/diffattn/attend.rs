//! `diffattn attend`: the operation on the tensors of a file.

use std::io::Write;

use anyhow::Result;
use diffattn::{DType, HostGradients, HostOutputs};

use crate::args::AttendArgs;
use crate::engine::Engine;
use crate::expected::{self, Expected};
use crate::inputs::Inputs;
use crate::output::{Named, Output, check_finite};
use crate::parameters::{self, axes};
use crate::tensors::TensorFile;
use crate::{note, tables};

pub fn run(args: &AttendArgs, out: &mut impl Write) -> Result<()> {
    let file = TensorFile::open(&args.input)?;
    let mut problem = parameters::problem(&file, args.dtype.map(DType::from), &args.options)?;
    let inputs = Inputs::read(&file, &problem, args.grad)?;
    let expected = if args.compare { Some(Expected::read(&file, &problem.shape, args.grad)?) } else { None };
    problem.options.a2 = expected.as_ref().is_some_and(|expected| expected.has("a2"));
    let output = Output::create(&args.output, std::slice::from_ref(&args.input))?;

    let (engine, reason) = Engine::choose(&args.run)?;
    note(format_args!("engine    {engine}: {reason}"));
    if !inputs.rounded.is_empty() {
        note(format_args!("rounded   {} to {}", inputs.rounded.join(", "), problem.dtype.name()));
    }
    writeln!(out, "problem   {}", tables::problem(&problem))?;
    // The gradients first: a path that has none refuses before anything is computed.
    let backward = match inputs.backward() {
        Some(grads) => Some(engine.backward(&problem, &inputs.forward(), &grads, args.run.plan())?),
        None => None,
    };
    let forward = engine.forward(&problem, &inputs.forward(), args.run.plan())?;
    forward.print(out, "forward")?;
    if let Some(backward) = &backward {
        backward.print(out, "backward")?;
    }

    let results = results(&problem, &forward.result, backward.as_ref().map(|run| &run.result));
    check_finite(results.iter().filter(|named| named.name != "lse"))?;
    // a₂ is computed for the comparison only.
    let (written, names): (Vec<_>, Vec<_>) =
        results.iter().filter(|named| named.name != "a2").map(|named| (named, named.name)).unzip();
    output.write_tensors(&written)?;
    writeln!(out, "wrote     {} to {}", names.join(", "), args.output.display())?;

    if let Some(expected) = expected {
        let verdicts = expected.judge(&problem, &inputs, &results)?;
        writeln!(out, "\n{}", expected.table(&verdicts).trim_fmt())?;
        expected::conclude(&verdicts)?;
    }
    Ok(())
}

/// Everything that was computed, by its name in files.
fn results<'a>(
    problem: &diffattn::Problem,
    outputs: &'a HostOutputs,
    gradients: Option<&'a HostGradients>,
) -> Vec<Named<'a>> {
    let stored = problem.dtype;
    let mut tensors = vec![("out", stored, Some(&outputs.out))];
    tensors.push(("lse", DType::F32, outputs.lse.as_ref()));
    tensors.push(("a2", stored, outputs.a2.as_ref()));
    if let Some(HostGradients { dq, dk, dv, dlam }) = gradients {
        tensors.extend([("dq", stored, Some(dq)), ("dk", stored, Some(dk)), ("dv", stored, Some(dv))]);
        tensors.push(("dlam", DType::F32, Some(dlam)));
    }
    let named = tensors.into_iter().filter_map(|(name, dtype, values)| {
        Some(Named { name, dtype, shape: axes(&problem.shape, name), values: values? })
    });
    named.collect()
}
