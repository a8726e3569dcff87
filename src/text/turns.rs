//! Where an assistant's turns are in a conversation, and which of its tokens carry a loss.
//!
//! The tokens are those of the conversation as the template renders it whole. A turn begins where
//! the prompt for it ends. Where the whole conversation does not begin with that prompt (there is
//! none for a first message; DeepSeek-R1's ends with text that the turn lacks), the turn begins
//! where its content does. Its loss reaches up to its first end-of-sequence token: what the
//! template puts after that (a line break, say) is never generated.
//!
//! A template may close a conversation with more than it puts between turns, as Phi-3's does; one
//! that renders an earlier turn in another way than the last one, as Qwen3's does with thoughts,
//! gives no loss to any turn but the last.

use super::Message;
use super::encoder::Marked;
use super::quoted::Conversation;
use crate::error::{Error, Result};

/// A conversation to be tokenized.
pub struct Turns<'a> {
    /// How it is rendered.
    pub talk: Conversation<'a>,
    /// Tokens that end a sequence.
    pub ends: &'a [u32],
}

/// A conversation so far.
#[derive(Clone, Default)]
struct Rendered {
    text: String,
    tokens: Vec<u32>,
}

/// A turn with a loss: where it begins, the tokens up to its end, its weight.
struct Span {
    message: usize,
    start: usize,
    tokens: Vec<u32>,
    weight: f32,
}

impl Turns<'_> {
    /// Tokens of a whole conversation and the loss weight of each. Without `needs_losses` a turn
    /// that cannot be found has none; with it that is an error, unless its weight is 0.
    pub fn tokens(&self, messages: &[Message], needs_losses: bool) -> Result<(Vec<u32>, Vec<f32>)> {
        let whole = self.talk.render(messages, false)?;
        let mut sequence = Rendered::default();
        let mut spans = Vec::new();
        for (i, message) in messages.iter().enumerate().filter(|(_, m)| m.role == "assistant") {
            match self.turn(messages, i, &whole, &mut sequence) {
                Ok(span) => spans.push(span),
                Err(_) if !needs_losses || message.weight.is_some_and(|w| f32::from(w) == 0.0) => {}
                Err(e) => return Err(e),
            }
        }
        self.extend(&mut sequence, &whole)?;
        let mut weights = vec![0.0; sequence.tokens.len()];
        for Span { message, start, tokens, weight } in spans {
            if sequence.tokens.starts_with(&tokens) {
                weights[start..tokens.len()].fill(weight);
            } else if needs_losses && weight != 0.0 {
                return Err(self.rewritten(message, &whole.text, &whole.text));
            }
        }
        Ok((sequence.tokens, weights))
    }

    /// The turn of message `i`; `sequence` goes on to its beginning, and to its end if that is
    /// where the conversation goes on.
    fn turn(&self, messages: &[Message], i: usize, whole: &Marked, sequence: &mut Rendered) -> Result<Span> {
        let weight = messages[i].weight.map_or(1.0, f32::from);
        let begin = self.beginning(messages, i, whole, sequence)?;
        self.extend(sequence, &whole.prefix(begin))?;
        let start = sequence.tokens.len();
        let prompt = &whole.text[..begin];

        let is_last = i + 1 == messages.len();
        let closed = match is_last {
            true => whole.clone(),
            false => self.talk.render(&messages[..=i], false)?,
        };
        let mut turn = sequence.clone();
        if closed.text.starts_with(prompt) {
            self.extend(&mut turn, &closed)?;
        }
        let mut end = start + self.generated(&turn.tokens[start..]);
        let mut tokens = turn.tokens.clone();
        if whole.text.starts_with(&closed.text) && closed.text.starts_with(prompt) {
            *sequence = turn;
        } else {
            // The turn is closed in another way here. It counts as far as both agree, if that is
            // all of what is generated.
            let mut going_on = sequence.clone();
            self.extend(&mut going_on, whole)?;
            let same = turn.tokens.iter().zip(&going_on.tokens).take_while(|(a, b)| a == b).count();
            let only_closes = || turn.tokens[same..].iter().all(|t| self.talk.encoder.is_special(*t));
            if same <= start || (end > same && !only_closes()) {
                return Err(self.rewritten(i, &whole.text, &closed.text));
            }
            end = end.min(same);
        }
        tokens.truncate(end);
        Ok(Span { message: i, start, tokens, weight })
    }

    /// The byte of the whole text at which the turn of message `i` begins.
    fn beginning(
        &self,
        messages: &[Message],
        i: usize,
        whole: &Marked,
        sequence: &Rendered,
    ) -> Result<usize> {
        // Before a first message there is nothing that could be rendered.
        let prompt = match i {
            0 => None,
            _ => Some(self.talk.render(&messages[..i], true)),
        };
        let opening = || self.opening(messages, i, &whole.text);
        let is_place = |text: &String| whole.text.starts_with(text) && text.starts_with(&sequence.text);
        let asked = prompt.as_ref().and_then(|prompt| Some(prompt.as_ref().ok()?.text.clone()));
        if let Some(text) = asked.filter(is_place).or_else(|| opening().filter(is_place)) {
            return Ok(text.len());
        }
        match prompt {
            Some(Err(e)) => Err(e),
            Some(Ok(prompt)) if i + 1 < messages.len() => Err(self.rewritten(i, &whole.text, &prompt.text)),
            _ => Err(self.lost(i)),
        }
    }

    /// The text before the content of message `i`: that before a character of ours in its place.
    fn opening(&self, messages: &[Message], i: usize, whole: &str) -> Option<String> {
        let mark = ('\u{f0000}'..'\u{ffffe}').find(|c| !whole.contains(*c))?;
        let mut marked = messages.to_vec();
        marked[i].set_content(mark.to_string());
        let text = self.talk.template.render_with(&marked, self.talk.options, false).ok()?;
        let (before, after) = text.split_once(mark)?;
        (!after.contains(mark)).then(|| before.to_string())
    }

    /// Makes `sequence` stand for a text that begins with the text it stands for so far. Where the
    /// tokenizer would merge across the border, it does not: a model that generates never sees such
    /// a merge either.
    fn extend(&self, sequence: &mut Rendered, marked: &Marked) -> Result<()> {
        let whole = self.talk.encoder.encode(marked, false)?;
        if whole.starts_with(&sequence.tokens) {
            sequence.tokens = whole;
        } else {
            sequence.tokens.extend(self.talk.encoder.continuation(marked, sequence.text.len())?);
        }
        sequence.text.clone_from(&marked.text);
        Ok(())
    }

    /// The tokens of an assistant's turn that it would have to generate: up to its first
    /// end-of-sequence token, if it has one.
    fn generated(&self, turn: &[u32]) -> usize {
        turn.iter().position(|t| self.ends.contains(t)).map_or(turn.len(), |i| i + 1)
    }

    /// The error of a turn whose text is another one in the whole conversation.
    fn rewritten(&self, turn: usize, whole: &str, part: &str) -> Error {
        let common = whole.bytes().zip(part.bytes()).take_while(|(a, b)| a == b).count();
        Error::input(
            self.talk.template.place(),
            format!(
                "found a template that rewrites earlier turns when one is added (message {} at byte {common} of its text), expected one that \
                 only appends, so that the assistant's tokens are known; or weight 0 for all of the assistant's turns but the last",
                turn + 1
            ),
        )
    }

    /// The error of a turn that is nowhere in the whole conversation.
    fn lost(&self, turn: usize) -> Error {
        Error::input(
            self.talk.template.place(),
            format!(
                "found a template by which the conversation begins neither with the prompt for message {} nor with what stands before its \
                 content, expected one that shows where the assistant's turn begins; or weight 0 for that turn",
                turn + 1
            ),
        )
    }
}
