//! The protocol: who is asked what in which round, and which answers vote.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};

use super::{Debate, DrawId, DrawKind, Occasion, Round, Society, Speaker, Turn, Utterance, Voice, Vote};
use crate::engine::{AdapterId, SamplingParams, Scope};
use crate::error::{Error, Result};
use crate::run::{DebateSection, Others, SamplingSection, Style, Ties};
use crate::task::{Question, Task};
use crate::text::{Codec, Message};

/// Why an agent has no response.
const OUTGROWN: &str = "the prompt outgrew the context";
const SUMMARY_OUTGROWN: &str = "the summary's prompt outgrew the context";

/// The protocol, ready to be held over any question.
pub struct Protocol {
    pub(super) voice: Voice,
    pub(super) task: Rc<Task>,
    pub(super) agents: usize,
    pub(super) rounds: usize,
    pub(super) others: Others,
    style: Style,
    /// Prompts tell agents which of them they are.
    tells_ids: bool,
    ties: Ties,
    window: usize,
}

impl Protocol {
    /// From the configuration. `sequences` is how many the engine samples at once: about two rounds
    /// of that many agents are kept in flight, so that the batch stays full and the first debates
    /// end early.
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
            voice: Voice::new(codec, sampling.clone()),
            task,
            agents: debate.agents,
            rounds: debate.rounds,
            others: debate.others,
            style: debate.style,
            tells_ids: false,
            ties: debate.ties,
            window: (2 * sequences).div_ceil(debate.agents).max(1),
        })
    }

    /// With `tells_ids` every prompt of an agent carries its number, by the template
    /// `agent-id.jinja`; summaries don't.
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
        self.voice.codec()
    }

    /// M.
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// A later round's question, over a summary of the others.
    pub(super) fn ask_with_summary(&self, question: &Question, summary: &str) -> Result<String> {
        let prompts = &self.task.prompts;
        match self.style {
            Style::Debate => prompts.debate(question.subject(), summary),
            Style::Cooperative => prompts.cooperative(question.subject(), summary),
        }
    }

    /// A later round's question, over the others' responses themselves.
    pub(super) fn ask_with_responses(&self, question: &Question, responses: &[&str]) -> Result<String> {
        let prompts = &self.task.prompts;
        match self.style {
            Style::Debate => prompts.debate_concat(question.subject(), responses),
            Style::Cooperative => prompts.cooperative_concat(question.subject(), responses),
        }
    }

    /// A turn to this agent, with its number where agents are told.
    pub(super) fn addressed(&self, agent: usize, text: String) -> Result<String> {
        if self.tells_ids { self.task.prompts.agent_id(agent + 1, self.agents, &text) } else { Ok(text) }
    }

    /// Runs `work` on every question, each in a child scope of its own, many at a time. Returns the
    /// results in the order of the questions.
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
        let draw = DrawId::answer(occasion, question);
        let mut rounds = vec![self.round(scope, draw, society, &mut chats, prompts).await?];
        told(1, &rounds[0])?;
        for round in 2..=self.rounds {
            let draw = DrawId { round, ..draw };
            let prompts = self.read_others(scope, draw, &rounds[round - 2]).await?;
            rounds.push(self.round(scope, draw, society, &mut chats, prompts).await?);
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

    /// What each agent is asked in a later round: it reads what the others `said` in the round
    /// before. The base model summarises it.
    async fn read_others(&self, scope: &Scope, draw: DrawId<'_>, said: &Round) -> Result<Vec<Asked>> {
        let (question, prompts) = (draw.question, &self.task.prompts);
        let subject = question.subject();
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
        let (base, mut requests) = (Speaker::from(AdapterId::BASE), Vec::new());
        for (n, others) in others.iter().enumerate() {
            let mut request = None;
            if !others.is_empty() {
                let prompt = self.voice.fitting(&[Message::user(prompts.summary(subject, others)?)])?;
                let draw = DrawId { kind: DrawKind::Summary, agent: n, ..draw };
                request = prompt.map(|prompt| self.voice.request(&base, prompt.into(), &draw));
            }
            requests.push(request);
        }
        let summaries = self.voice.speak(scope, requests).await?;
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

    /// One round: every agent answers what it was asked, after its own earlier turns in `chats`,
    /// which grow by both.
    async fn round(
        &self,
        scope: &Scope,
        draw: DrawId<'_>,
        society: &Society,
        chats: &mut [Vec<Message>],
        asked: Vec<Asked>,
    ) -> Result<Round> {
        let (question, speakers) = (draw.question, society.speakers(draw.round));
        let mut requests = Vec::new();
        let mut turns = Vec::new();
        for (agent, asked) in asked.into_iter().enumerate() {
            let mut messages = chats[agent].clone();
            let told = if asked.missing.is_none() { self.addressed(agent, asked.text)? } else { asked.text };
            messages.push(Message::user(told.clone()));
            let prompt = match (draw.round, asked.missing) {
                (_, Some(_)) => None,
                (1, None) => Some(self.fits_first(question, self.voice.prompt(&messages)?)?),
                (_, None) => self.voice.fitting(&messages)?,
            };
            let missing = asked.missing.or(prompt.is_none().then_some(OUTGROWN));
            let draw = DrawId { agent, ..draw };
            let speaker = &speakers[agent];
            requests.push(prompt.map(|prompt| self.voice.request(speaker, prompt.into(), &draw)));
            let (prompt, summary) = (told, asked.summary);
            turns.push(Turn { agent, prompt, summary, response: None, answer: None, missing, messages });
        }
        for (turn, response) in turns.iter_mut().zip(self.voice.speak(scope, requests).await?) {
            let Some(response) = response else { continue };
            turn.answer = self.task.read(question, &response.text);
            chats[turn.agent].clone_from(&turn.messages);
            chats[turn.agent].push(Message::assistant(response.text.clone()));
            turn.response = Some(response);
        }
        let vote = self.vote_of(draw, &turns);
        Ok(Round { turns, vote })
    }

    /// First answers outside a debate: sample `s` is agent `s mod N`'s, and the first N are those of
    /// a debate's first round. With `greedy` the most likely answers instead.
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
                let prompt = self.fits_first(question, self.voice.prompt(&messages)?)?;
                Ok((messages, Arc::from(prompt)))
            })
            .collect::<Result<Vec<_>>>()?;
        let told = |agent: usize| -> &(Vec<Message>, Arc<[u32]>) { &told[agent % told.len()] };
        let requests = samples.clone().map(|s| {
            let (agent, sample) = (s % self.agents, s / self.agents);
            let draw = DrawId { agent, sample, ..DrawId::answer(occasion, question) };
            let prompt = told(agent).1.clone();
            let mut request = self.voice.request(&society.generators[agent], prompt, &draw);
            if greedy {
                request.key = 0;
                request.params =
                    SamplingParams { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, ..request.params };
            }
            Some(request)
        });
        let drawn = self.voice.speak(scope, requests.collect()).await?;
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
        self.vote_of(DrawId::answer(occasion, question), turns)
    }

    fn vote_of(&self, draw: DrawId<'_>, turns: &[Turn]) -> Vote {
        let tie = DrawId { kind: DrawKind::Tie, ..draw };
        Vote::of(turns.iter().map(|t| t.answer.as_deref()), self.ties, tie.key())
    }
}

/// An agent's next user turn.
struct Asked {
    text: String,
    summary: Option<Utterance>,
    missing: Option<&'static str>,
}
