//! How large the numbers are whose differences the results are: what an error is measured against.
//!
//! A result that cancels is small by accident of its terms, not because they could be computed better. So each row of
//! a tensor (the elements of one head of one token) is given one magnitude: the terms that cancel in exact arithmetic,
//! by absolute value, and of the elements of the row the largest.

use super::arithmetic::{Exact, add_scaled, dot};
use super::backward::{Upstream, key};
use super::forward::{Graph, Truth};
use super::rows::Rows;
use crate::problem::Shape;
use rayon::prelude::*;

/// For each row of lse: the largest c·Σ|q·k| of the keys seen, plus the cap that the score is a multiple of.
pub(super) fn scores(graph: &Graph<Exact>) -> Vec<f64> {
    let Shape { heads, .. } = graph.problem.shape;
    let scale = f64::from(graph.problem.scale().abs());
    let cap = graph.problem.options.softcap.map_or(0.0, f64::from);
    let mut scores = vec![cap; 2 * graph.lam.len()];
    let tasks: Vec<_> = Rows::all(graph.problem).flat_map(|at| (0..2 * heads).map(move |head| (at, head))).collect();
    let rows: Vec<_> = tasks
        .into_par_iter()
        .flat_map_iter(|(at, query_head)| {
            let kv_head = query_head / 2 / graph.problem.shape.group();
            (0..at.sequence.q_len).map(move |i| {
                let q = &graph.q[at.q(i, query_head)];
                let products = at.seen(i).into_iter().map(|j| sum_abs(q, &graph.k[at.k(j, kv_head)]));
                (at.lse(i, query_head), scale * products.fold(0.0, f64::max))
            })
        })
        .collect();
    for (index, score) in rows {
        scores[index] += score;
    }
    scores
}

/// Rows of `out`: the largest |a₁| + s·|a₂|.
pub(super) fn out(graph: &Graph<Exact>, truth: &Truth) -> Vec<f64> {
    let dim = graph.problem.shape.value_dim as usize;
    let members = truth.a1.chunks_exact(dim).zip(truth.a2.chunks_exact(dim));
    let rows = members.zip(&graph.lam).map(|((a1, a2), lam)| {
        let terms = a1.iter().zip(a2).map(|(a1, a2)| a1.abs() + sigmoid(*lam) * a2.abs());
        terms.fold(0.0, f64::max)
    });
    rows.collect()
}

/// Rows of `a2`: the largest |a₂|.
pub(super) fn a2(graph: &Graph<Exact>, truth: &Truth) -> Vec<f64> {
    truth.a2.chunks_exact(graph.problem.shape.value_dim as usize).map(largest).collect()
}

/// Elements of `lse`: |lse| and the score that it is mostly made of, and 1 for the logarithm, which is accurate to an
/// absolute error only.
pub(super) fn lse(truth: &Truth, scores: &[f64]) -> Vec<f64> {
    let finite = |lse: f64| if lse.is_finite() { lse.abs() } else { 0.0 };
    truth.lse.iter().zip(scores).map(|(&lse, score)| 1.0 + finite(lse) + score).collect()
}

/// Rows of the gradients; one element is a row of `dlam`.
#[derive(Debug)]
pub(super) struct Gradients {
    pub(super) dq: Vec<f64>,
    pub(super) dk: Vec<f64>,
    pub(super) dv: Vec<f64>,
    pub(super) dlam: Vec<f64>,
}

/// Magnitudes of the gradients.
///
/// With dS = P∘(dP − c + dlse) for each member, c = rowsum(dO∘a), and M = Σ|dO∘a| in place of c (a₁ is o + s·a₂, so
/// that its M is a sum of both):
/// * `dq`: c·(|(P∘dP)K| + |(P∘(M + |dlse|))K|);
/// * `dk`: c·(|(P∘dP)ᵀQ| + |(P∘(M + |dlse|))ᵀQ|), summed over the query heads of the KV head;
/// * `dv`: |Pᵀda|, summed likewise;
/// * `dlam`: Σ|dO∘a₂|/4, since s(1 − s) is a difference of numbers near 1 and at most ¼. For the same reason the
///   derivative of the softcap, 1 − tanh², counts as 1.
pub(super) fn gradients(graph: &Graph<Exact>, truth: &Truth, upstream: &Upstream<f64>) -> Gradients {
    let Shape { kv_heads, head_dim, value_dim, .. } = graph.problem.shape;
    let [q_rows, k_rows] = [&graph.q, &graph.k].map(|tensor| tensor.len() / head_dim as usize);
    let [dout, a2] = [&upstream.dout, &truth.a2].map(|tensor| tensor.chunks_exact(value_dim as usize));
    let dlam = dout.zip(a2).map(|(dout, a2)| sum_abs(dout, a2) / 4.0);
    let mut rows =
        Gradients { dq: vec![0.0; q_rows], dk: vec![0.0; k_rows], dv: vec![0.0; k_rows], dlam: dlam.collect() };

    let tasks: Vec<_> = Rows::all(graph.problem).flat_map(|at| (0..kv_heads).map(move |h| (at, h))).collect();
    let parts: Vec<_> =
        tasks.into_par_iter().map(|(at, h)| (at, h, kv_head_gradients(graph, truth, upstream, &at, h))).collect();
    for (at, kv_head, (dq, dk, dv)) in parts {
        for (i, query_head, dq) in dq {
            rows.dq[at.q(i, query_head).start / head_dim as usize] = dq;
        }
        for (j, (dk, dv)) in (0..).zip(dk.into_iter().zip(dv)) {
            rows.dk[at.k(j, kv_head).start / head_dim as usize] = dk;
            rows.dv[at.v(j, kv_head).start / value_dim as usize] = dv;
        }
    }
    rows
}

/// (query, query head, row of dq), rows of dk, rows of dv of one KV head of one sequence.
type HeadGradients = (Vec<(u32, u32, f64)>, Vec<f64>, Vec<f64>);

fn kv_head_gradients(
    graph: &Graph<Exact>,
    truth: &Truth,
    upstream: &Upstream<f64>,
    at: &Rows,
    kv_head: u32,
) -> HeadGradients {
    let Shape { head_dim, value_dim, .. } = graph.problem.shape;
    let scale = f64::from(graph.problem.scale().abs());
    let group = graph.problem.shape.group();
    let zeros = |dim: u32| vec![0.0; at.sequence.kv_len as usize * dim as usize];
    let (mut dk_sum, mut dv_sum, mut dq_rows) = (zeros(head_dim), zeros(value_dim), vec![]);
    for query_head in 2 * kv_head * group..2 * (kv_head + 1) * group {
        let (mut dk, mut dv) = ([zeros(head_dim), zeros(head_dim)], zeros(value_dim));
        for i in 0..at.sequence.q_len {
            let (head, subtracted) = (query_head / 2, query_head % 2 == 1);
            let range = at.out(i, head);
            let (dout, a1, a2) = (&upstream.dout[range.clone()], &truth.a1[range.clone()], &truth.a2[range]);
            let s = graph.gate(at, i, head);
            let factor = if subtracted { -s } else { 1.0 };
            let da: Vec<_> = dout.iter().map(|dout| factor * dout).collect();
            let mean = s * sum_abs(dout, a2) + if subtracted { 0.0 } else { sum_abs(dout, a1) };
            let mean = mean + upstream.dlse(at.lse(i, query_head)).abs();

            let row = graph.row(at, i, query_head);
            let mut dq = [vec![0.0; head_dim as usize], vec![0.0; head_dim as usize]];
            for (&j, &p) in row.keys.iter().zip(&row.p) {
                let dp = dot(&da, &graph.v[at.v(j, kv_head)]);
                for (term, factor) in [p * dp, p * mean].into_iter().enumerate() {
                    add_scaled(&mut dq[term], factor, &graph.k[at.k(j, kv_head)]);
                    add_scaled(&mut dk[term][key(j, head_dim)], factor, &graph.q[at.q(i, query_head)]);
                }
                add_scaled(&mut dv[key(j, value_dim)], p, &da);
            }
            let [first, second] = dq;
            let terms = first.iter().zip(second).map(|(first, second)| first.abs() + second.abs());
            dq_rows.push((i, query_head, scale * terms.fold(0.0, f64::max)));
        }
        let add_abs = |sum: &mut [f64], terms: &[f64]| {
            sum.iter_mut().zip(terms).for_each(|(sum, term)| *sum += term.abs());
        };
        dk.iter().for_each(|dk| add_abs(&mut dk_sum, dk));
        add_abs(&mut dv_sum, &dv);
    }
    let dk = dk_sum.chunks_exact(head_dim as usize).map(|row| scale * largest(row)).collect();
    (dq_rows, dk, dv_sum.chunks_exact(value_dim as usize).map(largest).collect())
}

fn sigmoid(lam: f64) -> f64 {
    1.0 / (1.0 + (-lam).exp())
}

fn sum_abs(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a * b).abs()).sum()
}

fn largest(row: &[f64]) -> f64 {
    row.iter().fold(0.0, |max, element| max.max(element.abs()))
}
