//! The files and constants of the backward's kernels.

use super::{Kernel, Variant};
use crate::problem::Shape;
use crate::tile::{AnyBackwardTile, Sweep};

impl Variant {
    pub(super) fn backward_files(&self) -> Vec<&'static str> {
        let Kernel::Backward(sweep, tile) = self.kernel else {
            let a2 = if self.a2 { "backward/saved_a2.wgsl" } else { "backward/no_a2.wgsl" };
            return vec!["backward_rows.wgsl", "backward/terms.wgsl", a2];
        };
        let (naive, tiled, matrix, write) = match sweep {
            Sweep::Dq => {
                ("backward_dq_naive.wgsl", "backward_dq.wgsl", "backward_dq_matrix.wgsl", "backward/write_dq.wgsl")
            }
            // The mean has no kernel on matrix units.
            Sweep::Mean => ("backward_mean_naive.wgsl", "backward_mean.wgsl", "", "backward/write_mean.wgsl"),
            Sweep::Dkv => {
                ("backward_dkv_naive.wgsl", "backward_dkv.wgsl", "backward_dkv_matrix.wgsl", "backward/write_dkv.wgsl")
            }
        };
        let by_keys = sweep != Sweep::Dkv;
        let mut files = match tile {
            None => vec![naive],
            Some(AnyBackwardTile::Tiled(_)) => vec![tiled, "rows4.wgsl"],
            Some(AnyBackwardTile::Matrix(tile)) => {
                let memory = if tile.scalars { "matrix/scalars.wgsl" } else { "matrix/vectors.wgsl" };
                vec![matrix, memory, "backward/matrix_tiles.wgsl"]
            }
        };
        files.extend([write, "backward/terms.wgsl", "backward/inputs.wgsl"]);
        match tile {
            None => files.extend(by_keys.then_some("query_row.wgsl")),
            Some(AnyBackwardTile::Tiled(_)) if by_keys => {
                files.extend(["backward/key_tiles.wgsl", "backward/work.wgsl"])
            }
            Some(AnyBackwardTile::Matrix(_)) if by_keys => files.push("backward/work.wgsl"),
            Some(_) => {}
        }
        files
    }

    /// What the header says of a sweep's tile.
    pub(super) fn backward_constants(
        &self,
        sweep: Sweep,
        tile: AnyBackwardTile,
        shape: &Shape,
    ) -> Vec<(&'static str, u32)> {
        match tile {
            AnyBackwardTile::Matrix(tile) => vec![
                ("MAT", tile.size),
                ("SUBGROUP", tile.subgroup),
                ("SUBGROUPS", tile.subgroups),
                ("ITEMS", tile.items),
                ("ITEM_STEPS", tile.steps(tile.items)),
                ("HEAD_STEPS", tile.steps(self.head_dim)),
                ("VALUE_STEPS", tile.steps(self.value_dim)),
                ("BATCH", tile.batch(sweep)),
                ("HEAD_BATCHES", tile.steps(self.head_dim).div_ceil(tile.batch(sweep))),
                ("VALUE_BATCHES", tile.steps(self.value_dim).div_ceil(tile.batch(sweep))),
                ("ROW_STEPS", tile.row_steps(sweep)),
                ("HEAD_PARTS", tile.steps(self.head_dim).div_ceil(tile.row_steps(sweep))),
                ("VALUE_PARTS", tile.steps(self.value_dim).div_ceil(tile.row_steps(sweep))),
                ("KV_STRIDE", tile.kv_stride(shape)),
                ("SCORE_STRIDE", tile.score_stride(sweep)),
                ("WEIGHT_STRIDE", tile.weight_stride(sweep)),
                ("A_SLOTS", tile.row_slots(sweep)),
                ("B_SLOTS", tile.item_slots(sweep, shape)),
            ],
            AnyBackwardTile::Tiled(tile) => vec![
                ("THREADS", tile.threads),
                ("ROW_QUADS", tile.row_quads),
                ("LANES", tile.lanes),
                ("PER_LANE", tile.per_lane),
                ("PARTS", tile.parts(sweep)),
                ("HEAD_PER_LANE", tile.quads_per_lane(self.head_dim)),
                ("VALUE_PER_LANE", tile.quads_per_lane(self.value_dim)),
                ("HEAD_STRIDE", tile.stride(self.head_dim)),
                ("VALUE_STRIDE", tile.stride(self.value_dim)),
                ("K_BASE", tile.k_base(shape)),
                ("SLOTS", tile.slots(sweep, shape)),
            ],
        }
    }
}
