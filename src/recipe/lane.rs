//! What every recipe does the same way: adapters, debates over the training questions, finetuning, results.

use std::rc::Rc;
use std::sync::Arc;

use futures::future::try_join_all;
use serde_json::Value;

use super::registry::names;
use super::{Ledger, Training, Usage, data};
use crate::adapter::Snapshot;
use crate::debate::{Debate, Occasion, Protocol, Society};
use crate::engine::{AdapterId, AdapterSource, Scope, draw_key};
use crate::error::{Error, Result};
use crate::run::{AdapterSection, Event, Output, RunConfig, adapter_section};
use crate::task::{Labels, Question};

/// Makes the numbers of a fresh adapter from its settings and a seed.
pub type NewAdapter = Rc<dyn Fn(&AdapterSection, u64) -> Result<Snapshot>>;

/// An adapter that is finetuned.
pub struct Student {
    /// As files name it.
    pub name: String,
    /// As the engine names it.
    pub adapter: AdapterId,
    /// What its numbers before any training are made from, see [`Lane::initial`].
    seed: u64,
}

/// One (arm, seed): the training questions, without answers, and everything to work on them with.
pub struct Lane {
    /// The root scope.
    pub scope: Scope,
    /// The debate.
    pub table: Rc<Protocol>,
    /// D_task.
    pub questions: Vec<Question>,
    /// Where results go.
    pub output: Rc<dyn Output>,
    /// What it all costs.
    pub ledger: Rc<Ledger>,
    /// The seed.
    pub seed: u64,
    /// The resolved configuration.
    pub config: RunConfig,
    /// `[training]`
    pub training: Training,
    /// `[training]` for critics.
    pub critic_training: Training,
    /// The reference answers, of a recipe that asks for labels.
    pub(super) labels: Option<Labels>,
    pub(super) new_adapter: NewAdapter,
}

impl Lane {
    /// The reference answers of the training questions.
    ///
    /// # Errors
    ///
    /// The recipe has not said that it asks for labels.
    pub fn labels(&self) -> Result<&Labels> {
        let problem = || format!("{} is told no answers: its recipe does not ask for labels", self.name());
        self.labels.as_ref().ok_or_else(|| Error::Internal(problem()))
    }

    /// The lane's name.
    pub fn name(&self) -> &str {
        self.scope.path()
    }

    /// N.
    pub fn agents(&self) -> usize {
        self.table.agents()
    }

    /// A fresh adapter; while untrained it is the base model.
    pub async fn student(&self, name: impl Into<String>) -> Result<Student> {
        let name = name.into();
        let seed = draw_key(&[&self.seed.to_le_bytes(), b"adapter", name.as_bytes()]);
        let initial = Arc::new(self.initial_of(&name, seed)?);
        let adapter = self.scope.service().create(AdapterSource::Snapshot(initial.clone())).await?;
        self.ledger.adapter(adapter, &initial);
        Ok(Student { name, adapter, seed })
    }

    /// A student's numbers before any training. Made again when they are wanted: kept, they would double the adapters' memory.
    pub fn initial(&self, student: &Student) -> Result<Snapshot> {
        self.initial_of(&student.name, student.seed)
    }

    fn initial_of(&self, name: &str, seed: u64) -> Result<Snapshot> {
        let section = adapter_section(&self.config.adapter, name)
            .map_err(|problem| Error::input(format!("adapter.of, {name}"), problem))?;
        (self.new_adapter)(&section, seed)
    }

    /// `student`s called `ROLE-0` to `ROLE-(N-1)`.
    pub async fn students(&self, role: &str) -> Result<Vec<Student>> {
        let mut students = Vec::new();
        for name in names(role, self.agents()) {
            students.push(self.student(name).await?);
        }
        Ok(students)
    }

    /// Gives the students' adapters back.
    pub async fn dismiss(&self, students: &[Student]) -> Result<()> {
        let dropped = students.iter().map(|s| self.scope.service().drop_adapter(s.adapter));
        try_join_all(dropped).await.map(drop)
    }

    /// Debates every training question and keeps the transcripts.
    pub async fn debates(&self, iteration: usize, society: &Society) -> Result<Vec<Debate>> {
        let scope = self.scope.child(format!("iteration-{iteration}/debate"));
        let phase = self.ledger.phase(iteration, "debate");
        let occasion = Occasion { seed: self.seed, iteration, purpose: "train" };
        let lane = self.name().to_string();
        let total = self.questions.len() as u64;
        self.output.event(Event::Phase {
            lane: lane.clone(),
            name: format!("iteration {iteration}: debate"),
            total,
        });
        let debates = self
            .table
            .each(&scope, &self.questions, |i, question, scope| {
                let lane = &lane;
                async move {
                    let debate = self.table.debate(&scope, question, society, occasion).await?;
                    self.output.event(Event::Advance { lane: lane.clone(), done: 1 });
                    if i == 0 {
                        self.output.event(Event::Debate { lane: lane.clone(), transcript: record(&debate)? });
                    }
                    Ok(debate)
                }
            })
            .await?;
        let records = debates.iter().map(record).collect::<Result<Vec<_>>>()?;
        self.output.transcripts(&lane, iteration, "train", &records)?;
        let mut usage = Usage::default();
        debates.iter().for_each(|debate| usage.debate(society, debate));
        phase.end(&usage)?;
        Ok(debates)
    }

    /// `count` independent answers of the society to every training question, and their vote, each as a debate of one round; keeps the
    /// transcripts. The first N are those of a debate's first round.
    pub async fn samples(&self, iteration: usize, society: &Society, count: usize) -> Result<Vec<Debate>> {
        let scope = self.scope.child(format!("iteration-{iteration}/samples"));
        let phase = self.ledger.phase(iteration, "samples");
        let occasion = Occasion { seed: self.seed, iteration, purpose: "train" };
        let lane = self.name().to_string();
        let (name, total) = (format!("iteration {iteration}: sampling"), self.questions.len() as u64);
        self.output.event(Event::Phase { lane: lane.clone(), name, total });
        let sampled = self
            .table
            .each(&scope, &self.questions, |_, question, scope| {
                let lane = &lane;
                async move {
                    let turns = self
                        .table
                        .first_answers(&scope, question, society, occasion, 0..count, false)
                        .await?;
                    self.output.event(Event::Advance { lane: lane.clone(), done: 1 });
                    let vote = self.table.vote(question, occasion, &turns);
                    Ok(Debate::of_samples(question, turns, vote))
                }
            })
            .await?;
        let records = sampled.iter().map(record).collect::<Result<Vec<_>>>()?;
        self.output.transcripts(&lane, iteration, "train", &records)?;
        let mut usage = Usage::default();
        sampled.iter().for_each(|samples| usage.debate(society, samples));
        phase.end(&usage)?;
        Ok(sampled)
    }

    /// The debates' votes where enough agents agree.
    pub fn pseudo_labels<'d>(&self, debates: &'d [Debate]) -> Vec<Option<&'d str>> {
        debates.iter().map(|d| data::pseudo_label(d, self.config.debate.min_agreement)).collect()
    }

    /// The key of a choice that training makes.
    pub fn choice(&self, iteration: usize, kind: &str, name: &str) -> u64 {
        let iteration = (iteration as u64).to_le_bytes();
        draw_key(&[&self.seed.to_le_bytes(), &iteration, b"train", kind.as_bytes(), name.as_bytes()])
    }

    /// A line for people.
    pub fn note(&self, text: String) {
        self.output.event(Event::Note { lane: self.name().into(), text });
    }
}

/// A transcript record.
pub fn record(debate: &Debate) -> Result<Value> {
    serde_json::to_value(debate).map_err(|e| Error::Internal(e.to_string()))
}
