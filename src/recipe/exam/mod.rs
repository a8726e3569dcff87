//! Measuring societies: greedy, single-sample, majority and debate accuracy with standard errors, and how good the pseudo-labels are.
//! Here, and only here, reference answers are used.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::Example;
use super::lane::record;
use super::outcomes::{Parameters, add_votes_of_fewer, budget, outcomes};
use super::{Diversity, Ledger, Usage};
use crate::debate::{Debate, Occasion, Protocol, Round, Society, Turn, Vote};
use crate::engine::Scope;
use crate::error::{Error, Result};
use crate::measure::{Estimate, share};
use crate::run::{EvalMethod, EvalSection, Event, Output, RecipeInfo, RunConfig};
use crate::task::{AnswerKey, Question, Questions};

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Methods {
    /// The most likely answer of every generator.
    pub greedy: bool,
    /// One sample of every generator.
    pub single: bool,
    /// The vote over this many samples (sample s by generator s mod N); 0 leaves it out.
    pub majority: usize,
    /// The debate, its first round's vote and its last one's.
    pub debate: bool,
}

impl Methods {
    /// From `[eval]`.
    pub fn new(section: &EvalSection, agents: usize) -> Self {
        let has = |method| section.methods.contains(&method);
        let samples = if section.majority_samples == 0 { agents } else { section.majority_samples };
        Self {
            greedy: has(EvalMethod::Greedy),
            single: has(EvalMethod::Single),
            majority: if has(EvalMethod::Majority) { samples } else { 0 },
            debate: has(EvalMethod::Debate),
        }
    }
}

/// One question's answers by every method. The first N samples are the debate's first round, if there is a debate.
pub(super) struct Exam {
    pub greedy: Vec<Turn>,
    pub samples: Vec<Turn>,
    pub majority: Option<Vote>,
    /// The votes of the first 1, 2, 3, … samples, up to those of `majority`.
    pub by_samples: Vec<Vote>,
    pub debate: Option<Debate>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Evaluation {
    /// Accuracies and rates by method.
    pub metrics: Value,
    /// By name (`greedy`, `samples`, `debate`), in question order, each with the reference answer and whether it was met.
    pub transcripts: Vec<(&'static str, Vec<Value>)>,
    /// The accuracies in one line.
    pub line: String,
    /// The debates, in question order, if there were any.
    pub debates: Vec<Debate>,
    /// What it cost.
    pub usage: Usage,
}

/// Puts `questions` to a society and grades it. `answered` is called as each question is complete, with the first question's debate.
pub async fn evaluate(
    table: &Protocol,
    scope: &Scope,
    questions: &[Question],
    society: &Society,
    occasion: Occasion,
    methods: Methods,
    parameters: &Parameters,
    answers: &AnswerKey,
    answered: &dyn Fn(Option<Value>),
) -> Result<Evaluation> {
    let agents = society.agents();
    let alike = society.generators.iter().all(|g| *g == society.generators[0]) && !table.tells_ids();
    let distinct = if alike { 1 } else { agents };
    let exams = table
        .each(scope, questions, |i, question, scope| async move {
            let greedy = if methods.greedy { distinct } else { 0 };
            let wanted = methods.majority.max(if methods.single { agents } else { 0 });
            let drawn_by_debate = if methods.debate { agents.min(wanted) } else { 0 };
            let (greedy_scope, sample_scope, debate_scope) =
                (scope.child("greedy"), scope.child("samples"), scope.child("debate"));
            let (greedy, extra, debate) = futures::try_join!(
                table.first_answers(&greedy_scope, question, society, occasion, 0..greedy, true),
                table.first_answers(
                    &sample_scope,
                    question,
                    society,
                    occasion,
                    drawn_by_debate..wanted,
                    false
                ),
                async {
                    if !methods.debate {
                        return Ok(None);
                    }
                    table.debate(&debate_scope, question, society, occasion).await.map(Some)
                }
            )?;
            let mut samples = match &debate {
                Some(debate) => debate.rounds[0].turns[..drawn_by_debate].to_vec(),
                None => vec![],
            };
            samples.extend(extra);
            let shown = match &debate {
                Some(debate) if i == 0 => {
                    Some(graded(record(debate)?, answers, &debate.id, &debate.vote.answer))
                }
                _ => None,
            };
            answered(shown);
            let voters = &samples[..methods.majority.min(samples.len())];
            let of_first = |k| table.vote(question, occasion, &voters[..k]);
            let by_samples: Vec<Vote> = (1..=voters.len()).map(of_first).collect();
            let majority = by_samples.last().cloned();
            Ok(Exam { greedy, samples, majority, by_samples, debate })
        })
        .await?;
    let budget = budget(&exams, society, parameters);
    let mut evaluation = grade(questions, &exams, agents, methods, budget, answers)?;
    for exam in exams {
        // The debate's own first answers are among the samples.
        let drawn_by_debate = if exam.debate.is_some() { agents.min(exam.samples.len()) } else { 0 };
        let turns = exam.greedy.iter().chain(&exam.samples[drawn_by_debate..]);
        evaluation.usage.turns(&society.generators, turns);
        exam.debate.iter().for_each(|debate| evaluation.usage.debate(society, debate));
        evaluation.debates.extend(exam.debate);
    }
    Ok(evaluation)
}

fn grade(
    questions: &[Question],
    exams: &[Exam],
    agents: usize,
    methods: Methods,
    budget: Option<usize>,
    answers: &AnswerKey,
) -> Result<Evaluation> {
    let right = |q: &Question, answer: &Option<String>| answers.is_right(&q.id, answer.as_deref());
    let by_question = || questions.iter().zip(exams);
    let mut metrics = Map::new();
    let mut line = Vec::new();
    metrics.insert("questions".into(), questions.len().into());

    let of_turns = |all: Vec<(&Question, &[Turn])>| {
        let by_question = all.iter().map(|(q, turns)| share(turns.iter().map(|t| right(q, &t.answer))));
        let accuracy = Estimate::of(&by_question.collect::<Vec<_>>());
        let mut value = estimate(accuracy);
        value["agents"] = per_agent(&all, &|q, t| right(q, &t.answer));
        add_rates(&mut value, all.iter().flat_map(|(_, turns)| *turns));
        (value, accuracy)
    };
    if methods.greedy {
        let (value, accuracy) = of_turns(by_question().map(|(q, e)| (q, &e.greedy[..])).collect());
        metrics.insert("greedy".into(), value);
        line.push(format!("greedy {}", accuracy.percent()));
    }
    if methods.single {
        let (value, accuracy) = of_turns(by_question().map(|(q, e)| (q, &e.samples[..agents])).collect());
        metrics.insert("single".into(), value);
        line.push(format!("single {}", accuracy.percent()));
    }
    let of_votes = |vote: &dyn Fn(&Exam) -> Option<String>| {
        Estimate::share(&by_question().map(|(q, e)| right(q, &vote(e))).collect::<Vec<_>>())
    };
    if methods.majority > 0 {
        let accuracy = of_votes(&|e| e.majority.as_ref()?.answer.clone());
        let mut value = estimate(accuracy);
        value["samples"] = methods.majority.into();
        add_rates(&mut value, exams.iter().flat_map(|e| &e.samples[..methods.majority]));
        add_votes_of_fewer(&mut value, questions, exams, answers, budget);
        metrics.insert("majority".into(), value);
        line.push(format!("majority of {} {}", methods.majority, accuracy.percent()));
    }
    if methods.debate {
        let debates: Vec<&Debate> = exams.iter().filter_map(|e| e.debate.as_ref()).collect();
        let rounds = debates.first().map_or(0, |d| d.rounds.len());
        let mut measured = Vec::new();
        for m in 0..rounds {
            let accuracy = of_votes(&|e| e.debate.as_ref()?.rounds[m].vote.answer.clone());
            let mut value = estimate(accuracy);
            let all: Vec<_> = questions.iter().zip(debates.iter().map(|d| &d.rounds[m].turns[..])).collect();
            value["agents"] = per_agent(&all, &|q, t| right(q, &t.answer));
            let of_round: Vec<&Round> = debates.iter().map(|d| &d.rounds[m]).collect();
            add_agreement(&mut value, &of_round);
            add_rates(&mut value, of_round.iter().flat_map(|r| &r.turns));
            line.push(match (m + 1, rounds) {
                (m, rounds) if m == rounds => format!("debate {}", accuracy.percent()),
                (m, _) => format!("vote of round {m} {}", accuracy.percent()),
            });
            measured.push(value);
        }
        let mut value = measured.last().cloned().unwrap_or_default();
        value["rounds"] = measured.into();
        if let Some(k) = budget {
            value["costs_samples"] = k.into();
        }
        metrics.insert("debate".into(), value);
    }
    metrics.insert("outcomes".into(), outcomes(questions, exams, agents, methods, answers));

    let mut transcripts = Vec::new();
    if methods.greedy {
        transcripts.push(("greedy", answered_by(questions, exams, answers, |e| &e.greedy)?));
    }
    if exams.iter().any(|e| e.debate.is_none() && !e.samples.is_empty() || e.samples.len() > agents) {
        transcripts.push(("samples", answered_by(questions, exams, answers, |e| &e.samples)?));
    }
    if methods.debate {
        let of_debate = |e: &Exam| {
            let debate = e.debate.as_ref()?;
            Some(record(debate).map(|r| graded(r, answers, &debate.id, &debate.vote.answer)))
        };
        transcripts.push(("debate", exams.iter().filter_map(of_debate).collect::<Result<_>>()?));
    }
    let (debates, usage) = (vec![], Usage::default());
    Ok(Evaluation { metrics: Value::Object(metrics), transcripts, line: line.join(", "), debates, usage })
}

/// Records of first answers.
fn answered_by(
    questions: &[Question],
    exams: &[Exam],
    answers: &AnswerKey,
    turns: impl Fn(&Exam) -> &Vec<Turn>,
) -> Result<Vec<Value>> {
    questions
        .iter()
        .zip(exams)
        .map(|(q, e)| {
            let turns = turns(e);
            let right: Vec<bool> =
                turns.iter().map(|t| answers.is_right(&q.id, t.answer.as_deref())).collect();
            Ok(json!({
                "id": q.id,
                "question": q.text,
                "turns": serde_json::to_value(turns).map_err(|e| Error::Internal(e.to_string()))?,
                "reference": answers.reference(&q.id),
                "right": right,
            }))
        })
        .collect()
}

/// A transcript with the reference answer and whether the vote met it.
fn graded(mut transcript: Value, answers: &AnswerKey, id: &str, vote: &Option<String>) -> Value {
    transcript["reference"] = json!(answers.reference(id));
    transcript["right"] = answers.is_right(id, vote.as_deref()).into();
    transcript
}

fn estimate(accuracy: Estimate) -> Value {
    json!({ "accuracy": accuracy.value, "standard_error": accuracy.standard_error })
}

/// The share of right answers of each agent's turns.
fn per_agent(all: &[(&Question, &[Turn])], right: &dyn Fn(&Question, &Turn) -> bool) -> Value {
    let agents = all.iter().flat_map(|(_, turns)| turns.iter().map(|t| t.agent + 1)).max().unwrap_or(0);
    let of = |n: usize| {
        share(all.iter().flat_map(|(q, turns)| turns.iter().filter(|t| t.agent == n).map(|t| right(q, t))))
    };
    (0..agents).map(of).collect::<Vec<_>>().into()
}

/// How much agents agree: all of them, and the mean share that gave the vote's answer. No answer agrees with nothing.
fn add_agreement(value: &mut Value, rounds: &[&Round]) {
    let shares: Vec<f64> = rounds.iter().map(|r| r.vote.votes as f64 / r.turns.len() as f64).collect();
    value["all_agree"] = share(rounds.iter().map(|r| r.vote.votes == r.turns.len())).into();
    value["consensus"] = Estimate::of(&shares).value.into();
}

/// Shares of answers that parse, are cut off, are missing; the same for summaries; mean length and log-probability.
fn add_rates<'t>(value: &mut Value, turns: impl Iterator<Item = &'t Turn>) {
    let turns: Vec<&Turn> = turns.collect();
    let said: Vec<_> = turns.iter().filter_map(|t| t.response.as_ref()).collect();
    let mean = |values: Vec<f64>| Estimate::of(&values).value;
    value["parse_rate"] = share(turns.iter().map(|t| t.answer.is_some())).into();
    value["truncation_rate"] = share(turns.iter().map(|t| t.is_cut_off())).into();
    value["missing_rate"] = share(turns.iter().map(|t| t.missing.is_some())).into();
    value["mean_tokens"] = mean(said.iter().map(|r| r.tokens as f64).collect()).into();
    value["mean_logprob"] = mean(said.iter().map(|r| r.mean_logprob).collect()).into();
    let summaries: Vec<_> = turns.iter().filter_map(|t| t.summary.as_ref()).collect();
    if !summaries.is_empty() {
        value["summaries"] = json!({
            "truncation_rate": share(summaries.iter().map(|s| s.finish == crate::engine::Finish::Length)),
            "mean_tokens": mean(summaries.iter().map(|s| s.tokens as f64).collect()),
        });
    }
}

/// A task's questions, put to a society at a table, and their answers.
pub struct Sitting {
    /// The protocol.
    pub table: Rc<Protocol>,
    /// What is asked.
    pub questions: Rc<Questions>,
    /// What is right.
    pub answers: Rc<AnswerKey>,
}

/// Measures a recipe's societies as it goes. Holds the answers and gives none away: everything goes to the output.
pub struct Examiner {
    scope: Scope,
    lane: String,
    own: Sitting,
    transfer: Option<Sitting>,
    output: Rc<dyn Output>,
    ledger: Rc<Ledger>,
    seed: u64,
    methods: Methods,
    diversity: Diversity,
    asks_for_labels: bool,
    measure_before: bool,
    iterations: usize,
}

impl Examiner {
    /// For one lane: its own task, and another one to which nothing that it learns belongs.
    pub fn new(
        scope: Scope,
        lane: &str,
        own: Sitting,
        transfer: Option<Sitting>,
        output: Rc<dyn Output>,
        ledger: Rc<Ledger>,
        seed: u64,
        recipe: &RecipeInfo,
        config: &RunConfig,
    ) -> Result<Self> {
        let methods = Methods::new(&config.eval, config.debate.agents);
        let (measure_before, iterations) = (config.eval.before, config.run.iterations);
        let diversity = Diversity::new(&config.eval, &config.sampling);
        let (lane, asks_for_labels) = (lane.to_string(), recipe.asks_for_labels);
        Ok(Self {
            scope,
            lane,
            own,
            transfer,
            output,
            ledger,
            seed,
            methods,
            diversity,
            asks_for_labels,
            measure_before,
            iterations,
        })
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
        let occasion = Occasion { seed: self.seed, iteration, purpose: split };
        let name = match iteration {
            0 => format!("before training: {split} questions"),
            i => format!("iteration {i}: {split} questions"),
        };
        let total = questions.len() as u64;
        self.output.event(Event::Phase { lane: self.lane.clone(), name: name.clone(), total });
        let answered = |debate: Option<Value>| {
            self.output.event(Event::Advance { lane: self.lane.clone(), done: 1 });
            if let Some(transcript) = debate {
                self.output.event(Event::Debate { lane: self.lane.clone(), transcript });
            }
        };
        let mut result = evaluate(
            &sitting.table,
            &scope,
            questions,
            society,
            occasion,
            self.methods,
            &self.ledger.parameters(),
            &sitting.answers,
            &answered,
        )
        .await?;
        phase.end(&result.usage)?;
        for (method, records) in &result.transcripts {
            self.output.transcripts(&self.lane, iteration, &format!("{split}-{method}"), records)?;
        }
        self.output.event(Event::Note { lane: self.lane.clone(), text: format!("{name}: {}", result.line) });
        if let (Some(k), 0, "dev") = (result.metrics["debate"]["costs_samples"].as_u64(), iteration, split)
            && self.methods.majority > 0
            && k as usize > self.methods.majority
        {
            let drawn = self.methods.majority;
            let text = format!("a debate costs as much as {k} samples; eval.majority_samples draws {drawn}");
            self.output.event(Event::Note { lane: self.lane.clone(), text });
        }
        self.mark(&mut result.metrics);
        self.output.metrics(&self.lane, iteration, split, result.metrics)?;
        if split == "dev" {
            self.diversity(&scope, iteration, sitting, questions, &result.debates, society).await?;
        }
        Ok(())
    }

    /// How different the agents are, on the first debates.
    async fn diversity(
        &self,
        scope: &Scope,
        iteration: usize,
        sitting: &Sitting,
        questions: &[Question],
        debates: &[Debate],
        society: &Society,
    ) -> Result<()> {
        let total = self.diversity.questions(debates) as u64;
        if total == 0 {
            return Ok(());
        }
        let phase = self.ledger.phase(iteration, "diversity");
        let lane = || self.lane.clone();
        let name = match iteration {
            0 => "before training: diversity".to_string(),
            i => format!("iteration {i}: diversity"),
        };
        self.output.event(Event::Phase { lane: lane(), name, total });
        let measured = || self.output.event(Event::Advance { lane: lane(), done: 1 });
        let (scope, key) = (scope.child("diversity"), &sitting.answers);
        let measuring =
            self.diversity.measure(&sitting.table, &scope, questions, debates, society, key, &measured);
        let value = measuring.await?;
        phase.end_untold()?;
        self.output.metrics(&self.lane, iteration, "diversity", value)
    }

    /// What a recipe reaches that asks for labels is no label-free result, and says so wherever it goes.
    fn mark(&self, metrics: &mut Value) {
        if self.asks_for_labels {
            metrics["asks_for_labels"] = true.into();
        }
    }

    /// How many questions have a pseudo-label and how many of those are right.
    pub fn pseudo_labels(&self, iteration: usize, debates: &[Debate], labels: &[Option<&str>]) -> Result<()> {
        let labelled: Vec<bool> = debates
            .iter()
            .zip(labels)
            .filter_map(|(d, label)| label.map(|l| self.own.answers.is_right(&d.id, Some(l))))
            .collect();
        let accuracy = Estimate::share(&labelled);
        let coverage = share(labels.iter().map(Option::is_some));
        let vote = |m: usize| {
            share(
                debates.iter().map(|d| self.own.answers.is_right(&d.id, d.rounds[m].vote.answer.as_deref())),
            )
        };
        let rounds = debates.first().map_or(0, |d| d.rounds.len());
        let last: Vec<&Round> = debates.iter().filter_map(|d| d.rounds.last()).collect();
        let mut value = json!({
            "source": "vote",
            "questions": debates.len(),
            "unanswered": self.unanswered(iteration, debates),
            "labelled": labelled.len(),
            "coverage": coverage,
            "accuracy": accuracy.value,
            "standard_error": accuracy.standard_error,
            "vote_accuracy_by_round": (0..rounds).map(vote).collect::<Vec<_>>(),
        });
        add_agreement(&mut value, &last);
        add_rates(&mut value, debates.iter().flat_map(|d| d.rounds.iter().flat_map(|r| &r.turns)));
        let text = format!(
            "iteration {iteration}: {} of {} questions have a pseudo-label, {} of them right",
            labelled.len(),
            debates.len(),
            accuracy.percent()
        );
        self.output.event(Event::Note { lane: self.lane.clone(), text });
        self.output.metrics(&self.lane, iteration, "pseudo-labels", value)
    }

    /// The same where every answer is its own label: of the questions with any answer, the mean share of right ones.
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
        self.labels(iteration, sampled, "own answers", &labelled, text)
    }

    /// The same where reference answers were asked for: of the questions of which anything is learnt, all are right.
    pub fn references(&self, iteration: usize, sampled: &[Debate], learnt: &[Example]) -> Result<()> {
        let is_learnt = |d: &&Debate| learnt.iter().any(|e| e.question == d.id);
        let labelled = vec![1.0; sampled.iter().filter(is_learnt).count()];
        let hinted = learnt.iter().filter(|e| e.kind == "hinted").count();
        let text = format!(
            "iteration {iteration}: {} answers are learnt, {hinted} of them after a hint; reference answers were asked for",
            learnt.len()
        );
        self.labels(iteration, sampled, "reference answers", &labelled, text)
    }

    fn labels(
        &self,
        iteration: usize,
        sampled: &[Debate],
        source: &str,
        labelled: &[f64],
        text: String,
    ) -> Result<()> {
        let accuracy = Estimate::of(labelled);
        let rounds: Vec<&Round> = sampled.iter().flat_map(|d| &d.rounds).collect();
        let mut value = json!({
            "source": source,
            "questions": sampled.len(),
            "unanswered": self.unanswered(iteration, sampled),
            "labelled": labelled.len(),
            "coverage": labelled.len() as f64 / sampled.len().max(1) as f64,
            "accuracy": accuracy.value,
            "standard_error": accuracy.standard_error,
        });
        add_agreement(&mut value, &rounds);
        add_rates(&mut value, rounds.iter().flat_map(|r| &r.turns));
        self.mark(&mut value);
        self.output.event(Event::Note { lane: self.lane.clone(), text });
        self.output.metrics(&self.lane, iteration, "pseudo-labels", value)
    }

    /// Questions that nobody answered in the last round. They are kept, and told of.
    fn unanswered(&self, iteration: usize, debates: &[Debate]) -> usize {
        let count = debates.iter().filter(|d| d.vote.answer.is_none()).count();
        if count > 0 {
            let all = debates.len();
            let text = format!(
                "iteration {iteration}: no agent has an answer to {count} of {all} questions; they are kept"
            );
            self.output.event(Event::Note { lane: self.lane.clone(), text });
        }
        count
    }
}
