//! Work that does not fit one dispatch is split: which sequences, KV heads and queries each dispatch takes. Pure.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::params::PackedSequence;
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
    /// Bytes of the list of packed sequences.
    pub sequences: u64,
    /// Alignment of a binding's offset.
    pub alignment: u64,
    /// Workgroups of a dispatch, over all its dimensions.
    pub workgroups: u64,
}

/// Splits a problem into pieces that each fit one dispatch; `workgroups` counts those of a piece.
///
/// Whatever exceeds its limit most is brought down along the axis that brings it down furthest.
///
/// # Errors
/// [`Error::Limit`] naming what is too large when no axis brings it down: the keys of one sequence are never split, nor
/// the output heads that share a KV head.
pub(crate) fn split(
    problem: &Problem,
    tensors: &Tensors,
    limits: Limits,
    workgroups: &dyn Fn(&Piece) -> u64,
) -> Result<Vec<Piece>> {
    let shape = &problem.shape;
    let whole = Piece { batch: 0..shape.batch, kv_heads: 0..shape.kv_heads, queries: 0..shape.q_len };
    let load = |piece: &Piece| heaviest(problem, tensors, limits, workgroups, piece);
    let mut open = vec![whole];
    let mut pieces = Vec::new();
    while let Some(piece) = open.pop() {
        let heaviest = load(&piece);
        if heaviest.ratio() <= 1.0 {
            pieces.push(piece);
            continue;
        }
        // Packed sequences are taken apart before one of them is cut, even if one alone is what is too large.
        let apart = problem.packed.is_some() && piece.batch.len() > 1;
        let lighter = |halves: &(Piece, Piece)| load(&halves.0).ratio().max(load(&halves.1).ratio());
        let best = halves(&piece)
            .into_iter()
            .take(if apart { 1 } else { usize::MAX })
            .map(|halves| (lighter(&halves), halves))
            .min_by(|(a, _), (b, _)| a.total_cmp(b))
            .filter(|(ratio, _)| apart || *ratio < heaviest.ratio());
        let Some((_, (first, second))) = best else { return Err(heaviest.error()) };
        open.extend([second, first]);
    }
    Ok(pieces)
}

/// The piece cut in two along each axis that has more than one index: batch, KV heads, queries.
fn halves(piece: &Piece) -> Vec<(Piece, Piece)> {
    let halve = |range: &Range<u32>| {
        let middle = range.start + range.end.saturating_sub(range.start) / 2;
        (middle > range.start).then_some((range.start..middle, middle..range.end))
    };
    let by_batch =
        halve(&piece.batch).map(|(a, b)| (Piece { batch: a, ..piece.clone() }, Piece { batch: b, ..piece.clone() }));
    let by_head = halve(&piece.kv_heads)
        .map(|(a, b)| (Piece { kv_heads: a, ..piece.clone() }, Piece { kv_heads: b, ..piece.clone() }));
    let by_query = halve(&piece.queries)
        .map(|(a, b)| (Piece { queries: a, ..piece.clone() }, Piece { queries: b, ..piece.clone() }));
    [by_batch, by_head, by_query].into_iter().flatten().collect()
}

/// What a piece needs of a limit.
struct Need {
    name: &'static str,
    what: String,
    needed: u64,
    available: u64,
}

impl Need {
    fn ratio(&self) -> f64 {
        self.needed as f64 / self.available as f64
    }

    fn error(self) -> Error {
        let Need { name, what, needed, available } = self;
        Error::Limit { name, what, needed, available }
    }
}

/// The need that comes nearest to its limit, or exceeds it most.
fn heaviest(
    problem: &Problem,
    tensors: &Tensors,
    limits: Limits,
    workgroups: &dyn Fn(&Piece) -> u64,
    piece: &Piece,
) -> Need {
    let binding = |what: String, needed: u64| {
        let (name, available) = ("max_storage_buffer_binding_size", limits.storage_binding);
        Need { name, what, needed, available }
    };
    let bound = |tensor: &Tensor, part: Part| {
        let binding = tensor.binding(&part, limits.alignment);
        binding.end - binding.start
    };
    let keys = key_part(problem, piece);
    let by_key = tensors.by_key.iter().map(|tensor| {
        let what = format!("`{}` of one sequence, whose keys must be bound together", tensor.name);
        binding(what, bound(tensor, keys.clone()))
    });
    let by_query = tensors.by_query.iter().map(|(tensor, heads)| {
        binding(format!("`{}`", tensor.name), bound(tensor, query_part(problem, piece, *heads)))
    });
    let sequences = problem.packed.iter().map(|_| {
        let size = size_of::<PackedSequence>() as u64;
        let needed = piece.batch.len() as u64 * size;
        Need { available: limits.sequences, ..binding("the list of packed sequences".into(), needed) }
    });
    let grid = Need {
        name: "max_compute_workgroups_per_dimension",
        what: "the grid of one dispatch".into(),
        needed: workgroups(piece),
        available: limits.workgroups,
    };
    by_key
        .chain(by_query)
        .chain(sequences)
        .fold(grid, |heaviest, need| if need.ratio() > heaviest.ratio() { need } else { heaviest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{DType, Options, Packed, Shape};
    use crate::slice::Layout;

    /// As launches have it, so that no list is longer than what they allocate at most.
    const SEQUENCES: u64 = crate::ops::upload::LARGEST;

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
        let limits = Limits { storage_binding, sequences: SEQUENCES, alignment: 256, workgroups };
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
            // By head, even one query's binding spans the whole sequence of each head of its group.
            let smallest = if layout == Layout::Bshd { 1024 } else { 5120 };
            for binding in [smallest, 6000, 9000] {
                for grid in [7, 37, 1000] {
                    assert!(check(&problem(3, 37, 10), layout, binding, grid).unwrap() > 1);
                }
            }
        }
        // 16 times too large along tokens: the heads, which lie inside each token's row, are not cut.
        let long = Problem::new(Shape { kv_len: 1, ..problem(1, 4096, 1).shape }, DType::F32, Options::default());
        assert_eq!(check(&long, Layout::Bshd, (4096 * 8 * 8 * 4) / 16, 1 << 20), Ok(16));
        let packed = Packed { cu_seqlens_q: vec![0, 5, 5, 30], cu_seqlens_k: vec![0, 9, 12, 12] };
        let problem = Problem::packed(problem(1, 1, 1).shape, DType::F32, Options::default(), packed).unwrap();
        assert!(check(&problem, Layout::Bshd, 1500, 1000).unwrap() > 3);
    }

    #[test]
    fn long_lists_of_sequences_are_taken_apart() {
        for batch in [26_214_u32, 26_215, 300_000] {
            let ends: Vec<u32> = (0..=batch).collect();
            let packed = Packed { cu_seqlens_q: ends.clone(), cu_seqlens_k: ends };
            let problem = Problem::packed(problem(1, 1, 1).shape, DType::F32, Options::default(), packed).unwrap();
            let tensors = tensors(&problem, Layout::Bshd);
            let limits = Limits { storage_binding: 1 << 40, sequences: SEQUENCES, alignment: 256, workgroups: 1 << 40 };
            let pieces = split(&problem, &tensors, limits, &|piece| piece.batch.len() as u64).unwrap();
            let lists = pieces.iter().map(|piece| piece.batch.len() * size_of::<PackedSequence>());
            assert!(lists.clone().max().unwrap() as u64 <= SEQUENCES);
            assert_eq!(pieces.len() > 1, batch > 26_214);
            assert_eq!(pieces.iter().map(|piece| piece.batch.len()).sum::<usize>(), batch as usize);
        }
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
