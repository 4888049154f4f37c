//! The forward pass of one tile, and of a problem.

use super::deal::deal;
use super::product::{Into, Matrix, multiply};
use super::stored::Stored;
use super::tiles::{Tile, steps};
use super::{queue, rows};
use crate::{DType, HostInputs, HostOutputs, Problem, Result, Sizes};
use std::f32::consts::{LN_2, LOG2_E};
use std::ops::Range;

/// Keys of one step: the scores of a full tile take 384 KiB.
const KEYS: usize = 256;

/// What a tile is computed from.
pub(super) struct Context<'a> {
    pub(super) inputs: HostInputs<'a>,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    /// Factor of q·k that gives scores in base 2, or the argument of tanh with a softcap.
    pub(super) factor: f32,
    /// The cap in base 2.
    pub(super) softcap: Option<f32>,
}

impl<'a> Context<'a> {
    pub(super) fn new(problem: &Problem, inputs: &HostInputs<'a>) -> Self {
        let softcap = problem.options.softcap;
        Context {
            inputs: *inputs,
            kv_heads: problem.shape.kv_heads as usize,
            head_dim: problem.shape.head_dim as usize,
            value_dim: problem.shape.value_dim as usize,
            factor: problem.scale() * softcap.map_or(LOG2_E, f32::recip),
            softcap: softcap.map(|cap| cap * LOG2_E),
        }
    }

    /// K of the tile's head: `keys` × head_dim.
    pub(super) fn k(&self, tile: &Tile, keys: &Range<usize>) -> Matrix<'a> {
        self.kv(self.inputs.k, self.head_dim, tile, keys)
    }

    /// V of the tile's head: `keys` × value_dim.
    pub(super) fn v(&self, tile: &Tile, keys: &Range<usize>) -> Matrix<'a> {
        self.kv(self.inputs.v, self.value_dim, tile, keys)
    }

    fn kv(&self, tensor: &'a [f32], width: usize, tile: &Tile, keys: &Range<usize>) -> Matrix<'a> {
        let start = ((tile.span.kv_token + keys.start) * self.kv_heads + tile.kv_head) * width;
        Matrix::strided(&tensor[start..], keys.len(), width, self.kv_heads * width)
    }
}

/// One thread's memory, and what [`attend`] leaves in it.
#[derive(Default)]
pub(super) struct Scratch {
    /// rows × head_dim.
    pub(super) q: Vec<f32>,
    /// rows × keys of one step.
    scores: Vec<f32>,
    /// rows × value_dim: softmax(scores)·V of every row; 0 where no key is seen.
    pub(super) out: Vec<f32>,
    /// Log-sum-exp of every row in base 2; −∞ where no key is seen.
    pub(super) lse: Vec<f32>,
}

/// Attention of every row of a tile, by online softmax over its keys.
pub(super) fn attend(context: &Context, tile: &Tile, scratch: &mut Scratch) {
    let Scratch { q, scores, out, lse } = scratch;
    let (head_dim, value_dim, rows) = (context.head_dim, context.value_dim, tile.rows());
    q.clear();
    for row in tile.q_rows() {
        q.extend_from_slice(&context.inputs.q[row]);
    }
    out.clear();
    out.resize(rows * value_dim, 0.0);
    // Until the end, `lse` holds the running maxima.
    lse.clear();
    lse.resize(rows, f32::NEG_INFINITY);
    let maxima = &mut lse[..];
    let mut sums = [0.0; super::tiles::ROWS];
    for keys in steps(tile.keys(), KEYS) {
        scores.resize(rows * keys.len(), 0.0);
        let q = Matrix::new(q, head_dim);
        multiply(scores, Into::Replace, context.factor, q, context.k(tile, &keys).t());
        let mut row = 0;
        for _member in 0..tile.members {
            for position in tile.positions.clone() {
                let seen = tile.keys_of(position);
                let seen = clamp(seen.start, &keys)..clamp(seen.end, &keys);
                for _pair in tile.pairs.clone() {
                    let scores = &mut scores[row * keys.len()..][..keys.len()];
                    let out = &mut out[row * value_dim..][..value_dim];
                    softmax_step(context, scores, seen.clone(), &mut maxima[row], &mut sums[row], out);
                    row += 1;
                }
            }
        }
        multiply(out, Into::Add, 1.0, Matrix::new(scores, keys.len()), context.v(tile, &keys));
    }
    for ((out, lse), sum) in out.chunks_exact_mut(value_dim).zip(lse).zip(sums) {
        // A sum of 0 is a row that sees nothing: its output is 0 and its maximum still −∞.
        if sum != 0.0 {
            scale(out, sum.recip());
            *lse += sum.log2();
        }
    }
}

/// Turns the scores of one row into weights relative to its new maximum, 0 where masked, and rescales what the row has
/// gathered so far.
fn softmax_step(
    context: &Context,
    scores: &mut [f32],
    seen: Range<usize>,
    maximum: &mut f32,
    sum: &mut f32,
    out: &mut [f32],
) {
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let scores = &mut scores[seen];
    if scores.is_empty() {
        return;
    }
    if let Some(cap) = context.softcap {
        rows::softcap(scores, cap);
    }
    let (old, new) = (*maximum, maximum.max(rows::max(scores)));
    let added = rows::exp2_sum(scores, new);
    if *sum != 0.0 && new > old {
        let factor = (old - new).exp2();
        scale(out, factor);
        *sum *= factor;
    }
    *sum += added;
    *maximum = new;
}

/// `key` relative to the start of `keys`, held inside it.
fn clamp(key: usize, keys: &Range<usize>) -> usize {
    key.clamp(keys.start, keys.end) - keys.start
}

fn scale(row: &mut [f32], factor: f32) {
    row.iter_mut().for_each(|x| *x *= factor);
}

/// The logistic function, without overflow on either side.
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// Rounds every element to the storage type.
pub(super) fn round(row: &mut [f32], dtype: DType) {
    if dtype != DType::F32 {
        row.iter_mut().for_each(|x| *x = dtype.round(*x));
    }
}

/// A tile and its pieces of the outputs.
struct Task<'a> {
    tile: Tile,
    out: Vec<&'a mut [f32]>,
    a2: Vec<&'a mut [f32]>,
    lse: Vec<&'a mut [f32]>,
}

/// DIFF V2 attention on the CPU, in f32, on all threads of the current rayon pool.
///
/// Inputs and outputs have the shapes of [`HostInputs`] and [`HostOutputs`]; `lse` and `a2` are there when the options
/// ask for them. A query that sees no key gets out 0 and lse −∞. `out` and `a2` are rounded to the problem's storage
/// type.
///
/// Inputs are to be finite. NaN and infinities give NaN where they are seen, and may also where they are masked: a
/// weight of zero times NaN is NaN, and keys are met in tiles.
///
/// # Errors
/// Those of [`HostInputs::validate`].
pub fn forward(problem: &Problem, inputs: &HostInputs) -> Result<HostOutputs> {
    let sizes = inputs.validate(problem)?;
    Ok(run(problem, inputs, &sizes, 2))
}

/// The forward pass of pairs, or of one `member` for each output head; the inputs have been validated.
pub(super) fn run(problem: &Problem, inputs: &HostInputs, sizes: &Sizes, members: usize) -> HostOutputs {
    let stored = Stored::new(problem, inputs);
    let context = Context::new(problem, &stored.inputs());
    let (options, value_dim) = (&problem.options, context.value_dim);
    let q_extent = problem.extents().1 as usize;
    // A tensor that is not asked for is empty and dealt in no pieces.
    let tensor = |wanted: bool, size: u64| vec![0.0; if wanted { size as usize } else { 0 }];
    let mut out = tensor(true, sizes.out);
    let mut a2 = tensor(options.a2, sizes.out);
    let mut lse = tensor(options.lse, sizes.lse);

    let tiles = Tile::all(problem, members);
    let out_pieces = deal(&mut out, tiles.iter().map(|tile| tile.pair_rows(value_dim)));
    let a2_pieces = deal(&mut a2, tiles.iter().map(|tile| tile.pair_rows(value_dim).filter(|_| options.a2)));
    let lse_pieces = deal(&mut lse, tiles.iter().map(|tile| tile.lse_rows(q_extent).filter(|_| options.lse)));
    let pieces = out_pieces.into_iter().zip(a2_pieces).zip(lse_pieces);
    let tasks = tiles.into_iter().zip(pieces).map(|(tile, ((out, a2), lse))| Task { tile, out, a2, lse }).collect();
    queue::run(
        tasks,
        |task: &Task| task.tile.member_rows() * task.tile.keys().len(),
        |task, scratch| {
            attend(&context, &task.tile, scratch);
            write(problem, &context, task, scratch);
        },
    );
    HostOutputs { out, lse: options.lse.then_some(lse), a2: options.a2.then_some(a2) }
}

/// out = a₁ − sigmoid(λ)·a₂, or a₁ alone, and the outputs on request.
fn write(problem: &Problem, context: &Context, task: Task, scratch: &Scratch) {
    let Task { tile, out, a2, lse } = task;
    let value_dim = context.value_dim;
    let (first, second) = scratch.out.split_at(tile.member_rows() * value_dim);
    let width = tile.pairs.len() * value_dim;
    // One member has no second half and leaves nothing to subtract.
    let mut seconds = second.chunks_exact(width);
    for ((out, lam), first) in out.into_iter().zip(tile.pair_rows(1)).zip(first.chunks_exact(width)) {
        out.copy_from_slice(first);
        if let Some(second) = seconds.next() {
            let pairs = out.chunks_exact_mut(value_dim).zip(second.chunks_exact(value_dim));
            for ((out, second), lam) in pairs.zip(&context.inputs.lam[lam]) {
                let gate = sigmoid(*lam);
                out.iter_mut().zip(second).for_each(|(out, second)| *out -= gate * second);
            }
        }
        round(out, problem.dtype);
    }
    for (a2, second) in a2.into_iter().zip(second.chunks_exact(width)) {
        a2.copy_from_slice(second);
        round(a2, problem.dtype);
    }
    let pairs = tile.pairs.len();
    for (head, lse) in lse.into_iter().enumerate() {
        // Heads come member by member; rows are members × positions × pairs.
        let (member, pair) = (head / pairs, head % pairs);
        let rows = scratch.lse[member * tile.member_rows()..].iter().skip(pair).step_by(pairs);
        for (lse, row) in lse.iter_mut().zip(rows) {
            *lse = row * LN_2;
        }
    }
}
