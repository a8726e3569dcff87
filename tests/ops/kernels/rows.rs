//! The operations that work row by row: norm, swiglu, rope.
//!
//! Their sums and products are f32, their exponential is within 2 ulp; what is stored is then rounded once, to bf16 on the kernels' devices. So the error
//! is at most half a unit of the stored value's last place and `BOUND` of the largest.

use std::sync::Arc;

use colloquy::backend::*;

use super::support::*;

const BOUND: f64 = 3e-6;

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

/// Asserts that what is stored is the exact number rounded once, but for `BOUND`.
fn assert_rounded(d: &Device, what: &str, got: &[f32], exact: &[f64]) {
    assert_eq!(got.len(), exact.len(), "{what}: lengths");
    // Of a number in [1, 2).
    let half_unit = match d.precision {
        Precision::F32 => 0.0,
        Precision::Bf16 => 2f64.powi(-8),
    };
    let scale = exact.iter().fold(1e-30f64, |m, x| m.max(x.abs()));
    for (i, (&g, &e)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(g) - e).abs();
        let allowed = half_unit * e.abs().max(1e-30).log2().floor().exp2() + BOUND * scale;
        assert!(error <= allowed, "{}, {what}: element {i} is {g}, expected {e}: off by {error:.2e}", d.name);
    }
}

/// Central differences of a loss.
fn differences(x: &[f64], loss: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = x.to_vec();
    (0..x.len())
        .map(|i| {
            let (at, h) = (x[i], 1e-5 * x[i].abs().max(0.1));
            x[i] = at + h;
            let above = loss(&x);
            x[i] = at - h;
            let below = loss(&x);
            x[i] = at;
            (above - below) / (2.0 * h)
        })
        .collect()
}

fn base_rows(rows: usize) -> BatchPlan {
    plan_of(&Segments { name: "base", parts: vec![(0, rows)] }, &[Slot::BASE])
}

fn error_of(d: &mut Device, plan: &BatchPlan, op: Op) -> String {
    d.backend.begin(Arc::new(plan.clone())).unwrap();
    d.backend.enqueue(op).unwrap_err().to_string()
}

// ---- norm ----

fn rms_norm(x: &[f64], w: &[f32], eps: f64) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.chunks_exact(w.len()) {
        let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64 + eps).sqrt();
        out.extend(x.iter().zip(w).map(|(x, &w)| x * rstd * f64::from(w)));
    }
    out
}

fn rms_norm_backward(x: &[f64], w: &[f32], eps: f64, dy: &[f64]) -> Vec<f64> {
    let mut dx = Vec::new();
    for (x, dy) in x.chunks_exact(w.len()).zip(dy.chunks_exact(w.len())) {
        let d = x.len() as f64;
        let rstd = 1.0 / (x.iter().map(|x| x * x).sum::<f64>() / d + eps).sqrt();
        let wdy: Vec<f64> = w.iter().zip(dy).map(|(&w, dy)| f64::from(w) * dy).collect();
        let mean = wdy.iter().zip(x).map(|(g, x)| g * x).sum::<f64>() / d;
        dx.extend(wdy.iter().zip(x).map(|(g, x)| rstd * (g - x * rstd * rstd * mean)));
    }
    dx
}

/// Forward and backward of rows of `w.len()`; dx starts as `old`, or is dy.
fn norm(
    d: &mut Device,
    x: &[f32],
    w: &[f32],
    dy: &[f32],
    old: Option<&[f32]>,
    accumulate: bool,
) -> [Vec<f32>; 2] {
    let (width, rows, eps) = (w.len(), x.len() / w.len(), 1e-5);
    let weight = d.backend.load_vector(WeightView::from_f32(w, 1, width)).unwrap();
    let (x, dy, out) =
        (d.upload(x, width), d.upload(dy, width), d.tensor(rows + 1, width, Element::Activation));
    let dx = old.map_or(dy, |old| d.upload(old, width));
    d.run(
        &base_rows(rows),
        [
            Op::RmsNorm(RmsNorm { x, weight, eps, out, gathered: false }),
            Op::RmsNormBackward(RmsNormBackward { x, weight, eps, dy, dx, accumulate, gathered: false }),
        ],
    );
    let all = d.download(out, rows + 1);
    assert!(all[rows * width..].iter().all(|x| x.is_nan()), "{}: a row beyond the batch is written", d.name);
    let result = [all[..rows * width].to_vec(), d.download(dx, rows)];
    [x, dy, out].into_iter().for_each(|t| d.backend.free(t));
    result
}

#[test]
fn norms_and_their_gradients_match_the_oracle() {
    for mut d in devices() {
        let mut random = Random(1);
        for (rows, width, scale) in [
            (1, 8, 1.0),
            (5, 40, 30.0),
            (17, 192, 1.0),
            (9, 576, 1.0),
            (3, 1024, 1.0),
            (2, 1032, 1.0),
            (5, 1536, 0.01),
            (2, 4096, 1.0),
            (1, 16384, 1.0),
        ] {
            let n = rows * width;
            let [x, dy, old] = [scale, 1.0, 1.0].map(|s| d.stored(&random.values(n, s)));
            let w = random.values(width, 1.0);
            let what = format!("{rows} x {width}");
            let [out, dx] = norm(&mut d, &x, &w, &dy, Some(&old), false);
            let eps = f64::from(1e-5f32);
            let exact = rms_norm_backward(&widen(&x), &w, eps, &widen(&dy));
            assert_rounded(&d, &format!("norm {what}"), &out, &rms_norm(&widen(&x), &w, eps));
            assert_rounded(&d, &format!("gradient {what}"), &dx, &exact);
            if n <= 200 {
                let loss = |x: &[f64]| -> f64 {
                    rms_norm(x, &w, eps).iter().zip(&dy).map(|(y, &g)| y * f64::from(g)).sum()
                };
                let numeric: Vec<f32> = differences(&widen(&x), loss).iter().map(|&x| x as f32).collect();
                assert_close("the oracle against differences", &numeric, &exact, 1e-6);
            }
            let plus = |a: &[f32]| a.iter().zip(&exact).map(|(&a, g)| f64::from(a) + g).collect::<Vec<_>>();
            let sum = norm(&mut d, &x, &w, &dy, Some(&old), true);
            assert_rounded(&d, &format!("accumulated {what}"), &sum[1], &plus(&old));
            assert_bits("in place", &norm(&mut d, &x, &w, &dy, None, false)[1], &dx);
            let separate = norm(&mut d, &x, &w, &dy, Some(&dy), true);
            assert_rounded(&d, "accumulated to dy", &separate[1], &plus(&dy));
            assert_bits("accumulated in place", &norm(&mut d, &x, &w, &dy, None, true)[1], &separate[1]);
            // A row alone.
            let at = (rows - 1) * width..n;
            let [alone, dx_alone] =
                norm(&mut d, &x[at.clone()], &w, &dy[at.clone()], Some(&old[at.clone()]), false);
            assert_bits("norm alone", &alone, &out[at.clone()]);
            assert_bits("gradient alone", &dx_alone, &dx[at]);
        }
    }
}

#[test]
fn gathered_norms_count_the_logit_rows_and_check_their_operands() {
    for mut d in devices() {
        let x = d.stored(&Random(2).values(2 * 16, 1.0));
        let (tx, out) = (d.upload(&x, 16), d.tensor(9, 16, Element::Activation));
        let weight = d.backend.load_vector(WeightView::from_f32(&[1.0; 16], 1, 16)).unwrap();
        let mut plan = base_rows(9);
        plan.logit_rows = vec![4, 8];
        let op = |gathered| Op::RmsNorm(RmsNorm { x: tx, weight, eps: 1e-5, out, gathered });
        d.run(&plan, [op(true)]);
        let got = d.download(out, 9);
        assert_rounded(&d, "two rows", &got[..32], &rms_norm(&widen(&x), &[1.0; 16], 1e-5));
        assert!(got[32..].iter().all(|x| x.is_nan()), "no other row is written");
        let error = error_of(&mut d, &plan, op(false));
        assert!(error.contains("[>= 9, 16]"), "{error}");
        let error =
            error_of(&mut d, &plan, Op::RmsNorm(RmsNorm { x: out, weight, eps: 1e-5, out, gathered: false }));
        assert!(error.contains("rms_norm"), "{error}");
        let dy = d.tensor(9, 16, Element::Activation);
        let op = Op::RmsNormBackward(RmsNormBackward {
            x: out,
            weight,
            eps: 1e-5,
            dy,
            dx: out,
            accumulate: true,
            gathered: false,
        });
        let error = error_of(&mut d, &plan, op);
        assert!(error.contains("rms_norm_backward"), "{error}");
        let short = d.backend.load_vector(WeightView::from_f32(&[1.0; 8], 1, 8)).unwrap();
        let op = Op::RmsNorm(RmsNorm { x: tx, weight: short, eps: 1e-5, out, gathered: true });
        let error = error_of(&mut d, &plan, op);
        assert!(error.contains("weight of 8 for rows of 16"), "{error}");
    }
}

/// Forward with q and k kept, and backward, of rows q | k | v.
fn head_norm(d: &mut Device, x: &[f32], dy: &[f32], heads: Heads, w: [&[f32]; 2]) -> [Vec<f32>; 3] {
    let (width, qk) = (heads.qkv_width(), heads.q_width() + heads.kv_width());
    let rows = x.len() / width;
    let [q, k] = w.map(|w| d.backend.load_vector(WeightView::from_f32(w, 1, heads.head_dim)).unwrap());
    let norm = HeadNormWeights { q, k, eps: 1e-5 };
    let qkv = d.tensor(rows + 1, width, Element::Activation);
    d.backend.upload_f32(qkv, x).unwrap();
    let (dqkv, raw) = (d.upload(dy, width), d.tensor(rows + 1, qk, Element::Activation));
    d.run(
        &base_rows(rows),
        [
            Op::HeadNorm(HeadNorm { qkv, raw: Some(raw), heads, norm }),
            Op::HeadNormBackward(HeadNormBackward { raw, dqkv, heads, norm }),
        ],
    );
    let all = d.download(qkv, rows + 1);
    assert!(all[rows * width..].iter().all(|x| x.is_nan()), "{}: a row beyond the batch is written", d.name);
    let kept = d.download(raw, rows + 1);
    assert!(kept[rows * qk..].iter().all(|x| x.is_nan()), "{}: a row beyond the batch is kept", d.name);
    let result = [all[..rows * width].to_vec(), kept[..rows * qk].to_vec(), d.download(dqkv, rows)];
    // Without keeping: the same.
    d.backend.upload_f32(qkv, x).unwrap();
    d.run(&base_rows(rows), [Op::HeadNorm(HeadNorm { qkv, raw: None, heads, norm })]);
    assert_bits("nothing kept", &d.download(qkv, rows), &result[0]);
    [qkv, dqkv, raw].into_iter().for_each(|t| d.backend.free(t));
    result
}

#[test]
fn head_norms_and_their_gradients_match_the_oracle() {
    for mut d in devices() {
        let mut random = Random(9);
        for (rows, h, k, dim) in [(1, 1, 1, 8), (5, 3, 1, 24), (19, 4, 2, 64), (2, 7, 7, 96), (33, 2, 1, 128)]
        {
            let heads = Heads { heads: h, kv_heads: k, head_dim: dim, scale: 1.0, window: None };
            let (width, qk) = (heads.qkv_width(), (h + k) * dim);
            let x = d.stored(&random.values(rows * width, 3.0));
            let dy = d.stored(&random.values(rows * width, 1.0));
            let [wq, wk] = [0; 2].map(|_| random.values(dim, 1.0));
            let [out, raw, dx] = head_norm(&mut d, &x, &dy, heads, [&wq, &wk]);
            let what = format!("{rows} rows of {h} + {k} heads of {dim}");
            for row in 0..rows {
                let at = row * width;
                let [x, dy, out, dx] = [&x, &dy, &out, &dx].map(|all| &all[at..at + width]);
                assert_bits("kept", &raw[row * qk..][..qk], &x[..qk]);
                assert_bits("v", &out[qk..], &x[qk..]);
                assert_bits("the gradient of v", &dx[qk..], &dy[qk..]);
                for head in 0..h + k {
                    let w = if head < h { &wq } else { &wk };
                    let [x, dy, out, dx] = [x, dy, out, dx].map(|all| &all[head * dim..][..dim]);
                    let eps = f64::from(1e-5f32);
                    assert_rounded(&d, &what, out, &rms_norm(&widen(x), w, eps));
                    assert_rounded(&d, &what, dx, &rms_norm_backward(&widen(x), w, eps, &widen(dy)));
                }
            }
            // A row alone.
            let at = (rows - 1) * width;
            let [alone, _, dx_alone] = head_norm(&mut d, &x[at..], &dy[at..], heads, [&wq, &wk]);
            assert_bits("norm alone", &alone, &out[at..]);
            assert_bits("gradient alone", &dx_alone, &dx[at..]);
        }
        let heads = Heads { heads: 2, kv_heads: 1, head_dim: 16, scale: 1.0, window: None };
        let [q, k] =
            [16, 8].map(|n| d.backend.load_vector(WeightView::from_f32(&[1.0; 16][..n], 1, n)).unwrap());
        let (qkv, raw) = (d.tensor(2, 64, Element::Activation), d.tensor(2, 48, Element::Activation));
        for (k, raw, expected) in [(k, raw, "weight of 8 for heads of 16"), (q, qkv, "head_norm")] {
            let norm = HeadNormWeights { q, k, eps: 1e-5 };
            let error =
                error_of(&mut d, &base_rows(2), Op::HeadNorm(HeadNorm { qkv, raw: Some(raw), heads, norm }));
            assert!(error.contains(expected), "{error}");
        }
    }
}

// ---- swiglu ----

fn swiglu(x: &[f64], f: usize) -> Vec<f64> {
    let mut out = Vec::new();
    for x in x.chunks_exact(2 * f) {
        out.extend((0..f).map(|i| x[i] / (1.0 + (-x[i]).exp()) * x[f + i]));
    }
    out
}

fn swiglu_backward(x: &[f64], f: usize, dout: &[f64]) -> Vec<f64> {
    let mut dx = Vec::new();
    for (x, dout) in x.chunks_exact(2 * f).zip(dout.chunks_exact(f)) {
        let s = |i: usize| 1.0 / (1.0 + (-x[i]).exp());
        dx.extend((0..f).map(|i| dout[i] * x[f + i] * s(i) * (1.0 + x[i] * (1.0 - s(i)))));
        dx.extend((0..f).map(|i| dout[i] * x[i] * s(i)));
    }
    dx
}

fn swiglu_on(d: &mut Device, x: &[f32], dout: &[f32], f: usize, in_place: bool) -> [Vec<f32>; 2] {
    let rows = dout.len() / f;
    let (gate_up, dout) = (d.upload(x, 2 * f), d.upload(dout, f));
    let out = d.tensor(rows + 1, f, Element::Activation);
    let dgate_up = if in_place { gate_up } else { d.tensor(rows, 2 * f, Element::Activation) };
    d.run(
        &base_rows(rows),
        [Op::SwiGlu(SwiGlu { gate_up, out }), Op::SwiGluBackward(SwiGluBackward { gate_up, dout, dgate_up })],
    );
    let all = d.download(out, rows + 1);
    assert!(all[rows * f..].iter().all(|x| x.is_nan()), "{}: a row beyond the batch is written", d.name);
    let result = [all[..rows * f].to_vec(), d.download(dgate_up, rows)];
    [gate_up, dout, out].into_iter().for_each(|t| d.backend.free(t));
    result
}

#[test]
fn swiglu_and_its_gradient_match_the_oracle() {
    for mut d in devices() {
        let mut random = Random(3);
        for (rows, f) in [(1, 8), (7, 40), (9, 200), (3, 1536)] {
            let x = d.stored(&random.values(rows * 2 * f, 4.0));
            let dout = d.stored(&random.values(rows * f, 1.0));
            let what = format!("{rows} x {f}");
            let [out, dx] = swiglu_on(&mut d, &x, &dout, f, false);
            let exact = swiglu_backward(&widen(&x), f, &widen(&dout));
            assert_rounded(&d, &format!("swiglu {what}"), &out, &swiglu(&widen(&x), f));
            assert_rounded(&d, &format!("gradient {what}"), &dx, &exact);
            if rows * f < 300 {
                let loss = |x: &[f64]| -> f64 {
                    swiglu(x, f).iter().zip(&dout).map(|(y, &g)| y * f64::from(g)).sum()
                };
                let numeric: Vec<f32> = differences(&widen(&x), loss).iter().map(|&x| x as f32).collect();
                assert_close("the oracle against differences", &numeric, &exact, 1e-6);
            }
            assert_bits("in place", &swiglu_on(&mut d, &x, &dout, f, true)[1], &dx);
            let (a, b) = ((rows - 1) * 2 * f, (rows - 1) * f);
            let [alone, dx_alone] = swiglu_on(&mut d, &x[a..], &dout[b..], f, false);
            assert_bits("swiglu alone", &alone, &out[b..]);
            assert_bits("gradient alone", &dx_alone, &dx[a..]);
        }
        // Far from zero: no NaN.
        let mut x = vec![0.0; 16];
        x[..3].copy_from_slice(&[-200.0, 200.0, -1e30]);
        x[8..11].copy_from_slice(&[3.0, 3.0, 3.0]);
        let [out, dx] = swiglu_on(&mut d, &x, &[1.0; 8], 8, false);
        assert_eq!(out, [0.0, 600.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(dx[..3], [0.0, 3.0, 0.0]);
    }
}

#[test]
fn a_bad_row_stays_alone() {
    for mut d in devices() {
        let mut random = Random(4);
        let (rows, width, bad) = (19, 320, 9);
        let mut x = random.values(rows * width, 1.0);
        let (dy, w) = (random.values(rows * width, 1.0), random.values(width, 1.0));
        let mut outputs = |x: &[f32]| {
            let [a, b] = norm(&mut d, x, &w, &dy, None, true);
            let [e, f] = swiglu_on(&mut d, x, &dy[..rows * width / 2], width / 2, false);
            [a, b, e, f]
        };
        let clean = outputs(&x);
        x[bad * width..(bad + 1) * width].fill(f32::NAN);
        for (got, clean) in outputs(&x).iter().zip(&clean) {
            let width = got.len() / rows;
            assert!(got[bad * width..(bad + 1) * width].iter().all(|x| x.is_nan()));
            assert_bits("before", &got[..bad * width], &clean[..bad * width]);
            assert_bits("after", &got[(bad + 1) * width..], &clean[(bad + 1) * width..]);
        }
    }
}

// ---- rope ----

/// cos and sin `[50, half]`.
fn rope_tables(half: usize) -> [Vec<f32>; 2] {
    let angle = |position: usize, i: usize| position as f64 * 100f64.powf(-(i as f64) / half as f64);
    let of = |f: fn(f64) -> f64| -> Vec<f32> {
        (0..50).flat_map(|p| (0..half).map(move |i| f(angle(p, i)) as f32)).collect()
    };
    [of(f64::cos), of(f64::sin)]
}

#[test]
fn rope_rotates_pairs_a_half_apart_and_back() {
    for mut d in devices() {
        let mut random = Random(5);
        for (h, half) in [
            (16, 8),
            (32, 16),
            (64, 32),
            (128, 64),
            (80, 16),
            (24, 12),
            (40, 20),
            (120, 60),
            (96, 20),
            (128, 5),
        ] {
            let heads = Heads { heads: 3, kv_heads: 1, head_dim: h, scale: 1.0, window: None };
            let width = heads.qkv_width();
            let [cos, sin] = rope_tables(half);
            // A sequence from position 40 and two from 0.
            let mut plan =
                plan_of(&Segments { name: "three", parts: vec![(0, 9), (0, 50), (0, 2)] }, &[Slot::BASE]);
            let rows = plan.rows();
            plan.sequences[0].first_position = 40;
            (0..9).for_each(|i| plan.positions[i] += 40);
            let x = d.stored(&random.values(rows * width, 1.0));
            let table = d.backend.load_rope(&cos, &sin, half).unwrap();
            let t = d.tensor(rows + 1, width, Element::Activation);
            d.backend.upload_f32(t, &x).unwrap();
            d.run(&plan, [Op::Rope(Rope { qkv: t, table, heads, kv: None })]);
            let got = d.download(t, rows + 1);
            assert!(got[rows * width..].iter().all(|x| x.is_nan()), "a row beyond the batch is written");
            let rotated = |x: &[f32], sign: f64| {
                let mut exact = widen(x);
                for (row, &p) in exact.chunks_exact_mut(width).zip(&plan.positions) {
                    for head in row.chunks_exact_mut(h).take(4) {
                        for i in 0..half {
                            let at = p as usize * half + i;
                            let (c, s) = (f64::from(cos[at]), sign * f64::from(sin[at]));
                            let (a, b) = (head[i], head[i + half]);
                            (head[i], head[i + half]) = (a * c - b * s, b * c + a * s);
                        }
                    }
                }
                exact
            };
            let got = &got[..rows * width];
            assert_rounded(&d, &format!("head {h}, half {half}"), got, &rotated(&x, 1.0));
            for (got, x) in got.chunks_exact(width).zip(x.chunks_exact(width)) {
                assert_bits("v", &got[4 * h..], &x[4 * h..]);
                assert_bits("beyond the rotary dimension", &got[2 * half..h], &x[2 * half..h]);
            }
            d.run(&plan, [Op::RopeBackward(RopeBackward { dqkv: t, table, heads })]);
            let back = d.download(t, rows);
            assert_rounded(&d, "back", &back, &rotated(got, -1.0));
            // Rows of the table that are not the positions, and rows of the step's own.
            plan.rope_rows = (0..rows as u32).map(|row| (7 * row) % 53).collect();
            plan.rope_extra = random.values(3 * 2 * half, 1.0);
            let angle = |row: usize, i: usize| match plan.rope_rows[row] as usize {
                at if at < 50 => (cos[at * half + i], sin[at * half + i]),
                at => {
                    let own = &plan.rope_extra[(at - 50) * 2 * half..];
                    (own[i], own[half + i])
                }
            };
            let mut exact = widen(&x);
            for (row, values) in exact.chunks_exact_mut(width).enumerate() {
                for head in values.chunks_exact_mut(h).take(4) {
                    for i in 0..half {
                        let (c, s) = angle(row, i);
                        let (c, s, a, b) = (f64::from(c), f64::from(s), head[i], head[i + half]);
                        (head[i], head[i + half]) = (a * c - b * s, b * c + a * s);
                    }
                }
            }
            d.backend.upload_f32(t, &x).unwrap();
            d.run(&plan, [Op::Rope(Rope { qkv: t, table, heads, kv: None })]);
            let chosen = d.download(t, rows);
            assert_rounded(&d, "chosen rows", &chosen, &exact);
            plan.rope_rows[3] = 53;
            let error = error_of(&mut d, &plan, Op::Rope(Rope { qkv: t, table, heads, kv: None }));
            assert!(error.contains("position 53 is beyond the rotary table's 53 positions"), "{error}");
            (plan.rope_rows, plan.rope_extra) = (vec![], vec![]);

            plan.positions[0] = 50;
            let error = error_of(&mut d, &plan, Op::Rope(Rope { qkv: t, table, heads, kv: None }));
            assert!(error.contains("position 50 is beyond the rotary table's 50 positions"), "{error}");
            let narrow = Heads { head_dim: 2 * half - 2, ..heads };
            assert!(d.backend.enqueue(Op::Rope(Rope { qkv: t, table, heads: narrow, kv: None })).is_err());
            d.backend.free(t);
        }
    }
}
