//! From a caller's buffers to the launches of a backward pass.

use super::{BackwardBuffers, BackwardPass, BackwardPlan, Step, tiling};
use crate::error::{Error, Result};
use crate::ops::bind::{Bound, Use};
use crate::ops::host;
use crate::ops::launch::{Axes, Gradient, Launch, Launcher, Operand, Tiling};
use crate::problem::{Problem, Shape};
use crate::shader::{Binding, Kernel};
use crate::slice::Layout;
use crate::tile::{NAIVE_THREADS, Sweep};

/// f32s of one `Terms` of backward/terms.wgsl.
const TERMS: u32 = 8;

impl BackwardPlan {
    /// Checks the buffers, allocates the row terms and creates everything that encoding needs.
    ///
    /// Where a binding limit asks for it, the work is split; dK and dV are then summed over the queries in storage
    /// precision once for each piece, in a fixed order.
    ///
    /// # Errors
    /// [`Error::Slice`] for a slice that cannot be bound; [`Error::Shape`] for an `a2` missing or too many;
    /// [`Error::Limit`] when a binding is too large even for one sequence, KV head and query, or the row terms for a
    /// buffer.
    pub fn bind(&self, buffers: &BackwardBuffers<'_>) -> Result<BackwardPass> {
        let (batch, q_len, _) = self.problem.extents();
        let rows = [batch, q_len, self.problem.shape.heads].map(u64::from);
        let terms_bytes = rows.iter().product::<u64>() * u64::from(TERMS) * 4;
        let terms = host::output(&self.attention, "diffattn.terms", terms_bytes)?;
        let tensors = Tensors::new(self, buffers, &terms)?;
        tensors.check_aliasing(self)?;

        let flags = Gradient { accumulate: buffers.accumulate, has_dlse: buffers.dlse.is_some(), by_key: false };
        let mut launches = vec![self.launch_rows(&tensors.rows(), flags)?];
        for (step, operands) in
            [(self.mean.as_ref(), tensors.mean()), (Some(&self.dq), tensors.dq()), (Some(&self.dkv), tensors.dkv())]
        {
            launches.extend(step.map(|step| self.launch_sweep(step, &operands, flags)).transpose()?);
        }
        Ok(BackwardPass { launches, terms_bytes: terms.size() })
    }

    /// The row terms, for which a packed batch is one sequence.
    fn launch_rows(&self, operands: &[Operand<'_>], flags: Gradient) -> Result<Launch> {
        let (batch, q_len, kv_len) = self.problem.extents();
        let shape = Shape { batch, q_len, kv_len, ..self.problem.shape };
        let problem = Problem { shape, packed: None, ..self.problem.clone() };
        let launcher = Launcher {
            attention: &self.attention,
            problem: &problem,
            label: "diffattn.backward_rows",
            tiling: &|piece| Tiling {
                head_tiles: shape.group().into(),
                q_tiles: piece.queries.len() as u64,
                tiles_per_workgroup: NAIVE_THREADS,
            },
        };
        launcher.launch_gradient(&self.rows.pipeline, operands, flags)
    }

    fn launch_sweep(&self, step: &Step, operands: &[Operand<'_>], flags: Gradient) -> Result<Launch> {
        let kernel = step.variant.kernel;
        let Kernel::Backward(sweep, tile) = kernel else { unreachable!("{} is no sweep", kernel.name()) };
        let members = if step.variant.standard { 1 } else { 2 };
        let launcher = Launcher {
            attention: &self.attention,
            problem: &self.problem,
            label: &format!("diffattn.{}", kernel.name()),
            tiling: &|piece| tiling(&self.problem, sweep, tile, members, piece),
        };
        launcher.launch_gradient(&step.pipeline, operands, Gradient { by_key: sweep == Sweep::Dkv, ..flags })
    }
}

/// Every tensor of a backward pass, resolved and checked.
struct Tensors<'a> {
    q: Operand<'a>,
    k: Operand<'a>,
    v: Operand<'a>,
    lam: Operand<'a>,
    out: Operand<'a>,
    lse: Operand<'a>,
    a2: Option<Operand<'a>>,
    dout: Operand<'a>,
    dlse: Operand<'a>,
    dq: Operand<'a>,
    dk: Operand<'a>,
    dv: Operand<'a>,
    dlam: Operand<'a>,
    /// As the rows kernel writes it.
    terms: Operand<'a>,
    /// As the sweeps read it.
    saved_terms: Operand<'a>,
}

impl<'a> Tensors<'a> {
    fn new(plan: &BackwardPlan, buffers: &BackwardBuffers<'a>, terms: &'a wgpu::Buffer) -> Result<Self> {
        let problem = &plan.problem;
        // Query heads of an output head.
        let members = if plan.rows.variant.standard { 1 } else { 2 };
        let Shape { heads, kv_heads, head_dim, value_dim, .. } = problem.shape;
        let (batch, q_len, kv_len) = problem.extents();
        let group = problem.shape.group();
        let size = problem.dtype.size();
        let read = |name| Use { name, size, unit: 8, writes: false, default: Layout::Bshd };
        let written = |name| Use { name, size, unit: 4, writes: true, default: Layout::Bshd };
        let single = |how| Use { size: 4, unit: 1, ..how };
        let by_head = |how| Use { default: Layout::Bhsd, ..single(how) };
        let operand = |binding, slice, extents, how, axes| {
            Ok::<_, Error>(Operand { binding, bound: Bound::new(slice, extents, how)?, axes })
        };
        let (pairs, rows) = (Axes::Queries(members * group), Axes::Queries(group));
        let (q, k, v) = (
            [batch, q_len, members * heads, head_dim],
            [batch, kv_len, kv_heads, head_dim],
            [batch, kv_len, kv_heads, value_dim],
        );
        let (out, lam, lse) =
            ([batch, q_len, heads, value_dim], [batch, q_len, heads, 1], [batch, q_len, members * heads, 1]);
        let a2 = match (problem.options.a2, buffers.a2) {
            (true, None) => Err(("a buffer, since options.a2 is set", "none")),
            (false, Some(_)) => Err(("none, since options.a2 is not set", "a buffer")),
            (_, slice) => Ok(slice),
        };
        let a2 = a2.map_err(|(expected, actual)| Error::Shape {
            tensor: "a2",
            expected: expected.into(),
            actual: actual.into(),
        })?;
        let terms_use = Use { size: 4, unit: TERMS.into(), ..written("terms") };
        let terms = |how| operand(Binding::Terms, terms.into(), [batch, q_len, heads, TERMS], how, rows);
        // The kernel binds something in the place of a dlse that is not there, and does not look at it.
        let dlse = buffers.dlse.unwrap_or(buffers.lse);
        Ok(Tensors {
            q: operand(Binding::Q, buffers.q, q, read("q"), pairs)?,
            k: operand(Binding::K, buffers.k, k, read("k"), Axes::Keys)?,
            v: operand(Binding::V, buffers.v, v, read("v"), Axes::Keys)?,
            lam: operand(Binding::Lam, buffers.lam, lam, single(read("lam")), rows)?,
            out: operand(Binding::Out, buffers.out, out, read("out"), rows)?,
            lse: operand(Binding::Lse, buffers.lse, lse, by_head(read("lse")), pairs)?,
            a2: a2.map(|slice| operand(Binding::A2, slice, out, read("a2"), rows)).transpose()?,
            dout: operand(Binding::Dout, buffers.dout, out, read("dout"), rows)?,
            dlse: operand(Binding::Dlse, dlse, lse, by_head(read("dlse")), pairs)?,
            dq: operand(Binding::Dq, buffers.dq, q, written("dq"), pairs)?,
            dk: operand(Binding::Dk, buffers.dk, k, written("dk"), Axes::Keys)?,
            dv: operand(Binding::Dv, buffers.dv, v, written("dv"), Axes::Keys)?,
            dlam: operand(Binding::Dlam, buffers.dlam, lam, single(written("dlam")), rows)?,
            terms: terms(terms_use)?,
            saved_terms: terms(Use { writes: false, ..terms_use })?,
        })
    }

    /// Refuses one buffer for two gradients that overlap, and for an input and a gradient, even where no single kernel
    /// binds both: an input would change while it is still needed.
    fn check_aliasing(&self, plan: &BackwardPlan) -> Result<()> {
        let inputs = [self.q, self.k, self.v, self.lam, self.out, self.lse, self.dout, self.dlse];
        let all = inputs.into_iter().chain(self.a2).chain([self.dq, self.dk, self.dv, self.dlam]);
        let bound: Vec<_> = all.map(|operand| operand.bound).collect();
        crate::ops::bind::check_aliasing(&bound, plan.attention.caps())
    }

    fn rows(&self) -> Vec<Operand<'a>> {
        let mut operands = vec![self.lam, self.out, self.lse, self.dout, self.dlse, self.terms];
        operands.extend(self.a2);
        operands.extend(self.a2.and(Some(self.dlam)));
        operands
    }

    fn mean(&self) -> Vec<Operand<'a>> {
        vec![self.q, self.k, self.v, self.dout, self.terms, self.dlam]
    }

    fn dq(&self) -> Vec<Operand<'a>> {
        vec![self.q, self.k, self.v, self.dout, self.saved_terms, self.dq]
    }

    fn dkv(&self) -> Vec<Operand<'a>> {
        vec![self.q, self.k, self.v, self.dout, self.saved_terms, self.dk, self.dv]
    }
}
