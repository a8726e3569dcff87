//! Finetuning: each student on its own data, all in one fused call.

use std::sync::Arc;

use serde_json::Value;

use super::lane::{Lane, Student};
use super::{Example, Training, Usage, schedule};
use crate::engine::{StepMetrics, TrainRequest, TrainStep, Trained};
use crate::error::Result;
use crate::measure::record::{Data, LeftOut, Record, Target, Trained as Report, Training as Reports};
use crate::run::{Event, StartFrom};

/// What one student is finetuned on.
pub struct Lesson<'a> {
    /// Who.
    pub student: &'a Student,
    /// On what.
    pub examples: Vec<Example>,
    /// How.
    pub training: &'a Training,
    /// Go over the data until this many tokens have been in a batch, in place of `num_epochs`.
    pub gradient_tokens: Option<u64>,
    /// How the data came about.
    pub about: Data,
}

impl<'a> Lesson<'a> {
    /// For the epochs that the settings give.
    pub fn new(student: &'a Student, examples: Vec<Example>, training: &'a Training, about: Data) -> Self {
        Self { student, examples, training, gradient_tokens: None, about }
    }

    /// Until this many tokens have been in a batch; logged.
    pub fn until(mut self, gradient_tokens: u64) -> Self {
        let once: usize = self.examples.iter().map(|e| e.sequence.tokens.len()).sum();
        let passes = (once > 0).then(|| gradient_tokens as f64 / once as f64);
        self.about.target = Some(Target { gradient_tokens, passes });
        Self { gradient_tokens: Some(gradient_tokens), ..self }
    }

    fn steps(&self, key: u64) -> Vec<TrainStep> {
        let Some(target) = self.gradient_tokens else {
            return schedule::steps(self.examples.len(), self.training, key);
        };
        let lengths: Vec<u64> = self.examples.iter().map(|e| e.sequence.tokens.len() as u64).collect();
        schedule::steps_for_tokens(&lengths, target, self.training, key)
    }
}

impl Lane {
    /// Finetunes all students together, keeps data sets, losses and adapters. A student without data keeps its adapter.
    pub async fn finetune(&self, iteration: usize, lessons: Vec<Lesson<'_>>) -> Result<()> {
        let scope = self.scope.child(format!("iteration-{iteration}/finetune"));
        let phase = self.ledger.phase(iteration, "finetune");
        let mut requests = Vec::new();
        // Where older checkpoints are given up, each has to hold all adapters of the lane, also those that learn nothing this time.
        let covers_all = self.config.run.keep_checkpoints > 0;
        for lesson in &lessons {
            let name = &lesson.student.name;
            let called: Arc<str> = format!("{name} of {}", self.name()).into();
            let records: Vec<Value> = lesson.examples.iter().map(Example::record).collect();
            self.output.dataset(self.name(), iteration, name, &records)?;
            if lesson.examples.is_empty() {
                self.note(format!("iteration {iteration}: {name} has no data and keeps its adapter"));
                if covers_all {
                    requests.push(TrainRequest {
                        adapter: lesson.student.adapter,
                        name: called.clone(),
                        sequences: Vec::new().into(),
                        steps: Vec::new(),
                        optimizer: lesson.training.optimizer(),
                        key: 0,
                        fresh_moments: false,
                    });
                }
                continue;
            }
            if lesson.training.section.start_from == StartFrom::Base {
                let initial = Arc::new(self.initial(lesson.student)?);
                self.scope.service().restore(lesson.student.adapter, initial).await?;
            }
            let key = self.choice(iteration, "shuffle", name);
            requests.push(TrainRequest {
                adapter: lesson.student.adapter,
                name: called.clone(),
                sequences: lesson.examples.iter().map(|e| e.sequence.clone()).collect(),
                steps: lesson.steps(key),
                optimizer: lesson.training.optimizer(),
                key,
                fresh_moments: !lesson.training.section.keep_moments,
            });
        }
        let total = requests.iter().map(|r| r.steps.len() as u64).sum();
        let lane = self.name().to_string();
        let name = format!("iteration {iteration}: finetuning");
        self.output.event(Event::Phase { lane: lane.clone(), name, total });
        let keep_moments = lessons.iter().any(|l| l.training.section.keep_moments);
        let Trained { metrics: trained, is_pruned } = scope.train(requests, keep_moments).await?;
        let mut trained = trained.into_iter();
        self.output.event(Event::Advance { lane, done: total });

        let (mut reports, mut usage) = (Reports::default(), Usage::default());
        for lesson in &lessons {
            let is_in = covers_all || !lesson.examples.is_empty();
            let steps = if is_in { trained.next().unwrap_or_default() } else { vec![] };
            for (step, fault) in steps.iter().filter_map(|s| Some((s.step, s.fault?))) {
                let name = &lesson.student.name;
                self.note(format!("iteration {iteration}: {name}, step {step} was left out: {fault}"));
            }
            usage.trained(lesson.student.adapter, steps.iter().map(|s| s.tokens).sum());
            reports.0.push((lesson.student.name.clone(), report(lesson, &steps)));
            // What is pruned was written before the training that made it so.
            if !is_pruned {
                let snapshot = self.scope.service().snapshot(lesson.student.adapter, false).await?;
                self.output.adapter(self.name(), iteration, &lesson.student.name, &snapshot)?;
            }
        }
        phase.end(&usage)?;
        self.output.metrics(self.name(), iteration, Record::Training(reports))
    }
}

fn report(lesson: &Lesson<'_>, steps: &[StepMetrics]) -> Report {
    // Of a step that was left out there is no number.
    let column = |f: fn(&StepMetrics) -> f32| steps.iter().map(|s| s.fault.is_none().then(|| f(s))).collect();
    let left_out = |s: &StepMetrics| Some(LeftOut { step: s.step.into(), fault: s.fault?.to_string() });
    Report {
        data: lesson.about.clone(),
        examples: lesson.examples.len(),
        tokens: steps.iter().map(|s| s.tokens).sum(),
        loss: column(|s| s.loss),
        grad_norm: column(|s| s.grad_norm),
        learning_rate: column(|s| s.learning_rate),
        left_out: steps.iter().filter_map(left_out).collect(),
    }
}
