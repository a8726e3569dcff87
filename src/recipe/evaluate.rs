//! Measuring societies: greedy, single-sample, majority and debate accuracy with standard errors, and how good the pseudo-labels are.
//! Here, and only here, reference answers are used.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::lane::record;
use super::{Diversity, Ledger, Usage};
use crate::debate::{Debate, Occasion, Round, Society, Table, Turn, Vote};
use crate::engine::Scope;
use crate::error::{Error, Result};
use crate::measure::{Estimate, share};
use crate::run::{EvalSection, Event, Output, RunConfig};
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
    pub fn new(section: &EvalSection, agents: usize) -> Result<Self> {
        let mut methods = Self { greedy: false, single: false, majority: 0, debate: false };
        for name in &section.methods {
            match name.as_str() {
                "greedy" => methods.greedy = true,
                "single" => methods.single = true,
                "majority" if section.majority_samples == 0 => methods.majority = agents,
                "majority" => methods.majority = section.majority_samples,
                "debate" => methods.debate = true,
                other => {
                    return Err(Error::input(
                        "eval.methods",
                        format!("`{other}` is none of greedy, single, majority, debate"),
                    ));
                }
            }
        }
        Ok(methods)
    }
}

/// One question's answers by every method. The first N samples are the debate's first round, if there is a debate.
struct Exam {
    greedy: Vec<Turn>,
    samples: Vec<Turn>,
    majority: Option<Vote>,
    debate: Option<Debate>,
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
    table: &Table,
    scope: &Scope,
    questions: &[Question],
    society: &Society,
    occasion: Occasion,
    methods: Methods,
    answers: &AnswerKey,
    answered: &dyn Fn(Option<Value>),
) -> Result<Evaluation> {
    let agents = society.agents();
    let distinct = if society.generators.iter().all(|g| *g == society.generators[0]) { 1 } else { agents };
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
            let majority = (methods.majority > 0).then(|| table.vote(question, occasion, voters));
            Ok(Exam { greedy, samples, majority, debate })
        })
        .await?;
    let mut evaluation = grade(questions, &exams, agents, methods, answers)?;
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
        metrics.insert("debate".into(), value);
    }

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

/// Measures a recipe's societies as it goes. Holds the answers and gives none away: everything goes to the output.
pub struct Examiner {
    scope: Scope,
    lane: String,
    table: Rc<Table>,
    questions: Rc<Questions>,
    answers: Rc<AnswerKey>,
    output: Rc<dyn Output>,
    ledger: Rc<Ledger>,
    seed: u64,
    methods: Methods,
    diversity: Diversity,
    measure_before: bool,
    iterations: usize,
}

impl Examiner {
    /// For one lane.
    pub fn new(
        scope: Scope,
        lane: &str,
        table: Rc<Table>,
        questions: Rc<Questions>,
        answers: Rc<AnswerKey>,
        output: Rc<dyn Output>,
        ledger: Rc<Ledger>,
        seed: u64,
        config: &RunConfig,
    ) -> Result<Self> {
        let methods = Methods::new(&config.eval, config.debate.agents)?;
        let (measure_before, iterations) = (config.eval.before, config.run.iterations);
        let diversity = Diversity::new(&config.eval, &config.sampling)?;
        let lane = lane.to_string();
        Ok(Self {
            scope,
            lane,
            table,
            questions,
            answers,
            output,
            ledger,
            seed,
            methods,
            diversity,
            measure_before,
            iterations,
        })
    }

    /// Before the first iteration: the society is still the base model.
    pub async fn before(&self, society: &Society) -> Result<()> {
        if self.measure_before {
            self.examine(0, "dev", &self.questions.dev, society).await?;
            self.examine(0, "test", &self.questions.test, society).await?;
            self.ledger.close(0)?;
        }
        Ok(())
    }

    /// After an iteration; on test questions after the last one only.
    pub async fn after(&self, iteration: usize, society: &Society) -> Result<()> {
        self.examine(iteration, "dev", &self.questions.dev, society).await?;
        if iteration == self.iterations {
            self.examine(iteration, "test", &self.questions.test, society).await?;
        }
        self.ledger.close(iteration)
    }

    async fn examine(
        &self,
        iteration: usize,
        split: &'static str,
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
        let result = evaluate(
            &self.table,
            &scope,
            questions,
            society,
            occasion,
            self.methods,
            &self.answers,
            &answered,
        )
        .await?;
        phase.end(&result.usage)?;
        for (method, records) in &result.transcripts {
            self.output.transcripts(&self.lane, iteration, &format!("{split}-{method}"), records)?;
        }
        self.output.event(Event::Note { lane: self.lane.clone(), text: format!("{name}: {}", result.line) });
        self.output.metrics(&self.lane, iteration, split, result.metrics)?;
        if split == "dev" {
            self.diversity(&scope, iteration, questions, &result.debates, society).await?;
        }
        Ok(())
    }

    /// How different the agents are, on the first debates.
    async fn diversity(
        &self,
        scope: &Scope,
        iteration: usize,
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
        let (scope, key) = (scope.child("diversity"), &self.answers);
        let measuring =
            self.diversity.measure(&self.table, &scope, questions, debates, society, key, &measured);
        let value = measuring.await?;
        phase.end_untold()?;
        self.output.metrics(&self.lane, iteration, "diversity", value)
    }

    /// How many questions have a pseudo-label and how many of those are right.
    pub fn pseudo_labels(&self, iteration: usize, debates: &[Debate], labels: &[Option<&str>]) -> Result<()> {
        let labelled: Vec<bool> = debates
            .iter()
            .zip(labels)
            .filter_map(|(d, label)| label.map(|l| self.answers.is_right(&d.id, Some(l))))
            .collect();
        let accuracy = Estimate::share(&labelled);
        let coverage = share(labels.iter().map(Option::is_some));
        let vote = |m: usize| {
            share(debates.iter().map(|d| self.answers.is_right(&d.id, d.rounds[m].vote.answer.as_deref())))
        };
        let rounds = debates.first().map_or(0, |d| d.rounds.len());
        let last: Vec<&Round> = debates.iter().filter_map(|d| d.rounds.last()).collect();
        let mut value = json!({
            "questions": debates.len(),
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
}
