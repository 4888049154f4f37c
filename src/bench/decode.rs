//! Decode cases on the device: steps of one token against full caches, taken in turn so that none stays in a cache of
//! the device.

use std::cell::Cell;

use web_time::Instant;

use super::case::{Case, Form};
use super::limits::beyond_caches;
use super::on_device::{OnDevice, Outputs, Tensor};
use super::stopwatch::Stopwatch;
use super::subject::{Kernel, Pinned};
use super::tensors::{SHIFT, Tensors};
use crate::attention::DiffAttention;
use crate::error::{Error, Result};
use crate::host::Sizes;
use crate::kv_cache::{KvCache, KvConfig};
use crate::ops::decode::{DecodeBuffers, DecodeOptions, DecodeProblem};
use crate::ops::host;
use crate::ops::kv_append::AppendProblem;
use crate::problem::DType;
use crate::slice::TensorSlice;

/// Caches at most.
const MOST_CACHES: u64 = 16;

pub(super) async fn prepare<'a>(
    attention: &'a DiffAttention,
    stopwatch: &'a Stopwatch,
    case: &Case,
    tensors: &Tensors,
    pinned: Pinned,
) -> Result<OnDevice<'a>> {
    let problem = case.decode_problem();
    let DecodeProblem { cache: config, batch, q_len, .. } = problem;
    if case.form == Form::Unfused {
        let hint = "the fused step reads K and V as often, and differs in the subtraction only".into();
        return Err(Error::Unsupported { what: "an un-fused decode step".into(), hint });
    }
    if q_len != 1 {
        return Err(Error::Unsupported {
            what: format!("a decode step of {q_len} tokens"),
            hint: "measure one".into(),
        });
    }
    let sizes = Sizes::of(&case.problem())?;
    let (q, lam, out) = host::with_memory(&attention.device, "creating the tensors", || {
        Ok((
            host::upload(attention, "q", case.dtype.encode(&tensors.q))?,
            host::upload(attention, "lam", DType::F32.encode(&tensors.lam))?,
            Tensor::poisoned(attention, "out", case.dtype, sizes.out)?,
        ))
    })
    .await?;

    let bytes = config.bytes_per_token() * u64::from(config.capacity) * u64::from(batch);
    let count = beyond_caches(attention.caps()).div_ceil(bytes).clamp(1, MOST_CACHES);
    let mut caches = Vec::new();
    for _ in 0..count {
        caches.push(full_cache(attention, &config, case.dtype, tensors).await?);
    }

    let start = Instant::now();
    let plan = attention.plan_decode(&problem, pinned.decode).await?;
    let buffers =
        DecodeBuffers { q: (&q).into(), lam: (&lam).into(), out: (&out.buffer).into(), lse: None, loads: None };
    let mut steps = Vec::new();
    for cache in caches {
        steps.push((plan.bind(&cache, &buffers)?, cache));
    }
    let first = &steps[0].0;
    let options = DecodeOptions {
        path: Some(plan.path()),
        tile: Some(plan.tile()),
        splits: Some(plan.splits()),
        ..pinned.decode
    };
    let kernel = Kernel {
        label: plan.label(),
        path: plan.path().name(),
        pinned: Pinned { decode: options, ..pinned },
        cold_ns: start.elapsed().as_nanos() as f64,
        dispatches: first.dispatches(),
        scratch_bytes: first.scratch_bytes(),
    };
    let turn = Cell::new(0);
    let record = Box::new(move |recorder: &mut wgpu::ComputePass<'_>| {
        let (pass, cache) = &steps[turn.get() % steps.len()];
        turn.set(turn.get() + 1);
        // The step is the one planned: the cache was not touched since.
        if let Err(error) = pass.encode(recorder, cache) {
            unreachable!("{error}");
        }
    });
    Ok(OnDevice { attention, stopwatch, kernel, record, judged: None, outputs: Outputs::Out(out) })
}

/// A cache full of the tensors' keys and values, at a step of one token that is there already.
async fn full_cache(attention: &DiffAttention, config: &KvConfig, dtype: DType, tensors: &Tensors) -> Result<KvCache> {
    let mut cache = attention.kv_cache(config).await?;
    let period = tensors.period.unwrap_or(config.capacity);
    let problem = AppendProblem { cache: *config, batch: 1, q_len: period, dtype };
    let plan = attention.plan_append(&problem).await?;
    let (k, v) = host::with_memory(&attention.device, "creating the tensors", || {
        // Twice, so that a sequence may start anywhere.
        let twice = |name, tensor: &[f32]| host::upload(attention, name, dtype.encode(&tensor.repeat(2)));
        Ok((twice("new_k", &tensors.k)?, twice("new_v", &tensors.v)?))
    })
    .await?;
    let mut ids = Vec::new();
    for sequence in 0..config.sequences {
        let id = cache.create()?;
        let first = u64::from(SHIFT * sequence % period) * u64::from(config.kv_heads) * dtype.size();
        let slice = |buffer, dim: u32| TensorSlice::new(buffer).at(first * u64::from(dim));
        let append = plan.bind(&cache, slice(&k, config.head_dim), slice(&v, config.value_dim))?;
        let mut left = config.capacity;
        while left > 0 {
            let mut encoder = attention.device.create_command_encoder(&Default::default());
            let tokens = left.min(period);
            cache.advance(&mut encoder, &[(id, tokens)])?;
            append.encode(&mut encoder.begin_compute_pass(&Default::default()), &cache)?;
            attention.queue.submit([encoder.finish()]);
            left -= tokens;
        }
        ids.push(id);
    }
    for &id in &ids {
        cache.truncate(id, config.capacity - 1)?;
    }
    let mut encoder = attention.device.create_command_encoder(&Default::default());
    cache.advance(&mut encoder, &ids.iter().map(|&id| (id, 1)).collect::<Vec<_>>())?;
    Ok(cache)
}
