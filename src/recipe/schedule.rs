//! The optimizer steps of one adapter in one iteration: batches by epoch, and a learning rate for each.

use std::f64::consts::PI;

use super::{Scheduler, Training};
use crate::engine::TrainStep;
use crate::measure::Chance;

/// Steps over `count` sequences: every epoch takes each once, shuffled by `key` if so set; the last batch of an epoch may be smaller.
pub fn steps(count: usize, training: &Training, key: u64) -> Vec<TrainStep> {
    let section = &training.section;
    let batch = if section.batch_size == 0 { count } else { section.batch_size }.max(1);
    let mut chance = Chance::new(key);
    let mut batches: Vec<Vec<u32>> = Vec::new();
    for _ in 0..section.num_epochs {
        let mut order: Vec<u32> = (0..count as u32).collect();
        if section.shuffle {
            chance.shuffle(&mut order);
        }
        batches.extend(order.chunks(batch).map(<[u32]>::to_vec));
    }
    let total = batches.len();
    let rate = |step| learning_rate(training, step, total);
    batches
        .into_iter()
        .enumerate()
        .map(|(step, sequences)| TrainStep { sequences, learning_rate: rate(step) })
        .collect()
}

/// The rate of 0-based `step` of `total`, as Hugging Face's schedulers have it: the warm-up rises from 0, the decay reaches
/// 0 after the last step.
fn learning_rate(training: &Training, step: usize, total: usize) -> f32 {
    let peak = f64::from(training.section.learning_rate);
    // The shortest decimal, not the nearest binary: a ratio of 0.1 over 10 steps is one step.
    let ratio: f64 = training.section.warmup_ratio.to_string().parse().unwrap_or(0.0);
    let warmup = (ratio * total as f64).ceil() as usize;
    let share = if step < warmup {
        step as f64 / warmup as f64
    } else {
        let progress = (step - warmup) as f64 / (total - warmup).max(1) as f64;
        match training.scheduler {
            Scheduler::Constant => 1.0,
            Scheduler::Linear => 1.0 - progress,
            Scheduler::Cosine => 0.5 * (1.0 + (PI * progress).cos()),
        }
    };
    (peak * share) as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::TrainingSection;

    fn training(edit: impl FnOnce(&mut TrainingSection)) -> Training {
        let mut section = TrainingSection { learning_rate: 1.0, ..TrainingSection::default() };
        edit(&mut section);
        Training::of_generators(&section).unwrap()
    }

    fn rates(scheduler: &str, warmup: f32, total: usize) -> Vec<f32> {
        let t = training(|s| {
            (s.lr_scheduler, s.warmup_ratio) = (scheduler.into(), warmup);
            (s.num_epochs, s.batch_size) = (1, 1);
        });
        steps(total, &t, 0).iter().map(|s| s.learning_rate).collect()
    }

    #[test]
    fn schedules_are_hugging_faces() {
        assert_eq!(rates("constant", 0.0, 3), [1.0, 1.0, 1.0]);
        assert_eq!(rates("constant", 0.5, 4), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(rates("linear", 0.0, 4), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates("linear", 0.2, 6), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates("linear", 0.1, 10)[..3], [0.0, 1.0, (8.0f64 / 9.0) as f32]);
        let cosine = rates("cosine", 0.0, 4);
        for (rate, expected) in cosine.iter().zip([1.0, 0.853_553_4, 0.5, 0.146_446_6]) {
            assert!((rate - expected).abs() < 1e-6, "{cosine:?}");
        }
        assert_eq!(rates("linear", 1.0, 2), [0.0, 0.5]);
    }

    #[test]
    fn epochs_take_every_sequence_once() {
        let t = training(|s| (s.num_epochs, s.batch_size) = (3, 4));
        let steps_of = |key| steps(10, &t, key);
        let all = steps_of(1);
        assert_eq!(all.iter().map(|s| s.sequences.len()).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2, 4, 4, 2]);
        let mut orders = Vec::new();
        for epoch in all.chunks(3) {
            let order: Vec<u32> = epoch.iter().flat_map(|s| s.sequences.clone()).collect();
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..10).collect::<Vec<_>>());
            orders.push(order);
        }
        assert!(orders[0] != orders[1] && orders[1] != orders[2]);
        assert_eq!(all, steps_of(1));
        assert_ne!(all, steps_of(2));
    }

    #[test]
    fn batch_size_zero_is_all_and_no_shuffle_keeps_order() {
        let t = training(|s| (s.num_epochs, s.batch_size, s.shuffle) = (2, 0, false));
        let all = steps(3, &t, 1);
        assert_eq!(all.len(), 2);
        assert!(all.iter().all(|s| s.sequences == [0, 1, 2]));
        assert!(steps(0, &t, 1).is_empty());
    }
}
