//! The module with a KV cache: a prompt at once, then few tokens at a time.

use super::mixing::Norm;
use super::projection::{Projection, Sizes};
use super::scratch::{Activations, Extents};
use super::{LayerPass, LayerPlan, MultiheadDiffAttention, Step};
use crate::error::{Error, Result};
use crate::kv_cache::{KvCache, KvConfig, SequenceId};
use crate::layer::{Config, Kind};
use crate::ops::decode::{DecodeBuffers, DecodeOptions, DecodePass, DecodePlan, DecodeProblem};
use crate::ops::host;
use crate::ops::kv_append::{AppendPass, AppendPlan, AppendProblem};
use crate::ops::matmul::Rotary;
use crate::problem::{DType, Options};
use crate::shader::Epilogue;
use crate::slice::{Layout, Strides, TensorSlice};

/// Most new tokens of one sequence that a step decodes; more are a prompt, for sequences that are empty.
const MOST_QUERIES: u32 = 16;

/// λ of what is no pair: its second member then counts for less than f32 can tell.
const CLOSED: f32 = -1e4;

/// Keys and values of past tokens of several sequences, for one module.
///
/// V2 and the baseline keep one cache; V1's members have keys of their own, so that it keeps two, each with the values.
#[derive(Debug)]
pub struct LayerCache {
    members: Vec<KvCache>,
    queue: wgpu::Queue,
    /// Position of each token of the current step.
    positions: wgpu::Buffer,
    /// The same on the host, and of each sequence of the step its first position and number of tokens.
    places: Vec<u32>,
    step: Vec<[u32; 2]>,
    step_tokens: u32,
}

impl LayerCache {
    /// A new, empty sequence.
    ///
    /// # Errors
    /// [`Error::CacheFull`] when there are as many as the cache holds.
    pub fn create(&mut self) -> Result<SequenceId> {
        // All caches are told the same, so that they give the same names.
        let mut ids = self.members.iter_mut().map(KvCache::create);
        let first = ids.next().expect("one cache at least")?;
        ids.try_for_each(|id| id.map(|_| ()))?;
        Ok(first)
    }

    /// Tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn len(&self, id: SequenceId) -> Result<u32> {
        self.members[0].len(id)
    }

    /// Forgets a sequence; its place can be used again.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn remove(&mut self, id: SequenceId) -> Result<()> {
        self.members.iter_mut().try_for_each(|cache| cache.remove(id))
    }

    /// Starts a step: makes room for so many more tokens of each sequence, whose rows of x lie one after another in this
    /// order. As [`KvCache::advance`]: submit a step before advancing to the next one.
    ///
    /// # Errors
    /// Those of [`KvCache::advance`]; [`Error::Invalid`] for more tokens than the cache was created for.
    pub fn advance(&mut self, encoder: &mut wgpu::CommandEncoder, tokens: &[(SequenceId, u32)]) -> Result<()> {
        let sum = tokens.iter().fold(0u64, |sum, (_, tokens)| sum + u64::from(*tokens));
        if sum > u64::from(self.step_tokens) {
            let expected = format!("at most {} together, as the cache was created for", self.step_tokens);
            return Err(Error::invalid("tokens of a step", expected, sum));
        }
        self.step.clear();
        self.places.clear();
        for &(id, count) in tokens {
            let first = self.len(id)?;
            self.step.push([first, count]);
            self.places.extend(first..first.saturating_add(count));
        }
        for cache in &mut self.members {
            cache.advance(encoder, tokens)?;
        }
        self.queue.write_buffer(&self.positions, 0, bytemuck::cast_slice(&self.places));
        Ok(())
    }
}

/// A step of a module with a cache, planned: for each of at most `batch` sequences at most `q_len` new tokens.
#[derive(Debug, Clone)]
pub struct StepPlan {
    layer: MultiheadDiffAttention,
    extents: Extents,
    append: AppendPlan,
    attend: Attend,
}

#[derive(Debug, Clone)]
enum Attend {
    /// The whole prompts, to themselves.
    Prompt(Box<LayerPlan>),
    /// New tokens to the cache.
    Decode(Box<Decode>),
}

#[derive(Debug, Clone)]
struct Decode {
    q: Projection,
    k: Projection,
    v: Projection,
    o: Projection,
    lambda: Option<Projection>,
    plan: DecodePlan,
    norm: Option<Norm>,
    activations: Activations,
    /// Pairs of queries; in the baseline the second of each is zero.
    queries: wgpu::Buffer,
    closed: wgpu::Buffer,
}

/// A step bound to a cache and buffers. Encoding allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct StepPass {
    /// Projections (of a prompt: the whole module), appends, attention, and what comes after it.
    before: LayerPass,
    append: Vec<AppendPass>,
    decode: Vec<DecodePass>,
    after: LayerPass,
    /// Sequences and tokens of each, for a prompt.
    prompt: Option<[u32; 2]>,
}

impl MultiheadDiffAttention {
    fn cache_config(&self, sequences: u32, capacity: u32) -> KvConfig {
        let Config { kv_heads, head_dim, .. } = self.config;
        let (value_dim, dtype) = (self.config.value_dim(), self.dtype.into());
        KvConfig { sequences, capacity, kv_heads, head_dim, value_dim, dtype, pages: None }
    }

    /// An empty cache for `sequences` of at most `capacity` tokens, and steps of at most `step_tokens` together.
    ///
    /// # Errors
    /// Those of [`DiffAttention::kv_cache`](crate::DiffAttention::kv_cache).
    pub async fn cache(&self, sequences: u32, capacity: u32, step_tokens: u32) -> Result<LayerCache> {
        let config = self.cache_config(sequences, capacity);
        let mut members = vec![self.attention.kv_cache(&config).await?];
        if self.config.kind == Kind::DiffV1 {
            members.push(self.attention.kv_cache(&config).await?);
        }
        let zeros = vec![0; step_tokens as usize * 4];
        Ok(LayerCache {
            members,
            queue: self.attention.queue.clone(),
            positions: host::upload(&self.attention, "positions", zeros)?,
            places: Vec::with_capacity(step_tokens as usize),
            step: Vec::with_capacity(sequences as usize),
            step_tokens,
        })
    }

    /// Plans a step of at most `batch` sequences with at most `q_len` new tokens each. With more than 16 it is one for
    /// prompts: `batch` empty sequences that all get `q_len` tokens.
    ///
    /// The decode kernel works on pairs. For the baseline and V1 a second member that counts for nothing rides along: it
    /// reads the same keys and values, so that the bytes are those of the kind, and the arithmetic twice its own.
    ///
    /// # Errors
    /// As [`MultiheadDiffAttention::plan`].
    pub async fn plan_step(&self, cache: &LayerCache, batch: u32, q_len: u32) -> Result<StepPlan> {
        let config = *cache.members[0].config();
        let append = AppendProblem { cache: config, batch, q_len, dtype: self.dtype };
        let append = self.attention.plan_append(&append).await?;
        let extents = Extents { batch, seq_len: q_len };
        let attend = if q_len > MOST_QUERIES {
            Attend::Prompt(Box::new(self.plan(batch, q_len, false).await?))
        } else {
            Attend::Decode(Box::new(self.plan_decode(&config, extents).await?))
        };
        Ok(StepPlan { layer: self.clone(), extents, append, attend })
    }

    async fn plan_decode(&self, cache: &KvConfig, extents: Extents) -> Result<Decode> {
        let MultiheadDiffAttention { attention, config, dtype, weights, products: path } = self;
        let Config { d_model, heads, head_dim, .. } = *config;
        let tokens = extents.tokens();
        let plan = async |weight, input, output, epilogue, y_f32| {
            let (dtype, path) = (*dtype, *path);
            let sizes = Sizes { tokens, input, output, dtype, y_f32, epilogue, path };
            Projection::plan(attention, weight, sizes, false).await
        };
        let epilogue = if config.lambda_bias { Epilogue::Bias } else { Epilogue::Plain };
        let lambda = match config.kind {
            Kind::DiffV2 => Some(plan(&weights.lambda, d_model, heads, epilogue, true).await?),
            Kind::Baseline | Kind::DiffV1 => None,
        };
        let norm = match config.kind {
            Kind::DiffV1 => Some(Norm::plan(attention, *dtype, false).await?),
            Kind::DiffV2 | Kind::Baseline => None,
        };
        let options = Options { causal: true, ..Options::default() };
        let Extents { batch, seq_len: q_len } = extents;
        let problem = DecodeProblem { cache: *cache, batch, q_len, heads, dtype: *dtype, options };
        // Behind the last pair of V1's second members there is none.
        let elements = u64::from(tokens) * u64::from(2 * heads * head_dim) + u64::from(head_dim);
        Ok(Decode {
            q: plan(&weights.q, d_model, config.q_width(), Epilogue::Rotary, false).await?,
            k: plan(&weights.k, d_model, config.k_width(), Epilogue::Rotary, false).await?,
            v: plan(&weights.v, d_model, config.v_width(), Epilogue::Plain, false).await?,
            o: plan(&weights.o, config.o_width(), d_model, Epilogue::Plain, false).await?,
            lambda,
            plan: attention.plan_decode(&problem, DecodeOptions::default()).await?,
            norm,
            activations: Activations::new(attention, config, extents, cache.capacity, *dtype, false)?,
            queries: host::output(attention, "queries", elements * dtype.size())?,
            closed: host::upload(attention, "closed gates", DType::F32.encode(&[CLOSED]))?,
        })
    }
}

impl StepPlan {
    /// y from x: both tokens × d_model, storage type, at the start of their buffers, which have room for
    /// batch · q_len tokens.
    ///
    /// # Errors
    /// As [`LayerPlan::bind_forward`]; [`Error::Invalid`] for another cache than it was planned for.
    pub fn bind(&self, cache: &LayerCache, x: &wgpu::Buffer, y: &wgpu::Buffer) -> Result<StepPass> {
        let Extents { batch, seq_len } = self.extents;
        match &self.attend {
            Attend::Prompt(plan) => Ok(StepPass {
                before: plan.bind_forward(x, y)?,
                append: self.bind_append(cache, plan.activations())?,
                decode: vec![],
                after: LayerPass { steps: vec![] },
                prompt: Some([batch, seq_len]),
            }),
            Attend::Decode(decode) => {
                let (before, after) = decode.bind_projections(&self.layer, cache, self.extents, x, y)?;
                let append = self.bind_append(cache, &decode.activations)?;
                let attend = cache.members.iter().enumerate();
                let attend =
                    attend.map(|(member, cache)| decode.bind(&self.layer.config, self.layer.dtype, cache, member));
                Ok(StepPass { before, append, decode: attend.collect::<Result<_>>()?, after, prompt: None })
            }
        }
    }

    /// k and v of the step's tokens into the cache; in V1 the keys of each member into its own.
    fn bind_append(&self, cache: &LayerCache, of: &Activations) -> Result<Vec<AppendPass>> {
        let config = &self.layer.config;
        let head_dim = u64::from(config.head_dim);
        let append = |(member, members): (usize, &KvCache)| {
            let (seq, head) = (u64::from(config.k_width()), head_dim * cache.members.len() as u64);
            let k = TensorSlice::new(&of.k).at(member as u64 * head_dim * self.layer.dtype.size());
            let k = k.layout(Layout::Strided(Strides { batch: 0, seq, head }));
            self.append.bind(members, k, (&of.v).into())
        };
        cache.members.iter().enumerate().map(append).collect()
    }
}

impl Decode {
    /// What comes before attention, and what after it.
    fn bind_projections(
        &self,
        layer: &MultiheadDiffAttention,
        cache: &LayerCache,
        extents: Extents,
        x: &wgpu::Buffer,
        y: &wgpu::Buffer,
    ) -> Result<(LayerPass, LayerPass)> {
        let (of, head_dim) = (&self.activations, layer.config.head_dim);
        let rotary = Rotary { positions: &cache.positions, angles: &of.angles, head_dim, head_stride: head_dim };
        let apart = if layer.config.kind == Kind::Baseline { 2 * head_dim } else { head_dim };
        let mut steps = vec![
            Step::Product(self.q.forward(x, &self.queries, Some(Rotary { head_stride: apart, ..rotary }), None)?),
            Step::Product(self.k.forward(x, &of.k, Some(rotary), None)?),
            Step::Product(self.v.forward(x, &of.v, None, None)?),
        ];
        if let Some(lambda) = &self.lambda {
            steps.push(Step::Product(lambda.forward(x, &of.lam, None, layer.weights.bias.as_ref())?));
        }
        let mut after = Vec::new();
        if let Some(norm) = &self.norm {
            after.extend(norm.forward(&layer.config, extents.tokens(), of, &layer.weights));
        }
        after.push(Step::Product(self.o.forward(&of.o, y, None, None)?));
        Ok((LayerPass { steps }, LayerPass { steps: after }))
    }

    fn bind(&self, config: &Config, dtype: DType, cache: &KvCache, member: usize) -> Result<DecodePass> {
        let of = &self.activations;
        let (seq, head) = (u64::from(2 * config.heads * config.head_dim), u64::from(config.head_dim));
        let q = TensorSlice::new(&self.queries).at(member as u64 * head * dtype.size());
        let gates = u64::from(config.heads.next_multiple_of(4));
        let (lam, strides) = match config.kind {
            Kind::DiffV2 => (&of.lam, Strides { batch: 0, seq: gates, head: 1 }),
            Kind::Baseline | Kind::DiffV1 => (&self.closed, Strides { batch: 0, seq: 0, head: 0 }),
        };
        let out = if config.kind == Kind::DiffV1 { &of.members[member] } else { &of.o };
        self.plan.bind(
            cache,
            &DecodeBuffers {
                q: q.layout(Layout::Strided(Strides { batch: 0, seq, head })),
                lam: TensorSlice::new(lam).layout(Layout::Strided(strides)),
                out: out.into(),
                lse: None,
                loads: None,
            },
        )
    }
}

impl StepPass {
    /// Records the cache's current step. Creates, allocates and submits nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the step has more sequences or tokens than planned, is none for whole prompts although
    /// that was planned, or `cache` is not the one bound.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>, cache: &LayerCache) -> Result<()> {
        if let Some([batch, seq_len]) = self.prompt {
            let whole = cache.step.len() == batch as usize && cache.step.iter().all(|step| *step == [0, seq_len]);
            if !whole {
                let expected = format!("{batch} empty sequences with {seq_len} new tokens each, as planned");
                return Err(Error::invalid("step", expected, format!("[first, tokens] = {:?}", cache.step)));
            }
        }
        self.before.encode(pass);
        for (append, cache) in self.append.iter().zip(&cache.members) {
            append.encode(pass, cache)?;
        }
        for (decode, cache) in self.decode.iter().zip(&cache.members) {
            decode.encode(pass, cache)?;
        }
        self.after.encode(pass);
        Ok(())
    }
}
