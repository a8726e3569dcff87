//! Embedding, gather, norm, swiglu and rope: against f64 oracles and finite differences, in place and in parallel.

use super::support::*;
use colloquy::backend::*;

fn rms_norm(x: &[f64], w: &[f32], eps: f64) -> Vec<f64> {
    x.chunks_exact(w.len())
        .flat_map(|x| {
            let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
            x.iter().zip(w).map(move |(x, &w)| x * rstd * f64::from(w)).collect::<Vec<_>>()
        })
        .collect()
}

fn swiglu(x: &[f64], f: usize) -> Vec<f64> {
    x.chunks_exact(2 * f)
        .flat_map(|x| (0..f).map(|i| x[i] / (1.0 + (-x[i]).exp()) * x[f + i]).collect::<Vec<_>>())
        .collect()
}

#[test]
fn embed_widens_each_element_type_and_checks_tokens() {
    let mut b = cpu(2);
    let values = Random(1).values(50 * 40, 1.0);
    let bf16: Vec<half::bf16> = values.iter().map(|&x| half::bf16::from_f32(x)).collect();
    let f16: Vec<half::f16> = values.iter().map(|&x| half::f16::from_f32(x)).collect();
    let bytes: [(Vec<u8>, WeightType, Vec<f32>); 3] = [
        (values.iter().flat_map(|x| x.to_le_bytes()).collect(), WeightType::F32, values.clone()),
        (
            bf16.iter().flat_map(|x| x.to_le_bytes()).collect(),
            WeightType::Bf16,
            bf16.iter().map(|x| x.to_f32()).collect(),
        ),
        (
            f16.iter().flat_map(|x| x.to_le_bytes()).collect(),
            WeightType::F16,
            f16.iter().map(|x| x.to_f32()).collect(),
        ),
    ];
    let mut plan = plan_of(&[(0, 2000)]);
    let mut random = Random(2);
    plan.tokens = (0..2000).map(|_| random.below(50) as u32).collect();
    let out = tensor(&mut b, 2000, 40);
    for (bytes, dtype, exact) in bytes {
        let table = b.load_table(WeightView { bytes: &bytes, dtype, rows: 50, cols: 40 }).unwrap();
        run(&mut b, &plan, Op::Embed(Embed { table, drawn: None, out }));
        let got = b.download_f32(out, 2000).unwrap();
        for (row, &token) in got.chunks_exact(40).zip(&plan.tokens) {
            assert_bits("row", row, &exact[token as usize * 40..][..40]);
        }
    }
    plan.tokens[77] = 50;
    let table = b.load_table(WeightView::from_f32(&values, 50, 40)).unwrap();
    assert!(
        error_of(&mut b, &plan, Op::Embed(Embed { table, drawn: None, out }))
            .contains("token 50 of a vocabulary of 50")
    );
}

#[test]
fn gather_and_scatter_are_each_others_transpose() {
    let mut b = cpu(1);
    let x = Random(3).values(7 * 5, 1.0);
    let (tx, out, dx) = (upload(&mut b, &x, 5), tensor(&mut b, 3, 5), tensor(&mut b, 7, 5));
    let mut plan = plan_of(&[(0, 7)]);
    plan.logit_rows = vec![0, 3, 6];
    run(&mut b, &plan, Op::GatherRows(GatherRows { x: tx, out }));
    let got = b.download_f32(out, 3).unwrap();
    for (row, &from) in got.chunks_exact(5).zip(&plan.logit_rows) {
        assert_bits("gathered", row, &x[from as usize * 5..][..5]);
    }
    run(&mut b, &plan, Op::ScatterRows(ScatterRows { dy: out, dx }));
    for (i, row) in b.download_f32(dx, 7).unwrap().chunks_exact(5).enumerate() {
        let expected = if i % 3 == 0 { &x[i * 5..][..5] } else { &[0.0; 5][..] };
        assert_bits("scattered", row, expected);
    }
    plan.logit_rows = vec![3, 3];
    assert!(error_of(&mut b, &plan, Op::GatherRows(GatherRows { x: tx, out })).contains("ascending"));
    plan.logit_rows = vec![3, 7];
    assert!(error_of(&mut b, &plan, Op::GatherRows(GatherRows { x: tx, out })).contains("ascending"));
    plan.logit_rows = vec![1];
    assert!(
        error_of(&mut b, &plan, Op::GatherRows(GatherRows { x: tx, out: tx })).contains("read and written")
    );
    assert_bits("x survives the error", &b.download_f32(tx, 7).unwrap(), &x);
}

#[test]
fn rms_norm_and_its_backward() {
    let mut random = Random(4);
    for (rows, d, scale) in [(1, 16, 1.0), (5, 40, 30.0), (33, 576, 1.0), (3, 8, 1.0), (200, 1000, 0.01)] {
        let eps = 1e-5f32;
        let x = random.values(rows * d, scale);
        let dy = random.values(rows * d, 1.0);
        let w = random.values(d, 1.0);
        let plan = plan_of(&[(0, rows)]);
        let run_with = |threads: usize, accumulate: bool, in_place: bool| {
            let mut b = cpu(threads);
            let (tx, tdy) = (upload(&mut b, &x, d), upload(&mut b, &dy, d));
            let weight = b.load_vector(WeightView::from_f32(&w, 1, d)).unwrap();
            let out = tensor(&mut b, rows, d);
            run(&mut b, &plan, Op::RmsNorm(RmsNorm { x: tx, weight, eps, out, gathered: false }));
            let dx = if in_place { tdy } else { upload(&mut b, &x, d) };
            let op = Op::RmsNormBackward(RmsNormBackward {
                x: tx,
                weight,
                eps,
                dy: tdy,
                dx,
                accumulate,
                gathered: false,
            });
            run(&mut b, &plan, op);
            (b.download_f32(out, rows).unwrap(), b.download_f32(dx, rows).unwrap())
        };
        let (out, dx) = run_with(2, false, false);
        assert_close("forward", &out, &rms_norm(&widen(&x), &w, f64::from(eps)), 1e-6);
        let what = format!("{rows} x {d}");
        let same = run_with(1, false, true);
        assert_bits(&what, &same.0, &out);
        assert_bits(&what, &same.1, &dx);
        let sum = |a: &[f32]| a.iter().zip(&dx).map(|(a, b)| a + b).collect::<Vec<f32>>();
        assert_bits("accumulated", &run_with(2, true, false).1, &sum(&x));
        assert_bits("accumulated in place", &run_with(1, true, true).1, &sum(&dy));
        if rows * d < 3000 {
            let loss = |x: &[f64]| {
                rms_norm(x, &w, f64::from(eps)).iter().zip(&dy).map(|(y, &g)| y * f64::from(g)).sum::<f64>()
            };
            assert_close(&what, &dx, &differences(&x, loss), 3e-6);
        }
    }
}

#[test]
fn gathered_norms_count_the_logit_rows() {
    let mut b = cpu(1);
    let x = Random(5).values(2 * 16, 1.0);
    let (tx, out) = (upload(&mut b, &x, 16), tensor(&mut b, 9, 16));
    let weight = b.load_vector(WeightView::from_f32(&[1.0; 16], 1, 16)).unwrap();
    let mut plan = plan_of(&[(0, 9)]);
    plan.logit_rows = vec![4, 8];
    let op = |gathered| Op::RmsNorm(RmsNorm { x: tx, weight, eps: 1e-5, out, gathered });
    run(&mut b, &plan, op(true));
    let got = b.download_f32(out, 9).unwrap();
    assert_close("two rows", &got[..32], &rms_norm(&widen(&x), &[1.0; 16], 1e-5), 1e-6);
    assert!(got[32..].iter().all(|x| x.is_nan()), "no other row is written");
    assert!(error_of(&mut b, &plan, op(false)).contains("expected Activation [>= 9, 16]"));
}

#[test]
fn a_bad_row_stays_alone() {
    let mut random = Random(6);
    let (rows, d) = (300, 320);
    let (mut x, dy) = (random.values(rows * d, 1.0), random.values(rows * d / 2, 1.0));
    let outputs = |x: &[f32]| {
        let mut b = cpu(2);
        let plan = plan_of(&[(0, rows)]);
        let (tx, tdy) = (upload(&mut b, x, d), upload(&mut b, &dy, d / 2));
        let weight = b.load_vector(WeightView::from_f32(&[1.0; 320], 1, d)).unwrap();
        let (norm, glu, dglu) =
            (tensor(&mut b, rows, d), tensor(&mut b, rows, d / 2), tensor(&mut b, rows, d));
        run(&mut b, &plan, Op::RmsNorm(RmsNorm { x: tx, weight, eps: 1e-6, out: norm, gathered: false }));
        run(&mut b, &plan, Op::SwiGlu(SwiGlu { gate_up: tx, out: glu }));
        run(&mut b, &plan, Op::SwiGluBackward(SwiGluBackward { gate_up: tx, dout: tdy, dgate_up: dglu }));
        [norm, glu, dglu].map(|t| b.download_f32(t, rows).unwrap())
    };
    let clean = outputs(&x);
    x[150 * d..151 * d].fill(f32::NAN);
    for (got, clean) in outputs(&x).iter().zip(&clean) {
        let width = got.len() / rows;
        assert!(got[150 * width..151 * width].iter().all(|x| x.is_nan()));
        assert_bits("before", &got[..150 * width], &clean[..150 * width]);
        assert_bits("after", &got[151 * width..], &clean[151 * width..]);
    }
}

#[test]
fn swiglu_and_its_backward() {
    let mut random = Random(7);
    for (rows, f) in [(1, 16), (7, 37), (120, 200)] {
        let x = random.values(rows * 2 * f, 4.0);
        let dy = random.values(rows * f, 1.0);
        let plan = plan_of(&[(0, rows)]);
        let mut b = cpu(2);
        let (tx, tdy) = (upload(&mut b, &x, 2 * f), upload(&mut b, &dy, f));
        let (out, dx) = (tensor(&mut b, rows, f), tensor(&mut b, rows, 2 * f));
        run(&mut b, &plan, Op::SwiGlu(SwiGlu { gate_up: tx, out }));
        assert_close("forward", &b.download_f32(out, rows).unwrap(), &swiglu(&widen(&x), f), 1e-6);
        run(&mut b, &plan, Op::SwiGluBackward(SwiGluBackward { gate_up: tx, dout: tdy, dgate_up: dx }));
        run(&mut b, &plan, Op::SwiGluBackward(SwiGluBackward { gate_up: tx, dout: tdy, dgate_up: tx }));
        let got = b.download_f32(dx, rows).unwrap();
        assert_bits("in place", &b.download_f32(tx, rows).unwrap(), &got);
        if rows < 100 {
            let loss = |x: &[f64]| swiglu(x, f).iter().zip(&dy).map(|(y, &g)| y * f64::from(g)).sum::<f64>();
            assert_close("backward", &got, &differences(&x, loss), 2e-6);
        }
    }
    // Far from zero: no NaN.
    let mut b = cpu(1);
    let tx = upload(&mut b, &[-200.0, 200.0, 3.0, 3.0], 4);
    let out = tensor(&mut b, 1, 2);
    run(&mut b, &plan_of(&[(0, 1)]), Op::SwiGlu(SwiGlu { gate_up: tx, out }));
    assert_eq!(b.download_f32(out, 1).unwrap(), [0.0, 600.0]);
}

#[test]
fn rope_rotates_pairs_a_half_apart_and_back() {
    let mut random = Random(8);
    for (h, half) in [(32, 16), (64, 32), (80, 16), (24, 12), (128, 5)] {
        let heads = Heads { heads: 3, kv_heads: 1, head_dim: h, scale: 1.0, window: None };
        let width = heads.qkv_width();
        let angle = |position: usize, i: usize| position as f64 * 100f64.powf(-(i as f64) / half as f64);
        let of = |f: fn(f64) -> f64| -> Vec<f32> {
            (0..50).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32)).collect()
        };
        let (cos, sin) = (of(f64::cos), of(f64::sin));
        let plan = plan_of(&[(40, 10), (0, 50)]);
        let x = random.values(60 * width, 1.0);
        let mut b = cpu(2);
        let table = b.load_rope(&cos, &sin, half).unwrap();
        let t = upload(&mut b, &x, width);
        run(&mut b, &plan, Op::Rope(Rope { qkv: t, table, heads, kv: None }));
        let got = b.download_f32(t, 60).unwrap();
        let mut exact = widen(&x);
        for (row, &p) in exact.chunks_exact_mut(width).zip(&plan.positions) {
            for head in row.chunks_exact_mut(h).take(4) {
                for i in 0..half {
                    let (a, b) = (head[i], head[i + half]);
                    let (c, s) =
                        (f64::from(cos[p as usize * half + i]), f64::from(sin[p as usize * half + i]));
                    (head[i], head[i + half]) = (a * c - b * s, b * c + a * s);
                }
            }
        }
        assert_close(&format!("head {h}, half {half}"), &got, &exact, 1e-6);
        for (row, (got, x)) in got.chunks_exact(width).zip(x.chunks_exact(width)).enumerate() {
            assert_bits(&format!("v of row {row}"), &got[4 * h..], &x[4 * h..]);
            assert_bits("beyond the rotary dimension", &got[2 * half..h], &x[2 * half..h]);
        }
        run(&mut b, &plan, Op::RopeBackward(RopeBackward { dqkv: t, table, heads }));
        assert_close("there and back", &b.download_f32(t, 60).unwrap(), &widen(&x), 1e-6);
        let error = error_of(&mut b, &plan_of(&[(45, 6)]), Op::Rope(Rope { qkv: t, table, heads, kv: None }));
        assert!(error.contains("position 50 is beyond the rotary table's 50 positions"), "{error}");
    }
    let mut b = cpu(1);
    assert!(b.load_rope(&[0.0; 8], &[0.0; 6], 2).is_err());
    assert!(b.load_rope(&[0.0; 7], &[0.0; 7], 2).is_err());
}
