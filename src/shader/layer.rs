//! The kernels of the attention module around the attention itself.

use std::fmt::Write as _;

use super::file;
use crate::caps::Caps;
use crate::problem::DType;
use crate::tile::{Form, MatmulTile, NAIVE_THREADS, matmul_tile};

/// What becomes of a matrix product's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// It is written as it is.
    Plain,
    /// A bias is added to each column.
    Bias,
    /// The rotary embedding is applied.
    Rotary,
}

/// A matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MatmulKernel {
    /// How the operands lie.
    pub form: Form,
    /// What a workgroup owns.
    pub tile: MatmulTile,
    /// Whether A is f32, whatever the storage type.
    pub a_f32: bool,
    /// Whether C is f32, whatever the storage type.
    pub c_f32: bool,
    /// What becomes of the result.
    pub epilogue: Epilogue,
}

/// What a kernel of the module does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LayerKernel {
    /// A projection or one of its gradients.
    Matmul(MatmulKernel),
    /// The gradient through the rotary embedding.
    RotateBack,
    /// V1's λ.
    Lambda,
    /// The gradients of the vectors that make V1's λ.
    LambdaBackward,
    /// V1's difference and norm.
    Norm,
    /// Backward through them.
    NormBackward,
    /// The gradients of the norm's weight and of λ.
    NormSums,
    /// Sums of the columns of an f32 matrix.
    ColumnSums,
}

/// One compiled kernel of the attention module: everything that its text depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerVariant {
    /// What it does.
    pub kernel: LayerKernel,
    /// Storage type.
    pub dtype: DType,
    /// Whether f16 is read by `unpack2x16float`; meaningless for other types.
    pub unpack_f16: bool,
}

impl LayerVariant {
    /// A kernel for a storage type on a device.
    pub fn new(kernel: LayerKernel, dtype: DType, caps: &Caps) -> Self {
        LayerVariant { kernel, dtype, unpack_f16: dtype == DType::F16 && caps.unpack_f16 }
    }

    /// The one name of this kernel: pipeline, error, dump, test and benchmark row.
    pub fn label(&self) -> String {
        let mut label = String::from("diffattn.");
        match self.kernel {
            LayerKernel::Matmul(MatmulKernel { form, tile, a_f32, c_f32, epilogue }) => {
                let _ = write!(label, "matmul.{}.{}", form.name(), self.dtype.name());
                let _ = write!(label, ".r{}c{}k{}", tile.rows(), 4 * tile.column_quads(), tile.depth);
                let _ = write!(label, "t{}n{}", tile.threads, tile.quads_per_lane);
                label.push_str(if tile.stage_b { "" } else { "d" });
                let flags = [
                    (a_f32, ".a32"),
                    (c_f32, ".c32"),
                    (epilogue == Epilogue::Bias, ".bias"),
                    (epilogue == Epilogue::Rotary, ".rotary"),
                ];
                label.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name));
            }
            small => {
                let name = match small {
                    LayerKernel::Matmul(_) => "matmul",
                    LayerKernel::RotateBack => "rotate_back",
                    LayerKernel::Lambda => "lambda",
                    LayerKernel::LambdaBackward => "lambda_backward",
                    LayerKernel::Norm => "norm",
                    LayerKernel::NormBackward => "norm_backward",
                    LayerKernel::NormSums => "norm_sums",
                    LayerKernel::ColumnSums => "column_sums",
                };
                let _ = write!(label, "{name}.{}", self.dtype.name());
            }
        }
        label.push_str(if self.unpack_f16 { ".unpack" } else { "" });
        label
    }

    /// Number of bindings: the uniform block, then storage buffers in the order in which the shader names them.
    pub const fn bindings(&self) -> u32 {
        match self.kernel {
            LayerKernel::Matmul(kernel) => match kernel.epilogue {
                Epilogue::Plain => 4,
                Epilogue::Bias => 5,
                Epilogue::Rotary => 6,
            },
            LayerKernel::Lambda | LayerKernel::ColumnSums => 3,
            LayerKernel::RotateBack => 4,
            LayerKernel::LambdaBackward => 5,
            LayerKernel::Norm => 6,
            LayerKernel::NormSums => 7,
            LayerKernel::NormBackward => 9,
        }
    }

    /// How much of `params.work` one workgroup does.
    pub(crate) const fn work_per_workgroup(&self) -> u32 {
        match self.kernel {
            LayerKernel::Matmul(_) | LayerKernel::Lambda | LayerKernel::NormSums | LayerKernel::ColumnSums => 1,
            LayerKernel::RotateBack | LayerKernel::LambdaBackward | LayerKernel::Norm | LayerKernel::NormBackward => {
                NAIVE_THREADS
            }
        }
    }

    fn files(&self) -> Vec<&'static str> {
        let mut files = match (self.dtype, self.unpack_f16) {
            (DType::F32, _) => vec!["elem/f32.wgsl"],
            (DType::Bf16, _) => vec!["elem/bf16.wgsl"],
            (DType::F16, true) => vec!["elem/f16.wgsl", "elem/unpack_f16_builtin.wgsl"],
            (DType::F16, false) => vec!["elem/f16.wgsl", "elem/unpack_f16_bits.wgsl"],
        };
        match self.kernel {
            LayerKernel::Matmul(MatmulKernel { form, a_f32, c_f32, epilogue, .. }) => {
                files.extend(["matmul.wgsl", "matmul/params.wgsl", "matmul/b_stored.wgsl"]);
                files.push(match form {
                    Form::Forward | Form::InputGradient => "matmul/a_rows.wgsl",
                    Form::WeightGradient => "matmul/a_columns.wgsl",
                });
                files.push(match form {
                    Form::Forward => "matmul/b_columns.wgsl",
                    Form::InputGradient | Form::WeightGradient => "matmul/b_rows.wgsl",
                });
                files.push(if a_f32 { "matmul/a_f32.wgsl" } else { "matmul/a_stored.wgsl" });
                files.push(if c_f32 { "matmul/c_f32.wgsl" } else { "matmul/c_stored.wgsl" });
                files.extend(match epilogue {
                    Epilogue::Plain => &["matmul/write_plain.wgsl"][..],
                    Epilogue::Bias => &["matmul/write_biased.wgsl"],
                    Epilogue::Rotary => &["matmul/write_rotated.wgsl", "layer/turned.wgsl"],
                });
            }
            small => {
                files.push("layer/params.wgsl");
                files.extend(match small {
                    LayerKernel::RotateBack => &["layer/rotate_back.wgsl", "layer/turned.wgsl"][..],
                    LayerKernel::Lambda => &["layer/lambda.wgsl", "layer/lambda_type.wgsl"],
                    LayerKernel::LambdaBackward => &["layer/lambda_backward.wgsl", "layer/lambda_type.wgsl"],
                    LayerKernel::Norm => &["layer/norm.wgsl", "layer/lambda_type.wgsl"],
                    LayerKernel::NormBackward => &["layer/norm_backward.wgsl", "layer/lambda_type.wgsl"],
                    LayerKernel::NormSums => &["layer/norm_sums.wgsl", "layer/lambda_type.wgsl", "layer/sum.wgsl"],
                    LayerKernel::ColumnSums => &["layer/column_sums.wgsl", "layer/sum.wgsl"],
                    LayerKernel::Matmul(_) => &[],
                });
            }
        }
        files
    }

    /// The complete WGSL text.
    pub fn source(&self) -> String {
        let mut text = format!("// {}\n", self.label());
        let constants = match self.kernel {
            LayerKernel::Matmul(MatmulKernel { tile, .. }) => {
                let _ = writeln!(text, "const STAGE_B: bool = {};", tile.stage_b);
                vec![
                    ("THREADS", tile.threads),
                    ("COLUMN_LANES", tile.column_lanes),
                    ("ROWS_PER_LANE", tile.rows_per_lane),
                    ("QUADS_PER_LANE", tile.quads_per_lane),
                    ("DEPTH", tile.depth),
                    ("A_STRIDE", tile.a_stride()),
                    ("B_SLOTS", tile.b_slots()),
                ]
            }
            _ => vec![("THREADS", NAIVE_THREADS)],
        };
        for (name, value) in constants {
            let _ = writeln!(text, "const {name}: u32 = {value}u;");
        }
        for name in self.files() {
            let _ = write!(text, "\n// ---- {name}\n{}", file(name));
        }
        text
    }

    /// Every kind of kernel that a device with these capabilities may be given.
    pub fn all(caps: &Caps) -> Vec<LayerVariant> {
        use LayerKernel::{ColumnSums, Lambda, LambdaBackward, Norm, NormBackward, NormSums, RotateBack};
        let mut kernels = vec![RotateBack, Lambda, LambdaBackward, Norm, NormBackward, NormSums, ColumnSums];
        let epilogues = [Epilogue::Plain, Epilogue::Bias, Epilogue::Rotary];
        for form in Form::ALL {
            for (rows, columns) in [(1, 64), (1024, 1024)] {
                let tile = matmul_tile(form, rows, columns, caps);
                for (a_f32, c_f32) in [(false, false), (false, true), (true, false), (true, true)] {
                    let epilogues = epilogues.into_iter().filter(|&of| form == Form::Forward || of == Epilogue::Plain);
                    let kernel = |epilogue| MatmulKernel { form, tile, a_f32, c_f32, epilogue };
                    kernels.extend(epilogues.map(|epilogue| LayerKernel::Matmul(kernel(epilogue))));
                }
            }
        }
        DType::ALL.iter().flat_map(|&dtype| kernels.iter().map(move |&kernel| Self::new(kernel, dtype, caps))).collect()
    }
}
