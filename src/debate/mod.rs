//! The debate of Multiagent Finetuning (arXiv 2501.05707, section 2.1): N agents answer a question;
//! in every later round each reads what the others said in the round before and answers again; the
//! last round's answers vote.
//!
//! Rounds are synchronous: an agent never reads a same-round answer. The agent's own last answer is
//! in its history, not in what it reads. Generators answer round 1, critics the later ones; the
//! base model writes the summaries. [`Voice`] and [`Speaker`] serve other protocols too.

mod draw;
mod hint;
mod protocol;
mod record;
mod rehearse;
mod speaker;
mod vote;

pub use draw::{DrawId, DrawKind, Occasion};
pub use protocol::Protocol;
pub use record::{Debate, Round, Turn, Utterance};
pub use speaker::{Speaker, Voice};
pub use vote::Vote;

/// Who debates: N agents, each with a generator and a critic.
#[derive(Clone, Debug, PartialEq)]
pub struct Society {
    /// Write first answers.
    pub generators: Vec<Speaker>,
    /// Write all later ones.
    pub critics: Vec<Speaker>,
}

impl Society {
    /// N.
    pub fn agents(&self) -> usize {
        self.generators.len()
    }

    /// N agents that all are the same speaker.
    pub fn uniform(speaker: impl Into<Speaker>, agents: usize) -> Self {
        let all = vec![speaker.into(); agents];
        Self { generators: all.clone(), critics: all }
    }

    /// Who speaks in a round, counted from 1; by agent.
    pub fn speakers(&self, round: usize) -> &[Speaker] {
        if round == 1 { &self.generators } else { &self.critics }
    }
}
