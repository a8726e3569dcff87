//! How different the agents are, measured on dev debates after each evaluation (Multiagent Finetuning, section 4.2 and
//! appendix C).
//!
//! What is read is each agent's response of the last round, under the adapter that wrote it (a critic; with one round a
//! generator), given the agent's own conversation. The log-probability of a response is the mean over its tokens;
//! responses are averaged over pairs of agents, then over questions. Where an agent has no response it is left out, and
//! so is a question with fewer than two.
//!
//! - `nll`: -log p of the *other* agents' responses under each (held-out) critic. With one adapter for all agents these
//!   are other samples of the same model.
//! - `kl`: KL(p_i || p_j) a token, over ordered pairs of agents, estimated by agent i's own tokens: log p_i - log p_j,
//!   which is unbiased where they are drawn from p_i as it is (temperature 1, no truncation). The paper takes
//!   likelihoods from another model (Gemma-2 2B); this one takes the agents' own.
//! - `kl_base`: the same of each agent against the base; of the last round, and of generators on their first answers.
//! - `embedding`: 1 - cosine between responses that match the vote. The paper's encoder is T5-3B.
//! - `consensus`, `distinct_answers`, `error_correlation`, `pass_at_n`: of the last round's answers, and of the first's
//!   in `first_round`.
//! - `off_task_nll`: of a fixed text (the last paragraph of Darwin's *On the Origin of Species*, 1859), a token, under
//!   each generator and under the base: a rise is forgetting.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Examination;
use crate::debate::{Debate, Protocol, Round, Society, Speaker, Utterance};
use crate::engine::{AdapterId, EmbedRequest, Embedding, Scope, ScoreRequest};
use crate::error::{Error, Result};
use crate::measure::record::{self, Measured};
use crate::measure::{Estimate, Outcome, distinct_answers, error_correlation, mean_pass_at};
use crate::run::{Encoder, EvalSection, SamplingSection};
use crate::task::{AnswerKey, Question};

const OFF_TASK: &str = include_str!("../../assets/off_task.txt");

/// What is measured.
#[derive(Clone, Debug)]
pub struct Diversity {
    questions: usize,
    /// How answers are drawn, for the estimator's name.
    drawn: String,
    encoder: Encoder,
}

/// What one question's debate gives.
#[derive(Default)]
struct Found {
    /// By held-out agent: of the others' responses.
    nll: Vec<Vec<f64>>,
    /// By ordered pair.
    kl: Vec<f64>,
    /// By agent.
    kl_base: Vec<Option<f64>>,
    /// By agent, of first answers.
    kl_base_first: Vec<Option<f64>>,
    /// By pair.
    dissimilarity: Vec<f64>,
}

impl Diversity {
    /// From `[eval]` and `[sampling]`.
    pub fn new(eval: &EvalSection, sampling: &SamplingSection) -> Self {
        let SamplingSection { temperature, top_p, top_k, min_p, .. } = sampling;
        let mut drawn = format!("temperature {temperature}");
        if *top_p < 1.0 {
            drawn += &format!(", top-p {top_p}");
        }
        if *top_k > 0 {
            drawn += &format!(", top-k {top_k}");
        }
        if *min_p > 0.0 {
            drawn += &format!(", min-p {min_p}");
        }
        Self { questions: eval.diversity, drawn, encoder: eval.encoder }
    }

    /// How many of these debates are measured.
    pub fn questions(&self, debates: &[Debate]) -> usize {
        self.questions.min(debates.len())
    }

    /// Measures the first debates, `debates[i]` being that of `questions[i]`. `measured` is called as
    /// each is complete.
    pub async fn measure(
        &self,
        exam: &Examination<'_>,
        scope: &Scope,
        questions: &[Question],
        debates: &[Debate],
        measured: &dyn Fn(),
    ) -> Result<record::Diversity> {
        let debates = &debates[..self.questions(debates)];
        let (table, society) = (exam.table, exam.society);
        let context = table.codec().max_positions();
        let by_question = table.each(scope, &questions[..debates.len()], |i, _, scope| async move {
            let found = of_debate(&scope, &debates[i], society, context).await;
            measured();
            found
        });
        let off_scope = scope.child("off-task");
        let (found, off_task_nll) =
            futures::try_join!(by_question, off_task(table, &off_scope, &society.generators))?;

        let agents = society.agents();
        let last = debates.first().map_or(0, |d| d.rounds.len() - 1);
        let others = |m: &Found| m.nll.iter().map(|of| mean(of)).collect();
        let nll = by_agent(agents, &found, others, |m| mean(&m.nll.concat()));
        let kl_base = by_agent(agents, &found, |m| m.kl_base.clone(), |m| mean(&present(&m.kl_base)));
        let first = |m: &Found| m.kl_base_first.clone();
        let generators = by_agent(agents, &found, first, |m| mean(&present(&m.kl_base_first)));
        let kl = estimate(found.iter().filter_map(|m| mean(&m.kl)));
        let embedding = estimate(found.iter().filter_map(|m| mean(&m.dissimilarity)));
        Ok(record::Diversity {
            questions: debates.len(),
            nll,
            kl: kl.map(|kl| Measured {
                estimator: Some(self.estimator("p_j")),
                direction: Some("KL(p_i || p_j), i the agent that wrote, averaged over ordered pairs".into()),
                ..kl
            }),
            kl_base: kl_base.map(|kl| Measured {
                estimator: Some(self.estimator("base")),
                direction: Some("KL(p_i || base), averaged over agents; last round".into()),
                generators: generators.map(Box::new),
                ..kl
            }),
            embedding: embedding.map(|e| Measured { encoder: Some(self.encoder.to_string()), ..e }),
            answers: of_answers(debates, last, exam.answers),
            first_round: Some(of_answers(debates, 0, exam.answers)),
            off_task_nll,
        })
    }

    fn estimator(&self, other: &str) -> String {
        format!("mean of log p_i - log {other} over agent i's own sampled tokens, drawn at {}", self.drawn)
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn present(values: &[Option<f64>]) -> Vec<f64> {
    values.iter().flatten().copied().collect()
}

/// Mean and standard error over questions.
fn estimate(by_question: impl Iterator<Item = f64>) -> Option<Measured> {
    let values: Vec<f64> = by_question.collect();
    let Estimate { value, standard_error } = Estimate::of(&values);
    let standard_error = Some(standard_error);
    (!values.is_empty()).then(|| Measured { value, standard_error, ..Measured::default() })
}

/// The mean over questions of what `all` gives of each, and of what `each` gives of every agent.
fn by_agent(
    agents: usize,
    by_question: &[Found],
    each: impl Fn(&Found) -> Vec<Option<f64>>,
    all: impl Fn(&Found) -> Option<f64>,
) -> Option<Measured> {
    let all = estimate(by_question.iter().filter_map(all))?;
    let rows: Vec<Vec<Option<f64>>> = by_question.iter().map(each).collect();
    let of = |n: usize| mean(&rows.iter().filter_map(|row| *row.get(n)?).collect::<Vec<_>>());
    Some(Measured { per_agent: (0..agents).map(of).collect(), ..all })
}

/// What agents said in a round, by agent.
fn said(round: &Round) -> Vec<Option<&Utterance>> {
    round.turns.iter().map(|t| t.response.as_ref().filter(|r| !r.ids.is_empty())).collect()
}

/// The adapters of speakers whose texts can be scored.
fn scorable(speakers: &[Speaker]) -> Result<Vec<AdapterId>> {
    let problem = "an agent is a mixture of adapters, which has no scores; expected 0 questions";
    let alone = |s: &Speaker| s.alone().ok_or_else(|| Error::input("eval.diversity", problem));
    speakers.iter().map(alone).collect()
}

async fn of_debate(scope: &Scope, debate: &Debate, society: &Society, context: usize) -> Result<Found> {
    let last = debate.rounds.len() - 1;
    let (writers, generators) = (scorable(society.speakers(last + 1))?, scorable(&society.generators)?);
    let mut readings = Readings::default();
    let final_round = said(&debate.rounds[last]);
    let first_round = said(&debate.rounds[0]);
    for (i, response) in final_round.iter().enumerate() {
        let others = (0..writers.len()).filter(|j| *j != i).map(|j| writers[j]);
        for reader in others.chain([AdapterId::BASE]) {
            readings.want(last, i, *response, writers[i], reader);
        }
    }
    if last > 0 {
        for (i, response) in first_round.iter().enumerate() {
            readings.want(0, i, *response, generators[i], AdapterId::BASE);
        }
    }
    let (encode_scope, read_scope) = (scope.child("embed"), scope.child("score"));
    let (known, embeddings) =
        futures::try_join!(readings.read(&read_scope), embed(&encode_scope, debate, context))?;

    let log_p = |m: usize, i: usize, reader: AdapterId| known.get(&(m, i, reader)).copied();
    let own = |m: usize, i: usize| Some(said(&debate.rounds[m])[i]?.mean_logprob);
    let against_base = |m: usize, i: usize| Some(own(m, i)? - log_p(m, i, AdapterId::BASE)?);
    let agents = 0..writers.len();
    let mut found = Found {
        nll: vec![vec![]; writers.len()],
        kl_base: agents.clone().map(|i| against_base(last, i)).collect(),
        ..Found::default()
    };
    if last > 0 {
        found.kl_base_first = agents.clone().map(|i| against_base(0, i)).collect();
    }
    for j in agents.clone() {
        for i in agents.clone().filter(|i| *i != j) {
            if let (Some(own), Some(read)) = (own(last, i), log_p(last, i, writers[j])) {
                found.nll[j].push(-read);
                found.kl.push(own - read);
            }
        }
    }
    for (i, a) in embeddings.iter().enumerate() {
        found.dissimilarity.extend(embeddings[i + 1..].iter().filter_map(|b| Some(1.0 - cosine(a, b)?)));
    }
    Ok(found)
}

/// Round, agent that wrote, reader.
type Reading = (usize, usize, AdapterId);

/// Responses under adapters, each once.
#[derive(Default)]
struct Readings {
    /// Mean log-probability a token.
    known: BTreeMap<Reading, f64>,
    /// Conversation and response, and where the response begins.
    asked: BTreeMap<Reading, (Arc<[u32]>, usize)>,
}

impl Readings {
    fn want(&mut self, m: usize, i: usize, said: Option<&Utterance>, writer: AdapterId, reader: AdapterId) {
        let Some(said) = said else { return };
        if writer == reader {
            // The sampler's log-probability is the scorer's.
            self.known.insert((m, i, reader), said.mean_logprob);
        } else {
            let tokens = || said.prompt_ids.iter().chain(&said.ids).copied().collect();
            self.asked.entry((m, i, reader)).or_insert_with(|| (tokens(), said.prompt_ids.len()));
        }
    }

    async fn read(mut self, scope: &Scope) -> Result<BTreeMap<Reading, f64>> {
        if self.asked.is_empty() {
            return Ok(self.known);
        }
        let (places, requests): (Vec<_>, Vec<_>) = self
            .asked
            .into_iter()
            .map(|(place, (tokens, from))| (place, (ScoreRequest { adapter: place.2, tokens }, from)))
            .unzip();
        let read = scope.likelihoods(requests).await?;
        self.known.extend(places.into_iter().zip(read));
        Ok(self.known)
    }
}

/// The last round's responses that match the vote, if there are two.
async fn embed(scope: &Scope, debate: &Debate, context: usize) -> Result<Vec<Embedding>> {
    let Some(prompt) = debate.rounds[0].turns.iter().find_map(|t| Some(&t.response.as_ref()?.prompt_ids))
    else {
        return Ok(vec![]);
    };
    let last = &debate.rounds[debate.rounds.len() - 1];
    let agreed = last.turns.iter().filter(|t| t.answer.is_some() && t.answer == debate.vote.answer);
    let requests: Vec<EmbedRequest> = agreed
        .filter_map(|t| {
            let ids = &t.response.as_ref()?.ids;
            let tokens: Arc<[u32]> = prompt.iter().chain(ids).copied().collect();
            let fits = !ids.is_empty() && tokens.len() <= context;
            fits.then_some(EmbedRequest { adapter: AdapterId::BASE, tokens, from: prompt.len() })
        })
        .collect();
    if requests.len() < 2 { Ok(vec![]) } else { scope.embed(requests).await }
}

/// `None` for a vector of zeros.
fn cosine(a: &Embedding, b: &Embedding) -> Option<f64> {
    let dot = |a: &Embedding, b: &Embedding| -> f64 {
        a.mean.iter().zip(&b.mean).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    (lengths > 0.0).then(|| dot(a, b) / lengths)
}

/// What the answers of a round say.
fn of_answers(debates: &[Debate], m: usize, answers: &AnswerKey) -> record::AnswerDiversity {
    let rounds: Vec<&Round> = debates.iter().map(|d| &d.rounds[m]).collect();
    let agents = rounds[0].turns.len();
    let shares: Vec<f64> = rounds.iter().map(|r| r.vote.votes as f64 / agents as f64).collect();
    let distinct =
        rounds.iter().map(|r| distinct_answers(r.turns.iter().map(|t| t.answer.as_deref())) as f64);
    let outcome = |d: &Debate, n: usize| {
        let answer = d.rounds[m].turns[n].answer.as_deref();
        if answers.is_right(&d.id, answer) { Outcome::Right } else { Outcome::Wrong }
    };
    let outcomes: Vec<Vec<Outcome>> =
        (0..agents).map(|n| debates.iter().map(|d| outcome(d, n)).collect()).collect();
    record::AnswerDiversity {
        consensus: Estimate::of(&shares).value,
        distinct_answers: Estimate::of(&distinct.collect::<Vec<_>>()).value,
        error_correlation: error_correlation(&outcomes),
        pass_at_n: mean_pass_at(&outcomes, agents),
    }
}

/// The fixed text under the base and every generator. Of a text longer than the context its beginning.
async fn off_task(table: &Protocol, scope: &Scope, generators: &[Speaker]) -> Result<Option<Measured>> {
    let generators = scorable(generators)?;
    let mut tokens = table.codec().text(OFF_TASK.trim_end())?;
    tokens.truncate(table.codec().max_positions());
    if tokens.len() < 2 {
        return Ok(None);
    }
    let tokens: Arc<[u32]> = tokens.into();
    let readers: BTreeSet<AdapterId> = generators.iter().copied().chain([AdapterId::BASE]).collect();
    let requests = readers.iter().map(|&adapter| (ScoreRequest { adapter, tokens: tokens.clone() }, 1));
    let read = scope.likelihoods(requests.collect()).await?;
    let nll: BTreeMap<AdapterId, f64> = readers.into_iter().zip(read.into_iter().map(|l| -l)).collect();
    let per_agent: Vec<f64> = generators.iter().map(|g| nll[g]).collect();
    Ok(mean(&per_agent).map(|value| Measured {
        value,
        base: Some(nll[&AdapterId::BASE]),
        per_agent: per_agent.into_iter().map(Some).collect(),
        tokens: Some(tokens.len() - 1),
        ..Measured::default()
    }))
}
