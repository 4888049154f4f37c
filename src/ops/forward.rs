//! The forward operation: plan → bind → encode.

use std::sync::Arc;

use crate::attention::{DiffAttention, PlanOptions};
use crate::caps::Caps;
use crate::error::{Error, Result};
use crate::host::{HostInputs, HostOutputs, Sizes};
use crate::memo::Asked;
use crate::ops::bind::{Bound, Use};
use crate::ops::host;
use crate::ops::launch::{Axes, Launch, Launcher, Operand, Tiling};
use crate::pipeline::AnyVariant;
use crate::problem::{DType, Problem, Shape};
use crate::readback::read_buffer;
use crate::shader::{Binding, Variant};
use crate::slice::{Layout, TensorSlice};
use crate::split::Piece;
use crate::tile::{self, AnyTile, NAIVE_THREADS, Path};

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
    chosen: Arc<Chosen>,
    pipeline: Arc<wgpu::ComputePipeline>,
}

/// The kernel that was chosen, and why.
#[derive(Debug)]
pub(crate) struct Chosen {
    variant: Variant,
    reason: String,
}

/// A forward pass bound to buffers. Encoding allocates, creates and submits nothing.
#[derive(Debug, Clone)]
pub struct ForwardPass {
    launch: Launch,
}

impl ForwardPlan {
    pub(crate) async fn new(
        attention: &DiffAttention,
        problem: &Problem,
        options: PlanOptions,
        standard: bool,
    ) -> Result<Self> {
        problem.validate()?;
        Sizes::of(problem)?;
        let asked = Asked::new(problem, options, standard);
        let choose = || Chosen::new(problem, options, standard, attention.caps());
        let chosen = attention.choices.forward.get(asked, choose)?;
        let key = (AnyVariant::Tensors(chosen.variant), options.runtime_checks);
        let pipeline = attention.pipelines.get(&attention.device, key).await?;
        Ok(ForwardPlan { attention: attention.clone(), problem: problem.clone(), chosen, pipeline })
    }

    /// The problem that was planned.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The kernel family that was chosen.
    pub fn path(&self) -> Path {
        self.chosen.variant.path
    }

    /// The tile that was chosen; `None` on the naive path.
    pub fn tile(&self) -> Option<AnyTile> {
        self.chosen.variant.tile
    }

    /// The kernel's name, as in errors, dumps and benchmark rows.
    pub fn label(&self) -> String {
        self.chosen.variant.label()
    }

    /// Why this path was chosen, in one clause.
    pub fn reason(&self) -> &str {
        &self.chosen.reason
    }

    /// Checks the buffers and creates everything that encoding needs.
    ///
    /// # Errors
    /// [`Error::Slice`] for a slice that cannot be bound; [`Error::Shape`] for an output missing or too many;
    /// [`Error::Limit`] when a binding is too large even for one sequence, KV head and query.
    pub fn bind(&self, buffers: &ForwardBuffers<'_>) -> Result<ForwardPass> {
        let operands = self.operands(buffers)?;
        let launcher = Launcher {
            attention: &self.attention,
            problem: &self.problem,
            label: "diffattn.forward",
            tiling: &|piece| self.tiling(piece),
        };
        Ok(ForwardPass { launch: launcher.launch(&self.pipeline, &operands)? })
    }

    /// The tensors that the kernel binds, resolved and checked.
    fn operands<'a>(&self, buffers: &ForwardBuffers<'a>) -> Result<Vec<Operand<'a>>> {
        let Shape { heads, kv_heads, head_dim, value_dim, .. } = self.problem.shape;
        let (batch, q_len, kv_len) = self.problem.extents();
        let group = self.problem.shape.group();
        let size = self.problem.dtype.size();
        let read = |name| Use { name, size, unit: 8, writes: false, default: Layout::Bshd };
        let written = |name| Use { name, size, unit: 4, writes: true, default: Layout::Bshd };
        let lam = Use { size: 4, unit: 1, ..read("lam") };
        let lse = Use { size: 4, unit: 1, default: Layout::Bhsd, ..written("lse") };
        let operand = |binding, slice, extents, how, axes| {
            Ok::<_, Error>(Operand { binding, bound: Bound::new(slice, extents, how)?, axes })
        };
        let members = self.members();
        let (pair, single) = (Axes::Queries(members * group), Axes::Queries(group));
        let outputs = [batch, q_len, heads, value_dim];
        let mut operands = vec![
            operand(Binding::Q, buffers.q, [batch, q_len, members * heads, head_dim], read("q"), pair)?,
            operand(Binding::K, buffers.k, [batch, kv_len, kv_heads, head_dim], read("k"), Axes::Keys)?,
            operand(Binding::V, buffers.v, [batch, kv_len, kv_heads, value_dim], read("v"), Axes::Keys)?,
            operand(Binding::Lam, buffers.lam, [batch, q_len, heads, 1], lam, single)?,
            operand(Binding::Out, buffers.out, outputs, written("out"), single)?,
        ];
        let options = &self.problem.options;
        if let Some(slice) = wanted("lse", options.lse, buffers.lse)? {
            operands.push(operand(Binding::Lse, slice, [batch, q_len, members * heads, 1], lse, pair)?);
        }
        if let Some(slice) = wanted("a2", options.a2, buffers.a2)? {
            operands.push(operand(Binding::A2, slice, outputs, written("a2"), single)?);
        }
        Ok(operands)
    }

    /// Query heads of an output head.
    fn members(&self) -> u32 {
        if self.chosen.variant.standard { 1 } else { 2 }
    }

    fn tiling(&self, piece: &Piece) -> Tiling {
        let queries = piece.queries.len() as u64;
        let group = self.problem.shape.group();
        match self.chosen.variant.tile {
            Some(tile) => Tiling {
                head_tiles: (group / tile.heads_per_tile()).into(),
                q_tiles: queries.div_ceil((tile.rows() / (self.members() * tile.heads_per_tile())).into()),
                tiles_per_workgroup: 1,
            },
            // One output row for each invocation.
            None => Tiling { head_tiles: group.into(), q_tiles: queries, tiles_per_workgroup: NAIVE_THREADS },
        }
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
        let options = &self.problem.options;
        let create = || {
            let q = host::upload(&self.attention, "q", dtype.encode(inputs.q))?;
            let k = host::upload(&self.attention, "k", dtype.encode(inputs.k))?;
            let v = host::upload(&self.attention, "v", dtype.encode(inputs.v))?;
            let lam = host::upload(&self.attention, "lam", DType::F32.encode(inputs.lam))?;
            let out = host::output(&self.attention, "out", sizes.out * dtype.size())?;
            let lse = options.lse.then(|| host::output(&self.attention, "lse", sizes.lse * 4)).transpose()?;
            let a2 = options.a2.then(|| host::output(&self.attention, "a2", sizes.out * dtype.size())).transpose()?;
            let pass = self.bind(&ForwardBuffers {
                q: (&q).into(),
                k: (&k).into(),
                v: (&v).into(),
                lam: (&lam).into(),
                out: (&out).into(),
                lse: lse.as_ref().map(TensorSlice::new),
                a2: a2.as_ref().map(TensorSlice::new),
            })?;
            Ok((pass, out, lse, a2))
        };
        let (pass, out, lse, a2) = host::with_memory(device, "uploading the tensors", create).await?;
        let mut encoder = device.create_command_encoder(&Default::default());
        pass.encode(&mut encoder.begin_compute_pass(&Default::default()));
        queue.submit([encoder.finish()]);

        let mut outputs =
            HostOutputs { out: dtype.decode(&read_buffer(device, queue, &out).await?), ..Default::default() };
        outputs.out.truncate(sizes.out as usize);
        if let Some(lse) = &lse {
            let mut values = DType::F32.decode(&read_buffer(device, queue, lse).await?);
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

impl Chosen {
    fn new(problem: &Problem, options: PlanOptions, standard: bool, caps: &Caps) -> Result<Self> {
        // Standard attention has tiled kernels only.
        let tiled = Caps { matrix: caps.matrix.filter(|_| !standard), ..caps.clone() };
        let (variant, reason) = choose(problem, options, &tiled)?;
        if standard && (variant.tile.is_none() || problem.options.a2) {
            let (what, hint) = ("standard attention on this path, or with a2", "choose a tiled path, and no a2");
            return Err(Error::Unsupported { what: what.into(), hint: hint.into() });
        }
        let variant = Variant { standard, ..variant };
        fits_device(&variant, caps)?;
        Ok(Chosen { variant, reason })
    }
}

impl ForwardPass {
    /// Records the dispatches. Creates, allocates and submits nothing.
    pub fn encode(&self, pass: &mut wgpu::ComputePass<'_>) {
        self.launch.encode(pass);
    }

    /// Dispatches that [`ForwardPass::encode`] records; more than one where a device limit made it split.
    pub fn dispatches(&self) -> usize {
        self.launch.dispatches()
    }

    /// Bytes of device memory held beside the caller's buffers.
    pub fn scratch_bytes(&self) -> u64 {
        self.launch.allocations().iter().sum()
    }

    /// Bytes of the largest buffer among them: below 1 MiB at any size.
    pub fn largest_allocation(&self) -> u64 {
        self.launch.allocations().iter().copied().max().unwrap_or(0)
    }
}

/// The kernel, and why.
fn choose(problem: &Problem, options: PlanOptions, caps: &Caps) -> Result<(Variant, String)> {
    let asked = "asked for".to_string();
    let variant = |path, tile| Variant::forward(problem, path, tile, caps);
    match (options.path, options.tile) {
        (Some(Path::Naive), None) => Ok((variant(Path::Naive, None), asked)),
        (path, Some(tile)) => {
            let path = path.unwrap_or(tile.path());
            tile.validate(problem, path, caps)?;
            Ok((variant(path, Some(tile)), "asked for, with its tile".into()))
        }
        (Some(path), None) => Ok((variant(path, Some(tile::forward_tile(problem, path, caps)?.tile)), asked)),
        (None, None) => {
            let (choice, reason) = tile::choose_forward(problem, caps)?;
            Ok((variant(choice.path, Some(choice.tile)), reason))
        }
    }
}

/// The limit that no tile can avoid.
fn fits_device(variant: &Variant, caps: &Caps) -> Result<()> {
    let invocations = if variant.path == Path::Naive { NAIVE_THREADS } else { 0 };
    tile::limit("max_compute_invocations_per_workgroup", invocations, caps.invocations)
}

pub(crate) fn wanted<'a>(
    name: &'static str,
    on: bool,
    slice: Option<TensorSlice<'a>>,
) -> Result<Option<TensorSlice<'a>>> {
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
