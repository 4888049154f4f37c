//! Variant → WGSL text and label. The only place that knows which fragments make up a kernel.
//!
//! A kernel is a list of plain WGSL files joined after a generated header of constants. What varies is which file
//! supplies a function of fixed signature, or a constant that the compiler folds; there is no preprocessor.

mod all;
mod backward;
mod cache;
mod files;
mod layer;
mod matmul;
mod unroll;

pub use cache::{CacheBinding, CacheKernel, CacheVariant};
pub use layer::{LayerKernel, LayerVariant};
pub use matmul::{Epilogue, MatmulKernel};

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::caps::Caps;
use crate::problem::{DType, Mask, Problem, Shape};
use crate::tile::{AnyBackwardTile, AnyTile, NAIVE_THREADS, Path, Sweep};
pub(crate) use files::file;
#[cfg(feature = "bench")]
pub(crate) use unroll::unroll;

/// The head of a text that uses matrix units: what it enables, and its operands A and B and its sums C, squares of `size`.
pub(crate) fn matrix_types(size: u32) -> String {
    let types = [("A", "f16"), ("B", "f16"), ("C", "f32")];
    let alias = types.map(|(role, scalar)| format!("alias Mat{role} = coop_mat{size}x{size}<{scalar}, {role}>;\n"));
    format!("enable f16;\nenable wgpu_cooperative_matrix;\ndiagnostic(off, derivative_uniformity);\n{}", alias.concat())
}

/// Adds constants, switches and files to a text; with marked loops written out where that is wanted.
fn join(text: &mut String, constants: &[(&str, u32)], switches: &[(&str, bool)], files: &[&str], unrolled: bool) {
    for (name, value) in constants {
        let _ = writeln!(text, "const {name}: u32 = {value}u;");
    }
    for (name, value) in switches {
        let _ = writeln!(text, "const {name}: bool = {value};");
    }
    let count = |name: &str| {
        let constant = constants.iter().find(|(other, _)| *other == name);
        constant.map(|(_, value)| *value).unwrap_or_else(|| unreachable!("the header has no {name}, a loop's bound"))
    };
    for name in files {
        let file = file(name);
        let written = if unrolled { Cow::Owned(unroll::unroll(file, &count)) } else { Cow::Borrowed(file) };
        let _ = write!(text, "\n// ---- {name}\n{written}");
    }
}

/// One compiled kernel: everything that its text depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Variant {
    /// What it computes.
    pub kernel: Kernel,
    /// The kernel family.
    pub path: Path,
    /// The forward's tile; `None` for the naive kernel.
    pub tile: Option<AnyTile>,
    /// Storage type.
    pub dtype: DType,
    /// Whether f16 is read by `unpack2x16float`; meaningless for other types.
    pub unpack_f16: bool,
    /// The mask, without its numbers.
    pub mask: MaskKind,
    /// Elements of a key.
    pub head_dim: u32,
    /// Elements of a value.
    pub value_dim: u32,
    /// Whether scores are softcapped.
    pub softcap: bool,
    /// Whether sequences are packed.
    pub packed: bool,
    /// Whether LSE is written.
    pub lse: bool,
    /// Whether a₂ is written (by the forward) or read (by the backward).
    pub a2: bool,
    /// Whether each query head stands alone in a tiled kernel: standard attention, which the fused form is measured
    /// against.
    pub standard: bool,
}

/// What a kernel computes. The backward's tiles differ from the forward's; `None` is the naive kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// out, and on request lse and a₂.
    Forward,
    /// The backward's row terms and, from a₂, dλ.
    BackwardRows,
    /// A sweep of the backward pass.
    Backward(Sweep, Option<AnyBackwardTile>),
}

impl Kernel {
    /// The name used in labels.
    pub const fn name(self) -> &'static str {
        match self {
            Kernel::Forward => "forward",
            Kernel::BackwardRows => "backward_rows",
            Kernel::Backward(Sweep::Dq, _) => "backward_dq",
            Kernel::Backward(Sweep::Mean, _) => "backward_mean",
            Kernel::Backward(Sweep::Dkv, _) => "backward_dkv",
        }
    }
}

/// [`Mask`] without its numbers: which fragment is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MaskKind {
    /// No mask.
    None,
    /// Bottom-right causal.
    Causal,
    /// A window.
    Window,
}

impl From<Mask> for MaskKind {
    fn from(mask: Mask) -> Self {
        match mask {
            Mask::None => MaskKind::None,
            Mask::Causal => MaskKind::Causal,
            Mask::Window { .. } => MaskKind::Window,
        }
    }
}

/// A storage binding of a kernel, in the order of the shaders' binding numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Binding {
    /// The uniform block.
    Params = 0,
    /// Queries.
    Q = 1,
    /// Keys.
    K = 2,
    /// Values.
    V = 3,
    /// Gate logits.
    Lam = 4,
    /// Output.
    Out = 5,
    /// Log-sum-exp.
    Lse = 6,
    /// Subtracted member.
    A2 = 7,
    /// Packed sequences.
    Sequences = 8,
    /// Gradient by the output.
    Dout = 20,
    /// Row terms of the backward pass.
    Terms = 21,
    /// Gradient by the log-sum-exp.
    Dlse = 22,
    /// Gradient by the queries.
    Dq = 23,
    /// Gradient by the keys.
    Dk = 24,
    /// Gradient by the values.
    Dv = 25,
    /// Gradient by the gate logits.
    Dlam = 26,
}

impl Variant {
    /// The forward kernel of a problem.
    pub fn forward(problem: &Problem, path: Path, tile: Option<AnyTile>, caps: &Caps) -> Self {
        Variant {
            kernel: Kernel::Forward,
            path,
            tile,
            dtype: problem.dtype,
            unpack_f16: problem.dtype == DType::F16 && caps.unpack_f16,
            mask: problem.options.mask().into(),
            head_dim: problem.shape.head_dim,
            value_dim: problem.shape.value_dim,
            softcap: problem.options.softcap.is_some(),
            packed: problem.packed.is_some(),
            lse: problem.options.lse,
            a2: problem.options.a2,
            standard: false,
        }
    }

    /// A kernel of the backward pass. What it does not depend on is left at its default, so that problems share it.
    pub fn backward(problem: &Problem, kernel: Kernel, path: Path, caps: &Caps) -> Self {
        let forward = Variant::forward(problem, path, None, caps);
        let sweep = Variant { kernel, lse: false, a2: false, ..forward };
        match kernel {
            // It knows neither heads of q nor sequences nor masks.
            Kernel::BackwardRows => Variant {
                path: Path::Naive,
                mask: MaskKind::None,
                head_dim: problem.shape.value_dim,
                softcap: false,
                packed: false,
                a2: problem.options.a2,
                ..sweep
            },
            Kernel::Forward | Kernel::Backward(..) => sweep,
        }
    }

    /// The one name of this kernel: pipeline, error, dump, test and benchmark row.
    pub fn label(&self) -> String {
        let mask = match self.mask {
            MaskKind::None => "full",
            MaskKind::Causal => "causal",
            MaskKind::Window => "window",
        };
        let mut label = format!("diffattn.{}.{}.{mask}.d{}", self.kernel.name(), self.dtype.name(), self.head_dim);
        if self.value_dim != self.head_dim {
            let _ = write!(label, "v{}", self.value_dim);
        }
        if let Some(tile) = self.tile {
            let _ = write!(label, ".{tile}");
        }
        if let Kernel::Backward(_, Some(tile)) = self.kernel {
            let _ = write!(label, ".{tile}");
        }
        let flags = [
            (self.unpack_f16, ".unpack"),
            (self.softcap, ".softcap"),
            (self.packed, ".packed"),
            (self.lse, ".lse"),
            (self.a2, ".a2"),
            (self.standard, ".standard"),
        ];
        label.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name));
        format!("{label}.{}", self.path.name())
    }

    /// The files that make up this kernel, after the header.
    fn files(&self) -> Vec<&'static str> {
        let mut files = match (self.kernel, self.path) {
            (Kernel::Forward, Path::Naive) => vec!["forward_naive.wgsl", "query_row.wgsl"],
            (Kernel::Forward, Path::Portable | Path::Subgroup) => vec!["forward.wgsl", "rows4.wgsl"],
            (Kernel::Forward, Path::Matrix) => self.matrix_files(),
            (Kernel::BackwardRows | Kernel::Backward(..), _) => self.backward_files(),
        };
        files.extend(["view.wgsl", "params.wgsl", "online_softmax.wgsl"]);
        match (self.dtype, self.unpack_f16) {
            (DType::F32, _) => files.push("elem/f32.wgsl"),
            (DType::Bf16, _) => files.push("elem/bf16.wgsl"),
            (DType::F16, true) => files.extend(["elem/f16.wgsl", "elem/unpack_f16_builtin.wgsl"]),
            (DType::F16, false) => files.extend(["elem/f16.wgsl", "elem/unpack_f16_bits.wgsl"]),
        }
        files.push(match self.mask {
            MaskKind::None => "mask/none.wgsl",
            MaskKind::Causal => "mask/causal.wgsl",
            MaskKind::Window => "mask/window.wgsl",
        });
        files.push(if self.packed { "sequence/packed.wgsl" } else { "sequence/even.wgsl" });
        files.push(match (self.softcap, self.path, self.kernel) {
            (true, ..) => "score/softcap.wgsl",
            (false, Path::Matrix, Kernel::Forward) => "score/bounded.wgsl",
            (false, ..) => "score/scaled.wgsl",
        });
        if self.kernel == Kernel::Forward {
            files.push(if self.lse { "output/lse.wgsl" } else { "output/no_lse.wgsl" });
            files.push(if self.a2 { "output/a2.wgsl" } else { "output/no_a2.wgsl" });
        }
        match (self.path, self.kernel) {
            (Path::Naive | Path::Matrix, _) => {}
            (Path::Portable, Kernel::Forward) => files.push("exchange/workgroup.wgsl"),
            (Path::Subgroup, Kernel::Forward) => files.push("exchange/subgroup.wgsl"),
            (Path::Portable, _) => files.push("exchange/parts_workgroup.wgsl"),
            (Path::Subgroup, _) => files.push("exchange/parts_subgroup.wgsl"),
        }
        files
    }

    fn matrix_files(&self) -> Vec<&'static str> {
        let Some(AnyTile::Matrix(tile)) = self.tile else { return Vec::new() };
        let either = |on, name, other| if on { name } else { other };
        vec![
            "forward_matrix.wgsl",
            either(tile.scalars, "matrix/scalars.wgsl", "matrix/vectors.wgsl"),
            either(tile.q_resident, "matrix/q_resident.wgsl", "matrix/q_staged.wgsl"),
            either(self.dtype == DType::F16, "matrix/f16.wgsl", "matrix/bf16.wgsl"),
        ]
    }

    /// The complete WGSL text.
    pub fn source(&self) -> String {
        let mut text = format!("// {}\n", self.label());
        let matrices = match (self.tile, self.kernel) {
            (Some(AnyTile::Matrix(tile)), _) => Some((tile.size, tile.unrolled)),
            (_, Kernel::Backward(_, Some(AnyBackwardTile::Matrix(tile)))) => Some((tile.size, tile.unrolled)),
            _ => None,
        };
        if let Some((size, _)) = matrices {
            text.push_str(&matrix_types(size));
        }
        let unrolled = matrices.is_some_and(|(_, unrolled)| unrolled);
        join(&mut text, &self.constants(), &self.switches(), &self.files(), unrolled);
        text
    }

    fn switches(&self) -> Vec<(&'static str, bool)> {
        match self.tile {
            None => Vec::new(),
            Some(AnyTile::Tiled(tile)) => vec![("STAGE_Q", tile.stage_q)],
            Some(AnyTile::Matrix(tile)) => {
                vec![("BY_HEAD", tile.by_head)]
            }
        }
    }

    fn constants(&self) -> Vec<(&'static str, u32)> {
        let shape = Shape {
            batch: 1,
            q_len: 1,
            kv_len: 1,
            heads: 1,
            kv_heads: 1,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
        };
        let members = if self.standard { 1 } else { 2 };
        let mut constants = vec![("HEAD_DIM", self.head_dim), ("VALUE_DIM", self.value_dim), ("MEMBERS", members)];
        if let Kernel::Backward(sweep, Some(tile)) = self.kernel {
            constants.extend(self.backward_constants(sweep, tile, &shape));
            return constants;
        }
        match self.tile {
            None => constants.push(("THREADS", NAIVE_THREADS)),
            Some(AnyTile::Matrix(tile)) => constants.extend([
                ("MAT", tile.size),
                ("SUBGROUP", tile.subgroup),
                ("SUBGROUPS", tile.subgroups),
                ("STRIPS", tile.strips),
                ("KEYS", tile.keys),
                ("HEADS_PER_TILE", tile.heads_per_tile),
                ("HEAD_STEPS", tile.steps(self.head_dim)),
                ("VALUE_STEPS", tile.value_steps(self.value_dim)),
                ("KEY_STEPS", tile.steps(tile.keys) / tile.columns),
                ("ALL_KEY_STEPS", tile.steps(tile.keys)),
                ("COLUMNS", tile.columns),
                ("GROWTH", tile.growth),
                ("Q_STRIDE", tile.q_stride(&shape)),
                ("KV_STRIDE", tile.kv_stride(&shape)),
                ("SCORE_STRIDE", tile.score_stride()),
                ("WEIGHT_STRIDE", tile.weight_stride()),
                ("WEIGHT_BASE", tile.weight_base(&shape)),
                ("A_SLOTS", tile.row_slots(&shape)),
                ("B_SLOTS", tile.item_slots(&shape)),
                ("Q_PASS_STEPS", tile.q_steps(&shape)),
                ("Q_PASSES", tile.steps(self.head_dim).div_ceil(tile.q_steps(&shape))),
            ]),
            Some(AnyTile::Tiled(tile)) => constants.extend([
                ("THREADS", tile.threads),
                ("ROW_QUADS", tile.row_quads),
                ("KEY_LANES", tile.key_lanes),
                ("KEYS_PER_LANE", tile.keys_per_lane),
                ("HEADS_PER_TILE", tile.heads_per_tile),
                ("QUADS_PER_LANE", tile.quads_per_lane(&shape)),
                ("KV_STRIDE", tile.kv_stride(&shape)),
                ("V_BASE", tile.v_base(&shape)),
                ("KV_SLOTS", tile.kv_slots(&shape)),
                ("Q_STRIDE", tile.q_stride(&shape)),
                ("Q_SLOTS", tile.q_slots(&shape)),
            ]),
        }
        constants
    }

    /// The bindings that this kernel uses, in the order of their numbers.
    pub fn bindings(&self) -> Vec<Binding> {
        use Binding::*;
        let mut bindings = match self.kernel {
            Kernel::Forward => vec![Params, Q, K, V, Lam, Out],
            Kernel::BackwardRows => vec![Params, Lam, Out, Lse, Dout, Terms, Dlse],
            Kernel::Backward(Sweep::Dq, _) => vec![Params, Q, K, V, Dout, Terms, Dq],
            Kernel::Backward(Sweep::Mean, _) => vec![Params, Q, K, V, Dout, Terms, Dlam],
            Kernel::Backward(Sweep::Dkv, _) => vec![Params, Q, K, V, Dout, Terms, Dk, Dv],
        };
        bindings.extend(self.lse.then_some(Lse));
        bindings.extend(self.a2.then_some(A2));
        bindings.extend((self.a2 && self.kernel == Kernel::BackwardRows).then_some(Dlam));
        bindings.extend(self.packed.then_some(Sequences));
        bindings.sort();
        bindings
    }
}
