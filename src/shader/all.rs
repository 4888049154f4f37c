//! Every kernel that a device may be given, for the tests that need no device.

use super::{Kernel, Variant};
use crate::caps::Caps;
use crate::problem::{DType, Options, Packed, Problem, Shape};
use crate::tile::{AnyBackwardTile, AnyTile, Path, Sweep, backward_matrix_tile, backward_tile, forward_tile};

impl Variant {
    /// Every kind of kernel that a device with these capabilities may be given: each path, storage type, mask and
    /// option, at head sizes from narrow to wide. What the tests validate and translate.
    pub fn all(caps: &Caps) -> Vec<Variant> {
        let mut variants = Vec::new();
        for path in paths(caps) {
            for problem in representative_problems() {
                let Some(forward) = forward_variant(&problem, path, caps) else { continue };
                variants.push(forward);
                if matches!(path, Path::Portable | Path::Subgroup) && problem.shape.head_dim == 40 {
                    variants.push(Variant { standard: true, a2: false, ..forward });
                }
                if let Some(AnyTile::Matrix(tile)) = forward.tile {
                    let kinds = tile.kinds().into_iter().map(AnyTile::Matrix);
                    let fitting = kinds.filter(|tile| tile.validate(&problem, path, caps).is_ok());
                    variants.extend(fitting.map(|tile| Variant::forward(&problem, path, Some(tile), caps)));
                }
                // The backward's texts depend on the head sizes through constants only: two kinds will do.
                if matches!(problem.shape.head_dim, 40 | 256) {
                    variants.extend(backward_variants(&problem, path, caps));
                }
            }
        }
        variants
    }

    /// Every kernel of one problem that a device with these capabilities may be given: forward, and the gradients with
    /// a₂ or, where the problem does not keep it, without.
    pub fn of(problem: &Problem, caps: &Caps) -> Vec<Variant> {
        let kernels = |path| {
            let backward = backward_variants(problem, path, caps);
            let fused = backward.into_iter().filter(|variant| !variant.standard);
            forward_variant(problem, path, caps).into_iter().chain(fused).collect::<Vec<_>>()
        };
        paths(caps).flat_map(kernels).collect()
    }
}

fn paths(caps: &Caps) -> impl Iterator<Item = Path> {
    Path::ALL.into_iter().filter(|path| match path {
        Path::Naive | Path::Portable => true,
        Path::Subgroup => caps.subgroups.is_some(),
        Path::Matrix => caps.matrix.is_some(),
    })
}

/// The forward kernel of a problem; `None` where the path cannot run it.
fn forward_variant(problem: &Problem, path: Path, caps: &Caps) -> Option<Variant> {
    let tile = match path {
        Path::Naive => None,
        Path::Portable | Path::Subgroup | Path::Matrix => Some(forward_tile(problem, path, caps).ok()?.tile),
    };
    Some(Variant::forward(problem, path, tile, caps))
}

/// The backward kernels of a problem.
fn backward_variants(problem: &Problem, path: Path, caps: &Caps) -> Vec<Variant> {
    let rows = Variant::backward(problem, Kernel::BackwardRows, path, caps);
    let sweeps = [Sweep::Dq, Sweep::Mean, Sweep::Dkv].into_iter().flat_map(|sweep| {
        let tiles: Vec<Option<AnyBackwardTile>> = match path {
            Path::Naive => vec![None],
            Path::Portable | Path::Subgroup => {
                backward_tile(problem, sweep, path, caps).into_iter().map(|choice| Some(choice.tile.into())).collect()
            }
            Path::Matrix => {
                let tile = backward_matrix_tile(problem, sweep, caps).into_iter();
                tile.flat_map(|tile| tile.kinds()).map(|tile| Some(tile.into())).collect()
            }
        };
        tiles.into_iter().map(move |tile| Variant::backward(problem, Kernel::Backward(sweep, tile), path, caps))
    });
    let fused: Vec<_> = sweeps.chain([rows]).collect();
    let comparable = fused.iter().filter(|variant| !matches!(variant.kernel, Kernel::Backward(Sweep::Mean, _)));
    let comparable = comparable.filter(|_| path != Path::Naive && problem.shape.head_dim == 40);
    let standard: Vec<_> = comparable.map(|variant| Variant { standard: true, a2: false, ..*variant }).collect();
    [fused, standard].concat()
}

/// A problem for each storage type, mask and head size; the options that change the text take turns, so that each of
/// them meets each of those.
fn representative_problems() -> Vec<Problem> {
    let options = [(None, false, false), (Some(30.0), false, true), (None, true, true)];
    let masks = [(false, (None, None)), (true, (None, None)), (true, (Some(64), None))];
    let mut problems = Vec::new();
    for (turn, dtype) in DType::ALL.into_iter().enumerate() {
        for (mask, (causal, window)) in masks.into_iter().enumerate() {
            for (size, (head_dim, value_dim)) in [(8, 8), (40, 24), (128, 128), (256, 256)].into_iter().enumerate() {
                let (softcap, packed, outputs) = options[(turn + mask + size) % options.len()];
                let shape = Shape { batch: 1, q_len: 512, kv_len: 512, heads: 8, kv_heads: 4, head_dim, value_dim };
                let options = Options { causal, window, softcap, lse: outputs, a2: outputs, ..Options::default() };
                let packed = packed.then(|| Packed { cu_seqlens_q: vec![0, 512], cu_seqlens_k: vec![0, 512] });
                problems.push(Problem { shape, dtype, options, packed });
            }
        }
    }
    problems
}
