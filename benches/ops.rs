//! Attention, sampling and the row operations of the CPU backend, at the sizes of a small model (9 query heads over 3
//! key/value heads of 64, a vocabulary of 49152).

use std::hint::black_box;
use std::sync::Arc;

use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::*;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const HEADS: Heads = Heads { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None };

/// Seeded numbers, uniform within three standard deviations of 1.
fn values(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    (0..n as u64).map(|i| (uniform(seed, 0, i as u32) - 0.5) * 3.46 * scale).collect()
}

fn tensor(b: &mut CpuBackend, rows: usize, width: usize, seed: u64) -> Tensor {
    let t = b.tensor(TensorSpec { name: "bench", rows, width, element: Element::Activation }).unwrap();
    b.upload_f32(t, &values(rows * width, seed, 1.0)).unwrap();
    t
}

/// Sequences of (first position, tokens), each with its own pages of 16 tokens.
fn plan(sequences: &[(usize, usize)]) -> BatchPlan {
    let mut plan = BatchPlan::default();
    for &(first, tokens) in sequences {
        let (start, pages_start) = (plan.positions.len() as u32, plan.page_table.len() as u32);
        plan.positions.extend((first..first + tokens).map(|p| p as u32));
        plan.page_table.extend(pages_start..pages_start + (first + tokens).div_ceil(16) as u32);
        plan.sequences.push(Sequence {
            start,
            end: start + tokens as u32,
            first_position: first as u32,
            pages_start,
            pages_end: plan.page_table.len() as u32,
        });
    }
    plan.tokens = vec![0; plan.positions.len()];
    plan
}

fn run(b: &mut CpuBackend, op: &Op) {
    b.enqueue(black_box(op.clone())).unwrap();
    b.submit().unwrap();
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention");
    for (rows, context) in [(24, 200), (24, 700), (256, 400)] {
        // The cache is filled by one long prefill, then every sequence decodes one row.
        let mut b = CpuBackend::new(0).unwrap();
        let pages = rows * (context + 1usize).div_ceil(16);
        let kv = b.kv_pool(KvSpec { layers: 1, pages, page_tokens: 16, kv_width: 192 }).unwrap();
        let table = b.load_rope(&vec![1.0; 1024 * 32], &vec![0.0; 1024 * 32], 32).unwrap();
        let fill = plan(&vec![(0, context + 1); rows]);
        let qkv = tensor(&mut b, fill.rows(), HEADS.qkv_width(), 1);
        b.begin(Arc::new(fill)).unwrap();
        run(&mut b, &Op::Rope(Rope { qkv, table, heads: HEADS, kv: Some((kv, 0)) }));
        let out = tensor(&mut b, rows, HEADS.q_width(), 2);
        b.begin(Arc::new(plan(&vec![(context, 1); rows]))).unwrap();
        let op = Op::AttentionPaged(AttentionPaged { qkv, kv, layer: 0, heads: HEADS, out });
        group.throughput(Throughput::Elements((rows * context) as u64));
        group.bench_function(BenchmarkId::new("decode", format!("{rows}x{context}")), |bench| {
            bench.iter(|| run(&mut b, &op));
        });
        let op = Op::Rope(Rope { qkv, table, heads: HEADS, kv: Some((kv, 0)) });
        group.bench_function(BenchmarkId::new("rope and KV write", format!("{rows}x{context}")), |bench| {
            bench.iter(|| run(&mut b, &op));
        });
    }
    for (sequences, tokens) in [(8, 100), (8, 300), (4, 700)] {
        let mut b = CpuBackend::new(0).unwrap();
        let rows = sequences * tokens;
        let qkv = tensor(&mut b, rows, HEADS.qkv_width(), 1);
        let (out, dout) =
            (tensor(&mut b, rows, HEADS.q_width(), 2), tensor(&mut b, rows, HEADS.q_width(), 3));
        let dqkv = tensor(&mut b, rows, HEADS.qkv_width(), 4);
        b.begin(Arc::new(plan(&vec![(0, tokens); sequences]))).unwrap();
        // Pairs of positions that see each other.
        group.throughput(Throughput::Elements((rows * tokens / 2) as u64));
        let forward = Op::AttentionPacked(AttentionPacked { qkv, heads: HEADS, out });
        group.bench_function(BenchmarkId::new("packed", format!("{sequences}x{tokens}")), |bench| {
            bench.iter(|| run(&mut b, &forward));
        });
        let backward =
            Op::AttentionPackedBackward(AttentionPackedBackward { qkv, heads: HEADS, out, dout, dqkv });
        group.bench_function(BenchmarkId::new("backward", format!("{sequences}x{tokens}")), |bench| {
            bench.iter(|| run(&mut b, &backward));
        });
    }
    group.finish();
}

/// The hidden width is small, so that this measures the draws and not the matrix product.
fn sample(c: &mut Criterion) {
    let (v, d, rows) = (49_152, 8, 24);
    let mut group = c.benchmark_group("lm_head_sample");
    group.throughput(Throughput::Elements(rows as u64));
    let mut b = CpuBackend::new(0).unwrap();
    let w = values(v * d, 1, 1.0);
    let part = [WeightView::from_f32(&w, v, d)];
    let lm_head = b.load_linear(LinearSpec { parts: &part, bias: None, backward: false }).unwrap();
    let hidden = tensor(&mut b, rows, d, 2);
    let mut of = |width, element| b.tensor(TensorSpec { name: "bench", rows, width, element }).unwrap();
    let (workspace, logprobs) = (of(v, Element::F32), of(1, Element::F32));
    let tokens = of(1, Element::U32);
    for (name, temperature, top_k, top_p, min_p) in [
        ("greedy", 0.0, 0, 1.0, 0.0),
        ("plain", 1.0, 0, 1.0, 0.0),
        ("top_k 50", 1.0, 50, 1.0, 0.0),
        ("top_p 0.95", 0.7, 0, 0.95, 0.0),
        ("min_p 0.1", 1.0, 0, 1.0, 0.1),
    ] {
        let plan = BatchPlan {
            logit_rows: (0..rows as u32).collect(),
            draws: (0..rows as u32)
                .map(|i| Draw {
                    rows_start: i,
                    rows_end: i + 1,
                    key: u64::from(i),
                    position: i,
                    temperature,
                    top_k,
                    top_p,
                    min_p,
                })
                .collect(),
            draw_rows: (0..rows as u32).map(|logit_row| DrawRow { logit_row, weight: 1.0 }).collect(),
            ..plan(&[(0, rows)])
        };
        b.begin(Arc::new(plan)).unwrap();
        let op = Op::LmHeadSample(LmHeadSample { hidden, lm_head, workspace, tokens, logprobs });
        group.bench_function(name, |bench| bench.iter(|| run(&mut b, &op)));
    }
    group.finish();
}

fn rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows");
    let (rows, d, f) = (256, 576, 1536);
    group.throughput(Throughput::Elements(rows as u64));
    let mut b = CpuBackend::new(0).unwrap();
    let (x, y, dy) = (tensor(&mut b, rows, d, 1), tensor(&mut b, rows, d, 2), tensor(&mut b, rows, d, 3));
    let (gate_up, glu) = (tensor(&mut b, rows, 2 * f, 4), tensor(&mut b, rows, f, 5));
    let dgate_up = tensor(&mut b, rows, 2 * f, 7);
    let weight = b.load_vector(WeightView::from_f32(&values(d, 6, 1.0), 1, d)).unwrap();
    b.begin(Arc::new(plan(&[(0, rows)]))).unwrap();
    for op in [
        Op::RmsNorm(RmsNorm { x, weight, eps: 1e-5, out: y, gathered: false }),
        Op::RmsNormBackward(RmsNormBackward {
            x,
            weight,
            eps: 1e-5,
            dy,
            dx: y,
            accumulate: false,
            gathered: false,
        }),
        Op::SwiGlu(SwiGlu { gate_up, out: glu }),
        Op::SwiGluBackward(SwiGluBackward { gate_up, dout: glu, dgate_up }),
    ] {
        group.bench_function(op.name(), |bench| bench.iter(|| run(&mut b, &op)));
    }
    group.finish();
}

criterion_group!(benches, attention, sample, rows);
criterion_main!(benches);
