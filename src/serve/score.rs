//! `score`: log-probabilities of records.

use serde::Serialize;
use serde_json::Value;

use super::records::Record;
use crate::engine::Score;

/// A record's score, as it is written.
#[derive(Clone, Debug, Serialize)]
pub struct Scored {
    /// The record's.
    pub id: Value,
    /// The record's.
    pub adapter: Option<String>,
    /// The record's.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each token given those before it; none of the first.
    pub logprobs: Vec<Option<f32>>,
}

impl Scored {
    /// Of the record that has these tokens.
    pub fn new(record: &Record, tokens: &[u32], score: &Score) -> Self {
        let logprobs = std::iter::once(None).chain(score.logprobs.iter().copied().map(Some)).collect();
        Self { id: record.id.clone(), adapter: record.adapter.clone(), tokens: tokens.to_vec(), logprobs }
    }
}
