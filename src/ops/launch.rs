//! From resolved tensors to recorded dispatches: what every operation's `bind` has in common.

use std::sync::Arc;

use crate::attention::DiffAttention;
use crate::caps::Caps;
use crate::error::Result;
use crate::ops::bind::{self, Bound};
use crate::ops::upload::{self, Blocks};
use crate::params::{PackedSequence, Params, View};
use crate::problem::{Mask, Problem};
use crate::shader::Binding;
use crate::slice::Part;
use crate::split::{self, Piece, Tensors};

/// A tensor that a kernel binds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operand<'a> {
    pub binding: Binding,
    pub bound: Bound<'a>,
    pub axes: Axes,
}

/// Which axes of the problem a tensor has.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Axes {
    /// Batch, queries, and so many heads for each KV head.
    Queries(u32),
    /// Batch, keys, KV heads.
    Keys,
}

impl Axes {
    fn part(self, problem: &Problem, piece: &Piece) -> Part {
        match self {
            Axes::Queries(heads) => split::query_part(problem, piece, heads),
            Axes::Keys => split::key_part(problem, piece),
        }
    }
}

/// How a kernel cuts a piece into tiles, for each sequence and KV head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiling {
    /// Tiles of the output heads that share a KV head.
    pub head_tiles: u64,
    /// Tiles of the longest sequence's queries.
    pub q_tiles: u64,
    /// Tiles that one workgroup works on: one, or for kernels without tiles its invocations.
    pub tiles_per_workgroup: u32,
}

/// What only kernels of the backward pass are told.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Gradient {
    /// Results are added to what is there.
    pub accumulate: bool,
    /// `dlse` is bound; otherwise another tensor stands in its place.
    pub has_dlse: bool,
    /// Results have one row for each key and are sums over the queries.
    pub by_key: bool,
}

/// One kernel bound to its buffers: a pipeline and its dispatches. Encoding creates nothing.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pipeline: Arc<wgpu::ComputePipeline>,
    dispatches: Vec<Dispatch>,
    /// Sizes of the buffers that the launch holds beside the caller's.
    allocations: Vec<u64>,
}

#[derive(Debug, Clone)]
struct Dispatch {
    bind_group: wgpu::BindGroup,
    grid: [u32; 2],
}

/// What a launch is made from.
pub(crate) struct Launcher<'a> {
    pub attention: &'a DiffAttention,
    pub problem: &'a Problem,
    pub label: &'a str,
    pub tiling: &'a dyn Fn(&Piece) -> Tiling,
}

/// WebGPU's largest alignment of a uniform binding's offset.
const UNIFORM_ALIGNMENT: usize = 256;

impl Launcher<'_> {
    /// Splits the problem where a limit asks for it, and creates the bind groups of every piece.
    ///
    /// # Errors
    /// [`crate::Error::Slice`] for aliased buffers, [`crate::Error::Limit`] for what cannot be split.
    pub(crate) fn launch(&self, pipeline: &Arc<wgpu::ComputePipeline>, operands: &[Operand<'_>]) -> Result<Launch> {
        self.launch_gradient(pipeline, operands, Gradient::default())
    }

    /// [`Launcher::launch`] for a kernel of the backward pass.
    pub(crate) fn launch_gradient(
        &self,
        pipeline: &Arc<wgpu::ComputePipeline>,
        operands: &[Operand<'_>],
        gradient: Gradient,
    ) -> Result<Launch> {
        let caps = self.attention.caps();
        bind::check_aliasing(&operands.iter().map(|operand| operand.bound).collect::<Vec<_>>(), caps)?;
        let pieces = self.pieces(operands, gradient, caps)?;
        let device = &self.attention.device;
        let params = self.params_blocks(operands, &pieces, gradient, caps);
        let params_buffers = params.upload(device, "diffattn.params", wgpu::BufferUsages::UNIFORM);
        let sequences = self.sequence_blocks(&pieces, caps);
        let sequence_buffers = sequences.upload(device, "diffattn.sequences", wgpu::BufferUsages::STORAGE);

        let layout = pipeline.get_bind_group_layout(0);
        let dispatch = |(index, piece): (usize, &Piece)| {
            let place = params.places()[index];
            let buffer = &params_buffers[place.buffer];
            let mut entries = vec![bind::entry(Binding::Params as u32, buffer, place.offset, place.size)];
            for Operand { binding, bound, axes } in operands {
                entries.push(bound.entry(*binding as u32, &axes.part(self.problem, piece), caps));
            }
            if let Some(place) = sequences.places().get(index) {
                let buffer = &sequence_buffers[place.buffer];
                entries.push(bind::entry(Binding::Sequences as u32, buffer, place.offset, place.size));
            }
            let descriptor = wgpu::BindGroupDescriptor { label: Some(self.label), layout: &layout, entries: &entries };
            let bind_group = device.create_bind_group(&descriptor);
            Dispatch { bind_group, grid: grid(self.workgroups(piece), caps) }
        };
        Ok(Launch {
            pipeline: pipeline.clone(),
            dispatches: pieces.iter().enumerate().map(dispatch).collect(),
            allocations: params_buffers.iter().chain(&sequence_buffers).map(wgpu::Buffer::size).collect(),
        })
    }

    fn pieces(&self, operands: &[Operand<'_>], gradient: Gradient, caps: &Caps) -> Result<Vec<Piece>> {
        let rows = if gradient.by_key { self.problem.shape.kv_len } else { self.problem.shape.q_len };
        if rows == 0 {
            return Ok(Vec::new()); // a packed batch of empty sequences
        }
        let mut tensors = Tensors::default();
        for Operand { bound, axes, .. } in operands {
            match axes {
                Axes::Queries(heads) => tensors.by_query.push((bound.tensor, *heads)),
                Axes::Keys => tensors.by_key.push(bound.tensor),
            }
        }
        // Tiles are counted in u32, with as many for each workgroup as a kernel takes.
        let whole = Piece { batch: 0..1, kv_heads: 0..1, queries: 0..1 };
        let per_workgroup = (self.tiling)(&whole).tiles_per_workgroup;
        let limits = split::Limits {
            storage_binding: caps.storage_binding,
            sequences: caps.storage_binding.min(upload::LARGEST),
            alignment: caps.offset_alignment.into(),
            workgroups: u64::from(caps.workgroups).pow(2).min(u64::from(u32::MAX / per_workgroup)),
        };
        split::split(self.problem, &tensors, limits, &|piece| self.workgroups(piece))
    }

    fn tiles(&self, piece: &Piece) -> u64 {
        let Tiling { head_tiles, q_tiles, .. } = (self.tiling)(piece);
        let factors = [piece.batch.len() as u64, piece.kv_heads.len() as u64, head_tiles, q_tiles];
        factors.into_iter().fold(1, u64::saturating_mul)
    }

    fn workgroups(&self, piece: &Piece) -> u64 {
        self.tiles(piece).div_ceil((self.tiling)(piece).tiles_per_workgroup.into())
    }

    /// The uniform block of every piece.
    fn params_blocks(&self, operands: &[Operand<'_>], pieces: &[Piece], gradient: Gradient, caps: &Caps) -> Blocks {
        let mut blocks = Blocks::default();
        for piece in pieces {
            let mut params = self.params(operands, piece, caps);
            params.has_dlse = gradient.has_dlse.into();
            // Sums over queries are continued by the pieces after the first.
            params.accumulate = (gradient.accumulate || (gradient.by_key && piece.queries.start > 0)).into();
            blocks.push(bytemuck::bytes_of(&params), UNIFORM_ALIGNMENT);
        }
        blocks
    }

    /// The sequences of every piece; nothing where they are not packed.
    fn sequence_blocks(&self, pieces: &[Piece], caps: &Caps) -> Blocks {
        let mut blocks = Blocks::default();
        for piece in pieces.iter().filter(|_| self.problem.packed.is_some()) {
            blocks.push(bytemuck::cast_slice(&self.sequences(piece)), caps.offset_alignment as usize);
        }
        blocks
    }

    fn params(&self, operands: &[Operand<'_>], piece: &Piece, caps: &Caps) -> Params {
        let Problem { shape, options, .. } = self.problem;
        // An open side reaches past any key: lengths are below 2²⁸.
        let open = |side: Option<u32>| side.map_or(1 << 29, |side| side as i32);
        let (left, right) = match options.mask() {
            Mask::Window { left, right } => (open(left), open(right)),
            Mask::None | Mask::Causal => (0, 0),
        };
        let Tiling { head_tiles, q_tiles, .. } = (self.tiling)(piece);
        let mut params = Params {
            batch: piece.batch.len() as u32,
            kv_heads: piece.kv_heads.len() as u32,
            // The split keeps the product of all tiles below 2³².
            head_tiles: head_tiles as u32,
            q_tiles: q_tiles as u32,
            tiles: self.tiles(piece) as u32,
            grid_width: grid(self.workgroups(piece), caps)[0],
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
        for Operand { binding, bound, axes } in operands {
            let view: View = bound.tensor.view(&axes.part(self.problem, piece), caps.offset_alignment.into());
            match binding {
                Binding::Q => params.q = view,
                Binding::K => params.k = view,
                Binding::V => params.v = view,
                Binding::Lam => params.lam = view,
                Binding::Out => params.out = view,
                Binding::Lse => params.lse = view,
                Binding::A2 => params.a2 = view,
                Binding::Dout => params.dout = view,
                Binding::Dlse => params.dlse = view,
                Binding::Dq => params.dq = view,
                Binding::Dk => params.dk = view,
                Binding::Dv => params.dv = view,
                Binding::Dlam => params.dlam = view,
                Binding::Terms => params.terms = view,
                Binding::Params | Binding::Sequences => {}
            }
        }
        params
    }

    /// The packed sequences of a piece, counted from the first token that it binds.
    fn sequences(&self, piece: &Piece) -> Vec<PackedSequence> {
        // Only a piece of one sequence may take a part of its queries.
        let skipped = |q_len: u32| if piece.batch.len() == 1 { piece.queries.start.min(q_len) } else { 0 };
        let first = self.problem.sequence(piece.batch.start);
        let first_query = first.q_start + skipped(first.q_len);
        let sequence = |b| {
            let s = self.problem.sequence(b);
            let skipped = skipped(s.q_len);
            let end = if piece.batch.len() == 1 { piece.queries.end.min(s.q_len) } else { s.q_len };
            PackedSequence {
                q_start: s.q_start + skipped - first_query,
                q_len: end - skipped,
                kv_start: s.kv_start - first.kv_start,
                kv_len: s.kv_len,
                diagonal: s.kv_len as i32 - s.q_len as i32 + skipped as i32,
            }
        };
        piece.batch.clone().map(sequence).collect()
    }
}

impl Launch {
    /// Records the dispatches. Creates, allocates and submits nothing.
    pub(crate) fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        pass.set_pipeline(&self.pipeline);
        for dispatch in &self.dispatches {
            pass.set_bind_group(0, &dispatch.bind_group, &[]);
            pass.dispatch_workgroups(dispatch.grid[0], dispatch.grid[1], 1);
        }
    }

    pub(crate) fn dispatches(&self) -> usize {
        self.dispatches.len()
    }

    /// Sizes of the buffers that the launch holds beside the caller's.
    pub(crate) fn allocations(&self) -> &[u64] {
        &self.allocations
    }
}

/// A grid of so many workgroups, folded where one dimension is too short.
pub(crate) fn grid(workgroups: u64, caps: &Caps) -> [u32; 2] {
    // Both factors are at most `caps.workgroups`, since the split keeps the number of workgroups in bounds.
    let rows = workgroups.div_ceil(caps.workgroups.into()).max(1);
    [workgroups.div_ceil(rows) as u32, rows as u32]
}
