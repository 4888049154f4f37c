//! How a problem is cut into tiles of query rows, and where a tile's rows lie in the tensors.

use crate::problem::{Mask, Problem, Shape};
use std::ops::Range;

/// Rows of a tile, where there are that many: its scores stay in a second-level cache of 1 MiB and the products run
/// within a few percent of their peak, while a causal tile computes few scores that nobody sees. A multiple of the 6
/// columns of gemm's x86 kernels. Processor time of the two shapes of `benches/cpu.rs` together, by rows: 128 1.17,
/// 192 1.09, 256 1.10, 384 1, 512 1.05.
pub(super) const ROWS: usize = 384;

/// One sequence of the batch, located in the tensors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Span {
    /// First query token, counted over the whole batch.
    pub(super) q_token: usize,
    /// Queries.
    pub(super) q_len: usize,
    /// First key token, counted over the whole batch.
    pub(super) kv_token: usize,
    /// Keys.
    pub(super) kv_len: usize,
    /// Element of the LSE of head 0 and query 0.
    lse: usize,
}

impl Span {
    /// Every sequence of the problem, in order.
    pub(super) fn all(problem: &Problem, members: usize) -> impl Iterator<Item = Span> {
        let (_, q_extent, kv_extent) = problem.extents();
        let heads = members * problem.shape.heads as usize;
        (0..problem.shape.batch).map(move |b| {
            let sequence = problem.sequence(b);
            // Packed sequences share one row of the batch and start inside it; others have their own row.
            let b = if problem.packed.is_some() { 0 } else { b as usize };
            let q_start = sequence.q_start as usize;
            Span {
                q_token: b * q_extent as usize + q_start,
                q_len: sequence.q_len as usize,
                kv_token: b * kv_extent as usize + sequence.kv_start as usize,
                kv_len: sequence.kv_len as usize,
                lse: b * heads * q_extent as usize + q_start,
            }
        })
    }
}

/// Query rows that share one KV head: the members × consecutive positions × consecutive pairs, in this order, so that
/// two members are the two halves of the rows. One member is ordinary attention, of as many query heads as output heads.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tile {
    pub(super) span: Span,
    pub(super) kv_head: usize,
    /// Positions within the sequence; never empty.
    pub(super) positions: Range<usize>,
    /// Output heads, all of the group of `kv_head`; never empty.
    pub(super) pairs: Range<usize>,
    /// Query heads of each output head: 2, or 1.
    pub(super) members: usize,
    shape: Shape,
    mask: Mask,
}

impl Tile {
    /// The tiles of a problem; those of one sequence and KV head follow each other.
    pub(super) fn all(problem: &Problem, members: usize) -> Vec<Tile> {
        let shape = problem.shape;
        let group = shape.group() as usize;
        let pair_step = group.min(ROWS / members);
        let position_step = ROWS / (members * pair_step);
        let mut tiles = Vec::new();
        for span in Span::all(problem, members) {
            for kv_head in 0..shape.kv_heads as usize {
                for pairs in steps(kv_head * group..(kv_head + 1) * group, pair_step) {
                    tiles.extend(steps(0..span.q_len, position_step).map(|positions| Tile {
                        span,
                        kv_head,
                        positions,
                        pairs: pairs.clone(),
                        members,
                        shape,
                        mask: problem.options.mask(),
                    }));
                }
            }
        }
        tiles
    }

    /// Rows of one member: positions × pairs.
    pub(super) fn member_rows(&self) -> usize {
        self.positions.len() * self.pairs.len()
    }

    /// Rows of all members.
    pub(super) fn rows(&self) -> usize {
        self.members * self.member_rows()
    }

    /// Keys, within the sequence, that position `i` of the sequence sees.
    pub(super) fn keys_of(&self, i: usize) -> Range<usize> {
        // Lengths are at most 2²⁸, so they fit both types.
        let p = i as i64 + self.span.kv_len as i64 - self.span.q_len as i64;
        let keys = self.mask.keys(p, self.span.kv_len as u32);
        keys.start as usize..keys.end as usize
    }

    /// The smallest range of keys that contains all that the tile sees. Both ends of what a position sees never fall
    /// from one position to the next.
    pub(super) fn keys(&self) -> Range<usize> {
        self.keys_of(self.positions.start).start..self.keys_of(self.positions.end - 1).end
    }

    /// Query tokens, counted over the whole batch.
    fn tokens(&self) -> Range<usize> {
        self.span.q_token + self.positions.start..self.span.q_token + self.positions.end
    }

    /// Where the `width` elements of each row lie in q: row by row in the order of the tile.
    pub(super) fn q_rows(&self) -> impl Iterator<Item = Range<usize>> {
        let (heads, width) = (self.members * self.shape.heads as usize, self.shape.head_dim as usize);
        (0..self.members).flat_map(move |member| {
            self.tokens().flat_map(move |token| {
                self.pairs.clone().map(move |pair| {
                    let start = (token * heads + self.members * pair + member) * width;
                    start..start + width
                })
            })
        })
    }

    /// Where each position's pairs lie in a tensor of tokens × heads × `width`.
    pub(super) fn pair_rows(&self, width: usize) -> impl Iterator<Item = Range<usize>> {
        let heads = self.shape.heads as usize;
        self.tokens()
            .map(move |token| (token * heads + self.pairs.start) * width..(token * heads + self.pairs.end) * width)
    }

    /// Where the positions of each query head lie in the LSE: member by member, pair by pair.
    pub(super) fn lse_rows(&self, q_extent: usize) -> impl Iterator<Item = Range<usize>> {
        (0..self.members).flat_map(move |member| {
            self.pairs.clone().map(move |pair| {
                let start = self.span.lse + (self.members * pair + member) * q_extent;
                start + self.positions.start..start + self.positions.end
            })
        })
    }
}

/// `range` cut into pieces of `step`, the last one shorter.
pub(super) fn steps(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    range.clone().step_by(step).map(move |start| start..(start + step).min(range.end))
}

#[cfg(test)]
mod tests {
    use super::{ROWS, Tile};
    use crate::{DType, Options, Packed, Problem, Shape};

    fn problems() -> Vec<Problem> {
        let shape = Shape { batch: 2, q_len: 130, kv_len: 70, heads: 6, kv_heads: 2, head_dim: 16, value_dim: 8 };
        let causal = Options { causal: true, ..Options::default() };
        let window = Options { window: (Some(9), Some(3)), ..Options::default() };
        let wide = Shape { heads: 300, kv_heads: 1, q_len: 2, kv_len: 4, ..shape };
        let packed = Packed { cu_seqlens_q: vec![0, 0, 90, 97], cu_seqlens_k: vec![0, 4, 4, 40] };
        vec![
            Problem::new(shape, DType::F32, Options::default()),
            Problem::new(shape, DType::F32, causal),
            Problem::new(wide, DType::F32, window),
            Problem::packed(shape, DType::F32, window, packed).unwrap(),
        ]
    }

    #[test]
    fn rows_cover_every_tensor_once() {
        for problem in problems() {
            let tiles = Tile::all(&problem, 2);
            let sizes = crate::Sizes::of(&problem).unwrap();
            let q_extent = problem.extents().1 as usize;
            let covers = |len: u64, rows: &dyn Fn(&Tile) -> Vec<std::ops::Range<usize>>| {
                let mut count = vec![0; len as usize];
                tiles.iter().flat_map(rows).flatten().for_each(|element| count[element] += 1);
                assert!(count.iter().all(|&count| count == 1), "{problem:?}");
            };
            covers(sizes.q, &|tile| tile.q_rows().collect());
            covers(sizes.out, &|tile| tile.pair_rows(8).collect());
            covers(sizes.lse, &|tile| tile.lse_rows(q_extent).collect());
            assert!(tiles.iter().all(|tile| (1..=ROWS / 2).contains(&tile.member_rows())));
        }
    }

    #[test]
    fn keys_of_a_tile_are_those_that_its_positions_see() {
        for problem in problems() {
            for tile in Tile::all(&problem, 2) {
                let seen: Vec<usize> = tile.positions.clone().flat_map(|position| tile.keys_of(position)).collect();
                let keys = tile.keys();
                if let (Some(&first), Some(&last)) = (seen.iter().min(), seen.iter().max()) {
                    assert_eq!(keys, first..last + 1, "{tile:?}");
                } else {
                    assert!(keys.is_empty(), "{tile:?}");
                }
            }
        }
    }
}
