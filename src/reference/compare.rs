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
    /// The error is at most the bound, and the bound can tell ([`Verdict::can_tell`]).
    pub passed: bool,
}

impl Verdict {
    /// Whether the bound tells right from wrong: from ½ on, zeros or another row would do, so nothing passes.
    pub fn can_tell(&self) -> bool {
        self.bound < 0.5
    }
}

/// Judges the results of one problem and its inputs by the rule
///
/// > error ≤ 2 × the error of [`yardstick`] (3 × for gradients; at most 0.4) + ε of the stored type + ε of f32 × work
///
/// where errors are relative to the magnitude of the row: for `out`, the largest |a₁| + s·|a₂|, because the subtraction
/// cancels; for the others, likewise the terms that cancel. The largest error of a tensor counts, of the yardstick too.
///
/// `work` is what f32 arithmetic may add where the yardstick, by luck or by an exact exponential, has no error:
/// * the largest scale·Σ|q·k| of a score, whose own rounding goes straight into the exponent (1 for `lse`, which is
///   measured against the score);
/// * 3 + 2·|x| for each exp2(x), which is what WGSL asks of it, and real drivers use that freedom. The mean of |x| by
///   the softmax's weights is their entropy at most, so log₂(kv_len). A gradient by one key may be made of small weights
///   only; f32 has those above 2⁻¹²⁶. Neither is more than the scores differ;
/// * 3·log₂(kv_len) for the rescalings of an online softmax: the running maximum rises ln(kv_len) times in the mean (not
///   for gradients, whose weights come from a finished lse);
/// * 2 for the gate (8 for `dlam`, which is a quarter of the terms that it is measured against): s(1 − s) times the
///   relative error of exp2 and of its argument, (3 + 4·|λ|)·ε, is below 2·ε for any λ.
///
/// A bound of ½ or more cannot tell right from wrong, and nothing passes it: [`Verdict::can_tell`].
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
pub(super) struct Expected {
    tensor: &'static str,
    truth: Vec<f64>,
    /// One entry for each row of `truth.len() / magnitude.len()` elements.
    magnitude: Vec<f64>,
    bound: f64,
}

impl Judge {
    pub(super) fn new(tensors: Vec<Expected>) -> Self {
        Judge { tensors }
    }

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
        let score = largest(&scores);
        let halvings = f64::from(problem.shape.kv_len.max(1)).log2();
        let weights = exponential(score, halvings) + 3.0 * halvings;
        let rule = Rule { factor: 2.0, dtype: problem.dtype };
        let tensors = vec![
            rule.expect("out", problem.dtype, score + weights + 2.0, truth.out, out, &plain.out),
            rule.expect("lse", DType::F32, 1.0 + weights, truth.lse, lse, &plain.lse.unwrap_or_default()),
            rule.expect("a2", problem.dtype, score + weights, truth.a2, a2, &plain.a2.unwrap_or_default()),
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
        let score = largest(&magnitude::scores(&graph));
        let work = score + exponential(score, 126.0);
        let rule = Rule { factor: 3.0, dtype: problem.dtype };
        let tensors = vec![
            rule.expect("dq", problem.dtype, work + 2.0, dq, rows.dq, &plain.dq),
            rule.expect("dk", problem.dtype, work + 2.0, dk, rows.dk, &plain.dk),
            rule.expect("dv", problem.dtype, work + 2.0, dv, rows.dv, &plain.dv),
            rule.expect("dlam", DType::F32, work + 8.0, dlam, rows.dlam, &plain.dlam),
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
        tensors.into_iter().filter_map(|(name, tensor)| Some(self.tensor(name, tensor?))).collect()
    }

    /// Verdicts on the gradients.
    ///
    /// # Errors
    /// [`Error::Shape`] for a tensor of the wrong length, [`Error::Invalid`] when this is a judge of outputs.
    pub fn gradients(&self, gradients: &HostGradients) -> Result<Vec<Verdict>> {
        let HostGradients { dq, dk, dv, dlam } = gradients;
        [("dq", dq), ("dk", dk), ("dv", dv), ("dlam", dlam)]
            .map(|(name, tensor)| self.tensor(name, tensor))
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

    /// Verdict on one tensor.
    ///
    /// # Errors
    /// [`Error::Shape`] when the length is wrong, [`Error::Invalid`] for a tensor that this judge does not know.
    pub fn tensor(&self, tensor: &str, actual: &[f32]) -> Result<Verdict> {
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
        let verdict = Verdict { tensor: self.tensor, error, bound: self.bound, index, passed: error <= self.bound };
        Verdict { passed: verdict.passed && verdict.can_tell(), ..verdict }
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

/// The most that the yardstick's error allows. Scores of hundreds, rounded to f16 or bf16, are off by so much that its
/// weights are noise; an engine with f32 scores stays far below.
const MOST_PLAIN: f64 = 0.4;

/// What a bound is made of.
pub(super) struct Rule {
    /// How many times the error of the yardstick is allowed.
    pub(super) factor: f64,
    /// Storage type, in which the yardstick keeps every intermediate.
    pub(super) dtype: DType,
}

impl Rule {
    /// `stored` is the type in which the tensor itself is kept; `work` is described at [`Judge`].
    pub(super) fn expect(
        &self,
        tensor: &'static str,
        stored: DType,
        work: f64,
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
        let plain = f64::min(self.factor * plain.fold(0.0, f64::max), MOST_PLAIN);
        // Two roundings to nearest in the stored type.
        let bound = plain + stored.epsilon() + f64::from(f32::EPSILON) * work;
        Expected { tensor, truth, magnitude, bound }
    }
}

fn largest(scores: &[f64]) -> f64 {
    scores.iter().copied().fold(0.0, f64::max)
}

/// Work of exp2(x) where |x| is at most `most`, nor more than two scores differ.
pub(super) fn exponential(score: f64, most: f64) -> f64 {
    3.0 + 2.0 * most.min(2.0 * std::f64::consts::LOG2_E * score)
}
