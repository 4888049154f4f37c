//! The backward pass: a first walk over query tiles for the row terms, dλ and dQ, a second over key tiles for dK and dV.
//!
//! Nothing of a forward pass is asked for: the first walk computes the attention of its rows again. Between the walks
//! only the row terms are kept, heads × q_len. No two tasks add to one gradient, so the result is the same on every run.

use super::deal::deal;
use super::forward::{Context, Scratch, attend, round, sigmoid};
use super::product::{Into, Matrix, multiply};
use super::rows::Member;
use super::stored::{Stored, rounded};
use super::tiles::{Tile, steps};
use super::{queue, rows};
use crate::{HostGradInputs, HostGradients, HostInputs, Problem, Result, Sizes};
use std::ops::Range;

/// Keys of one step, and of one tile of dK and dV: scores and dP of a full tile take 288 KiB.
const KEYS: usize = 128;

/// What the gradient of a score needs beside the score and dP = dO·Vᵀ, for every row of a tile:
/// dS = P·(w·dP − δ) with w = 1 and −gate for the two members (1 for a single one).
#[derive(Default)]
struct Terms {
    /// Base 2.
    lse: Vec<f32>,
    /// δ = w·rowsum(dO ∘ a) − dlse.
    delta: Vec<f32>,
    /// sigmoid(λ), for the rows of the second member.
    gate: Vec<f32>,
}

/// One thread's memory.
#[derive(Default)]
struct Buffers {
    forward: Scratch,
    /// One member's rows × value_dim.
    dout: Vec<f32>,
    /// keys × rows: scores, then their gradients.
    scores: Vec<f32>,
    /// keys × one member's rows: dP, then P₁ − gate·P₂.
    weights: Vec<f32>,
    /// rows × head_dim (dQ) or keys × head_dim (dK).
    product: Vec<f32>,
    /// keys × value_dim.
    dv: Vec<f32>,
}

/// Gradients of [`forward`](super::forward) on the CPU, in f32, on all threads of the current rayon pool.
///
/// Everything is computed from the inputs again, so no output of the forward pass is needed. `dq`, `dk` and `dv` are
/// rounded to the problem's storage type; `dlam` is by the logit λ. Queries that see no key give and get zero. The same
/// bits on every run, whatever the number of threads.
///
/// # Errors
/// Those of [`HostInputs::validate`], and [`crate::Error::Shape`] for a `dout` or `dlse` of the wrong length.
pub fn backward(problem: &Problem, inputs: &HostInputs, grads: &HostGradInputs) -> Result<HostGradients> {
    let sizes = inputs.validate(problem)?;
    grads.validate(problem)?;
    Ok(run(problem, inputs, grads, &sizes, 2))
}

/// The backward pass of pairs, or of one `member` for each output head; everything has been validated.
pub(super) fn run(
    problem: &Problem,
    inputs: &HostInputs,
    grads: &HostGradInputs,
    sizes: &Sizes,
    members: usize,
) -> HostGradients {
    let stored = Stored::new(problem, inputs);
    let context = Context::new(problem, &stored.inputs());
    let dout = rounded(problem.dtype, grads.dout);
    let grads = &HostGradInputs { dout: &dout, dlse: grads.dlse };
    let tiles = Tile::all(problem, members);
    let tensor = |size: u64| vec![0.0; size as usize];
    let (mut dq, mut dlam, mut dk, mut dv) = (tensor(sizes.q), tensor(sizes.lam), tensor(sizes.k), tensor(sizes.v));
    let terms = query_gradients(problem, &context, grads, &tiles, &mut dq, &mut dlam);
    key_gradients(problem, &context, grads, (&tiles, &terms), &mut dk, &mut dv);
    HostGradients { dq, dk, dv, dlam }
}

/// The first walk: dQ and dλ, and the row terms of every tile.
fn query_gradients(
    problem: &Problem,
    context: &Context,
    grads: &HostGradInputs,
    tiles: &[Tile],
    dq: &mut [f32],
    dlam: &mut [f32],
) -> Vec<Terms> {
    let q_extent = problem.extents().1 as usize;
    let mut terms: Vec<Terms> = tiles.iter().map(|_| Terms::default()).collect();
    let dq_pieces = deal(dq, tiles.iter().map(Tile::q_rows));
    // A single member has no λ.
    let dlam_pieces = deal(dlam, tiles.iter().map(|tile| tile.pair_rows(1).filter(|_| tile.members == 2)));
    let pieces = terms.iter_mut().zip(dq_pieces).zip(dlam_pieces);
    let tasks: Vec<_> = tiles.iter().zip(pieces).map(|(tile, ((terms, dq), dlam))| (tile, terms, dq, dlam)).collect();
    queue::run(
        tasks,
        |(tile, ..)| tile.member_rows() * tile.keys().len(),
        |(tile, terms, dq, dlam), buffers: &mut Buffers| {
            attend(context, tile, &mut buffers.forward);
            load(&mut buffers.dout, grads.dout, tile.pair_rows(context.value_dim));
            *terms = row_terms(context, grads, tile, q_extent, buffers, dlam);
            buffers.product.clear();
            buffers.product.resize(tile.rows() * context.head_dim, 0.0);
            for keys in steps(tile.keys(), KEYS) {
                score_gradients(context, tile, terms, &keys, buffers);
                let ds = Matrix::new(&buffers.scores, tile.rows());
                multiply(&mut buffers.product, Into::Add, problem.scale(), ds.t(), context.k(tile, &keys));
            }
            for (dq, row) in dq.into_iter().zip(buffers.product.chunks_exact(context.head_dim)) {
                dq.copy_from_slice(row);
                round(dq, problem.dtype);
            }
        },
    );
    terms
}

/// The row terms of a tile whose attention has just been computed, and its dλ.
fn row_terms(
    context: &Context,
    grads: &HostGradInputs,
    tile: &Tile,
    q_extent: usize,
    buffers: &Buffers,
    dlam: Vec<&mut [f32]>,
) -> Terms {
    let (half, pairs) = (tile.member_rows(), tile.pairs.len());
    let mut lam = Vec::new();
    if tile.members == 2 {
        load(&mut lam, context.inputs.lam, tile.pair_rows(1));
    }
    let gate: Vec<f32> = lam.iter().map(|&lam| sigmoid(lam)).collect();
    // rowsum(dO ∘ a) of both members.
    let dout = buffers.dout.chunks_exact(context.value_dim);
    let members = buffers.forward.out.chunks_exact(context.value_dim);
    let mut delta: Vec<f32> = members.zip(dout.clone().chain(dout)).map(|(a, dout)| rows::dot(a, dout)).collect();
    // 1 − sigmoid(λ) is sigmoid(−λ), without the cancellation.
    let slopes = delta[half..].iter().zip(&gate).zip(&lam).map(|((c2, gate), lam)| -gate * sigmoid(-lam) * c2);
    dlam.into_iter().flatten().zip(slopes).for_each(|(dlam, slope)| *dlam = slope);
    delta[half..].iter_mut().zip(&gate).for_each(|(delta, gate)| *delta *= -gate);
    for (head, range) in tile.lse_rows(q_extent).enumerate() {
        let (member, pair) = (head / pairs, head % pairs);
        let rows = delta[member * half..].iter_mut().skip(pair).step_by(pairs);
        if let Some(dlse) = grads.dlse {
            rows.zip(&dlse[range]).for_each(|(delta, dlse)| *delta -= dlse);
        }
    }
    Terms { lse: buffers.forward.lse.clone(), delta, gate }
}

/// The second walk: dK and dV, each tile of keys over all query tiles that see it.
fn key_gradients(
    problem: &Problem,
    context: &Context,
    grads: &HostGradInputs,
    (tiles, terms): (&[Tile], &[Terms]),
    dk: &mut [f32],
    dv: &mut [f32],
) {
    let same_keys = |a: &Tile, b: &Tile| (a.span, a.kv_head) == (b.span, b.kv_head);
    let mut first = 0;
    let mut key_tiles: Vec<(Range<usize>, Range<usize>)> = Vec::new();
    for queries in tiles.chunk_by(same_keys) {
        let range = first..first + queries.len();
        first = range.end;
        key_tiles.extend(steps(0..queries[0].span.kv_len, KEYS).map(|keys| (range.clone(), keys)));
    }
    let rows_of = |(queries, keys): &(Range<usize>, Range<usize>), width: usize| {
        let tile = &tiles[queries.start];
        let (kv_token, kv_head, kv_heads) = (tile.span.kv_token, tile.kv_head, context.kv_heads);
        keys.clone().map(move |key| {
            let start = ((kv_token + key) * kv_heads + kv_head) * width;
            start..start + width
        })
    };
    let dk_pieces = deal(dk, key_tiles.iter().map(|tile| rows_of(tile, context.head_dim)));
    let dv_pieces = deal(dv, key_tiles.iter().map(|tile| rows_of(tile, context.value_dim)));
    let tasks: Vec<_> = key_tiles.into_iter().zip(dk_pieces.into_iter().zip(dv_pieces)).collect();
    let seen = |tile: &Tile, keys: &Range<usize>| {
        let all = tile.keys();
        all.start.max(keys.start)..all.end.min(keys.end)
    };
    queue::run(
        tasks,
        |((queries, keys), _)| {
            tiles[queries.clone()].iter().map(|tile| tile.member_rows() * seen(tile, keys).len()).sum()
        },
        |((queries, keys), (dk_rows, dv_rows)), buffers: &mut Buffers| {
            let (head_dim, value_dim) = (context.head_dim, context.value_dim);
            let (mut dk, mut dv) = (std::mem::take(&mut buffers.product), std::mem::take(&mut buffers.dv));
            dk.clear();
            dk.resize(keys.len() * head_dim, 0.0);
            dv.clear();
            dv.resize(keys.len() * value_dim, 0.0);
            for (tile, terms) in tiles[queries.clone()].iter().zip(&terms[queries]) {
                let seen = seen(tile, &keys);
                if seen.is_empty() {
                    continue;
                }
                load(&mut buffers.forward.q, context.inputs.q, tile.q_rows());
                load(&mut buffers.dout, grads.dout, tile.pair_rows(value_dim));
                score_gradients(context, tile, terms, &seen, buffers);
                let inside = seen.start - keys.start..seen.end - keys.start;
                let weights = Matrix::new(&buffers.weights, tile.member_rows());
                let dv = &mut dv[inside.start * value_dim..inside.end * value_dim];
                multiply(dv, Into::Add, 1.0, weights, Matrix::new(&buffers.dout, value_dim));
                let ds = Matrix::new(&buffers.scores, tile.rows());
                let dk = &mut dk[inside.start * head_dim..inside.end * head_dim];
                multiply(dk, Into::Add, problem.scale(), ds, Matrix::new(&buffers.forward.q, head_dim));
            }
            for (pieces, rows, width) in [(dk_rows, &dk, head_dim), (dv_rows, &dv, value_dim)] {
                for (piece, row) in pieces.into_iter().zip(rows.chunks_exact(width)) {
                    piece.copy_from_slice(row);
                    round(piece, problem.dtype);
                }
            }
            (buffers.product, buffers.dv) = (dk, dv);
        },
    );
}

/// From the tile's q and dO in `buffers`: the gradients of its scores with `keys` (keys × rows) and the weights
/// P₁ − gate·P₂, or P (keys × one member's rows), 0 where masked.
///
/// Keys are the slow axis here: the row terms then vary along the fast one, and both results enter the products that
/// follow without a transposing copy.
fn score_gradients(context: &Context, tile: &Tile, terms: &Terms, keys: &Range<usize>, buffers: &mut Buffers) {
    let (half, pairs) = (tile.member_rows(), tile.pairs.len());
    let Buffers { forward, dout, scores, weights, .. } = buffers;
    scores.resize(keys.len() * tile.rows(), 0.0);
    weights.resize(keys.len() * half, 0.0);
    let q = Matrix::new(&forward.q, context.head_dim);
    multiply(scores, Into::Replace, context.factor, context.k(tile, keys), q.t());
    let dout = Matrix::new(dout, context.value_dim);
    multiply(weights, Into::Replace, 1.0, context.v(tile, keys), dout.t());

    let seen: Vec<Range<usize>> = tile.positions.clone().map(|position| tile.keys_of(position)).collect();
    let rows = scores.chunks_exact_mut(tile.rows()).zip(weights.chunks_exact_mut(half));
    for (key, (scores, weights)) in keys.clone().zip(rows) {
        // The positions that see this key follow each other, since neither end of what a position sees ever falls.
        let first = seen.partition_point(|seen| seen.end <= key) * pairs;
        let end = seen.partition_point(|seen| seen.start <= key) * pairs;
        for masked in scores.chunks_exact_mut(half).chain([&mut *weights]) {
            masked[..first].fill(0.0);
            masked[end..].fill(0.0);
        }
        let member = |offset: usize| Member {
            lse: &terms.lse[offset + first..offset + end],
            delta: &terms.delta[offset + first..offset + end],
        };
        let (scores1, scores2) = scores.split_at_mut(half);
        let (scores1, weights) = ((&mut scores1[first..end], member(0)), &mut weights[first..end]);
        if tile.members == 1 {
            rows::gradients(scores1, weights, context.softcap);
        } else {
            let scores2 = (&mut scores2[first..end], member(half));
            rows::pair_gradients(scores1, scores2, weights, &terms.gate[first..end], context.softcap);
        }
    }
}

/// Gathers rows of a tensor.
fn load(into: &mut Vec<f32>, tensor: &[f32], rows: impl Iterator<Item = Range<usize>>) {
    into.clear();
    rows.for_each(|row| into.extend_from_slice(&tensor[row]));
}
