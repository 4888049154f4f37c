//! What a case costs at least, and which limit of the device binds it. Pure.

use super::case::{Case, Form, Op};
use super::record::Limits;
use crate::host::Sizes;
use crate::problem::{DType, Problem, Shape};

/// What a case costs at least, whoever computes it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cost {
    /// Floating-point operations; a multiply-add is two, and keys that are not seen do not count.
    ///
    /// Forward and decode: two products for each query head, Q·Kᵀ and P·V. Backward: five for each query head of
    /// standard attention (as FlashAttention counts); for a fused pair eight, since the members share dO·Vᵀ and
    /// (P₁ − s·P₂)ᵀ·dO.
    pub flop: f64,
    /// Bytes of the inputs and outputs, each once.
    pub bytes: f64,
}

impl Case {
    /// What the case costs at least.
    pub fn cost(&self) -> Cost {
        if self.op.is_module() {
            return self.module_cost();
        }
        let problem = self.problem();
        Cost { flop: self.flop(&problem), bytes: self.bytes(&problem) }
    }

    /// Of a module, or of its output projection: forward, and twice as many operations for the gradients. Bytes of x, y and
    /// the parameters, and of their gradients; those of parameters are f32.
    fn module_cost(&self) -> Cost {
        let (config, Shape { batch, q_len, .. }) = (self.config(), self.shape);
        let (tokens, width) = (f64::from(batch) * f64::from(q_len), f64::from(config.d_model));
        let (flop, parameters) = match self.form {
            Form::Matmul => (2.0 * tokens * width * width, width * width),
            _ => (config.flops(batch, q_len), config.parameter_count() as f64),
        };
        let bytes = (2.0 * tokens * width + parameters) * self.dtype.size() as f64;
        match self.op {
            Op::Train => Cost { flop: 3.0 * flop, bytes: 2.0 * bytes + parameters * (4.0 - self.dtype.size() as f64) },
            _ => Cost { flop, bytes },
        }
    }

    /// Seconds that judging and timing the case will take on a device with these limits, by a rough guess; `most` is
    /// what the suite has for one case. For a progress bar.
    pub fn estimate(&self, limits: &Limits, most: f64) -> f64 {
        let judging = 0.3 + self.cost().flop.min(3e8) / 3e8;
        let bound = limits.bound(self.cost(), self.dtype, 1).map_or(0.0, |bound| bound.ns / 1e9);
        // At best it would take 25 runs, and kernels reach a fifth of that.
        if 5.0 * bound > most { 0.0 } else { judging + (125.0 * bound).min(most) }
    }

    fn flop(&self, problem: &Problem) -> f64 {
        // Two products for each of the 2·heads query heads.
        let forward = problem.flops();
        match (self.op, self.form) {
            (Op::Forward, Form::Baseline) => forward / 2.0,
            (Op::Backward, Form::Fused) => forward * 8.0 / 4.0,
            (Op::Backward, Form::Unfused) => forward * 5.0 / 2.0,
            (Op::Backward, Form::Baseline) => forward * 5.0 / 4.0,
            _ => forward,
        }
    }

    fn bytes(&self, problem: &Problem) -> f64 {
        let Ok(sizes) = Sizes::of(problem) else { return f64::INFINITY };
        let stored = self.dtype.size() as f64;
        let [q, k, v, lam, out, lse] =
            [sizes.q, sizes.k, sizes.v, sizes.lam, sizes.out, sizes.lse].map(|elements| elements as f64);
        // Standard attention has half the queries, and no λ; of a decode step the problem has half the heads already.
        let (q, lam, out, lse) = match (self.form, self.op) {
            (Form::Baseline, Op::Decode) => (q, 0.0, 2.0 * out, lse),
            (Form::Baseline, _) => (q / 2.0, 0.0, out, lse / 2.0),
            _ => (q, lam, out, lse),
        };
        let cached = if self.int8 {
            let rows = (k + v) / f64::from(problem.shape.head_dim + problem.shape.value_dim);
            k + v + 8.0 * rows
        } else {
            (k + v) * stored
        };
        match self.op {
            // Reads q, k, v, λ, out, lse, a₂ and dout; writes dq, dk, dv and dλ.
            Op::Backward => {
                let a2 = if self.form == Form::Fused { out } else { 0.0 };
                (2.0 * (q + k + v) + 2.0 * out + a2) * stored + 4.0 * (2.0 * lam + lse)
            }
            _ => (q + out) * stored + cached + 4.0 * lam,
        }
    }
}

/// A limit of the device, and the time that a case takes at least by it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    /// `matrix`, `fma-f32`, `read` or `dispatch`.
    pub by: &'static str,
    /// Nanoseconds.
    pub ns: f64,
}

impl Limits {
    /// The limit that binds: the one by which the cost takes longest. Products of f16 and bf16 are held against the matrix
    /// units wherever the device has them, whichever units the kernel uses. `None` where nothing was measured.
    pub fn bound(&self, cost: Cost, dtype: DType, dispatches: usize) -> Option<Bound> {
        let matrix = self.matrix_tflops.filter(|_| dtype != DType::F32).map(|rate| ("matrix", cost.flop / rate / 1e3));
        let bounds = [
            matrix.or(self.fma_f32_tflops.map(|rate| ("fma-f32", cost.flop / rate / 1e3))),
            self.read_gb_s.map(|rate| ("read", cost.bytes / rate)),
            self.dispatch_us.map(|us| ("dispatch", 1e3 * us * dispatches as f64)),
        ];
        let longest = bounds.into_iter().flatten().max_by(|a, b| a.1.total_cmp(&b.1));
        longest.map(|(by, ns)| Bound { by, ns })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Shape;

    fn case(op: Op, q_len: u32, kv_len: u32) -> Case {
        let shape = Shape { batch: 2, q_len, kv_len, heads: 16, kv_heads: 8, head_dim: 64, value_dim: 64 };
        Case { causal: false, ..Case::new(op, shape) }
    }

    #[test]
    fn costs_are_counted() {
        let forward = case(Op::Forward, 100, 200);
        // 2 sequences × 32 query heads × 2 products × 100 × 200 × 64 multiply-adds.
        let flop = 2.0 * 32.0 * 2.0 * 100.0 * 200.0 * 64.0 * 2.0;
        assert_eq!(forward.cost().flop, flop);
        assert_eq!(Case { form: Form::Baseline, ..forward }.cost().flop, flop / 2.0);
        let halves = 2.0 * (100.0 * 32.0 + 2.0 * 200.0 * 8.0 + 100.0 * 16.0) * 64.0;
        assert_eq!(forward.cost().bytes, 2.0 * halves + 4.0 * 2.0 * 100.0 * 16.0);
        let backward = case(Op::Backward, 100, 200);
        assert_eq!(backward.cost().flop, 2.0 * flop);
        assert_eq!(Case { form: Form::Unfused, ..backward }.cost().flop, 2.5 * flop);
        let decode = case(Op::Decode, 1, 1000);
        let ordinary = Case { form: Form::Baseline, ..decode }.cost();
        assert_eq!(ordinary.flop, decode.cost().flop / 2.0);
        assert_eq!(decode.cost().bytes - ordinary.bytes, 2.0 * (2.0 * 16.0 * 64.0 + 4.0 * 16.0));
        let saved = decode.cost().bytes - Case { int8: true, ..decode }.cost().bytes;
        assert_eq!(saved, 2.0 * 1000.0 * 8.0 * (128.0 - 8.0));
    }

    #[test]
    fn the_slowest_limit_binds() {
        let limits =
            Limits { fma_f32_tflops: Some(10.0), read_gb_s: Some(1000.0), dispatch_us: Some(2.0), ..Limits::default() };
        let bound = |flop, bytes, dispatches| {
            let bound = limits.bound(Cost { flop, bytes }, DType::F16, dispatches).unwrap();
            (bound.by, bound.ns)
        };
        assert_eq!(bound(1e9, 1e6, 1), ("fma-f32", 1e5));
        assert_eq!(bound(1e6, 1e9, 1), ("read", 1e6));
        assert_eq!(bound(1e6, 1e3, 3), ("dispatch", 6e3));
        let units = Limits { matrix_tflops: Some(100.0), ..limits };
        let of = |dtype| units.bound(Cost { flop: 1e12, bytes: 0.0 }, dtype, 1).unwrap();
        assert_eq!(of(DType::F16), Bound { by: "matrix", ns: 1e7 });
        assert_eq!(of(DType::F32), Bound { by: "fma-f32", ns: 1e8 });
        assert_eq!(Limits::default().bound(Cost { flop: 1.0, bytes: 1.0 }, DType::F16, 1), None);
    }
}
