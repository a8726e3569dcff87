//! What no operation shows by itself: which configuration is chosen, and the product without adapters that
//! the lm_head uses.

#[cfg(feature = "emulator")]
use std::sync::Arc;

use super::linear::*;
use super::*;

/// Configurations of the kernel: multiprocessors, outputs, rows.
#[test]
fn tiles_follow_the_shape_and_fit_every_architecture() {
    let name = |multiprocessors, outputs, rows| {
        let tiling = Tiling::choose(multiprocessors, outputs, rows);
        assert!(tiling.shared() <= MAX_SHARED as usize);
        // The kernels are compiled for two blocks a multiprocessor. An A100 has 164 KB of shared
        // memory there and takes one for itself of each block.
        assert!(2 * (tiling.shared() + 1024) <= 164 * 1024, "{}", tiling.kernels[0].name);
        tiling.kernels[0].name
    };
    // Decode: a narrow W needs blocks, a wide one has them.
    assert_eq!(name(132, 576, 8), "linear_tiny");
    assert_eq!(name(132, 2048, 16), "linear_tiny");
    assert_eq!(name(132, 4096, 64), "linear_small");
    assert_eq!(name(132, 28_672, 8), "linear_medium");
    assert_eq!(name(132, 4096, 256), "linear_medium");
    // Training and prefill.
    assert_eq!(name(132, 576, 8192), "linear_large");
    assert_eq!(name(132, 4096, 8192), "linear_large");
    assert_eq!(name(108, 128_256, 128), "linear_large");
    // Four multiprocessors, the emulator: the tests of the operation meet all four, forward and transposed.
    assert_eq!(name(4, 16, 8), "linear_tiny");
    assert_eq!(name(4, 200, 64), "linear_small");
    assert_eq!(name(4, 200, 128), "linear_medium");
    assert_eq!(name(4, 200, 256), "linear_large");
    assert_eq!(name(4, 456, 64), "linear_medium");
}

#[cfg(feature = "emulator")]
mod products {
    use super::*;
    use crate::backend::cuda::emulator::Emulator;

    fn values(n: usize, seed: u64) -> Vec<f32> {
        let uniform = |i: usize| (mix(seed << 32 | i as u64) >> 40) as f32 / 16_777_216.0;
        (0..n).map(|i| half::bf16::from_f32(2.0 * uniform(i) - 1.0).to_f32()).collect()
    }

    fn bf16(values: &[f32]) -> Vec<half::bf16> {
        values.iter().map(|&v| half::bf16::from_f32(v)).collect()
    }

    fn download_f32(c: &mut CudaBackend, at: DevicePtr, n: usize) -> Vec<f32> {
        let mut out = vec![0f32; n];
        c.flush().unwrap();
        c.driver.download(at, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out
    }

    fn download_bf16(c: &mut CudaBackend, at: DevicePtr, n: usize) -> Vec<f32> {
        let mut out = vec![half::bf16::ZERO; n];
        c.flush().unwrap();
        c.driver.download(at, bytemuck::cast_slice_mut(&mut out)).unwrap();
        out.into_iter().map(half::bf16::to_f32).collect()
    }

    fn assert_near(what: &str, got: &[f32], exact: &[f64], rounding: f64) {
        assert_eq!(got.len(), exact.len());
        let scale = exact.iter().fold(0f64, |m, x| m.max(x.abs()));
        for (i, (&g, &e)) in got.iter().zip(exact).enumerate() {
            let bound = rounding * e.abs() + 1e-5 * scale;
            assert!((f64::from(g) - e).abs() <= bound, "{what}: element {i} is {g}, expected {e}");
        }
    }

    /// Logits of a part of the logit rows into f32, then their gradient in place (bf16, a row's first half)
    /// times W: for vocabularies that are and are not a multiple of 8, of 4, and odd. What is beyond the rows
    /// stays as it was.
    #[test]
    fn logits_and_their_way_back() {
        let width = 40;
        for (vocabulary, offset, capacity, total) in [
            (64, 0, 8, 5),
            (100, 2, 4, 11),
            (44, 8, 16, 11),
            (203, 3, 40, 43),
            (9, 1, 3, 2),
            (72, 16, 16, 16),
        ] {
            let rows = capacity.min(total - offset);
            let mut c = CudaBackend::new(Box::new(Emulator::new(vocabulary as u64)));
            let (w, bias) = (values(vocabulary * width, 1), values(vocabulary, 2));
            let lm_head = LinearSpec {
                parts: &[WeightView::from_f32(&w, vocabulary, width)],
                bias: Some(&bias),
                backward: true,
            };
            c.load_linear(lm_head).unwrap();
            let w_at = Matrix::from(&c.linears[0]);
            let plan = BatchPlan {
                tokens: vec![0; 50],
                positions: (0..50).collect(),
                segments: vec![Segment { slot: Slot::BASE, start: 0, end: 50 }],
                sequences: vec![Sequence {
                    start: 0,
                    end: 50,
                    first_position: 0,
                    pages_start: 0,
                    pages_end: 0,
                }],
                logit_rows: (0..total as u32).map(|r| r + 3).collect(),
                ..BatchPlan::default()
            };
            c.begin(Arc::new(plan)).unwrap();

            let x = values(total * width, 3);
            let x_at = c.driver.alloc(x.len() * 2, "x").unwrap();
            c.driver.upload(x_at, bytemuck::cast_slice(&bf16(&x))).unwrap();
            let logits = c.driver.alloc(capacity * vocabulary * 4, "logits").unwrap();
            let before = vec![7.0f32; capacity * vocabulary];
            c.driver.upload(logits, bytemuck::cast_slice(&before)).unwrap();
            let count = RowCount::Logits { offset, capacity };
            let product = Product::new(w_at, x_at.offset(offset * width * 2), Output::F32(logits));
            Product { rows: count, ..product }.enqueue(&mut c).unwrap();
            let got = download_f32(&mut c, logits, capacity * vocabulary);
            let exact: Vec<f64> = (0..rows * vocabulary)
                .map(|i| {
                    let (r, v) = (i / vocabulary, i % vocabulary);
                    let x = &x[(offset + r) * width..][..width];
                    let sum: f64 =
                        x.iter().zip(&w[v * width..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
                    sum + f64::from(bias[v])
                })
                .collect();
            let name = format!("vocabulary {vocabulary}");
            assert_near(&name, &got[..rows * vocabulary], &exact, 0.0);
            assert!(got[rows * vocabulary..].iter().all(|&v| v == 7.0), "{name}: rows beyond the count");

            // The gradient: NaN in the other half of each row.
            let dz = values(rows * vocabulary, 4);
            let mut in_place = vec![half::bf16::NAN; capacity * vocabulary * 2];
            for (row, dz) in in_place.chunks_exact_mut(2 * vocabulary).zip(dz.chunks_exact(vocabulary)) {
                row[..vocabulary].copy_from_slice(&bf16(dz));
            }
            c.driver.upload(logits, bytemuck::cast_slice(&in_place)).unwrap();
            let dh_at = c.driver.alloc(capacity * width * 2, "dh").unwrap();
            c.driver.upload(dh_at, bytemuck::cast_slice(&bf16(&vec![7.0; capacity * width]))).unwrap();
            let product = Product::transposed(w_at, logits, Output::Bf16(dh_at));
            Product { rows: count, x_stride: 2 * vocabulary, ..product }.enqueue(&mut c).unwrap();
            let got = download_bf16(&mut c, dh_at, capacity * width);
            let exact: Vec<f64> = (0..rows * width)
                .map(|i| {
                    let dz = &dz[i / width * vocabulary..][..vocabulary];
                    let sum = dz
                        .iter()
                        .enumerate()
                        .map(|(v, d)| f64::from(*d) * f64::from(w[v * width + i % width]));
                    sum.sum()
                })
                .collect();
            assert_near(&format!("{name}, back"), &got[..rows * width], &exact, 1.0 / 256.0);
            assert!(got[rows * width..].iter().all(|&v| v == 7.0), "{name}: rows beyond the count");
        }
    }

    /// No logit rows from `offset` on: nothing is written, and a forward product of rows that cannot be read
    /// 16 bytes at a time is refused.
    #[test]
    fn nothing_to_do_and_what_cannot_be_done() {
        let mut c = CudaBackend::new(Box::new(Emulator::new(1)));
        let w = values(16 * 8, 1);
        let lm_head = LinearSpec { parts: &[WeightView::from_f32(&w, 16, 8)], bias: None, backward: false };
        c.load_linear(lm_head).unwrap();
        let w_at = Matrix::from(&c.linears[0]);
        let plan = BatchPlan {
            tokens: vec![0; 4],
            positions: (0..4).collect(),
            segments: vec![Segment { slot: Slot::BASE, start: 0, end: 4 }],
            sequences: vec![Sequence { start: 0, end: 4, first_position: 0, pages_start: 0, pages_end: 0 }],
            logit_rows: vec![0, 2],
            ..BatchPlan::default()
        };
        c.begin(Arc::new(plan)).unwrap();
        let x = c.driver.alloc(8 * 8 * 2, "x").unwrap();
        let y = c.driver.alloc(8 * 16 * 4, "y").unwrap();
        c.driver.upload(y, bytemuck::cast_slice(&[7.0f32; 8 * 16])).unwrap();
        let count = RowCount::Logits { offset: 2, capacity: 4 };
        let product = Product::new(w_at, x, Output::F32(y));
        Product { rows: count, ..product }.enqueue(&mut c).unwrap();
        assert!(download_f32(&mut c, y, 8 * 16).iter().all(|&v| v == 7.0));
        let error = Product { x_stride: 12, ..product }.enqueue(&mut c).unwrap_err();
        assert!(error.to_string().contains("12 apart: expected a multiple of 8"), "{error}");
    }
}
