//! The comparer: whether a result is about as near to the truth as the plain computation in its type.

use super::arithmetic::Exact;
use super::backward::{Gradients, Upstream, validate};
use super::forward::Graph;
use super::{magnitude, yardstick};
use crate::error::{Error, Result};
use crate::host::{HostGradInputs, HostGradients, HostInputs, HostOutputs};
use crate::problem::{DType, Problem};

/// How one tensor compares.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Name, as in [`HostOutputs`] or [`HostGradients`].
    pub tensor: &'static str,
    /// The largest error of an element: |actual − expected| divided by the magnitude of its row (without unit). +∞ for
    /// a NaN, and for an infinity where none is expected or another one is.
    pub error: f64,
    /// The largest error allowed, in the same unit.
    pub bound: f64,
    /// The element with the largest error.
    pub index: usize,
    /// The error is finite and at most the bound.
    pub passed: bool,
}

/// Judges the results of one problem and its inputs by the rule
///
/// > error ≤ 2 × the error of [`yardstick`] (3 × for gradients) + rounding
///
/// where errors are relative to the magnitude of the row: for `out`, the largest |a₁| + s·|a₂|, because the subtraction
/// cancels; for the others, likewise the terms that cancel. The largest error of a tensor counts, of the yardstick too.
///
/// ```
/// # use diffattn::{DType, HostInputs, Options, Problem, Shape, reference::{Judge, yardstick}};
/// let shape = Shape { batch: 1, q_len: 2, kv_len: 3, heads: 1, kv_heads: 1, head_dim: 8, value_dim: 8 };
/// let problem = Problem::new(shape, DType::F32, Options::default());
/// let inputs = HostInputs { q: &[0.5; 32], k: &[0.25; 24], v: &[1.0; 24], lam: &[0.0; 2] };
/// let mut outputs = yardstick::forward(&problem, &inputs)?;
/// let judge = Judge::forward(&problem, &inputs)?;
/// assert!(judge.outputs(&outputs)?.iter().all(|verdict| verdict.passed));
/// outputs.out[3] = f32::NAN;
/// assert!(!judge.outputs(&outputs)?[0].passed);
/// # Ok::<(), diffattn::Error>(())
/// ```
#[derive(Debug, Clone)]
pub struct Judge {
    tensors: Vec<Expected>,
}

/// What is expected of one tensor.
#[derive(Debug, Clone)]
struct Expected {
    tensor: &'static str,
    truth: Vec<f64>,
    /// One entry for each row of `truth.len() / magnitude.len()` elements.
    magnitude: Vec<f64>,
    bound: f64,
}

impl Judge {
    /// A judge of `out`, `lse` and `a2`. Computes the truth and the yardstick, each un-fused on the CPU.
    ///
    /// # Errors
    /// Those of [`HostInputs::validate`].
    pub fn forward(problem: &Problem, inputs: &HostInputs) -> Result<Self> {
        let plain = yardstick::forward(problem, inputs)?;
        let graph = Graph::new(problem, inputs, Exact);
        let truth = graph.forward();
        let scores = magnitude::scores(&graph);
        let magnitudes =
            [magnitude::out(&graph, &truth), magnitude::lse(&truth, &scores), magnitude::a2(&graph, &truth)];
        let [out, lse, a2] = magnitudes;
        let rule = Rule { factor: 2.0, work: work(&scores, inputs.lam), dtype: problem.dtype };
        let tensors = vec![
            rule.expect("out", problem.dtype, truth.out, out, &plain.out),
            rule.expect("lse", DType::F32, truth.lse, lse, &plain.lse.unwrap_or_default()),
            rule.expect("a2", problem.dtype, truth.a2, a2, &plain.a2.unwrap_or_default()),
        ];
        Ok(Judge { tensors })
    }

    /// A judge of `dq`, `dk`, `dv` and `dlam`.
    ///
    /// # Errors
    /// Those of [`super::backward`].
    pub fn backward(problem: &Problem, inputs: &HostInputs, grads: &HostGradInputs) -> Result<Self> {
        validate(problem, inputs, grads)?;
        let plain = yardstick::backward(problem, inputs, grads)?;
        let graph = Graph::new(problem, inputs, Exact);
        let upstream = Upstream::new(grads);
        let Gradients { dq, dk, dv, dlam } = graph.backward(&upstream);
        let rows = magnitude::gradients(&graph, &graph.forward(), &upstream);
        let rule = Rule { factor: 3.0, work: work(&magnitude::scores(&graph), inputs.lam), dtype: problem.dtype };
        let tensors = vec![
            rule.expect("dq", problem.dtype, dq, rows.dq, &plain.dq),
            rule.expect("dk", problem.dtype, dk, rows.dk, &plain.dk),
            rule.expect("dv", problem.dtype, dv, rows.dv, &plain.dv),
            rule.expect("dlam", DType::F32, dlam, rows.dlam, &plain.dlam),
        ];
        Ok(Judge { tensors })
    }

    /// Verdicts on the outputs that are present.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor of the wrong length, [`Error::Invalid`] when this is a judge of gradients.
    pub fn outputs(&self, outputs: &HostOutputs) -> Result<Vec<Verdict>> {
        let HostOutputs { out, lse, a2 } = outputs;
        let tensors = [("out", Some(out)), ("lse", lse.as_ref()), ("a2", a2.as_ref())];
        tensors.into_iter().filter_map(|(name, tensor)| Some(self.judge(name, tensor?))).collect()
    }

    /// Verdicts on the gradients.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor of the wrong length, [`Error::Invalid`] when this is a judge of outputs.
    pub fn gradients(&self, gradients: &HostGradients) -> Result<Vec<Verdict>> {
        let HostGradients { dq, dk, dv, dlam } = gradients;
        [("dq", dq), ("dk", dk), ("dv", dv), ("dlam", dlam)]
            .map(|(name, tensor)| self.judge(name, tensor))
            .into_iter()
            .collect()
    }

    /// Verdict on one tensor, with `expected` (from a file, say) in the place of the truth, by the same bound and
    /// magnitudes.
    ///
    /// # Errors
    /// [`Error::Shape`] when a length is wrong, [`Error::Invalid`] for a tensor that this judge does not know.
    pub fn against(&self, tensor: &str, actual: &[f32], expected: &[f32]) -> Result<Verdict> {
        let known = self.find(tensor)?;
        known.check(expected)?;
        known.check(actual)?;
        Ok(known.verdict(actual, expected.iter().map(|&expected| f64::from(expected))))
    }

    fn judge(&self, tensor: &str, actual: &[f32]) -> Result<Verdict> {
        let known = self.find(tensor)?;
        known.check(actual)?;
        Ok(known.verdict(actual, known.truth.iter().copied()))
    }

    fn find(&self, tensor: &str) -> Result<&Expected> {
        self.tensors.iter().find(|known| known.tensor == tensor).ok_or_else(|| {
            let known: Vec<_> = self.tensors.iter().map(|known| known.tensor).collect();
            Error::invalid("tensor", format!("one of {}", known.join(", ")), tensor)
        })
    }
}

impl Expected {
    fn check(&self, actual: &[f32]) -> Result<()> {
        if actual.len() == self.truth.len() {
            return Ok(());
        }
        let [expected, actual] = [self.truth.len(), actual.len()].map(|len| format!("{len} elements"));
        Err(Error::Shape { tensor: self.tensor, expected, actual })
    }

    fn verdict(&self, actual: &[f32], expected: impl Iterator<Item = f64>) -> Verdict {
        let errors = errors(actual, expected, &self.magnitude).enumerate();
        let (index, error) = errors.fold((0, 0.0), |worst, this| if this.1 > worst.1 { this } else { worst });
        Verdict {
            tensor: self.tensor,
            error,
            bound: self.bound,
            index,
            passed: error.is_finite() && error <= self.bound,
        }
    }
}

/// Error of each element, relative to the magnitude of its row; never NaN.
fn errors(actual: &[f32], expected: impl Iterator<Item = f64>, magnitude: &[f64]) -> impl Iterator<Item = f64> {
    let row = actual.len() / magnitude.len().max(1);
    actual.iter().map(|&actual| f64::from(actual)).zip(expected).enumerate().map(move |(index, (actual, expected))| {
        if actual == expected {
            0.0 // Includes −∞ = −∞.
        } else if actual.is_finite() && expected.is_finite() {
            (actual - expected).abs() / magnitude[index / row]
        } else {
            f64::INFINITY
        }
    })
}

/// What a bound is made of.
struct Rule {
    /// How many times the error of the yardstick is allowed.
    factor: f64,
    /// Rounding of f32 work, see [`work`].
    work: f64,
    /// Storage type, in which the yardstick keeps every intermediate.
    dtype: DType,
}

impl Rule {
    /// `stored` is the type in which the tensor itself is kept.
    fn expect(
        &self,
        tensor: &'static str,
        stored: DType,
        truth: Vec<f64>,
        mut magnitude: Vec<f64>,
        plain: &[f32],
    ) -> Expected {
        // Below the smallest normal number the type has no relative accuracy. f32 and bf16 may flush it to zero.
        let least =
            if self.dtype == DType::F16 { f64::exp2(-14.0) } else { f64::exp2(-126.0) / f64::from(f32::EPSILON) };
        magnitude.iter_mut().for_each(|row| *row = row.max(least));
        // Where the yardstick overflows, it allows nothing.
        let plain = errors(plain, truth.iter().copied(), &magnitude).filter(|error| error.is_finite());
        // Two roundings to nearest in the stored type.
        let bound = self.factor * plain.fold(0.0, f64::max) + stored.epsilon() + self.work;
        Expected { tensor, truth, magnitude, bound }
    }
}

/// The rounding that f32 work may add where the yardstick, by luck or by an exact exponential, has none.
///
/// WGSL asks of exp2(x) an accuracy of 3 + 2·|x| units in the last place, and real drivers use that freedom. In the
/// softmax |x| is at most 2·score·log₂e, in the sigmoid |λ|·log₂e. That also covers the score's own rounding (score·ε).
fn work(scores: &[f64], lam: &[f32]) -> f64 {
    let score = scores.iter().fold(0.0, |max, &score| f64::max(max, score));
    let lam = lam.iter().fold(0.0, |max, &lam| f64::max(max, f64::from(lam.abs())));
    f64::from(f32::EPSILON) * (3.0 + 2.0 * std::f64::consts::LOG2_E * (2.0 * score + lam))
}
