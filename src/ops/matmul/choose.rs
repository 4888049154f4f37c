//! (product, options, capabilities) → tile, and with it the path. Pure.

use super::Matmul;
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::tile::{AnyMatmulTile, Path, matmul_cost, matmul_matrix_tile, matmul_tile, unfit_for_matrix_units};

/// Choices that are normally left to the planner; tests, benchmarks and tuners force them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MatmulOptions {
    /// [`Path::Portable`] or [`Path::Matrix`]; `None` lets the planner choose.
    pub path: Option<Path>,
    /// The tile; `None` lets the planner choose.
    pub tile: Option<AnyMatmulTile>,
}

impl MatmulOptions {
    /// The given path, the tile left to the planner.
    pub fn on(path: Path) -> Self {
        MatmulOptions { path: Some(path), ..Default::default() }
    }

    /// The given tile, on its path.
    pub fn with(tile: impl Into<AnyMatmulTile>) -> Self {
        MatmulOptions { tile: Some(tile.into()), ..Default::default() }
    }
}

impl Matmul {
    /// What keeps the product from matrix units, whose operands are f16, on any device: f32 storage or an operand in f32;
    /// a gradient in bf16, since gradients in bf16 reach below what f16 holds. bf16 forward, of activations and weights, is
    /// exact from 2⁻¹⁷ to 65504, as in the forward pass of attention. `None` where nothing does.
    pub fn unfit_for_matrix_units(&self) -> Option<&'static str> {
        unfit_for_matrix_units(self.form, self.dtype, self.a_f32)
    }

    /// # Errors
    /// [`Error::Unsupported`] where it may not go to matrix units.
    fn fits_matrix_units(&self) -> Result<()> {
        let refuse = |what| Error::Unsupported {
            what: format!("{what} on matrix units, whose operands are f16,"),
            hint: "use the portable path".into(),
        };
        self.unfit_for_matrix_units().map_or(Ok(()), |what| Err(refuse(what)))
    }
}

/// The tile of a product. Unasked, matrix units are taken where [`Caps::objection`] says nothing against them, a matrix is
/// filled, and their estimate is the least.
///
/// # Errors
/// [`Error::Invalid`] for another path than the two, or than the tile's; [`Error::Unsupported`] for a product that may not
/// go to matrix units; those of the tiles' `validate`.
pub(super) fn choose(problem: &Matmul, options: MatmulOptions, caps: &Caps) -> Result<AnyMatmulTile> {
    let Matmul { form, rows, columns, .. } = *problem;
    let path = options.path.or(options.tile.map(|tile| tile.path()));
    if path == Some(Path::Matrix) {
        problem.fits_matrix_units()?;
    }
    let portable = || AnyMatmulTile::Tiled(matmul_tile(form, rows, columns, caps));
    let tile = match (path, options.tile) {
        (Some(path), Some(tile)) if tile.path() != path => {
            return Err(Error::invalid("tile", format!("one of the {} path", path.name()), format!("{tile:?}")));
        }
        (_, Some(tile)) => tile,
        (Some(Path::Portable), None) => portable(),
        (Some(Path::Matrix), None) => matmul_matrix_tile(form, rows, columns, caps)?.into(),
        (Some(path), None) => return Err(Error::invalid("path", "portable or matrix", path.name())),
        (None, None) => unasked(problem, caps).unwrap_or_else(portable),
    };
    tile.validate(form, caps)?;
    Ok(tile)
}

/// The tile on matrix units, where nothing speaks against it.
fn unasked(problem: &Matmul, caps: &Caps) -> Option<AnyMatmulTile> {
    let Matmul { form, rows, columns, .. } = *problem;
    if caps.objection(Path::Matrix).is_some() || problem.unfit_for_matrix_units().is_some() {
        return None;
    }
    let tile = matmul_matrix_tile(form, rows, columns, caps).ok()?;
    let other = matmul_cost(form, rows, columns, caps, &matmul_tile(form, rows, columns, caps));
    (rows.min(columns) >= tile.size && tile.cost(rows, columns) < other).then_some(tile.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::DType;
    use crate::tile::Form;
    use wgpu::DeviceType;

    fn device(adapter: &str, kind: DeviceType) -> Caps {
        Caps {
            adapter: adapter.into(),
            kind,
            vendor: 0x10de,
            driver: "NVIDIA".into(),
            workgroup_storage: 48 << 10,
            invocations: 1024,
            subgroups: Some((32, 32)),
            matrix: Some(16),
            ..Caps::floor()
        }
    }

    fn path(problem: &Matmul, options: MatmulOptions, caps: &Caps) -> Result<Path> {
        choose(problem, options, caps).map(|tile| tile.path())
    }

    #[test]
    fn matrix_units_take_what_they_lose_nothing_of() {
        let caps = device("NVIDIA H200", DeviceType::DiscreteGpu);
        for form in Form::ALL {
            for dtype in DType::ALL {
                let problem = Matmul::new(form, [4096, 1024, 1024], dtype);
                let fit = dtype == DType::F16 || (dtype == DType::Bf16 && form == Form::Forward);
                let expected = if fit { Path::Matrix } else { Path::Portable };
                assert_eq!(path(&problem, MatmulOptions::default(), &caps), Ok(expected), "{problem:?}");
                let asked = path(&problem, MatmulOptions::on(Path::Matrix), &caps);
                assert_eq!(asked.is_ok(), fit, "{problem:?}: {asked:?}");
                assert!(fit || asked.unwrap_err().is_unsupported());
                let mixed = Matmul { a_f32: true, ..problem };
                assert_eq!(path(&mixed, MatmulOptions::default(), &caps), Ok(Path::Portable));
                assert_eq!(path(&problem, MatmulOptions::on(Path::Portable), &caps), Ok(Path::Portable));
            }
        }
        let few = Matmul::new(Form::Forward, [1, 4096, 4096], DType::F16);
        assert_eq!(path(&few, MatmulOptions::default(), &caps), Ok(Path::Portable));
    }

    #[test]
    fn elsewhere_they_wait_to_be_asked() {
        let problem = Matmul::new(Form::Forward, [4096, 1024, 1024], DType::F16);
        let software = Caps { software: true, ..device("llvmpipe", DeviceType::Cpu) };
        let turing = device("NVIDIA GeForce RTX 2060 SUPER", DeviceType::DiscreteGpu);
        for caps in [software, turing, device("Some APU", DeviceType::IntegratedGpu)] {
            assert_eq!(path(&problem, MatmulOptions::default(), &caps), Ok(Path::Portable), "{}", caps.adapter);
            assert_eq!(path(&problem, MatmulOptions::on(Path::Matrix), &caps), Ok(Path::Matrix), "{}", caps.adapter);
        }
        let missing = path(&problem, MatmulOptions::on(Path::Matrix), &Caps::floor());
        assert!(matches!(missing, Err(Error::MissingFeature { path: "matrix", .. })), "{missing:?}");
    }

    #[test]
    fn paths_without_products_and_tiles_of_others_are_refused() {
        let caps = device("NVIDIA H200", DeviceType::DiscreteGpu);
        let problem = Matmul::new(Form::Forward, [64; 3], DType::F16);
        let naive = path(&problem, MatmulOptions::on(Path::Naive), &caps);
        assert!(matches!(naive, Err(Error::Invalid { name: "path", .. })), "{naive:?}");
        let tile = matmul_tile(Form::Forward, 64, 64, &caps).into();
        let options = MatmulOptions { path: Some(Path::Matrix), tile: Some(tile) };
        let other = path(&problem, options, &caps);
        assert!(matches!(other, Err(Error::Invalid { name: "tile", .. })), "{other:?}");
    }
}
