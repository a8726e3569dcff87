//! What makes a draw the draw it is.

use crate::engine::{SampleKind, draw_key};
use crate::task::Question;

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

/// What is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DrawKind {
    /// An answer.
    Answer,
    /// A summary of what others answered.
    Summary,
    /// An answer after a hint.
    Hint,
    /// The winner of a tied vote.
    Tie,
}

/// Identifies a draw: equal ids give equal draws. The arm is not part of it, so that arms with the
/// same weights share their samples.
#[derive(Clone, Copy, Debug)]
pub struct DrawId<'a> {
    /// Seed, iteration and purpose.
    pub occasion: Occasion,
    /// What is drawn.
    pub kind: DrawKind,
    /// What it is about; only the text counts.
    pub question: &'a Question,
    /// Who draws, from 0.
    pub agent: usize,
    /// From 1.
    pub round: usize,
    /// From 0, where an agent is asked more than once.
    pub sample: usize,
}

impl<'a> DrawId<'a> {
    /// The first agent's answer to a question in the first round.
    pub fn answer(occasion: Occasion, question: &'a Question) -> Self {
        Self { occasion, kind: DrawKind::Answer, question, agent: 0, round: 1, sample: 0 }
    }

    /// The draw key.
    pub fn key(&self) -> u64 {
        let kind = match self.kind {
            DrawKind::Answer => "answer",
            DrawKind::Summary => "summary",
            DrawKind::Hint => "hint",
            DrawKind::Tie => "tie",
        };
        let number = |n: usize| (n as u64).to_le_bytes();
        draw_key(&[
            &self.occasion.seed.to_le_bytes(),
            &number(self.occasion.iteration),
            self.occasion.purpose.as_bytes(),
            kind.as_bytes(),
            self.question.text.as_bytes(),
            &number(self.agent),
            &number(self.round),
            &number(self.sample),
        ])
    }

    /// What its sample is counted as.
    pub(super) fn sample_kind(&self) -> SampleKind {
        match (self.kind, self.round) {
            (DrawKind::Summary, _) => SampleKind::Summary,
            (_, 1) => SampleKind::FirstAnswer,
            _ => SampleKind::LaterAnswer,
        }
    }
}
