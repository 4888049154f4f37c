//! Work that does not fit one dispatch is split: which sequences, KV heads and queries each dispatch takes. Pure.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::problem::Problem;
use crate::slice::{Part, Tensor};

/// What one dispatch computes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Sequences of the batch.
    pub batch: Range<u32>,
    /// KV heads, each with its whole group of output heads.
    pub kv_heads: Range<u32>,
    /// Queries of every sequence; a part of them only where the piece has one sequence or an even batch.
    pub queries: Range<u32>,
}

/// The tensors of an operation, by the axes that they share with the problem.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tensors {
    /// Along queries; the second field is heads for each KV head: 2·group for q and lse, group for λ, out and a₂.
    pub by_query: Vec<(Tensor, u32)>,
    /// Along keys, one head for each KV head.
    pub by_key: Vec<Tensor>,
}

/// The part of a tensor along queries that a piece touches.
pub(crate) fn query_part(problem: &Problem, piece: &Piece, heads_per_kv_head: u32) -> Part {
    let (batch, seq) = if problem.packed.is_some() {
        // Pieces with several packed sequences take all their queries.
        let first = problem.sequence(piece.batch.start);
        let last = problem.sequence(piece.batch.end - 1);
        let end = if piece.batch.len() > 1 {
            last.q_start + last.q_len
        } else {
            first.q_start + piece.queries.end.min(first.q_len)
        };
        (0..1, (first.q_start + piece.queries.start).min(end)..end)
    } else {
        (piece.batch.clone(), piece.queries.clone())
    };
    let heads = piece.kv_heads.start * heads_per_kv_head..piece.kv_heads.end * heads_per_kv_head;
    Part { batch: wide(&batch), seq: wide(&seq), heads: wide(&heads) }
}

/// The part of a tensor along keys that a piece touches.
pub(crate) fn key_part(problem: &Problem, piece: &Piece) -> Part {
    let (batch, seq) = if problem.packed.is_some() {
        let (first, last) = (problem.sequence(piece.batch.start), problem.sequence(piece.batch.end - 1));
        (0..1, first.kv_start..last.kv_start + last.kv_len)
    } else {
        (piece.batch.clone(), 0..problem.shape.kv_len)
    };
    Part { batch: wide(&batch), seq: wide(&seq), heads: wide(&piece.kv_heads) }
}

fn wide(range: &Range<u32>) -> Range<u64> {
    u64::from(range.start)..u64::from(range.end)
}

/// What one dispatch may need at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Bytes of a storage binding.
    pub storage_binding: u64,
    /// Alignment of a binding's offset.
    pub alignment: u64,
    /// Workgroups of a dispatch, over all its dimensions.
    pub workgroups: u64,
}

/// Splits a problem into pieces that each fit one dispatch; `workgroups` counts those of a piece.
///
/// Halves the batch first, then the KV heads, then the queries, and only where that helps.
///
/// # Errors
/// [`Error::Limit`] naming the tensor when not even one sequence, KV head and query fits: the keys of one sequence are
/// never split.
pub(crate) fn split(
    problem: &Problem,
    tensors: &Tensors,
    limits: Limits,
    workgroups: &dyn Fn(&Piece) -> u64,
) -> Result<Vec<Piece>> {
    let shape = &problem.shape;
    let whole = Piece { batch: 0..shape.batch, kv_heads: 0..shape.kv_heads, queries: 0..shape.q_len };
    let mut open = vec![whole];
    let mut pieces = Vec::new();
    while let Some(piece) = open.pop() {
        let Err(error) = fits(problem, tensors, limits, workgroups, &piece) else {
            pieces.push(piece);
            continue;
        };
        let (first, second) = if let Some((first, second)) = halve(&piece.batch) {
            (Piece { batch: first, ..piece.clone() }, Piece { batch: second, ..piece })
        } else if let Some((first, second)) = halve(&piece.kv_heads) {
            (Piece { kv_heads: first, ..piece.clone() }, Piece { kv_heads: second, ..piece })
        } else if let (Some((first, second)), false) = (halve(&piece.queries), error.1) {
            (Piece { queries: first, ..piece.clone() }, Piece { queries: second, ..piece })
        } else {
            return Err(error.0);
        };
        open.extend([second, first]);
    }
    Ok(pieces)
}

fn halve(range: &Range<u32>) -> Option<(Range<u32>, Range<u32>)> {
    let middle = range.start + range.end.saturating_sub(range.start) / 2;
    (middle > range.start).then(|| (range.start..middle, middle..range.end))
}

/// Whether a piece fits; otherwise the error, and whether fewer queries cannot help.
fn fits(
    problem: &Problem,
    tensors: &Tensors,
    limits: Limits,
    workgroups: &dyn Fn(&Piece) -> u64,
    piece: &Piece,
) -> Result<(), (Error, bool)> {
    let needed = workgroups(piece);
    if needed > limits.workgroups {
        let (what, available) = ("the grid of one dispatch".to_string(), limits.workgroups);
        let name = "max_compute_workgroups_per_dimension";
        return Err((Error::Limit { name, what, needed, available }, false));
    }
    let keys = key_part(problem, piece);
    let by_key = tensors.by_key.iter().map(|tensor| (tensor, keys.clone(), true));
    let by_query = tensors.by_query.iter().map(|(tensor, heads)| (tensor, query_part(problem, piece, *heads), false));
    for (tensor, part, along_keys) in by_key.chain(by_query) {
        let binding = tensor.binding(&part, limits.alignment);
        let needed = binding.end - binding.start;
        if needed > limits.storage_binding {
            let what = if along_keys {
                format!("`{}` of one sequence, whose keys must be bound together", tensor.name)
            } else {
                format!("`{}`", tensor.name)
            };
            let (name, available) = ("max_storage_buffer_binding_size", limits.storage_binding);
            return Err((Error::Limit { name, what, needed, available }, along_keys));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, Options, Packed, Shape};
    use crate::slice::Layout;

    fn tensors(problem: &Problem, layout: Layout) -> Tensors {
        let (batch, q_len, kv_len) = problem.extents();
        let Shape { heads, kv_heads, head_dim, .. } = problem.shape;
        let tensor = |name, seq: u32, heads: u32| {
            let (seq, heads, dim) = (u64::from(seq), u64::from(heads), u64::from(head_dim));
            let strides = Tensor::strides_of(layout, Layout::Bshd, seq, heads, dim);
            let batch = u64::from(batch);
            Tensor { name, batch, seq, heads, dim, strides, size: 4, unit: 8, offset: 0, writes: false }
        };
        Tensors {
            by_query: vec![(tensor("q", q_len, 2 * heads), 2 * problem.shape.group())],
            by_key: vec![tensor("k", kv_len, kv_heads)],
        }
    }

    fn check(problem: &Problem, layout: Layout, storage_binding: u64, workgroups: u64) -> Result<usize> {
        let limits = Limits { storage_binding, alignment: 256, workgroups };
        let tensors = tensors(problem, layout);
        let count = |piece: &Piece| piece.queries.len() as u64 * piece.batch.len() as u64;
        let pieces = split(problem, &tensors, limits, &count)?;
        // Every (sequence, KV head, query) is in exactly one piece, and every piece fits.
        let shape = &problem.shape;
        let mut seen = vec![0; (shape.batch * shape.kv_heads * shape.q_len) as usize];
        for piece in &pieces {
            assert!(count(piece) <= workgroups);
            for (tensor, heads) in &tensors.by_query {
                let binding = tensor.binding(&query_part(problem, piece, *heads), 256);
                assert!(binding.end - binding.start <= storage_binding);
            }
            for b in piece.batch.clone() {
                for head in piece.kv_heads.clone() {
                    for query in piece.queries.clone() {
                        seen[((b * shape.kv_heads + head) * shape.q_len + query) as usize] += 1;
                    }
                }
            }
        }
        assert!(seen.iter().all(|&count| count == 1));
        Ok(pieces.len())
    }

    fn problem(batch: u32, q_len: u32, kv_len: u32) -> Problem {
        let shape = Shape { batch, q_len, kv_len, heads: 4, kv_heads: 2, head_dim: 8, value_dim: 8 };
        Problem::new(shape, DType::F32, Options::default())
    }

    #[test]
    fn pieces_cover_the_problem_exactly_once() {
        for layout in [Layout::Bshd, Layout::Bhsd] {
            assert_eq!(check(&problem(3, 37, 10), layout, 1 << 20, 1 << 20), Ok(1));
            for binding in [1024, 2048, 9000] {
                for grid in [7, 37, 1000] {
                    assert!(check(&problem(3, 37, 10), layout, binding, grid).unwrap() > 1);
                }
            }
        }
        let packed = Packed { cu_seqlens_q: vec![0, 5, 5, 30], cu_seqlens_k: vec![0, 9, 12, 12] };
        let problem = Problem::packed(problem(1, 1, 1).shape, DType::F32, Options::default(), packed).unwrap();
        assert!(check(&problem, Layout::Bshd, 1500, 1000).unwrap() > 3);
    }

    #[test]
    fn keys_that_do_not_fit_are_named() {
        let error = check(&problem(2, 4, 1000), Layout::Bshd, 4096, 1000).unwrap_err();
        assert!(error.to_string().contains("`k` of one sequence"), "{error}");
        assert!(error.is_unsupported());
        // By head, each KV head's keys are one piece, so that they fit where the tokens' rows do not.
        assert_eq!(check(&problem(1, 4, 100), Layout::Bhsd, 3400, 1000), Ok(2));
        assert!(check(&problem(1, 4, 100), Layout::Bshd, 3400, 1000).is_err());
    }
}
