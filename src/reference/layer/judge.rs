//! The judge of a module's results: the rule of [`Judge`], with magnitudes carried through the projections.
//!
//! An element of a matrix product is a sum of terms that are wrong independently of each other, so its magnitude is the
//! root of the sum of their squares: the product of the squared weights with the squared magnitudes of what comes in
//! (and its own absolute value, where that is larger). Inside attention the magnitudes are those of the operation.

use super::backward::{AttentionGradients, Gradients};
use super::graph::{Activations, Graph, Mixed, Norm};
use super::ordinary::{Ordinary, interleave, split};
use super::products::{linear, linear_dw, linear_dx};
use crate::error::Result;
use crate::layer::{HostTokens, Weights};
use crate::problem::DType;
use crate::reference::arithmetic::Exact;
use crate::reference::backward::Upstream;
use crate::reference::compare::{Judge, Rule, exponential};
use crate::reference::{forward, magnitude};

impl Judge {
    /// A judge of a module's `y`, computed in `dtype` from weights and tokens as they are given.
    ///
    /// # Errors
    /// Those of [`HostTokens::validate`].
    pub fn layer_forward(weights: &Weights, tokens: &HostTokens, dtype: DType) -> Result<Self> {
        tokens.validate(weights.config())?;
        let plain = Graph::new(weights, tokens, dtype).forward().y;
        let graph = Graph::new(weights, tokens, Exact);
        let activations = graph.forward();
        let (score, magnitude) = (graph.score(&activations), graph.y_magnitude(&activations));
        let halvings = f64::from(tokens.seq_len).log2();
        let work = score + exponential(score, halvings) + 3.0 * halvings + PRODUCTS;
        let rule = Rule { factor: 2.0, dtype };
        Ok(Judge::new(vec![rule.expect("y", dtype, work, activations.y, magnitude, &plain)]))
    }

    /// A judge of a module's gradients: `dx`, and each parameter's by the parameter's name.
    ///
    /// # Errors
    /// Those of [`super::backward`].
    pub fn layer_backward(weights: &Weights, tokens: &HostTokens, dy: &[f32], dtype: DType) -> Result<Self> {
        tokens.validate(weights.config())?;
        tokens.check("dy", dy, weights.config())?;
        let plain = Graph::new(weights, tokens, dtype);
        let plain = plain.backward(&plain.forward(), dy);
        let graph = Graph::new(weights, tokens, Exact);
        let activations = graph.forward();
        let Gradients { dx, weights: gradients } = graph.backward(&activations, dy);
        let magnitudes = graph.gradient_magnitudes(&activations, dy);
        let score = graph.score(&activations);
        let work = score + exponential(score, 126.0) + PRODUCTS;
        let rule = Rule { factor: 3.0, dtype };
        let d_model = weights.config().d_model as usize;
        let shapes = weights.config().parameters();
        let mut tensors =
            vec![rule.expect("dx", dtype, work, dx.clone(), rows(magnitudes.dx, &dx, d_model), &plain.dx)];
        for (((name, truth), (_, magnitude)), (_, plain)) in
            gradients.into_iter().zip(magnitudes.weights).zip(&plain.weights)
        {
            // A vector is one row.
            let width = shapes.iter().find(|shape| shape.name == name).and_then(|shape| shape.shape.last());
            let width = width.map_or(truth.len(), |&width| width as usize);
            let magnitude = rows(magnitude, &truth, width);
            // The gate's gradient is a quarter of what it is measured against, as in the operation.
            let work = work + if name.starts_with("lambda_proj") { 6.0 } else { 0.0 };
            tensors.push(rule.expect(name, dtype, work, truth, magnitude, plain));
        }
        Ok(Judge::new(tensors))
    }
}

/// What f32 arithmetic may add outside attention: the gate or norm, and a rounding after each of two products.
const PRODUCTS: f64 = 4.0;

impl Graph<'_, Exact> {
    /// The largest scale·Σ|q·k|.
    fn score(&self, activations: &Activations<f64>) -> f64 {
        let scores: Vec<_> =
            self.attentions(activations).iter().flat_map(|(graph, _)| magnitude::scores(graph)).collect();
        largest(&scores)
    }

    /// The one or two attentions of the module, with what comes out of them.
    fn attentions(&self, activations: &Activations<f64>) -> Vec<(forward::Graph<'_, Exact>, forward::Truth)> {
        let Activations { q, k, v, mixed, .. } = activations;
        let graphs = match mixed {
            Mixed::DiffV2 { lam } => vec![self.pairs(q, k, v, lam)],
            Mixed::Baseline => vec![Ordinary::new(&self.problem, Exact, [q, k, v]).into_graph()],
            Mixed::DiffV1(_) => self.members(q, k, v).map(Ordinary::into_graph).into(),
        };
        graphs.into_iter().map(|graph| (graph.forward(), graph)).map(|(truth, graph)| (graph, truth)).collect()
    }

    /// Magnitudes of what the output projection is given.
    fn o_magnitude(&self, activations: &Activations<f64>) -> Vec<f64> {
        let value_dim = self.config().value_dim() as usize;
        let heads: Vec<_> = match &activations.mixed {
            Mixed::DiffV1(norm) => {
                let weight = largest(&self.weight("subln.weight")) * self.norm_factor();
                self.cancelling(norm).into_iter().map(|a| a * weight.abs()).collect()
            }
            Mixed::DiffV2 { .. } | Mixed::Baseline => {
                let attentions = self.attentions(activations);
                attentions.iter().flat_map(|(graph, truth)| magnitude::out(graph, truth)).collect()
            }
        };
        expand(&heads, value_dim)
    }

    /// V1: r·(|a₁| + |λ|·|a₂|) of each head, the largest: above 1 where the difference cancels.
    fn cancelling(&self, norm: &Norm<f64>) -> Vec<f64> {
        let value_dim = self.config().value_dim() as usize;
        let members = norm.a1.chunks_exact(value_dim).zip(norm.a2.chunks_exact(value_dim)).zip(&norm.r);
        let rows = members.map(|((a1, a2), r)| {
            let terms = a1.iter().zip(a2).map(|(a1, a2)| a1.abs() + (norm.lambda.value * a2).abs());
            r * terms.fold(0.0, f64::max)
        });
        rows.collect()
    }

    fn y_magnitude(&self, activations: &Activations<f64>) -> Vec<f64> {
        let o_width = self.config().o_width() as usize;
        let o = squares(&self.o_magnitude(activations));
        let y = linear(Exact, &o, &squares(&self.weight(self.config().output_name())), o_width);
        rows(y, &activations.y, self.config().d_model as usize)
    }

    /// Squared magnitudes of the gradients, element by element.
    fn gradient_magnitudes(&self, activations: &Activations<f64>, dy: &[f32]) -> Gradients {
        let config = self.config();
        let (d_model, o_width) = (config.d_model as usize, config.o_width() as usize);
        let dy: Vec<f64> = dy.iter().map(|&dy| f64::from(dy)).collect();
        let output = self.weight(config.output_name());
        let d_o = linear_dx(Exact, &dy, &output, o_width);
        let d_o_squares = linear_dx(Exact, &squares(&dy), &squares(&output), o_width);
        let output = linear_dw(Exact, &squares(&dy), &squares(&self.o_magnitude(activations)), o_width);
        let inside = self.attention_magnitudes(activations, &d_o, &d_o_squares);

        let x = squares(&self.x);
        let mut dx = vec![0.0; x.len()];
        let mut weights = Vec::new();
        for parameter in config.parameters() {
            let upstream = match parameter.name {
                "q_proj.weight" => &inside.dq,
                "k_proj.weight" => &inside.dk,
                "v_proj.weight" => &inside.dv,
                "lambda_proj.weight" => &inside.dlam,
                "lambda_proj.bias" => {
                    let head = |head| inside.dlam.iter().skip(head).step_by(parameter.len()).map(|m| m * m).sum();
                    weights.push((parameter.name, (0..parameter.len()).map(head).collect()));
                    continue;
                }
                name if name == config.output_name() => {
                    weights.push((name, output.clone()));
                    continue;
                }
                name => {
                    weights.extend(inside.own.iter().find(|(own, _)| *own == name).cloned());
                    continue;
                }
            };
            let upstream = squares(upstream);
            weights.push((parameter.name, linear_dw(Exact, &upstream, &x, d_model)));
            let path = linear_dx(Exact, &upstream, &squares(&self.weight(parameter.name)), d_model);
            dx.iter_mut().zip(path).for_each(|(dx, path)| *dx += path);
        }
        Gradients { dx, weights }
    }

    /// Magnitudes of what comes out of attention's backward pass; squared for V1's own parameters.
    fn attention_magnitudes(
        &self,
        activations: &Activations<f64>,
        d_o: &[f64],
        d_o_squares: &[f64],
    ) -> AttentionGradients<f64> {
        let config = self.config();
        let (head_dim, value_dim) = (config.head_dim as usize, config.value_dim() as usize);
        let attentions = self.attentions(activations);
        let d_o_rows = rows(d_o_squares.to_vec(), d_o, value_dim);
        let mut own = vec![];
        let d_o_raised = raised(d_o, &d_o_rows, value_dim);
        let upstreams = match &activations.mixed {
            Mixed::DiffV2 { .. } | Mixed::Baseline => vec![d_o_raised],
            Mixed::DiffV1(norm) => {
                let [da, _] = self.norm_backward(norm, d_o);
                let (da_rows, dweight) = self.norm_magnitudes(norm, &d_o_raised);
                let da = raised(&da, &da_rows, value_dim);
                let dlambda = da.iter().zip(&norm.a2).map(|(da, a2)| (da * a2).powi(2)).sum::<f64>().sqrt();
                let vectors = self.lambda_backward(norm, dlambda);
                own = vectors.into_iter().map(|(name, values)| (name, squares(&values))).collect();
                own.push(("subln.weight", dweight));
                let second = da.iter().map(|da| norm.lambda.value * da).collect();
                vec![da, second]
            }
        };
        let members: Vec<_> = attentions
            .iter()
            .zip(upstreams)
            .map(|((graph, truth), dout)| magnitude::gradients(graph, truth, &Upstream { dout, dlse: None }))
            .collect();
        let mut joined = AttentionGradients { dq: vec![], dk: vec![], dv: vec![], dlam: vec![], own };
        match &members[..] {
            [pairs] => {
                let of_pairs = matches!(activations.mixed, Mixed::DiffV2 { .. });
                let [ordinary, _] = split(&pairs.dq, 1);
                joined.dq = expand(if of_pairs { &pairs.dq } else { &ordinary }, head_dim);
                joined.dk = expand(&pairs.dk, head_dim);
                joined.dv = expand(&pairs.dv, value_dim);
                joined.dlam.clone_from(&pairs.dlam);
            }
            [first, second] => {
                let ([dq1, _], [dq2, _]) = (split(&first.dq, 1), split(&second.dq, 1));
                joined.dq = expand(&interleave(&dq1, &dq2, 1), head_dim);
                joined.dk = expand(&interleave(&first.dk, &second.dk, 1), head_dim);
                let dv: Vec<_> = first.dv.iter().zip(&second.dv).map(|(first, second)| first + second).collect();
                joined.dv = expand(&dv, value_dim);
            }
            _ => {}
        }
        joined
    }

    /// V1: of the gradient of a₁ − λ·a₂, row by row, and of the norm's weight, squared.
    ///
    /// With c = [`Graph::cancelling`], an error of a is c times as large in n, and c/√value_dim times in r; the mean of
    /// dn·n is a sum of independent terms.
    fn norm_magnitudes(&self, norm: &Norm<f64>, d_o: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let value_dim = self.config().value_dim() as usize;
        let (weight, factor) = (self.weight("subln.weight"), self.norm_factor());
        let mut dweight = vec![0.0; value_dim];
        let mut da = Vec::new();
        let heads = d_o.chunks_exact(value_dim).zip(norm.n.chunks_exact(value_dim));
        for ((d_o, n), (r, cancelling)) in heads.zip(norm.r.iter().zip(self.cancelling(norm))) {
            let width = value_dim as f64;
            for ((sum, d_o), n) in dweight.iter_mut().zip(d_o).zip(n) {
                *sum += (factor * d_o * n.abs().max(cancelling)).powi(2);
            }
            let dn: Vec<_> = d_o.iter().zip(&weight).map(|(d_o, w)| factor * d_o * w).collect();
            let terms = dn.iter().zip(n).map(|(dn, n)| dn * n);
            let mean = terms.clone().sum::<f64>().abs().max(terms.map(|term| term * term).sum::<f64>().sqrt()) / width;
            let first = largest(&dn) * (1.0 + cancelling / width.sqrt());
            da.push(r * (first + largest(n) * mean * cancelling.max(1.0)));
        }
        (da, dweight)
    }
}

/// Rows of `values`, each multiplied so that its largest element is its magnitude.
fn raised(values: &[f64], magnitude: &[f64], width: usize) -> Vec<f64> {
    let rows = values.chunks_exact(width).zip(magnitude);
    rows.flat_map(|(row, magnitude)| {
        let factor = if largest(row) > 0.0 { magnitude / largest(row) } else { 0.0 };
        row.iter().map(move |value| factor * value)
    })
    .collect()
}

/// From squared magnitudes of elements and their values: the largest magnitude of each row of `width` elements.
fn rows(squares: Vec<f64>, values: &[f64], width: usize) -> Vec<f64> {
    let rows = squares.chunks_exact(width).zip(values.chunks_exact(width));
    rows.map(|(squares, values)| largest(squares).sqrt().max(largest(values))).collect()
}

fn expand(rows: &[f64], width: usize) -> Vec<f64> {
    rows.iter().flat_map(|&row| std::iter::repeat_n(row, width)).collect()
}

fn squares(values: &[f64]) -> Vec<f64> {
    values.iter().map(|value| value * value).collect()
}

fn largest(values: &[f64]) -> f64 {
    values.iter().fold(0.0, |max, value| max.max(value.abs()))
}
