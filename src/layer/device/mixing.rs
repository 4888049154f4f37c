//! The attention inside the module, by kind: the pair operation, an ordinary attention, or two of those and a norm.

use super::kernel::Kernel;
use super::scratch::{Activations, Extents, Gradients};
use super::weights::DeviceWeights;
use super::{Step, with_work};
use crate::attention::{DiffAttention, PlanOptions};
use crate::error::Result;
use crate::layer::{Config, Kind, NORM_EPSILON};
use crate::ops::backward::{BackwardBuffers, BackwardPlan};
use crate::ops::forward::{ForwardBuffers, ForwardPlan};
use crate::params::LayerParams;
use crate::problem::DType;
use crate::shader::LayerKernel;
use crate::slice::{Layout, Strides, TensorSlice};
use crate::tile::Path;

/// Attention that is planned for one kind of module.
#[derive(Debug, Clone)]
pub(super) struct Mixing {
    config: Config,
    extents: Extents,
    dtype: DType,
    forward: ForwardPlan,
    backward: Option<BackwardPlan>,
    norm: Option<Norm>,
}

/// V1's kernels.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    lambda: Kernel,
    forward: Kernel,
    /// Backward through the norm, its sums, and λ's vectors; for training.
    backward: Option<[Kernel; 3]>,
}

/// The numbers of V1's kernels.
fn norm_params(config: &Config, tokens: u32) -> LayerParams {
    LayerParams {
        work: tokens * config.heads,
        rows: tokens * config.heads,
        quads: config.value_dim() / 4,
        head_quads: config.head_dim / 4,
        factor: (1.0 - config.lambda_init()) as f32,
        epsilon: NORM_EPSILON as f32,
        lambda_init: config.lambda_init() as f32,
        ..LayerParams::default()
    }
}

impl Mixing {
    pub(super) async fn plan(
        attention: &DiffAttention,
        config: &Config,
        extents: Extents,
        dtype: DType,
        train: bool,
    ) -> Result<Self> {
        let mut problem = config.attention(extents.batch, extents.seq_len, dtype);
        let standard = config.kind != Kind::DiffV2;
        (problem.options.lse, problem.options.a2) = (train, train && !standard);
        let options = PlanOptions::default();
        let forward = match standard {
            true => attention.plan_standard_forward(&problem, options).await?,
            false => attention.plan_forward(&problem, options).await?,
        };
        let backward = match (train, standard) {
            (false, _) => None,
            (true, true) => Some(attention.plan_standard_backward(&problem, options).await?),
            (true, false) => Some(attention.plan_backward(&problem, options).await?),
        };
        let norm = match config.kind {
            Kind::DiffV1 => Some(Norm::plan(attention, dtype, train).await?),
            Kind::DiffV2 | Kind::Baseline => None,
        };
        Ok(Mixing { config: *config, extents, dtype, forward, backward, norm })
    }

    /// The path of the attention.
    pub(super) fn path(&self) -> Path {
        self.forward.path()
    }

    /// The kernels of attention, by their labels.
    pub(super) fn labels(&self) -> Vec<String> {
        let backward = self.backward.iter().flat_map(BackwardPlan::labels);
        [self.forward.label()].into_iter().chain(backward).collect()
    }

    /// Members that are attended to apart: two in V1.
    fn members(&self) -> usize {
        if self.norm.is_some() { 2 } else { 1 }
    }

    /// Of a tensor with so many heads of head_dim for each token, those of one member of V1's pairs; all of them in the
    /// other kinds.
    fn member<'a>(&self, buffer: &'a wgpu::Buffer, heads: u32, member: usize) -> TensorSlice<'a> {
        let (width, head_dim) = (u64::from(heads * self.config.head_dim), u64::from(self.config.head_dim));
        let members = self.members() as u64;
        let strides = Strides { batch: u64::from(self.extents.seq_len) * width, seq: width, head: members * head_dim };
        let offset = member as u64 * head_dim * self.dtype.size();
        TensorSlice::new(buffer).at(offset).layout(Layout::Strided(strides))
    }

    /// λ and its gradient have padded rows.
    fn gates<'a>(&self, buffer: &'a wgpu::Buffer) -> TensorSlice<'a> {
        let row = u64::from(self.config.heads.next_multiple_of(4));
        let strides = Strides { batch: u64::from(self.extents.seq_len) * row, seq: row, head: 1 };
        TensorSlice::new(buffer).layout(Layout::Strided(strides))
    }

    /// o from q, k, v and λ.
    pub(super) fn forward(&self, of: &Activations, weights: &DeviceWeights) -> Result<Vec<Step>> {
        let options = self.forward.problem().options;
        let mut steps = Vec::new();
        for member in 0..self.members() {
            let out = if self.norm.is_some() { &of.members[member] } else { &of.o };
            let pass = self.forward.bind(&ForwardBuffers {
                q: self.member(&of.q, self.config.query_heads(), member),
                k: self.member(&of.k, self.config.key_heads(), member),
                v: (&of.v).into(),
                lam: self.gates(&of.lam),
                out: out.into(),
                lse: options.lse.then(|| (&of.lse[member]).into()),
                a2: options.a2.then(|| (&of.a2).into()),
            })?;
            steps.push(Step::Forward(pass));
        }
        if let Some(norm) = &self.norm {
            steps.extend(norm.forward(&self.config, self.extents.tokens(), of, weights));
        }
        Ok(steps)
    }

    /// dq, dk, dv and dλ from do.
    pub(super) fn backward(&self, of: &Activations, by: &Gradients, weights: &DeviceWeights) -> Result<Vec<Step>> {
        let Some(plan) = &self.backward else { return Ok(vec![]) };
        let mut steps = Vec::new();
        if let Some(norm) = &self.norm {
            steps.extend(norm.backward(&self.config, self.extents.tokens(), of, by, weights));
        }
        for member in 0..self.members() {
            let (out, dout) = match self.norm {
                Some(_) => (&of.members[member], &by.members[member]),
                None => (&of.o, &by.d_o),
            };
            let pass = plan.bind(&BackwardBuffers {
                q: self.member(&of.q, self.config.query_heads(), member),
                k: self.member(&of.k, self.config.key_heads(), member),
                v: (&of.v).into(),
                lam: self.gates(&of.lam),
                out: out.into(),
                lse: (&of.lse[member]).into(),
                a2: plan.problem().options.a2.then(|| (&of.a2).into()),
                dout: dout.into(),
                dlse: None,
                dq: self.member(&by.dq, self.config.query_heads(), member),
                dk: self.member(&by.dk, self.config.key_heads(), member),
                dv: (&by.dv[member]).into(),
                dlam: self.gates(&by.dlam),
                accumulate: false,
            })?;
            steps.push(Step::Backward(pass));
        }
        Ok(steps)
    }
}

impl Norm {
    pub(super) async fn plan(attention: &DiffAttention, dtype: DType, train: bool) -> Result<Self> {
        let backward = match train {
            true => Some([
                Kernel::new(attention, LayerKernel::NormBackward, dtype).await?,
                Kernel::new(attention, LayerKernel::NormSums, dtype).await?,
                Kernel::new(attention, LayerKernel::LambdaBackward, DType::F32).await?,
            ]),
            false => None,
        };
        Ok(Norm {
            lambda: Kernel::new(attention, LayerKernel::Lambda, DType::F32).await?,
            forward: Kernel::new(attention, LayerKernel::Norm, dtype).await?,
            backward,
        })
    }

    pub(super) fn forward(&self, config: &Config, tokens: u32, of: &Activations, weights: &DeviceWeights) -> [Step; 2] {
        let params = norm_params(config, tokens);
        let [a1, a2] = &of.members;
        [
            Step::Kernel(self.lambda.bind(with_work(params, 1), &[&weights.vectors, &of.lambda])),
            Step::Kernel(self.forward.bind(params, &[a1, a2, &of.lambda, &weights.norm, &of.o])),
        ]
    }

    fn backward(
        &self,
        config: &Config,
        tokens: u32,
        of: &Activations,
        by: &Gradients,
        weights: &DeviceWeights,
    ) -> Vec<Step> {
        let Some([backward, sums, vectors]) = &self.backward else { return vec![] };
        let params = norm_params(config, tokens);
        let ([a1, a2], [da1, da2]) = (&of.members, &by.members);
        let (dvectors, dnorm) = (&by.weights[4], &by.weights[5]);
        vec![
            Step::Kernel(backward.bind(params, &[a1, a2, &of.lambda, &weights.norm, &by.d_o, da1, da2, &by.rows])),
            // One more for λ's.
            Step::Kernel(
                sums.bind(with_work(params, params.quads + 1), &[a1, a2, &of.lambda, &by.d_o, &by.rows, dnorm]),
            ),
            Step::Kernel(
                vectors.bind(with_work(params, params.head_quads), &[&weights.vectors, &of.lambda, dnorm, dvectors]),
            ),
        ]
    }
}
