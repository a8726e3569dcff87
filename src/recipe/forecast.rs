//! What a lane asks of an engine, known before it runs: the recipe itself runs over an engine that answers at once, on a few questions.
//!
//! All agents give the same answer, so data sets are as full as they can be: what is counted is an
//! upper bound. A recipe that asks for labels may ask again where an answer is wrong: it runs once
//! with right and once with wrong answers, and of each number the larger one counts. What is asked
//! in the scope of a question (as [`Protocol::each`](crate::debate::Protocol::each) gives one) is counted
//! for all questions that it stands for, as is what is trained; all else is counted as it is.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::counting::{Asked, Counter, MARKS, Nowhere, Shorthand, drawn_as};
use super::{Context, Material, Recipe, run_arm};
use crate::adapter::Snapshot;
use crate::engine::{SampleKind, Scope};
use crate::error::{Error, Result};
use crate::run::RunConfig;
use crate::task::{Question, Questions, Task};
use crate::text::{Codec, cut_at_stop};

/// The most questions that are asked: for training, dev, test, and both of another task.
const ASKED: [usize; 5] = [16, 8, 4, 2, 2];

/// Samples by kind. One question may stand for several, so these are fractions until they are read.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Calls([f64; 3]);

impl Calls {
    pub(super) fn add(&mut self, kind: SampleKind, count: f64) {
        self.0[kind as usize] += count;
    }

    /// First answers, summaries, later answers.
    pub fn by_kind(&self) -> [usize; 3] {
        self.0.map(|count| count.round() as usize)
    }

    /// All samples.
    pub fn all(&self) -> usize {
        self.by_kind().iter().sum()
    }
}

/// A sample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Draw {
    /// The draw's key: the question, the agent, the round and the sample that it is for.
    pub key: u64,
    /// How many it stands for.
    pub count: f64,
    /// Prompt tokens.
    pub prompt: usize,
    /// New tokens.
    pub new: usize,
}

/// What one lane asks of an engine, at most.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// Samples that training data are made of.
    pub training: Calls,
    /// Samples of evaluations.
    pub evaluation: Calls,
    /// New tokens of all samples, if none ended early.
    pub tokens: f64,
    /// Sequences trained on, once for each step that takes them.
    pub trained: f64,
    /// Their tokens.
    pub trained_tokens: f64,
    /// Sequences scored or encoded.
    pub scored: f64,
    /// Their tokens.
    pub scored_tokens: f64,
    /// Adapters alive at once.
    pub adapters: usize,
    /// Draws of the base's weights: those that another lane asks for too are made once.
    pub of_base: HashMap<u64, Draw>,
    /// All other draws, equal ones once.
    pub own: Vec<Draw>,
}

impl Cost {
    /// The larger of each number.
    fn or(mut self, other: Self) -> Self {
        for (mine, its) in [(&mut self.training, other.training), (&mut self.evaluation, other.evaluation)] {
            mine.0.iter_mut().zip(its.0).for_each(|(mine, its)| *mine = mine.max(its));
        }
        for (mine, its) in [
            (&mut self.tokens, other.tokens),
            (&mut self.trained, other.trained),
            (&mut self.trained_tokens, other.trained_tokens),
            (&mut self.scored, other.scored),
            (&mut self.scored_tokens, other.scored_tokens),
        ] {
            *mine = mine.max(its);
        }
        self.adapters = self.adapters.max(other.adapters);
        // What both ask for is drawn once. It may differ in the answers that prompts show, and in whether the adapter
        // is still the base by then: where all answers are wrong there is nothing to learn.
        let known: HashSet<u64> = self.of_base.values().chain(&self.own).map(|draw| draw.key).collect();
        self.of_base.extend(other.of_base.into_iter().filter(|(_, draw)| !known.contains(&draw.key)));
        if other.own.len() > self.own.len() {
            self.own = other.own;
        }
        self
    }
}

/// How long texts are taken to be, in tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    /// An answer.
    pub answer: usize,
    /// A summary.
    pub summary: usize,
}

/// What one lane of `recipe` asks of an engine, at most.
///
/// # Errors
///
/// What is wrong with the configuration; and a task that reads no answer in any text known for one.
pub fn forecast(
    recipe: &'static dyn Recipe,
    config: &RunConfig,
    codec: &Rc<dyn Codec>,
    own: &Material,
    transfer: Option<&Material>,
    lengths: Lengths,
) -> Result<Cost> {
    let run = |right| Rehearsal::new(config, codec, lengths, right)?.run(recipe, own, transfer);
    let cost = run(true)?;
    if recipe.info().asks_for_labels { Ok(cost.or(run(false)?)) } else { Ok(cost) }
}

/// A run on a few questions, to be counted.
struct Rehearsal {
    config: RunConfig,
    codec: Shorthand,
    lengths: Lengths,
    /// Whether answers are right.
    right: bool,
    asked: HashMap<String, Asked>,
}

impl Rehearsal {
    fn new(config: &RunConfig, codec: &Rc<dyn Codec>, lengths: Lengths, right: bool) -> Result<Self> {
        let codec = Shorthand { inner: codec.clone(), texts: vec![], more: [0, lengths.summary] };
        Ok(Self { config: config.clone(), codec, lengths, right, asked: HashMap::new() })
    }

    fn run(
        mut self,
        recipe: &'static dyn Recipe,
        own: &Material,
        transfer: Option<&Material>,
    ) -> Result<Cost> {
        let Questions { train, dev, test } = &*own.questions;
        let all = self.config.task.train_questions.min(train.len());
        let train = self.some(own, train, all, ASKED[0])?;
        let stands_for = all as f64 / train.len().max(1) as f64;
        let (all, dev) = (dev.len(), self.some(own, dev, dev.len(), ASKED[1])?);
        // Of these too, not more than their share.
        let diversity = &mut self.config.eval.diversity;
        *diversity = (*diversity * dev.len()).div_ceil(all.max(1));
        let test = self.some(own, test, test.len(), ASKED[2])?;
        let transfer = match transfer {
            None => None,
            Some(other) => {
                let Questions { dev, test, .. } = &*other.questions;
                let dev = self.some(other, dev, dev.len(), ASKED[3])?;
                let test = self.some(other, test, test.len(), ASKED[4])?;
                Some(Material { questions: Rc::new(Questions { train: vec![], dev, test }), ..other.clone() })
            }
        };
        let answer = self.asked.values().next().map_or(0, |asked| asked.answer);
        let summary = self.codec.token(MARKS[1].into());
        let lengths = [self.lengths.answer, self.lengths.summary];
        let counter = Rc::new(Counter::new(self.asked, stands_for, [answer, summary], lengths));
        let context = Context {
            scope: Scope::new("lane", counter.clone(), counter.clone()),
            codec: Rc::new(self.codec),
            task: own.task.clone(),
            questions: Rc::new(Questions { train, dev, test }),
            answers: own.answers.clone(),
            transfer,
            output: Rc::new(Nowhere),
            seed: 0,
            new_adapter: Rc::new(|_, _| Ok(Snapshot::default())),
        };
        futures::executor::block_on(run_arm(recipe, &self.config, context))?;
        Ok(counter.cost())
    }

    /// At most `most` of these questions, evenly spaced, that stand for `all` of them.
    fn some(
        &mut self,
        material: &Material,
        questions: &[Question],
        all: usize,
        most: usize,
    ) -> Result<Vec<Question>> {
        let count = all.min(most);
        let some: Vec<Question> =
            (0..count).map(|i| questions[i * questions.len() / count].clone()).collect();
        for question in &some {
            let reference = material.answers.reference(&question.id);
            let stop = &self.config.sampling.stop;
            let said = specimen(&material.task, question, reference, self.right, stop)?;
            let tokens = self.codec.inner.text(&said.replace(MARKS[0], ""))?.len();
            self.codec.more[0] = self.codec.more[0].max(self.lengths.answer.saturating_sub(tokens));
            let answer = self.codec.token(said);
            let stands_for = all as f64 / count as f64;
            self.asked.insert(question.id.clone(), Asked { stands_for, answer });
        }
        Ok(some)
    }
}

/// A response in which the task reads an answer: the right one, or another one. It is marked where
/// the task reads on over marks.
fn specimen(
    task: &Task,
    question: &Question,
    reference: Option<&str>,
    right: bool,
    stop: &[String],
) -> Result<String> {
    let plain = ["7", "8", "A", "B", "x", "y"];
    let answers = reference.into_iter().filter(|_| right).chain(plain);
    let (mark, draw) = (MARKS[0], drawn_as(0));
    for text in answers.flat_map(|answer| task.reader.specimens(answer)) {
        let plain = task.read(question, cut_at_stop(&text, stop));
        if plain.is_none() || !right && plain.as_deref() == reference {
            continue;
        }
        let marked = [format!("{text}\n{mark}"), format!("{mark}\n{text}")].into_iter().find(|marked| {
            let drawn = marked.replace(mark, &format!("{mark}{draw}"));
            cut_at_stop(&drawn, stop) == drawn && task.read(question, &drawn) == plain
        });
        return Ok(marked.unwrap_or(text));
    }
    let problem = "found no text in which it reads an answer, so what a run costs cannot be counted";
    Err(Error::input(format!("task {}", task.name), problem))
}
