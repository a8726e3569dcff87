//! Paged attention on pages that the test fills itself, against packed attention bit for bit.

use std::sync::Arc;

use super::emulator::Emulator;
use super::*;

/// Seeded numbers: sums of four uniforms of the SplitMix64 stream, of about unit deviation, as bf16 holds them.
fn values(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut unit = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(state) >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| half::bf16::from_f32((unit() + unit() + unit() + unit()) * 1.7).to_f32()).collect()
}

fn heads(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> Heads {
    Heads { heads, kv_heads, head_dim, scale: 1.0 / (head_dim as f32).sqrt(), window }
}

fn device(seed: u64) -> CudaBackend {
    CudaBackend::new(Box::new(Emulator::new(seed)))
}

/// One sequence a part (first position, rows), no pages.
fn plan_of(parts: &[(usize, usize)]) -> BatchPlan {
    let mut plan = BatchPlan::default();
    for &(first, rows) in parts {
        let start = plan.positions.len() as u32;
        plan.positions.extend(first as u32..(first + rows) as u32);
        plan.sequences.push(Sequence {
            start,
            end: start + rows as u32,
            first_position: first as u32,
            pages_start: 0,
            pages_end: 0,
        });
    }
    let rows = plan.positions.len();
    plan.tokens = vec![0; rows];
    plan.segments = vec![Segment { slot: Slot::BASE, start: 0, end: rows as u32 }];
    plan
}

fn activation(b: &mut CudaBackend, rows: usize, width: usize) -> Tensor {
    b.tensor(TensorSpec { name: "test", rows, width, element: Element::Activation }).unwrap()
}

fn run(b: &mut CudaBackend, plan: &BatchPlan, op: Op) {
    b.begin(Arc::new(plan.clone())).unwrap();
    b.enqueue(op).unwrap();
    b.submit().unwrap();
}

fn packed(seed: u64, h: Heads, lengths: &[usize], qkv: &[f32]) -> Vec<f32> {
    let mut b = device(seed);
    let rows = lengths.iter().sum();
    let (x, out) = (activation(&mut b, rows, h.qkv_width()), activation(&mut b, rows, h.q_width()));
    b.upload_f32(x, qkv).unwrap();
    let plan = plan_of(&lengths.iter().map(|&n| (0, n)).collect::<Vec<_>>());
    run(&mut b, &plan, Op::AttentionPacked(AttentionPacked { qkv: x, heads: h, out }));
    b.download_f32(out, rows).unwrap()
}

/// How a paged run feeds its sequences.
#[derive(Clone, Copy, Debug)]
struct Paging {
    seed: u64,
    page_tokens: usize,
    /// Rows of each sequence that one step takes; of the last `tail` rows only, those before are in the pages already.
    chunk: usize,
    tail: usize,
}

/// The last `tail` rows of each sequence over pages in a shuffled order, of layer 1 of 2; what no page of a
/// sequence holds is NaN. Rows that are not computed stay NaN.
fn paged(h: Heads, lengths: &[usize], qkv: &[f32], paging: Paging) -> Vec<f32> {
    let mut b = device(paging.seed);
    let (width, kv_width, page_tokens) = (h.qkv_width(), h.kv_width(), paging.page_tokens);
    let needed: Vec<usize> = lengths.iter().map(|n| n.div_ceil(page_tokens)).collect();
    let total = needed.iter().sum::<usize>() + 2;
    let pool = b.kv_pool(KvSpec { layers: 2, pages: total, page_tokens, kv_width }).unwrap();
    let mut order: Vec<u32> = (0..total as u32).collect();
    order.sort_by_key(|&p| mix(u64::from(p) ^ paging.seed));
    let mut left = order.into_iter();
    let pages: Vec<Vec<u32>> = needed.iter().map(|&n| left.by_ref().take(n).collect()).collect();
    let mut cache = [0, 1].map(|_| vec![half::bf16::NAN; total * page_tokens * kv_width]);
    let starts: Vec<usize> = lengths.iter().scan(0, |s, n| Some(std::mem::replace(s, *s + n))).collect();
    let mut write = |b: &mut CudaBackend, rows: &[(usize, usize, usize)]| {
        for (part, cache) in cache.iter_mut().enumerate() {
            for &(s, from, to) in rows {
                for position in from..to {
                    let at = (starts[s] + position) * width + h.q_width() + part * kv_width;
                    let place =
                        pages[s][position / page_tokens] as usize * page_tokens + position % page_tokens;
                    for i in 0..kv_width {
                        cache[place * kv_width + i] = half::bf16::from_f32(qkv[at + i]);
                    }
                }
            }
            let (keys, values) = b.kv_pools[0].as_ref().unwrap().layer(1);
            b.driver.upload(if part == 0 { keys } else { values }, bytemuck::cast_slice(cache)).unwrap();
        }
    };
    let first: Vec<usize> = lengths.iter().map(|n| n.saturating_sub(paging.tail)).collect();
    write(&mut b, &first.iter().enumerate().map(|(s, &n)| (s, 0, n)).collect::<Vec<_>>());
    let mut out = vec![f32::NAN; lengths.iter().sum::<usize>() * h.q_width()];
    let mut at = first;
    while at.iter().zip(lengths).any(|(a, n)| a < n) {
        let live: Vec<(usize, usize, usize)> = (0..lengths.len())
            .map(|s| (s, at[s], lengths[s].min(at[s] + paging.chunk)))
            .filter(|(_, a, b)| a < b)
            .collect();
        write(&mut b, &live);
        let mut plan = plan_of(&live.iter().map(|&(_, from, to)| (from, to - from)).collect::<Vec<_>>());
        let mut input = Vec::new();
        for (sequence, &(s, from, to)) in plan.sequences.iter_mut().zip(&live) {
            sequence.pages_start = plan.page_table.len() as u32;
            plan.page_table.extend(&pages[s][..to.div_ceil(page_tokens)]);
            sequence.pages_end = plan.page_table.len() as u32;
            input.extend(&qkv[(starts[s] + from) * width..(starts[s] + to) * width]);
        }
        // Only q is read.
        input.chunks_exact_mut(width).for_each(|row| row[h.q_width()..].fill(f32::NAN));
        let (x, y) = (activation(&mut b, plan.rows(), width), activation(&mut b, plan.rows(), h.q_width()));
        b.upload_f32(x, &input).unwrap();
        run(
            &mut b,
            &plan,
            Op::AttentionPaged(AttentionPaged { qkv: x, kv: pool, layer: 1, heads: h, out: y }),
        );
        let result = b.download_f32(y, plan.rows()).unwrap();
        let mut result = result.chunks_exact(h.q_width());
        for &(s, from, to) in &live {
            for row in from..to {
                let at = (starts[s] + row) * h.q_width();
                out[at..at + h.q_width()].copy_from_slice(result.next().unwrap());
            }
            at[s] = to;
        }
        b.free(x);
        b.free(y);
    }
    out
}

/// The last `tail` rows of each sequence.
fn tails(lengths: &[usize], tail: usize) -> Vec<usize> {
    let mut row = 0;
    let mut rows = Vec::new();
    for &n in lengths {
        rows.extend(row + n.saturating_sub(tail)..row + n);
        row += n;
    }
    rows
}

fn assert_rows(what: &str, h: &Heads, rows: &[usize], got: &[f32], expected: &[f32]) {
    for &row in rows {
        for i in row * h.q_width()..(row + 1) * h.q_width() {
            let (g, e) = (got[i], expected[i]);
            assert!(
                g.to_bits() == e.to_bits(),
                "{what}: row {row}, column {}: {g}, expected {e}",
                i % h.q_width()
            );
        }
    }
}

#[test]
fn pages_give_the_bits_of_packed_sequences() {
    for (n, (h, lengths)) in [
        (heads(4, 2, 32, None), vec![70, 1, 130, 33]),
        (heads(3, 1, 24, Some(20)), vec![90, 47]),
        (heads(9, 3, 64, None), vec![75, 64]),
        (heads(2, 2, 16, Some(64)), vec![150, 16]),
        (heads(8, 1, 72, Some(65)), vec![140]),
        (heads(2, 1, 128, None), vec![67]),
    ]
    .into_iter()
    .enumerate()
    {
        let rows: usize = lengths.iter().sum();
        let qkv = values(n as u64, rows * h.qkv_width());
        let expected = packed(1, h, &lengths, &qkv);
        assert!(expected.iter().all(|x| x.is_finite()));
        for (page_tokens, chunk, tail) in
            [(16, 1000, 1000), (32, 1, 20), (48, 13, 1000), (16, 16, 40), (64, 3, 12), (128, 5, 1000)]
        {
            let paging = Paging { seed: chunk as u64, page_tokens, chunk, tail };
            let got = paged(h, &lengths, &qkv, paging);
            assert_rows(&format!("{h:?}, {paging:?}"), &h, &tails(&lengths, tail), &got, &expected);
        }
    }
}

#[test]
fn splits_merge_to_the_bits_of_packed_sequences() {
    for (h, lengths) in [
        (heads(4, 2, 32, None), vec![513, 1100, 40]),
        (heads(6, 1, 24, Some(520)), vec![1061, 512]),
        (heads(2, 1, 64, Some(30)), vec![530]),
        // An odd number of heads: states that would start off 16 bytes without padding.
        (heads(9, 3, 64, None), vec![1100, 513]),
    ] {
        let rows: usize = lengths.iter().sum();
        let qkv = values(9, rows * h.qkv_width());
        let expected = packed(1, h, &lengths, &qkv);
        for (page_tokens, chunk, tail) in [(16, 1, 3), (48, 4, 22), (32, 100, 600)] {
            let paging = Paging { seed: chunk as u64, page_tokens, chunk, tail };
            let got = paged(h, &lengths, &qkv, paging);
            assert_rows(&format!("{h:?}, {paging:?}"), &h, &tails(&lengths, tail), &got, &expected);
        }
    }
}

/// NaN at one position must reach the rows that see it and leave all others byte-equal, whatever the block
/// that computes them.
#[test]
fn what_a_row_cannot_see_cannot_change_it() {
    for window in [None, Some(1), Some(16), Some(30)] {
        let h = heads(4, 2, 32, window);
        let lengths = [80, 50];
        let qkv = values(4, 130 * h.qkv_width());
        let clean = packed(1, h, &lengths, &qkv);
        for (poisoned, bad) in
            [(0, f32::NAN), (15, f32::INFINITY), (40, f32::NAN), (63, f32::NAN), (79, f32::NAN)]
        {
            let mut x = qkv.clone();
            x[poisoned * h.qkv_width()..(poisoned + 1) * h.qkv_width()].fill(bad);
            let sees = |row: usize| (poisoned..poisoned + window.unwrap_or(80)).contains(&row) && row < 80;
            let runs = [(80, 80), (4, 40), (1, 20)].map(|(chunk, tail)| {
                (paged(h, &lengths, &x, Paging { seed: 5, page_tokens: 32, chunk, tail }), tail)
            });
            for (got, tail) in [(packed(1, h, &lengths, &x), 80)].into_iter().chain(runs) {
                for row in tails(&lengths, tail) {
                    if sees(row) {
                        let got = &got[row * h.q_width()..(row + 1) * h.q_width()];
                        assert!(got.iter().all(|x| x.is_nan()), "row {row} sees {poisoned}, {window:?}");
                    } else {
                        assert_rows(&format!("{bad} at {poisoned}, {window:?}"), &h, &[row], &got, &clean);
                    }
                }
            }
        }
    }
}

#[test]
fn splits_follow_positions_only() {
    let mut plan = plan_of(&[(0, 3), (600, 2), (10, 5), (1024, 1), (511, 1), (100, 70)]);
    plan.page_table = vec![0; 200];
    for s in &mut plan.sequences {
        s.pages_end = 80;
    }
    let tiles = attention::paged_tiles(&plan);
    let narrow: Vec<[u32; 4]> =
        tiles.narrow.iter().map(|t| [t.sequence, t.rows, t.split, t.partial]).collect();
    let expected =
        [[0, 3, 0, 0], [1, 2, 0, 0], [1, 2, 1, 2], [3, 1, 0, 4], [3, 1, 1, 5], [3, 1, 2, 6], [4, 1, 0, 7]];
    assert_eq!(narrow, expected);
    assert_eq!(tiles.partials, 7);
    let wide: Vec<[u32; 3]> = tiles.wide.iter().map(|t| [t.sequence, t.row, t.rows]).collect();
    assert_eq!(wide, [[5, 40, 42], [5, 12, 28], [2, 5, 5]]);
}
