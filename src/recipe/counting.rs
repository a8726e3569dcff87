//! An engine that answers at once and counts what it is asked: what a recipe costs is learned by running it.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use futures::future::{FutureExt, LocalBoxFuture, ready};
use serde_json::Value;

use super::forecast::{Cost, Draw};
use crate::adapter::Snapshot;
use crate::backend::{LoraMatrix, PartId};
use crate::engine::*;
use crate::error::Result;
use crate::measure::record::Record;
use crate::run::{Event, Output};
use crate::text::{Codec, Message};

/// Stands in what is written for tokens that need not be there to be counted: in answers, in summaries.
pub const MARKS: [char; 2] = ['\u{e000}', '\u{e001}'];
/// A token that is only counted.
const PAD: u32 = u32::MAX;
/// Follows a mark, and says which draw it was: what agents read is equal only where the draws were.
const DRAWS: std::ops::RangeInclusive<char> = '\u{f0000}'..='\u{ffffd}';

/// The character of a draw.
pub fn drawn_as(draw: u64) -> char {
    let first = *DRAWS.start() as u32;
    char::from_u32(first + (draw % 0xfffe) as u32).unwrap_or(*DRAWS.start())
}

/// A codec by which a whole text is one token, and each of [`MARKS`] in a text is many. All that is
/// written fits the context.
pub struct Shorthand {
    /// The model's.
    pub inner: Rc<dyn Codec>,
    /// What may be said, each one token.
    pub texts: Vec<String>,
    /// Tokens by mark.
    pub more: [usize; 2],
}

impl Shorthand {
    /// The token of a text.
    pub fn token(&mut self, text: String) -> u32 {
        self.texts.push(text);
        PAD - self.texts.len() as u32
    }

    /// The messages as they are tokenized, and what is to be added to their tokens.
    fn unmarked(&self, messages: &[Message]) -> (Vec<Message>, Vec<u32>) {
        let mut messages = messages.to_vec();
        let (mut more, mut count) = (Vec::new(), 0);
        for message in &mut messages {
            message.content.retain(|c| {
                let mark = MARKS.iter().position(|mark| *mark == c);
                count += mark.map_or(0, |mark| self.more[mark]);
                if DRAWS.contains(&c) {
                    more.push(c as u32);
                }
                mark.is_none() && !DRAWS.contains(&c)
            });
        }
        more.resize(count.max(more.len()), PAD);
        (messages, more)
    }

    fn padded(&self, mut tokens: Vec<u32>, more: Vec<u32>) -> Vec<u32> {
        let room = self.inner.max_positions().saturating_sub(1 + tokens.len());
        tokens.extend(more.into_iter().take(room));
        tokens
    }
}

impl StopRules for Shorthand {
    fn tokenizer(&self) -> u64 {
        self.inner.tokenizer()
    }

    fn watch(&self, strings: &[String]) -> Watch {
        self.inner.watch(strings)
    }
}

impl Codec for Shorthand {
    fn prompt(&self, messages: &[Message]) -> Result<Vec<u32>> {
        let (messages, more) = self.unmarked(messages);
        Ok(self.padded(self.inner.prompt(&messages)?, more))
    }

    fn training(&self, messages: &[Message]) -> Result<(Vec<u32>, Vec<f32>)> {
        let (messages, more) = self.unmarked(messages);
        let (tokens, mut weights) = self.inner.training(&messages)?;
        let tokens = self.padded(tokens, more);
        weights.resize(tokens.len(), 1.0);
        Ok((tokens, weights))
    }

    fn text(&self, text: &str) -> Result<Vec<u32>> {
        self.inner.text(text)
    }

    fn decode(&self, tokens: &[u32]) -> Result<String> {
        let &[text, draw, ..] = tokens else { return self.inner.decode(tokens) };
        let Some(text) = self.texts.get((PAD - 1).wrapping_sub(text) as usize) else {
            return self.inner.decode(tokens);
        };
        let draw = char::from_u32(draw).unwrap_or_default();
        let marked = |c: char| if MARKS.contains(&c) { vec![c, draw] } else { vec![c] };
        Ok(text.chars().flat_map(marked).collect())
    }

    fn template_place(&self) -> String {
        self.inner.template_place()
    }

    fn max_positions(&self) -> usize {
        self.inner.max_positions()
    }
}

/// A question that is asked in place of several.
pub struct Asked {
    /// How many.
    pub stands_for: f64,
    /// An answer to it, in [`Shorthand`].
    pub answer: u32,
}

/// Counts what it is asked. As it answers at once, all that is asked between one look into the
/// journal and the next belongs to the call that was looked up.
pub struct Counter {
    /// By id.
    questions: HashMap<String, Asked>,
    /// Training questions that one of them stands for.
    training: f64,
    /// In [`Shorthand`]: an answer where no question is asked, and a summary.
    otherwise: [u32; 2],
    /// Tokens of an answer and of a summary.
    lengths: [usize; 2],
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    call: String,
    cost: Cost,
    /// The weights of each adapter by a number; those of the base have 0.
    weights: HashMap<AdapterId, u32>,
    /// Numbers and names given so far.
    given: u32,
    alive: BTreeSet<AdapterId>,
    /// Draws of weights that are no longer the base's.
    drawn: HashSet<u64>,
}

impl Counter {
    /// Nothing is counted yet.
    pub fn new(
        questions: HashMap<String, Asked>,
        training: f64,
        otherwise: [u32; 2],
        lengths: [usize; 2],
    ) -> Self {
        Self { questions, training, otherwise, lengths, state: RefCell::default() }
    }

    /// What was counted.
    pub fn cost(&self) -> Cost {
        self.state.take().cost
    }

    /// The question that the present call belongs to.
    fn asked(&self, call: &str) -> Option<&Asked> {
        call.split(['/', '#']).find_map(|part| self.questions.get(part))
    }

    fn scored(&self, tokens: usize) {
        let state = &mut *self.state.borrow_mut();
        let stands_for = self.asked(&state.call).map_or(1.0, |asked| asked.stands_for);
        state.cost.scored += stands_for;
        state.cost.scored_tokens += stands_for * tokens as f64;
    }
}

impl State {
    fn of(&self, adapter: AdapterId) -> u32 {
        self.weights.get(&adapter).copied().unwrap_or(0)
    }

    fn fresh(&mut self) -> u32 {
        self.given += 1;
        self.given
    }

    /// The number of these weights: an adapter with B = 0 is the base.
    fn number(&mut self, numbers: &Snapshot) -> u32 {
        match &numbers.weights[..] {
            [(_, LoraMatrix::B, values)] if values.len() == 1 => values[0] as u32,
            all if all.iter().any(|(_, m, v)| *m == LoraMatrix::B && v.iter().any(|v| *v != 0.0)) => {
                self.fresh()
            }
            _ => 0,
        }
    }
}

fn at_once<T: 'static>(result: T) -> LocalBoxFuture<'static, Result<T>> {
    ready(Ok(result)).boxed_local()
}

impl Service for Counter {
    fn sample(&self, request: SampleRequest) -> LocalBoxFuture<'static, Result<Sample>> {
        let state = &mut *self.state.borrow_mut();
        let asked = self.asked(&state.call);
        let stands_for = asked.map_or(1.0, |asked| asked.stands_for);
        let which = usize::from(request.kind == SampleKind::Summary);
        let said = match request.kind {
            SampleKind::Summary => self.otherwise[1],
            _ => asked.map_or(self.otherwise[0], |asked| asked.answer),
        };
        let new = self.lengths[which].clamp(1, request.params.max_tokens.max(1) as usize);
        let weights: Vec<u32> = request.adapters.iter().map(|(id, _)| state.of(*id)).collect();
        let of_base = weights.iter().all(|number| *number == 0);
        let prompt: Vec<u8> = request.prompt.iter().flat_map(|token| token.to_le_bytes()).collect();
        let how = format!("{:?} {weights:?}", request.params);
        let draw = draw_key(&[&request.key.to_le_bytes(), &prompt, how.as_bytes()]);
        let mut tokens = vec![said, drawn_as(draw) as u32];
        tokens.resize(new.max(2), PAD);
        let drawn = Draw { key: request.key, count: stands_for, prompt: request.prompt.len(), new };
        let is_exam = state.call.split('/').any(|part| part == "exam");
        let cost = &mut state.cost;
        let calls = if is_exam { &mut cost.evaluation } else { &mut cost.training };
        calls.add(request.kind, stands_for);
        cost.tokens += stands_for * f64::from(request.params.max_tokens);
        match of_base {
            true => drop(cost.of_base.insert(draw, drawn)),
            false if state.drawn.insert(draw) => cost.own.push(drawn),
            false => {}
        }
        let logprobs = vec![-1.0; tokens.len()];
        at_once(Sample { tokens, logprobs, finish: Finish::Stop })
    }

    fn score(&self, request: ScoreRequest) -> LocalBoxFuture<'static, Result<Score>> {
        self.scored(request.tokens.len());
        let count = request.tokens.len() - 1;
        at_once(Score { logprobs: vec![-1.0; count], is_argmax: vec![true; count] })
    }

    fn embed(&self, request: EmbedRequest) -> LocalBoxFuture<'static, Result<Embedding>> {
        self.scored(request.tokens.len());
        at_once(Embedding { mean: vec![1.0] })
    }

    fn train(&self, request: TrainRequest) -> LocalBoxFuture<'static, Result<Vec<StepMetrics>>> {
        let state = &mut *self.state.borrow_mut();
        let mut all = Vec::new();
        for (i, step) in request.steps.iter().enumerate() {
            let lengths = step.sequences.iter().map(|&s| request.sequences[s as usize].tokens.len() as u64);
            let (step_number, tokens) = (i as u32 + 1, lengths.sum::<u64>());
            state.cost.trained += self.training * step.sequences.len() as f64;
            state.cost.trained_tokens += self.training * tokens as f64;
            let (loss, grad_norm, learning_rate) = (1.0, 1.0, step.learning_rate);
            all.push(StepMetrics { step: step_number, loss, grad_norm, learning_rate, tokens, fault: None });
        }
        if !all.is_empty() {
            let number = state.fresh();
            state.weights.insert(request.adapter, number);
        }
        at_once(all)
    }

    fn next_priority(&self) -> u64 {
        0
    }

    fn base_parameters(&self) -> usize {
        1
    }

    fn create(&self, source: AdapterSource) -> LocalBoxFuture<'static, Result<AdapterId>> {
        let state = &mut *self.state.borrow_mut();
        let number = match source {
            AdapterSource::Snapshot(numbers) => state.number(&numbers),
            AdapterSource::Clone(adapter) => state.of(adapter),
        };
        let adapter = AdapterId(state.fresh());
        state.weights.insert(adapter, number);
        state.alive.insert(adapter);
        state.cost.adapters = state.cost.adapters.max(state.alive.len());
        at_once(adapter)
    }

    fn drop_adapter(&self, adapter: AdapterId) -> LocalBoxFuture<'static, Result<()>> {
        self.state.borrow_mut().alive.remove(&adapter);
        at_once(())
    }

    fn snapshot(&self, adapter: AdapterId, _: bool) -> LocalBoxFuture<'static, Result<Snapshot>> {
        let number = self.state.borrow().of(adapter);
        let weights = vec![(PartId(0), LoraMatrix::B, vec![number as f32])];
        at_once(Snapshot { weights, ..Snapshot::default() })
    }

    fn restore(&self, adapter: AdapterId, numbers: Arc<Snapshot>) -> LocalBoxFuture<'static, Result<()>> {
        let state = &mut *self.state.borrow_mut();
        let number = state.number(&numbers);
        state.weights.insert(adapter, number);
        at_once(())
    }
}

/// Hears which call is about to be made.
impl Journal for Counter {
    fn replay(&self, call: &str) -> Result<Option<Entry>> {
        self.state.borrow_mut().call = call.to_string();
        Ok(None)
    }
    fn record(&self, _: &str, _: &Entry) -> Result<()> {
        Ok(())
    }
    fn save_adapters(&self, _: &str, _: &[Snapshot]) -> Result<()> {
        Ok(())
    }
    fn load_adapters(&self, call: &str) -> Result<Kept> {
        NoJournal.load_adapters(call)
    }
}

/// Keeps nothing.
pub struct Nowhere;

impl Output for Nowhere {
    fn metrics(&self, _: &str, _: usize, _: Record) -> Result<()> {
        Ok(())
    }
    fn transcripts(&self, _: &str, _: usize, _: &str, _: &[Value]) -> Result<()> {
        Ok(())
    }
    fn dataset(&self, _: &str, _: usize, _: &str, _: &[Value]) -> Result<()> {
        Ok(())
    }
    fn adapter(&self, _: &str, _: usize, _: &str, _: &Snapshot) -> Result<()> {
        Ok(())
    }
    fn time(&self, _: &str, _: usize, _: &str, _: f64) -> Result<()> {
        Ok(())
    }
    fn event(&self, _: Event) {}
}
