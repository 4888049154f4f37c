//! Hands the pieces of an output tensor to the tiles that write them, as disjoint mutable slices.

use std::ops::Range;

/// Cuts `tensor` into pieces and gives every owner its own, in the order in which the owner names them.
///
/// Each item of `pieces` is one owner's element ranges; together they cover the tensor once.
///
/// # Panics
/// When they overlap or reach outside: a defect of the caller in this module.
pub(super) fn deal<P: Iterator<Item = Range<usize>>>(
    tensor: &mut [f32],
    pieces: impl Iterator<Item = P>,
) -> Vec<Vec<&mut [f32]>> {
    let mut order: Vec<(Range<usize>, usize, usize)> = Vec::new();
    let mut dealt: Vec<Vec<&mut [f32]>> = Vec::new();
    for (owner, ranges) in pieces.enumerate() {
        let first = order.len();
        order.extend(ranges.enumerate().map(|(place, range)| (range, owner, place)));
        dealt.push((first..order.len()).map(|_| Default::default()).collect());
    }
    order.sort_unstable_by_key(|(range, ..)| range.start);
    let (mut rest, mut position) = (tensor, 0);
    for (range, owner, place) in order {
        let (_, from_start) = rest.split_at_mut(range.start - position);
        let (piece, after) = from_start.split_at_mut(range.len());
        dealt[owner][place] = piece;
        (rest, position) = (after, range.end);
    }
    dealt
}

#[cfg(test)]
mod tests {
    use super::deal;

    #[test]
    fn every_owner_gets_its_pieces_in_its_order() {
        let mut tensor = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0];
        let owners = [&[4..6, 0..1][..], &[], std::slice::from_ref(&(1..4))];
        let dealt = deal(&mut tensor, owners.into_iter().map(|ranges| ranges.iter().cloned()));
        assert_eq!(dealt, vec![vec![&mut [4.0, 5.0][..], &mut [0.0][..]], vec![], vec![&mut [1.0, 2.0, 3.0][..]]]);
    }

    #[test]
    #[should_panic]
    fn overlapping_pieces_are_refused() {
        deal(&mut [0.0; 4], [0..2, 1..4].into_iter().map(std::iter::once));
    }
}
