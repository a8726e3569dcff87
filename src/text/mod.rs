//! Between text and token ids: tokenizer, chat template, stop strings.

mod bounded;
mod chat;
mod contained;
mod filters;
mod json;
mod meter;
mod pipeline;
mod python;
mod stop;
mod template;

pub use bounded::*;
pub use chat::*;
pub use stop::*;
pub use template::*;

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use crate::engine::StopRule;
use crate::error::Result;

/// A chat message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
    /// For training, on assistant turns: 0 leaves the turn's loss out. Absent means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightValue>,
}

/// A turn's weight (a number in JSON; kept as bits so that messages compare exactly).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "f32", into = "f32")]
pub struct WeightValue(u32);

impl From<f32> for WeightValue {
    fn from(v: f32) -> Self {
        Self(v.to_bits())
    }
}

impl From<WeightValue> for f32 {
    fn from(v: WeightValue) -> Self {
        f32::from_bits(v.0)
    }
}

impl Message {
    /// A user's turn.
    pub fn user(content: impl Into<String>) -> Self {
        Self { role: "user".into(), content: content.into(), weight: None }
    }
    /// The model's turn.
    pub fn assistant(content: impl Into<String>) -> Self {
        Self { role: "assistant".into(), content: content.into(), weight: None }
    }
}

/// What recipes need of a tokenizer and chat template; `ChatTokenizer` is the real one, tests have small ones.
pub trait Codec {
    /// Tokens of a conversation that waits for the assistant's next turn.
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>>;
    /// Tokens of a whole conversation and the loss weight of predicting each: assistant turns (their end token included) carry their
    /// weight, everything else 0.
    fn training(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<f32>)>;
    /// Tokens of plain text, outside any conversation.
    fn text(&self, text: &str) -> Result<Vec<u32>>;
    /// The text of generated tokens, special tokens left out.
    fn decode(&self, tokens: &[u32]) -> Result<String>;
    /// A rule that stops at any of these strings; `None` for none.
    fn stop_rule(&self, strings: &[String]) -> Option<Rc<dyn StopRule>>;
    /// Longest context in tokens.
    fn max_positions(&self) -> usize;
}
