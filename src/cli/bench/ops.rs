//! Each operation alone, at a model's shape: its time, and what share of the device's ceilings it reaches.
//!
//! Operations and bytes are those that the formula asks for, each operand moved once; caches are
//! flushed before each run. The time is the sum of an operation's kernels, each between two events,
//! so a very short kernel looks a microsecond or two longer than it is.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::screen::Screen;
use super::{Args, align, table};
use crate::backend::*;
use crate::error::{Error, Result};
use crate::model::{GroupKind, LoadOptions, Model, Shape};

/// Rows of the training batch.
const ROWS: usize = 8192;
/// Tokens of each of its sequences.
const SEQUENCE: usize = 1024;
/// Rows that get logits at once.
const LOGIT_ROWS: usize = 256;
const PAGE: usize = 16;

/// An operation to measure.
struct Case {
    name: String,
    plan: Arc<BatchPlan>,
    op: Op,
    flop: f64,
    bytes: f64,
}

/// The buffers that cases use.
struct Buffers {
    x: Tensor,
    wide: Tensor,
    wide_out: Tensor,
    qkv: Tensor,
    dqkv: Tensor,
    heads: Tensor,
    heads_out: Tensor,
    y: Tensor,
    act: Tensor,
    shrink: Tensor,
    dshrink: Tensor,
    logits: Tensor,
    losses: Tensor,
    tokens: Tensor,
    logprobs: Tensor,
    norms: Tensor,
}

/// Measures all operations and prints the table.
pub fn measure(mut backend: Box<dyn Backend>, shape: &Shape, args: &Args, screen: &Screen) -> Result<Value> {
    let b = &mut *backend;
    let needs_gpu = |b: &dyn Backend| {
        let device = b.describe();
        Error::Unsupported(format!(
            "bench ops on {device}: it needs a GPU (`cargo bench --bench ops` measures a CPU)"
        ))
    };
    if !b.has_ceilings() {
        return Err(needs_gpu(b));
    }
    screen.line("         measuring what the device reaches at its best");
    let Some(ceilings) = b.ceilings()? else { return Err(needs_gpu(b)) };
    b.set_profiling(true)?;
    let one_layer = Shape { layers: 1, ..*shape };
    let files = one_layer.files(SEQUENCE)?;
    let config = one_layer.config(SEQUENCE)?;
    let load = LoadOptions { training: true, max_positions: None };
    let model = Model::load(&files, config, b, load)?;
    let slots = make_slots(b, &model, args)?;
    let buffers = make_buffers(b, &model, &slots, args)?;
    let kv_width = model.config().heads().kv_width();
    let pages = args.batch * SEQUENCE.div_ceil(PAGE);
    let kv = b.kv_pool(KvSpec { layers: 1, pages, page_tokens: PAGE, kv_width })?;
    let cases = cases(&model, &slots, &buffers, kv, args);
    screen.phase("ops", "operations", cases.len() as u64);
    let mut t = table(&["operation", "us", "TFLOP/s", "of best", "GB/s", "of copy"]);
    let mut values = Vec::new();
    for case in cases {
        let seconds = time(b, &case, args.repeats.max(5))?;
        let (flops, bytes) = (case.flop / seconds, case.bytes / seconds);
        let share =
            |x: f64, best: Option<f64>| best.map_or("?".into(), |b| format!("{:.0} %", 100.0 * x / b));
        t.add_row([
            case.name.clone(),
            format!("{:.1}", seconds * 1e6),
            format!("{:.2}", flops / 1e12),
            share(flops, ceilings.matmul),
            format!("{:.0}", bytes / 1e9),
            share(bytes, Some(ceilings.copy)),
        ]);
        values.push(json!({
            "name": case.name, "seconds": seconds, "flop": case.flop, "bytes": case.bytes,
        }));
        screen.advance("ops", 1);
    }
    screen.end_phase("ops");
    align(&mut t, 1);
    println!("{t}");
    let matmul = ceilings.matmul.map_or("cuBLASLt not found".into(), |m| format!("{:.0} TFLOP/s", m / 1e12));
    println!("best: matrix product {matmul}, copy {:.0} GB/s", ceilings.copy / 1e9);
    Ok(json!({
        "shape": shape.name, "adapters": args.adapters, "rank": args.rank,
        "best": json!({"matmul_flops": ceilings.matmul, "copy_bytes_per_second": ceilings.copy}),
        "operations": values,
    }))
}

/// The median of some runs after one that does not count.
fn time(b: &mut dyn Backend, case: &Case, repeats: usize) -> Result<f64> {
    let mut seconds = Vec::new();
    for run in 0..=repeats {
        b.begin(case.plan.clone())?;
        b.flush_caches()?;
        b.take_profile()?;
        b.enqueue(case.op.clone())?;
        b.submit()?;
        let time = b.take_profile()?.iter().map(OpTimes::total).sum::<f64>();
        if run > 0 {
            seconds.push(time);
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}

fn make_slots(b: &mut dyn Backend, model: &Model, args: &Args) -> Result<Vec<Slot>> {
    let part = PartSpec { rank: args.rank, scale: 1.0 };
    let layout = model.layout();
    let spec = SlotSpec { parts: layout.parts().map(|_| Some(part)).collect(), dropout: 0.0 };
    (0..args.adapters)
        .map(|i| {
            let slot = b.create_slot(&spec)?;
            for (id, _, group, part) in layout.parts() {
                for (matrix, len) in [(LoraMatrix::A, group.inputs), (LoraMatrix::B, part.outputs)] {
                    let noise = |n: usize| (mix((n + i) as u64) >> 40) as f32 / (1u64 << 29) as f32;
                    let values: Vec<f32> = (0..len * args.rank).map(noise).collect();
                    b.write_slot(slot, id, matrix, &values)?;
                }
            }
            b.attach_optimizer(slot)?;
            Ok(slot)
        })
        .collect()
}

fn make_buffers(b: &mut dyn Backend, model: &Model, slots: &[Slot], args: &Args) -> Result<Buffers> {
    let c = model.config();
    let (d, f, heads) = (c.hidden_size, c.intermediate_size, c.heads());
    let rank = padded_rank(args.rank);
    let rows = ROWS.max(args.batch);
    let mut activation = |width: usize| -> Result<Tensor> {
        let spec = TensorSpec { name: "bench", rows, width, element: Element::Activation };
        let tensor = b.tensor(spec)?;
        b.fill_noise(tensor, width * rows, Noise { seed: width as u64, scale: 1.0 })?;
        Ok(tensor)
    };
    let (x, y) = (activation(d)?, activation(d)?);
    let (wide, wide_out, act) = (activation(2 * f)?, activation(2 * f)?, activation(f)?);
    let (qkv, dqkv) = (activation(heads.qkv_width())?, activation(heads.qkv_width())?);
    let (q, q_out) = (activation(heads.q_width())?, activation(heads.q_width())?);
    let mut plain = |rows, width, element| b.tensor(TensorSpec { name: "bench", rows, width, element });
    Ok(Buffers {
        x,
        wide,
        wide_out,
        qkv,
        dqkv,
        heads: q,
        heads_out: q_out,
        y,
        act,
        shrink: plain(rows, 3 * rank, Element::F32)?,
        dshrink: plain(rows, 3 * rank, Element::F32)?,
        logits: plain(LOGIT_ROWS, c.vocab_size, Element::F32)?,
        losses: plain(rows, 2, Element::F32)?,
        tokens: plain(LOGIT_ROWS, 1, Element::U32)?,
        logprobs: plain(LOGIT_ROWS, 1, Element::F32)?,
        norms: plain(slots.len().max(1), 1, Element::F32)?,
    })
}

/// A packed batch: sequences of [`SEQUENCE`] tokens dealt to the slots in turn, or all to the base.
fn packed(slots: &[Slot], vocab: usize) -> BatchPlan {
    let mut plan = BatchPlan::default();
    let sequences = ROWS / SEQUENCE;
    for i in 0..sequences {
        let (start, end) = ((i * SEQUENCE) as u32, ((i + 1) * SEQUENCE) as u32);
        let slot = if slots.is_empty() { Slot::BASE } else { slots[i * slots.len() / sequences] };
        plan.tokens.extend((start..end).map(|t| (mix(u64::from(t)) % vocab as u64) as u32));
        plan.positions.extend(0..SEQUENCE as u32);
        plan.segments.push(Segment { slot, start, end });
        plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
    }
    plan.logit_rows = (0..LOGIT_ROWS as u32).collect();
    plan.labels =
        plan.logit_rows.iter().map(|&t| Label { token: t % vocab as u32, coefficient: 1.0 }).collect();
    plan
}

/// A decode step: `batch` rows at the end of contexts of [`SEQUENCE`] tokens in shuffled pages.
fn decode(slots: &[Slot], batch: usize, vocab: usize) -> BatchPlan {
    let mut plan = BatchPlan::default();
    let pages = SEQUENCE.div_ceil(PAGE);
    let mut order: Vec<u32> = (0..(batch * pages) as u32).collect();
    for i in (1..order.len()).rev() {
        order.swap(i, (mix(i as u64) % (i as u64 + 1)) as usize);
    }
    for i in 0..batch {
        let slot = if slots.is_empty() { Slot::BASE } else { slots[i * slots.len() / batch] };
        let (start, end) = (i as u32, i as u32 + 1);
        plan.tokens.push((mix(i as u64) % vocab as u64) as u32);
        plan.positions.push(SEQUENCE as u32 - 1);
        match plan.segments.last_mut() {
            Some(last) if last.slot == slot => last.end = end,
            _ => plan.segments.push(Segment { slot, start, end }),
        }
        let (pages_start, pages_end) = ((i * pages) as u32, ((i + 1) * pages) as u32);
        plan.sequences.push(Sequence {
            start,
            end,
            first_position: SEQUENCE as u32 - 1,
            pages_start,
            pages_end,
        });
    }
    plan.page_table = order;
    plan.logit_rows = (0..batch.min(LOGIT_ROWS) as u32).collect();
    for i in 0..plan.logit_rows.len() as u32 {
        plan.draw_rows.push(DrawRow { logit_row: i, weight: 1.0 });
        plan.draws.push(Draw {
            rows_start: i,
            rows_end: i + 1,
            key: u64::from(i),
            position: SEQUENCE as u32,
            temperature: 1.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
        });
    }
    plan
}

/// Where operations are measured: the model, the buffers, and the two batches.
struct Bench<'a> {
    model: &'a Model,
    slots: &'a [Slot],
    buffers: &'a Buffers,
    kv: KvPool,
    args: &'a Args,
    /// A training batch.
    train: Arc<BatchPlan>,
    /// A decode step.
    step: Arc<BatchPlan>,
}

fn cases(model: &Model, slots: &[Slot], buffers: &Buffers, kv: KvPool, args: &Args) -> Vec<Case> {
    let vocab = model.config().vocab_size;
    let (train, step) = (Arc::new(packed(slots, vocab)), Arc::new(decode(slots, args.batch, vocab)));
    let bench = Bench { model, slots, buffers, kv, args, train, step };
    let mut cases = bench.linears();
    // The forward that a backward case reads its shrink from came before it, and inputs are overwritten only by
    // values of the same size.
    cases.extend(bench.attention());
    cases.extend(bench.rows());
    cases.extend(bench.ends());
    cases.extend(bench.updates());
    cases
}

fn case(name: &str, plan: &Arc<BatchPlan>, op: Op, flop: f64, bytes: f64) -> Case {
    Case { name: name.into(), plan: plan.clone(), op, flop, bytes }
}

impl Bench<'_> {
    /// Linear groups, with and without adapters.
    fn linears(&self) -> Vec<Case> {
        let (t, c, layer) = (self.buffers, self.model.config(), self.model.layers()[0]);
        let (d, f, v, heads) = (c.hidden_size, c.intermediate_size, c.vocab_size, c.heads());
        let mut cases = Vec::new();
        let groups = [
            (GroupKind::Qkv, layer.qkv, t.x, t.qkv, d, heads.qkv_width(), 3),
            (GroupKind::O, layer.o, t.heads, t.y, heads.q_width(), d, 1),
            (GroupKind::GateUp, layer.gate_up, t.x, t.wide, d, 2 * f, 2),
            (GroupKind::Down, layer.down, t.act, t.y, f, d, 1),
        ];
        for (rows, phase) in [(ROWS, "train"), (self.args.batch, "decode")] {
            let plan = |slots: &[Slot]| {
                Arc::new(if phase == "train" { packed(slots, v) } else { decode(slots, self.args.batch, v) })
            };
            for (who, slots) in
                [("base".to_string(), &[][..]), (format!("{} adapters", self.slots.len()), self.slots)]
            {
                for (kind, linear, x, y, k, n, parts) in groups {
                    let rank = if slots.is_empty() { 0 } else { self.args.rank };
                    let lora = 2.0 * (rows * rank * (parts * k + n)) as f64;
                    let weights = 2.0 * (n * k + slots.len() * rank * (parts * k + n)) as f64;
                    let group = Some(kind.of(0));
                    cases.push(Case {
                        name: format!("linear {kind:?} {phase} {who}"),
                        plan: plan(slots),
                        op: Op::LinearForward(LinearForward {
                            linear,
                            group,
                            x,
                            lora_x: None,
                            shrink: Some(t.shrink),
                            residual: None,
                            y,
                        }),
                        flop: 2.0 * (rows * n * k) as f64 + lora,
                        bytes: weights + 2.0 * (rows * (n + k)) as f64,
                    });
                    if phase == "train" && !slots.is_empty() {
                        cases.push(Case {
                            name: format!("linear backward {kind:?} {who}"),
                            plan: plan(slots),
                            op: Op::LinearBackward(LinearBackward {
                                linear,
                                group,
                                x,
                                lora_x: None,
                                shrink: Some(t.shrink),
                                dy: y,
                                dshrink: Some(t.dshrink),
                                dx: Some(if k == d {
                                    if y == t.y { t.x } else { t.y }
                                } else if k == f {
                                    t.act
                                } else {
                                    t.heads_out
                                }),
                            }),
                            flop: 2.0 * (rows * n * k) as f64 + 2.0 * lora,
                            bytes: weights + 2.0 * (rows * (2 * k + n)) as f64,
                        });
                    }
                }
            }
        }
        cases
    }

    /// Attention, over packed sequences and over pages.
    fn attention(&self) -> Vec<Case> {
        let (t, heads) = (self.buffers, self.model.config().heads());
        let (batch, rows) = (self.args.batch as f64, ROWS as f64);
        let pairs = (ROWS / SEQUENCE * SEQUENCE * (SEQUENCE + 1) / 2 * heads.q_width()) as f64;
        let kv_bytes = 2.0 * 2.0 * batch * (SEQUENCE * heads.kv_width()) as f64;
        let qkv_bytes = 2.0 * rows * heads.qkv_width() as f64;
        let q_bytes = 2.0 * rows * heads.q_width() as f64;
        vec![
            case(
                "attention packed",
                &self.train,
                Op::AttentionPacked(AttentionPacked { qkv: t.qkv, heads, out: t.heads }),
                4.0 * pairs,
                qkv_bytes + q_bytes,
            ),
            case(
                "attention packed backward",
                &self.train,
                Op::AttentionPackedBackward(AttentionPackedBackward {
                    qkv: t.qkv,
                    heads,
                    out: t.heads,
                    dout: t.heads_out,
                    dqkv: t.dqkv,
                }),
                10.0 * pairs,
                2.0 * qkv_bytes + 2.0 * q_bytes,
            ),
            case(
                "attention paged",
                &self.step,
                Op::AttentionPaged(AttentionPaged { qkv: t.qkv, kv: self.kv, layer: 0, heads, out: t.heads }),
                4.0 * batch * (SEQUENCE * heads.q_width()) as f64,
                kv_bytes,
            ),
        ]
    }

    /// Operations on single rows.
    fn rows(&self) -> Vec<Case> {
        let (t, c, layer) = (self.buffers, self.model.config(), self.model.layers()[0]);
        let (d, f, heads, (_, rope, _)) = (c.hidden_size, c.intermediate_size, c.heads(), self.model.ends());
        let (batch, rows) = (self.args.batch as f64, ROWS as f64);
        let eps = c.rms_norm_eps;
        let norm = Op::RmsNorm(RmsNorm { x: t.x, weight: layer.input_norm, eps, out: t.y, gathered: false });
        let backward = Op::RmsNormBackward(RmsNormBackward {
            x: t.x,
            weight: layer.input_norm,
            eps,
            dy: t.y,
            dx: t.y,
            accumulate: false,
            gathered: false,
        });
        vec![
            case("rms_norm", &self.train, norm, 4.0 * rows * d as f64, 4.0 * rows * d as f64),
            case("rms_norm backward", &self.train, backward, 8.0 * rows * d as f64, 6.0 * rows * d as f64),
            case(
                "rope and KV write",
                &self.step,
                Op::Rope(Rope { qkv: t.qkv, table: rope, heads, kv: Some((self.kv, 0)) }),
                3.0 * batch * (heads.q_width() + heads.kv_width()) as f64,
                2.0 * batch * (2 * heads.q_width() + 5 * heads.kv_width()) as f64,
            ),
            case(
                "rope",
                &self.train,
                Op::Rope(Rope { qkv: t.qkv, table: rope, heads, kv: None }),
                3.0 * rows * (heads.q_width() + heads.kv_width()) as f64,
                4.0 * rows * (heads.q_width() + heads.kv_width()) as f64,
            ),
            case(
                "swiglu",
                &self.train,
                Op::SwiGlu(SwiGlu { gate_up: t.wide, out: t.act }),
                5.0 * rows * f as f64,
                6.0 * rows * f as f64,
            ),
            case(
                "swiglu backward",
                &self.train,
                Op::SwiGluBackward(SwiGluBackward { gate_up: t.wide, dout: t.act, dgate_up: t.wide_out }),
                12.0 * rows * f as f64,
                10.0 * rows * f as f64,
            ),
        ]
    }

    /// Embedding and lm_head.
    fn ends(&self) -> Vec<Case> {
        let (t, c) = (self.buffers, self.model.config());
        let (d, v, (embedding, _, lm_head)) = (c.hidden_size, c.vocab_size, self.model.ends());
        let rows = ROWS as f64;
        let logit_rows = LOGIT_ROWS as f64;
        let product = 2.0 * logit_rows * (d * v) as f64;
        let drawn = self.step.draws.len() as f64;
        vec![
            case(
                "embed",
                &self.train,
                Op::Embed(Embed { table: embedding, drawn: None, out: t.x }),
                0.0,
                4.0 * rows * d as f64,
            ),
            case(
                "lm_head loss and gradient",
                &self.train,
                Op::LmHeadLoss(LmHeadLoss {
                    hidden: t.x,
                    lm_head,
                    workspace: t.logits,
                    out: t.losses,
                    dhidden: Some(t.y),
                }),
                2.0 * product,
                2.0 * 2.0 * (d * v) as f64,
            ),
            case(
                "lm_head sample",
                &self.step,
                Op::LmHeadSample(LmHeadSample {
                    hidden: t.x,
                    lm_head,
                    workspace: t.logits,
                    tokens: t.tokens,
                    logprobs: t.logprobs,
                }),
                2.0 * drawn * (d * v) as f64,
                2.0 * (d * v) as f64,
            ),
        ]
    }

    /// What an optimizer step does.
    fn updates(&self) -> Vec<Case> {
        let (t, slots) = (self.buffers, self.slots);
        let numbers: f64 = self
            .model
            .layout()
            .parts()
            .map(|(_, _, group, part)| (padded_rank(self.args.rank) * (group.inputs + part.outputs)) as f64)
            .sum::<f64>()
            * slots.len() as f64;
        let steps = slots
            .iter()
            .map(|&slot| AdamWStep {
                slot,
                step: 1,
                learning_rate: 1e-5,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                max_grad_norm: 1.0,
            })
            .collect();
        vec![
            case(
                "gradient norms",
                &self.train,
                Op::GradNorms(GradNorms { slots: slots.to_vec(), out: t.norms }),
                2.0 * numbers,
                4.0 * numbers,
            ),
            case(
                "adamw",
                &self.train,
                Op::AdamW(AdamW { steps, norms: t.norms }),
                12.0 * numbers,
                34.0 * numbers,
            ),
        ]
    }
}
