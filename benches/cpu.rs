//! The CPU engine beside a matrix product by the same crate, on the shapes that are compared with PyTorch.
//!
//! `cargo bench --bench cpu`; `RAYON_NUM_THREADS` sets the threads of the engine and of the product.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use diffattn::{DType, HostGradInputs, HostInputs, Options, Problem, Shape, Sizes, cpu};
use rayon::prelude::*;

fn random(rng: &mut fastrand::Rng, len: u64) -> Vec<f32> {
    (0..len).map(|_| rng.f32() * 2.0 - 1.0).collect()
}

/// A 2048³ product, each thread its share of the rows: what this machine's processors give at best at this moment.
fn product(c: &mut Criterion) {
    const N: usize = 2048;
    let mut rng = fastrand::Rng::with_seed(0);
    let (left, right) = (random(&mut rng, (N * N) as u64), random(&mut rng, (N * N) as u64));
    let mut out = vec![0.0f32; N * N];
    let rows = N.div_ceil(rayon::current_num_threads());
    let mut group = c.benchmark_group("product");
    group.sample_size(20);
    group.throughput(Throughput::Elements(2 * (N * N * N) as u64));
    group.bench_function("2048", |b| {
        b.iter(|| {
            out.par_chunks_mut(rows * N).zip(left.par_chunks(rows * N)).for_each(|(out, left)| {
                let (rows, stride, none) = (out.len() / N, N as isize, gemm::Parallelism::None);
                let (out, left, right) = (out.as_mut_ptr(), left.as_ptr(), right.as_ptr());
                // SAFETY: rows × N and N × N elements of the three slices, contiguous rows of N.
                unsafe {
                    gemm::gemm(
                        rows, N, N, out, 1, stride, false, left, 1, stride, right, 1, stride, 1.0, 1.0, false, false,
                        false, none,
                    );
                }
            });
        });
    });
    group.finish();
}

/// 1024 × 1024 causal, heads 8, kv_heads 4.
fn attention(c: &mut Criterion) {
    let mut rng = fastrand::Rng::with_seed(0);
    for dim in [64, 128] {
        let shape = Shape { batch: 1, q_len: 1024, kv_len: 1024, heads: 8, kv_heads: 4, head_dim: dim, value_dim: dim };
        let mut options = Options::default();
        options.causal = true;
        let problem = Problem::new(shape, DType::F32, options);
        let sizes = Sizes::of(&problem).expect("valid sizes");
        let [q, k, v, lam, dout] = [sizes.q, sizes.k, sizes.v, sizes.lam, sizes.out].map(|len| random(&mut rng, len));
        let inputs = HostInputs { q: &q, k: &k, v: &v, lam: &lam };
        let grads = HostGradInputs { dout: &dout, dlse: None };

        let mut group = c.benchmark_group(format!("cpu.f32.causal.d{dim}"));
        group.sample_size(20);
        group.throughput(Throughput::Elements(problem.flops() as u64));
        group.bench_function("forward", |b| b.iter(|| cpu::forward(&problem, &inputs).expect("forward")));
        group.bench_function("backward", |b| b.iter(|| cpu::backward(&problem, &inputs, &grads).expect("backward")));
        group.finish();
    }
}

criterion_group!(benches, product, attention);
criterion_main!(benches);
