//! Attention and its backward, over packed sequences and over pages.

use std::ops::Range;

use colloquy::backend::*;

use super::oracles::attention::*;
use super::support::*;

/// bf16: the output is rounded (2^-9 of it) and so are the probabilities (2^-9 of Σ p |v|, which may be twice the largest Σ p v).
const FORWARD: f64 = 3.0 / 512.0;
/// f32 throughout.
const FORWARD_F32: f64 = 3e-6;
/// bf16: the output and `out` (in delta) are rounded, and P and dS, whose sums over up to 130 rows cancel to a fraction of Σ |dS| |k|.
const BACKWARD: f64 = 4.0 / 512.0;
const BACKWARD_F32: f64 = 5e-6;

fn bound(d: &Device, bf16: f64, f32: f64) -> f64 {
    match d.precision {
        Precision::Bf16 => bf16,
        Precision::F32 => f32,
    }
}

fn widen(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

fn ranges(lengths: &[usize]) -> Vec<Range<usize>> {
    lengths.iter().scan(0, |row, n| Some(std::mem::replace(row, *row + n)..*row)).collect()
}

/// One sequence a length, each in a segment of its own, all of the base.
fn plan(lengths: &[usize]) -> BatchPlan {
    plan_of(&Segments { name: "base", parts: lengths.iter().map(|&n| (0, n)).collect() }, &[Slot::BASE])
}

fn packed(d: &mut Device, h: Heads, lengths: &[usize], qkv: &[f32]) -> Vec<f32> {
    let rows = lengths.iter().sum();
    let x = d.upload(qkv, h.qkv_width());
    let out = d.tensor(rows, h.q_width(), Element::Activation);
    d.run(&plan(lengths), [Op::AttentionPacked(AttentionPacked { qkv: x, heads: h, out })]);
    let got = d.download(out, rows);
    d.backend.free(x);
    d.backend.free(out);
    got
}

fn backward(d: &mut Device, h: Heads, lengths: &[usize], qkv: &[f32], dout: &[f32]) -> Vec<f32> {
    let rows = lengths.iter().sum();
    let x = d.upload(qkv, h.qkv_width());
    let dy = d.upload(dout, h.q_width());
    let out = d.tensor(rows, h.q_width(), Element::Activation);
    let dx = d.tensor(rows, h.qkv_width(), Element::Activation);
    d.run(
        &plan(lengths),
        [
            Op::AttentionPacked(AttentionPacked { qkv: x, heads: h, out }),
            Op::AttentionPackedBackward(AttentionPackedBackward {
                qkv: x,
                heads: h,
                out,
                dout: dy,
                dqkv: dx,
            }),
        ],
    );
    let got = d.download(dx, rows);
    for t in [x, dy, out, dx] {
        d.backend.free(t);
    }
    got
}

fn rows_of<'a>(x: &'a [f32], rows: &Range<usize>, width: usize) -> &'a [f32] {
    &x[rows.start * width..rows.end * width]
}

#[test]
fn packed_attention_is_the_softmax_average() {
    let lengths = [1, 15, 16, 17, 63, 64, 65, 130];
    let shapes = [
        heads(1, 1, 16, None),
        heads(3, 1, 24, Some(17)),
        heads(4, 2, 32, Some(64)),
        heads(9, 3, 64, None),
        heads(2, 2, 40, Some(1)),
        heads(4, 4, 80, Some(65)),
        heads(2, 1, 96, Some(1000)),
        heads(2, 1, 104, Some(5)),
        heads(4, 2, 128, None),
    ];
    for mut d in devices() {
        for (n, h) in shapes.into_iter().enumerate() {
            let rows: usize = lengths.iter().sum();
            let qkv = Random(n as u64).values(rows * h.qkv_width(), 1.5);
            let stored = d.stored(&qkv);
            let got = packed(&mut d, h, &lengths, &qkv);
            for range in ranges(&lengths) {
                let exact = oracle(&h, &widen(rows_of(&stored, &range, h.qkv_width())));
                let what = format!("{}: {h:?}, {} tokens", d.name, range.len());
                let bound = bound(&d, FORWARD, FORWARD_F32);
                assert_close(&what, rows_of(&got, &range, h.q_width()), &exact, bound);
                // In company (above) and alone: the same bits.
                if range.len() % 16 != 0 {
                    let alone = packed(&mut d, h, &[range.len()], rows_of(&qkv, &range, h.qkv_width()));
                    assert_bits(&what, &alone, rows_of(&got, &range, h.q_width()));
                }
            }
        }
    }
}

#[test]
fn long_sequences_merge_their_splits() {
    for mut d in devices() {
        for (h, tokens) in [(heads(2, 1, 32, None), 1100), (heads(1, 1, 128, Some(500)), 700)] {
            let qkv = Random(11).values(tokens * h.qkv_width(), 1.5);
            let exact = oracle(&h, &widen(&d.stored(&qkv)));
            let got = packed(&mut d, h, &[tokens], &qkv);
            let bound = bound(&d, FORWARD, FORWARD_F32);
            assert_close(&format!("{}: {h:?}, {tokens} tokens", d.name), &got, &exact, bound);
        }
    }
}

/// With one position far ahead of all others the output is its V; scores in the thousands must not overflow.
#[test]
fn large_scores_do_not_overflow() {
    for mut d in devices() {
        let h = heads(2, 1, 32, None);
        let qkv = Random(2).values(150 * h.qkv_width(), 30.0);
        let exact = oracle(&h, &widen(&d.stored(&qkv)));
        let got = packed(&mut d, h, &[150], &qkv);
        assert_close(&d.name.clone(), &got, &exact, bound(&d, FORWARD, 2e-4));
    }
}

/// A row of NaN, and what is visible to it, in every layout that a block can meet.
#[test]
fn what_a_row_cannot_see_cannot_change_it() {
    for mut d in devices() {
        for window in [None, Some(1), Some(30)] {
            let h = heads(4, 2, 32, window);
            let lengths = [80, 50];
            let qkv = Random(4).values(130 * h.qkv_width(), 1.0);
            let clean = packed(&mut d, h, &lengths, &qkv);
            for poisoned in [0, 15, 63, 64, 79] {
                let mut bad = qkv.clone();
                bad[poisoned * h.qkv_width()..(poisoned + 1) * h.qkv_width()].fill(f32::NAN);
                let got = packed(&mut d, h, &lengths, &bad);
                for row in 0..130 {
                    let at = row * h.q_width()..(row + 1) * h.q_width();
                    if row < 80 && (poisoned..poisoned + window.unwrap_or(80)).contains(&row) {
                        assert!(got[at].iter().all(|x| x.is_nan()), "row {row} sees {poisoned}, {window:?}");
                    } else {
                        let what = format!("{}: row {row}, NaN at {poisoned}, {window:?}", d.name);
                        assert_bits(&what, &got[at.clone()], &clean[at]);
                    }
                }
            }
        }
    }
}

#[test]
fn the_gradient_oracle_matches_finite_differences() {
    for h in [heads(4, 2, 8, Some(7)), heads(2, 1, 16, None)] {
        let mut random = Random(6);
        let x = widen(&random.values(12 * h.qkv_width(), 1.0));
        let dout = widen(&random.values(12 * h.q_width(), 1.0));
        let exact = oracle_backward(&h, &x, &dout);
        let loss = |x: &[f64]| oracle(&h, x).iter().zip(&dout).map(|(o, g)| o * g).sum::<f64>();
        for (i, exact) in exact.iter().enumerate() {
            let moved = |by: f64| {
                let mut x = x.clone();
                x[i] += by;
                loss(&x)
            };
            let difference = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((difference - exact).abs() < 1e-8, "{h:?}, element {i}: {difference}, expected {exact}");
        }
    }
}

#[test]
fn backward_matches_the_oracle_and_does_not_depend_on_company() {
    let lengths = [1, 16, 17, 63, 64, 65, 130];
    let shapes = [
        heads(6, 2, 64, None),
        heads(3, 1, 24, Some(1)),
        heads(4, 2, 32, Some(16)),
        heads(2, 2, 40, Some(70)),
        heads(2, 1, 80, None),
        heads(2, 1, 128, Some(33)),
    ];
    for mut d in devices() {
        for (n, h) in shapes.into_iter().enumerate() {
            let mut random = Random(70 + n as u64);
            let rows: usize = lengths.iter().sum();
            let qkv = random.values(rows * h.qkv_width(), 1.0);
            let dout = random.values(rows * h.q_width(), 1.0);
            let got = backward(&mut d, h, &lengths, &qkv, &dout);
            let (exact_qkv, exact_dout) = (widen(&d.stored(&qkv)), widen(&d.stored(&dout)));
            for range in ranges(&lengths) {
                let what = format!("{}: {h:?}, {} tokens", d.name, range.len());
                let (x, dy) = (rows_of(&qkv, &range, h.qkv_width()), rows_of(&dout, &range, h.q_width()));
                let got = rows_of(&got, &range, h.qkv_width());
                if range.len() % 16 != 0 {
                    assert_bits(&what, &backward(&mut d, h, &[range.len()], x, dy), got);
                }
                let part = |x: &[f64], width: usize| x[range.start * width..range.end * width].to_vec();
                let exact =
                    oracle_backward(&h, &part(&exact_qkv, h.qkv_width()), &part(&exact_dout, h.q_width()));
                // q, k and v by themselves: each has its own magnitude.
                let ends = [0, h.q_width(), h.q_width() + h.kv_width(), h.qkv_width()];
                for (name, columns) in ["dq", "dk", "dv"].into_iter().zip(ends.windows(2)) {
                    let cut = |i: &usize| (columns[0]..columns[1]).contains(&(i % h.qkv_width()));
                    let got: Vec<f32> = (0..got.len()).filter(cut).map(|i| got[i]).collect();
                    let exact: Vec<f64> = (0..exact.len()).filter(cut).map(|i| exact[i]).collect();
                    // A row that sees only itself has no gradient in q and k: dP - delta cancels to the rounding of `out`.
                    if name != "dv" && (range.len() == 1 || h.window == Some(1)) {
                        let largest = got.iter().fold(0f32, |m, x| m.max(x.abs()));
                        assert!(largest < 0.05, "{what}, {name}: {largest}");
                    } else {
                        let bound = bound(&d, BACKWARD, BACKWARD_F32);
                        assert_close(&format!("{what}, {name}"), &got, &exact, bound);
                    }
                }
            }
        }
    }
}

#[test]
fn backward_is_untouched_by_nan_in_what_is_not_connected() {
    for mut d in devices() {
        // Another sequence.
        let h = heads(4, 2, 16, None);
        let mut random = Random(8);
        let mut qkv = random.values(90 * h.qkv_width(), 1.0);
        let dout = random.values(90 * h.q_width(), 1.0);
        let clean = backward(&mut d, h, &[40, 50], &qkv, &dout);
        qkv[..40 * h.qkv_width()].fill(f32::NAN);
        let got = backward(&mut d, h, &[40, 50], &qkv, &dout);
        assert_bits("second sequence", &got[40 * h.qkv_width()..], &clean[40 * h.qkv_width()..]);
        // With a window, what lies a window apart inside a sequence is not connected either.
        for (window, bad) in [(4, 20), (4, 63), (40, 100)] {
            let h = heads(2, 1, 16, Some(window));
            let mut qkv = random.values(150 * h.qkv_width(), 1.0);
            let mut dout = random.values(150 * h.q_width(), 1.0);
            let clean = backward(&mut d, h, &[150], &qkv, &dout);
            qkv[bad * h.qkv_width()..(bad + 1) * h.qkv_width()].fill(f32::NAN);
            dout[bad * h.q_width()..(bad + 1) * h.q_width()].fill(f32::NAN);
            let got = backward(&mut d, h, &[150], &qkv, &dout);
            for row in 0..150 {
                let at = row * h.qkv_width()..(row + 1) * h.qkv_width();
                let what = format!("{}: row {row}, NaN at {bad}, window {window}", d.name);
                // Rows bad .. bad + window see the bad one; the positions bad - window + 1 .. bad + window are seen by them.
                if (bad + 1 - window..bad + window).contains(&row) {
                    assert!(got[at].iter().any(|x| x.is_nan()), "{what}");
                } else {
                    assert_bits(&what, &got[at.clone()], &clean[at]);
                }
            }
        }
    }
}

/// Decode as the engine does it: rope writes K and V to pages, attention reads them. Prompts in chunks, then token by token, in shuffled pages.
#[test]
fn pages_written_by_rope_give_the_bits_of_packed_sequences() {
    for mut d in devices() {
        for (h, lengths, page_tokens) in [
            (heads(4, 2, 32, None), vec![70, 3, 100], 16),
            (heads(3, 1, 24, Some(20)), vec![50, 17], 48),
            (heads(2, 1, 64, None), vec![66], 64),
        ] {
            let (width, half) = (h.qkv_width(), h.head_dim / 2);
            let rows: usize = lengths.iter().sum();
            let qkv = Random(13).values(rows * width, 1.0);
            let expected = packed(&mut d, h, &lengths, &qkv);
            let needed: Vec<usize> = lengths.iter().map(|n| n.div_ceil(page_tokens)).collect();
            let total = needed.iter().sum::<usize>() + 1;
            let spec = KvSpec { layers: 2, pages: total, page_tokens, kv_width: h.kv_width() };
            let kv = d.backend.kv_pool(spec).unwrap();
            // A rotation by no angle.
            let longest = *lengths.iter().max().unwrap();
            let table =
                d.backend.load_rope(&vec![1.0; longest * half], &vec![0.0; longest * half], half).unwrap();
            let mut pages: Vec<u32> = (0..total as u32).collect();
            let mut random = Random(17);
            for i in (1..total).rev() {
                pages.swap(i, random.below(i + 1));
            }
            let starts: Vec<usize> = ranges(&lengths).iter().map(|r| r.start).collect();
            let mut at = vec![0; lengths.len()];
            while at.iter().zip(&lengths).any(|(a, n)| a < n) {
                let live: Vec<usize> = (0..lengths.len()).filter(|&s| at[s] < lengths[s]).collect();
                // All but the last six tokens in chunks of 32.
                let taken = |s: usize| 32.min(lengths[s].saturating_sub(6 + at[s])).max(1);
                let mut plan = plan(&live.iter().map(|&s| taken(s)).collect::<Vec<_>>());
                let mut input = Vec::new();
                for (sequence, &s) in plan.sequences.iter_mut().zip(&live) {
                    let rows = (sequence.end - sequence.start) as usize;
                    sequence.first_position = at[s] as u32;
                    for i in 0..rows {
                        plan.positions[sequence.start as usize + i] = (at[s] + i) as u32;
                    }
                    let before: usize = needed[..s].iter().sum();
                    sequence.pages_start = plan.page_table.len() as u32;
                    plan.page_table.extend(&pages[before..before + (at[s] + rows).div_ceil(page_tokens)]);
                    sequence.pages_end = plan.page_table.len() as u32;
                    input.extend(&qkv[(starts[s] + at[s]) * width..(starts[s] + at[s] + rows) * width]);
                }
                let x = d.upload(&input, width);
                let y = d.tensor(plan.rows(), h.q_width(), Element::Activation);
                d.run(
                    &plan,
                    [
                        Op::Rope(Rope { qkv: x, table, heads: h, kv: Some((kv, 1)) }),
                        Op::AttentionPaged(AttentionPaged { qkv: x, kv, layer: 1, heads: h, out: y }),
                    ],
                );
                let got = d.download(y, plan.rows());
                for (sequence, &s) in plan.sequences.iter().zip(&live) {
                    let rows = sequence.start as usize..sequence.end as usize;
                    let first = starts[s] + at[s];
                    let what = format!("{}: {h:?}, sequence {s} from {}", d.name, at[s]);
                    let expected = rows_of(&expected, &(first..first + rows.len()), h.q_width());
                    assert_bits(&what, rows_of(&got, &rows, h.q_width()), expected);
                    at[s] += rows.len();
                }
                d.backend.free(x);
                d.backend.free(y);
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_an_error() {
    for mut d in kernel_devices() {
        let h = heads(2, 1, 16, None);
        let spec = KvSpec { layers: 1, pages: 2, page_tokens: 16, kv_width: 16 };
        let kv = d.backend.kv_pool(spec).unwrap();
        let x = d.tensor(20, h.qkv_width(), Element::Activation);
        let y = d.tensor(20, h.q_width(), Element::Activation);
        let mut error = |plan: &BatchPlan, op: Op| {
            d.backend.begin(std::sync::Arc::new(plan.clone())).unwrap();
            d.backend.enqueue(op).unwrap_err().to_string()
        };
        let mut paged = plan(&[20]);
        paged.page_table = vec![0, 1, 7];
        paged.sequences[0].pages_end = 1;
        let op = Op::AttentionPaged(AttentionPaged { qkv: x, kv, layer: 0, heads: h, out: y });
        assert!(error(&paged, op.clone()).contains("1 pages of 16 tokens, needs 20"));
        paged.sequences[0].pages_end = 3;
        assert!(error(&paged, op.clone()).contains("page 7 of a pool of 2"));
        let other = Op::AttentionPaged(AttentionPaged { qkv: x, kv, layer: 1, heads: h, out: y });
        assert!(error(&paged, other).contains("layer 1"));
        let op = |heads| Op::AttentionPacked(AttentionPacked { qkv: x, heads, out: y });
        assert!(error(&paged, op(heads(2, 1, 12, None))).contains("multiple of 8"));
        assert!(error(&paged, op(heads(1, 1, 136, None))).contains("at most 128"));
        assert!(error(&paged, op(heads(3, 2, 16, None))).contains("multiple of"));
        assert!(error(&plan(&[21]), op(h)).contains("[>= 21"));
        paged.sequences[0].first_position = 3;
        assert!(error(&paged, op(h)).contains("first_position: 3"));
    }
}
