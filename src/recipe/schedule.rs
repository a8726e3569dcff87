//! The optimizer steps of one adapter in one iteration: batches by epoch, and a learning rate for each.

use std::f64::consts::PI;

use super::Training;
use crate::engine::TrainStep;
use crate::measure::Chance;
use crate::run::Scheduler;

/// Steps over `count` sequences: every epoch takes each once, shuffled by `key` if so set; the last batch of an epoch may be smaller.
pub fn steps(count: usize, training: &Training, key: u64) -> Vec<TrainStep> {
    let mut passes = Passes::new(count, training, key);
    let orders = (0..training.section.num_epochs).map(|_| passes.next_order()).collect();
    passes.steps(orders)
}

/// Steps over sequences of these lengths until at least `target` tokens have been in a batch: as many passes as that takes, the last one
/// ended after the sequence that reaches it. Not one step without data.
pub fn steps_for_tokens(lengths: &[u64], target: u64, training: &Training, key: u64) -> Vec<TrainStep> {
    let mut passes = Passes::new(lengths.len(), training, key);
    let mut orders = Vec::new();
    let mut left = if lengths.iter().sum::<u64>() == 0 { 0 } else { target };
    while left > 0 {
        let mut order = passes.next_order();
        let mut taken = 0;
        while left > 0 && taken < order.len() {
            left = left.saturating_sub(lengths[order[taken] as usize]);
            taken += 1;
        }
        order.truncate(taken);
        orders.push(order);
    }
    passes.steps(orders)
}

/// Orders of passes over the data, and the steps they make.
struct Passes<'t> {
    count: usize,
    training: &'t Training,
    chance: Chance,
}

impl<'t> Passes<'t> {
    fn new(count: usize, training: &'t Training, key: u64) -> Self {
        Self { count, training, chance: Chance::new(key) }
    }

    fn next_order(&mut self) -> Vec<u32> {
        let mut order: Vec<u32> = (0..self.count as u32).collect();
        if self.training.section.shuffle {
            self.chance.shuffle(&mut order);
        }
        order
    }

    fn steps(&self, orders: Vec<Vec<u32>>) -> Vec<TrainStep> {
        let batch_size = self.training.section.batch_size;
        let batch = if batch_size == 0 { self.count } else { batch_size }.max(1);
        let batches: Vec<&[u32]> = orders.iter().flat_map(|order| order.chunks(batch)).collect();
        let total = batches.len();
        let step = |(i, sequences): (usize, &&[u32])| TrainStep {
            sequences: sequences.to_vec(),
            learning_rate: learning_rate(self.training, i, total),
            normalizer: self.training.normalizer,
        };
        batches.iter().enumerate().map(step).collect()
    }
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
        match training.section.lr_scheduler {
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

    fn rates(scheduler: Scheduler, warmup: f32, total: usize) -> Vec<f32> {
        let t = training(|s| {
            (s.lr_scheduler, s.warmup_ratio) = (scheduler, warmup);
            (s.num_epochs, s.batch_size) = (1, 1);
        });
        steps(total, &t, 0).iter().map(|s| s.learning_rate).collect()
    }

    #[test]
    fn schedules_are_hugging_faces() {
        assert_eq!(rates(Scheduler::Constant, 0.0, 3), [1.0, 1.0, 1.0]);
        assert_eq!(rates(Scheduler::Constant, 0.5, 4), [0.0, 0.5, 1.0, 1.0]);
        assert_eq!(rates(Scheduler::Linear, 0.0, 4), [1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(Scheduler::Linear, 0.2, 6), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(Scheduler::Linear, 0.1, 10)[..3], [0.0, 1.0, (8.0f64 / 9.0) as f32]);
        let cosine = rates(Scheduler::Cosine, 0.0, 4);
        for (rate, expected) in cosine.iter().zip([1.0, 0.853_553_4, 0.5, 0.146_446_6]) {
            assert!((rate - expected).abs() < 1e-6, "{cosine:?}");
        }
        assert_eq!(rates(Scheduler::Linear, 1.0, 2), [0.0, 0.5]);
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
    fn passes_end_with_the_sequence_that_reaches_the_target() {
        let t = training(|s| (s.batch_size, s.lr_scheduler) = (2, Scheduler::Linear));
        let lengths = [10, 20, 30, 40, 50];
        let taken = |target: u64| {
            let steps = steps_for_tokens(&lengths, target, &t, 3);
            let tokens = |s: &TrainStep| s.sequences.iter().map(|&i| lengths[i as usize]).sum::<u64>();
            (steps.iter().map(tokens).sum::<u64>(), steps)
        };
        for target in 1..700 {
            let (tokens, all) = taken(target);
            let last = lengths[*all.last().unwrap().sequences.last().unwrap() as usize];
            assert!(tokens >= target && tokens - last < target, "{target}: {tokens}");
            assert_eq!(all[0].learning_rate, 1.0);
            let expected = 1.0 / all.len() as f32;
            assert!((all.last().unwrap().learning_rate - expected).abs() < 1e-6, "the rate reaches its end");
        }
        // Two whole passes are two epochs.
        let two = training(|s| (s.batch_size, s.num_epochs, s.lr_scheduler) = (2, 2, Scheduler::Linear));
        assert_eq!(taken(300).1, steps(5, &two, 3));
        assert_eq!(taken(301).1.len(), 7);
        assert_eq!(taken(301).1[6].sequences.len(), 1);
        assert!(taken(0).1.is_empty() && steps_for_tokens(&[], 10, &t, 3).is_empty());
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
