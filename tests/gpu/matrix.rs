//! The matrix path, on adapters that have matrix units. Apart from the others, since only few drivers have them.

use crate::device::Gpu;
use crate::run::{Placed, Placement, judge, queue_of, verdicts};
use crate::support::{self, Golden, Tensors};
use crate::{Case, case, golden, random};
use diffattn::reference::Judge;
use diffattn::{
    AnyTile, DType, Error, ForwardBuffers, HostOutputs, Layout, Options, Path, PlanOptions, Problem, Shape, Strides,
};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in [DType::F16, DType::Bf16] {
        for golden in Golden::all(dtype) {
            let name = format!("matrix::golden::{}::{}", golden.name, dtype.name());
            cases.push(case(name, move |gpu| golden::check(gpu, &golden, &[Path::Matrix])));
        }
        cases.push(case(format!("matrix::packed::{}", dtype.name()), move |gpu| packed(gpu, dtype)));
        cases.push(case(format!("matrix::growing_scores::{}", dtype.name()), move |gpu| growing_scores(gpu, dtype)));
        cases.push(case(format!("matrix::layouts::{}", dtype.name()), move |gpu| layouts(gpu, dtype)));
    }
    for (q_len, kv_len) in random::LENGTHS {
        cases.push(case(format!("matrix::random::{q_len}x{kv_len}"), move |gpu| tails(gpu, q_len, kv_len)));
    }
    for tile in TILES {
        cases.push(case(format!("matrix::tile::{tile}"), move |gpu| forced(gpu, tile)));
    }
    cases.push(case("matrix::nan_beside_the_rows", nan_beside_the_rows));
    cases.push(case("matrix::tiles_that_do_not_fit_are_refused", misfits_are_refused));
    cases.push(case("matrix::f32_is_refused", f32_is_refused));
    cases
}

/// One switch at a time from `r16k16m8x1`, and several at once: rows and keys for matrices of 8 × 8, see [`tile`].
const TILES: [&str; 22] = [
    "r16k16m8x1",
    "r16k8m8x1",
    "r16k32m8x1",
    "r16k64m8x1",
    "r16k16m8x2",
    "r32k16m8x4",
    "r128k8m8x1i",
    "r64k16m8x1h2",
    "r16k16m8x1p0",
    "r16k16m8x1p16",
    "r16k16m8x1w1",
    "r16k16m8x1w15",
    "r16k16m8x1i",
    "r32k8m8x1i",
    "r16k16m8x2c2",
    "r16k32m8x2c4",
    "r32k16m8x1c2i",
    "r16k16m8x1u",
    "r16k16m8x1s",
    "r16k16m8x1o",
    "r64k16m8x2c2h2uo",
    "r32k16m8x2c2w4iu",
];

/// The tile of this text for the device: rows and keys in proportion to its matrices, and as many invocations as its
/// subgroups have.
fn tile(gpu: &Gpu, text: &str) -> Result<AnyTile, Failed> {
    let caps = gpu.attention.caps();
    let (lanes, size) = (caps.subgroups.ok_or("no subgroups")?.0, caps.matrix.ok_or("no matrix units")?);
    let (rows, rest) = text[1..].split_once('k').ok_or("no keys")?;
    let (keys, rest) = rest.split_once("m8x").ok_or("no matrices of 8 × 8")?;
    let (strips, rest) = rest.split_at(1);
    let (rows, keys) = (rows.parse::<u32>()? * size / 8, keys.parse::<u32>()? * size / 8);
    let columns = rest.strip_prefix('c').and_then(|rest| rest.chars().next()?.to_digit(10)).unwrap_or(1);
    let threads = rows / size / strips.parse::<u32>()? * columns * lanes;
    Ok(format!("r{rows}k{keys}m{size}x{strips}t{threads}{rest}").parse()?)
}

/// Tails of queries and keys, a window that no tile is aligned to, and scores that grow along the keys, on one tile.
fn forced(gpu: &Gpu, text: &str) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut plan = PlanOptions::on(Path::Matrix);
    plan.tile = Some(tile(gpu, text)?);
    let mut options = Options::default();
    (options.window, options.scale, options.lse, options.a2) = ((Some(70), Some(5)), Some(1.0), true, true);
    let shape = Shape { batch: 2, q_len: 37, kv_len: 91, heads: 4, kv_heads: 2, head_dim: 16, value_dim: 24 };
    let problem = Problem::new(shape, DType::F16, options);
    let mut tensors = Tensors::random(&problem, rng);
    grow(&mut tensors, DType::F16, 45);
    let truth = Judge::forward(&problem, &tensors.inputs())?;
    judge(&gpu.attention, &problem, plan, &tensors, &truth, Placement { layout: Layout::Bhsd, fence: 64 })?;
    Ok(())
}

/// Scores that grow along the keys, by more than the lazy rescale tolerates: slowly before key `late`, then by much.
fn grow(tensors: &mut Tensors, dtype: DType, late: usize) {
    for query in tensors.q.chunks_exact_mut(16) {
        query[0] = 1.0;
    }
    let keys = tensors.k.len() / 16;
    for (j, key) in tensors.k.chunks_exact_mut(16).enumerate() {
        key.iter_mut().for_each(|k| *k = dtype.round(*k * 0.1));
        // As far as the tensor's own order tells, which is enough: scores grow somewhere.
        let j = j * late * 2 / keys.min(late * 2);
        key[0] = dtype.round(if j < late { j as f32 * 0.02 } else { (j - late).min(400) as f32 * 0.5 });
    }
}

/// Rows of a larger buffer between the tensors' own hold NaN: no path may let one in, not even times zero.
fn nan_beside_the_rows(gpu: &Gpu) -> Result<(), Failed> {
    const ROOM: usize = 128;
    let rng = &mut support::rng();
    let mut options = Options::default();
    options.causal = true;
    let shape = Shape { batch: 2, q_len: 37, kv_len: 91, heads: 4, kv_heads: 2, head_dim: 16, value_dim: 16 };
    let problem = Problem::new(shape, DType::F16, options);
    let tensors = Tensors::random(&problem, rng);
    let truth = Judge::forward(&problem, &tensors.inputs())?;
    let queue = queue_of(&gpu.attention);
    let spread = |values: &[f32], heads: u32, len: u32| {
        let width = (heads * 16) as usize;
        let mut all = vec![f32::NAN; 2 * ROOM * width];
        for (b, sequence) in values.chunks_exact(len as usize * width).enumerate() {
            all[b * ROOM * width..][..sequence.len()].copy_from_slice(sequence);
        }
        let [seq, batch] = [width as u64, (ROOM * width) as u64];
        (Placed::new(&queue, "tensor", &all, 0, DType::F16), Layout::Strided(Strides { batch, seq, head: 16 }))
    };
    let (q, q_layout) = spread(&tensors.q, 8, 37);
    let (k, kv_layout) = spread(&tensors.k, 2, 91);
    let (v, _) = spread(&tensors.v, 2, 91);
    let lam = Placed::new(&queue, "lam", &tensors.lam, 0, DType::F32);
    for text in ["r16k16m8x1", "r32k16m8x2c2", "r16k16m8x1i"] {
        let mut plan = PlanOptions::on(Path::Matrix);
        plan.tile = Some(tile(gpu, text)?);
        let plan = gpu.attention.plan_forward_blocking(&problem, plan)?;
        let out = Placed::new(&queue, "out", &vec![f32::NAN; tensors.dout.len()], 64, DType::F16);
        let pass = plan.bind(&ForwardBuffers {
            q: q.slice(q_layout),
            k: k.slice(kv_layout),
            v: v.slice(kv_layout),
            lam: lam.slice(Layout::Default),
            out: out.slice(Layout::Default),
            lse: None,
            a2: None,
        })?;
        let mut encoder = queue.0.create_command_encoder(&Default::default());
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
        queue.1.submit([encoder.finish()]);
        let outputs = HostOutputs { out: out.read(&queue)?, ..HostOutputs::default() };
        verdicts(&plan, truth.outputs(&outputs)?)?;
    }
    Ok(())
}

fn misfits_are_refused(gpu: &Gpu) -> Result<(), Failed> {
    let shape = Shape { batch: 1, q_len: 5, kv_len: 91, heads: 4, kv_heads: 2, head_dim: 16, value_dim: 24 };
    let problem = Problem::new(shape, DType::F16, Options::default());
    for text in [
        "r16k8m8x2c2", // fewer matrices of keys than columns
        "r16k12m8x1",
        "r16k16m8x1w16",
        "r16k16m8x1p4",
        "r16k16m8x1h3",
        "r1024k64m8x8",
    ] {
        let mut plan = PlanOptions::on(Path::Matrix);
        plan.tile = Some(tile(gpu, text)?);
        match gpu.attention.plan_forward_blocking(&problem, plan) {
            Err(Error::Unsupported { .. } | Error::Invalid { .. } | Error::Limit { .. }) => {}
            other => return Err(format!("{text}: expected a refusal, found {:?}", other.map(|p| p.label())).into()),
        }
    }
    Ok(())
}

fn check(gpu: &Gpu, problem: &Problem, tensors: &Tensors, placement: Placement) -> Result<(), Failed> {
    let truth = Judge::forward(problem, &tensors.inputs())?;
    judge(&gpu.attention, problem, PlanOptions::on(Path::Matrix), tensors, &truth, placement)?;
    Ok(())
}

fn tails(gpu: &Gpu, q_len: u32, kv_len: u32) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = Problem::new(random::shape(rng, q_len, kv_len), DType::F16, random::options(rng, kv_len));
    check(gpu, &problem, &Tensors::random(&problem, rng), Placement::PLAIN)
}

fn packed(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let problem = random::packed_problem(rng, dtype)?;
    check(gpu, &problem, &Tensors::random(&problem, rng), Placement::PLAIN)
}

/// Scores that grow along the keys, by more than the lazy rescale tolerates, first slowly and late by much: the
/// accumulators are rescaled again and again, after many tiles in which they were not.
fn growing_scores(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut options = Options::default();
    (options.scale, options.lse, options.a2) = (Some(1.0), true, true);
    let shape = Shape { batch: 1, q_len: 20, kv_len: 300, heads: 2, kv_heads: 1, head_dim: 16, value_dim: 32 };
    let problem = Problem::new(shape, dtype, options);
    let mut tensors = Tensors::random(&problem, rng);
    grow(&mut tensors, dtype, 200);
    check(gpu, &problem, &tensors, Placement::PLAIN)
}

fn layouts(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let shape = Shape { batch: 2, q_len: 37, kv_len: 50, heads: 6, kv_heads: 2, head_dim: 40, value_dim: 24 };
    let mut options = Options::default();
    options.causal = true;
    let problem = Problem::new(shape, dtype, options);
    let tensors = Tensors::random(&problem, rng);
    for (layout, fence) in [(Layout::Bshd, 0), (Layout::Bhsd, 264)] {
        check(gpu, &problem, &tensors, Placement { layout, fence })?;
    }
    Ok(())
}

fn f32_is_refused(gpu: &Gpu) -> Result<(), Failed> {
    let shape = Shape { batch: 1, q_len: 4, kv_len: 4, heads: 2, kv_heads: 1, head_dim: 16, value_dim: 16 };
    let problem = Problem::new(shape, DType::F32, Options::default());
    match gpu.attention.plan_forward_blocking(&problem, PlanOptions::on(Path::Matrix)) {
        Err(error @ Error::Unsupported { .. }) if error.is_unsupported() => Ok(()),
        other => Err(format!("expected f32 to be refused, found {:?}", other.map(|plan| plan.label())).into()),
    }
}
