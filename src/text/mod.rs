//! Between text and token ids: tokenizer, chat template, stop strings.

mod bounded;
mod chat;
mod contained;
mod filters;
mod json;
mod message;
mod meter;
mod pipeline;
mod python;
mod special;
mod stop;
mod template;

pub use bounded::*;
pub use chat::*;
pub use message::*;
pub use stop::*;
pub use template::*;

use std::rc::Rc;

use crate::engine::StopRule;
use crate::error::Result;

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
