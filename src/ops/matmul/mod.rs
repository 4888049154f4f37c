//! The matrix products of a linear layer: plan → bind → encode.

mod bind;
mod choose;

use std::sync::Arc;

use wgpu::util::DeviceExt as _;

use crate::attention::DiffAttention;
use crate::error::{Error, Result};
use crate::ops::bind::entry;
use crate::ops::cache_launch::Dispatch;
use crate::ops::launch::grid;
use crate::params::MatmulParams;
use crate::pipeline::AnyVariant;
use crate::problem::DType;
use crate::shader::{Epilogue, LayerKernel, LayerVariant, MatmulKernel};
use crate::tile::{AnyMatmulTile, Form, Path};
use bind::{Bound, whole};
pub use choose::MatmulOptions;

/// A matrix product C = A·B, in one of the three forms that a linear layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matmul {
    /// How A and B lie.
    pub form: Form,
    /// Rows of C.
    pub rows: u32,
    /// Columns of C.
    pub columns: u32,
    /// What is summed over.
    pub depth: u32,
    /// Storage type of A, B and C, as far as the two below do not say otherwise.
    pub dtype: DType,
    /// A is f32.
    pub a_f32: bool,
    /// C is f32.
    pub c_f32: bool,
    /// What becomes of the result. A rotary embedding needs a form of [`Form::Forward`].
    pub epilogue: Epilogue,
}

/// A matrix in a caller's buffer, row by row as [`Form`] says.
///
/// Rows are read, and those of C written, in units of four elements: up to three elements behind a row whose length is
/// no multiple of 4 belong to it, and hold anything.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    /// The buffer; needs `BufferUsages::STORAGE`.
    pub buffer: &'a wgpu::Buffer,
    /// Bytes before the first element: a multiple of four elements.
    pub offset: u64,
    /// Elements from one row to the next: a multiple of 4.
    pub stride: u32,
}

/// The rotary embedding of a product's rows.
#[derive(Debug, Clone, Copy)]
pub struct Rotary<'a> {
    /// u32 position of each row.
    pub positions: &'a wgpu::Buffer,
    /// f32: for each position head_dim/2 pairs of cosine and sine, as [`crate::layer::rotary::table`] gives them.
    pub angles: &'a wgpu::Buffer,
    /// Elements of a head: a multiple of 4 that divides the columns.
    pub head_dim: u32,
    /// Elements from one head of a row of C to the next: a multiple of 4, head_dim or more.
    pub head_stride: u32,
}

/// The buffers of a product.
#[derive(Debug, Clone, Copy)]
pub struct MatmulBuffers<'a> {
    /// Read.
    pub a: Matrix<'a>,
    /// Read.
    pub b: Matrix<'a>,
    /// Written.
    pub c: Matrix<'a>,
    /// Given exactly with [`Epilogue::Rotary`].
    pub rotary: Option<Rotary<'a>>,
    /// f32, one for each column, up to a multiple of 4; given exactly with [`Epilogue::Bias`].
    pub bias: Option<&'a wgpu::Buffer>,
    /// Add to what C holds, instead of overwriting it.
    pub add: bool,
}

/// A product that is validated, tiled and compiled.
#[derive(Debug, Clone)]
pub struct MatmulPlan {
    attention: DiffAttention,
    problem: Matmul,
    tile: AnyMatmulTile,
    variant: LayerVariant,
    pipeline: Arc<wgpu::ComputePipeline>,
}

/// One dispatch bound to buffers. Encoding allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct MatmulPass {
    dispatch: Dispatch,
}

impl Matmul {
    /// A product of matrices of one type.
    pub fn new(form: Form, [rows, columns, depth]: [u32; 3], dtype: DType) -> Self {
        Matmul { form, rows, columns, depth, dtype, a_f32: false, c_f32: false, epilogue: Epilogue::Plain }
    }

    /// Checks the sizes.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unsupported`] for an epilogue that the form does not have.
    pub fn validate(&self) -> Result<()> {
        let most = 1 << 28;
        for (name, value) in [("rows", self.rows), ("columns", self.columns), ("depth", self.depth)] {
            if value == 0 || value > most {
                return Err(Error::invalid(name, format!("from 1 to {most}"), value));
            }
        }
        if self.epilogue != Epilogue::Plain && self.form != Form::Forward {
            let (what, hint) = (format!("{:?} of a gradient", self.epilogue), "only forward products have it".into());
            return Err(Error::Unsupported { what, hint });
        }
        Ok(())
    }

    /// Multiply-adds counted as two operations.
    pub fn flops(&self) -> f64 {
        2.0 * f64::from(self.rows) * f64::from(self.columns) * f64::from(self.depth)
    }

    /// Rows of A, B and C as they lie in memory, and elements of each.
    fn extents(&self) -> [[u32; 2]; 3] {
        let Matmul { rows, columns, depth, .. } = *self;
        let (a, b) = match self.form {
            Form::Forward => ([rows, depth], [columns, depth]),
            Form::InputGradient => ([rows, depth], [depth, columns]),
            Form::WeightGradient => ([depth, rows], [depth, columns]),
        };
        [a, b, [rows, columns]]
    }
}

impl Rotary<'_> {
    fn validate(&self, columns: u32) -> Result<()> {
        let Rotary { head_dim, head_stride, .. } = *self;
        if head_dim == 0 || head_dim % 4 != 0 || !columns.is_multiple_of(head_dim) {
            return Err(Error::invalid(
                "head_dim",
                format!("a multiple of 4 that divides the {columns} columns"),
                head_dim,
            ));
        }
        if head_stride % 4 != 0 || head_stride < head_dim || head_stride > 1 << 16 {
            let rule = format!("a multiple of 4 from head_dim ({head_dim}) to 65536");
            return Err(Error::invalid("head_stride", rule, head_stride));
        }
        Ok(())
    }
}

impl MatmulPlan {
    pub(crate) async fn new(attention: &DiffAttention, problem: &Matmul, options: MatmulOptions) -> Result<Self> {
        problem.validate()?;
        let Matmul { form, dtype, a_f32, c_f32, epilogue, .. } = *problem;
        let tile = choose::choose(problem, options, attention.caps())?;
        let kernel = LayerKernel::Matmul(MatmulKernel { form, tile, a_f32, c_f32, epilogue });
        let variant = LayerVariant::new(kernel, dtype, attention.caps());
        let pipeline = attention.pipelines.get(&attention.device, (AnyVariant::Layer(variant), false)).await?;
        Ok(MatmulPlan { attention: attention.clone(), problem: *problem, tile, variant, pipeline })
    }

    /// The product that was planned.
    pub fn problem(&self) -> &Matmul {
        &self.problem
    }

    /// The tile that was chosen.
    pub fn tile(&self) -> AnyMatmulTile {
        self.tile
    }

    /// The kernel family that was chosen.
    pub fn path(&self) -> Path {
        self.tile.path()
    }

    /// The kernel's name, as in errors, dumps and benchmark rows.
    pub fn label(&self) -> String {
        self.variant.label()
    }

    /// Checks the buffers and creates everything that encoding needs.
    ///
    /// # Errors
    /// [`Error::Slice`] for a matrix that cannot be bound, [`Error::Shape`] for an epilogue's tensors missing or too many,
    /// [`Error::Limit`] for one larger than a binding.
    pub fn bind(&self, buffers: &MatmulBuffers<'_>) -> Result<MatmulPass> {
        let Matmul { rows, columns, depth, dtype, a_f32, c_f32, epilogue, .. } = self.problem;
        let caps = self.attention.caps();
        let size = |is_f32: bool| if is_f32 { 4 } else { dtype.size() };
        let [a, b, mut c] = self.problem.extents();
        let a = Bound::new("a", buffers.a, a, size(a_f32), caps)?;
        let b = Bound::new("b", buffers.b, b, size(false), caps)?;
        if let Some(rotary) = buffers.rotary {
            rotary.validate(columns)?;
            c[1] = (columns / rotary.head_dim - 1) * rotary.head_stride + rotary.head_dim;
        }
        let c = Bound::new("c", buffers.c, c, size(c_f32), caps)?;
        let rest = match (epilogue, buffers.rotary, buffers.bias) {
            (Epilogue::Plain, None, None) => vec![],
            (Epilogue::Bias, None, Some(bias)) => {
                vec![whole("bias", bias, u64::from(columns.next_multiple_of(4)) * 4, 4)?]
            }
            (Epilogue::Rotary, Some(rotary), None) => {
                vec![
                    whole("positions", rotary.positions, u64::from(rows) * 4, 4)?,
                    whole("angles", rotary.angles, u64::from(rotary.head_dim) * 4, 5)?,
                ]
            }
            (epilogue, ..) => {
                let expected = format!("exactly the tensors of {epilogue:?}");
                return Err(Error::Shape { tensor: "epilogue", expected, actual: "others".into() });
            }
        };
        for (name, buffer) in [("a", a.buffer), ("b", b.buffer)] {
            if buffer == c.buffer {
                let reason = format!("`{name}` is read from the same buffer; WebGPU needs outputs in another one");
                return Err(Error::Slice { tensor: "c", reason });
            }
        }

        let tiles = [rows.div_ceil(self.tile.rows()), columns.div_ceil(self.tile.columns())];
        let count = u64::from(tiles[0]) * u64::from(tiles[1]);
        let available = u64::from(caps.workgroups).pow(2).min(u32::MAX.into());
        if count > available {
            let (name, what) = ("max_compute_workgroups_per_dimension", format!("the grid of {}", self.label()));
            return Err(Error::Limit { name, what, needed: count, available });
        }
        let grid = grid(count, caps);
        let params = MatmulParams {
            rows,
            columns,
            column_quads: columns.div_ceil(4),
            depth,
            a_base: a.base,
            a_stride: a.stride,
            b_base: b.base,
            b_stride: b.stride,
            c_base: c.base,
            c_stride: c.stride,
            column_tiles: tiles[1],
            tiles: count as u32,
            grid_width: grid[0],
            add: buffers.add.into(),
            head_quads: buffers.rotary.map_or(0, |rotary| rotary.head_dim / 4),
            head_stride: buffers.rotary.map_or(0, |rotary| rotary.head_stride / 4),
        };
        let label = self.label();
        let uniform = self.attention.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some(&label),
            contents: bytemuck::bytes_of(&params),
            usage: wgpu::BufferUsages::UNIFORM,
        });
        let mut entries = vec![entry(0, &uniform, 0, size_of::<MatmulParams>() as u64)];
        entries.extend([(1, a), (2, b), (3, c)].map(|(binding, bound)| bound.entry(binding)));
        entries.extend(rest);
        let layout = &self.pipeline.get_bind_group_layout(0);
        let descriptor = wgpu::BindGroupDescriptor { label: Some(&label), layout, entries: &entries };
        let bind_group = self.attention.device.create_bind_group(&descriptor);
        Ok(MatmulPass { dispatch: Dispatch { pipeline: self.pipeline.clone(), bind_group, grid } })
    }
}

impl MatmulPass {
    /// Records the dispatch. Creates, allocates and submits nothing.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.dispatch.encode(pass);
    }
}
