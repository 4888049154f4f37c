//! The matrix product: what makes up its text.

use super::matrix_types;
use crate::caps::Caps;
use crate::problem::DType;
use crate::tile::{AnyMatmulTile, Form, Path, matmul_matrix_tile, matmul_tile, unfit_for_matrix_units};

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
    pub tile: AnyMatmulTile,
    /// Whether A is f32, whatever the storage type.
    pub a_f32: bool,
    /// Whether C is f32, whatever the storage type.
    pub c_f32: bool,
    /// What becomes of the result.
    pub epilogue: Epilogue,
}

impl MatmulKernel {
    /// Its part of the label, with the storage type.
    pub(super) fn label(&self, dtype: DType) -> String {
        let MatmulKernel { form, tile, a_f32, c_f32, epilogue } = *self;
        let tile = match tile {
            AnyMatmulTile::Tiled(tile) => {
                let (rows, columns) = (tile.rows(), 4 * tile.column_quads());
                let staged = if tile.stage_b { "" } else { "d" };
                format!("r{rows}c{columns}k{}t{}n{}{staged}", tile.depth, tile.threads, tile.quads_per_lane)
            }
            AnyMatmulTile::Matrix(tile) => tile.to_string(),
        };
        let flags = [
            (a_f32, ".a32"),
            (c_f32, ".c32"),
            (epilogue == Epilogue::Bias, ".bias"),
            (epilogue == Epilogue::Rotary, ".rotary"),
        ];
        let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        format!("matmul.{}.{}.{tile}{flags}", form.name(), dtype.name())
    }

    pub(super) const fn bindings(&self) -> u32 {
        match self.epilogue {
            Epilogue::Plain => 4,
            Epilogue::Bias => 5,
            Epilogue::Rotary => 6,
        }
    }

    /// Whether marked loops are written out.
    pub(super) const fn unrolled(&self) -> bool {
        match self.tile {
            AnyMatmulTile::Tiled(tile) => tile.unrolled(),
            AnyMatmulTile::Matrix(tile) => tile.unrolled,
        }
    }

    /// What comes before everything else.
    pub(super) fn head(&self) -> String {
        match self.tile {
            AnyMatmulTile::Tiled(_) => String::new(),
            AnyMatmulTile::Matrix(tile) => matrix_types(tile.size),
        }
    }

    /// The files, after those of the storage type.
    pub(super) fn files(&self, dtype: DType) -> Vec<&'static str> {
        let MatmulKernel { form, tile, a_f32, c_f32, epilogue } = *self;
        let either = |on, name, other| if on { name } else { other };
        let mut files = match tile {
            AnyMatmulTile::Tiled(_) => {
                let [a_along_depth, b_along_depth] = form.along_depth();
                vec![
                    "matmul.wgsl",
                    "matmul/b_stored.wgsl",
                    either(a_f32, "matmul/a_f32.wgsl", "matmul/a_stored.wgsl"),
                    either(a_along_depth, "matmul/a_rows.wgsl", "matmul/a_columns.wgsl"),
                    either(b_along_depth, "matmul/b_columns.wgsl", "matmul/b_rows.wgsl"),
                ]
            }
            AnyMatmulTile::Matrix(tile) => vec![
                "matmul_matrix.wgsl",
                either(tile.scalars, "matrix/scalars.wgsl", "matrix/vectors.wgsl"),
                either(dtype == DType::F16, "matmul/ab_f16.wgsl", "matmul/ab_bf16.wgsl"),
            ],
        };
        files.extend(["matmul/params.wgsl", either(c_f32, "matmul/c_f32.wgsl", "matmul/c_stored.wgsl")]);
        files.extend(match epilogue {
            Epilogue::Plain => &["matmul/write_plain.wgsl"][..],
            Epilogue::Bias => &["matmul/write_biased.wgsl"],
            Epilogue::Rotary => &["matmul/write_rotated.wgsl", "layer/turned.wgsl"],
        });
        files
    }

    pub(super) fn switches(&self) -> Vec<(&'static str, bool)> {
        match self.tile {
            AnyMatmulTile::Tiled(tile) => vec![("STAGE_B", tile.stage_b)],
            AnyMatmulTile::Matrix(_) => {
                let [a, b] = self.form.along_depth();
                vec![("A_ALONG_DEPTH", a), ("B_ALONG_DEPTH", b)]
            }
        }
    }

    pub(super) fn constants(&self) -> Vec<(&'static str, u32)> {
        match self.tile {
            AnyMatmulTile::Tiled(tile) => vec![
                ("THREADS", tile.threads),
                ("COLUMN_LANES", tile.column_lanes),
                ("ROWS_PER_LANE", tile.rows_per_lane),
                ("QUADS_PER_LANE", tile.quads_per_lane),
                ("DEPTH", tile.depth),
                ("A_STRIDE", tile.a_stride()),
                ("B_SLOTS", tile.b_slots()),
            ],
            AnyMatmulTile::Matrix(tile) => {
                let ([a_stride, b_stride], [a_slots, b_slots]) = (tile.strides(self.form), tile.slots(self.form));
                vec![
                    ("MAT", tile.size),
                    ("SUBGROUP", tile.subgroup),
                    ("ROW_SUBGROUPS", tile.subgroups[0]),
                    ("COLUMN_SUBGROUPS", tile.subgroups[1]),
                    ("ROW_STEPS", tile.steps[0]),
                    ("COLUMN_STEPS", tile.steps[1]),
                    ("DEPTH", tile.depth),
                    ("DEPTH_STEPS", tile.depth / tile.size),
                    ("A_STRIDE", a_stride),
                    ("B_STRIDE", b_stride),
                    ("C_STRIDE", tile.c_stride()),
                    ("A_SLOTS", a_slots),
                    ("B_SLOTS", b_slots),
                    ("C_SLOTS", tile.c_slots()),
                ]
            }
        }
    }

    /// Every kind of product that a device with these capabilities may be given.
    pub(super) fn all(dtype: DType, caps: &Caps) -> Vec<MatmulKernel> {
        let mut kernels = Vec::new();
        for form in Form::ALL {
            let tiled = [(1, 64), (1024, 1024)].map(|(rows, columns)| matmul_tile(form, rows, columns, caps).into());
            let units = matmul_matrix_tile(form, 1024, 1024, caps).ok().into_iter().flat_map(|tile| tile.kinds());
            let units = units.map(AnyMatmulTile::from).filter(|tile| tile.validate(form, caps).is_ok());
            for tile in tiled.into_iter().chain(units) {
                for (a_f32, c_f32) in [(false, false), (false, true), (true, false), (true, true)] {
                    let epilogues = [Epilogue::Plain, Epilogue::Bias, Epilogue::Rotary];
                    let epilogues = epilogues.into_iter().filter(|&of| form == Form::Forward || of == Epilogue::Plain);
                    if tile.path() == Path::Portable || unfit_for_matrix_units(form, dtype, a_f32).is_none() {
                        kernels.extend(epilogues.map(|epilogue| MatmulKernel { form, tile, a_f32, c_f32, epilogue }));
                    }
                }
            }
        }
        kernels
    }
}
