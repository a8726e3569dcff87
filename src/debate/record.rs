//! What a debate leaves behind: everything needed to recount it, and the tokens that training takes.

use std::sync::Arc;

use serde::Serialize;

use super::Vote;
use crate::engine::Finish;
use crate::task::Question;
use crate::text::Message;

/// One question's debate, as transcripts store it.
#[derive(Clone, Debug, Serialize)]
pub struct Debate {
    /// The question's id.
    pub id: String,
    /// Its text.
    pub question: String,
    /// Round 1 and those after it.
    pub rounds: Vec<Round>,
    /// The last round's vote: the society's answer.
    pub vote: Vote,
    /// The share of all agents that gave it in the last round.
    pub agreement: f64,
}

impl Debate {
    /// A question's independent answers and the vote over them, as a debate of one round; each
    /// answer counts as an agent's of its own.
    pub fn of_samples(question: &Question, turns: Vec<Turn>, vote: Vote) -> Self {
        let agreement = vote.votes as f64 / turns.len().max(1) as f64;
        let (id, text) = (question.id.clone(), question.text.clone());
        Self { id, question: text, rounds: vec![Round { turns, vote: vote.clone() }], vote, agreement }
    }

    /// Answers of a round; N where each agent gives one.
    pub fn agents(&self) -> usize {
        self.rounds[0].turns.len()
    }

    /// The agent's turn of the first round.
    pub fn first(&self, agent: usize) -> &Turn {
        &self.rounds[0].turns[agent]
    }

    /// The agent's turn of the last round.
    pub fn last(&self, agent: usize) -> &Turn {
        &self.rounds[self.rounds.len() - 1].turns[agent]
    }
}

/// One round: every agent's turn and the vote over them.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// By agent.
    pub turns: Vec<Turn>,
    /// Over this round's answers.
    pub vote: Vote,
}

/// An agent's turn: what it was asked, what it read, what it said.
#[derive(Clone, Debug, Serialize)]
pub struct Turn {
    /// 0-based.
    pub agent: usize,
    /// The user's turn before it; the turns before that are the agent's earlier rounds.
    pub prompt: String,
    /// The summary it read, if there was one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<Utterance>,
    /// What it said; none if its prompt (or that of its summary) outgrew the context.
    pub response: Option<Utterance>,
    /// The answer in its response, in canonical form.
    pub answer: Option<String>,
    /// Why there is no response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missing: Option<&'static str>,
    /// The conversation before the response.
    #[serde(skip)]
    pub messages: Vec<Message>,
}

impl Turn {
    /// Whether the response was cut off by length.
    pub fn is_cut_off(&self) -> bool {
        self.response.as_ref().is_some_and(|r| r.finish == Finish::Length)
    }
}

/// A sampled text.
#[derive(Clone, Debug, Serialize)]
pub struct Utterance {
    /// The text, special tokens and stop strings left out.
    pub text: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens drawn.
    pub tokens: usize,
    /// `length` means cut off.
    pub finish: Finish,
    /// Mean log-probability of the drawn tokens (temperature 1, no truncation).
    pub mean_logprob: f64,
    /// The prompt's tokens.
    #[serde(skip)]
    pub prompt_ids: Arc<[u32]>,
    /// The drawn tokens.
    #[serde(skip)]
    pub ids: Vec<u32>,
}
