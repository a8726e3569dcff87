//! What callers ask of the engine and what they get back. Token ids only.

use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize};

use super::normalizer::Normalizer;
use crate::adapter::Snapshot;
use crate::error::{Error, Result};

/// An adapter as callers name it. Stays valid while its slot moves, is cloned or is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AdapterId(pub u32);

impl AdapterId {
    /// The base model.
    pub const BASE: AdapterId = AdapterId(0);
}

/// How tokens are drawn; names and meanings are OpenAI's and Hugging Face's.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplingParams {
    /// Softmax temperature; 0 is greedy.
    pub temperature: f32,
    /// Keep the k most likely tokens; 0 keeps all.
    pub top_k: u32,
    /// Keep the smallest set of tokens whose mass reaches p; 1 keeps all.
    pub top_p: f32,
    /// Of what temperature, top-k and top-p leave, keep the tokens that are at least this share as
    /// likely as the most likely one; 0 keeps all. The order is that of transformers.
    #[serde(default)]
    pub min_p: f32,
    /// At most this many new tokens.
    pub max_tokens: u32,
}

impl SamplingParams {
    /// Draws from the model's own distribution: temperature 1, nothing cut off.
    pub fn plain(max_tokens: u32) -> Self {
        Self { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, max_tokens }
    }
}

/// Strings that end a sample: the first token whose text completes one of them is the last.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stop {
    /// Names the tokenizer that gives the drawn tokens their text, [`StopRules::tokenizer`].
    pub tokenizer: u64,
    /// The strings, at least one.
    pub strings: Arc<[String]>,
}

impl Stop {
    /// Stops at any of `strings`. They are sorted, and empty or repeated ones left out, so that
    /// equal rules are equal values. Returns `None` if no string is left.
    pub fn new(tokenizer: u64, strings: &[String]) -> Option<Self> {
        let mut strings: Vec<String> = strings.iter().filter(|s| !s.is_empty()).cloned().collect();
        strings.sort();
        strings.dedup();
        (!strings.is_empty()).then(|| Self { tokenizer, strings: strings.into() })
    }
}

/// Follows one sample. It is given the next token and returns true if the sample ends with it.
pub type Watch = Box<dyn FnMut(u32) -> bool>;

/// Makes stop rules. The engine knows no text, so it is given one for each tokenizer that requests
/// name ([`Engine::add_stop_rules`](super::Engine::add_stop_rules)).
pub trait StopRules {
    /// Names the tokenizer in [`Stop::tokenizer`]. Equal ids mean equal texts.
    fn tokenizer(&self) -> u64;
    /// Starts to watch one sample for these strings.
    fn watch(&self, strings: &[String]) -> Watch;
    /// The plain form of a rule that stops at any of `strings`; `None` for none.
    fn stop(&self, strings: &[String]) -> Option<Stop> {
        Stop::new(self.tokenizer(), strings)
    }
}

/// What a sample is in a debate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SampleKind {
    /// An answer to a question alone.
    #[default]
    FirstAnswer,
    /// A summary of what others answered.
    Summary,
    /// An answer after others were read.
    LaterAnswer,
}

/// One sample to draw.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRequest {
    /// The adapter; or several with weights that sum to 1, whose distributions are mixed at every step.
    pub adapters: Vec<(AdapterId, f32)>,
    /// Prompt tokens, at least one.
    pub prompt: Arc<[u32]>,
    /// How to draw.
    pub params: SamplingParams,
    /// Identity of the draw (`engine::draw_key`): the same key, prompt and weights give the same sample, whoever asks.
    pub key: u64,
    /// The iteration that asks; 0 without iterations. It decides only how long the sample is remembered
    /// ([`Engine::forget_before`](super::Engine::forget_before)).
    pub iteration: usize,
    /// What the sample is, for those who count samples. It changes no sample.
    pub kind: SampleKind,
    /// Requests enter a batch by it, the lowest first, equal ones by arrival. It changes no sample. See
    /// [`Engine::next_priority`](super::Engine::next_priority).
    pub priority: u64,
    /// Stop strings, if any; the model's end-of-sequence tokens always stop.
    pub stop: Option<Stop>,
}

impl SampleRequest {
    /// A sample of one adapter, without stop strings.
    pub fn new(adapter: AdapterId, prompt: impl Into<Arc<[u32]>>, params: SamplingParams, key: u64) -> Self {
        let (adapters, kind) = (vec![(adapter, 1.0)], SampleKind::default());
        Self { adapters, prompt: prompt.into(), params, key, iteration: 0, kind, priority: 0, stop: None }
    }
}

/// Why a sample ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// An end-of-sequence token or a stop string.
    Stop,
    /// `max_tokens` or the model's context was reached.
    Length,
}

/// A drawn sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// New tokens, an end-of-sequence token included if one was drawn.
    pub tokens: Vec<u32>,
    /// Natural-log probability of each under the unmodified distribution (temperature 1, no truncation).
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// A sequence to score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreRequest {
    /// The adapter.
    pub adapter: AdapterId,
    /// At least one token.
    pub tokens: Arc<[u32]>,
}

/// Scores of a sequence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// For tokens 1.. : natural-log probability given those before (one fewer than tokens).
    pub logprobs: Vec<f32>,
    /// For tokens 1.. : whether it was the most likely one.
    pub is_argmax: Vec<bool>,
}

/// A stretch of a sequence to encode: the mean of its rows' hidden states after the model's final norm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbedRequest {
    /// The adapter.
    pub adapter: AdapterId,
    /// The stretch and all before it, which it sees.
    pub tokens: Arc<[u32]>,
    /// Where the stretch begins; it goes to the end and has at least one token.
    pub from: usize,
}

/// An encoded stretch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// One number for each hidden dimension: the rows' values summed in f64 in the order of the
    /// rows, divided by their number.
    pub mean: Vec<f32>,
}

/// A sequence to train on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSequence {
    /// Tokens.
    pub tokens: Vec<u32>,
    /// Weight of the loss of predicting each token; the first is never predicted. Any real number.
    pub weights: Vec<f32>,
}

/// AdamW settings of one adapter. Defaults are PyTorch's, except weight decay 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the denominator.
    pub epsilon: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Gradient norm clip; infinite for none, which is written as null.
    #[serde(deserialize_with = "infinite_if_null")]
    pub max_grad_norm: f32,
    /// What becomes of a step with a loss or a gradient norm that is not finite. Whatever it is, no
    /// such number reaches the adapter, nor another one.
    pub non_finite: NonFinite,
}

choice! {
    /// What becomes of an optimizer step with a loss or a gradient norm that is not finite.
    #[derive(Default)]
    NonFinite {
        /// The request ends with an error; the adapter stays as the step before left it.
        #[default]
        Stop = "stop",
        /// The step is left out: adapter and moments stay as they are, and the next step follows. Its
        /// [`StepMetrics::fault`] says so.
        Skip = "skip",
    }
}

/// Reads a number that may be infinite, for which JSON has null.
fn infinite_if_null<'de, D: Deserializer<'de>>(from: D) -> Result<f32, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or(f32::INFINITY))
}

impl Default for Optimizer {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            non_finite: NonFinite::Stop,
        }
    }
}

/// Some optimizer steps of one adapter. Step i minimises `Σ w·nll / Z` over its sequences, where Z
/// is given by its [`Normalizer`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainRequest {
    /// The adapter (not the base).
    pub adapter: AdapterId,
    /// What errors call it.
    pub name: Arc<str>,
    /// The data.
    pub sequences: Arc<[TrainSequence]>,
    /// The optimizer steps, in order.
    pub steps: Vec<TrainStep>,
    /// AdamW settings.
    pub optimizer: Optimizer,
    /// With the number of the optimizer step and the place in it, what the masks of an adapter with
    /// dropout are made from.
    pub key: u64,
    /// Zero the moments first; otherwise go on from where the adapter's last training stopped.
    pub fresh_moments: bool,
}

impl TrainRequest {
    /// What the loss of each step is divided by.
    ///
    /// # Errors
    ///
    /// Names the first step whose sequences are not all there or whose loss cannot be divided.
    pub fn divisors(&self) -> Result<Vec<f64>> {
        let of = |(i, step): (usize, &TrainStep)| {
            let place = || format!("training of {}, step {}", self.name, i + 1);
            let count = self.sequences.len();
            if let Some(s) = step.sequences.iter().find(|&&s| s as usize >= count) {
                return Err(Error::input(place(), format!("sequence {s} of {count}")));
            }
            let sequences = step.sequences.iter().map(|&s| &self.sequences[s as usize]);
            step.normalizer.divisor(sequences).map_err(|problem| Error::input(place(), problem))
        };
        self.steps.iter().enumerate().map(of).collect()
    }
}

/// One optimizer step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainStep {
    /// Indices into the request's sequences, in the adapter's own order.
    pub sequences: Vec<u32>,
    /// Learning rate.
    pub learning_rate: f32,
    /// What the loss is divided by.
    pub normalizer: Normalizer,
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepMetrics {
    /// 1-based, within the request.
    pub step: u32,
    /// `Σ w·nll / Z` of the step's batch before the update, which is what the step minimises.
    pub loss: f32,
    /// Gradient norm before clipping.
    pub grad_norm: f32,
    /// Learning rate used.
    pub learning_rate: f32,
    /// Tokens in the batch (with or without loss).
    pub tokens: u64,
    /// The step was left out ([`NonFinite::Skip`]); loss and gradient norm are then 0, as there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
}

/// Why a step was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// The loss of this sequence of the request is not finite.
    Loss(u32),
    /// The gradient norm is not finite.
    GradNorm,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Loss(sequence) => write!(f, "the loss of sequence {sequence} is not finite"),
            Fault::GradNorm => write!(f, "the gradient norm is not finite"),
        }
    }
}

/// Where a new adapter's numbers come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdapterSource {
    /// Numbers made or loaded elsewhere.
    Snapshot(Arc<Snapshot>),
    /// A copy of another adapter, without its optimizer state.
    Clone(AdapterId),
}

/// A stable hash of what makes a draw the draw it is: seed, iteration, purpose, question's content,
/// agent, round, sample. Not the arm, so arms that still share weights share generations. (FNV-1a
/// over length-prefixed fields, then the SplitMix64 finaliser.)
pub fn draw_key(fields: &[&[u8]]) -> u64 {
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    let mut eat = |bytes: &[u8]| {
        for &b in bytes {
            h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    for f in fields {
        eat(&(f.len() as u64).to_le_bytes());
        eat(f);
    }
    crate::backend::mix(h)
}
