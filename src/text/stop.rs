//! Stop strings: watched in the text as it grows, across token boundaries and inside multi-byte characters.

use std::rc::Rc;

use tokenizers::Tokenizer;

use super::contained::contained;
use crate::engine::Watch;

/// Watches one sample for strings, none of them empty.
pub(super) fn watch(tokenizer: Rc<Tokenizer>, strings: &[String]) -> Watch {
    let mut watcher = Watcher::new(tokenizer, strings.into());
    Box::new(move |token| watcher.push(token))
}

/// `text` up to the first stop string in it.
pub fn cut_at_stop<'a>(text: &'a str, strings: &[String]) -> &'a str {
    let first = strings.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min();
    &text[..first.unwrap_or(text.len())]
}

/// A text as it is shown while it grows: a character is held back until all of its bytes are there.
#[derive(Default)]
pub struct GrowingText(String);

impl GrowingText {
    /// What to show of the text of all tokens so far. Never less than before: where characters are
    /// spelled in bytes, one that has only begun makes some decoders take back those before it,
    /// until it is complete.
    pub fn grow(&mut self, text: &str) -> &str {
        let whole = text.trim_end_matches(INCOMPLETE);
        if !self.0.starts_with(whole) {
            self.0 = whole.to_string();
        }
        &self.0
    }
}

/// What a byte-level decoder gives for a character whose bytes are not all there.
const INCOMPLETE: char = '\u{fffd}';

/// The text of tokens; none of those that the decoder cannot read.
fn text_of(tokenizer: &Tokenizer, tokens: &[u32]) -> String {
    contained(|| tokenizer.decode(tokens, true).unwrap_or_default()).unwrap_or_default()
}

/// Bytes of the longest common prefix of whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Follows one sample. Only a window of tokens is decoded again: those not yet turned into text
/// and, before them, those of the last complete text, because decoders treat a first token
/// differently.
struct Watcher {
    tokenizer: Rc<Tokenizer>,
    strings: Rc<[String]>,
    window: Vec<u32>,
    /// Tokens of `window` whose text is complete, and that text.
    complete: usize,
    complete_text: String,
    /// The end of the text so far, as long as a stop string could still begin in it.
    tail: String,
    longest: usize,
}

impl Watcher {
    fn new(tokenizer: Rc<Tokenizer>, strings: Rc<[String]>) -> Self {
        let longest = strings.iter().map(|s| s.len()).max().unwrap_or(0);
        Self {
            tokenizer,
            strings,
            window: Vec::new(),
            complete: 0,
            complete_text: String::new(),
            tail: String::new(),
            longest,
        }
    }

    fn push(&mut self, token: u32) -> bool {
        self.window.push(token);
        // Ids without text (beyond the tokenizer's vocabulary) decode to nothing.
        let text = text_of(&self.tokenizer, &self.window);
        let new = &text[common_prefix(&text, &self.complete_text)..];
        let whole = new.trim_end_matches(INCOMPLETE);
        let before = self.tail.len();
        self.tail.push_str(whole);
        if self.strings.iter().any(|s| self.tail.contains(s.as_str())) {
            return true;
        }
        if whole.len() < new.len() && self.window.len() - self.complete < 8 {
            self.tail.truncate(before); // the rest of the character is still to come
            return false;
        }
        self.tail.push_str(&new[whole.len()..]);
        let mut from = self.tail.len().saturating_sub(self.longest - 1);
        while !self.tail.is_char_boundary(from) {
            from -= 1;
        }
        self.tail.drain(..from);
        if !new.is_empty() {
            self.window.drain(..self.complete);
            self.complete = self.window.len();
            self.complete_text = text_of(&self.tokenizer, &self.window);
        }
        false
    }
}
