//! A decode step on tensors in host memory.

use std::ops::Range;

use super::{DecodeBuffers, DecodePlan, DecodeProblem};
use crate::attention::DiffAttention;
use crate::error::Result;
use crate::host::{HostInputs, HostOutputs};
use crate::kv_cache::KvConfig;
use crate::ops::host;
use crate::ops::kv_append::AppendProblem;
use crate::problem::DType;
use crate::readback::read_buffer;

/// Tokens of a sequence that are appended at once, at most: what is uploaded stays small beside the cache.
const MOST_APPENDED: u64 = 1024;

impl DecodePlan {
    /// Uploads, appends to a cache of its own until that is full, decodes the last tokens, submits and reads back.
    ///
    /// The inputs are those of the forward pass with `capacity` keys: k is batch × capacity × kv_heads × head_dim, q batch
    /// × q_len × 2·heads × head_dim.
    ///
    /// # Errors
    /// [`Shape`](crate::Error::Shape) for a slice of the wrong length, [`OutOfMemory`](crate::Error::OutOfMemory),
    /// [`DeviceLost`](crate::Error::DeviceLost), [`Readback`](crate::Error::Readback), and those of [`DiffAttention::kv_cache`], [`crate::KvCache::advance`] and [`DecodePlan::bind`].
    pub async fn run(&self, inputs: &HostInputs<'_>) -> Result<HostOutputs> {
        let DecodeProblem { cache: config, batch, q_len, dtype, options, .. } = self.problem;
        let sizes = inputs.validate(&self.problem.as_problem())?;
        let mut cache = self.attention.kv_cache(&config).await?;
        let ids = (0..batch).map(|_| cache.create()).collect::<Result<Vec<_>>>()?;
        let chunk = self.chunk();
        let append = AppendProblem { cache: config, batch, q_len: chunk, dtype };
        let append = self.attention.plan_append(&append).await?;

        let DiffAttention { device, queue, .. } = &self.attention;
        let new = |name, dim: u32| {
            let elements = u64::from(batch) * u64::from(chunk) * u64::from(config.kv_heads) * u64::from(dim);
            host::room(&self.attention, name, elements * dtype.size())
        };
        let create = || {
            let (new_k, new_v) = (new("k", config.head_dim)?, new("v", config.value_dim)?);
            let q = host::upload(&self.attention, "q", dtype.encode(inputs.q))?;
            let lam = host::upload(&self.attention, "lam", DType::F32.encode(inputs.lam))?;
            let out = host::output(&self.attention, "out", sizes.out * dtype.size())?;
            let lse = options.lse.then(|| host::output(&self.attention, "lse", sizes.lse * 4)).transpose()?;
            let append = append.bind(&cache, (&new_k).into(), (&new_v).into())?;
            let lse_slice = lse.as_ref().map(Into::into);
            let (q, lam, out_slice) = ((&q).into(), (&lam).into(), (&out).into());
            let decode = self.bind(&cache, &DecodeBuffers { q, lam, out: out_slice, lse: lse_slice, loads: None })?;
            Ok((new_k, new_v, append, decode, out, lse))
        };
        let (new_k, new_v, append, decode, out, lse) =
            host::with_memory(device, "uploading the tensors", create).await?;

        let prompt = config.capacity - q_len;
        let mut len = 0;
        while len < config.capacity {
            let tokens = if len < prompt { chunk.min(prompt - len) } else { q_len };
            for (buffer, values, dim) in [(&new_k, inputs.k, config.head_dim), (&new_v, inputs.v, config.value_dim)] {
                queue.write_buffer(buffer, 0, &dtype.encode(&self.tokens(values, dim, len..len + tokens)));
            }
            let mut encoder = device.create_command_encoder(&Default::default());
            cache.advance(&mut encoder, &ids.iter().map(|id| (*id, tokens)).collect::<Vec<_>>())?;
            let mut pass = encoder.begin_compute_pass(&Default::default());
            append.encode(&mut pass, &cache)?;
            len += tokens;
            if len == config.capacity {
                decode.encode(&mut pass, &cache)?;
            }
            drop(pass);
            queue.submit([encoder.finish()]);
        }

        let mut outputs =
            HostOutputs { out: dtype.decode(&read_buffer(device, queue, &out).await?), ..Default::default() };
        outputs.out.truncate(sizes.out as usize);
        if let Some(lse) = &lse {
            let values = DType::F32.decode(&read_buffer(device, queue, lse).await?);
            outputs.lse = Some(self.by_sequence(&values));
        }
        Ok(outputs)
    }

    /// Tokens of each sequence that one append takes: at least a step's, and no more than a binding holds.
    fn chunk(&self) -> u32 {
        let DecodeProblem {
            cache: KvConfig { capacity, kv_heads, head_dim, value_dim, .. }, batch, q_len, dtype, ..
        } = self.problem;
        let token = u64::from(batch) * u64::from(kv_heads) * u64::from(head_dim.max(value_dim)) * dtype.size();
        let fits = (self.attention.caps().storage_binding / token).min(MOST_APPENDED) as u32;
        fits.min(capacity).max(q_len)
    }

    /// Some tokens of every sequence, out of batch × capacity × kv_heads × dim.
    fn tokens(&self, values: &[f32], dim: u32, tokens: Range<u32>) -> Vec<f32> {
        let row = (self.problem.cache.kv_heads * dim) as usize;
        let sequences = values.chunks(self.problem.cache.capacity as usize * row);
        let part = tokens.start as usize * row..tokens.end as usize * row;
        sequences.flat_map(|sequence| &sequence[part.clone()]).copied().collect()
    }

    /// LSE as the forward pass gives it, batch × 2·heads × q_len, from 2·heads × tokens.
    fn by_sequence(&self, lse: &[f32]) -> Vec<f32> {
        let DecodeProblem { batch, q_len, heads, .. } = self.problem;
        let row = |b: u32, head: u32| {
            let first = ((head * batch + b) * q_len) as usize;
            &lse[first..first + q_len as usize]
        };
        let rows = (0..batch).flat_map(|b| (0..2 * heads).map(move |head| (b, head)));
        rows.flat_map(|(b, head)| row(b, head)).copied().collect()
    }
}
