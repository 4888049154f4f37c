//! The backward pass: the forward's operations in reverse order.

use super::graph::{Activations, Graph, Mixed, Norm, Turn};
use super::ordinary::{Ordinary, interleave};
use super::products::{linear_dw, linear_dx};
use crate::reference::arithmetic::{Arithmetic, dot, widen};
use crate::reference::backward::{Gradients as PairGradients, Upstream};
use num_traits::Zero;

/// Gradients of a module.
#[derive(Debug, Clone, PartialEq)]
pub struct Gradients<T = f64> {
    /// batch × seq_len × d_model.
    pub dx: Vec<T>,
    /// One for each parameter, by its name, in the order of [`crate::layer::Config::parameters`].
    pub weights: Vec<(&'static str, Vec<T>)>,
}

/// Gradients of what attention is given, tokens first, after the rotary embedding.
pub(super) struct AttentionGradients<N> {
    pub(super) dq: Vec<N>,
    pub(super) dk: Vec<N>,
    pub(super) dv: Vec<N>,
    /// V2's.
    pub(super) dlam: Vec<N>,
    /// V1's own parameters.
    pub(super) own: Vec<(&'static str, Vec<N>)>,
}

impl<A: Arithmetic> Graph<'_, A> {
    pub(super) fn backward(&self, activations: &Activations<A::Number>, dy: &[f32]) -> Gradients<A::Number> {
        let dy: Vec<A::Number> = widen(dy);
        let o_width = self.config().o_width() as usize;
        let output = linear_dw(self.arithmetic, &dy, &activations.o, o_width);
        let d_o = linear_dx(self.arithmetic, &dy, &widen(self.weights.o_proj()), o_width);
        let AttentionGradients { mut dq, mut dk, dv, dlam, own } = self.attention_backward(activations, d_o);
        self.rotate(&mut dq, Turn::Backward);
        self.rotate(&mut dk, Turn::Backward);

        let d_model = self.config().d_model as usize;
        let mut dx = vec![A::Number::zero(); self.x.len()];
        let mut weights = Vec::new();
        for parameter in self.config().parameters() {
            let upstream = match parameter.name {
                "q_proj.weight" => &dq,
                "k_proj.weight" => &dk,
                "v_proj.weight" => &dv,
                "lambda_proj.weight" => &dlam,
                name if name == self.config().output_name() => {
                    weights.push((name, output.clone()));
                    continue;
                }
                "lambda_proj.bias" => {
                    let heads = parameter.len();
                    let head = |head| dlam.iter().skip(head).step_by(heads).fold(A::Number::zero(), |sum, &d| sum + d);
                    weights.push((parameter.name, (0..heads).map(|h| self.arithmetic.store(head(h))).collect()));
                    continue;
                }
                _ => {
                    weights.extend(own.iter().find(|(name, _)| *name == parameter.name).cloned());
                    continue;
                }
            };
            weights.push((parameter.name, linear_dw(self.arithmetic, upstream, &self.x, d_model)));
            let path = linear_dx(self.arithmetic, upstream, &self.weight(parameter.name), d_model);
            dx.iter_mut().zip(path).for_each(|(dx, path)| *dx = self.arithmetic.store(*dx + path));
        }
        Gradients { dx, weights }
    }

    fn attention_backward(
        &self,
        activations: &Activations<A::Number>,
        d_o: Vec<A::Number>,
    ) -> AttentionGradients<A::Number> {
        let Activations { q, k, v, mixed, .. } = activations;
        match mixed {
            Mixed::DiffV2 { lam } => {
                let upstream = Upstream { dout: d_o, dlse: None };
                let PairGradients { dq, dk, dv, dlam } = self.pairs(q, k, v, lam).backward(&upstream);
                AttentionGradients { dq, dk, dv, dlam, own: vec![] }
            }
            Mixed::Baseline => {
                let attention = Ordinary::new(&self.problem, self.arithmetic, [q, k, v]);
                let [dq, dk, dv] = attention.backward(&Upstream { dout: d_o, dlse: None });
                AttentionGradients { dq, dk, dv, dlam: vec![], own: vec![] }
            }
            Mixed::DiffV1(norm) => {
                let [da, dweight] = self.norm_backward(norm, &d_o);
                let lambda = norm.lambda.value;
                let da2 = da.iter().map(|&da| self.arithmetic.store(-lambda * da)).collect();
                let mut own = Vec::from(self.lambda_backward(norm, -dot(&da, &norm.a2)));
                own.push(("subln.weight", dweight));
                let [first, second] = self.members(q, k, v);
                let [dq1, dk1, dv1] = first.backward(&Upstream { dout: da, dlse: None });
                let [dq2, dk2, dv2] = second.backward(&Upstream { dout: da2, dlse: None });
                let head_dim = self.config().head_dim as usize;
                let dv = dv1.iter().zip(&dv2).map(|(&dv1, &dv2)| self.arithmetic.store(dv1 + dv2)).collect();
                let [dq, dk] = [(dq1, dq2), (dk1, dk2)].map(|(first, second)| interleave(&first, &second, head_dim));
                AttentionGradients { dq, dk, dv, dlam: vec![], own }
            }
        }
    }

    /// The gradient of a₁ − λ·a₂, and that of the norm's weight.
    pub(super) fn norm_backward(&self, norm: &Norm<A::Number>, dz: &[A::Number]) -> [Vec<A::Number>; 2] {
        let store = |value| self.arithmetic.store(value);
        let value_dim = self.config().value_dim() as usize;
        let count = (value_dim as f32).into();
        let (weight, factor) = (self.weight("subln.weight"), self.norm_factor());
        let (mut da, mut dweight) = (Vec::new(), vec![A::Number::zero(); value_dim]);
        let rows = dz.chunks_exact(value_dim).zip(norm.n.chunks_exact(value_dim)).zip(&norm.r);
        for ((dz, n), &r) in rows {
            let dz: Vec<_> = dz.iter().map(|&dz| store(dz * factor)).collect();
            let terms = dz.iter().zip(n).map(|(&dz, &n)| store(dz * n));
            dweight.iter_mut().zip(terms).for_each(|(sum, term)| *sum = *sum + term);
            let dn: Vec<_> = dz.iter().zip(&weight).map(|(&dz, &w)| store(dz * w)).collect();
            let mean = dot(&dn, n) / count;
            da.extend(dn.iter().zip(n).map(|(&dn, &n)| store(r * (dn - n * mean))));
        }
        [da, dweight.into_iter().map(store).collect()]
    }

    pub(super) fn lambda_backward(
        &self,
        norm: &Norm<A::Number>,
        dlambda: A::Number,
    ) -> [(&'static str, Vec<A::Number>); 4] {
        let [e1, e2] = norm.lambda.e;
        let times = |name: &str, factor: A::Number| {
            self.weight(name).into_iter().map(|value| self.arithmetic.store(dlambda * factor * value)).collect()
        };
        [
            ("lambda_q1", times("lambda_k1", e1)),
            ("lambda_k1", times("lambda_q1", e1)),
            ("lambda_q2", times("lambda_k2", -e2)),
            ("lambda_k2", times("lambda_q2", -e2)),
        ]
    }
}
