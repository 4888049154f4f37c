//! The parameters of a module on the device.

use crate::attention::DiffAttention;
use crate::error::Result;
use crate::layer::{Config, Kind, Weights};
use crate::ops::host;
use crate::problem::DType;

/// Parameters in buffers: matrices in the storage type, row by row, the rest in f32.
#[derive(Debug, Clone)]
pub(super) struct DeviceWeights {
    pub q: wgpu::Buffer,
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
    pub o: wgpu::Buffer,
    /// V2's projection of λ; of the other kinds nothing.
    pub lambda: wgpu::Buffer,
    /// V2's bias, up to a multiple of 4.
    pub bias: Option<wgpu::Buffer>,
    /// V1's four vectors, one after another.
    pub vectors: wgpu::Buffer,
    /// V1's norm.
    pub norm: wgpu::Buffer,
}

impl DeviceWeights {
    pub(super) fn upload(attention: &DiffAttention, weights: &Weights, dtype: DType) -> Result<Self> {
        let get = |name| weights.get(name).unwrap_or_default();
        let upload = |name, values: &[f32], dtype: DType| host::upload(attention, name, dtype.encode(values));
        let vectors = ["lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2"].map(get).concat();
        let mut bias = get("lambda_proj.bias").to_vec();
        bias.resize(bias.len().next_multiple_of(4), 0.0);
        let has_bias = weights.config().lambda_bias;
        Ok(DeviceWeights {
            q: upload("q_proj.weight", weights.q_proj(), dtype)?,
            k: upload("k_proj.weight", weights.k_proj(), dtype)?,
            v: upload("v_proj.weight", weights.v_proj(), dtype)?,
            o: upload("o_proj.weight", weights.o_proj(), dtype)?,
            lambda: upload("lambda_proj.weight", get("lambda_proj.weight"), dtype)?,
            bias: has_bias.then(|| upload("lambda_proj.bias", &bias, DType::F32)).transpose()?,
            vectors: upload("lambda vectors", &vectors, DType::F32)?,
            norm: upload("subln.weight", get("subln.weight"), DType::F32)?,
        })
    }
}

/// Where a parameter's gradient lies among those of its module: the buffer, and the first element.
pub(super) fn gradient_place(config: &Config, name: &str) -> Option<(usize, u64)> {
    let head_dim = u64::from(config.head_dim);
    let place = match name {
        "q_proj.weight" => (0, 0),
        "k_proj.weight" => (1, 0),
        "v_proj.weight" => (2, 0),
        name if name == config.output_name() => (3, 0),
        "lambda_proj.weight" if config.kind == Kind::DiffV2 => (4, 0),
        "lambda_proj.bias" if config.lambda_bias => (5, 0),
        "subln.weight" if config.kind == Kind::DiffV1 => (5, 0),
        "lambda_q1" if config.kind == Kind::DiffV1 => (4, 0),
        "lambda_k1" if config.kind == Kind::DiffV1 => (4, head_dim),
        "lambda_q2" if config.kind == Kind::DiffV1 => (4, 2 * head_dim),
        "lambda_k2" if config.kind == Kind::DiffV1 => (4, 3 * head_dim),
        _ => return None,
    };
    Some(place)
}
