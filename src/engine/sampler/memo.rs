//! Completed samples, for whoever asks for the same again.

use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use super::job::JobKey;
use crate::engine::request::Sample;
use crate::engine::slots::WeightsId;

/// Most tokens remembered, prompts included (about 32 MB); the oldest samples go first.
const CAPACITY: usize = 4 << 20;

/// Completed samples by request.
#[derive(Default)]
pub struct Memo {
    samples: HashMap<Rc<JobKey>, Sample>,
    /// Oldest first; may name samples that are forgotten already.
    order: VecDeque<Rc<JobKey>>,
    by_weights: HashMap<WeightsId, Vec<Rc<JobKey>>>,
    tokens: usize,
}

impl Memo {
    pub fn get(&self, key: &JobKey) -> Option<Sample> {
        self.samples.get(key).cloned()
    }

    pub fn insert(&mut self, key: Rc<JobKey>, sample: Sample) {
        self.tokens += size(&key, &sample);
        self.order.push_back(key.clone());
        for &(weights, _) in &key.members {
            if weights != WeightsId::BASE {
                self.by_weights.entry(weights).or_default().push(key.clone());
            }
        }
        self.samples.insert(key, sample);
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
        if self.order.len() > 2 * self.samples.len() {
            self.order.retain(|key| self.samples.contains_key(key));
        }
    }

    fn remove(&mut self, key: &Rc<JobKey>) {
        if let Some(sample) = self.samples.remove(key) {
            self.tokens -= size(key, &sample);
        }
    }
}

fn size(key: &JobKey, sample: &Sample) -> usize {
    key.prompt.len() + 2 * sample.tokens.len()
}
