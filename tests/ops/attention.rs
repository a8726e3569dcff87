//! Attention, its backward and the KV pages: against an f64 oracle, and bit for bit whatever the layout and the company.

use std::ops::Range;

use super::kernels::oracles::attention::*;
use super::support::*;
use colloquy::backend::*;

/// The rows of each sequence.
fn ranges(lengths: &[usize]) -> Vec<Range<usize>> {
    let mut row = 0;
    lengths
        .iter()
        .map(|n| {
            row += n;
            row - n..row
        })
        .collect()
}

fn packed_plan(lengths: &[usize]) -> BatchPlan {
    plan_of(&lengths.iter().map(|&n| (0, n)).collect::<Vec<_>>())
}

fn packed(threads: usize, h: Heads, lengths: &[usize], qkv: &[f32]) -> Vec<f32> {
    let mut b = cpu(threads);
    let x = upload(&mut b, qkv, h.qkv_width());
    let rows = lengths.iter().sum();
    let out = tensor(&mut b, rows, h.q_width());
    run(&mut b, &packed_plan(lengths), Op::AttentionPacked(AttentionPacked { qkv: x, heads: h, out }));
    b.download_f32(out, rows).unwrap()
}

fn backward(threads: usize, h: Heads, lengths: &[usize], qkv: &[f32], dout: &[f32]) -> Vec<f32> {
    let mut b = cpu(threads);
    let x = upload(&mut b, qkv, h.qkv_width());
    let dy = upload(&mut b, dout, h.q_width());
    let rows = lengths.iter().sum();
    let out = tensor(&mut b, rows, h.q_width());
    let dx = tensor(&mut b, rows, h.qkv_width());
    let plan = packed_plan(lengths);
    run(&mut b, &plan, Op::AttentionPacked(AttentionPacked { qkv: x, heads: h, out }));
    run(
        &mut b,
        &plan,
        Op::AttentionPackedBackward(AttentionPackedBackward { qkv: x, heads: h, out, dout: dy, dqkv: dx }),
    );
    b.download_f32(dx, rows).unwrap()
}

/// How a paged run lays out and feeds its sequences.
struct Paging {
    threads: usize,
    page_tokens: usize,
    /// Tokens of each sequence that one step takes.
    chunk: usize,
    /// Order of the pages, and spare pages between them.
    seed: u64,
    /// Sequences a step takes.
    together: usize,
}

/// Runs the sequences through pages, in layer 1 of 2, with a rotary table that turns nothing; K and V reach the pages
/// through [`Op::Rope`].
fn paged(h: Heads, lengths: &[usize], qkv: &[f32], paging: &Paging) -> Vec<f32> {
    let mut b = cpu(paging.threads);
    let width = h.qkv_width();
    let mut random = Random(paging.seed);
    let needed: Vec<usize> = lengths.iter().map(|n| n.div_ceil(paging.page_tokens)).collect();
    let total = needed.iter().sum::<usize>() + 3;
    let kv = b
        .kv_pool(KvSpec { layers: 2, pages: total, page_tokens: paging.page_tokens, kv_width: h.kv_width() })
        .unwrap();
    let longest = *lengths.iter().max().unwrap();
    let half = h.head_dim / 2;
    let table = b.load_rope(&vec![1.0; longest * half], &vec![0.0; longest * half], half).unwrap();
    let mut free: Vec<u32> = (0..total as u32).collect();
    random.shuffle(&mut free);
    let pages: Vec<Vec<u32>> = needed.iter().map(|&n| free.drain(..n).collect()).collect();
    let mut out = vec![f32::NAN; lengths.iter().sum::<usize>() * h.q_width()];
    let rows = ranges(lengths);
    let all: Vec<usize> = (0..lengths.len()).collect();
    for group in all.chunks(paging.together) {
        for first in (0..longest).step_by(paging.chunk) {
            let live: Vec<usize> = group.iter().copied().filter(|&s| lengths[s] > first).collect();
            if live.is_empty() {
                continue;
            }
            let parts: Vec<(usize, usize)> =
                live.iter().map(|&s| (first, paging.chunk.min(lengths[s] - first))).collect();
            let mut plan = plan_of(&parts);
            let mut input = vec![];
            for (i, &s) in live.iter().enumerate() {
                plan.sequences[i].pages_start = plan.page_table.len() as u32;
                let used = (first + parts[i].1).div_ceil(paging.page_tokens);
                plan.page_table.extend(&pages[s][..used]);
                plan.sequences[i].pages_end = plan.page_table.len() as u32;
                let from = (rows[s].start + first) * width;
                input.extend(&qkv[from..from + parts[i].1 * width]);
            }
            let x = upload(&mut b, &input, width);
            let y = tensor(&mut b, plan.rows(), h.q_width());
            run(&mut b, &plan, Op::Rope(Rope { qkv: x, table, heads: h, kv: Some((kv, 1)) }));
            run(&mut b, &plan, Op::AttentionPaged(AttentionPaged { qkv: x, kv, layer: 1, heads: h, out: y }));
            let result = b.download_f32(y, plan.rows()).unwrap();
            let mut result = result.chunks_exact(h.q_width());
            for (i, &s) in live.iter().enumerate() {
                for row in 0..parts[i].1 {
                    let at = (rows[s].start + first + row) * h.q_width();
                    out[at..at + h.q_width()].copy_from_slice(result.next().unwrap());
                }
            }
            b.free(x);
            b.free(y);
        }
    }
    out
}

#[test]
fn packed_attention_is_the_softmax_average() {
    let mut random = Random(1);
    let shapes =
        [(1, 1, 16), (3, 1, 24), (4, 2, 32), (9, 3, 64), (2, 2, 40), (5, 1, 8), (4, 4, 80), (6, 2, 128)];
    let windows = [None, Some(1), Some(5), Some(16), Some(17), Some(64), Some(65), Some(1000)];
    let lengths = [1, 15, 16, 17, 63, 64, 65, 130];
    for (n, &(q, kv, d)) in shapes.iter().enumerate() {
        for window in [windows[n], windows[(n + 3) % 8]] {
            let h = heads(q, kv, d, window);
            let rows: usize = lengths.iter().sum();
            let qkv = random.values(rows * h.qkv_width(), 1.5);
            let got = packed(2, h, &lengths, &qkv);
            for range in ranges(&lengths) {
                let exact = oracle(&h, &widen(&qkv[range.start * h.qkv_width()..range.end * h.qkv_width()]));
                let got = &got[range.start * h.q_width()..range.end * h.q_width()];
                assert_close(&format!("{h:?}, {} tokens", range.len()), got, &exact, 3e-6);
            }
        }
    }
}

#[test]
fn large_scores_do_not_overflow() {
    let h = heads(2, 1, 32, None);
    let qkv = Random(2).values(150 * h.qkv_width(), 30.0);
    assert_close("scale 30", &packed(1, h, &[150], &qkv), &oracle(&h, &widen(&qkv)), 2e-4);
}

#[test]
fn packed_paged_chunked_and_token_by_token_give_the_same_bits() {
    let mut random = Random(3);
    for (h, lengths) in [
        (heads(4, 2, 32, None), vec![70, 1, 130, 33]),
        (heads(3, 1, 24, Some(20)), vec![90, 47]),
        (heads(9, 3, 64, None), vec![75, 64]),
        (heads(2, 2, 16, Some(64)), vec![150, 16]),
        (heads(8, 1, 72, Some(65)), vec![140]),
    ] {
        let rows: usize = lengths.iter().sum();
        let qkv = random.values(rows * h.qkv_width(), 1.0);
        let expected = packed(1, h, &lengths, &qkv);
        assert_bits("two threads", &packed(2, h, &lengths, &qkv), &expected);
        for (range, &n) in ranges(&lengths).into_iter().zip(&lengths) {
            let alone = packed(1, h, &[n], &qkv[range.start * h.qkv_width()..range.end * h.qkv_width()]);
            assert_bits("alone", &alone, &expected[range.start * h.q_width()..range.end * h.q_width()]);
        }
        for (page_tokens, chunk, together) in
            [(16, 1000, 9), (32, 1, 9), (48, 13, 1), (16, 16, 2), (64, 64, 9), (128, 1, 1)]
        {
            let threads = 1 + chunk % 2;
            let paging = Paging { threads, page_tokens, chunk, seed: chunk as u64, together };
            let what = format!("{h:?}: pages of {page_tokens}, chunks of {chunk}, {together} together");
            assert_bits(&what, &paged(h, &lengths, &qkv, &paging), &expected);
        }
    }
}

#[test]
fn what_a_row_cannot_see_cannot_change_it() {
    for window in [None, Some(1), Some(16), Some(30)] {
        let h = heads(4, 2, 32, window);
        let lengths = [80, 50];
        let qkv = Random(4).values(130 * h.qkv_width(), 1.0);
        let clean = packed(1, h, &lengths, &qkv);
        for poisoned in [0, 15, 16, 40, 63, 64, 79] {
            let mut bad = qkv.clone();
            bad[poisoned * h.qkv_width()..(poisoned + 1) * h.qkv_width()].fill(f32::NAN);
            let sees = |row: usize| (poisoned..poisoned + window.unwrap_or(80)).contains(&row) && row < 80;
            let paging = Paging { threads: 1, page_tokens: 32, chunk: 80, seed: 5, together: 2 };
            for got in [packed(1, h, &lengths, &bad), paged(h, &lengths, &bad, &paging)] {
                for row in 0..130 {
                    let at = row * h.q_width()..(row + 1) * h.q_width();
                    if sees(row) {
                        assert!(got[at].iter().all(|x| x.is_nan()), "row {row} sees {poisoned}, {window:?}");
                    } else {
                        assert_bits(&format!("row {row}, NaN at {poisoned}"), &got[at.clone()], &clean[at]);
                    }
                }
            }
        }
    }
}

#[test]
fn backward_matches_finite_differences() {
    let mut random = Random(6);
    for (h, tokens) in
        [(heads(2, 1, 8, None), 19), (heads(1, 1, 16, Some(4)), 21), (heads(4, 2, 8, Some(17)), 18)]
    {
        let qkv = random.values(tokens * h.qkv_width(), 1.0);
        let dout = random.values(tokens * h.q_width(), 1.0);
        let loss = |x: &[f64]| oracle(&h, x).iter().zip(&dout).map(|(o, &g)| o * f64::from(g)).sum::<f64>();
        let exact = differences(&qkv, loss);
        assert_close(
            "the f64 gradient",
            &exact.iter().map(|&x| x as f32).collect::<Vec<_>>(),
            &oracle_backward(&h, &widen(&qkv), &widen(&dout)),
            1e-6,
        );
        assert_close(&format!("{h:?}"), &backward(1, h, &[tokens], &qkv, &dout), &exact, 2e-6);
    }
}

#[test]
fn backward_matches_the_oracle_and_does_not_depend_on_company_or_threads() {
    let mut random = Random(7);
    for h in [
        heads(9, 3, 64, None),
        heads(3, 1, 24, Some(1)),
        heads(4, 2, 32, Some(16)),
        heads(4, 4, 40, Some(17)),
        heads(2, 1, 128, Some(33)),
    ] {
        let lengths = [1, 16, 17, 63, 64, 65, 100];
        let rows: usize = lengths.iter().sum();
        let qkv = random.values(rows * h.qkv_width(), 1.0);
        let dout = random.values(rows * h.q_width(), 1.0);
        let got = backward(2, h, &lengths, &qkv, &dout);
        assert_bits("one thread", &backward(1, h, &lengths, &qkv, &dout), &got);
        for range in ranges(&lengths) {
            let qkv = &qkv[range.start * h.qkv_width()..range.end * h.qkv_width()];
            let dout = &dout[range.start * h.q_width()..range.end * h.q_width()];
            let got = &got[range.start * h.qkv_width()..range.end * h.qkv_width()];
            assert_bits("alone", &backward(1, h, &[range.len()], qkv, dout), got);
            let exact = oracle_backward(&h, &widen(qkv), &widen(dout));
            assert_close(&format!("{h:?}, {} tokens", range.len()), got, &exact, 5e-6);
        }
    }
}

#[test]
fn backward_of_one_sequence_is_untouched_by_nan_in_another() {
    let h = heads(4, 2, 16, None);
    let mut random = Random(8);
    let mut qkv = random.values(90 * h.qkv_width(), 1.0);
    let dout = random.values(90 * h.q_width(), 1.0);
    let clean = backward(1, h, &[40, 50], &qkv, &dout);
    qkv[..40 * h.qkv_width()].fill(f32::NAN);
    let got = backward(2, h, &[40, 50], &qkv, &dout);
    assert_bits("second sequence", &got[40 * h.qkv_width()..], &clean[40 * h.qkv_width()..]);
    // With a window, what lies a window apart inside a sequence is not connected either.
    let h = heads(2, 1, 16, Some(4));
    let mut qkv = random.values(64 * h.qkv_width(), 1.0);
    let dout = random.values(64 * h.q_width(), 1.0);
    let clean = backward(1, h, &[64], &qkv, &dout);
    qkv[20 * h.qkv_width()..21 * h.qkv_width()].fill(f32::NAN);
    let got = backward(1, h, &[64], &qkv, &dout);
    for row in 0..64 {
        let at = row * h.qkv_width()..(row + 1) * h.qkv_width();
        // Rows 20..=23 see the bad one; positions 17..=23 are seen by them.
        if (17..=23).contains(&row) {
            assert!(got[at].iter().any(|x| x.is_nan()), "row {row}");
        } else {
            assert_bits(&format!("row {row}"), &got[at.clone()], &clean[at]);
        }
    }
}

#[test]
fn copied_pages_continue_a_sequence() {
    let h = heads(4, 2, 32, None);
    let (width, half) = (h.qkv_width(), 16);
    let qkv = Random(9).values(42 * width, 1.0);
    let expected = packed(1, h, &[42], &qkv);
    let mut b = cpu(1);
    let kv = b.kv_pool(KvSpec { layers: 1, pages: 5, page_tokens: 32, kv_width: h.kv_width() }).unwrap();
    let table = b.load_rope(&[1.0; 64 * 16], &[0.0; 64 * 16], half).unwrap();
    let x = upload(&mut b, &qkv, width);
    let y = tensor(&mut b, 42, h.q_width());
    let step = |b: &mut colloquy::backend::cpu::CpuBackend,
                first: usize,
                to: usize,
                pages: &[u32],
                copies: &[PageCopy]| {
        let mut plan = plan_of(&[(first, to - first)]);
        plan.page_table = pages.to_vec();
        plan.page_copies = copies.to_vec();
        plan.sequences[0].pages_end = pages.len() as u32;
        b.upload_f32(x, &qkv[first * width..to * width]).unwrap();
        run(b, &plan, Op::CopyPages(CopyPages { kv }));
        run(b, &plan, Op::Rope(Rope { qkv: x, table, heads: h, kv: Some((kv, 0)) }));
        run(b, &plan, Op::AttentionPaged(AttentionPaged { qkv: x, kv, layer: 0, heads: h, out: y }));
        b.download_f32(y, to - first).unwrap()
    };
    // 41 tokens in pages 3 and 1; a second sequence shares page 3 and takes over the 9 tokens of page 1 in page 4.
    step(&mut b, 0, 41, &[3, 1], &[]);
    let got = step(&mut b, 41, 42, &[3, 4], &[PageCopy { from: 1, to: 4, tokens: 9 }]);
    assert_bits("after the copy", &got, &expected[41 * h.q_width()..]);
    // One token too few must be seen: page 2 was never written.
    let got = step(&mut b, 41, 42, &[3, 2], &[PageCopy { from: 1, to: 2, tokens: 8 }]);
    assert!(got.iter().all(|x| x.is_nan()), "a missing token is read as NaN");
}

#[test]
fn what_does_not_fit_is_an_error() {
    let mut b = cpu(1);
    let h = heads(2, 1, 16, None);
    let kv = b.kv_pool(KvSpec { layers: 1, pages: 2, page_tokens: 16, kv_width: 16 }).unwrap();
    let x = tensor(&mut b, 20, h.qkv_width());
    let y = tensor(&mut b, 20, h.q_width());
    let mut plan = plan_of(&[(0, 20)]);
    plan.page_table = vec![0, 1, 7];
    plan.sequences[0].pages_end = 1;
    let op = Op::AttentionPaged(AttentionPaged { qkv: x, kv, layer: 0, heads: h, out: y });
    assert!(error_of(&mut b, &plan, op.clone()).contains("1 pages of 16 tokens, needs 20"));
    plan.sequences[0].pages_end = 3;
    assert!(error_of(&mut b, &plan, op.clone()).contains("page 7 of a pool of 2"));
    plan.sequences[0].pages_end = 9;
    assert!(error_of(&mut b, &plan, op).contains("page table"));
    let op = |heads| Op::AttentionPacked(AttentionPacked { qkv: x, heads, out: y });
    assert!(error_of(&mut b, &plan, op(heads(2, 1, 12, None))).contains("multiple of 8"));
    assert!(error_of(&mut b, &plan, op(heads(3, 2, 16, None))).contains("multiple of"));
    assert!(error_of(&mut b, &plan_of(&[(3, 20)]), op(h)).contains("first_position: 3"));
    assert!(error_of(&mut b, &plan_of(&[(0, 21)]), op(h)).contains("expected Activation [>= 21"));
    assert!(b.kv_pool(KvSpec { layers: 1, pages: 2, page_tokens: 8, kv_width: 16 }).is_err());
    plan.page_copies = vec![PageCopy { from: 0, to: 1, tokens: 17 }];
    assert!(error_of(&mut b, &plan, Op::CopyPages(CopyPages { kv })).contains("17"));
}
