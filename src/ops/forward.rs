//! The forward operation: plan → bind → encode.

use std::sync::Arc;

use wgpu::util::DeviceExt as _;

use crate::attention::{DiffAttention, PlanOptions};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::host::{HostInputs, HostOutputs};
use crate::ops::bind::{self, Bound, Use};
use crate::params::{PackedSequence, Params, View};
use crate::problem::{Mask, Problem, Shape};
use crate::readback::read_buffer;
use crate::shader::{Binding, Variant};
use crate::slice::{Layout, Part, TensorSlice};
use crate::split::{self, Piece, Tensors};
use crate::tile::{self, NAIVE_THREADS, Path, Tile};

/// The buffers of a forward pass; shapes are those of [`Shape`].
#[derive(Debug, Clone, Copy)]
pub struct ForwardBuffers<'a> {
    /// batch × q_len × 2·heads × head_dim, storage type; read.
    pub q: TensorSlice<'a>,
    /// batch × kv_len × kv_heads × head_dim, storage type; read.
    pub k: TensorSlice<'a>,
    /// batch × kv_len × kv_heads × value_dim, storage type; read.
    pub v: TensorSlice<'a>,
    /// batch × q_len × heads, f32, before the sigmoid; read.
    pub lam: TensorSlice<'a>,
    /// batch × q_len × heads × value_dim, storage type; written.
    pub out: TensorSlice<'a>,
    /// batch × 2·heads × q_len, f32; written. Given exactly when [`crate::Options::lse`] is set.
    pub lse: Option<TensorSlice<'a>>,
    /// batch × q_len × heads × value_dim, storage type; written. Given exactly when [`crate::Options::a2`] is set.
    pub a2: Option<TensorSlice<'a>>,
}

/// A forward pass that is validated, tiled and compiled. Bind it to buffers, then encode it as often as needed.
#[derive(Debug, Clone)]
pub struct ForwardPlan {
    attention: DiffAttention,
    problem: Problem,
    variant: Variant,
    pipeline: Arc<wgpu::ComputePipeline>,
    reason: String,
}

/// A forward pass bound to buffers. Encoding allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct ForwardPass {
    pipeline: Arc<wgpu::ComputePipeline>,
    dispatches: Vec<Dispatch>,
    scratch_bytes: u64,
}

#[derive(Debug, Clone)]
struct Dispatch {
    bind_group: wgpu::BindGroup,
    grid: [u32; 2],
}

impl ForwardPlan {
    pub(crate) async fn new(attention: &DiffAttention, problem: &Problem, options: PlanOptions) -> Result<Self> {
        problem.validate()?;
        let (path, tile, reason) = choose(problem, options, attention.caps())?;
        let variant = Variant::forward(problem, path, tile, attention.caps());
        let pipeline = attention.pipelines.get(&attention.device, (variant, options.runtime_checks)).await?;
        Ok(ForwardPlan { attention: attention.clone(), problem: problem.clone(), variant, pipeline, reason })
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The kernel family that was chosen.
    pub fn path(&self) -> Path {
        self.variant.path
    }

    /// The tile that was chosen; `None` on the naive path.
    pub fn tile(&self) -> Option<Tile> {
        self.variant.tile
    }

    /// The kernel's name, as in errors, dumps and benchmark rows.
    pub fn label(&self) -> String {
        self.variant.label()
    }

    /// Why this path was chosen, in one clause.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Checks the buffers and creates everything that encoding needs.
    ///
    /// # Errors
    /// [`Error::Slice`] for a slice that cannot be bound; [`Error::Shape`] for an output missing or too many;
    /// [`Error::Limit`] when a binding is too large even for one sequence, KV head and query.
    pub fn bind(&self, buffers: &ForwardBuffers<'_>) -> Result<ForwardPass> {
        let bound = self.resolve(buffers)?;
        let all: Vec<Bound<'_>> = bound.iter().map(|(_, bound, _)| *bound).collect();
        let caps = self.attention.caps();
        bind::check_aliasing(&all, caps)?;

        let mut tensors = Tensors::default();
        for (_, bound, axes) in &bound {
            match axes {
                Axes::Queries(heads) => tensors.by_query.push((bound.tensor, *heads)),
                Axes::Keys => tensors.by_key.push(bound.tensor),
            }
        }
        let limits = split::Limits {
            storage_binding: caps.storage_binding,
            alignment: caps.offset_alignment.into(),
            workgroups: (u64::from(caps.workgroups).pow(2)).min(u64::from(u32::MAX / NAIVE_THREADS)),
        };
        let pieces = if self.problem.shape.q_len == 0 {
            Vec::new() // a packed batch of empty sequences
        } else {
            split::split(&self.problem, &tensors, limits, &|piece| self.workgroups(piece))?
        };

        let (params, sequences) = self.parameters(&bound, &pieces);
        let scratch_bytes = params.size() + sequences.as_ref().map_or(0, |(buffer, _)| buffer.size());
        let layout = self.pipeline.get_bind_group_layout(0);
        let dispatches = pieces.iter().enumerate().map(|(index, piece)| {
            let mut entries = vec![bind::entry(
                Binding::Params as u32,
                &params,
                index as u64 * PARAMS_STRIDE,
                size_of::<Params>() as u64,
            )];
            for (binding, bound, axes) in &bound {
                entries.push(bound.entry(*binding as u32, &self.part(piece, axes), caps));
            }
            if let Some((buffer, offsets)) = &sequences {
                let size = piece.batch.len() as u64 * size_of::<PackedSequence>() as u64;
                entries.push(bind::entry(Binding::Sequences as u32, buffer, offsets[index], size));
            }
            let bind_group = self.attention.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("diffattn.forward"),
                layout: &layout,
                entries: &entries,
            });
            Dispatch { bind_group, grid: grid(self.workgroups(piece), caps) }
        });
        Ok(ForwardPass { pipeline: self.pipeline.clone(), dispatches: dispatches.collect(), scratch_bytes })
    }

    /// The tensors that the kernel binds, resolved and checked.
    fn resolve<'a>(&self, buffers: &ForwardBuffers<'a>) -> Result<Vec<(Binding, Bound<'a>, Axes)>> {
        let Shape { heads, kv_heads, head_dim, value_dim, .. } = self.problem.shape;
        let (batch, q_len, kv_len) = self.problem.extents();
        let group = self.problem.shape.group();
        let size = self.problem.dtype.size();
        let read = |name| Use { name, size, unit: 8, writes: false, default: Layout::Bshd };
        let written = |name| Use { name, size, unit: 4, writes: true, default: Layout::Bshd };
        let lam = Use { size: 4, unit: 1, ..read("lam") };
        let lse = Use { size: 4, unit: 1, default: Layout::Bhsd, ..written("lse") };
        let outputs = [batch, q_len, heads, value_dim];
        let mut bound = vec![
            (
                Binding::Q,
                Bound::new(buffers.q, [batch, q_len, 2 * heads, head_dim], read("q"))?,
                Axes::Queries(2 * group),
            ),
            (Binding::K, Bound::new(buffers.k, [batch, kv_len, kv_heads, head_dim], read("k"))?, Axes::Keys),
            (Binding::V, Bound::new(buffers.v, [batch, kv_len, kv_heads, value_dim], read("v"))?, Axes::Keys),
            (Binding::Lam, Bound::new(buffers.lam, [batch, q_len, heads, 1], lam)?, Axes::Queries(group)),
            (Binding::Out, Bound::new(buffers.out, outputs, written("out"))?, Axes::Queries(group)),
        ];
        let options = &self.problem.options;
        if let Some(slice) = wanted("lse", options.lse, buffers.lse)? {
            let extents = [batch, q_len, 2 * heads, 1];
            bound.push((Binding::Lse, Bound::new(slice, extents, lse)?, Axes::Queries(2 * group)));
        }
        if let Some(slice) = wanted("a2", options.a2, buffers.a2)? {
            bound.push((Binding::A2, Bound::new(slice, outputs, written("a2"))?, Axes::Queries(group)));
        }
        Ok(bound)
    }

    fn part(&self, piece: &Piece, axes: &Axes) -> Part {
        match axes {
            Axes::Queries(heads) => split::query_part(&self.problem, piece, *heads),
            Axes::Keys => split::key_part(&self.problem, piece),
        }
    }

    /// (tiles of one KV head's output heads, tiles of the longest sequence's queries).
    fn tiles(&self, piece: &Piece) -> (u64, u64) {
        let queries = piece.queries.len() as u64;
        let group = u64::from(self.problem.shape.group());
        match self.variant.tile {
            None => (group, queries),
            Some(tile) => (group / u64::from(tile.heads_per_tile), queries.div_ceil(tile.positions().into())),
        }
    }

    fn workgroups(&self, piece: &Piece) -> u64 {
        let (head_tiles, q_tiles) = self.tiles(piece);
        let tiles = [piece.batch.len() as u64, piece.kv_heads.len() as u64, head_tiles, q_tiles]
            .iter()
            .fold(1u64, |product, &factor| product.saturating_mul(factor));
        if self.variant.tile.is_none() { tiles.div_ceil(NAIVE_THREADS.into()) } else { tiles }
    }

    /// The uniform blocks of all pieces, and for packed problems their sequences with each piece's offset.
    fn parameters(
        &self,
        bound: &[(Binding, Bound<'_>, Axes)],
        pieces: &[Piece],
    ) -> (wgpu::Buffer, Option<(wgpu::Buffer, Vec<u64>)>) {
        let caps = self.attention.caps();
        let mut blocks = vec![0u8; pieces.len().max(1) * PARAMS_STRIDE as usize];
        let mut sequences = Vec::new();
        let mut offsets = Vec::new();
        for (piece, block) in pieces.iter().zip(blocks.chunks_mut(PARAMS_STRIDE as usize)) {
            let params = self.piece_params(bound, piece, caps);
            block[..size_of::<Params>()].copy_from_slice(bytemuck::bytes_of(&params));
            if self.problem.packed.is_some() {
                sequences.resize(sequences.len().next_multiple_of(caps.offset_alignment as usize), 0);
                offsets.push(sequences.len() as u64);
                sequences.extend_from_slice(bytemuck::cast_slice(&self.piece_sequences(piece)));
            }
        }
        let device = &self.attention.device;
        let buffer = |label, contents: &[u8], usage| {
            device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label: Some(label), contents, usage })
        };
        let params = buffer("diffattn.params", &blocks, wgpu::BufferUsages::UNIFORM);
        let sequences = (!sequences.is_empty())
            .then(|| (buffer("diffattn.sequences", &sequences, wgpu::BufferUsages::STORAGE), offsets));
        (params, sequences)
    }

    fn piece_params(&self, bound: &[(Binding, Bound<'_>, Axes)], piece: &Piece, caps: &Caps) -> Params {
        let Problem { shape, options, .. } = &self.problem;
        // An open side reaches past any key: lengths are below 2²⁸.
        let open = |side: Option<u32>| side.map_or(1 << 29, |side| side as i32);
        let (left, right) = match options.mask() {
            Mask::Window { left, right } => (open(left), open(right)),
            Mask::None | Mask::Causal => (0, 0),
        };
        let (head_tiles, q_tiles) = self.tiles(piece);
        let grid = grid(self.workgroups(piece), caps);
        let mut params = Params {
            batch: piece.batch.len() as u32,
            kv_heads: piece.kv_heads.len() as u32,
            head_tiles: head_tiles as u32,
            q_tiles: q_tiles as u32,
            // The split keeps the product below 2³².
            tiles: (piece.batch.len() as u64 * piece.kv_heads.len() as u64 * head_tiles * q_tiles) as u32,
            grid_width: grid[0],
            group: shape.group(),
            q_len: piece.queries.len() as u32,
            kv_len: shape.kv_len,
            diagonal: shape.kv_len as i32 - shape.q_len as i32 + piece.queries.start as i32,
            left,
            right,
            scale: self.problem.scale() * if options.softcap.is_some() { 1.0 } else { std::f32::consts::LOG2_E },
            softcap: options.softcap.unwrap_or(0.0),
            ..Params::default()
        };
        for (binding, bound, axes) in bound {
            let view: View = bound.tensor.view(&self.part(piece, axes), caps.offset_alignment.into());
            let place = match binding {
                Binding::Q => &mut params.q,
                Binding::K => &mut params.k,
                Binding::V => &mut params.v,
                Binding::Lam => &mut params.lam,
                Binding::Out => &mut params.out,
                Binding::Lse => &mut params.lse,
                Binding::A2 => &mut params.a2,
                Binding::Params | Binding::Sequences => continue,
            };
            *place = view;
        }
        params
    }

    /// The sequences of a piece, counted from the first token that it binds.
    fn piece_sequences(&self, piece: &Piece) -> Vec<PackedSequence> {
        let first = self.problem.sequence(piece.batch.start);
        let first_query = first.q_start + piece.queries.start.min(first.q_len) * u32::from(piece.batch.len() == 1);
        let sequence = |b| {
            let s = self.problem.sequence(b);
            let skipped = if piece.batch.len() == 1 { piece.queries.start.min(s.q_len) } else { 0 };
            PackedSequence {
                q_start: s.q_start + skipped - first_query,
                q_len: if piece.batch.len() == 1 { piece.queries.end.min(s.q_len) - skipped } else { s.q_len },
                kv_start: s.kv_start - first.kv_start,
                kv_len: s.kv_len,
                diagonal: s.kv_len as i32 - s.q_len as i32 + skipped as i32,
            }
        };
        piece.batch.clone().map(sequence).collect()
    }

    /// Uploads, runs, submits and reads back.
    ///
    /// # Errors
    /// [`Error::Shape`] for a slice of the wrong length, [`Error::Limit`] for a tensor above the device's largest
    /// buffer, [`Error::OutOfMemory`], [`Error::DeviceLost`], [`Error::Readback`], and those of [`ForwardPlan::bind`].
    pub async fn run(&self, inputs: &HostInputs<'_>) -> Result<HostOutputs> {
        let sizes = inputs.validate(&self.problem)?;
        let DiffAttention { device, queue, .. } = &self.attention;
        let dtype = self.problem.dtype;
        let largest = device.limits().max_buffer_size;
        let scope = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let upload = |name: &'static str, contents: Vec<u8>| {
            fits(name, contents.len() as u64, largest)?;
            let usage = wgpu::BufferUsages::STORAGE;
            let contents = if contents.is_empty() { vec![0; 32] } else { contents };
            let label = Some(name);
            Ok(device.create_buffer_init(&wgpu::util::BufferInitDescriptor { label, contents: &contents, usage }))
        };
        let output = |name: &'static str, bytes: u64| {
            fits(name, bytes, largest)?;
            let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC;
            let size = bytes.max(16);
            Ok(device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(name),
                size,
                usage,
                mapped_at_creation: false,
            }))
        };
        let options = &self.problem.options;
        let q = upload("q", dtype.encode(inputs.q))?;
        let k = upload("k", dtype.encode(inputs.k))?;
        let v = upload("v", dtype.encode(inputs.v))?;
        let lam = upload("lam", bytemuck::cast_slice(inputs.lam).to_vec())?;
        let out = output("out", sizes.out * dtype.size())?;
        let lse = options.lse.then(|| output("lse", sizes.lse * 4)).transpose()?;
        let a2 = options.a2.then(|| output("a2", sizes.out * dtype.size())).transpose()?;
        if scope.pop().await.is_some() {
            return Err(Error::OutOfMemory { during: "uploading the tensors".into() });
        }
        let pass = self.bind(&ForwardBuffers {
            q: (&q).into(),
            k: (&k).into(),
            v: (&v).into(),
            lam: (&lam).into(),
            out: (&out).into(),
            lse: lse.as_ref().map(TensorSlice::new),
            a2: a2.as_ref().map(TensorSlice::new),
        })?;
        let mut encoder = device.create_command_encoder(&Default::default());
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
        queue.submit([encoder.finish()]);

        let mut outputs =
            HostOutputs { out: dtype.decode(&read_buffer(device, queue, &out).await?), ..Default::default() };
        outputs.out.truncate(sizes.out as usize);
        if let Some(lse) = &lse {
            let mut values = crate::DType::F32.decode(&read_buffer(device, queue, lse).await?);
            values.truncate(sizes.lse as usize);
            outputs.lse = Some(values);
        }
        if let Some(a2) = &a2 {
            let mut values = dtype.decode(&read_buffer(device, queue, a2).await?);
            values.truncate(sizes.out as usize);
            outputs.a2 = Some(values);
        }
        Ok(outputs)
    }
}

impl ForwardPass {
    /// Records the dispatches. Creates, allocates and submits nothing.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        for dispatch in &self.dispatches {
            pass.set_bind_group(0, &dispatch.bind_group, &[]);
            pass.dispatch_workgroups(dispatch.grid[0], dispatch.grid[1], 1);
        }
    }

    /// Dispatches that [`ForwardPass::encode`] records; more than one where a device limit made it split.
    pub fn dispatches(&self) -> usize {
        self.dispatches.len()
    }

    /// Bytes of device memory held beside the caller's buffers.
    pub fn scratch_bytes(&self) -> u64 {
        self.scratch_bytes
    }
}

/// Which axes of the problem a tensor has.
#[derive(Debug, Clone, Copy)]
enum Axes {
    /// Batch, queries, and so many heads for each KV head.
    Queries(u32),
    /// Batch, keys, KV heads.
    Keys,
}

/// Bytes between two uniform blocks: WebGPU's largest offset alignment, enough for one block.
const PARAMS_STRIDE: u64 = 256;
const _: () = assert!(size_of::<Params>() as u64 <= PARAMS_STRIDE);

/// Path, tile and why.
fn choose(problem: &Problem, options: PlanOptions, caps: &Caps) -> Result<(Path, Option<Tile>, String)> {
    if options.path == Some(Path::Naive) {
        return Ok((Path::Naive, None, "asked for".into()));
    }
    if let Some(tile) = options.tile {
        let path = options.path.unwrap_or(Path::Portable);
        tile.validate(&problem.shape, path, caps)?;
        return Ok((path, Some(tile), "asked for, with its tile".into()));
    }
    if let Some(path) = options.path {
        return Ok((path, Some(tile::forward_tile(problem, path, caps)?.tile), "asked for".into()));
    }
    let portable = tile::forward_tile(problem, Path::Portable, caps)?;
    if caps.subgroups.is_none() {
        return Ok((Path::Portable, Some(portable.tile), "the device has no subgroup operations enabled".into()));
    }
    let subgroup = tile::forward_tile(problem, Path::Subgroup, caps)?;
    let ratio = subgroup.cost / portable.cost;
    let (choice, against) = if ratio < 1.0 { (subgroup, Path::Portable) } else { (portable, Path::Subgroup) };
    let percent = 100.0 * ratio.min(1.0 / ratio);
    Ok((choice.path, Some(choice.tile), format!("estimated at {percent:.0} % of the {} path's work", against.name())))
}

/// A grid of so many workgroups, folded where one dimension is too short.
fn grid(workgroups: u64, caps: &Caps) -> [u32; 2] {
    // Both factors are at most `caps.workgroups`, since the split keeps the product of the two dimensions in bounds.
    let rows = workgroups.div_ceil(caps.workgroups.into()).max(1);
    [workgroups.div_ceil(rows) as u32, rows as u32]
}

fn wanted<'a>(name: &'static str, on: bool, slice: Option<TensorSlice<'a>>) -> Result<Option<TensorSlice<'a>>> {
    match (on, slice) {
        (true, None) => Err(Error::Shape {
            tensor: name,
            expected: format!("a buffer, since options.{name} is set"),
            actual: "none".into(),
        }),
        (false, Some(_)) => Err(Error::Shape {
            tensor: name,
            expected: format!("none, since options.{name} is not set"),
            actual: "a buffer".into(),
        }),
        (_, slice) => Ok(slice),
    }
}

fn fits(name: &'static str, needed: u64, available: u64) -> Result<()> {
    if needed > available {
        return Err(Error::Limit { name: "max_buffer_size", what: format!("`{name}`"), needed, available });
    }
    Ok(())
}
