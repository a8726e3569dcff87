//! Models of all families against transformers and PEFT: log-probabilities, losses, gradients and three fused optimizer steps, on the CPU backend.
//! The tests print which share of its tolerance each quantity uses (`cargo test --test model fixtures:: -- --nocapture`).

use std::sync::Arc;

use colloquy::adapter::{MatrixInfo, Snapshot, matrices, read_peft};
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::{
    AdamW, AdamWStep, Backend, BatchPlan, Draw, DrawRow, Element, GradNorms, KvSpec, Label, LoraMatrix, Op,
    Segment, Sequence, Slot, SlotRole, TensorSpec,
};
use colloquy::files::TensorFile;
use colloquy::model::{Activations, LoadOptions, Mode, Model, ModelConfig, ModelFiles};

use crate::common::fixture;

const MODELS: [&str; 7] = ["llama", "llama-tied", "llama3-rope", "mistral", "qwen2", "qwen3", "phi3"];
/// The adapters and the sequences each trains on (reference.json).
const ADAPTERS: [(&str, &[usize]); 2] = [("a", &[0, 1, 2]), ("b", &[2, 3])];

const LOGPROB_TOLERANCE: f64 = 2e-4;
const LOSS_TOLERANCE: f64 = 1e-4;
const GRADIENT_TOLERANCE: f64 = 1e-4;
const UPDATE_TOLERANCE: f64 = 1e-2;

/// The largest error of a kind, as a share of what is allowed.
struct Worst {
    what: &'static str,
    tolerance: f64,
    error: f64,
    place: String,
}

impl Worst {
    fn new(what: &'static str, tolerance: f64) -> Self {
        Self { what, tolerance, error: 0.0, place: String::new() }
    }

    fn see(&mut self, error: f64, place: impl FnOnce() -> String) {
        if error > self.error || !error.is_finite() {
            (self.error, self.place) = (error, place());
        }
    }

    fn check(&self, model: &str) {
        println!(
            "{model}: {} off by {:.2e} at most, {:.1} % of the tolerance ({})",
            self.what,
            self.error,
            100.0 * self.error / self.tolerance,
            self.place
        );
        assert!(
            self.error <= self.tolerance,
            "{model}: {} off by {:.3e} at {}",
            self.what,
            self.error,
            self.place
        );
    }
}

/// A model with both adapters in slots, and what transformers and PEFT computed.
struct Setup {
    backend: CpuBackend,
    model: Model,
    adapters: Vec<(Slot, Snapshot)>,
    sequences: Vec<Tokens>,
    reference: TensorFile,
}

struct Tokens {
    ids: Vec<u32>,
    /// For each token, whether predicting it carries loss.
    labelled: Vec<bool>,
}

impl Setup {
    fn new(name: &str) -> Self {
        let folder = fixture(name);
        let files = ModelFiles::open(&folder).unwrap();
        let config = ModelConfig::read(&files).unwrap();
        let mut backend = CpuBackend::new(2).unwrap();
        let options = LoadOptions { training: true, ..Default::default() };
        let model = Model::load(&files, config, &mut backend, options).unwrap();
        let adapters = ADAPTERS
            .iter()
            .map(|(adapter, _)| {
                let snapshot = read_peft(&folder.join("adapters").join(adapter), model.layout()).unwrap();
                let slot = backend.create_slot(&snapshot.spec).unwrap();
                for (part, matrix, values) in &snapshot.weights {
                    backend.write_slot(slot, *part, *matrix, values).unwrap();
                }
                (slot, snapshot)
            })
            .collect();
        let reference = TensorFile::open(&folder.join("reference.safetensors")).unwrap();
        let integers = |name: String| -> Vec<i64> {
            let (_, _, bytes) = reference.raw(&name).unwrap();
            bytes.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
        };
        let sequences = (0..4)
            .map(|i| {
                let ids = integers(format!("input.{i}.ids")).into_iter().map(|t| t as u32).collect();
                let labelled = integers(format!("input.{i}.labels")).into_iter().map(|l| l >= 0).collect();
                Tokens { ids, labelled }
            })
            .collect();
        Self { backend, model, adapters, sequences, reference }
    }

    fn expected(&self, name: &str) -> Vec<f32> {
        let shape = self.reference.shape(name).unwrap_or_else(|| panic!("no {name}")).to_vec();
        self.reference.values(name, &shape).unwrap()
    }

    /// Reference log-probabilities `[T, V]` in f64.
    fn log_probabilities(&self, who: &str, sequence: usize) -> Vec<Vec<f64>> {
        let logits = self.expected(&format!("{who}.logits.{sequence}"));
        logits.chunks_exact(self.model.config().vocab_size).map(log_softmax).collect()
    }

    /// Base and adapters, each with the sequences it has references for, in one batch sorted by slot.
    fn everything(&self) -> Vec<(&'static str, Slot, usize)> {
        let mut rows: Vec<_> = (0..4).map(|s| ("base", Slot::BASE, s)).collect();
        for ((name, sequences), (slot, _)) in ADAPTERS.iter().zip(&self.adapters) {
            rows.extend(sequences.iter().map(|&s| (*name, *slot, s)));
        }
        rows
    }

    fn activations(&mut self, mode: Mode) -> Activations {
        let layout = self.model.layout();
        let groups = (0..layout.groups.len()).map(|g| colloquy::backend::GroupId(g as u32));
        let width = groups
            .flat_map(|g| self.adapters.iter().map(move |(_, s)| s.spec.shrink_width(layout, g)))
            .max()
            .unwrap();
        Activations::new(&mut self.backend, &self.model, 256, 256, 24, width, mode).unwrap()
    }

    /// A packed batch of whole sequences; each row is a logit row.
    fn plan(&self, rows: &[(Slot, usize)]) -> BatchPlan {
        let mut plan = BatchPlan::default();
        for &(slot, sequence) in rows {
            let ids = &self.sequences[sequence].ids;
            let start = plan.rows() as u32;
            let end = start + ids.len() as u32;
            plan.tokens.extend(ids);
            plan.positions.extend(0..ids.len() as u32);
            plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
            match plan.segments.last_mut() {
                Some(last) if last.slot == slot => last.end = end,
                _ => plan.segments.push(Segment { slot, start, end }),
            }
        }
        plan.logit_rows = (0..plan.rows() as u32).collect();
        plan
    }
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().fold(f64::NEG_INFINITY, |m, &z| m.max(f64::from(z)));
    let lse = max + logits.iter().map(|&z| (f64::from(z) - max).exp()).sum::<f64>().ln();
    logits.iter().map(|&z| f64::from(z) - lse).collect()
}

fn argmax(values: &[f64]) -> usize {
    (0..values.len()).fold(0, |best, i| if values[i] > values[best] { i } else { best })
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

/// `|found - expected| / |expected|`.
fn relative(found: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let difference = norm(found.iter().zip(expected).map(|(f, e)| f64::from(*f) - f64::from(*e)));
    difference / norm(expected.iter().map(|e| f64::from(*e)))
}

/// PEFT's name of a parameter in memory.
fn parameter(m: &MatrixInfo<'_>) -> String {
    let matrix = if m.matrix == LoraMatrix::A { "lora_A" } else { "lora_B" };
    format!("base_model.model.{}.{matrix}.default.weight", m.module)
}

#[test]
fn log_probabilities() {
    for name in MODELS {
        let mut s = Setup::new(name);
        let v = s.model.config().vocab_size;
        let acts = s.activations(Mode::Inference);
        let everything = s.everything();
        let rows: Vec<(Slot, usize)> = everything.iter().map(|&(_, slot, seq)| (slot, seq)).collect();
        let expected: Vec<Vec<f64>> =
            everything.iter().flat_map(|&(who, _, seq)| s.log_probabilities(who, seq)).collect();
        let mut plan = s.plan(&rows);
        let mut worst = Worst::new("log-probabilities", LOGPROB_TOLERANCE);
        // A different token of every row's distribution each time.
        for k in 0..32 {
            let token = |row: usize| (row * 37 + k * (v / 32)) % v;
            plan.labels =
                (0..plan.rows()).map(|row| Label { token: token(row) as u32, coefficient: 0.0 }).collect();
            s.backend.begin(Arc::new(plan.clone())).unwrap();
            s.model.forward_score(&mut s.backend, &acts).unwrap();
            s.backend.submit().unwrap();
            let losses = s.backend.download_f32(acts.losses, plan.rows()).unwrap();
            for (row, loss) in losses.chunks_exact(2).enumerate() {
                let expected = &expected[row];
                worst.see((f64::from(-loss[0]) - expected[token(row)]).abs(), || {
                    format!("row {row}, token {}", token(row))
                });
                let best = argmax(expected);
                let tie = expected[best] - expected[token(row)] < 2.0 * LOGPROB_TOLERANCE;
                assert!(tie || loss[1] == 0.0, "row {row}: {} is not the most likely token", token(row));
            }
        }
        worst.check(name);
        acts.free(&mut s.backend);
    }
}

#[test]
fn sampling_over_pages() {
    for name in MODELS {
        let mut s = Setup::new(name);
        let config = s.model.config().clone();
        let acts = s.activations(Mode::Inference);
        let page_tokens = 16;
        let spec =
            KvSpec { layers: config.num_layers, pages: 40, page_tokens, kv_width: config.heads().kv_width() };
        let kv = s.backend.kv_pool(spec).unwrap();
        let everything = s.everything();
        let rows: Vec<(Slot, usize)> = everything.iter().map(|&(_, slot, seq)| (slot, seq)).collect();
        let mut plan = s.plan(&rows);
        // Pages in an order of their own.
        let mut next_page = 0u32;
        for sequence in &mut plan.sequences {
            sequence.pages_start = plan.page_table.len() as u32;
            for _ in 0..(sequence.end - sequence.start).div_ceil(page_tokens as u32) {
                plan.page_table.push(next_page * 7 % 40);
                next_page += 1;
            }
            sequence.pages_end = plan.page_table.len() as u32;
        }
        assert!(next_page <= 40);
        greedy_draws(&mut plan);
        let (tokens, logprobs) = sample(&mut s, &acts, kv, &plan);
        let mut worst = Worst::new("sampled log-probabilities", LOGPROB_TOLERANCE);
        let mut row = 0;
        for &(who, _, seq) in &everything {
            for expected in s.log_probabilities(who, seq) {
                let drawn = expected[tokens[row] as usize];
                assert!(expected[argmax(&expected)] - drawn < 2.0 * LOGPROB_TOLERANCE, "{who}, row {row}");
                worst.see((f64::from(logprobs[row]) - drawn).abs(), || {
                    format!("{who}, sequence {seq}, row {row}")
                });
                row += 1;
            }
        }
        worst.check(name);

        // Once more, the last sequence a token at a time: the same bits.
        let last = *plan.sequences.last().unwrap();
        let pages = plan.page_table[last.pages_start as usize..last.pages_end as usize].to_vec();
        for row in last.start..last.end {
            let position = row - last.start;
            let mut step = BatchPlan {
                tokens: vec![plan.tokens[row as usize]],
                positions: vec![position],
                segments: vec![Segment { slot: rows.last().unwrap().0, start: 0, end: 1 }],
                sequences: vec![Sequence {
                    start: 0,
                    end: 1,
                    first_position: position,
                    pages_start: 0,
                    pages_end: pages.len() as u32,
                }],
                page_table: pages.clone(),
                logit_rows: vec![0],
                ..Default::default()
            };
            greedy_draws(&mut step);
            let (token, logprob) = sample(&mut s, &acts, kv, &step);
            assert_eq!(
                (token[0], logprob[0]),
                (tokens[row as usize], logprobs[row as usize]),
                "position {position}"
            );
        }
    }
}

fn greedy_draws(plan: &mut BatchPlan) {
    for row in 0..plan.logit_rows.len() as u32 {
        let position = plan.positions[row as usize] + 1;
        plan.draws.push(Draw {
            rows_start: row,
            rows_end: row + 1,
            key: 0,
            position,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
        });
        plan.draw_rows.push(DrawRow { logit_row: row, weight: 1.0 });
    }
}

fn sample(
    s: &mut Setup,
    acts: &Activations,
    kv: colloquy::backend::KvPool,
    plan: &BatchPlan,
) -> (Vec<u32>, Vec<f32>) {
    s.backend.begin(Arc::new(plan.clone())).unwrap();
    s.model.forward_sample(&mut s.backend, acts, kv).unwrap();
    s.backend.submit().unwrap();
    let n = plan.draws.len();
    (s.backend.download_u32(acts.tokens, n).unwrap(), s.backend.download_f32(acts.logprobs, n).unwrap())
}

/// Three steps of both adapters in the same batches, each on all its sequences, against each trained alone by PEFT.
#[test]
fn three_fused_steps() {
    for name in MODELS {
        let mut s = Setup::new(name);
        let acts = s.activations(Mode::Training);
        let norms = TensorSpec { name: "norms", rows: 2, width: 1, element: Element::F32 };
        let norms = s.backend.tensor(norms).unwrap();
        let slots: Vec<Slot> = s.adapters.iter().map(|(slot, _)| *slot).collect();
        slots.iter().for_each(|&slot| s.backend.attach_optimizer(slot).unwrap());

        // One batch of both adapters' sequences, coefficients by adapter.
        let rows: Vec<(Slot, usize)> = ADAPTERS
            .iter()
            .zip(&slots)
            .flat_map(|((_, sequences), &slot)| sequences.iter().map(move |&seq| (slot, seq)))
            .collect();
        let mut plan = s.plan(&rows);
        plan.logit_rows.clear();
        let mut owners = Vec::new();
        for (&(slot, seq), packed) in rows.iter().zip(&plan.sequences) {
            let tokens = &s.sequences[seq];
            for t in 1..tokens.ids.len() {
                if tokens.labelled[t] {
                    plan.logit_rows.push(packed.start + t as u32 - 1);
                    plan.labels.push(Label { token: tokens.ids[t], coefficient: 0.0 });
                    owners.push(slot);
                }
            }
        }
        let share = |slot: Slot| 1.0 / owners.iter().filter(|o| **o == slot).count() as f32;
        plan.labels.iter_mut().zip(&owners).for_each(|(l, o)| l.coefficient = share(*o));
        let plan = Arc::new(plan);

        let mut losses = Worst::new("losses", LOSS_TOLERANCE);
        let mut grad_norms = Worst::new("gradient norms", LOSS_TOLERANCE);
        let mut gradients = Worst::new("gradients", GRADIENT_TOLERANCE);
        let mut updates = Worst::new("updates", UPDATE_TOLERANCE);
        for step in 0..3 {
            s.backend.begin(plan.clone()).unwrap();
            s.model.forward_backward(&mut s.backend, &acts, false).unwrap();
            s.backend.enqueue(Op::GradNorms(GradNorms { slots: slots.clone(), out: norms })).unwrap();
            s.backend.submit().unwrap();
            let nll = s.backend.download_f32(acts.losses, owners.len()).unwrap();
            let found_norms = s.backend.download_f32(norms, 2).unwrap();
            for (i, (adapter, _)) in ADAPTERS.iter().enumerate() {
                let mine = nll.chunks_exact(2).zip(&owners).filter(|(_, o)| **o == slots[i]);
                let loss = mine.map(|(l, _)| f64::from(l[0])).sum::<f64>() * f64::from(share(slots[i]));
                let expected = f64::from(s.expected(&format!("{adapter}.loss.step{step}"))[0]);
                losses.see((loss / expected - 1.0).abs(), || format!("{adapter}, step {step}"));
                let expected = f64::from(s.expected(&format!("{adapter}.grad_norm.step{step}"))[0]);
                let found = f64::from(found_norms[i]);
                grad_norms.see((found / expected - 1.0).abs(), || format!("{adapter}, step {step}"));
            }
            if step == 0 {
                each_matrix(&mut s, SlotRole::Gradient, |s, adapter, m, found, _| {
                    let expected = s.expected(&format!("{adapter}.grad.{}", parameter(m)));
                    gradients.see(relative(found, &expected), || format!("{adapter}, {}", parameter(m)));
                });
            }
            let adamw = |&slot: &Slot| AdamWStep {
                slot,
                step: step + 1,
                learning_rate: 0.01,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.1,
                max_grad_norm: 1.0,
            };
            s.backend.enqueue(Op::AdamW(AdamW { steps: slots.iter().map(adamw).collect(), norms })).unwrap();
            s.backend.submit().unwrap();
        }
        each_matrix(&mut s, SlotRole::Weights, |s, adapter, m, found, before| {
            let after = s.expected(&format!("{adapter}.after3.{}", parameter(m)));
            let change = |now: &[f32]| now.iter().zip(before).map(|(n, b)| n - b).collect::<Vec<f32>>();
            updates.see(relative(&change(found), &change(&after)), || format!("{adapter}, {}", parameter(m)));
        });
        for worst in [&losses, &grad_norms, &gradients, &updates] {
            worst.check(name);
        }
    }
}

/// Calls `f` with every matrix of every adapter: as it is in `role`, and as it was in the adapter's folder.
fn each_matrix(
    s: &mut Setup,
    role: SlotRole,
    mut f: impl FnMut(&Setup, &str, &MatrixInfo<'_>, &[f32], &[f32]),
) {
    let layout = s.model.layout().clone();
    for (i, (adapter, _)) in ADAPTERS.iter().enumerate() {
        let (slot, snapshot) = s.adapters[i].clone();
        for (m, (_, _, before)) in matrices(&snapshot.spec, &layout).zip(&snapshot.weights) {
            let found = s.backend.read_slot(slot, role, m.part, m.matrix).unwrap();
            f(s, adapter, &m, &found, before);
        }
    }
}
