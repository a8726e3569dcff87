//! `generate`: continuations of records.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::records::Record;
use super::tokens::Purpose;
use crate::engine::{Finish, Sample, SampleKind, SampleRequest, SamplingParams, StopRules, draw_key};
use crate::error::Result;
use crate::experiment::Session;
use crate::text::{ChatTokenizer, Codec, cut_at_stop};

/// Fields of a record beyond those that every command knows.
pub const FIELDS: [&str; 9] =
    ["max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed", "key", "stop"];

/// Most samples of one record.
const MAX_SAMPLES: u32 = 10_000;

/// What a record asks for beyond its prompt.
pub struct Wishes {
    params: SamplingParams,
    /// Samples.
    pub n: u32,
    seed: u64,
    key: Option<u64>,
    stop: Vec<String>,
}

/// Reads them; `defaults` hold where the record does not say.
pub fn wishes(record: &Record, defaults: SamplingParams, seed: u64) -> Result<Wishes> {
    let params = SamplingParams {
        temperature: record.field("temperature", "a number")?.unwrap_or(defaults.temperature),
        top_k: record.field("top_k", "a whole number")?.unwrap_or(defaults.top_k),
        top_p: record.field("top_p", "a number")?.unwrap_or(defaults.top_p),
        min_p: record.field("min_p", "a number")?.unwrap_or(defaults.min_p),
        max_tokens: record.field("max_tokens", "a whole number")?.unwrap_or(defaults.max_tokens),
    };
    if !(params.temperature >= 0.0 && params.temperature.is_finite()) {
        return Err(
            record.error("temperature", format!("found {}, expected a number >= 0", params.temperature))
        );
    }
    if !(params.top_p > 0.0 && params.top_p <= 1.0) {
        return Err(record.error("top_p", format!("found {}, expected a number > 0 and <= 1", params.top_p)));
    }
    if !(0.0..=1.0).contains(&params.min_p) {
        return Err(record.error("min_p", format!("found {}, expected a number from 0 to 1", params.min_p)));
    }
    if params.max_tokens == 0 {
        return Err(record.error("max_tokens", "found 0, expected at least 1"));
    }
    let n = record.field("n", "a whole number")?.unwrap_or(1);
    if n == 0 {
        return Err(record.error("n", "found 0, expected at least 1"));
    }
    if n > MAX_SAMPLES {
        return Err(
            record.error("n", format!("found {n}, expected at most {MAX_SAMPLES} samples of a record"))
        );
    }
    let stop = match record.field::<Value>("stop", "a string or an array of strings")? {
        None => vec![],
        Some(Value::String(s)) => vec![s],
        Some(_) => record.field("stop", "a string or an array of strings")?.unwrap_or_default(),
    };
    if stop.iter().any(String::is_empty) {
        return Err(record.error("stop", "found an empty string"));
    }
    let key = record.field("key", "a whole number")?;
    if key.is_some() && (n != 1 || record.field::<Value>("seed", "")?.is_some()) {
        return Err(record.error("key", "found `seed` or `n` beside it, expected it alone: it is one draw"));
    }
    let seed = record.field("seed", "a whole number")?.unwrap_or(seed);
    Ok(Wishes { params, n, seed, key, stop })
}

/// A record's samples, as the engine takes them.
pub fn requests(session: &Session, record: &Record, wishes: &Wishes) -> Result<Vec<SampleRequest>> {
    let (prompt, _) = session.tokens(record, Purpose::Continue)?;
    let prompt: Arc<[u32]> = Arc::from(prompt);
    let adapter = session.adapter_of(record)?;
    let stop = match wishes.stop.is_empty() {
        true => None,
        false => session.codec(&format!("{}: stop", record.place))?.stop(&wishes.stop),
    };
    let key = |index: u32| match wishes.key {
        Some(key) => key,
        None => draw_key(&[&wishes.seed.to_le_bytes(), b"generate", &index.to_le_bytes()]),
    };
    let request = |index| SampleRequest {
        adapters: vec![(adapter, 1.0)],
        prompt: prompt.clone(),
        params: wishes.params,
        key: key(index),
        iteration: 0,
        kind: SampleKind::default(),
        priority: 0,
        stop: stop.clone(),
    };
    Ok((0..wishes.n).map(request).collect())
}

/// A sample of a record, as it is written.
#[derive(Clone, Debug, Serialize)]
pub struct Continued {
    /// The record's.
    pub id: Value,
    /// The record's.
    pub adapter: Option<String>,
    /// Which of the record's samples, from 0.
    pub index: usize,
    /// Up to the stop string that ended it; none without a tokenizer.
    pub text: Option<String>,
    /// All that were drawn, those of the stop string too.
    pub tokens: Vec<u32>,
    /// Natural-log probabilities of the unmodified distribution.
    pub logprobs: Vec<f32>,
    /// `stop` or `length`.
    pub finish_reason: &'static str,
    /// The prompt, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens: Option<Vec<u32>>,
}

impl Continued {
    /// Sample `index` of a record.
    pub fn new(
        record: &Record,
        wishes: &Wishes,
        index: usize,
        sample: Sample,
        tokenizer: Option<&ChatTokenizer>,
    ) -> Result<Self> {
        let text = tokenizer.map(|t| t.decode(&sample.tokens)).transpose()?;
        let (text, finish_reason) = match sample.finish {
            Finish::Stop => (text.map(|text| cut_at_stop(&text, &wishes.stop).to_string()), "stop"),
            Finish::Length => (text, "length"),
        };
        let Sample { tokens, logprobs, .. } = sample;
        let (id, adapter) = (record.id.clone(), record.adapter.clone());
        Ok(Self { id, adapter, index, text, tokens, logprobs, finish_reason, prompt_tokens: None })
    }
}
