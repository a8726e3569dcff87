//! Between text and token ids: tokenizer, chat template, stop strings.

mod bounded;
mod chat;
mod contained;
mod encoder;
mod filters;
mod json;
mod message;
mod meter;
mod pipeline;
mod python;
mod quoted;
mod room;
mod special;
mod stop;
mod template;
mod turns;

pub use bounded::*;
pub use chat::*;
pub use message::*;
pub use quoted::Reading;
pub use stop::*;
pub use template::*;

use crate::engine::StopRules;
use crate::error::Result;

/// What recipes need of a tokenizer and chat template; `ChatTokenizer` is the real one, tests have small ones.
pub trait Codec: StopRules {
    /// Tokens of a conversation that waits for the assistant's next turn. Nothing in a message is a
    /// control token, whatever it looks like.
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>>;
    /// Tokens of a whole conversation and the loss weight of predicting each: assistant turns
    /// (their end token included) carry their weight, everything else 0.
    fn training(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<f32>)>;
    /// Tokens of plain text of our own, outside any conversation; of any length.
    fn text(&self, text: &str) -> Result<Vec<u32>>;
    /// The text of generated tokens, special tokens left out.
    fn decode(&self, tokens: &[u32]) -> Result<String>;
    /// Names the chat template in errors.
    fn template_place(&self) -> String {
        "the chat template".into()
    }
    /// Longest context in tokens.
    fn max_positions(&self) -> usize;
}
