//! The module that a file holds: sizes, parameters and tokens, checked and rounded to the storage type.

use anyhow::{Context, Result, ensure};
use diffattn::DType;
use diffattn::layer::{Config, Found, HostTokens, Kind, Parameter, Weights};

use crate::inputs::load;
use crate::parameters::{number, whole, word};
use crate::tensors::TensorFile;

pub struct Module {
    pub weights: Weights,
    pub dtype: DType,
    /// Of x, y, dy and dx: batch, seq_len, d_model.
    pub shape: Vec<usize>,
    batch: u32,
    seq_len: u32,
    x: Vec<f32>,
    /// There when gradients were asked for.
    pub dy: Option<Vec<f32>>,
    /// Names of the tensors that lost digits when they were rounded to the storage type.
    pub rounded: Vec<String>,
}

/// Parameters in a file are named so.
const PREFIX: &str = "param.";

impl Module {
    pub fn read(file: &TensorFile, kind: Option<Kind>, dtype: Option<DType>, grad: bool) -> Result<Self> {
        let (stored, shape) = file.describe("x")?;
        let &[batch, seq_len, d_model] = shape else {
            anyhow::bail!("`x` has the shape {shape:?}, but must be [batch, seq_len, d_model]");
        };
        let size = |name, value| u32::try_from(value).ok().with_context(|| format!("`x`: {name} {value} is too large"));
        let (batch, seq_len, d_model) = (size("batch", batch)?, size("seq_len", seq_len)?, size("d_model", d_model)?);
        for (name, value) in [("batch", batch), ("seq_len", seq_len), ("d_model", d_model)] {
            let stated = whole(file, name)?.unwrap_or(value);
            ensure!(stated == value, "{name} is {value} by the shape {shape:?} of `x`, but {stated} by the metadata");
        }
        let config = fit(file, &config(file, kind, d_model)?)?;
        let dtype = dtype.unwrap_or(stored);
        let shape = shape.to_vec();

        let mut rounded = Vec::new();
        let mut tensor = |name: String, shape: &[usize]| {
            let (values, lossy) = load(file, &name, shape, dtype)?;
            rounded.extend(lossy.then_some(name));
            anyhow::Ok(values)
        };
        let x = tensor("x".into(), &shape)?;
        let dy = grad.then(|| tensor("dy".into(), &shape)).transpose()?;
        let mut tensors = Vec::new();
        for parameter in config.parameters() {
            tensors.push(tensor(format!("{PREFIX}{}", parameter.name), &axes(&parameter))?);
        }
        let mut tensors = tensors.into_iter();
        let weights = Weights::from_fn(&config, |_| tensors.next().unwrap_or_default())?;
        HostTokens { batch, seq_len, x: &x }.validate(&config)?;
        Ok(Module { weights, dtype, shape, batch, seq_len, x, dy, rounded })
    }

    pub fn tokens(&self) -> HostTokens<'_> {
        HostTokens { batch: self.batch, seq_len: self.seq_len, x: &self.x }
    }
}

/// Axes of a parameter, as files count them.
pub fn axes(parameter: &Parameter) -> Vec<usize> {
    parameter.shape.iter().map(|&axis| axis as usize).collect()
}

/// What the metadata says of the module.
fn config(file: &TensorFile, kind: Option<Kind>, d_model: u32) -> Result<Config> {
    let names = Kind::ALL.map(Kind::name).join(", ");
    let find = |name: &str| Kind::ALL.into_iter().find(|kind| kind.name() == name);
    let kind = match kind {
        Some(kind) => kind,
        None => word(file, "kind", &format!("one of {names}, in quotation marks"), find)?
            .with_context(|| format!("the metadata does not say kind; give --kind ({names})"))?,
    };
    let size = |name| whole(file, name)?.with_context(|| format!("the metadata does not say {name}"));
    let mut config = Config::new(kind, d_model, size("heads")?, size("kv_heads")?, size("head_dim")?);
    if kind == Kind::DiffV1 {
        config.layer_index = size("depth")?;
    }
    if let Some(theta) = number(file, "rope_base")? {
        config.rope_theta = theta;
    }
    config.validate()?;
    Ok(config)
}

/// The module whose parameters the file has.
fn fit(file: &TensorFile, config: &Config) -> Result<Config> {
    let tensors: Vec<_> = file.iter().filter(|(name, ..)| name.starts_with(PREFIX)).collect();
    let found: Vec<_> = tensors
        .iter()
        .map(|(name, shape, dtype)| Found {
            name: &name[PREFIX.len()..],
            shape,
            foreign_type: dtype.as_ref().err().map(String::as_str),
        })
        .collect();
    Ok(config.fit(&found)?)
}
