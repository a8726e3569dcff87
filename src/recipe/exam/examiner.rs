//! Measures a recipe's societies as it goes.

use std::rc::Rc;

use serde_json::Value;

use super::grade::{agreement, rates};
use super::{Examination, Methods};
use crate::debate::{Debate, Occasion, Protocol, Round, Society};
use crate::engine::Scope;
use crate::error::Result;
use crate::measure::record::{PseudoLabels, Record, Source};
use crate::measure::{Estimate, share};
use crate::recipe::{Diversity, Example, Ledger};
use crate::run::{Event, RecipeInfo, RunConfig};
use crate::task::{AnswerKey, Question, Questions};

/// A task's questions, put to a society at a table, and their answers.
pub struct Sitting {
    /// The protocol.
    pub table: Rc<Protocol>,
    /// What is asked.
    pub questions: Rc<Questions>,
    /// What is right.
    pub answers: Rc<AnswerKey>,
}

/// Measures a recipe's societies as it goes. Holds the answers and gives none away: everything goes
/// to the output.
pub struct Examiner {
    scope: Scope,
    own: Sitting,
    transfer: Option<Sitting>,
    ledger: Rc<Ledger>,
    seed: u64,
    methods: Methods,
    diversity: Diversity,
    asks_for_labels: bool,
    measure_before: bool,
    iterations: usize,
}

impl Examiner {
    /// For the lane of `scope` and `ledger`: its own task, and another one to which nothing that it
    /// learns belongs.
    pub fn new(
        scope: &Scope,
        own: Sitting,
        transfer: Option<Sitting>,
        ledger: Rc<Ledger>,
        seed: u64,
        recipe: &RecipeInfo,
        config: &RunConfig,
    ) -> Self {
        Self {
            scope: scope.child("exam"),
            own,
            transfer,
            ledger,
            seed,
            methods: Methods::new(&config.eval, config.debate.agents),
            diversity: Diversity::new(&config.eval, &config.sampling),
            asks_for_labels: recipe.asks_for_labels,
            measure_before: config.eval.before,
            iterations: config.run.iterations,
        }
    }

    /// Before the first iteration: the society is still the base model.
    pub async fn before(&self, society: &Society) -> Result<()> {
        if self.measure_before { self.once(society).await } else { Ok(()) }
    }

    /// A society that is not trained: on all questions, as iteration 0.
    pub async fn once(&self, society: &Society) -> Result<()> {
        self.examine(0, "dev", &self.own, &self.own.questions.dev, society).await?;
        self.examine_at_the_end(0, society).await?;
        self.ledger.close(0)
    }

    /// After an iteration; on test questions and on another task after the last one only.
    pub async fn after(&self, iteration: usize, society: &Society) -> Result<()> {
        self.examine(iteration, "dev", &self.own, &self.own.questions.dev, society).await?;
        if iteration == self.iterations {
            self.examine_at_the_end(iteration, society).await?;
        }
        self.ledger.close(iteration)
    }

    async fn examine_at_the_end(&self, iteration: usize, society: &Society) -> Result<()> {
        self.examine(iteration, "test", &self.own, &self.own.questions.test, society).await?;
        if let Some(other) = &self.transfer {
            self.examine(iteration, "transfer-dev", other, &other.questions.dev, society).await?;
            self.examine(iteration, "transfer-test", other, &other.questions.test, society).await?;
        }
        Ok(())
    }

    async fn examine(
        &self,
        iteration: usize,
        split: &'static str,
        sitting: &Sitting,
        questions: &[Question],
        society: &Society,
    ) -> Result<()> {
        if questions.is_empty() {
            return Ok(());
        }
        let scope = self.scope.child(format!("iteration-{iteration}/{split}"));
        let phase = self.ledger.phase(iteration, split);
        let name = self.begin(iteration, &format!("{split} questions"), questions.len());
        let answered = |debate: Option<Value>| {
            self.advance();
            if let Some(transcript) = debate {
                let lane = self.ledger.lane().to_string();
                self.ledger.output().event(Event::Debate { lane, transcript });
            }
        };
        let examination = Examination {
            table: &sitting.table,
            society,
            occasion: Occasion { seed: self.seed, iteration, purpose: split },
            methods: &self.methods,
            answers: &sitting.answers,
            parameters: self.ledger.parameters(),
        };
        let result = examination.evaluate(&scope, questions, &answered).await?;
        phase.end(&result.usage)?;
        let (lane, output) = (self.ledger.lane(), self.ledger.output());
        for (method, records) in &result.transcripts {
            output.transcripts(lane, iteration, &format!("{split}-{method}"), records)?;
        }
        self.note(format!("{name}: {}", result.line.join(", ")));
        let mut record = result.record;
        let costs = record.debate.as_ref().and_then(|d| d.costs_samples);
        if let (Some(k), Some(drawn), 0, "dev") =
            (costs, record.majority.as_ref().map(|m| m.samples), iteration, split)
            && k > drawn
        {
            self.note(format!("a debate costs as much as {k} samples; eval.majority_samples draws {drawn}"));
        }
        record.asks_for_labels = self.asks_for_labels;
        output.metrics(lane, iteration, Record::Evaluation(split, record.into()))?;
        if split == "dev" {
            self.diversity(&scope, &examination, questions, &result.debates).await?;
        }
        Ok(())
    }

    /// How different the agents are, on the first debates.
    async fn diversity(
        &self,
        scope: &Scope,
        examination: &Examination<'_>,
        questions: &[Question],
        debates: &[Debate],
    ) -> Result<()> {
        let total = self.diversity.questions(debates);
        if total == 0 {
            return Ok(());
        }
        let iteration = examination.occasion.iteration;
        let phase = self.ledger.phase(iteration, "diversity");
        self.begin(iteration, "diversity", total);
        let scope = scope.child("diversity");
        let measured = || self.advance();
        let record = self.diversity.measure(examination, &scope, questions, debates, &measured).await?;
        phase.end_untold()?;
        let lane = self.ledger.lane();
        self.ledger.output().metrics(lane, iteration, Record::Diversity(record.into()))
    }

    /// Shows that a phase begins, and returns its name.
    fn begin(&self, iteration: usize, what: &str, total: usize) -> String {
        let name = match iteration {
            0 => format!("before training: {what}"),
            i => format!("iteration {i}: {what}"),
        };
        let (lane, total) = (self.ledger.lane().to_string(), total as u64);
        self.ledger.output().event(Event::Phase { lane, name: name.clone(), total });
        name
    }

    fn advance(&self) {
        self.ledger.output().event(Event::Advance { lane: self.ledger.lane().to_string(), done: 1 });
    }

    fn note(&self, text: String) {
        self.ledger.output().event(Event::Note { lane: self.ledger.lane().to_string(), text });
    }

    /// How many questions have a pseudo-label and how many of those are right.
    pub fn pseudo_labels(&self, iteration: usize, debates: &[Debate], labels: &[Option<&str>]) -> Result<()> {
        let is_right = |d: &Debate, answer: Option<&str>| self.own.answers.is_right(&d.id, answer);
        let labelled: Vec<f64> = debates
            .iter()
            .zip(labels)
            .filter_map(|(d, label)| label.map(|l| f64::from(u8::from(is_right(d, Some(l))))))
            .collect();
        let text = format!(
            "iteration {iteration}: {} of {} questions have a pseudo-label, {} of them right",
            labelled.len(),
            debates.len(),
            Estimate::of(&labelled).percent()
        );
        let vote = |m: usize| share(debates.iter().map(|d| is_right(d, d.rounds[m].vote.answer.as_deref())));
        let rounds = (0..debates.first().map_or(0, |d| d.rounds.len())).map(vote).collect();
        let record = PseudoLabels {
            vote_accuracy_by_round: rounds,
            ..self.labels(iteration, Source::Vote, debates, &labelled)
        };
        self.learn(iteration, text, record)
    }

    /// The same where every answer is its own label: of the questions with any answer, the mean
    /// share of right ones.
    pub fn own_answers(&self, iteration: usize, sampled: &[Debate]) -> Result<()> {
        let of_question = |d: &Debate| -> Option<f64> {
            let answers: Vec<_> = d.rounds[0].turns.iter().filter_map(|t| t.answer.as_deref()).collect();
            let right = answers.iter().map(|a| self.own.answers.is_right(&d.id, Some(a)));
            (!answers.is_empty()).then(|| share(right))
        };
        let labelled: Vec<f64> = sampled.iter().filter_map(of_question).collect();
        let text = format!(
            "iteration {iteration}: every answer is learnt, {} of them right",
            Estimate::of(&labelled).percent()
        );
        self.learn(iteration, text, self.labels(iteration, Source::OwnAnswers, sampled, &labelled))
    }

    /// The same where reference answers were asked for: of the questions of which anything is
    /// learnt, all are right.
    pub fn references(&self, iteration: usize, sampled: &[Debate], learnt: &[Example]) -> Result<()> {
        let is_learnt = |d: &&Debate| learnt.iter().any(|e| e.question == d.id);
        let labelled = vec![1.0; sampled.iter().filter(is_learnt).count()];
        let hinted = learnt.iter().filter(|e| e.kind == "hinted").count();
        let text = format!(
            "iteration {iteration}: {} answers are learnt, {hinted} of them after a hint; reference answers \
             were asked for",
            learnt.len()
        );
        self.learn(iteration, text, self.labels(iteration, Source::References, sampled, &labelled))
    }

    fn learn(&self, iteration: usize, text: String, record: PseudoLabels) -> Result<()> {
        self.note(text);
        self.ledger.output().metrics(self.ledger.lane(), iteration, Record::PseudoLabels(record))
    }

    /// `labelled`: of each question with a label, the share of right ones.
    fn labels(&self, iteration: usize, source: Source, debates: &[Debate], labelled: &[f64]) -> PseudoLabels {
        let accuracy = Estimate::of(labelled);
        let last: Vec<&Round> = debates.iter().filter_map(|d| d.rounds.last()).collect();
        PseudoLabels {
            source,
            questions: debates.len(),
            unanswered: self.unanswered(iteration, debates),
            labelled: labelled.len(),
            coverage: labelled.len() as f64 / debates.len().max(1) as f64,
            accuracy: accuracy.value,
            standard_error: accuracy.standard_error,
            vote_accuracy_by_round: vec![],
            agreement: agreement(&last),
            rates: rates(debates.iter().flat_map(|d| d.rounds.iter().flat_map(|r| &r.turns))),
            asks_for_labels: self.asks_for_labels,
        }
    }

    /// Questions that nobody answered in the last round. They are kept, and told of.
    fn unanswered(&self, iteration: usize, debates: &[Debate]) -> usize {
        let count = debates.iter().filter(|d| d.vote.answer.is_none()).count();
        if count > 0 {
            let all = debates.len();
            self.note(format!(
                "iteration {iteration}: no agent has an answer to {count} of {all} questions; they are kept"
            ));
        }
        count
    }
}
