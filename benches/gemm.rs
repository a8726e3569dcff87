//! The packed product for the shapes of a 135 M model, on every instruction set of this machine, next to the `gemm` crate.
//! `cargo bench --bench gemm -- 576x576`: throughput is in floating-point operations (2 for each multiply-add).

use colloquy::backend::cpu::gemm::{Isa, Packed, matmul_with};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

/// Outputs and inputs.
const SHAPES: [(usize, usize); 5] = [(384, 128), (576, 576), (1536, 576), (576, 1536), (49152, 576)];
const ROWS: [usize; 3] = [1, 24, 256];

fn numbers(len: usize) -> Vec<f32> {
    (0..len as u64).map(|i| (colloquy::backend::mix(i) >> 40) as f32 / 8_388_608.0 - 1.0).collect()
}

fn product(c: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    for (outputs, inputs) in SHAPES {
        let w = numbers(outputs * inputs);
        let packed =
            Packed::new(&pool, outputs, inputs, |i, out| out.copy_from_slice(&w[i * inputs..][..inputs]));
        for rows in ROWS {
            let mut group = c.benchmark_group(format!("{outputs}x{inputs}"));
            group.throughput(Throughput::Elements((2 * rows * outputs * inputs) as u64));
            let x = numbers(rows * inputs);
            let mut y = vec![0.0f32; rows * outputs];
            for isa in Isa::available().into_iter().filter(|&i| i != Isa::Portable || rows == 1) {
                group.bench_function(BenchmarkId::new(isa.name(), rows), |b| {
                    b.iter(|| matmul_with(isa, &pool, &x, rows, &packed, &mut y, false));
                });
            }
            group.bench_function(BenchmarkId::new("gemm crate", rows), |b| {
                b.iter(|| {
                    // SAFETY: the strides describe x `[rows, inputs]`, w `[outputs, inputs]` and y `[rows, outputs]`, all row-major.
                    unsafe {
                        gemm::gemm(
                            rows,
                            outputs,
                            inputs,
                            y.as_mut_ptr(),
                            1,
                            outputs as isize,
                            false,
                            x.as_ptr(),
                            1,
                            inputs as isize,
                            w.as_ptr(),
                            inputs as isize,
                            1,
                            0.0,
                            1.0,
                            false,
                            false,
                            false,
                            gemm::Parallelism::Rayon(threads),
                        );
                    }
                });
            });
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(std::time::Duration::from_secs(2));
    targets = product
}
criterion_main!(benches);
