//! SequenceDropout through a whole model: the gradients are the slopes of the loss with the masks held.

use std::sync::Arc;

use colloquy::adapter::{Snapshot, matrices, read_peft};
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::*;
use colloquy::model::{Activations, LoadOptions, Mode, Model, ModelConfig, ModelFiles};

use crate::common::fixture;

/// A central difference in f32 against the gradient along it, relative.
const DIFFERENCE: f64 = 2e-3;

struct Setup {
    backend: CpuBackend,
    model: Model,
    acts: Activations,
    slot: Slot,
    snapshot: Snapshot,
    plan: Arc<BatchPlan>,
}

impl Setup {
    fn new() -> Self {
        let folder = fixture("llama");
        let files = ModelFiles::open(&folder).unwrap();
        let config = ModelConfig::read(&files).unwrap();
        let mut backend = CpuBackend::new(2).unwrap();
        let options = LoadOptions { training: true, ..Default::default() };
        let model = Model::load(&files, config, &mut backend, options).unwrap();
        let snapshot = read_peft(&folder.join("adapters/a"), model.layout()).unwrap();
        let slot = backend.create_slot(&snapshot.spec).unwrap();
        backend.attach_optimizer(slot).unwrap();
        let acts = Activations::new(&mut backend, &model, 64, 64, 24, 48, Mode::TrainingWithDropout).unwrap();
        let mut plan = BatchPlan::default();
        let vocabulary = model.config().vocab_size as u32;
        for (sequence, length) in [23u32, 17].into_iter().enumerate() {
            let start = plan.rows() as u32;
            plan.tokens.extend((0..length).map(|i| (i * 37 + 11 * sequence as u32) % vocabulary));
            plan.positions.extend(0..length);
            let end = start + length;
            plan.sequences.push(Sequence { start, end, first_position: 0, pages_start: 0, pages_end: 0 });
            plan.dropout.push(SequenceDropout { key: 77 + sequence as u64, rate: 0.3 });
            for row in start..end - 1 {
                plan.logit_rows.push(row);
                let token = plan.tokens[row as usize + 1];
                plan.labels.push(Label { token, coefficient: 1.0 });
            }
        }
        plan.segments.push(Segment { slot, start: 0, end: plan.rows() as u32 });
        Self { backend, model, acts, slot, snapshot, plan: Arc::new(plan) }
    }

    fn write(&mut self, weights: &[Vec<f32>]) {
        for ((part, matrix, _), values) in self.snapshot.weights.iter().zip(weights) {
            self.backend.write_slot(self.slot, *part, *matrix, values).unwrap();
        }
    }

    /// The sum of the losses; gradients are added to.
    fn loss(&mut self, dropout: bool) -> f64 {
        let mut plan = self.plan.clone();
        if !dropout {
            Arc::make_mut(&mut plan).dropout.clear();
        }
        self.backend.begin(plan.clone()).unwrap();
        self.model.forward_backward(&mut self.backend, &self.acts, dropout).unwrap();
        self.backend.submit().unwrap();
        let losses = self.backend.download_f32(self.acts.losses, plan.logit_rows.len()).unwrap();
        losses.chunks_exact(2).map(|l| f64::from(l[0])).sum()
    }
}

#[test]
fn gradients_of_every_linear_are_slopes_of_the_loss_with_the_masks_held() {
    let mut s = Setup::new();
    let weights: Vec<Vec<f32>> = s.snapshot.weights.iter().map(|m| m.2.clone()).collect();
    s.write(&weights);
    let with = s.loss(true);
    let gradients: Vec<Vec<f32>> = s
        .snapshot
        .weights
        .clone()
        .iter()
        .map(|(part, m, _)| s.backend.read_slot(s.slot, SlotRole::Gradient, *part, *m).unwrap())
        .collect();
    let without = s.loss(false);
    assert!((with - without).abs() > 0.01, "dropout changes nothing: {with}, {without}");

    let infos: Vec<String> = matrices(&s.snapshot.spec, s.model.layout())
        .map(|m| format!("{:?} of {}", m.matrix, m.module))
        .collect();
    for (i, name) in infos.iter().enumerate() {
        let norm = gradients[i].iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
        assert!(norm > 1e-3, "{name} has no gradient");
        // Far enough that f32 does not count, near enough that the loss is nearly straight: half a step of gradient descent on a loss of this size.
        let epsilon = 0.05 / norm;
        let mut at = |sign: f64| {
            let mut moved = weights.clone();
            for (w, &g) in moved[i].iter_mut().zip(&gradients[i]) {
                *w = (f64::from(*w) + sign * epsilon * f64::from(g) / norm * norm.min(1.0)) as f32;
            }
            s.write(&moved);
            s.loss(true)
        };
        let slope = (at(1.0) - at(-1.0)) / (2.0 * epsilon * norm.min(1.0));
        let error = (slope / norm - 1.0).abs();
        println!("{name}: {:.0} % of the bound", 100.0 * error / DIFFERENCE);
        assert!(error <= DIFFERENCE, "{name}: slope {slope}, gradient {norm}");
    }
}
