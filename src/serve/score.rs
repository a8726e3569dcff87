//! `score`: log-probabilities of records.

use serde_json::{Value, json};

use super::records::Record;
use crate::engine::Score;

/// A score as it is written.
pub fn answer(record: &Record, tokens: &[u32], score: &Score) -> Value {
    let mut logprobs = vec![Value::Null];
    logprobs.extend(score.logprobs.iter().map(|l| json!(l)));
    json!({"id": record.id, "adapter": record.adapter, "tokens": tokens, "logprobs": logprobs})
}
