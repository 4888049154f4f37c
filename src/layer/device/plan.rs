//! The whole module: plan → bind → encode.

use super::kernel::Kernel;
use super::mixing::Mixing;
use super::projection::{Projection, Sizes};
use super::scratch::{Activations, Extents, Gradients};
use super::weights::gradient_place;
use super::{MultiheadDiffAttention, Step, with_work};
use crate::error::{Error, Result};
use crate::layer::{Config, Kind};
use crate::ops::host::with_memory;
use crate::ops::matmul::Rotary;
use crate::params::LayerParams;
use crate::problem::DType;
use crate::shader::{Epilogue, LayerKernel};
use crate::slice::TensorSlice;
use crate::tile::Path;

/// A module planned for one batch and length, with everything that lies between its kernels.
#[derive(Debug, Clone)]
pub struct LayerPlan {
    layer: MultiheadDiffAttention,
    extents: Extents,
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    /// V2's.
    lambda: Option<Projection>,
    mixing: Mixing,
    activations: Activations,
    training: Option<Training>,
}

/// What only training needs.
#[derive(Debug, Clone)]
struct Training {
    gradients: Gradients,
    rotate_back: Kernel,
    column_sums: Kernel,
}

/// A forward or backward pass of a module bound to buffers. Encoding allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct LayerPass {
    pub(super) steps: Vec<Step>,
}

impl LayerPlan {
    pub(super) async fn new(layer: &MultiheadDiffAttention, batch: u32, seq_len: u32, train: bool) -> Result<Self> {
        let MultiheadDiffAttention { attention, config, dtype, weights, products: path } = layer;
        config.attention(batch, seq_len, *dtype).validate()?;
        let tokens = u64::from(batch) * u64::from(seq_len) * u64::from(config.heads);
        if tokens > 1 << 28 {
            return Err(Error::invalid("batch · seq_len · heads", "at most 2²⁸", tokens));
        }
        let extents = Extents { batch, seq_len };
        let plan = async |weight, input, output, epilogue, y_f32| {
            let (tokens, dtype, path) = (extents.tokens(), *dtype, *path);
            let sizes = Sizes { tokens, input, output, dtype, y_f32, epilogue, path };
            Projection::plan(attention, weight, sizes, train).await
        };
        let Config { d_model, heads, .. } = *config;
        let q = plan(&weights.q, d_model, config.q_width(), Epilogue::Rotary, false).await?;
        let k = plan(&weights.k, d_model, config.k_width(), Epilogue::Rotary, false).await?;
        let v = plan(&weights.v, d_model, config.v_width(), Epilogue::Plain, false).await?;
        let o = plan(&weights.o, config.o_width(), d_model, Epilogue::Plain, false).await?;
        let epilogue = if config.lambda_bias { Epilogue::Bias } else { Epilogue::Plain };
        let lambda = match config.kind {
            Kind::DiffV2 => Some(plan(&weights.lambda, d_model, heads, epilogue, true).await?),
            Kind::Baseline | Kind::DiffV1 => None,
        };
        let mixing = Mixing::plan(attention, config, extents, *dtype, train).await?;
        let kernels = match train {
            true => Some((
                Kernel::new(attention, LayerKernel::RotateBack, *dtype).await?,
                Kernel::new(attention, LayerKernel::ColumnSums, DType::F32).await?,
            )),
            false => None,
        };
        let create = || {
            let activations = Activations::new(attention, config, extents, seq_len, *dtype, train)?;
            let gradients = train.then(|| Gradients::new(attention, config, extents, *dtype)).transpose()?;
            Ok((activations, gradients))
        };
        let during = "allocating the module's activations";
        let (activations, gradients) = with_memory(&attention.device, during, create).await?;
        let training = gradients.zip(kernels).map(|(gradients, (rotate_back, column_sums))| Training {
            gradients,
            rotate_back,
            column_sums,
        });
        let layer = layer.clone();
        Ok(LayerPlan { layer, extents, q, k, v, o, lambda, mixing, activations, training })
    }

    /// The module.
    pub fn layer(&self) -> &MultiheadDiffAttention {
        &self.layer
    }

    /// Sequences, and tokens of each.
    pub fn extents(&self) -> [u32; 2] {
        [self.extents.batch, self.extents.seq_len]
    }

    /// The kernels of the attention inside: its path.
    pub fn path(&self) -> Path {
        self.mixing.path()
    }

    /// The kernels of the projections, each once, and of the attention inside, by their labels.
    pub fn labels(&self) -> Vec<String> {
        let projections = [&self.q, &self.k, &self.v].into_iter().chain(&self.lambda).chain([&self.o]);
        let mut labels: Vec<_> = projections.flat_map(Projection::labels).collect();
        labels.sort();
        labels.dedup();
        labels.extend(self.mixing.labels());
        labels
    }

    /// Bytes of device memory that the plan holds: activations (for each token q, k, v, o and λ, V1's two members),
    /// rotary angles, and for training as much again and the log-sum-exps. The weights' gradients come on top.
    pub fn scratch_bytes(&self) -> u64 {
        self.activations.bytes() + self.training.as_ref().map_or(0, |training| training.gradients.bytes())
    }

    fn rotary(&self) -> Rotary<'_> {
        let Activations { positions, angles, .. } = &self.activations;
        let head_dim = self.layer.config.head_dim;
        Rotary { positions, angles, head_dim, head_stride: head_dim }
    }

    pub(super) fn activations(&self) -> &Activations {
        &self.activations
    }

    /// y from x: both batch × seq_len × d_model, storage type, at the start of their buffers.
    ///
    /// # Errors
    /// [`Error::Slice`] for a buffer that is too short or cannot be bound; [`Error::Limit`] for a tensor larger than a
    /// binding.
    pub fn bind_forward(&self, x: &wgpu::Buffer, y: &wgpu::Buffer) -> Result<LayerPass> {
        let (of, weights) = (&self.activations, &self.layer.weights);
        let mut steps = vec![
            Step::Product(self.q.forward(x, &of.q, Some(self.rotary()), None)?),
            Step::Product(self.k.forward(x, &of.k, Some(self.rotary()), None)?),
            Step::Product(self.v.forward(x, &of.v, None, None)?),
        ];
        if let Some(lambda) = &self.lambda {
            steps.push(Step::Product(lambda.forward(x, &of.lam, None, weights.bias.as_ref())?));
        }
        steps.extend(self.mixing.forward(of, weights)?);
        steps.push(Step::Product(self.o.forward(&of.o, y, None, None)?));
        Ok(LayerPass { steps })
    }

    /// dx and every parameter's gradient ([`LayerPlan::gradient`]) from dy, after the forward pass of the same x; all
    /// shaped as x.
    ///
    /// # Errors
    /// Those of [`LayerPlan::bind_forward`]; [`Error::Unsupported`] for a plan that is not for training.
    pub fn bind_backward(&self, x: &wgpu::Buffer, dy: &wgpu::Buffer, dx: &wgpu::Buffer) -> Result<LayerPass> {
        let Some(Training { gradients: by, rotate_back, column_sums }) = &self.training else {
            let (what, hint) = ("the backward pass of this plan".into(), "plan the module with `train`".into());
            return Err(Error::Unsupported { what, hint });
        };
        let config = &self.layer.config;
        let (of, weights) = (&self.activations, &self.layer.weights);
        let mut steps = Vec::new();
        let product = |steps: &mut Vec<Step>, pass: Option<_>| steps.extend(pass.map(Step::Product));
        product(&mut steps, self.o.input_gradient(dy, &by.d_o, false)?);
        product(&mut steps, self.o.weight_gradient(dy, &of.o, &by.weights[3], false)?);
        steps.extend(self.mixing.backward(of, by, weights)?);
        for (gradient, width) in [(&by.dq, config.q_width()), (&by.dk, config.k_width())] {
            let quads = width / 4;
            let (work, head_quads) = (self.extents.tokens() * quads, config.head_dim / 4);
            let params = LayerParams { work, quads, head_quads, ..LayerParams::default() };
            steps.push(Step::Kernel(rotate_back.bind(params, &[&of.positions, &of.angles, gradient])));
        }
        let mut paths = vec![(&self.q, &by.dq, 0, false), (&self.k, &by.dk, 1, false), (&self.v, &by.dv[0], 2, false)];
        if config.kind == Kind::DiffV1 {
            paths.push((&self.v, &by.dv[1], 2, true));
        }
        paths.extend(self.lambda.iter().map(|lambda| (lambda, &by.dlam, 4, false)));
        for (index, (projection, gradient, weight, add)) in paths.into_iter().enumerate() {
            product(&mut steps, projection.weight_gradient(gradient, x, &by.weights[weight], add)?);
            product(&mut steps, projection.input_gradient(gradient, dx, index > 0)?);
        }
        if config.lambda_bias {
            let quads = config.heads.div_ceil(4);
            let params = LayerParams { rows: self.extents.tokens(), quads, ..LayerParams::default() };
            steps.push(Step::Kernel(column_sums.bind(with_work(params, quads), &[&by.dlam, &by.weights[5]])));
        }
        Ok(LayerPass { steps })
    }

    /// A parameter's gradient, f32, shaped as the parameter; written by the backward pass. `None` for a name that the
    /// module does not have, and for a plan that is not for training.
    pub fn gradient(&self, name: &str) -> Option<TensorSlice<'_>> {
        let (buffer, first) = gradient_place(&self.layer.config, name)?;
        let training = self.training.as_ref()?;
        Some(TensorSlice::new(&training.gradients.weights[buffer]).at(4 * first))
    }
}

impl LayerPass {
    /// Records the dispatches. Creates, allocates and submits nothing.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.steps.iter().for_each(|step| step.encode(pass));
    }

    /// How many there are.
    pub fn dispatches(&self) -> usize {
        self.steps.iter().map(Step::dispatches).sum()
    }
}
