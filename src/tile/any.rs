//! The tile of any forward kernel, and of any matrix product.

use super::{Form, MatmulMatrixTile, MatmulTile, Path, Tile};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::matrix::MatrixTile;
use crate::problem::{Problem, Shape};

/// The tile of a forward kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnyTile {
    /// Of the portable and subgroup paths.
    Tiled(Tile),
    /// Of the matrix path.
    Matrix(MatrixTile),
}

impl From<Tile> for AnyTile {
    fn from(tile: Tile) -> Self {
        AnyTile::Tiled(tile)
    }
}

impl From<MatrixTile> for AnyTile {
    fn from(tile: MatrixTile) -> Self {
        AnyTile::Matrix(tile)
    }
}

impl AnyTile {
    /// Packed query rows: position × output head of the tile × member of the pair.
    pub const fn rows(&self) -> u32 {
        match self {
            AnyTile::Tiled(tile) => tile.rows(),
            AnyTile::Matrix(tile) => tile.rows(),
        }
    }

    /// Keys of one step.
    pub const fn keys(&self) -> u32 {
        match self {
            AnyTile::Tiled(tile) => tile.keys(),
            AnyTile::Matrix(tile) => tile.keys,
        }
    }

    /// Invocations in the workgroup.
    pub const fn threads(&self) -> u32 {
        match self {
            AnyTile::Tiled(tile) => tile.threads,
            AnyTile::Matrix(tile) => tile.threads(),
        }
    }

    /// Output heads of one KV group whose rows share the tile.
    pub const fn heads_per_tile(&self) -> u32 {
        match self {
            AnyTile::Tiled(tile) => tile.heads_per_tile,
            AnyTile::Matrix(tile) => tile.heads_per_tile,
        }
    }

    /// Query positions.
    pub const fn positions(&self) -> u32 {
        self.rows() / (2 * self.heads_per_tile())
    }

    /// Bytes of workgroup memory on a path.
    pub const fn workgroup_bytes(&self, shape: &Shape, path: Path) -> u32 {
        match self {
            AnyTile::Tiled(tile) => tile.workgroup_bytes(shape, path),
            AnyTile::Matrix(tile) => tile.workgroup_bytes(shape),
        }
    }

    /// Checks the tile against the problem, the path and the device.
    ///
    /// # Errors
    /// Those of [`Tile::validate`] and [`MatrixTile::validate`]; [`Error::Invalid`] for a tile of another path.
    pub fn validate(&self, problem: &Problem, path: Path, caps: &Caps) -> Result<()> {
        match (self, path) {
            (AnyTile::Tiled(tile), Path::Portable | Path::Subgroup) => tile.validate(&problem.shape, path, caps),
            (AnyTile::Matrix(tile), Path::Matrix) => tile.validate(problem, caps),
            _ => Err(Error::invalid("tile", format!("one of the {} path", path.name()), self)),
        }
    }

    /// The path that takes such a tile where none is asked for.
    pub const fn path(&self) -> Path {
        match self {
            AnyTile::Tiled(_) => Path::Portable,
            AnyTile::Matrix(_) => Path::Matrix,
        }
    }
}

/// The tile of a matrix product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnyMatmulTile {
    /// Of the portable path.
    Tiled(MatmulTile),
    /// Of the matrix path.
    Matrix(MatmulMatrixTile),
}

impl From<MatmulTile> for AnyMatmulTile {
    fn from(tile: MatmulTile) -> Self {
        AnyMatmulTile::Tiled(tile)
    }
}

impl From<MatmulMatrixTile> for AnyMatmulTile {
    fn from(tile: MatmulMatrixTile) -> Self {
        AnyMatmulTile::Matrix(tile)
    }
}

impl AnyMatmulTile {
    /// Rows of C.
    pub const fn rows(&self) -> u32 {
        match self {
            AnyMatmulTile::Tiled(tile) => tile.rows(),
            AnyMatmulTile::Matrix(tile) => tile.rows(),
        }
    }

    /// Columns of C.
    pub const fn columns(&self) -> u32 {
        match self {
            AnyMatmulTile::Tiled(tile) => 4 * tile.column_quads(),
            AnyMatmulTile::Matrix(tile) => tile.columns(),
        }
    }

    /// Checks the tile against the device.
    ///
    /// # Errors
    /// Those of [`MatmulTile::validate`] and [`MatmulMatrixTile::validate`].
    pub fn validate(&self, form: Form, caps: &Caps) -> Result<()> {
        match self {
            AnyMatmulTile::Tiled(tile) => tile.validate(caps),
            AnyMatmulTile::Matrix(tile) => tile.validate(form, caps),
        }
    }

    /// The path that takes such a tile.
    pub const fn path(&self) -> Path {
        match self {
            AnyMatmulTile::Tiled(_) => Path::Portable,
            AnyMatmulTile::Matrix(_) => Path::Matrix,
        }
    }
}
