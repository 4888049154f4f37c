//! What a planned module keeps on the device beside its weights.

use crate::attention::DiffAttention;
use crate::error::Result;
use crate::layer::{Config, Kind, rotary};
use crate::ops::host;
use crate::problem::DType;

/// Sizes of a planned module.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extents {
    pub batch: u32,
    pub seq_len: u32,
}

impl Extents {
    pub(super) fn tokens(self) -> u32 {
        self.batch * self.seq_len
    }
}

/// Activations: tokens × width each.
#[derive(Debug, Clone)]
pub(super) struct Activations {
    pub q: wgpu::Buffer,
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
    /// f32, rows padded to a multiple of 4. Zero but in V2.
    pub lam: wgpu::Buffer,
    /// What the output projection is given.
    pub o: wgpu::Buffer,
    /// What the members of V1's pairs give.
    pub members: [wgpu::Buffer; 2],
    /// For training: the pair's, or that of each member (V1).
    pub lse: [wgpu::Buffer; 2],
    /// For training V2.
    pub a2: wgpu::Buffer,
    /// V1's λ.
    pub lambda: wgpu::Buffer,
    /// Position of each token.
    pub positions: wgpu::Buffer,
    /// Rotary angles of each position.
    pub angles: wgpu::Buffer,
}

/// Gradients, for training.
#[derive(Debug, Clone)]
pub(super) struct Gradients {
    pub d_o: wgpu::Buffer,
    pub dq: wgpu::Buffer,
    pub dk: wgpu::Buffer,
    /// Of the pair, or of each member (V1).
    pub dv: [wgpu::Buffer; 2],
    pub dlam: wgpu::Buffer,
    /// V1: by what the members give.
    pub members: [wgpu::Buffer; 2],
    /// V1: two f32 of each head of each token.
    pub rows: wgpu::Buffer,
    /// By the parameters, f32: the projections q, k, v, o, then λ's (V2) or the four vectors (V1), then λ's bias (V2) or
    /// the norm's weight (V1, with λ's own behind it).
    pub weights: Vec<wgpu::Buffer>,
}

/// A buffer of so many elements.
fn buffer(attention: &DiffAttention, name: &'static str, rows: u32, width: u32, size: u64) -> Result<wgpu::Buffer> {
    host::output(attention, name, u64::from(rows) * u64::from(width) * size)
}

impl Activations {
    /// `positions`: for how many rotary angles are computed.
    pub(super) fn new(
        attention: &DiffAttention,
        config: &Config,
        extents: Extents,
        positions: u32,
        dtype: DType,
        train: bool,
    ) -> Result<Self> {
        let tokens = extents.tokens();
        let v1 = config.kind == Kind::DiffV1;
        let one = |name, width, size| buffer(attention, name, tokens, width, size);
        let only = |on: bool, name, width, size| buffer(attention, name, if on { tokens } else { 0 }, width, size);
        let (heads, o_width, size) = (config.heads, config.o_width(), dtype.size());
        let place: Vec<u32> = (0..tokens).map(|token| token % extents.seq_len).collect();
        let angles = rotary::table(config, 0..positions);
        let queries = if v1 { heads } else { config.query_heads() };
        Ok(Activations {
            q: one("q", config.q_width(), size)?,
            k: one("k", config.k_width(), size)?,
            v: one("v", config.v_width(), size)?,
            lam: one("lam", heads.next_multiple_of(4), 4)?,
            o: one("o", o_width, size)?,
            members: [only(v1, "a1", o_width, size)?, only(v1, "a2", o_width, size)?],
            lse: [only(train, "lse", queries, 4)?, only(train && v1, "lse2", queries, 4)?],
            a2: only(train && config.kind == Kind::DiffV2, "a2", o_width, size)?,
            lambda: buffer(attention, "lambda", 1, 4, 4)?,
            positions: host::upload(attention, "positions", bytemuck::cast_slice(&place).to_vec())?,
            angles: host::upload(attention, "angles", bytemuck::cast_slice(&angles).to_vec())?,
        })
    }

    /// Bytes of all buffers.
    pub(super) fn bytes(&self) -> u64 {
        let Activations { q, k, v, lam, o, members, lse, a2, lambda, positions, angles } = self;
        let all = [q, k, v, lam, o, a2, lambda, positions, angles];
        all.into_iter().chain(members).chain(lse).map(wgpu::Buffer::size).sum()
    }
}

impl Gradients {
    pub(super) fn new(attention: &DiffAttention, config: &Config, extents: Extents, dtype: DType) -> Result<Self> {
        let tokens = extents.tokens();
        let v1 = config.kind == Kind::DiffV1;
        let one = |name, width, size| buffer(attention, name, tokens, width, size);
        let only = |on: bool, name, width, size| buffer(attention, name, if on { tokens } else { 0 }, width, size);
        let (o_width, size) = (config.o_width(), dtype.size());
        let weight = |width: u32| buffer(attention, "gradient", width, config.d_model, 4);
        let mut weights = vec![
            weight(config.q_width())?,
            weight(config.k_width())?,
            weight(config.v_width())?,
            weight(config.o_width())?,
        ];
        weights.extend(match config.kind {
            Kind::Baseline => vec![],
            Kind::DiffV2 => {
                let bias = buffer(attention, "gradient", 1, config.heads.next_multiple_of(4), 4)?;
                vec![weight(config.heads)?, bias]
            }
            Kind::DiffV1 => vec![
                buffer(attention, "gradient", 4, config.head_dim, 4)?,
                buffer(attention, "gradient", 1, config.value_dim() + 4, 4)?,
            ],
        });
        Ok(Gradients {
            d_o: one("do", o_width, size)?,
            dq: one("dq", config.q_width(), size)?,
            dk: one("dk", config.k_width(), size)?,
            dv: [one("dv", config.v_width(), size)?, only(v1, "dv2", config.v_width(), size)?],
            dlam: one("dlam", config.heads.next_multiple_of(4), 4)?,
            members: [only(v1, "da1", o_width, size)?, only(v1, "da2", o_width, size)?],
            rows: only(v1, "rows", 2 * config.heads, 4)?,
            weights,
        })
    }

    /// Bytes of all buffers but the gradients of the weights.
    pub(super) fn bytes(&self) -> u64 {
        let Gradients { d_o, dq, dk, dv, dlam, members, rows, .. } = self;
        [d_o, dq, dk, dlam, rows].into_iter().chain(dv).chain(members).map(wgpu::Buffer::size).sum()
    }
}
