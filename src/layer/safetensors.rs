//! Weights from and to safetensors.

use super::{Config, Found, Weights};
use crate::error::{Error, Result};
use crate::problem::DType;
use safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};

impl Weights {
    /// The tensors of a file whose names start with `prefix` (`""`, or for instance `model.layers.3.self_attn.`),
    /// widened to f32. Others are left alone. A λ bias is taken where there is one, whatever `config` says of it.
    ///
    /// # Errors
    /// Those of [`Config::fit`].
    pub fn from_safetensors(config: &Config, file: &SafeTensors, prefix: &str) -> Result<Self> {
        let tensors: Vec<_> = file.iter().filter_map(|(name, view)| Some((name.strip_prefix(prefix)?, view))).collect();
        let foreign: Vec<_> =
            tensors.iter().map(|(_, view)| stored(view.dtype()).is_none().then(|| view.dtype().to_string())).collect();
        let found: Vec<_> = tensors
            .iter()
            .zip(&foreign)
            .map(|((name, view), foreign)| Found { name, shape: view.shape(), foreign_type: foreign.as_deref() })
            .collect();
        let config = config.fit(&found)?;
        Weights::from_fn(&config, |parameter| {
            let tensor = tensors.iter().find(|(name, ..)| *name == parameter.name);
            tensor.and_then(|(_, view)| Some(stored(view.dtype())?.decode(view.data()))).unwrap_or_default()
        })
    }

    /// A file of the parameters alone, each named `prefix` and its published name, rounded to `dtype`.
    ///
    /// # Errors
    /// [`Error::Weights`] when the format refuses, which it has no reason to.
    pub fn to_safetensors(&self, dtype: DType, prefix: &str) -> Result<Vec<u8>> {
        let refused = |error: safetensors::SafeTensorError| Error::Weights {
            module: self.config().to_string(),
            faults: vec![error.to_string()],
        };
        let encoded: Vec<_> = self.iter().map(|(parameter, values)| (parameter, dtype.encode(values))).collect();
        let views = encoded.iter().map(|(parameter, bytes)| {
            let shape = parameter.shape.iter().map(|&axis| axis as usize).collect();
            let dtype = match dtype {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::Bf16 => Dtype::BF16,
            };
            Ok((format!("{prefix}{}", parameter.name), TensorView::new(dtype, shape, bytes)?))
        });
        serialize(views.collect::<Result<Vec<_>, _>>().map_err(refused)?, None).map_err(refused)
    }
}

/// The storage type of that name, where we have it.
fn stored(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::layer::{Config, Kind, Weights};
    use crate::{DType, Error};
    use safetensors::SafeTensors;

    #[test]
    fn weights_come_back_from_the_file_they_were_written_to() {
        let mut rng = fastrand::Rng::with_seed(8);
        for kind in Kind::ALL {
            for dtype in DType::ALL {
                let config = Config { lambda_bias: kind == Kind::DiffV2, ..Config::new(kind, 32, 4, 2, 8) };
                let weights = Weights::random(&config, || rng.f32()).unwrap().rounded(dtype);
                let bytes = weights.to_safetensors(dtype, "layers.0.").unwrap();
                let file = SafeTensors::deserialize(&bytes).unwrap();
                let asked = Config { lambda_bias: false, ..config };
                assert_eq!(Weights::from_safetensors(&asked, &file, "layers.0."), Ok(weights));
                let other = Weights::from_safetensors(&asked, &file, "layers.1.");
                assert!(matches!(other, Err(Error::Weights { faults, .. }) if faults.len() >= 4));
            }
        }
    }
}
