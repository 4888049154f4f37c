//! The backward pass: reverse-mode differentiation of the un-fused graph, one operation after the other.

use super::arithmetic::{Arithmetic, Exact, add_scaled, dot, widen};
use super::forward::Graph;
use super::rows::Rows;
use crate::error::{Error, Result};
use crate::host::{HostGradInputs, HostInputs};
use crate::problem::{Problem, Shape};
use num_traits::{Float, One, Zero};
use rayon::prelude::*;

/// Gradients of the un-fused graph, shaped and ordered as their inputs.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<T = f64> {
    /// batch × q_len × 2·heads × head_dim.
    pub dq: Vec<T>,
    /// batch × kv_len × kv_heads × head_dim.
    pub dk: Vec<T>,
    /// batch × kv_len × kv_heads × value_dim.
    pub dv: Vec<T>,
    /// batch × q_len × heads, by the logit λ.
    pub dlam: Vec<T>,
}

/// Computes the gradients in float64.
///
/// # Errors
/// Those of [`HostInputs::validate`], and [`Error::Shape`] when `dout` or `dlse` does not have the size of `out` or
/// `lse`.
pub fn backward(problem: &Problem, inputs: &HostInputs, grads: &HostGradInputs) -> Result<Gradients> {
    validate(problem, inputs, grads)?;
    Ok(Graph::new(problem, inputs, Exact).backward(&Upstream::new(grads)))
}

/// Checks the problem and every slice.
pub(super) fn validate(problem: &Problem, inputs: &HostInputs, grads: &HostGradInputs) -> Result<()> {
    let sizes = inputs.validate(problem)?;
    let slices = [("dout", Some(grads.dout), sizes.out), ("dlse", grads.dlse, sizes.lse)];
    for (tensor, slice, expected) in slices {
        if let Some(slice) = slice.filter(|slice| slice.len() as u64 != expected) {
            let expected = format!("{expected} elements for {:?}", problem.shape);
            return Err(Error::Shape { tensor, expected, actual: format!("{} elements", slice.len()) });
        }
    }
    Ok(())
}

/// The gradients that come in.
#[derive(Debug)]
pub(super) struct Upstream<N> {
    pub(super) dout: Vec<N>,
    pub(super) dlse: Option<Vec<N>>,
}

impl<N: Float + From<f32>> Upstream<N> {
    pub(super) fn new(grads: &HostGradInputs) -> Self {
        Upstream { dout: widen(grads.dout), dlse: grads.dlse.map(widen) }
    }

    /// Element of dlse: 0 when the loss does not read it.
    pub(super) fn dlse(&self, index: usize) -> N {
        self.dlse.as_ref().map_or(N::zero(), |dlse| dlse[index])
    }
}

/// What one KV head of one sequence contributes: nothing else writes to these rows.
struct Part<'a, N> {
    at: Rows<'a>,
    kv_head: u32,
    /// Query, query head, gradient.
    dq: Vec<(u32, u32, Vec<N>)>,
    /// Query, output head, gradient.
    dlam: Vec<(u32, u32, N)>,
    /// kv_len × head_dim.
    dk: Vec<N>,
    /// kv_len × value_dim.
    dv: Vec<N>,
}

impl<A: Arithmetic> Graph<'_, A> {
    pub(super) fn backward(&self, upstream: &Upstream<A::Number>) -> Gradients<A::Number> {
        let kv_heads = self.problem.shape.kv_heads;
        let tasks: Vec<_> = Rows::all(self.problem).flat_map(|at| (0..kv_heads).map(move |h| (at, h))).collect();
        let parts: Vec<_> =
            tasks.into_par_iter().map(|(at, kv_head)| self.backward_kv_head(at, kv_head, upstream)).collect();

        let zeros = |len| vec![A::Number::zero(); len];
        let mut gradients = Gradients {
            dq: zeros(self.q.len()),
            dk: zeros(self.k.len()),
            dv: zeros(self.v.len()),
            dlam: zeros(self.lam.len()),
        };
        let Shape { head_dim, value_dim, .. } = self.problem.shape;
        for Part { at, kv_head, dq, dlam, dk, dv } in parts {
            for (i, query_head, dq) in dq {
                gradients.dq[at.q(i, query_head)].copy_from_slice(&dq);
            }
            for (i, head, dlam) in dlam {
                gradients.dlam[at.lam(i, head)] = dlam;
            }
            let rows = dk.chunks_exact(head_dim as usize).zip(dv.chunks_exact(value_dim as usize));
            for (j, (dk, dv)) in (0..).zip(rows) {
                gradients.dk[at.k(j, kv_head)].copy_from_slice(dk);
                gradients.dv[at.v(j, kv_head)].copy_from_slice(dv);
            }
        }
        gradients
    }

    fn backward_kv_head<'p>(&self, at: Rows<'p>, kv_head: u32, upstream: &Upstream<A::Number>) -> Part<'p, A::Number> {
        let store = |value| self.arithmetic.store(value);
        let (zero, one) = (A::Number::zero(), A::Number::one());
        let Shape { head_dim, value_dim, .. } = self.problem.shape;
        let scale: A::Number = self.problem.scale().into();
        let group = self.problem.shape.group();
        let zeros = |dim: u32| vec![zero; at.sequence.kv_len as usize * dim as usize];
        let mut part = Part { at, kv_head, dq: vec![], dlam: vec![], dk: zeros(head_dim), dv: zeros(value_dim) };

        for query_head in 2 * kv_head * group..2 * (kv_head + 1) * group {
            let (head, subtracted) = (query_head / 2, query_head % 2 == 1);
            let (mut dk, mut dv) = (zeros(head_dim), zeros(value_dim));
            for i in 0..at.sequence.q_len {
                let row = self.row(&at, i, query_head);
                let dout = &upstream.dout[at.out(i, head)];

                // out = a₁ − s·a₂, s = sigmoid(λ).
                let mut da = dout.to_vec();
                if subtracted {
                    let gate = self.gate(&at, i, head);
                    let dgate = dout.iter().zip(&row.a).fold(zero, |sum, (&dout, &a)| sum - store(dout * a));
                    part.dlam.push((i, head, store(store(dgate) * gate * (one - gate))));
                    da = dout.iter().map(|&dout| -store(gate * dout)).collect();
                }

                // a = P·V.
                let dp: Vec<_> = row.keys.iter().map(|&j| store(dot(&da, &self.v[at.v(j, kv_head)]))).collect();
                // P = softmax(capped), lse = logsumexp(capped): both derive to P.
                let mean = dot(&row.p, &dp);
                let dlse = upstream.dlse(at.lse(i, query_head));

                let mut dq = vec![zero; head_dim as usize];
                for (((&j, &p), &dp), &slope) in row.keys.iter().zip(&row.p).zip(&dp).zip(&row.slope) {
                    let dcapped = store(p * (dp - mean + dlse));
                    let dscore = store(dcapped * slope);
                    add_scaled(&mut dq, dscore, &self.k[at.k(j, kv_head)]);
                    add_scaled(&mut dk[key(j, head_dim)], dscore, &self.q[at.q(i, query_head)]);
                    add_scaled(&mut dv[key(j, value_dim)], p, &da);
                }
                part.dq.push((i, query_head, dq.into_iter().map(|dq| store(scale * dq)).collect()));
            }
            add_scaled(&mut part.dk, one, &dk.into_iter().map(|dk| store(scale * dk)).collect::<Vec<_>>());
            add_scaled(&mut part.dv, one, &dv.into_iter().map(store).collect::<Vec<_>>());
        }
        part.dk.iter_mut().chain(&mut part.dv).for_each(|sum| *sum = store(*sum));
        part
    }
}

/// Elements of key `j` in a tensor of one KV head.
pub(super) fn key(j: u32, dim: u32) -> std::ops::Range<usize> {
    j as usize * dim as usize..(j as usize + 1) * dim as usize
}
