//! Completed samples, for whoever asks for the same again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use super::job::JobKey;
use crate::engine::request::Sample;
use crate::engine::slots::WeightsId;

/// Most tokens remembered, prompts included (about 32 MB); the oldest samples go first.
const CAPACITY: usize = 4 << 20;

/// Completed samples by request. Forgetting costs time when the same is asked for again, never another result.
#[derive(Default)]
pub struct Memo {
    samples: HashMap<Rc<JobKey>, Remembered>,
    /// Oldest first; may name samples that are forgotten already.
    order: VecDeque<Rc<JobKey>>,
    by_weights: HashMap<WeightsId, HashSet<Rc<JobKey>>>,
    tokens: usize,
}

struct Remembered {
    sample: Sample,
    /// The latest iteration that asked for it.
    iteration: usize,
}

impl Memo {
    /// What was drawn for a request, which `iteration` makes.
    pub fn get(&mut self, key: &JobKey, iteration: usize) -> Option<Sample> {
        let found = self.samples.get_mut(key)?;
        found.iteration = found.iteration.max(iteration);
        Some(found.sample.clone())
    }

    pub fn insert(&mut self, key: Rc<JobKey>, sample: Sample, iteration: usize) {
        self.tokens += size(&key, &sample);
        self.order.push_back(key.clone());
        for &(weights, _) in &key.members {
            if weights != WeightsId::BASE {
                self.by_weights.entry(weights).or_default().insert(key.clone());
            }
        }
        self.samples.insert(key, Remembered { sample, iteration });
        while self.tokens > CAPACITY
            && let Some(oldest) = self.order.pop_front()
        {
            self.remove(&oldest);
        }
    }

    /// Forgets what was drawn from weights that are gone.
    pub fn forget(&mut self, weights: WeightsId) {
        for key in self.by_weights.remove(&weights).unwrap_or_default() {
            self.remove(&key);
        }
        self.tidy();
    }

    /// Forgets what no iteration from this one on has asked for.
    pub fn forget_before(&mut self, iteration: usize) {
        let past = self.samples.iter().filter(|(_, found)| found.iteration < iteration);
        for key in past.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.remove(&key);
        }
        self.tidy();
        // Iterations are alike: what the largest of them took is room enough.
        self.samples.shrink_to(2 * self.samples.len());
    }

    fn tidy(&mut self) {
        if self.order.len() > 2 * self.samples.len() {
            self.order.retain(|key| self.samples.contains_key(key));
        }
    }

    fn remove(&mut self, key: &Rc<JobKey>) {
        let Some(found) = self.samples.remove(key) else { return };
        self.tokens -= size(key, &found.sample);
        for (weights, _) in &key.members {
            let now_empty = self.by_weights.get_mut(weights).is_some_and(|keys| {
                keys.remove(key);
                keys.is_empty()
            });
            if now_empty {
                self.by_weights.remove(weights);
            }
        }
    }
}

fn size(key: &JobKey, sample: &Sample) -> usize {
    key.prompt.len() + 2 * sample.tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::{AdapterId, Finish, SampleRequest, SamplingParams};

    fn key(weights: u64, draw: u64) -> Rc<JobKey> {
        let request = SampleRequest::new(AdapterId::BASE, [1, 2, 3], SamplingParams::plain(4), draw);
        Rc::new(JobKey::new(&request, &[(WeightsId(weights), 1.0)]))
    }

    fn sample(length: usize) -> Sample {
        Sample { tokens: vec![7; length], logprobs: vec![-0.5; length], finish: Finish::Stop }
    }

    fn is_empty(memo: &Memo) -> bool {
        memo.samples.is_empty() && memo.order.is_empty() && memo.by_weights.is_empty() && memo.tokens == 0
    }

    #[test]
    fn what_an_iteration_asked_for_is_forgotten_after_it() {
        let mut memo = Memo::default();
        for iteration in 0..4 {
            // The base's and an adapter's.
            memo.insert(key(0, iteration), sample(3), iteration as usize);
            memo.insert(key(9, iteration), sample(5), iteration as usize);
        }
        // Asked for again later: kept as long as what is drawn then.
        assert_eq!(memo.get(&key(0, 0), 2), Some(sample(3)));
        assert_eq!(memo.get(&key(0, 3), 1), Some(sample(3)));
        memo.forget_before(2);
        let left = |memo: &mut Memo, weights| {
            (0..4).filter(|&draw| memo.get(&key(weights, draw), 0).is_some()).collect::<Vec<_>>()
        };
        assert_eq!((left(&mut memo, 0), left(&mut memo, 9)), (vec![0, 2, 3], vec![2, 3]));
        assert_eq!(memo.tokens, 3 * (3 + 6) + 2 * (3 + 10));
        memo.forget(WeightsId(9));
        assert_eq!((left(&mut memo, 0), left(&mut memo, 9)), (vec![0, 2, 3], vec![]));
        memo.forget_before(4);
        assert!(is_empty(&memo));
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let mut memo = Memo::default();
        let each = CAPACITY / 8;
        for draw in 0..20 {
            memo.insert(key(9, draw), sample(each / 2), 0);
            assert!(memo.tokens <= CAPACITY);
        }
        assert!(memo.get(&key(9, 19), 0).is_some() && memo.get(&key(9, 0), 0).is_none());
        // Nothing of what went is kept by the weights it was drawn from.
        assert_eq!(memo.by_weights[&WeightsId(9)].len(), memo.samples.len());
        memo.forget(WeightsId(9));
        assert!(is_empty(&memo));
    }
}
