//! Decode against the reference: lengths, ragged batches, splits, pages, int8, slices, counts.

use crate::cache::{Step, World};
use crate::device::{Gpu, paths};
use crate::support;
use crate::{Case, case};
use diffattn::{DType, DecodeOptions, DiffAttention, KvConfig, Options, Path};
use libtest_mimic::Failed;

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for dtype in DType::ALL {
        cases.push(case(format!("decode::lengths::{}", dtype.name()), move |gpu| lengths(gpu, dtype)));
    }
    cases.push(case("decode::splits", splits));
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

/// Every path but the naive one, which decode does not have.
fn decode_paths(attention: &DiffAttention) -> Vec<Path> {
    paths(attention).into_iter().filter(|&path| path != Path::Naive).collect()
}

/// One ragged batch: caches of 1 to 4096 tokens, 1 to 2 new ones.
fn lengths(gpu: &Gpu, dtype: DType) -> Result<(), Failed> {
    let rng = &mut support::rng();
    let lengths = [1, 15, 16, 17, 515, 4096];
    for attention in [&gpu.attention, &gpu.floor] {
        for path in decode_paths(attention) {
            let mut world = World::new(attention, config(lengths.len() as u32, 4096, dtype), dtype)?;
            let mut which = vec![];
            for (index, len) in lengths.into_iter().enumerate() {
                let q_len = rng.u32(1..=2).min(len);
                world.grow(index, len - q_len, rng)?;
                which.push((index, q_len));
            }
            let how = Step { heads: 4, q_len: 2, options: causal() };
            for stepped in world.step(&which, how, on(path), rng)? {
                stepped.judge(&format!("{path:?}"))?;
            }
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
            for stepped in world.step(&[(0, 2), (1, 1), (2, 2)], how, options, rng)? {
                stepped.judge(&format!("{path:?} in {splits} splits"))?;
            }
        }
    }
    Ok(())
}
