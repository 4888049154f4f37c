//! The values that go in: read, checked, and rounded to the storage type.

use anyhow::{Result, bail, ensure};
use diffattn::{DType, HostGradInputs, HostInputs, Problem};

use crate::parameters::axes;
use crate::tables::place;
use crate::tensors::{Tensor, TensorFile};

pub struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    lam: Vec<f32>,
    dout: Option<Vec<f32>>,
    /// Names of the tensors that lost digits when they were rounded to the storage type.
    pub rounded: Vec<&'static str>,
}

impl Inputs {
    pub fn read(file: &TensorFile, problem: &Problem, grad: bool) -> Result<Self> {
        let mut rounded = Vec::new();
        let mut tensor = |name, dtype| {
            let (values, lossy) = load(file, name, &axes(&problem.shape, name), dtype)?;
            rounded.extend(lossy.then_some(name));
            anyhow::Ok(values)
        };
        let dtype = problem.dtype;
        Ok(Inputs {
            q: tensor("q", dtype)?,
            k: tensor("k", dtype)?,
            v: tensor("v", dtype)?,
            lam: tensor("lam", DType::F32)?,
            dout: grad.then(|| tensor("dout", dtype)).transpose()?,
            rounded,
        })
    }

    pub fn forward(&self) -> HostInputs<'_> {
        HostInputs { q: &self.q, k: &self.k, v: &self.v, lam: &self.lam }
    }

    /// What the backward pass reads besides; there when gradients were asked for.
    pub fn backward(&self) -> Option<HostGradInputs<'_>> {
        Some(HostGradInputs { dout: self.dout.as_ref()?, dlse: None })
    }
}

/// The values of a tensor of the shape `wanted` in `dtype`, and whether that took digits away.
pub fn load(file: &TensorFile, name: &str, wanted: &[usize], dtype: DType) -> Result<(Vec<f32>, bool)> {
    let Tensor { shape, mut values } = file.read(name)?;
    ensure!(shape == wanted, "`{name}` has the shape {shape:?}, but must be {wanted:?}");
    let mut lossy = false;
    for (index, value) in values.iter_mut().enumerate() {
        if !value.is_finite() {
            bail!("`{name}` is {value} at {}; inputs must be finite", place(index, &shape));
        }
        let stored = dtype.round(*value);
        if !stored.is_finite() {
            let (name, place) = (dtype.name(), format!("`{name}` at {}", place(index, &shape)));
            bail!("{name} cannot hold {value:e} ({place}); use --dtype f32");
        }
        lossy |= stored != *value;
        *value = stored;
    }
    Ok((values, lossy))
}
