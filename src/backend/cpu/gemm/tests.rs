use super::*;

/// Values in -1..1 from a counter.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    (0..len as u64)
        .map(|i| (crate::backend::mix(i ^ (seed << 40)) >> 40) as f32 / 8_388_608.0 - 1.0)
        .collect()
}

fn pool(threads: usize) -> Team {
    Team::new(threads).unwrap()
}

fn pack(pool: &Team, w: &[f32], outputs: usize, inputs: usize) -> Packed {
    Packed::new(pool, outputs, inputs, |i, out| out.copy_from_slice(&w[i * inputs..][..inputs]))
}

const SHAPES: [(usize, usize); 10] =
    [(1, 1), (7, 8), (33, 9), (100, 64), (32, 31), (64, 128), (160, 577), (97, 1100), (384, 128), (31, 600)];
const ROWS: [usize; 12] = [1, 2, 3, 5, 6, 7, 13, 14, 15, 24, 29, 64];

/// The definition, one chain at a time.
fn chains(x: &[f32], w: &[f32], rows: usize, outputs: usize, inputs: usize, y: &mut [f32]) {
    for r in 0..rows {
        for n in 0..outputs {
            for k in 0..inputs {
                y[r * outputs + n] = x[r * inputs + k].mul_add(w[n * inputs + k], y[r * outputs + n]);
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_instruction_set_and_thread_count_walks_the_same_chain() {
    let pools = [pool(1), pool(2), pool(3)];
    for (outputs, inputs) in SHAPES {
        let w = numbers(outputs * inputs, 1);
        let packed = pack(&pools[0], &w, outputs, inputs);
        for rows in ROWS.into_iter().filter(|rows| rows * outputs * inputs <= 1_000_000) {
            let x = numbers(rows * inputs, 2);
            for accumulate in [false, true] {
                let initial = if accumulate { numbers(rows * outputs, 3) } else { vec![0.0; rows * outputs] };
                let mut expected = initial.clone();
                chains(&x, &w, rows, outputs, inputs, &mut expected);
                for isa in Isa::available() {
                    // Without the instruction, `mul_add` is a slow library call: the portable path runs once.
                    for pool in pools.iter().skip(if isa == Isa::Portable { 2 } else { 0 }) {
                        let mut y = if accumulate { initial.clone() } else { vec![f32::NAN; rows * outputs] };
                        matmul_with(isa, pool, &x, rows, &packed, &mut y, accumulate);
                        assert_eq!(bits(&y), bits(&expected), "{isa:?} {rows}x{outputs}x{inputs}");
                    }
                }
            }
        }
    }
}

#[test]
fn large_products_divide_into_chunks_without_a_trace() {
    // Several row chunks, k-blocks and panel groups at once.
    let (rows, outputs, inputs) = (700, 300, 1100);
    let (w, x) = (numbers(outputs * inputs, 4), numbers(rows * inputs, 5));
    let pools = [pool(1), pool(3)];
    let packed = pack(&pools[1], &w, outputs, inputs);
    let mut expected = vec![0.0; rows * outputs];
    matmul_with(Isa::best(), &pools[0], &x, rows, &packed, &mut expected, false);
    for r in [0, 1, 350, 699] {
        let mut alone = vec![0.0; outputs];
        matmul(&pools[0], &x[r * inputs..][..inputs], 1, &packed, &mut alone, false);
        assert_eq!(bits(&alone), bits(&expected[r * outputs..][..outputs]), "row {r}");
    }
    for isa in Isa::available().into_iter().filter(|&i| i != Isa::Portable) {
        let mut y = vec![0.0; rows * outputs];
        matmul_with(isa, &pools[1], &x, rows, &packed, &mut y, false);
        assert_eq!(bits(&y), bits(&expected), "{isa:?}");
    }
}

#[test]
fn agrees_with_the_gemm_crate() {
    let pool = pool(2);
    for (outputs, inputs) in SHAPES {
        let w = numbers(outputs * inputs, 6);
        let packed = pack(&pool, &w, outputs, inputs);
        for rows in [1, 5, 24, 131] {
            let x = numbers(rows * inputs, 7);
            let (mut ours, mut theirs) = (vec![0.0f32; rows * outputs], vec![0.0f32; rows * outputs]);
            matmul(&pool, &x, rows, &packed, &mut ours, false);
            // SAFETY: the strides describe the three slices.
            unsafe {
                ::gemm::gemm(
                    rows,
                    outputs,
                    inputs,
                    theirs.as_mut_ptr(),
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
                    ::gemm::Parallelism::None,
                );
            }
            for (a, b) in ours.iter().zip(&theirs) {
                assert!((a - b).abs() <= 1e-6 * inputs as f32, "{rows}x{outputs}x{inputs}: {a} {b}");
            }
        }
    }
}

#[test]
fn the_transposed_packing_multiplies_by_the_transpose() {
    let pools = [pool(1), pool(2)];
    for (outputs, inputs) in SHAPES {
        let w = numbers(outputs * inputs, 8);
        let turned: Vec<f32> =
            (0..inputs * outputs).map(|i| w[(i % outputs) * inputs + i / outputs]).collect();
        let expected = pack(&pools[0], &turned, inputs, outputs);
        for pool in &pools {
            let packed = Packed::transposed(pool, outputs, inputs, |i, out| {
                out.copy_from_slice(&w[i * inputs..][..inputs]);
            });
            assert_eq!((packed.outputs, packed.inputs), (inputs, outputs));
            for panel in 0..packed.panels() {
                assert_eq!(packed.panel(panel), expected.panel(panel), "{outputs}x{inputs}");
            }
        }
    }
}

#[test]
fn blocks_cover_the_rows_once() {
    for rows in 1..300 {
        for most in [4, 6, 14] {
            let blocks = Blocks::new(rows, most);
            let mut next = 0;
            for b in 0..blocks.count {
                let r = blocks.range(b);
                assert!(r.start == next && !r.is_empty() && r.len() <= most);
                assert!(r.clone().all(|row| blocks.of(row) == b));
                next = r.end;
            }
            assert_eq!(next, rows);
        }
    }
}

#[test]
fn transposes_any_shape() {
    for (rows, cols) in [(1, 1), (4, 4), (5, 7), (8, 3), (13, 32), (32, 13), (2, 9)] {
        let (from_stride, to_stride) = (cols + 3, rows + 2);
        let from = numbers(rows * from_stride, 9);
        let mut to = vec![f32::NAN; cols * to_stride];
        transpose(&from, rows, cols, from_stride, &mut to, to_stride);
        for r in 0..rows {
            for c in 0..cols {
                assert_eq!(to[c * to_stride + r], from[r * from_stride + c]);
            }
        }
        assert!(to.iter().enumerate().all(|(i, v)| i % to_stride < rows || v.is_nan()), "wrote outside");
    }
}

#[test]
fn a_task_that_panics_does_not_hang_the_others() {
    let pool = pool(3);
    for bad in 0..8 {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(2, &[8, 8], &|phase, task| assert!(phase == 1 || task != bad, "on purpose"));
        }));
        assert!(result.is_err());
    }
}

#[test]
fn phases_follow_one_another_and_every_task_runs_once() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    let pool = pool(4);
    for round in 0..300 {
        let counts = [round % 7, 0, 5, round % 3];
        let ran: Vec<AtomicUsize> = (0..4 * 7).map(|_| AtomicUsize::new(0)).collect();
        let before =
            |phase: usize| -> usize { ran[..phase * 7].iter().map(|r| r.load(Ordering::SeqCst)).sum() };
        pool.run(3, &counts, &|phase, task| {
            assert_eq!(before(phase), counts[..phase].iter().sum::<usize>(), "the phase before is complete");
            ran[phase * 7 + task].fetch_add(1, Ordering::SeqCst);
        });
        for (i, r) in ran.iter().enumerate() {
            assert_eq!(r.load(Ordering::SeqCst), usize::from(i % 7 < counts[i / 7]));
        }
    }
}
