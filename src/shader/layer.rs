//! The kernels of the attention module around the attention itself.

use super::{MatmulKernel, join};
use crate::caps::Caps;
use crate::problem::DType;
use crate::tile::{NAIVE_THREADS, Path};

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
        let name = match self.kernel {
            LayerKernel::Matmul(kernel) => kernel.label(self.dtype),
            LayerKernel::RotateBack => self.small("rotate_back"),
            LayerKernel::Lambda => self.small("lambda"),
            LayerKernel::LambdaBackward => self.small("lambda_backward"),
            LayerKernel::Norm => self.small("norm"),
            LayerKernel::NormBackward => self.small("norm_backward"),
            LayerKernel::NormSums => self.small("norm_sums"),
            LayerKernel::ColumnSums => self.small("column_sums"),
        };
        let unpack = if self.unpack_f16 { ".unpack" } else { "" };
        let path = if self.path() == Path::Matrix { ".matrix" } else { "" };
        format!("diffattn.{name}{unpack}{path}")
    }

    fn small(&self, name: &str) -> String {
        format!("{name}.{}", self.dtype.name())
    }

    /// The kernel family: only products have another one than the portable.
    pub const fn path(&self) -> Path {
        match self.kernel {
            LayerKernel::Matmul(MatmulKernel { tile, .. }) => tile.path(),
            _ => Path::Portable,
        }
    }

    /// Number of bindings: the uniform block, then storage buffers in the order in which the shader names them.
    pub const fn bindings(&self) -> u32 {
        match self.kernel {
            LayerKernel::Matmul(kernel) => kernel.bindings(),
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
            LayerKernel::Matmul(kernel) => files.extend(kernel.files(self.dtype)),
            LayerKernel::RotateBack => files.extend(["layer/rotate_back.wgsl", "layer/turned.wgsl"]),
            LayerKernel::Lambda => files.extend(["layer/lambda.wgsl", "layer/lambda_type.wgsl"]),
            LayerKernel::LambdaBackward => files.extend(["layer/lambda_backward.wgsl", "layer/lambda_type.wgsl"]),
            LayerKernel::Norm => files.extend(["layer/norm.wgsl", "layer/lambda_type.wgsl"]),
            LayerKernel::NormBackward => files.extend(["layer/norm_backward.wgsl", "layer/lambda_type.wgsl"]),
            LayerKernel::NormSums => files.extend(["layer/norm_sums.wgsl", "layer/lambda_type.wgsl", "layer/sum.wgsl"]),
            LayerKernel::ColumnSums => files.extend(["layer/column_sums.wgsl", "layer/sum.wgsl"]),
        }
        if !matches!(self.kernel, LayerKernel::Matmul(_)) {
            files.push("layer/params.wgsl");
        }
        files
    }

    /// The complete WGSL text.
    pub fn source(&self) -> String {
        let mut text = format!("// {}\n", self.label());
        match self.kernel {
            LayerKernel::Matmul(kernel) => {
                text.push_str(&kernel.head());
                join(&mut text, &kernel.constants(), &kernel.switches(), &self.files(), kernel.unrolled());
            }
            _ => join(&mut text, &[("THREADS", NAIVE_THREADS)], &[], &self.files(), false),
        }
        text
    }

    /// Every kind of kernel that a device with these capabilities may be given.
    pub fn all(caps: &Caps) -> Vec<LayerVariant> {
        use LayerKernel::{ColumnSums, Lambda, LambdaBackward, Norm, NormBackward, NormSums, RotateBack};
        let small = [RotateBack, Lambda, LambdaBackward, Norm, NormBackward, NormSums, ColumnSums];
        let variants = |dtype| {
            let products = MatmulKernel::all(dtype, caps).into_iter().map(LayerKernel::Matmul);
            small.into_iter().chain(products).map(move |kernel| Self::new(kernel, dtype, caps))
        };
        DType::ALL.into_iter().flat_map(variants).collect()
    }
}
