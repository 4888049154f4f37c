//! Keys and values of past tokens, on the device.

mod blocks;

use crate::attention::DiffAttention;
use crate::error::{Error, Result};
use crate::ops::host::with_memory;
use crate::problem::DType;
use crate::slice::{Layout, Strides, TensorSlice};

pub use blocks::SequenceId;
use blocks::{Blocks, Changes, PageCopy, TableChange};

/// Storage type of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvDType {
    /// 32-bit floating point.
    F32,
    /// 16-bit IEEE floating point.
    F16,
    /// bfloat16.
    Bf16,
    /// Signed bytes with one f32 factor for each (token, KV head) of K and of V: the largest magnitude / 127.
    Int8,
}

impl From<DType> for KvDType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => KvDType::F32,
            DType::F16 => KvDType::F16,
            DType::Bf16 => KvDType::Bf16,
        }
    }
}

impl KvDType {
    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        match self {
            KvDType::F32 => 4,
            KvDType::F16 | KvDType::Bf16 => 2,
            KvDType::Int8 => 1,
        }
    }
}

/// Pages of a paged cache, shared by all sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pages {
    /// Tokens of a page: a multiple of 16.
    pub size: u32,
    /// Number of pages.
    pub count: u32,
}

/// The sizes of a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KvConfig {
    /// Sequences, at most.
    pub sequences: u32,
    /// Tokens of one sequence, at most.
    pub capacity: u32,
    /// Key and value heads.
    pub kv_heads: u32,
    /// Elements of a key: a multiple of 8 from 8 to 256.
    pub head_dim: u32,
    /// Elements of a value: a multiple of 8 from 8 to 256.
    pub value_dim: u32,
    /// Storage type.
    pub dtype: KvDType,
    /// `None`: every sequence has room for `capacity` tokens of its own. `Some`: sequences take pages as they grow.
    pub pages: Option<Pages>,
}

impl KvConfig {
    pub(crate) fn validate(&self) -> Result<()> {
        let most = 1 << 28; // positions are i32 in the shaders
        for (name, value) in [("sequences", self.sequences), ("capacity", self.capacity), ("kv_heads", self.kv_heads)] {
            if value == 0 || value > most {
                return Err(Error::invalid(name, format!("from 1 to {most}"), value));
            }
        }
        for (name, value) in [("head_dim", self.head_dim), ("value_dim", self.value_dim)] {
            if value == 0 || value % 8 != 0 || value > 256 {
                return Err(Error::invalid(name, "a multiple of 8 from 8 to 256", value));
            }
        }
        if let Some(Pages { size, count }) = self.pages {
            if size == 0 || size % 16 != 0 || size > most {
                return Err(Error::invalid("pages.size", format!("a multiple of 16 from 16 to {most}"), size));
            }
            if count == 0 || count > most {
                return Err(Error::invalid("pages.count", format!("from 1 to {most}"), count));
            }
        }
        Ok(())
    }

    /// Tokens of a block: of a page, or of a whole sequence.
    pub(crate) fn places(&self) -> u32 {
        self.pages.map_or(self.capacity, |pages| pages.size)
    }

    /// Entries of one sequence's block table.
    pub(crate) fn table_len(&self) -> u32 {
        self.pages.map_or(0, |pages| self.capacity.div_ceil(pages.size))
    }

    /// First word of the directory's block tables: four for each entry of a step come before.
    pub(crate) fn table_start(&self) -> u32 {
        4 * self.sequences
    }

    /// (block, KV head) pairs.
    fn units(&self) -> u64 {
        u64::from(self.pages.map_or(self.sequences, |pages| pages.count)) * u64::from(self.kv_heads)
    }

    /// Bytes that a step reads for one cached token: K and V of every KV head, and their factors.
    pub fn bytes_per_token(&self) -> u64 {
        let factors = if self.dtype == KvDType::Int8 { 8 } else { 0 };
        (u64::from(self.head_dim + self.value_dim) * self.dtype.size() + factors) * u64::from(self.kv_heads)
    }
}

/// A part of the cache that is bound together: units `[first, end)`, [unit][place][dim].
#[derive(Debug)]
pub(crate) struct Shard {
    pub k: wgpu::Buffer,
    pub v: wgpu::Buffer,
    /// Factors of K and of V for each row; with int8 only.
    pub scales: Option<wgpu::Buffer>,
    pub first: u32,
    pub end: u32,
}

/// Keys and values of past tokens of several sequences, on the device.
///
/// A step is: [`KvCache::advance`] makes room for the new tokens of some sequences, [`crate::AppendPass`] writes their
/// keys and values, [`crate::DecodePass`] attends. The directory on the device holds one step at a time: submit a step
/// before advancing to the next one.
///
/// Layout: block × KV head × token × dim, where a block is a page, or a whole sequence of a contiguous cache.
#[derive(Debug)]
pub struct KvCache {
    attention: DiffAttention,
    config: KvConfig,
    blocks: Blocks,
    shards: Vec<Shard>,
    /// The step's entries, then the block tables; see decode/params.wgsl.
    directory: wgpu::Buffer,
    /// A copy within one buffer is not allowed: pages are copied by way of this one.
    copy: wgpu::Buffer,
    /// The step's entries, before they are written to the directory.
    entries: Vec<[u32; 4]>,
    /// Sequences of the current step, and the most tokens that one of them got.
    step: (u32, u32),
}

impl KvCache {
    pub(crate) async fn new(attention: &DiffAttention, config: &KvConfig) -> Result<Self> {
        config.validate()?;
        let create = || Self::create_buffers(attention, config);
        with_memory(&attention.device, "creating the KV cache", create).await
    }

    fn create_buffers(attention: &DiffAttention, config: &KvConfig) -> Result<Self> {
        let places = u64::from(config.places());
        let row = u64::from(config.head_dim.max(config.value_dim)) * config.dtype.size();
        let units = config.units();
        let limits = attention.device.limits();
        let (name, available) = if limits.max_buffer_size < attention.caps.storage_binding {
            ("max_buffer_size", limits.max_buffer_size)
        } else {
            ("max_storage_buffer_binding_size", attention.caps.storage_binding)
        };
        let limit = |what: &str, needed| Error::Limit { name, what: what.into(), needed, available };
        // Rows of factors take at most as much as the shortest rows of K: eight bytes.
        let unit_bytes = places.saturating_mul(row.max(8));
        let units_per_shard = available / unit_bytes;
        if config.pages.is_some() && units_per_shard < units {
            return Err(limit("all pages of the KV cache, which are bound together", unit_bytes.saturating_mul(units)));
        }
        if units_per_shard == 0 {
            return Err(limit("one KV head of one sequence of the KV cache", unit_bytes));
        }
        let words = u64::from(config.table_start()) + u64::from(config.sequences) * u64::from(config.table_len());
        if 4 * words > available {
            return Err(limit("the block tables of the KV cache", 4 * words));
        }
        let buffer = |label, size: u64| {
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
            let size = size.max(16);
            attention.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size,
                usage,
                mapped_at_creation: false,
            })
        };
        let mut shards = Vec::new();
        let mut first = 0;
        while first < units {
            let end = units.min(first + units_per_shard);
            let rows = (end - first) * places;
            let bytes = |dim: u32| rows * u64::from(dim) * config.dtype.size();
            shards.push(Shard {
                k: buffer("diffattn.cache.k", bytes(config.head_dim)),
                v: buffer("diffattn.cache.v", bytes(config.value_dim)),
                scales: (config.dtype == KvDType::Int8).then(|| buffer("diffattn.cache.scales", rows * 8)),
                // Units are counted in u32: blocks × KV heads that did not fit would be a limit of the device.
                first: u32::try_from(first).map_err(|_| limit("the KV cache", u64::MAX))?,
                end: u32::try_from(end).map_err(|_| limit("the KV cache", u64::MAX))?,
            });
            first = end;
        }
        let block_bytes = unit_bytes * u64::from(config.kv_heads);
        Ok(KvCache {
            attention: attention.clone(),
            config: *config,
            blocks: Blocks::new(config.sequences, config.capacity, config.pages.map(|pages| (pages.size, pages.count))),
            shards,
            directory: buffer("diffattn.cache.directory", 4 * words),
            copy: buffer("diffattn.cache.copy", if config.pages.is_some() { block_bytes } else { unit_bytes }),
            entries: vec![[0; 4]; config.sequences as usize],
            step: (0, 0),
        })
    }

    /// The sizes.
    pub fn config(&self) -> &KvConfig {
        &self.config
    }

    /// A new, empty sequence.
    ///
    /// # Errors
    /// [`Error::CacheFull`] when there are as many as the cache holds.
    pub fn create(&mut self) -> Result<SequenceId> {
        self.blocks.create()
    }

    /// Tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn len(&self, id: SequenceId) -> Result<u32> {
        self.blocks.len(id)
    }

    /// Pages that no sequence holds; 0 for a contiguous cache.
    pub fn free_pages(&self) -> u32 {
        self.blocks.free_pages()
    }

    /// Starts a step: makes room for so many more tokens of each sequence. The tokens of the step's tensors lie one
    /// after another in this order.
    ///
    /// Records copies of pages that are shared with a fork, and writes the directory, which the queue orders before
    /// anything submitted later: submit a step before the next begins. A step larger than a pass was planned for is refused
    /// when that is encoded; the sequences then have tokens that nobody wrote, and [`KvCache::truncate`] takes them back.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::CacheFull`], [`Error::Invalid`] for a sequence given twice. The cache is
    /// then as it was.
    pub fn advance(&mut self, encoder: &mut wgpu::CommandEncoder, tokens: &[(SequenceId, u32)]) -> Result<()> {
        let Changes { copies, tables } = self.blocks.append(tokens)?;
        for PageCopy { from, to } in copies {
            self.copy_page(encoder, from, to);
        }
        for change in tables {
            self.write_table(&change);
        }
        self.entries.fill([0; 4]);
        let mut q_start = 0;
        for (entry, &(id, tokens)) in self.entries.iter_mut().zip(tokens) {
            *entry = [id.slot, q_start, tokens, self.blocks.len(id)?];
            q_start += tokens;
        }
        self.attention.queue.write_buffer(&self.directory, 0, bytemuck::cast_slice(&self.entries));
        self.step = (tokens.len() as u32, tokens.iter().map(|(_, tokens)| *tokens).max().unwrap_or(0));
        Ok(())
    }

    /// A second sequence with the same tokens: shared pages, of which whoever writes takes a copy; a recorded copy of
    /// the whole sequence where the cache is contiguous.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`], [`Error::CacheFull`].
    pub fn fork(&mut self, encoder: &mut wgpu::CommandEncoder, id: SequenceId) -> Result<SequenceId> {
        let (new, change) = self.blocks.fork(id)?;
        if let Some(change) = change {
            self.write_table(&change);
        }
        if self.config.pages.is_none() {
            let len = self.blocks.len(id)?;
            for kv_head in 0..self.config.kv_heads {
                let unit = |id: SequenceId| id.slot * self.config.kv_heads + kv_head;
                self.copy_rows(encoder, unit(id), unit(new), len.into());
            }
        }
        Ok(new)
    }

    /// Keeps the first `len` tokens of a sequence.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`]; [`Error::Invalid`] when it has fewer.
    pub fn truncate(&mut self, id: SequenceId, len: u32) -> Result<()> {
        self.blocks.truncate(id, len)
    }

    /// Forgets the tokens of a sequence, which stays.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn clear(&mut self, id: SequenceId) -> Result<()> {
        self.blocks.truncate(id, 0)
    }

    /// Forgets a sequence; its place can be used again.
    ///
    /// # Errors
    /// [`Error::UnknownSequence`].
    pub fn remove(&mut self, id: SequenceId) -> Result<()> {
        self.blocks.remove(id)
    }

    /// Keys and values of a sequence as tensors of the forward pass, 1 × tokens × kv_heads × dim: a prompt is attended
    /// to in chunks by [`crate::ForwardPlan`] with `kv_len` = [`KvCache::len`].
    ///
    /// # Errors
    /// [`Error::UnknownSequence`]; [`Error::Unsupported`] for a paged or int8 cache, and for a sequence whose KV heads
    /// had to be stored in several buffers.
    pub fn keys_and_values(&self, id: SequenceId) -> Result<[TensorSlice<'_>; 2]> {
        self.blocks.len(id)?;
        let refuse = |what: &str| {
            let hint = "decode in steps of up to 16 tokens, or use a contiguous cache of a floating-point type";
            Err(Error::Unsupported { what: format!("the forward pass on {what}"), hint: hint.into() })
        };
        if self.config.pages.is_some() {
            return refuse("a paged cache");
        }
        if self.config.dtype == KvDType::Int8 {
            return refuse("an int8 cache");
        }
        let first = id.slot * self.config.kv_heads;
        let shard = self.shard(first);
        if first + self.config.kv_heads > shard.end {
            return refuse("a sequence stored in several buffers");
        }
        let slice = |buffer, dim: u32| {
            let (places, dim) = (u64::from(self.config.places()), u64::from(dim));
            let offset = u64::from(first - shard.first) * places * dim * self.config.dtype.size();
            let strides = Strides { batch: 0, seq: dim, head: places * dim };
            TensorSlice::new(buffer).at(offset).layout(Layout::Strided(strides))
        };
        Ok([slice(&shard.k, self.config.head_dim), slice(&shard.v, self.config.value_dim)])
    }

    pub(crate) fn shards(&self) -> &[Shard] {
        &self.shards
    }

    pub(crate) fn directory(&self) -> &wgpu::Buffer {
        &self.directory
    }

    /// Whether the current step fits a plan for so many sequences and tokens of each.
    pub(crate) fn check_step(&self, directory: &wgpu::Buffer, batch: u32, q_len: u32) -> Result<()> {
        if *directory != self.directory {
            return Err(Error::invalid("cache", "the one that the pass was bound to", "another one"));
        }
        let (sequences, tokens) = self.step;
        if sequences > batch || tokens > q_len {
            let expected = format!("at most {batch} sequences with {q_len} tokens each, as planned");
            return Err(Error::invalid("step", expected, format!("{sequences} sequences with up to {tokens} tokens")));
        }
        Ok(())
    }

    fn shard(&self, unit: u32) -> &Shard {
        // Shards have the same number of units, but for the last.
        &self.shards[(unit / self.shards[0].end) as usize]
    }

    fn write_table(&self, change: &TableChange) {
        let word = self.config.table_start() + change.slot * self.config.table_len() + change.first;
        self.attention.queue.write_buffer(&self.directory, 4 * u64::from(word), bytemuck::cast_slice(&change.pages));
    }

    fn copy_page(&self, encoder: &mut wgpu::CommandEncoder, from: u32, to: u32) {
        let rows = u64::from(self.config.places()) * u64::from(self.config.kv_heads);
        self.copy_rows(encoder, from * self.config.kv_heads, to * self.config.kv_heads, rows);
    }

    /// Copies rows from the start of one unit to the start of another.
    fn copy_rows(&self, encoder: &mut wgpu::CommandEncoder, from: u32, to: u32, rows: u64) {
        let (source, target) = (self.shard(from), self.shard(to));
        let places = u64::from(self.config.places());
        let size = self.config.dtype.size();
        let copies = [
            (Some(&source.k), Some(&target.k), u64::from(self.config.head_dim) * size),
            (Some(&source.v), Some(&target.v), u64::from(self.config.value_dim) * size),
            (source.scales.as_ref(), target.scales.as_ref(), 8),
        ];
        for (from_buffer, to_buffer, row) in copies {
            if let (Some(from_buffer), Some(to_buffer), true) = (from_buffer, to_buffer, rows > 0) {
                let at = |unit: u32, shard: &Shard| u64::from(unit - shard.first) * places * row;
                let bytes = rows * row;
                encoder.copy_buffer_to_buffer(from_buffer, at(from, source), &self.copy, 0, bytes);
                encoder.copy_buffer_to_buffer(&self.copy, 0, to_buffer, at(to, target), bytes);
            }
        }
    }
}
