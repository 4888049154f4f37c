//! Whether tensors from elsewhere are the parameters of a module.

use super::config::{Config, Kind, Parameter};
use crate::error::{Error, Result};

/// A tensor that somebody has, described.
#[derive(Debug, Clone, Copy)]
pub struct Found<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its axes.
    pub shape: &'a [usize],
    /// The name of its type, when that is none of f32, f16 and bf16.
    pub foreign_type: Option<&'a str>,
}

/// Unknown names listed by name; a whole model may have been given instead of one module.
const MOST_UNKNOWN: usize = 20;

/// Characters shown of an unknown name.
const MOST_SHOWN: usize = 60;

impl Config {
    /// The module that the tensors found are the parameters of: this one, with or without a λ bias as they have it.
    ///
    /// # Errors
    /// Those of [`Config::validate`], and one [`Error::Weights`] that lists every parameter that is missing, has another
    /// shape or a type that is none of f32, f16 and bf16, and every tensor that is no parameter.
    pub fn fit(&self, found: &[Found]) -> Result<Config> {
        let find = |name: &str| found.iter().find(|tensor| tensor.name == name);
        let lambda_bias = self.kind == Kind::DiffV2 && find("lambda_proj.bias").is_some();
        let config = Config { lambda_bias, ..*self };
        config.validate()?;
        let parameters = config.parameters();
        let mut faults = Vec::new();
        for Parameter { name, shape } in &parameters {
            let Some(tensor) = find(name) else {
                faults.push(format!("`{name}` {shape:?} is missing"));
                continue;
            };
            if !tensor.shape.iter().map(|&axis| axis as u64).eq(shape.iter().map(|&axis| u64::from(axis))) {
                faults.push(format!("`{name}` has the shape {:?}, but must be {shape:?}", tensor.shape));
            }
            if let Some(foreign) = tensor.foreign_type {
                faults.push(format!("`{name}` holds {foreign} values, but must hold f32, f16 or bf16"));
            }
        }
        let is_unknown = |tensor: &&Found| parameters.iter().all(|parameter| parameter.name != tensor.name);
        let mut unknown: Vec<_> = found.iter().filter(is_unknown).map(|tensor| tensor.name).collect();
        unknown.sort_unstable();
        faults.extend(unknown.iter().take(MOST_UNKNOWN).map(|name| format!("`{}` is unknown", printable(name))));
        if let Some(more @ 1..) = unknown.len().checked_sub(MOST_UNKNOWN) {
            faults.push(format!("{more} more are unknown"));
        }
        if faults.is_empty() { Ok(config) } else { Err(Error::Weights { module: config.to_string(), faults }) }
    }
}

/// A name from a file, made fit for a line on a terminal.
fn printable(name: &str) -> String {
    let mut shown: String = name.chars().take(MOST_SHOWN).flat_map(char::escape_debug).collect();
    if name.chars().nth(MOST_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::Found;
    use crate::Error;
    use crate::layer::{Config, Kind};

    #[test]
    fn all_faults_are_listed_in_one_error() {
        let config = Config::new(Kind::DiffV2, 64, 4, 2, 16);
        let found = |name, shape, foreign_type| Found { name, shape, foreign_type };
        let tensors = [
            found("q_proj.weight", &[128, 64][..], None),
            found("k_proj.weight", &[64, 32], None),
            found("o_proj.weight", &[64, 64], Some("I64")),
            found("lambda_proj.weight", &[4, 64], None),
            found("lambda_proj.bias", &[4], None),
            found("norm\n.weight", &[64], None),
        ];
        let Err(Error::Weights { module, faults }) = config.fit(&tensors) else { panic!("accepted") };
        assert_eq!(module, "diff_v2, d_model 64, heads 4, kv_heads 2, head_dim 16");
        let expected = [
            "`k_proj.weight` has the shape [64, 32], but must be [32, 64]",
            "`v_proj.weight` [32, 64] is missing",
            "`o_proj.weight` holds I64 values, but must hold f32, f16 or bf16",
            "`norm\\n.weight` is unknown",
        ];
        assert_eq!(faults, expected);
    }

    #[test]
    fn a_bias_of_lambda_is_taken_where_it_is() {
        for lambda_bias in [false, true] {
            let config = Config { lambda_bias, ..Config::new(Kind::DiffV2, 64, 4, 2, 16) };
            let parameters = config.parameters();
            let shapes: Vec<Vec<usize>> =
                parameters.iter().map(|p| p.shape.iter().map(|&axis| axis as usize).collect()).collect();
            let found: Vec<_> = parameters
                .iter()
                .zip(&shapes)
                .map(|(p, shape)| Found { name: p.name, shape, foreign_type: None })
                .collect();
            assert_eq!(Config { lambda_bias: !lambda_bias, ..config }.fit(&found), Ok(config));
        }
    }
}
