//! Every operation on lanes, on every instruction set of the machine.

use std::cell::Cell;
use std::sync::Arc;

use super::super::*;
use super::Level;

thread_local! {
    /// What [`Level::detect`] answers on this thread.
    pub static FORCED: Cell<Option<Level>> = const { Cell::new(None) };
}

/// Seeded numbers around zero.
fn values(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| (mix(mix(seed) ^ i) >> 40) as f32 / (1 << 22) as f32 - 2.0).collect()
}

/// The bits of everything that every operation on lanes computes, on one instruction set.
fn all_operations(level: Level, bf16_kv: bool) -> Vec<u32> {
    FORCED.set(Some(level));
    let heads = Heads { heads: 6, kv_heads: 2, head_dim: 40, scale: 0.16, window: Some(70) };
    let (rows, d, v) = (150, heads.qkv_width(), 301);
    let c = CpuBackend::new(1).unwrap();
    let mut c = if bf16_kv { c.with_bf16_kv() } else { c };
    let tensor = |c: &mut CpuBackend, rows: usize, width: usize, seed: u64| {
        let spec = TensorSpec { name: "t", rows, width, element: Element::Activation };
        let t = c.tensor(spec).unwrap();
        c.upload_f32(t, &values(rows * width, seed)).unwrap();
        t
    };
    let of_f32 = |c: &mut CpuBackend, rows: usize, width: usize| {
        c.tensor(TensorSpec { name: "t", rows, width, element: Element::F32 }).unwrap()
    };
    let (x, y, dy) = (tensor(&mut c, rows, d, 1), tensor(&mut c, rows, d, 2), tensor(&mut c, rows, d, 3));
    let (out, dout) = (tensor(&mut c, rows, 240, 4), tensor(&mut c, rows, 240, 5));
    let raw = tensor(&mut c, rows, 320, 17);
    let (glu, hidden) = (tensor(&mut c, rows, d / 2, 6), tensor(&mut c, 5, 16, 8));
    let (logits, loss, logprobs) = (of_f32(&mut c, 2, v), of_f32(&mut c, 5, 2), of_f32(&mut c, 40, 1));
    let tokens = c.tensor(TensorSpec { name: "t", rows: 40, width: 1, element: Element::U32 }).unwrap();
    let weight = c.load_vector(WeightView::from_f32(&values(d, 11), 1, d)).unwrap();
    let (cos, sin) = (values(rows * 20, 12), values(rows * 20, 13));
    let table = c.load_rope(&cos, &sin, 20).unwrap();
    let kv = c.kv_pool(KvSpec { layers: 1, pages: 5, page_tokens: 32, kv_width: 80 }).unwrap();
    let w = values(v * 16, 14);
    let part = [WeightView::from_f32(&w, v, 16)];
    let lm_head = c.load_linear(LinearSpec { parts: &part, bias: None, backward: true }).unwrap();
    let row = |i: u32| DrawRow { logit_row: i % 5, weight: 0.5 };
    let plan = BatchPlan {
        tokens: vec![0; rows],
        positions: (0..rows as u32).collect(),
        sequences: vec![Sequence { start: 0, end: 150, first_position: 0, pages_start: 0, pages_end: 5 }],
        page_table: vec![3, 1, 4, 0, 2],
        logit_rows: (0..5).collect(),
        labels: (0..5).map(|i| Label { token: 60 * i, coefficient: i as f32 - 1.5 }).collect(),
        draws: (0..40)
            .map(|i| Draw {
                rows_start: i,
                rows_end: i + 1 + i / 2 % 2,
                key: u64::from(i),
                position: i,
                temperature: [1.0, 0.7, 0.0][i as usize % 3],
                top_k: [0, 20][i as usize / 3 % 2],
                top_p: [1.0, 0.8][i as usize / 6 % 2],
                min_p: [0.0, 0.05, 0.3][i as usize / 12 % 3],
            })
            .collect(),
        draw_rows: (0..41).map(row).collect(),
        ..BatchPlan::default()
    };
    c.begin(Arc::new(plan)).unwrap();
    let mut bits = vec![];
    let mut run = |c: &mut CpuBackend, op: Op, result: Tensor, rows: usize| {
        c.enqueue(op).unwrap();
        bits.extend(c.download_f32(result, rows).unwrap().iter().map(|x| x.to_bits()));
    };
    let (eps, gathered) = (1e-5, false);
    run(&mut c, Op::RmsNorm(RmsNorm { x, weight, eps, out: y, gathered }), y, rows);
    let norm_backward =
        Op::RmsNormBackward(RmsNormBackward { x, weight, eps, dy, dx: y, accumulate: true, gathered });
    run(&mut c, norm_backward, y, rows);
    run(&mut c, Op::SwiGlu(SwiGlu { gate_up: x, out: glu }), glu, rows);
    run(&mut c, Op::SwiGluBackward(SwiGluBackward { gate_up: x, dout: glu, dgate_up: y }), y, rows);
    let head =
        |c: &mut CpuBackend, seed| c.load_vector(WeightView::from_f32(&values(40, seed), 1, 40)).unwrap();
    let norm = HeadNormWeights { q: head(&mut c, 15), k: head(&mut c, 16), eps };
    run(&mut c, Op::HeadNorm(HeadNorm { qkv: x, raw: Some(raw), heads, norm }), x, rows);
    run(&mut c, Op::HeadNormBackward(HeadNormBackward { raw, dqkv: dy, heads, norm }), dy, rows);
    run(&mut c, Op::Rope(Rope { qkv: x, table, heads, kv: Some((kv, 0)) }), x, rows);
    run(&mut c, Op::RopeBackward(RopeBackward { dqkv: dy, table, heads }), dy, rows);
    run(&mut c, Op::AttentionPaged(AttentionPaged { qkv: x, kv, layer: 0, heads, out }), out, rows);
    run(&mut c, Op::AttentionPacked(AttentionPacked { qkv: x, heads, out }), out, rows);
    run(
        &mut c,
        Op::AttentionPackedBackward(AttentionPackedBackward { qkv: x, heads, out, dout, dqkv: dy }),
        dy,
        rows,
    );
    run(
        &mut c,
        Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace: logits, tokens, logprobs }),
        logprobs,
        40,
    );
    let dhidden = Some(hidden);
    run(
        &mut c,
        Op::LmHeadLoss(LmHeadLoss { hidden, lm_head, workspace: logits, out: loss, dhidden }),
        loss,
        5,
    );
    bits.extend(c.download_f32(hidden, 5).unwrap().iter().map(|x| x.to_bits()));
    bits.extend(c.download_u32(tokens, 40).unwrap());
    FORCED.set(None);
    bits
}

#[test]
fn every_operation_gives_the_same_bits_on_every_instruction_set() {
    let levels = Level::all();
    for bf16_kv in [false, true] {
        let first = all_operations(levels[0], bf16_kv);
        for &level in &levels[1..] {
            let got = all_operations(level, bf16_kv);
            let wrong = got.iter().zip(&first).position(|(a, b)| a != b);
            assert!(wrong.is_none(), "{level:?} differs from the portable path at number {wrong:?}");
        }
    }
}
