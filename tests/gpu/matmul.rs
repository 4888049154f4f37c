//! The matrix products of a linear layer against float64, at sizes that are mostly tails.

use crate::device::Gpu;
use crate::support;
use crate::{Case, case};
use diffattn::layer::{
    AnyMatmulTile, Epilogue, Form, Matmul, MatmulBuffers, MatmulMatrixTile, MatmulOptions, Matrix, Rotary,
};
use diffattn::tile::{matmul_matrix_tile, matmul_tile};
use diffattn::{Caps, DType, DiffAttention, Error, Path, read_buffer, wgpu};
use libtest_mimic::Failed;
use wgpu::util::DeviceExt as _;

/// Rows, columns, depth.
const SIZES: [[u32; 3]; 4] = [[1, 1, 1], [5, 7, 9], [70, 132, 37], [129, 68, 130]];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for form in Form::ALL {
        for dtype in DType::ALL {
            let name = format!("matmul::{}::{}", form.name(), dtype.name());
            cases.push(case(name, move |gpu| products(gpu, form, dtype, tiles)));
        }
    }
    cases.push(case("matmul::mixed_types", mixed_types));
    cases.push(case("matmul::rotary", |gpu| rotary(gpu, &DType::ALL, Path::Portable)));
    cases.push(case("matmul::bias", |gpu| bias(gpu, Path::Portable)));
    cases.push(case("matmul::mistakes", mistakes));
    cases
}

/// Those on matrix units, for adapters that have them.
pub fn matrix_cases() -> Vec<Case> {
    let each = Form::ALL.map(|form| (form, DType::F16)).into_iter().chain([(Form::Forward, DType::Bf16)]);
    let name = |form: Form, dtype: DType| format!("matrix::matmul::{}::{}", form.name(), dtype.name());
    let product = |(form, dtype)| case(name(form, dtype), move |gpu| products(gpu, form, dtype, matrix_tiles));
    let mut cases: Vec<Case> = each.map(product).collect();
    cases.push(case("matrix::matmul::rotary", |gpu| rotary(gpu, &[DType::F16], Path::Matrix)));
    cases.push(case("matrix::matmul::bias", |gpu| bias(gpu, Path::Matrix)));
    cases.push(case("matrix::matmul::weight_gradient", weight_gradient));
    cases.push(case("matrix::matmul::choice", choice));
    cases
}

/// The tiles that the device's planner, and a GPU's at the floor, would choose.
fn tiles(gpu: &Gpu, form: Form, [rows, columns, _]: [u32; 3]) -> Vec<AnyMatmulTile> {
    let mut tiles = vec![matmul_tile(form, rows, columns, gpu.attention.caps())];
    tiles.push(matmul_tile(form, rows, columns, &Caps::floor()));
    tiles.dedup();
    tiles.into_iter().map(AnyMatmulTile::from).collect()
}

/// The planner's tile of matrix units, the same for every size, since drivers compile long; and others that differ from it.
fn matrix_tiles(gpu: &Gpu, form: Form, _: [u32; 3]) -> Vec<AnyMatmulTile> {
    let tile = matmul_matrix_tile(form, 256, 256, gpu.attention.caps()).expect("a tile");
    let wide = MatmulMatrixTile { subgroups: [1, 2], steps: [2, 1], unrolled: true, ..tile };
    let high = MatmulMatrixTile { subgroups: [2, 1], steps: [1, 2], depth: 2 * tile.size, scalars: true, ..tile };
    [tile, wide, high].map(AnyMatmulTile::from).into()
}

fn products(
    gpu: &Gpu,
    form: Form,
    dtype: DType,
    tiles: impl Fn(&Gpu, Form, [u32; 3]) -> Vec<AnyMatmulTile>,
) -> Result<(), Failed> {
    let mut rng = support::rng();
    for sizes in SIZES {
        let problem = Matmul::new(form, sizes, dtype);
        let case = Product::random(problem, &mut rng);
        for tile in tiles(gpu, form, sizes).into_iter().map(MatmulOptions::with) {
            for add in [false, true] {
                case.check(&case.run(&gpu.attention, tile, add, None, None)?, add, |_, _, x| x)?;
            }
        }
    }
    // The comparer sees a wrong element, and a row and a column that are swapped.
    let case = Product::random(Matmul::new(form, [9, 9, 33], dtype), &mut rng);
    let right = case.run(&gpu.attention, MatmulOptions::with(tiles(gpu, form, [9, 9, 33])[0]), false, None, None)?;
    case.check(&right, false, |_, _, x| x)?;
    let mut wrong = right.clone();
    wrong[40] += 0.1;
    let transposed: Vec<f32> = (0..right.len()).map(|i| right[i % 12 * 12 % right.len() + i / 12 % 9]).collect();
    for wrong in [wrong, transposed] {
        if case.check(&wrong, false, |_, _, x| x).is_ok() {
            return Err("a wrong product passed".into());
        }
    }
    Ok(())
}

/// λ and its gradient are f32 beside a storage type.
fn mixed_types(gpu: &Gpu) -> Result<(), Failed> {
    let mut rng = support::rng();
    for form in Form::ALL {
        for dtype in [DType::F16, DType::Bf16] {
            for (a_f32, c_f32) in [(true, false), (false, true), (true, true)] {
                let sizes = [21, 10, 35];
                let case = Product::random(Matmul { a_f32, c_f32, ..Matmul::new(form, sizes, dtype) }, &mut rng);
                let tile = tiles(gpu, form, sizes)[0];
                case.check(&case.run(&gpu.attention, MatmulOptions::with(tile), true, None, None)?, true, |_, _, x| x)?;
            }
        }
    }
    Ok(())
}

fn rotary(gpu: &Gpu, dtypes: &[DType], path: Path) -> Result<(), Failed> {
    let mut rng = support::rng();
    let (rows, head_dim) = (11, 8);
    let positions: Vec<u32> = (0..rows).map(|_| rng.u32(..40)).collect();
    let config = diffattn::layer::Config::new(diffattn::layer::Kind::Baseline, 64, 3, 3, head_dim);
    let angles = diffattn::layer::rotary::table(&config, 0..40);
    let buffers = [bytemuck_u32(&positions), DType::F32.encode(&angles.concat())].map(|bytes| upload(gpu, &bytes));
    let rotary = Rotary { positions: &buffers[0], angles: &buffers[1], head_dim, head_stride: head_dim };
    for &dtype in dtypes {
        let problem =
            Matmul { epilogue: Epilogue::Rotary, ..Matmul::new(Form::Forward, [rows, 3 * head_dim, 40], dtype) };
        let case = Product::random(problem, &mut rng);
        let result = case.run(&gpu.attention, MatmulOptions::on(path), false, Some(rotary), None)?;
        let turned = |row: usize, column: usize, x: [f64; 2]| {
            let angle = f64::from(positions[row])
                * f64::from(config.rope_theta).powf(-2.0 * ((column % 8) / 2) as f64 / f64::from(head_dim));
            // x is the element and its partner.
            if column.is_multiple_of(2) {
                x[0] * angle.cos() - x[1] * angle.sin()
            } else {
                x[1] * angle.sin() + x[0] * angle.cos()
            }
        };
        let pairs = |row: usize, column: usize, x: f64| turned(row, column, [x, case.exact(row, column ^ 1).0]);
        case.check(&result, false, pairs)?;
        if case.check(&result, false, |_, _, x| x).is_ok() {
            return Err("nothing was turned".into());
        }
    }
    Ok(())
}

fn bias(gpu: &Gpu, path: Path) -> Result<(), Failed> {
    let mut rng = support::rng();
    let bias: Vec<f32> = (0..8).map(|_| rng.f32()).collect();
    let buffer = upload(gpu, &DType::F32.encode(&bias));
    let problem =
        Matmul { epilogue: Epilogue::Bias, c_f32: true, ..Matmul::new(Form::Forward, [9, 6, 20], DType::F16) };
    let case = Product::random(problem, &mut rng);
    let result = case.run(&gpu.attention, MatmulOptions::on(path), false, None, Some(&buffer))?;
    case.check(&result, false, |_, column, x| x + f64::from(bias[column]))?;
    if case.check(&result, false, |_, _, x| x).is_ok() {
        return Err("no bias was added".into());
    }
    Ok(())
}

/// In f32, as the module has it, and added to another's.
fn weight_gradient(gpu: &Gpu) -> Result<(), Failed> {
    let problem = Matmul { c_f32: true, ..Matmul::new(Form::WeightGradient, [21, 10, 35], DType::F16) };
    let case = Product::random(problem, &mut support::rng());
    let result = case.run(&gpu.attention, MatmulOptions::on(Path::Matrix), true, None, None)?;
    case.check(&result, true, |_, _, x| x)?;
    if case.check(&result, false, |_, _, x| x).is_ok() {
        return Err("nothing was added".into());
    }
    Ok(())
}

/// Unasked, a software driver's matrix units are left alone; what they would lose bits of is refused.
fn choice(gpu: &Gpu) -> Result<(), Failed> {
    let plan = |problem: Matmul, options| gpu.attention.plan_matmul_blocking(&problem, options);
    let right = Matmul::new(Form::Forward, [64; 3], DType::F16);
    let asked = plan(right, MatmulOptions::on(Path::Matrix))?.label();
    assert!(asked.ends_with(".matrix"), "{asked}");
    if gpu.attention.caps().software {
        let unasked = plan(right, MatmulOptions::default())?;
        assert_eq!(unasked.path(), Path::Portable, "{}", unasked.label());
    }
    let gradient = Matmul::new(Form::WeightGradient, [64; 3], DType::Bf16);
    for problem in [Matmul { dtype: DType::F32, ..right }, Matmul { a_f32: true, ..right }, gradient] {
        let refused = plan(problem, MatmulOptions::on(Path::Matrix)).map(|plan| plan.label());
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{refused:?}");
    }
    Ok(())
}

fn mistakes(gpu: &Gpu) -> Result<(), Failed> {
    let attention = &gpu.attention;
    let plan = |problem: Matmul| attention.plan_matmul_blocking(&problem, MatmulOptions::default());
    let right = Matmul::new(Form::Forward, [8, 8, 8], DType::F32);
    let empty = plan(Matmul { depth: 0, ..right });
    assert!(matches!(empty, Err(Error::Invalid { name: "depth", .. })), "{empty:?}");
    let turned = plan(Matmul { epilogue: Epilogue::Rotary, ..Matmul::new(Form::InputGradient, [8, 8, 8], DType::F32) });
    assert!(matches!(turned, Err(Error::Unsupported { .. })), "{turned:?}");

    let plan = plan(right)?;
    let buffers = [(); 3].map(|()| upload(gpu, &[0; 256]));
    let [a, b, c] = [0, 1, 2].map(|i| Matrix { buffer: &buffers[i], offset: 0, stride: 8 });
    let bind = |a, b, c, bias| plan.bind(&MatmulBuffers { a, b, c, rotary: None, bias, add: false }).map(|_| ());
    bind(a, b, c, None)?;
    let slice = |error: Result<(), Error>| assert!(matches!(error, Err(Error::Slice { .. })), "{error:?}");
    slice(bind(Matrix { offset: 8, ..a }, b, c, None));
    slice(bind(Matrix { stride: 9, ..a }, b, c, None));
    slice(bind(Matrix { stride: 4, ..a }, b, c, None));
    slice(bind(a, Matrix { stride: 12, ..b }, c, None));
    slice(bind(a, b, Matrix { offset: 64, ..c }, None));
    slice(bind(c, b, c, None));
    let more = bind(a, b, c, Some(&buffers[0]));
    assert!(matches!(more, Err(Error::Shape { .. })), "{more:?}");
    Ok(())
}

/// A product with its operands, whose rows are padded with NaN.
struct Product {
    problem: Matmul,
    a: Vec<f32>,
    b: Vec<f32>,
    before: Vec<f32>,
}

const fn padded(len: u32) -> usize {
    len.next_multiple_of(4) as usize
}

impl Product {
    fn random(problem: Matmul, rng: &mut fastrand::Rng) -> Self {
        let Matmul { form, rows, columns, depth, dtype, a_f32, c_f32, .. } = problem;
        let type_of = |is_f32| if is_f32 { DType::F32 } else { dtype };
        let mut matrix = |rows: u32, len: u32, dtype: DType| {
            let mut values = vec![f32::NAN; rows as usize * padded(len)];
            for row in values.chunks_mut(padded(len)) {
                row[..len as usize].fill_with(|| dtype.round(rng.f32() - 0.5));
            }
            values
        };
        let (a, b) = match form {
            Form::Forward => (matrix(rows, depth, type_of(a_f32)), matrix(columns, depth, dtype)),
            Form::InputGradient => (matrix(rows, depth, type_of(a_f32)), matrix(depth, columns, dtype)),
            Form::WeightGradient => (matrix(depth, rows, type_of(a_f32)), matrix(depth, columns, dtype)),
        };
        let before = matrix(rows, columns, type_of(c_f32));
        Product { problem, a, b, before }
    }

    /// An element of A·B, and the sum of its terms' magnitudes.
    fn exact(&self, row: usize, column: usize) -> (f64, f64) {
        let Matmul { form, rows, columns, depth, .. } = self.problem;
        let (m, n, k) = (padded(rows), padded(columns), padded(depth));
        (0..depth as usize).fold((0.0, 0.0), |(sum, size), i| {
            let (a, b) = match form {
                Form::Forward => (self.a[row * k + i], self.b[column * k + i]),
                Form::InputGradient => (self.a[row * k + i], self.b[i * n + column]),
                Form::WeightGradient => (self.a[i * m + row], self.b[i * n + column]),
            };
            let term = f64::from(a) * f64::from(b);
            (sum + term, size + term.abs())
        })
    }

    fn run(
        &self,
        attention: &DiffAttention,
        options: MatmulOptions,
        add: bool,
        rotary: Option<Rotary<'_>>,
        bias: Option<&wgpu::Buffer>,
    ) -> Result<Vec<f32>, Failed> {
        let Matmul { form, rows, columns, depth, dtype, a_f32, c_f32, .. } = self.problem;
        let type_of = |is_f32| if is_f32 { DType::F32 } else { dtype };
        let (a_type, c_type) = (type_of(a_f32), type_of(c_f32));
        let device = attention.device();
        // Behind a row of four elements that nothing may touch.
        let place = |values: &[f32], dtype: DType| {
            let contents = dtype.encode(&[&[-7.0e4; 4], values, &[-7.0e4; 4]].concat());
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents: &contents, usage })
        };
        let nan = vec![f32::NAN; self.before.len()];
        let [a, b, c] =
            [place(&self.a, a_type), place(&self.b, dtype), place(if add { &self.before } else { &nan }, c_type)];
        let matrix =
            |buffer, len: u32, dtype: DType| Matrix { buffer, offset: 4 * dtype.size(), stride: padded(len) as u32 };
        let (a_len, b_len) = match form {
            Form::Forward => (depth, depth),
            Form::InputGradient => (depth, columns),
            Form::WeightGradient => (rows, columns),
        };
        let buffers = MatmulBuffers {
            a: matrix(&a, a_len, a_type),
            b: matrix(&b, b_len, dtype),
            c: matrix(&c, columns, c_type),
            rotary,
            bias,
            add,
        };
        let pass = attention.plan_matmul_blocking(&self.problem, options)?.bind(&buffers)?;
        let mut encoder = device.create_command_encoder(&Default::default());
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
        attention.queue().submit([encoder.finish()]);
        let all = c_type.decode(&pollster::block_on(read_buffer(device, attention.queue(), &c))?);
        let (values, fence) = (&all[4..4 + self.before.len()], c_type.round(-7.0e4));
        if all[..4].iter().chain(&all[4 + values.len()..]).any(|value| value.to_bits() != fence.to_bits()) {
            return Err(format!("{options:?}: something beside C was overwritten").into());
        }
        Ok(values.to_vec())
    }

    fn check(&self, c: &[f32], add: bool, then: impl Fn(usize, usize, f64) -> f64) -> Result<(), Failed> {
        let Matmul { rows, columns, depth, dtype, c_f32, .. } = self.problem;
        let epsilon = if c_f32 { DType::F32.epsilon() } else { dtype.epsilon() };
        for row in 0..rows as usize {
            for column in 0..columns as usize {
                let i = row * padded(columns) + column;
                let (product, size) = self.exact(row, column);
                let before = if add { f64::from(self.before[i]) } else { 0.0 };
                let expected = then(row, column, product) + before;
                // A rotated element has its partner's terms as well.
                let size = size
                    + if then(0, 1, 1.0) == 1.0 { 0.0 } else { self.exact(row, (column ^ 1) % columns as usize).1 };
                let bound = f64::from(depth + 2) * DType::F32.epsilon() * (size + before.abs())
                    + epsilon * expected.abs()
                    + 1e-7;
                let error = (f64::from(c[i]) - expected).abs();
                if error > bound || error.is_nan() {
                    let what = format!("{:?}: ({row}, {column}) is {}, expected {expected}", self.problem, c[i]);
                    return Err(format!("{what}: error {error:.2e}, bound {bound:.2e}").into());
                }
            }
        }
        Ok(())
    }
}

fn bytemuck_u32(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn upload(gpu: &Gpu, contents: &[u8]) -> wgpu::Buffer {
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents, usage };
    gpu.attention.device().create_buffer_init(&descriptor)
}
