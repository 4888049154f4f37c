//! A KV cache under test: what it should hold is kept on the host, and every decode step is judged.

use crate::run::queue_of;
use crate::support::Tensors;
use diffattn::reference::{Judge, Verdict};
use diffattn::{
    AppendPass, AppendProblem, DType, DecodeBuffers, DecodeOptions, DecodeProblem, DiffAttention, HostInputs,
    HostOutputs, KvCache, KvConfig, Options, Problem, SequenceId, Shape, TensorSlice, read_buffer, wgpu,
};
use fastrand::Rng;
use libtest_mimic::Failed;
use wgpu::util::DeviceExt as _;

/// Tokens of one appended chunk, at most; fewer where bindings are small.
const CHUNK: u32 = 1024;

/// Elements before and after each output.
const FENCE: usize = 64;
const CANARY: f32 = -7.0e4;

/// A sequence as it should be: its tokens' keys and values, token × KV head × dim.
#[derive(Clone)]
pub struct Sequence {
    pub id: SequenceId,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
}

pub struct World<'a> {
    pub attention: &'a DiffAttention,
    pub cache: KvCache,
    pub sequences: Vec<Sequence>,
    pub dtype: DType,
    /// Whether random keys and values lie on a grid that int8 holds exactly.
    pub on_grid: bool,
    /// How often each eight elements of K and of V were loaded by the last step that counted.
    pub loads: Vec<[u32; 2]>,
    chunk: u32,
    append: AppendPass,
    new_k: wgpu::Buffer,
    new_v: wgpu::Buffer,
}

/// Keys and values, token × KV head × dim.
type NewTokens = (Vec<f32>, Vec<f32>);

/// What a step computes, but for the cache.
#[derive(Clone, Copy)]
pub struct Step {
    pub heads: u32,
    /// New tokens of a sequence that the plan has room for.
    pub q_len: u32,
    pub options: Options,
}

/// A step's result and what it was computed from, for each sequence of the step.
pub struct Stepped {
    pub problem: Problem,
    pub tensors: Tensors,
    pub outputs: HostOutputs,
}

impl<'a> World<'a> {
    /// A cache whose every row was once NaN.
    pub fn new(attention: &'a DiffAttention, config: KvConfig, dtype: DType) -> Result<Self, Failed> {
        let mut cache = attention.kv_cache_blocking(&config)?;
        let token =
            u64::from(config.sequences * config.kv_heads * config.head_dim.max(config.value_dim)) * dtype.size();
        let q_len = CHUNK.min(config.capacity).min((attention.caps().storage_binding / token) as u32);
        let plan =
            attention.plan_append_blocking(&AppendProblem { cache: config, batch: config.sequences, q_len, dtype })?;
        let buffer = |dim: u32| {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST;
            let elements = u64::from(config.sequences * q_len) * u64::from(config.kv_heads) * u64::from(dim);
            let descriptor =
                wgpu::BufferDescriptor { label: None, size: elements * dtype.size(), usage, mapped_at_creation: false };
            attention.device().create_buffer(&descriptor)
        };
        let (new_k, new_v) = (buffer(config.head_dim), buffer(config.value_dim));
        let append = plan.bind(&cache, (&new_k).into(), (&new_v).into())?;
        let ids = (0..config.sequences).map(|_| cache.create()).collect::<Result<Vec<_>, _>>()?;
        let sequences = ids.into_iter().map(|id| Sequence { id, k: vec![], v: vec![] }).collect();
        let mut world = World {
            attention,
            cache,
            sequences,
            dtype,
            on_grid: false,
            loads: vec![],
            chunk: q_len,
            append,
            new_k,
            new_v,
        };
        world.fill_with_nan()?;
        Ok(world)
    }

    /// Sequences grow by turns, so that their pages end up mixed.
    fn fill_with_nan(&mut self) -> Result<(), Failed> {
        let config = *self.cache.config();
        let step = config.pages.map_or(self.chunk, |pages| pages.size.min(self.chunk));
        let mut len = 0;
        while len < config.capacity && (config.pages.is_none() || self.cache.free_pages() >= config.sequences) {
            let tokens = step.min(config.capacity - len);
            let row = (tokens * config.kv_heads) as usize;
            let nan = |dim: u32| vec![f32::NAN; row * dim as usize];
            let all: Vec<_> = (0..self.sequences.len()).collect();
            self.append(&all, |_| (nan(config.head_dim), nan(config.value_dim)))?;
            len += tokens;
        }
        for sequence in &mut self.sequences {
            self.cache.clear(sequence.id)?;
            (sequence.k, sequence.v) = (vec![], vec![]);
        }
        Ok(())
    }

    /// Appends keys and values to some sequences, in one submission.
    pub fn append(
        &mut self,
        which: &[usize],
        mut new: impl FnMut(usize) -> (Vec<f32>, Vec<f32>),
    ) -> Result<(), Failed> {
        let (device, _) = queue_of(self.attention);
        let mut encoder = device.create_command_encoder(&Default::default());
        let items: Vec<_> = which.iter().map(|&index| (index, new(index))).collect();
        self.record_append(&mut encoder, &items)?;
        self.attention.queue().submit([encoder.finish()]);
        Ok(())
    }

    fn record_append(
        &mut self,
        encoder: &mut wgpu::CommandEncoder,
        items: &[(usize, NewTokens)],
    ) -> Result<(), Failed> {
        let config = *self.cache.config();
        let row = (config.kv_heads * config.head_dim) as usize;
        let (mut k, mut v, mut step) = (vec![], vec![], vec![]);
        for (index, (new_k, new_v)) in items {
            step.push((self.sequences[*index].id, (new_k.len() / row) as u32));
            k.extend_from_slice(new_k);
            v.extend_from_slice(new_v);
        }
        self.cache.advance(encoder, &step)?;
        for (index, (new_k, new_v)) in items {
            self.sequences[*index].k.extend_from_slice(new_k);
            self.sequences[*index].v.extend_from_slice(new_v);
        }
        self.attention.queue().write_buffer(&self.new_k, 0, &self.dtype.encode(&k));
        self.attention.queue().write_buffer(&self.new_v, 0, &self.dtype.encode(&v));
        self.append.encode(&mut encoder.begin_compute_pass(&Default::default()), &self.cache)?;
        Ok(())
    }

    /// A second sequence with the same tokens; its index.
    pub fn fork(&mut self, index: usize) -> Result<usize, Failed> {
        let mut encoder = self.attention.device().create_command_encoder(&Default::default());
        let Sequence { id, k, v } = self.sequences[index].clone();
        let id = self.cache.fork(&mut encoder, id)?;
        self.attention.queue().submit([encoder.finish()]);
        self.sequences.push(Sequence { id, k, v });
        Ok(self.sequences.len() - 1)
    }

    /// Keeps the first tokens of a sequence.
    pub fn truncate(&mut self, index: usize, len: u32) -> Result<(), Failed> {
        let KvConfig { kv_heads, head_dim, value_dim, .. } = *self.cache.config();
        let Sequence { id, k, v } = &mut self.sequences[index];
        self.cache.truncate(*id, len)?;
        k.truncate((len * kv_heads * head_dim) as usize);
        v.truncate((len * kv_heads * value_dim) as usize);
        Ok(())
    }

    /// Random tokens for a sequence.
    pub fn tokens(&self, tokens: u32, rng: &mut Rng) -> (Vec<f32>, Vec<f32>) {
        let mut tensors = Tensors::random(&self.problem(1, tokens, 1, Options::default()), rng);
        if self.on_grid {
            let KvConfig { head_dim, value_dim, .. } = *self.cache.config();
            for (tensor, dim) in [(&mut tensors.k, head_dim), (&mut tensors.v, value_dim)] {
                for row in tensor.chunks_mut(dim as usize) {
                    row.iter_mut().for_each(|value| *value = (*value * 32.0).round().clamp(-127.0, 127.0) / 32.0);
                    row[rng.usize(..dim as usize)] = 127.0 / 32.0;
                }
            }
        }
        (tensors.k, tensors.v)
    }

    /// Brings a sequence to a length.
    pub fn grow(&mut self, index: usize, len: u32, rng: &mut Rng) -> Result<(), Failed> {
        while self.cache.len(self.sequences[index].id)? < len {
            let tokens = self.chunk.min(len - self.cache.len(self.sequences[index].id)?);
            let new = self.tokens(tokens, rng);
            self.append(&[index], |_| new.clone())?;
        }
        Ok(())
    }

    pub fn problem(&self, q_len: u32, kv_len: u32, heads_per_kv_head: u32, options: Options) -> Problem {
        let KvConfig { kv_heads, head_dim, value_dim, .. } = *self.cache.config();
        let heads = kv_heads * heads_per_kv_head;
        let shape = Shape { batch: 1, q_len, kv_len, heads, kv_heads, head_dim, value_dim };
        Problem::new(shape, self.dtype, options)
    }

    /// Appends so many random tokens to some sequences and decodes them, in one submission.
    pub fn step(
        &mut self,
        which: &[(usize, u32)],
        how: Step,
        options: DecodeOptions,
        rng: &mut Rng,
    ) -> Result<Vec<Stepped>, Failed> {
        let items: Vec<_> = which.iter().map(|&(index, tokens)| (index, self.tokens(tokens, rng))).collect();
        let problem = self.decode_problem(which.len() as u32, how);
        let plan = self.attention.plan_decode_blocking(&problem, options)?;
        let KvConfig { kv_heads, .. } = *self.cache.config();
        let inputs: Vec<_> = which
            .iter()
            .map(|&(index, q_len)| {
                let kv_len = self.cache.len(self.sequences[index].id)? + q_len;
                let problem = self.problem(q_len, kv_len, how.heads / kv_heads, how.options);
                let tensors = Tensors::random(&problem, rng);
                Ok((problem, tensors))
            })
            .collect::<Result<_, Failed>>()?;
        let outputs = self.run(&plan, problem, &items, &inputs, options.count_loads)?;
        let stepped =
            inputs.into_iter().zip(outputs).zip(which).map(|(((problem, mut tensors), outputs), (index, _))| {
                (tensors.k, tensors.v) = (self.sequences[*index].k.clone(), self.sequences[*index].v.clone());
                Stepped { problem, tensors, outputs }
            });
        Ok(stepped.collect())
    }

    pub fn decode_problem(&self, batch: u32, how: Step) -> DecodeProblem {
        let Step { heads, q_len, options } = how;
        DecodeProblem { cache: *self.cache.config(), batch, q_len, heads, dtype: self.dtype, options }
    }

    fn run(
        &mut self,
        plan: &diffattn::DecodePlan,
        problem: DecodeProblem,
        items: &[(usize, NewTokens)],
        inputs: &[(Problem, Tensors)],
        count_loads: bool,
    ) -> Result<Vec<HostOutputs>, Failed> {
        let (device, queue) = queue_of(self.attention);
        let tokens = (problem.batch * problem.q_len) as usize;
        let place = |values: &[f32], len: usize, fence: usize, dtype: DType| {
            let mut all = vec![CANARY; len + 2 * fence];
            all[fence..fence + len].fill(f32::NAN);
            all[fence..fence + values.len()].copy_from_slice(values);
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
            let contents = &dtype.encode(&all);
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
        };
        let heads = problem.heads as usize;
        let (head_dim, value_dim) = (problem.cache.head_dim as usize, problem.cache.value_dim as usize);
        let gather = |tensor: fn(&Tensors) -> &Vec<f32>| -> Vec<f32> {
            inputs.iter().flat_map(|(_, tensors)| tensor(tensors).iter().copied()).collect()
        };
        let q = place(&gather(|tensors| &tensors.q), tokens * 2 * heads * head_dim, 0, self.dtype);
        let lam = place(&gather(|tensors| &tensors.lam), tokens * heads, 0, DType::F32);
        let out = place(&[], tokens * heads * value_dim, FENCE, self.dtype);
        let lse = problem.options.lse.then(|| place(&[], tokens * 2 * heads, FENCE, DType::F32));
        let loads = count_loads.then(|| {
            let KvConfig { sequences, capacity, kv_heads, .. } = problem.cache;
            let octets = sequences as usize * capacity as usize * kv_heads as usize * head_dim.max(value_dim) / 8;
            let contents = &vec![0; 8 * octets];
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: None, contents, usage })
        });
        let pass = plan.bind(
            &self.cache,
            &DecodeBuffers {
                q: (&q).into(),
                lam: (&lam).into(),
                out: TensorSlice::new(&out).at(FENCE as u64 * self.dtype.size()),
                lse: lse.as_ref().map(|lse| TensorSlice::new(lse).at(FENCE as u64 * 4)),
                loads: loads.as_ref(),
            },
        )?;
        let mut encoder = device.create_command_encoder(&Default::default());
        self.record_append(&mut encoder, items)?;
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()), &self.cache)?;
        queue.submit([encoder.finish()]);

        if let Some(loads) = &loads {
            let bytes = pollster::block_on(read_buffer(&device, &queue, loads))?;
            let count = |four: &[u8; 4]| u32::from_le_bytes(*four);
            self.loads =
                bytes.as_chunks().0.as_chunks().0.iter().map(|two: &[_; 2]| two.each_ref().map(count)).collect();
        }
        let read = |buffer: &wgpu::Buffer, dtype: DType| {
            let all = dtype.decode(&pollster::block_on(read_buffer(&device, &queue, buffer))?);
            let (first, last) = (&all[..FENCE], &all[all.len() - FENCE..]);
            let canary = dtype.round(CANARY).to_bits();
            if first.iter().chain(last).any(|value| value.to_bits() != canary) {
                return Err(Failed::from("a canary beside an output was overwritten"));
            }
            Ok(all[FENCE..all.len() - FENCE].to_vec())
        };
        let out = read(&out, self.dtype)?;
        let lse = lse.map(|lse| read(&lse, DType::F32)).transpose()?;
        let mut first = 0;
        let mut outputs = vec![];
        for (problem, _) in inputs {
            let q_len = problem.shape.q_len as usize;
            let row = heads * value_dim;
            let part = |lse: &Vec<f32>| -> Vec<f32> {
                lse.chunks(tokens).flat_map(|head| head[first..first + q_len].iter().copied()).collect()
            };
            outputs.push(HostOutputs {
                out: out[first * row..(first + q_len) * row].to_vec(),
                lse: lse.as_ref().map(part),
                a2: None,
            });
            first += q_len;
        }
        if out[first * heads * value_dim..].iter().any(|value| !value.is_nan()) {
            return Err("an output beyond the step's tokens was written".into());
        }
        Ok(outputs)
    }
}

impl Stepped {
    /// Judges the outputs against the float64 reference.
    pub fn judge(&self, label: &str) -> Result<(), Failed> {
        let Tensors { q, k, v, lam, .. } = &self.tensors;
        let judge = Judge::forward(&self.problem, &HostInputs { q, k, v, lam })?;
        for Verdict { tensor, error, bound, index, passed } in judge.outputs(&self.outputs)? {
            if !passed {
                let (shape, options) = (self.problem.shape, self.problem.options);
                let what = format!("`{tensor}` is wrong at {index}: error {error:.3e}, bound {bound:.3e}");
                return Err(format!("{label}: {what}\n{shape:?}\n{options:?}").into());
            }
        }
        Ok(())
    }
}
