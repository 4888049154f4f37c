//! The parameters of a module in host memory, and their gradients.

use super::config::{Config, Parameter};
use crate::error::{Error, Result};
use crate::problem::DType;

/// The parameters of a module (or their gradients, which have the same names and shapes), widened to f32, in the order
/// of [`Config::parameters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Weights {
    config: Config,
    tensors: Vec<(Parameter, Vec<f32>)>,
}

impl Weights {
    /// Every parameter as `values` gives it, by its position and description in [`Config::parameters`].
    ///
    /// # Errors
    /// Those of [`Config::validate`], and [`Error::Weights`] that lists every tensor of the wrong length.
    pub fn from_fn(config: &Config, mut values: impl FnMut(&Parameter) -> Vec<f32>) -> Result<Self> {
        config.validate()?;
        let tensors: Vec<_> =
            config.parameters().into_iter().map(|parameter| (values(&parameter), parameter)).collect();
        let wrong = tensors.iter().filter(|(values, parameter)| values.len() != parameter.len());
        let faults: Vec<_> = wrong
            .map(|(values, Parameter { name, shape })| {
                format!("`{name}` has {} elements, but its shape is {shape:?}", values.len())
            })
            .collect();
        if !faults.is_empty() {
            return Err(Error::Weights { module: config.to_string(), faults });
        }
        Ok(Weights { config: *config, tensors: tensors.into_iter().map(|(values, p)| (p, values)).collect() })
    }

    /// All zero.
    ///
    /// # Errors
    /// Those of [`Config::validate`].
    pub fn zeros(config: &Config) -> Result<Self> {
        Weights::from_fn(config, |parameter| vec![0.0; parameter.len()])
    }

    /// Random values as the published modules start from: projections uniform within ±1/√in (PyTorch's `Linear`), V1's
    /// λ vectors normal with deviation 0.1, its norm's weight 1.
    ///
    /// `uniform` gives numbers in [0, 1): the generator and its seed are the caller's.
    ///
    /// # Errors
    /// Those of [`Config::validate`].
    pub fn random(config: &Config, mut uniform: impl FnMut() -> f32) -> Result<Self> {
        let d_model = config.d_model as f32;
        Weights::from_fn(config, |parameter| match (parameter.name, &parameter.shape[..]) {
            ("subln.weight", _) => vec![1.0; parameter.len()],
            ("lambda_q1" | "lambda_k1" | "lambda_q2" | "lambda_k2", _) => {
                let mut normal = || {
                    let (u, v) = (1.0 - uniform(), uniform());
                    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
                };
                (0..parameter.len()).map(|_| 0.1 * normal()).collect()
            }
            (_, shape) => {
                // A bias has the fan-in of its weight.
                let limit = shape.get(1).map_or(d_model, |&columns| columns as f32).sqrt().recip();
                (0..parameter.len()).map(|_| limit * (2.0 * uniform() - 1.0)).collect()
            }
        })
    }

    /// These weights with V2's λ projection set to zero, so that every gate starts at sigmoid(0) = ½ whatever the
    /// token: where training from scratch and the conversion of an ordinary checkpoint start in practice. Other kinds
    /// have no such parameter and are returned as they are.
    #[must_use]
    pub fn zero_lambda(mut self) -> Self {
        for (parameter, values) in &mut self.tensors {
            if parameter.name.starts_with("lambda_proj.") {
                values.fill(0.0);
            }
        }
        self
    }

    /// Every value rounded to a storage type.
    #[must_use]
    pub fn rounded(mut self, dtype: DType) -> Self {
        for (_, values) in &mut self.tensors {
            values.iter_mut().for_each(|value| *value = dtype.round(*value));
        }
        self
    }

    /// The module that they belong to.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Every parameter with its values, in the order of [`Config::parameters`].
    pub fn iter(&self) -> impl Iterator<Item = (&Parameter, &[f32])> {
        self.tensors.iter().map(|(parameter, values)| (parameter, &values[..]))
    }

    /// The values of a parameter, row by row; `None` for a name that the module does not have.
    pub fn get(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(parameter, _)| parameter.name == name).map(|(_, values)| values)
    }

    /// out × in: `q_width` × `d_model`.
    pub fn q_proj(&self) -> &[f32] {
        &self.tensors[0].1
    }

    /// out × in: `k_width` × `d_model`.
    pub fn k_proj(&self) -> &[f32] {
        &self.tensors[1].1
    }

    /// out × in: `v_width` × `d_model`.
    pub fn v_proj(&self) -> &[f32] {
        &self.tensors[2].1
    }

    /// out × in: `d_model` × `o_width` (`out_proj.weight` in V1).
    pub fn o_proj(&self) -> &[f32] {
        &self.tensors[3].1
    }
}

#[cfg(test)]
mod tests {
    use super::Weights;
    use crate::layer::{Config, Kind};

    #[test]
    fn zero_lambda_zeroes_the_projection_of_lambda_and_nothing_else() {
        let config = Config { lambda_bias: true, ..Config::new(Kind::DiffV2, 32, 4, 2, 8) };
        let mut rng = fastrand::Rng::with_seed(9);
        let random = Weights::random(&config, || rng.f32()).unwrap();
        let zeroed = random.clone().zero_lambda();
        for ((parameter, zeroed), (_, random)) in zeroed.iter().zip(random.iter()) {
            let is_lambda = parameter.name.starts_with("lambda_proj");
            assert_eq!(zeroed.iter().all(|&value| value == 0.0), is_lambda, "{}", parameter.name);
            assert_eq!(zeroed == random, !is_lambda, "{}", parameter.name);
        }
    }
}
