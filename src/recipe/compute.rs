//! What a lane's phases cost: tokens and FLOP from the turns themselves, and wall times apart.
//!
//! Tokens are counted as they were requested, before the engine shares anything between requests, so that a figure is a
//! function of the transcripts and the data sets alone, and equal compute means the same whatever else runs. With P the
//! parameters of the base and of the adapter in use: 2 P FLOP for a prompt or sampled token, 4 P for each token of a
//! sequence that is trained on (forward, and the gradient of the activations; the base's weights get none). Measuring
//! diversity is not counted: no arm gains by it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use crate::adapter::Snapshot;
use crate::debate::{Debate, Society, Speaker, Turn, Utterance};
use crate::engine::AdapterId;
use crate::error::Result;
use crate::measure::record::{Compute, Cost, Record};
use crate::run::Output;

/// How many parameters a token passes through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Of the base model.
    pub base: usize,
    /// Of each adapter.
    pub adapters: BTreeMap<AdapterId, usize>,
}

impl Parameters {
    /// Of the base and this adapter.
    pub fn with(&self, adapter: AdapterId) -> usize {
        self.base + self.adapters.get(&adapter).copied().unwrap_or(0)
    }

    /// FLOP of a turn of this speaker, with the summary before it, which the base wrote: 2 for each
    /// parameter and token, read or written. Each adapter of a mixture computes every token.
    pub fn flop(&self, speaker: &Speaker, turn: &Turn) -> f64 {
        let of = |adapter, said: Option<&Utterance>| {
            let tokens = said.map_or(0, |s| s.prompt_tokens + s.tokens);
            2.0 * self.with(adapter) as f64 * tokens as f64
        };
        let each = |(adapter, _): &(AdapterId, f32)| of(*adapter, turn.response.as_ref());
        of(AdapterId::BASE, turn.summary.as_ref()) + speaker.adapters().iter().map(each).sum::<f64>()
    }
}

/// Tokens of one adapter, or of the base.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tokens {
    prompt: u64,
    sampled: u64,
    gradient: u64,
}

/// Tokens by adapter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage(BTreeMap<AdapterId, Tokens>);

impl Usage {
    /// Answers of `speakers` (by agent), and the summaries that were read before them, written by
    /// the base. Each adapter of a mixture computes every token.
    pub fn turns<'t>(&mut self, speakers: &[Speaker], turns: impl IntoIterator<Item = &'t Turn>) {
        for turn in turns {
            self.utterance(AdapterId::BASE, turn.summary.as_ref());
            for (adapter, _) in speakers[turn.agent].adapters() {
                self.utterance(*adapter, turn.response.as_ref());
            }
        }
    }

    /// A debate: generators write the first round, critics the others.
    pub fn debate(&mut self, society: &Society, debate: &Debate) {
        for (m, round) in debate.rounds.iter().enumerate() {
            self.turns(society.speakers(m + 1), &round.turns);
        }
    }

    /// `tokens` tokens of sequences trained on, counted once for each optimizer step that took them.
    pub fn trained(&mut self, adapter: AdapterId, tokens: u64) {
        self.0.entry(adapter).or_default().gradient += tokens;
    }

    fn utterance(&mut self, adapter: AdapterId, said: Option<&Utterance>) {
        let Some(said) = said else { return };
        let tokens = self.0.entry(adapter).or_default();
        tokens.prompt += said.prompt_tokens as u64;
        tokens.sampled += said.tokens as u64;
    }
}

/// The books of one lane.
pub struct Ledger {
    lane: String,
    output: Rc<dyn Output>,
    parameters: RefCell<Parameters>,
    /// Of all adapters that were ever made for training.
    trained_parameters: Cell<usize>,
    /// By iteration, in the order in which they ended.
    phases: RefCell<BTreeMap<usize, Vec<Cost>>>,
}

impl Ledger {
    /// Empty books of a lane.
    pub fn new(lane: &str, output: Rc<dyn Output>, base_parameters: usize) -> Self {
        Self {
            lane: lane.to_string(),
            output,
            parameters: RefCell::new(Parameters { base: base_parameters, ..Parameters::default() }),
            trained_parameters: Cell::default(),
            phases: RefCell::default(),
        }
    }

    /// The lane.
    pub fn lane(&self) -> &str {
        &self.lane
    }

    /// Where its results go.
    pub fn output(&self) -> &dyn Output {
        &*self.output
    }

    /// An adapter that is to be trained.
    pub fn adapter(&self, adapter: AdapterId, numbers: &Snapshot) {
        let parameters = numbers.parameters();
        self.parameters.borrow_mut().adapters.insert(adapter, parameters);
        self.trained_parameters.set(self.trained_parameters.get() + parameters);
    }

    /// Of the base and of all adapters so far.
    pub fn parameters(&self) -> Parameters {
        self.parameters.borrow().clone()
    }

    /// A phase begins: `debate`, `finetune`, `dev`, ….
    pub fn phase(&self, iteration: usize, name: &'static str) -> Phase<'_> {
        Phase { ledger: self, iteration, name, began: Instant::now() }
    }

    /// Writes an iteration's `compute` record, after its last phase.
    pub fn close(&self, iteration: usize) -> Result<()> {
        let phases = self.phases.borrow_mut().remove(&iteration).unwrap_or_default();
        let record = Compute { adapter_parameters: self.trained_parameters.get(), phases };
        self.output.metrics(&self.lane, iteration, Record::Compute(record))
    }

    fn cost(&self, name: &str, usage: &Usage) -> Cost {
        let parameters = self.parameters.borrow();
        let (mut all, mut flop) = (Tokens::default(), 0.0);
        for (adapter, tokens) in &usage.0 {
            let passes = 2 * (tokens.prompt + tokens.sampled) + 4 * tokens.gradient;
            flop += parameters.with(*adapter) as f64 * passes as f64;
            all.prompt += tokens.prompt;
            all.sampled += tokens.sampled;
            all.gradient += tokens.gradient;
        }
        Cost {
            phase: name.to_string(),
            prompt_tokens: all.prompt,
            sampled_tokens: all.sampled,
            gradient_tokens: all.gradient,
            flop,
        }
    }
}

/// A phase that has begun.
pub struct Phase<'l> {
    ledger: &'l Ledger,
    iteration: usize,
    name: &'static str,
    began: Instant,
}

impl Phase<'_> {
    /// It is over: what it used goes to the books, its time to the output.
    pub fn end(self, usage: &Usage) -> Result<()> {
        let cost = self.ledger.cost(self.name, usage);
        self.ledger.phases.borrow_mut().entry(self.iteration).or_default().push(cost);
        self.end_untold()
    }

    /// It is over, and only its time is kept.
    pub fn end_untold(self) -> Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        self.ledger.output.time(&self.ledger.lane, self.iteration, self.name, seconds)
    }
}
