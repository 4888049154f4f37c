//! A linear layer on the device: its product forward, and the two of its gradients.

use crate::attention::DiffAttention;
use crate::error::Result;
use crate::ops::matmul::{Matmul, MatmulBuffers, MatmulOptions, MatmulPass, MatmulPlan, Matrix, Rotary};
use crate::problem::DType;
use crate::shader::Epilogue;
use crate::tile::{Form, Path};

/// What a projection computes: y (tokens × output) = x (tokens × input) · Wᵀ.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub tokens: u32,
    pub input: u32,
    pub output: u32,
    pub dtype: DType,
    /// y and its gradient are f32, whatever the storage type.
    pub y_f32: bool,
    pub epilogue: Epilogue,
    /// Where the product goes forward, and those of its gradients that can go there; `None` lets the planner choose.
    pub path: Option<Path>,
}

/// A projection whose products are planned.
#[derive(Debug, Clone)]
pub(super) struct Projection {
    weight: wgpu::Buffer,
    sizes: Sizes,
    forward: MatmulPlan,
    /// By the input and by the weight; for training.
    gradients: Option<[MatmulPlan; 2]>,
}

impl Projection {
    pub(super) async fn plan(
        attention: &DiffAttention,
        weight: &wgpu::Buffer,
        sizes: Sizes,
        train: bool,
    ) -> Result<Self> {
        let Sizes { tokens, input, output, dtype, y_f32, epilogue, path } = sizes;
        let forward = Matmul { c_f32: y_f32, epilogue, ..Matmul::new(Form::Forward, [tokens, output, input], dtype) };
        let by_input = Matmul { a_f32: y_f32, ..Matmul::new(Form::InputGradient, [tokens, input, output], dtype) };
        let by_weight =
            Matmul { a_f32: y_f32, c_f32: true, ..Matmul::new(Form::WeightGradient, [output, input, tokens], dtype) };
        let plan = async |product: &Matmul| {
            let able = product.form == Form::Forward || product.unfit_for_matrix_units().is_none();
            let path = path.filter(|&path| path != Path::Matrix || able);
            attention.plan_matmul(product, MatmulOptions { path, tile: None }).await
        };
        let gradients = match train {
            true => Some([plan(&by_input).await?, plan(&by_weight).await?]),
            false => None,
        };
        let forward = plan(&forward).await?;
        Ok(Projection { weight: weight.clone(), sizes, forward, gradients })
    }

    /// The kernels of the products, by their labels.
    pub(super) fn labels(&self) -> Vec<String> {
        [&self.forward].into_iter().chain(self.gradients.iter().flatten()).map(MatmulPlan::label).collect()
    }

    /// y from x.
    pub(super) fn forward(
        &self,
        x: &wgpu::Buffer,
        y: &wgpu::Buffer,
        rotary: Option<Rotary<'_>>,
        bias: Option<&wgpu::Buffer>,
    ) -> Result<MatmulPass> {
        let (a, b, mut c) = (self.x(x), self.x(&self.weight), self.y(y));
        if let Some(rotary) = rotary {
            c.stride = self.sizes.output / rotary.head_dim * rotary.head_stride;
        }
        self.forward.bind(&MatmulBuffers { a, b, c, rotary, bias, add: false })
    }

    /// dx from dy, or added to it; `None` unless planned for training.
    pub(super) fn input_gradient(&self, dy: &wgpu::Buffer, dx: &wgpu::Buffer, add: bool) -> Result<Option<MatmulPass>> {
        let bind = |[plan, _]: &[MatmulPlan; 2]| {
            let (a, b, c) = (self.y(dy), self.x(&self.weight), self.x(dx));
            plan.bind(&MatmulBuffers { a, b, c, rotary: None, bias: None, add })
        };
        self.gradients.as_ref().map(bind).transpose()
    }

    /// dW from dy and x, or added to it; `None` unless planned for training.
    pub(super) fn weight_gradient(
        &self,
        dy: &wgpu::Buffer,
        x: &wgpu::Buffer,
        dw: &wgpu::Buffer,
        add: bool,
    ) -> Result<Option<MatmulPass>> {
        let bind = |[_, plan]: &[MatmulPlan; 2]| {
            let (a, b, c) = (self.y(dy), self.x(x), self.x(dw));
            plan.bind(&MatmulBuffers { a, b, c, rotary: None, bias: None, add })
        };
        self.gradients.as_ref().map(bind).transpose()
    }

    /// Rows of `input` elements.
    fn x<'a>(&self, buffer: &'a wgpu::Buffer) -> Matrix<'a> {
        Matrix { buffer, offset: 0, stride: self.sizes.input }
    }

    /// Rows of `output` elements, padded.
    fn y<'a>(&self, buffer: &'a wgpu::Buffer) -> Matrix<'a> {
        Matrix { buffer, offset: 0, stride: self.sizes.output.next_multiple_of(4) }
    }
}
