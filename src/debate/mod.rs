//! The debate of Multiagent Finetuning (arXiv 2501.05707, section 2.1): N agents answer a question; in every later round each
//! reads what the others said in the round before and answers again; the last round's answers vote.
//!
//! Rounds are synchronous: an agent never reads a same-round answer. The agent's own last answer is in its history, not in what it reads.
//! Generators answer round 1, critics the later ones; the base model writes the summaries.

mod hint;
mod record;
mod vote;

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

pub use record::{Debate, Round, Turn, Utterance};
pub use vote::Vote;

use crate::engine::{AdapterId, Finish, Sample, SampleKind, SampleRequest, SamplingParams, Scope, draw_key};
use crate::error::{Error, Result};
use crate::run::{DebateSection, Others, SamplingSection, Style, Ties};
use crate::task::{Question, Task};
use crate::text::{Codec, Message, cut_at_stop};

/// Why an agent has no response.
const OUTGROWN: &str = "the prompt outgrew the context";
const SUMMARY_OUTGROWN: &str = "the summary's prompt outgrew the context";

/// Who debates: the adapters of N agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Society {
    /// Write first answers.
    pub generators: Vec<AdapterId>,
    /// Write all later ones.
    pub critics: Vec<AdapterId>,
}

impl Society {
    /// N.
    pub fn agents(&self) -> usize {
        self.generators.len()
    }

    /// N agents that all are `adapter`.
    pub fn uniform(adapter: AdapterId, agents: usize) -> Self {
        Self { generators: vec![adapter; agents], critics: vec![adapter; agents] }
    }
}

/// What a draw belongs to, besides the question, agent, round and sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occasion {
    /// The run's seed.
    pub seed: u64,
    /// The iteration.
    pub iteration: usize,
    /// `train`, `dev`, `test`, …: draws for different purposes never coincide.
    pub purpose: &'static str,
}

impl Occasion {
    /// The draw key of one sample (or tie). The arm is not part of it.
    pub fn key(&self, kind: &str, question: &Question, agent: usize, round: usize, sample: usize) -> u64 {
        let number = |n: usize| (n as u64).to_le_bytes();
        draw_key(&[
            &self.seed.to_le_bytes(),
            &number(self.iteration),
            self.purpose.as_bytes(),
            kind.as_bytes(),
            question.text.as_bytes(),
            &number(agent),
            &number(round),
            &number(sample),
        ])
    }
}

/// The protocol, ready to be held over any question.
pub struct Table {
    codec: Rc<dyn Codec>,
    task: Rc<Task>,
    sampling: SamplingSection,
    agents: usize,
    rounds: usize,
    others: Others,
    style: Style,
    /// Prompts tell agents which of them they are.
    tells_ids: bool,
    ties: Ties,
    window: usize,
}

impl Table {
    /// From the configuration. `sequences` is how many the engine samples at once: about two rounds of that many agents are kept in
    /// flight, so that the batch stays full and the first debates end early.
    pub fn new(
        codec: Rc<dyn Codec>,
        task: Rc<Task>,
        debate: &DebateSection,
        sampling: &SamplingSection,
        sequences: usize,
    ) -> Result<Self> {
        for (key, value) in [("agents", debate.agents), ("rounds", debate.rounds)] {
            if value == 0 {
                return Err(Error::input(format!("debate.{key}"), "found 0, expected at least 1"));
            }
        }
        Ok(Self {
            codec,
            task,
            sampling: sampling.clone(),
            agents: debate.agents,
            rounds: debate.rounds,
            others: debate.others,
            style: debate.style,
            tells_ids: false,
            ties: debate.ties,
            window: (2 * sequences).div_ceil(debate.agents).max(1),
        })
    }

    /// With `tells_ids` every prompt of an agent carries its number, by the template `agent-id.jinja`; summaries don't.
    pub fn telling_ids(self, tells_ids: bool) -> Self {
        Self { tells_ids, ..self }
    }

    /// Whether prompts tell agents which of them they are.
    pub fn tells_ids(&self) -> bool {
        self.tells_ids
    }

    /// N.
    pub fn agents(&self) -> usize {
        self.agents
    }

    /// The codec.
    pub fn codec(&self) -> &dyn Codec {
        &*self.codec
    }

    /// M.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// Before any work: every question's first prompt must fit the context, and every template must render. The most tokens that a conversation
    /// about one of them can come to if all is said at its longest (and tokenized again as it was drawn); at most the context.
    pub fn check<'a>(&self, questions: impl IntoIterator<Item = &'a Question>) -> Result<usize> {
        let mut longest: Option<(usize, &Question)> = None;
        for question in questions {
            let first = self.addressed(self.agents - 1, self.task.prompts.first(question.subject())?)?;
            let prompt = self.prompt(&[Message::user(first)])?;
            let prompt = self.fits_first(question, prompt)?;
            if longest.is_none_or(|(tokens, _)| prompt.len() > tokens) {
                longest = Some((prompt.len(), question));
            }
        }
        longest.map_or(Ok(0), |(_, question)| self.rehearse(question))
    }

    /// Renders a debate in which nothing is said; its tokens and those of all that could be said.
    fn rehearse(&self, question: &Question) -> Result<usize> {
        let prompts = &self.task.prompts;
        let (silence, others) = ("…", self.agents - 1);
        let mut messages = vec![Message::user(self.addressed(others, prompts.first(question.subject())?)?)];
        let (answer, summary) =
            (self.sampling.max_tokens as usize, self.sampling.summary_max_tokens as usize);
        let mut said = answer;
        for _ in 1..self.rounds {
            let (asked, read) = match (self.agents, self.others) {
                (1, _) => (prompts.alone(question.subject())?, 0),
                (_, Others::Concatenate) => {
                    (self.ask_with_responses(question, &vec![silence; others])?, others * answer)
                }
                (_, Others::Summary) => {
                    prompts.summary(question.subject(), &[silence])?;
                    (self.ask_with_summary(question, silence)?, summary)
                }
            };
            messages.extend([Message::assistant(silence), Message::user(self.addressed(others, asked)?)]);
            said += read + answer;
        }
        // The last answer's end; what stands for the others' words is counted too.
        let most = self.codec.max_positions();
        let tokens = self.prompt(&messages)?.map_or(most, |prompt| prompt.len() + said + 1);
        Ok(tokens.min(most))
    }

    /// A later round's question, over a summary of the others.
    fn ask_with_summary(&self, question: &Question, summary: &str) -> Result<String> {
        let prompts = &self.task.prompts;
        match self.style {
            Style::Debate => prompts.debate(question.subject(), summary),
            Style::Cooperative => prompts.cooperative(question.subject(), summary),
        }
    }

    /// A later round's question, over the others' responses themselves.
    fn ask_with_responses(&self, question: &Question, responses: &[&str]) -> Result<String> {
        let prompts = &self.task.prompts;
        match self.style {
            Style::Debate => prompts.debate_concat(question.subject(), responses),
            Style::Cooperative => prompts.cooperative_concat(question.subject(), responses),
        }
    }

    /// A turn to this agent, with its number where agents are told.
    fn addressed(&self, agent: usize, text: String) -> Result<String> {
        if self.tells_ids { self.task.prompts.agent_id(agent + 1, self.agents, &text) } else { Ok(text) }
    }

    /// A prompt's tokens, as many as there are. `None` for a text that is refused before it is
    /// tokenized.
    fn prompt(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        match self.codec.prompt(messages) {
            Ok(tokens) => Ok(Some(tokens)),
            Err(Error::TooLong { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// A prompt's tokens, if they leave room for an answer.
    fn fitting(&self, messages: &[Message]) -> Result<Option<Vec<u32>>> {
        Ok(self.prompt(messages)?.filter(|tokens| tokens.len() < self.codec.max_positions()))
    }

    fn fits_first(&self, question: &Question, prompt: Option<Vec<u32>>) -> Result<Vec<u32>> {
        let most = self.codec.max_positions();
        let problem = match prompt {
            Some(prompt) if prompt.len() < most => return Ok(prompt),
            Some(prompt) => {
                format!("its prompt has {} tokens, but the model's context is {most}", prompt.len())
            }
            None => format!("its prompt is longer than any text of {most} tokens, the model's context"),
        };
        let shown: String = question.text.chars().take(60).collect();
        Err(Error::input(format!("question {} ({shown:?})", question.id), problem))
    }

    /// Runs `work` on every question, each in a child scope of its own, many at a time; results in the order of the questions.
    pub async fn each<'a, T, F>(
        &self,
        scope: &Scope,
        questions: &'a [Question],
        work: impl Fn(usize, &'a Question, Scope) -> F,
    ) -> Result<Vec<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let started = questions.iter().enumerate().map(|(i, question)| {
            let running = work(i, question, scope.child(&question.id));
            async move { Ok::<_, Error>((i, running.await?)) }
        });
        let mut done: Vec<(usize, T)> =
            stream::iter(started).buffer_unordered(self.window).try_collect().await?;
        done.sort_unstable_by_key(|(i, _)| *i);
        Ok(done.into_iter().map(|(_, result)| result).collect())
    }

    /// One debate.
    pub async fn debate(
        &self,
        scope: &Scope,
        question: &Question,
        society: &Society,
        occasion: Occasion,
    ) -> Result<Debate> {
        self.debate_told(scope, question, society, occasion, |_, _| Ok(())).await
    }

    /// One debate; `told` is called for each round, counted from 1, as soon as it is complete.
    pub async fn debate_told(
        &self,
        scope: &Scope,
        question: &Question,
        society: &Society,
        occasion: Occasion,
        told: impl Fn(usize, &Round) -> Result<()>,
    ) -> Result<Debate> {
        let asked = self.task.prompts.first(question.subject())?;
        let mut chats = vec![vec![]; self.agents];
        let prompts =
            (0..self.agents).map(|_| Asked { text: asked.clone(), summary: None, missing: None }).collect();
        let answers = Answers { question, occasion, round: 1, adapters: &society.generators };
        let mut rounds = vec![self.round(scope, answers, &mut chats, prompts).await?];
        told(1, &rounds[0])?;
        for round in 2..=self.rounds {
            let said = &rounds[round - 2];
            let prompts = self.read_others(scope, question, occasion, round, said).await?;
            let answers = Answers { question, occasion, round, adapters: &society.critics };
            rounds.push(self.round(scope, answers, &mut chats, prompts).await?);
            told(round, &rounds[round - 1])?;
        }
        let vote = rounds[rounds.len() - 1].vote.clone();
        Ok(Debate {
            id: question.id.clone(),
            question: question.text.clone(),
            agreement: vote.votes as f64 / self.agents as f64,
            vote,
            rounds,
        })
    }

    /// What each agent is asked in a later round: it reads the others' responses of the round before.
    async fn read_others(
        &self,
        scope: &Scope,
        question: &Question,
        occasion: Occasion,
        round: usize,
        said: &Round,
    ) -> Result<Vec<Asked>> {
        let subject = question.subject();
        let prompts = &self.task.prompts;
        let others: Vec<Vec<&str>> = (0..self.agents)
            .map(|n| {
                let others = said.turns.iter().filter(|turn| turn.agent != n);
                others.filter_map(|turn| Some(turn.response.as_ref()?.text.as_str())).collect()
            })
            .collect();
        if self.others == Others::Concatenate {
            return others
                .iter()
                .map(|others| {
                    let text = if others.is_empty() {
                        prompts.alone(subject)?
                    } else {
                        self.ask_with_responses(question, others)?
                    };
                    Ok(Asked { text, summary: None, missing: None })
                })
                .collect();
        }
        let mut requests = Vec::new();
        for (n, others) in others.iter().enumerate() {
            let mut request = None;
            if !others.is_empty() {
                let prompt = self.fitting(&[Message::user(prompts.summary(subject, others)?)])?;
                let key = occasion.key("summary", question, n, round, 0);
                request = prompt.map(|prompt| {
                    self.request(SampleKind::Summary, AdapterId::BASE, prompt.into(), occasion, key)
                });
            }
            requests.push(request);
        }
        let summaries = self.draw(scope, requests).await?;
        others
            .iter()
            .zip(summaries)
            .map(|(others, summary)| {
                if others.is_empty() {
                    return Ok(Asked { text: prompts.alone(subject)?, summary: None, missing: None });
                }
                let Some(summary) = summary else {
                    return Ok(Asked { text: String::new(), summary: None, missing: Some(SUMMARY_OUTGROWN) });
                };
                let text = self.ask_with_summary(question, &summary.text)?;
                Ok(Asked { text, summary: Some(summary), missing: None })
            })
            .collect()
    }

    /// One round: every agent answers what it was asked, after its own earlier turns in `chats`, which grow by both.
    async fn round(
        &self,
        scope: &Scope,
        answers: Answers<'_>,
        chats: &mut [Vec<Message>],
        asked: Vec<Asked>,
    ) -> Result<Round> {
        let Answers { question, occasion, round, adapters } = answers;
        let kind = if round == 1 { SampleKind::FirstAnswer } else { SampleKind::LaterAnswer };
        let mut requests = Vec::new();
        let mut turns = Vec::new();
        for (agent, asked) in asked.into_iter().enumerate() {
            let mut messages = chats[agent].clone();
            let told = if asked.missing.is_none() { self.addressed(agent, asked.text)? } else { asked.text };
            messages.push(Message::user(told.clone()));
            let prompt = match (round, asked.missing) {
                (_, Some(_)) => None,
                (1, None) => Some(self.fits_first(question, self.prompt(&messages)?)?),
                (_, None) => self.fitting(&messages)?,
            };
            let missing = asked.missing.or(prompt.is_none().then_some(OUTGROWN));
            let key = occasion.key("answer", question, agent, round, 0);
            requests
                .push(prompt.map(|prompt| self.request(kind, adapters[agent], prompt.into(), occasion, key)));
            let (prompt, summary) = (told, asked.summary);
            turns.push(Turn { agent, prompt, summary, response: None, answer: None, missing, messages });
        }
        for (turn, response) in turns.iter_mut().zip(self.draw(scope, requests).await?) {
            let Some(response) = response else { continue };
            turn.answer = self.task.read(question, &response.text);
            chats[turn.agent].clone_from(&turn.messages);
            chats[turn.agent].push(Message::assistant(response.text.clone()));
            turn.response = Some(response);
        }
        let key = occasion.key("tie", question, 0, round, 0);
        let vote = Vote::of(turns.iter().map(|t| t.answer.as_deref()), self.ties, key);
        Ok(Round { turns, vote })
    }

    /// First answers outside a debate: sample `s` is agent `s mod N`'s, and the first N are those of a debate's first round. With
    /// `greedy` the most likely answers instead.
    pub async fn first_answers(
        &self,
        scope: &Scope,
        question: &Question,
        society: &Society,
        occasion: Occasion,
        samples: Range<usize>,
        greedy: bool,
    ) -> Result<Vec<Turn>> {
        let asked = self.task.prompts.first(question.subject())?;
        let told = (0..if self.tells_ids { self.agents } else { 1 })
            .map(|agent| {
                let messages = vec![Message::user(self.addressed(agent, asked.clone())?)];
                let prompt = self.fits_first(question, self.prompt(&messages)?)?;
                Ok((messages, Arc::from(prompt)))
            })
            .collect::<Result<Vec<_>>>()?;
        let told = |agent: usize| -> &(Vec<Message>, Arc<[u32]>) { &told[agent % told.len()] };
        let requests = samples.clone().map(|s| {
            let (agent, sample) = (s % self.agents, s / self.agents);
            let prompt = &told(agent).1;
            let key = if greedy { 0 } else { occasion.key("answer", question, agent, 1, sample) };
            let adapter = society.generators[agent];
            let mut request = self.request(SampleKind::FirstAnswer, adapter, prompt.clone(), occasion, key);
            if greedy {
                request.params =
                    SamplingParams { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..request.params };
            }
            Some(request)
        });
        let drawn = self.draw(scope, requests.collect()).await?;
        Ok(samples
            .zip(drawn)
            .map(|(s, response)| Turn {
                agent: s % self.agents,
                prompt: told(s % self.agents).0[0].content.clone(),
                summary: None,
                answer: response.as_ref().and_then(|r| self.task.read(question, &r.text)),
                response,
                missing: None,
                messages: told(s % self.agents).0.clone(),
            })
            .collect())
    }

    /// The vote over answers given outside a debate.
    pub fn vote(&self, question: &Question, occasion: Occasion, turns: &[Turn]) -> Vote {
        let key = occasion.key("tie", question, 0, 1, 0);
        Vote::of(turns.iter().map(|t| t.answer.as_deref()), self.ties, key)
    }

    fn request(
        &self,
        kind: SampleKind,
        adapter: AdapterId,
        prompt: Arc<[u32]>,
        occasion: Occasion,
        key: u64,
    ) -> SampleRequest {
        let SamplingSection { temperature, top_k, top_p, min_p, .. } = self.sampling;
        let max_tokens = match kind {
            SampleKind::Summary => self.sampling.summary_max_tokens,
            _ => self.sampling.max_tokens,
        };
        SampleRequest {
            adapters: vec![(adapter, 1.0)],
            prompt,
            params: SamplingParams { temperature, top_k, top_p, min_p, max_tokens },
            key,
            iteration: occasion.iteration,
            kind,
            priority: 0,
            stop: self.codec.stop(&self.sampling.stop),
        }
    }

    /// Draws what is requested, in one call (none if nothing is).
    async fn draw(
        &self,
        scope: &Scope,
        requests: Vec<Option<SampleRequest>>,
    ) -> Result<Vec<Option<Utterance>>> {
        let prompts: Vec<_> = requests.iter().map(|r| r.as_ref().map(|r| r.prompt.clone())).collect();
        let requests: Vec<_> = requests.into_iter().flatten().collect();
        if requests.is_empty() {
            return Ok(vec![None; prompts.len()]);
        }
        let mut samples = scope.sample(requests).await?.into_iter();
        prompts
            .into_iter()
            .map(|prompt| {
                let Some(prompt) = prompt else { return Ok(None) };
                let sample =
                    samples.next().ok_or_else(|| Error::Internal("fewer samples than requests".into()))?;
                self.utterance(prompt, sample).map(Some)
            })
            .collect()
    }

    fn utterance(&self, prompt_ids: Arc<[u32]>, sample: Sample) -> Result<Utterance> {
        let mut text = self.codec.decode(&sample.tokens)?;
        if sample.finish == Finish::Stop {
            text.truncate(cut_at_stop(&text, &self.sampling.stop).len());
        }
        let total: f64 = sample.logprobs.iter().map(|&l| f64::from(l)).sum();
        Ok(Utterance {
            text,
            prompt_tokens: prompt_ids.len(),
            tokens: sample.tokens.len(),
            finish: sample.finish,
            mean_logprob: total / sample.logprobs.len().max(1) as f64,
            prompt_ids,
            ids: sample.tokens,
        })
    }
}

/// An agent's next user turn.
struct Asked {
    text: String,
    summary: Option<Utterance>,
    missing: Option<&'static str>,
}

/// Whose answers a round consists of.
struct Answers<'a> {
    question: &'a Question,
    occasion: Occasion,
    round: usize,
    adapters: &'a [AdapterId],
}
