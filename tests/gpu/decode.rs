//! Decode against the reference: lengths, ragged batches, splits, many rows, masks, pages, forks, slices, counts.

use crate::cache::{Step, Stepped, World};
use crate::device::Gpu;
use crate::support::{self, Tensors};
use crate::{Case, case};
use diffattn::reference::Judge;
use diffattn::{
    DType, DecodeBuffers, DecodeOptions, DecodeProblem, DecodeTile, DiffAttention, Error, ForwardBuffers, HostInputs,
    HostOutputs, KvConfig, KvDType, Options, Pages, Path, PlanOptions, Problem, Shape, read_buffer, wgpu,
};
use libtest_mimic::Failed;
use wgpu::util::DeviceExt as _;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        cases.push(case(format!("decode::lengths::{}", dtype.name()), move |gpu| lengths(gpu, dtype)));
        cases.push(case(format!("decode::many_rows::{}", dtype.name()), move |gpu| many_rows(gpu, dtype)));
    }
    cases.push(case("decode::few_rows", few_rows));
    cases.push(case("decode::splits", splits));
    cases.push(case("decode::windows", windows));
    cases.push(case("decode::generation", generation));
    cases.push(case("decode::paged_is_contiguous", paged_is_contiguous));
    cases.push(case("decode::forks_part", forks_part));
    cases.push(case("decode::int8_on_its_grid", int8_on_its_grid));
    cases.push(case("decode::int8_within_its_step", int8_within_its_step));
    cases.push(case("decode::each_element_is_loaded_once", each_element_is_loaded_once));
    cases.push(case("decode::chunked_prefill", chunked_prefill));
    cases.push(case("decode::small_bindings_are_sliced", small_bindings_are_sliced));
    cases.push(case("decode::mistakes_are_named", mistakes_are_named));
    cases.push(case("decode::runtime_checks_change_no_bit", runtime_checks_change_no_bit));
    cases
}

fn config(sequences: u32, capacity: u32, dtype: DType) -> KvConfig {
    let (kv_heads, head_dim, value_dim) = (2, 40, 24);
    KvConfig { sequences, capacity, kv_heads, head_dim, value_dim, dtype: dtype.into(), pages: None }
}

fn causal() -> Options {
    let mut options = Options::default();
    (options.causal, options.lse) = (true, true);
    options
}

fn on(path: Path) -> DecodeOptions {
    let mut options = DecodeOptions::default();
    options.path = Some(path);
    options
}

/// The paths that decode has.
fn decode_paths(attention: &DiffAttention) -> Vec<Path> {
    let subgroups = attention.caps().subgroups.map(|_| Path::Subgroup);
    [Path::Portable].into_iter().chain(subgroups).collect()
}

/// The full device; for f16, which it reads in another way, also the floor.
fn devices(gpu: &Gpu, dtype: DType) -> Vec<&DiffAttention> {
    if dtype == DType::F16 { vec![&gpu.attention, &gpu.floor] } else { vec![&gpu.attention] }
}

fn judge(steps: Vec<Stepped>, label: &str) -> Result<(), Failed> {
    steps.iter().try_for_each(|stepped| stepped.judge(label))
}

/// One ragged batch: caches of 1 to 4096 tokens, 1 to 2 new ones.
fn lengths(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let lengths = [1, 15, 16, 17, 515, 4096];
    for attention in devices(gpu, dtype) {
        for path in decode_paths(attention) {
            let mut world = World::new(attention, config(lengths.len() as u32, 4096, dtype), dtype)?;
            let mut which = vec![];
            for (index, len) in lengths.into_iter().enumerate() {
                let q_len = rng.u32(1..=2).min(len);
                world.grow(index, len - q_len, rng)?;
                which.push((index, q_len));
            }
            let how = Step { heads: 4, q_len: 2, options: causal() };
            judge(world.step(&which, how, on(path), rng)?, &format!("{path:?}"))?;
        }
    }
    Ok(())
}

/// One pair and more for each KV head, whole and in part of a vector.
fn few_rows(gpu: &Gpu) -> Result<(), Failed> {
    let (rng, dtype) = (&mut support::rng(), DType::F16);
    for path in decode_paths(&gpu.attention) {
        for (heads, q_len) in [(2, 1), (6, 1)] {
            let mut world = World::new(&gpu.attention, config(2, 300, dtype), dtype)?;
            world.grow(0, 290, rng)?;
            let how = Step { heads, q_len, options: causal() };
            let steps = world.step(&[(0, q_len), (1, 1)], how, on(path), rng)?;
            judge(steps, &format!("{path:?}, {heads} heads, {q_len} tokens"))?;
        }
    }
    Ok(())
}

/// One KV head for all heads and 16 new tokens: up to 512 rows, of which some share a workgroup and some do not.
fn many_rows(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for attention in devices(gpu, dtype) {
        for (heads, q_len) in [(5, 1), (8, 3), (16, 16)] {
            let mut world = World::new(attention, KvConfig { kv_heads: 1, ..config(3, 256, dtype) }, dtype)?;
            world.grow(0, 100, rng)?;
            world.grow(1, 17, rng)?;
            let how = Step { heads, q_len, options: causal() };
            let steps = world.step(&[(0, q_len), (1, 1), (2, q_len)], how, on(Path::Portable), rng)?;
            judge(steps, &format!("{heads} heads, {q_len} tokens"))?;
        }
    }
    Ok(())
}

fn splits(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for path in decode_paths(&gpu.attention) {
        for splits in [1, 2, 7, 300] {
            let mut world = World::new(&gpu.attention, config(3, 1024, DType::F16), DType::F16)?;
            world.grow(0, 900, rng)?;
            world.grow(2, 300, rng)?;
            let mut options = on(path);
            options.splits = Some(splits);
            let how = Step { heads: 4, q_len: 2, options: causal() };
            let steps = world.step(&[(0, 2), (1, 1), (2, 2)], how, options, rng)?;
            judge(steps, &format!("{path:?} in {splits} splits"))?;
        }
    }
    Ok(())
}

/// Windows, no mask, a softcap and a scale; few rows in splits and many in one workgroup.
fn windows(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (heads, splits) in [(2, 3), (8, 1)] {
        for side in 0..3 {
            let mut options = Options::default();
            options.lse = true;
            match side {
                0 => options.softcap = Some(20.0),
                1 => (options.window, options.causal) = ((Some(37), None), true),
                _ => (options.window, options.scale) = ((Some(150), Some(1)), Some(0.3)),
            }
            let mut world = World::new(&gpu.attention, config(2, 512, DType::F32), DType::F32)?;
            world.grow(0, 400, rng)?;
            world.grow(1, 20, rng)?;
            let mut how = DecodeOptions::default();
            how.splits = Some(splits);
            let step = Step { heads, q_len: 3, options };
            judge(world.step(&[(0, 3), (1, 2)], step, how, rng)?, &format!("{heads} heads, {splits} splits"))?;
        }
    }
    Ok(())
}

/// A step is bound once and encoded for every token: only the cache's length changes.
fn generation(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let (attention, dtype) = (&gpu.attention, DType::F32);
    let mut world = World::new(attention, config(1, 128, dtype), dtype)?;
    world.grow(0, 60, rng)?;
    let problem = world.decode_problem(1, Step { heads: 4, q_len: 1, options: Options::default() });
    let plan = attention.plan_decode_blocking(&problem, DecodeOptions::default())?;
    let buffer = |elements: u64| {
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::COPY_SRC;
        let descriptor = wgpu::BufferDescriptor { label: None, size: 4 * elements, usage, mapped_at_creation: false };
        attention.device().create_buffer(&descriptor)
    };
    let (q, lam, out) = (buffer(8 * 40), buffer(4), buffer(4 * 24));
    let buffers = DecodeBuffers { q: (&q).into(), lam: (&lam).into(), out: (&out).into(), lse: None, loads: None };
    let pass = plan.bind(&world.cache, &buffers)?;
    for len in 61..81 {
        let new = world.tokens(1, rng);
        world.append(&[0], |_| new.clone())?;
        let problem = world.problem(1, len, 2, Options::default());
        let mut tensors = support::Tensors::random(&problem, rng);
        (tensors.k, tensors.v) = (world.sequences[0].k.clone(), world.sequences[0].v.clone());
        attention.queue().write_buffer(&q, 0, &dtype.encode(&tensors.q));
        attention.queue().write_buffer(&lam, 0, &DType::F32.encode(&tensors.lam));
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()), &world.cache)?;
        attention.queue().submit([encoder.finish()]);
        let out = pollster::block_on(read_buffer(attention.device(), attention.queue(), &out))?;
        let outputs = HostOutputs { out: dtype.decode(&out), ..Default::default() };
        Stepped { problem, tensors, outputs }.judge(&format!("at {len} tokens"))?;
    }
    Ok(())
}

/// The same random steps on a contiguous and on paged caches give the same bits.
fn paged_is_contiguous(gpu: &Gpu) -> Result<(), Failed> {
    let seed = support::rng().u64(..);
    for kv_dtype in [KvDType::F16, KvDType::Int8] {
        let run = |pages| {
            let rng = &mut fastrand::Rng::with_seed(seed);
            let config = KvConfig { pages, dtype: kv_dtype, ..config(3, 300, DType::F16) };
            let mut world = World::new(&gpu.attention, config, DType::F16)?;
            let mut all = vec![];
            for (lengths, heads) in [([0, 40, 200], 4), ([17, 90, 201], 10)] {
                for (index, len) in lengths.into_iter().enumerate() {
                    world.grow(index, len, rng)?;
                }
                let how = Step { heads, q_len: 2, options: causal() };
                let steps = world.step(&[(2, 1), (0, 2), (1, 1)], how, DecodeOptions::default(), rng)?;
                all.extend(steps.iter().map(|stepped| stepped.outputs.clone()));
            }
            Ok::<_, Failed>(all)
        };
        let contiguous = run(None)?;
        for (size, count) in [(16, 60), (48, 25)] {
            if run(Some(Pages { size, count }))? != contiguous {
                return Err(format!("pages of {size} tokens, {kv_dtype:?}: other bits").into());
            }
        }
    }
    Ok(())
}

/// Forks share a past and then part, in the middle of a page; one is cut back and grows again.
fn forks_part(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (dtype, kv_dtype) in [(DType::F32, KvDType::F32), (DType::F16, KvDType::Int8)] {
        for pages in [None, Some(Pages { size: 32, count: 20 })] {
            let config = KvConfig { pages, dtype: kv_dtype, ..config(4, 160, dtype) };
            let mut world = World::new(&gpu.attention, config, dtype)?;
            world.on_grid = kv_dtype == KvDType::Int8;
            for index in (1..4).rev() {
                world.cache.remove(world.sequences[index].id)?;
                world.sequences.pop();
            }
            world.grow(0, 75, rng)?;
            let (a, b) = (world.fork(0)?, world.fork(0)?);
            world.truncate(b, 40)?;
            let how = Step { heads: 4, q_len: 2, options: causal() };
            for which in [vec![(0, 1), (a, 2), (b, 1)], vec![(b, 2), (0, 2)], vec![(a, 1), (0, 1), (b, 2)]] {
                let steps = world.step(&which, how, DecodeOptions::default(), rng)?;
                judge(steps, &format!("{pages:?}, {which:?}"))?;
            }
        }
    }
    Ok(())
}

fn int8_world<'a>(gpu: &'a Gpu, on_grid: bool, rng: &mut fastrand::Rng) -> Result<World<'a>, Failed> {
    let config = KvConfig { dtype: KvDType::Int8, ..config(3, 600, DType::F16) };
    let mut world = World::new(&gpu.attention, config, DType::F16)?;
    world.on_grid = on_grid;
    world.grow(0, 500, rng)?;
    world.grow(1, 30, rng)?;
    Ok(world)
}

/// Values that int8 holds exactly are judged as any others.
fn int8_on_its_grid(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    for (heads, path) in [(4, None), (4, Some(Path::Portable)), (12, None)] {
        let mut world = int8_world(gpu, true, rng)?;
        let mut options = DecodeOptions::default();
        options.path = path;
        let how = Step { heads, q_len: 2, options: causal() };
        judge(world.step(&[(0, 2), (1, 1), (2, 1)], how, options, rng)?, "int8")?;
    }
    Ok(())
}

/// Others are off by half a step of their row at most: a score by δ = scale · Σ|q| · step / 2, hence a weight by a
/// factor of at most exp(2δ), and each output by as much of the largest value and half a step of V.
fn int8_within_its_step(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let mut world = int8_world(gpu, false, rng)?;
    let how = Step { heads: 4, q_len: 1, options: causal() };
    for stepped in world.step(&[(0, 1), (1, 1), (2, 1)], how, DecodeOptions::default(), rng)? {
        let Stepped { problem, tensors, outputs } = &stepped;
        let (q, k, v, lam) = (&tensors.q, &tensors.k, &tensors.v, &tensors.lam);
        let truth = diffattn::reference::forward(problem, &HostInputs { q, k, v, lam })?;
        let largest = |row: &[f32]| row.iter().fold(0f64, |max, x| max.max(f64::from(x.abs())));
        let (step_k, step_v) = (largest(k) / 127.0, largest(v) / 127.0);
        let sum_q = q.chunks(40).map(|row| row.iter().map(|x| f64::from(x.abs())).sum::<f64>());
        let delta = f64::from(problem.scale()) * sum_q.fold(0.0, f64::max) * step_k / 2.0;
        let bound = 2.0 * (((2.0 * delta).exp() - 1.0) * largest(v) + step_v / 2.0) + 0.01;
        let errors = outputs.out.iter().zip(&truth.out).map(|(a, b)| (f64::from(*a) - *b).abs());
        let error = errors.fold(0.0, |max: f64, error| if error <= max { max } else { error });
        if error.is_nan() || error > bound {
            return Err(format!("error {error:.3e}, bound {bound:.3e} at {} tokens", problem.shape.kv_len).into());
        }
        // Rounding to nearest errs both ways: over many keys far less than the bound, which would pass a wrong scale.
        if problem.shape.kv_len > 400 && error > 0.02 {
            return Err(format!("error {error:.3e}: more than rounding explains").into());
        }
    }
    Ok(())
}

/// The counting build: every element of a visible key and value is loaded once, whatever the number of query heads,
/// and no other is touched; but the last key stands for those that the last tile lacks. However many loads go
/// ahead: also in steps that the elements and keys do not divide into.
fn each_element_is_loaded_once(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let (kv_heads, head_dim, value_dim, capacity) = (2, 40, 24, 600);
    for (heads, q_len, splits, ahead) in [(2, 1, 3, 1), (2, 1, 3, 8), (4, 2, 1, 1), (4, 2, 1, 5), (64, 1, 2, 1)] {
        for path in decode_paths(&gpu.attention) {
            let rows = heads / kv_heads * 2 * q_len;
            if path == Path::Subgroup && rows > 8 {
                continue;
            }
            let mut world = World::new(&gpu.attention, config(2, capacity, DType::F16), DType::F16)?;
            let lengths = [511, 20];
            world.grow(0, lengths[0] - q_len, rng)?;
            world.grow(1, lengths[1] - q_len, rng)?;
            let mut options = on(path);
            (options.splits, options.count_loads) = (Some(splits), true);
            let mut how = Step { heads, q_len, options: Options::default() };
            (how.options.causal, how.options.window) = (true, (Some(300), None));
            let plan = world.attention.plan_decode_blocking(&world.decode_problem(2, how), options)?;
            options.tile = Some(DecodeTile { ahead, ..plan.tile() });
            judge(world.step(&[(0, q_len), (1, q_len)], how, options, rng)?, "counted")?;
            for sequence in 0..2 {
                let len = lengths[sequence as usize];
                let first = len.saturating_sub(300 + q_len);
                for kv_head in 0..kv_heads {
                    for key in 0..capacity {
                        let row = ((sequence * kv_heads + kv_head) * capacity + key) as usize;
                        let expected = u32::from((first..len).contains(&key));
                        for (member, octets) in [(0, head_dim / 8), (1, value_dim / 8)] {
                            for index in row * octets..(row + 1) * octets {
                                let count = world.loads[index][member];
                                if count != expected && !(key == len - 1 && count > 1) {
                                    let what = ["K", "V"][member];
                                    let how = format!(
                                        "{heads} heads, {q_len} tokens, {splits} splits, {ahead} ahead, {path:?}"
                                    );
                                    return Err(format!("{what} of key {key} of {len}: {count} loads; {how}").into());
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(())
}

/// A prompt in chunks, by the forward pass on the cache, is one long prompt.
fn chunked_prefill(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let (attention, dtype) = (&gpu.attention, DType::F16);
    let mut world = World::new(attention, config(2, 150, dtype), dtype)?;
    let mut options = Options::default();
    options.causal = true;
    let whole = world.problem(130, 130, 3, options);
    let tensors = support::Tensors::random(&whole, rng);
    let (k_row, v_row, q_row, out_row) = (2 * 40, 2 * 24, 12 * 40, 6 * 24);
    let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
    let upload = |contents: &[u8]| {
        let descriptor = wgpu::util::BufferInitDescriptor { label: None, contents, usage };
        attention.device().create_buffer_init(&descriptor)
    };
    let mut out = vec![];
    let mut len = 0;
    for chunk in [37usize, 1, 64, 28] {
        let part = |tensor: &[f32], row: usize| tensor[len * row..(len + chunk) * row].to_vec();
        let new = (part(&tensors.k, k_row), part(&tensors.v, v_row));
        world.append(&[1], |_| new.clone())?;
        let problem = Problem::new(
            diffattn::Shape { q_len: chunk as u32, kv_len: (len + chunk) as u32, ..whole.shape },
            dtype,
            options,
        );
        let plan = attention.plan_forward_blocking(&problem, PlanOptions::default())?;
        let [k, v] = world.cache.keys_and_values(world.sequences[1].id)?;
        let q = upload(&dtype.encode(&part(&tensors.q, q_row)));
        let lam = upload(&DType::F32.encode(&part(&tensors.lam, 6)));
        let chunk_out = upload(&dtype.encode(&vec![f32::NAN; chunk * out_row]));
        let (q, lam) = ((&q).into(), (&lam).into());
        let buffers = ForwardBuffers { q, k, v, lam, out: (&chunk_out).into(), lse: None, a2: None };
        let pass = plan.bind(&buffers)?;
        let mut encoder = attention.device().create_command_encoder(&Default::default());
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
        attention.queue().submit([encoder.finish()]);
        let bytes = pollster::block_on(read_buffer(attention.device(), attention.queue(), &chunk_out))?;
        out.extend(dtype.decode(&bytes));
        len += chunk;
    }
    let judge = Judge::forward(&whole, &tensors.inputs())?;
    match judge.outputs(&HostOutputs { out, ..Default::default() })?.iter().find(|verdict| !verdict.passed) {
        None => Ok(()),
        Some(verdict) => Err(format!("{verdict:?}").into()),
    }
}

/// A cache that outgrows a binding lies in several buffers; what cannot be sliced is refused by name.
fn small_bindings_are_sliced(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let small = gpu.with_limits(|limits| limits.max_storage_buffer_binding_size = 64 << 10);
    // One KV head of one sequence takes 19200 bytes: three fit a binding, so that a sequence is cut in two.
    let sizes = config(3, 240, DType::F16);
    for (dtype, heads) in [(KvDType::F16, 4), (KvDType::Int8, 12)] {
        let mut world = World::new(&small, KvConfig { dtype, ..sizes }, DType::F16)?;
        world.on_grid = true;
        world.grow(0, 130, rng)?;
        world.grow(1, 237, rng)?;
        let mut options = DecodeOptions::default();
        options.splits = Some(2);
        let how = Step { heads, q_len: 2, options: causal() };
        judge(world.step(&[(0, 1), (1, 2), (2, 2)], how, options, rng)?, "sliced")?;
    }
    let named = |config: KvConfig, words: &str| match small.kv_cache_blocking(&config) {
        Err(error @ Error::Limit { name: "max_storage_buffer_binding_size", .. })
            if error.is_unsupported() && error.to_string().contains(words) =>
        {
            Ok(())
        }
        other => Err(Failed::from(format!("expected “{words}”, found {:?}", other.map(|_| ())))),
    };
    named(KvConfig { capacity: 1000, ..sizes }, "one KV head of one sequence")?;
    named(KvConfig { pages: Some(Pages { size: 16, count: 200 }), ..sizes }, "all pages")
}

fn runtime_checks_change_no_bit(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let shape = Shape { batch: 2, q_len: 2, kv_len: 77, heads: 4, kv_heads: 2, head_dim: 40, value_dim: 24 };
    let problem = Problem::new(shape, DType::F16, causal());
    let step = DecodeProblem::of(&problem)?;
    let tensors = Tensors::random(&problem, rng);
    let truth = Judge::forward(&problem, &tensors.inputs())?;
    for path in decode_paths(&gpu.attention) {
        let run = |runtime_checks| {
            let mut options = on(path);
            options.runtime_checks = runtime_checks;
            let plan = gpu.attention.plan_decode_blocking(&step, options)?;
            pollster::block_on(plan.run(&tensors.inputs()))
        };
        let (unchecked, checked) = (run(false)?, run(true)?);
        if truth.outputs(&unchecked)?.iter().any(|verdict| !verdict.passed) {
            return Err(format!("{path:?}: wrong").into());
        }
        let bits = |outputs: &HostOutputs| {
            let lse = outputs.lse.iter().flatten();
            outputs.out.iter().chain(lse).map(|value| value.to_bits()).collect::<Vec<_>>()
        };
        if bits(&unchecked) != bits(&checked) {
            return Err(format!("{path:?}: runtime checks change the result").into());
        }
    }
    Ok(())
}

fn mistakes_are_named(gpu: &Gpu) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let pages = Some(Pages { size: 16, count: 4 });
    let mut world = World::new(&gpu.attention, KvConfig { pages, ..config(2, 64, DType::F32) }, DType::F32)?;
    world.grow(0, 40, rng)?;
    let expect = |result: Result<(), Error>, words: &str| match result {
        Err(error) if error.to_string().contains(words) => Ok(()),
        other => Err(Failed::from(format!("expected “{words}”, found {other:?}"))),
    };
    let mut encoder = gpu.attention.device().create_command_encoder(&Default::default());
    let (a, b) = (world.sequences[0].id, world.sequences[1].id);
    expect(world.cache.advance(&mut encoder, &[(b, 17), (a, 1)]), "too few pages: 2 needed, 1 available")?;
    expect(world.cache.advance(&mut encoder, &[(a, 25)]), "tokens of one sequence: 65 needed, 64 available")?;
    world.cache.remove(b)?;
    expect(world.cache.advance(&mut encoder, &[(a, 1), (b, 1)]), "no such sequence")?;
    if world.cache.len(a)? != 40 {
        return Err("a refused step changed a length".into());
    }

    let how = Step { heads: 4, q_len: 2, options: causal() };
    let good = world.decode_problem(1, how);
    let plan =
        |problem: &diffattn::DecodeProblem, options| gpu.attention.plan_decode_blocking(problem, options).map(|_| ());
    let mut with_a2 = good;
    with_a2.options.a2 = true;
    let options = DecodeOptions::default();
    expect(plan(&diffattn::DecodeProblem { heads: 3, ..good }, options), "multiple of kv_heads")?;
    expect(plan(&diffattn::DecodeProblem { q_len: 17, ..good }, options), "`q_len` is 17")?;
    expect(plan(&diffattn::DecodeProblem { dtype: DType::F16, ..good }, options), "use one type for both")?;
    expect(plan(&with_a2, options), "a2 from decode")?;
    expect(plan(&good, on(Path::Naive)), "naive path")?;

    // A step of three tokens on a plan for two.
    let attention = &gpu.attention;
    let usage = wgpu::BufferUsages::STORAGE;
    let descriptor = wgpu::BufferDescriptor { label: None, size: 1 << 16, usage, mapped_at_creation: false };
    let (input, out, lse) = (
        attention.device().create_buffer(&descriptor),
        attention.device().create_buffer(&descriptor),
        attention.device().create_buffer(&descriptor),
    );
    let (q, lse) = ((&input).into(), Some((&lse).into()));
    let buffers = DecodeBuffers { q, lam: q, out: (&out).into(), lse, loads: None };
    let pass = attention.plan_decode_blocking(&good, options)?.bind(&world.cache, &buffers)?;
    world.cache.advance(&mut encoder, &[(a, 3)])?;
    let result = pass.encode(&mut encoder.begin_compute_pass(&Default::default()), &world.cache);
    expect(result, "1 sequences with up to 3 tokens")?;
    let other = attention.kv_cache_blocking(world.cache.config())?;
    let result = pass.encode(&mut encoder.begin_compute_pass(&Default::default()), &other);
    expect(result, "the one that the pass was bound to")
}
