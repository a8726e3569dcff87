//! Measuring societies: questions are put to one by every way to ask, and graded. Here, and only
//! here, reference answers are used.
//!
//! A way to ask is a [`Method`] in a file of its own. What several of them read is drawn once: the
//! samples, of which the first N are the debate's first round if there is a debate.

mod debate;
mod examiner;
mod grade;
mod greedy;
mod majority;
mod samples;
mod single;

use futures::future::{LocalBoxFuture, try_join_all};
use serde_json::Value;

pub use examiner::{Examiner, Sitting};

use self::grade::Papers;
use super::Usage;
use super::compute::Parameters;
use crate::debate::{Debate, Occasion, Protocol, Society, Turn};
use crate::engine::Scope;
use crate::error::Result;
use crate::measure::record;
use crate::run::{EvalMethod, EvalSection};
use crate::task::{AnswerKey, Question};

/// A way to put a question to a society, and what is recorded of the answers.
trait Method {
    /// Asks what no other way asks.
    fn ask<'a>(
        &'a self,
        _exam: &'a Examination<'_>,
        _question: &'a Question,
        _scope: &'a Scope,
    ) -> LocalBoxFuture<'a, Result<Paper>> {
        Box::pin(async { Ok(Paper::default()) })
    }

    /// Adds what the answers were like.
    fn grade(&self, papers: &Papers<'_>, to: &mut Evaluation) -> Result<()>;
}

/// One question's answers.
#[derive(Default)]
struct Paper {
    /// The most likely ones, of every generator that differs from the others.
    greedy: Vec<Turn>,
    /// Sample s is by generator s mod N.
    samples: Vec<Turn>,
    debate: Option<Debate>,
}

/// What is measured.
pub struct Methods {
    all: Vec<Box<dyn Method>>,
    /// Samples that are the debate's first answers.
    debated: usize,
}

impl Methods {
    /// From `[eval]`.
    pub fn new(section: &EvalSection, agents: usize) -> Self {
        let has = |method| section.methods.contains(&method);
        let samples = if section.majority_samples == 0 { agents } else { section.majority_samples };
        let (single, debate) = (has(EvalMethod::Single), has(EvalMethod::Debate));
        let majority = if has(EvalMethod::Majority) { samples } else { 0 };
        let wanted = majority.max(if single { agents } else { 0 });
        let debated = if debate { agents.min(wanted) } else { 0 };
        let mut all: Vec<Box<dyn Method>> = Vec::new();
        if has(EvalMethod::Greedy) {
            all.push(Box::new(greedy::Greedy));
        }
        all.push(Box::new(samples::Samples(debated..wanted)));
        if single {
            all.push(Box::new(single::Single));
        }
        if majority > 0 {
            all.push(Box::new(majority::Majority(majority)));
        }
        if debate {
            all.push(Box::new(debate::Debated));
        }
        Self { all, debated }
    }
}

/// A society before a table: what is asked and how, and what is right.
pub struct Examination<'a> {
    /// The protocol.
    pub table: &'a Protocol,
    /// Who answers.
    pub society: &'a Society,
    /// What its draws are made from.
    pub occasion: Occasion,
    /// How it is asked.
    pub methods: &'a Methods,
    /// What is right.
    pub answers: &'a AnswerKey,
    /// What its tokens pass through.
    pub parameters: Parameters,
}

/// What was measured.
#[derive(Debug, Default)]
pub struct Evaluation {
    /// Accuracies and rates by method.
    pub record: record::Evaluation,
    /// By name (`greedy`, `samples`, `debate`), in question order, each with the reference answer
    /// and whether it was met.
    pub transcripts: Vec<(&'static str, Vec<Value>)>,
    /// The accuracies, for people.
    pub line: Vec<String>,
    /// The debates, in question order, if there were any.
    pub debates: Vec<Debate>,
    /// What it cost.
    pub usage: Usage,
}

impl Examination<'_> {
    /// Puts `questions` to the society and grades its answers. `answered` is called as each
    /// question is complete, with the first question's debate.
    pub async fn evaluate(
        &self,
        scope: &Scope,
        questions: &[Question],
        answered: &dyn Fn(Option<Value>),
    ) -> Result<Evaluation> {
        let asked = self.table.each(scope, questions, |i, question, scope| async move {
            let paper = self.ask(question, &scope).await?;
            let shown = paper.debate.as_ref().filter(|_| i == 0);
            answered(shown.map(|debate| grade::transcript(debate, self.answers)).transpose()?);
            Ok(paper)
        });
        let papers = asked.await?;
        let mut evaluation = Evaluation::default();
        evaluation.record.questions = questions.len();
        evaluation.record.outcomes = Some(record::Outcomes::default());
        let graded = Papers { exam: self, questions, papers: &papers };
        self.methods.all.iter().try_for_each(|method| method.grade(&graded, &mut evaluation))?;
        for paper in papers {
            let turns = paper.greedy.iter().chain(&paper.samples[self.methods.debated..]);
            evaluation.usage.turns(&self.society.generators, turns);
            paper.debate.iter().for_each(|debate| evaluation.usage.debate(self.society, debate));
            evaluation.debates.extend(paper.debate);
        }
        Ok(evaluation)
    }

    async fn ask(&self, question: &Question, scope: &Scope) -> Result<Paper> {
        let asked = self.methods.all.iter().map(|method| method.ask(self, question, scope));
        let mut whole = Paper::default();
        for part in try_join_all(asked).await? {
            whole.greedy.extend(part.greedy);
            whole.samples.extend(part.samples);
            whole.debate = whole.debate.or(part.debate);
        }
        if let Some(debate) = &whole.debate {
            let first = &debate.rounds[0].turns[..self.methods.debated];
            whole.samples.splice(0..0, first.iter().cloned());
        }
        Ok(whole)
    }

    /// Generators that differ in what they answer: agents alike are asked once.
    fn distinct(&self) -> usize {
        let generators = &self.society.generators;
        let alike = generators.iter().all(|g| *g == generators[0]) && !self.table.tells_ids();
        if alike { 1 } else { generators.len() }
    }
}
