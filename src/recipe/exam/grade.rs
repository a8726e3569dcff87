//! How answers are graded: against the reference answers, one by one and as votes.

use serde_json::{Value, json};

use super::{Examination, Paper};
use crate::debate::{Debate, Round, Speaker, Turn, Vote};
use crate::engine::Finish;
use crate::error::{Error, Result};
use crate::measure::record::{Agreement, Answers, Letters, Rates, Summaries};
use crate::measure::{Estimate, Outcome, share};
use crate::recipe::lane::record;
use crate::task::{AnswerKey, Question};

/// All questions' answers.
pub struct Papers<'a> {
    /// What they were asked in.
    pub exam: &'a Examination<'a>,
    /// In order.
    pub questions: &'a [Question],
    /// A question each.
    pub papers: &'a [Paper],
}

impl<'a> Papers<'a> {
    /// Questions with their answers.
    pub fn each(&self) -> impl Iterator<Item = (&'a Question, &'a Paper)> {
        self.questions.iter().zip(self.papers)
    }

    /// The accuracy of votes, one a question.
    pub fn accuracy(&self, votes: &[Vote]) -> Estimate {
        let is_right = |(q, v): (&Question, &Vote)| self.exam.answers.is_right(&q.id, v.answer.as_deref());
        Estimate::share(&self.questions.iter().zip(votes).map(is_right).collect::<Vec<_>>())
    }

    /// What is recorded of answers that are graded one by one, and their accuracy.
    pub fn answers(&self, turns: impl Fn(&Paper) -> &[Turn]) -> (Answers, Estimate) {
        let key = self.exam.answers;
        let all: Vec<(&Question, &[Turn])> = self.each().map(|(q, p)| (q, turns(p))).collect();
        let of_question =
            |(q, turns): &(&Question, &[Turn])| share(turns.iter().map(|t| is_right(key, q, t)));
        let accuracy = Estimate::of(&all.iter().map(of_question).collect::<Vec<_>>());
        let answers = Answers {
            accuracy: accuracy.value,
            standard_error: accuracy.standard_error,
            agents: per_agent(&all, key),
            rates: rates(all.iter().flat_map(|(_, turns)| *turns)),
        };
        (answers, accuracy)
    }

    /// Outcomes of the first `count` turns of each question, by turn.
    pub fn letters(&self, count: usize, turns: impl Fn(&Paper) -> &[Turn]) -> Vec<Letters> {
        let of_turn = |n: usize| {
            Letters(self.each().map(|(q, p)| outcome(self.exam.answers, q, &turns(p)[n])).collect())
        };
        (0..count).map(of_turn).collect()
    }

    /// Outcomes of votes, one a question.
    pub fn vote_letters(&self, votes: &[Vote]) -> Letters {
        let of = |(q, vote): (&Question, &Vote)| match &vote.answer {
            Some(answer) if self.exam.answers.is_right(&q.id, Some(answer)) => Outcome::Right,
            Some(_) => Outcome::Wrong,
            None => Outcome::NoAnswer,
        };
        Letters(self.questions.iter().zip(votes).map(of).collect())
    }

    /// Records of first answers.
    pub fn transcripts(&self, turns: impl Fn(&Paper) -> &[Turn]) -> Result<Vec<Value>> {
        let of = |(q, paper): (&Question, &Paper)| {
            let (key, turns) = (self.exam.answers, turns(paper));
            let right: Vec<bool> = turns.iter().map(|t| is_right(key, q, t)).collect();
            Ok(json!({
                "id": q.id,
                "question": q.text,
                "turns": serde_json::to_value(turns).map_err(|e| Error::Internal(e.to_string()))?,
                "reference": key.reference(&q.id),
                "right": right,
            }))
        };
        self.each().map(of).collect()
    }

    /// How many samples cost, on average, what one debate costs: at least 1. None if there were no
    /// debates or no samples.
    pub fn budget(&self) -> Option<usize> {
        let (society, parameters) = (self.exam.society, &self.exam.parameters);
        let flop = |turn: &Turn, who: &[Speaker]| parameters.flop(&who[turn.agent], turn);
        let samples = self.papers.iter().flat_map(|p| &p.samples);
        let samples: Vec<f64> = samples.map(|turn| flop(turn, &society.generators)).collect();
        let of_debate = |debate: &Debate| -> f64 {
            let of_round = |(m, round): (usize, &Round)| {
                round.turns.iter().map(|turn| flop(turn, society.speakers(m + 1))).sum::<f64>()
            };
            debate.rounds.iter().enumerate().map(of_round).sum()
        };
        let debates: Vec<f64> = self.papers.iter().filter_map(|p| p.debate.as_ref()).map(of_debate).collect();
        if samples.is_empty() || debates.is_empty() {
            return None;
        }
        let k = Estimate::of(&debates).value / Estimate::of(&samples).value;
        k.is_finite().then(|| (k.round() as usize).max(1))
    }
}

fn is_right(key: &AnswerKey, question: &Question, turn: &Turn) -> bool {
    key.is_right(&question.id, turn.answer.as_deref())
}

fn outcome(key: &AnswerKey, question: &Question, turn: &Turn) -> Outcome {
    match &turn.answer {
        Some(_) if is_right(key, question, turn) => Outcome::Right,
        Some(_) => Outcome::Wrong,
        None if turn.response.is_none() => Outcome::Missing,
        None if turn.is_cut_off() => Outcome::CutOff,
        None => Outcome::NoAnswer,
    }
}

/// A debate's transcript with the reference answer and whether the vote met it.
pub fn transcript(debate: &Debate, answers: &AnswerKey) -> Result<Value> {
    let mut transcript = record(debate)?;
    transcript["reference"] = json!(answers.reference(&debate.id));
    transcript["right"] = answers.is_right(&debate.id, debate.vote.answer.as_deref()).into();
    Ok(transcript)
}

/// The share of right answers of each agent's turns.
pub fn per_agent(all: &[(&Question, &[Turn])], key: &AnswerKey) -> Vec<f64> {
    let agents = all.iter().flat_map(|(_, turns)| turns.iter().map(|t| t.agent + 1)).max().unwrap_or(0);
    let turns = || all.iter().flat_map(|(q, turns)| turns.iter().map(move |t| (q, t)));
    let of = |n: usize| share(turns().filter(|(_, t)| t.agent == n).map(|(q, t)| is_right(key, q, t)));
    (0..agents).map(of).collect()
}

/// How far agents agree. No answer agrees with nothing.
pub fn agreement(rounds: &[&Round]) -> Agreement {
    let shares: Vec<f64> = rounds.iter().map(|r| r.vote.votes as f64 / r.turns.len() as f64).collect();
    Agreement {
        all_agree: Some(share(rounds.iter().map(|r| r.vote.votes == r.turns.len()))),
        consensus: Some(Estimate::of(&shares).value),
    }
}

/// Shares of answers that parse, are cut off, are missing; mean length and log-probability; the
/// same for summaries.
pub fn rates<'t>(turns: impl Iterator<Item = &'t Turn>) -> Rates {
    let turns: Vec<&Turn> = turns.collect();
    let said: Vec<_> = turns.iter().filter_map(|t| t.response.as_ref()).collect();
    let summaries: Vec<_> = turns.iter().filter_map(|t| t.summary.as_ref()).collect();
    let mean = |values: Vec<f64>| Estimate::of(&values).value;
    let of_summaries = || Summaries {
        truncation_rate: share(summaries.iter().map(|s| s.finish == Finish::Length)),
        mean_tokens: mean(summaries.iter().map(|s| s.tokens as f64).collect()),
    };
    Rates {
        parse_rate: Some(share(turns.iter().map(|t| t.answer.is_some()))),
        truncation_rate: Some(share(turns.iter().map(|t| t.is_cut_off()))),
        missing_rate: Some(share(turns.iter().map(|t| t.missing.is_some()))),
        mean_tokens: Some(mean(said.iter().map(|r| r.tokens as f64).collect())),
        mean_logprob: Some(mean(said.iter().map(|r| r.mean_logprob).collect())),
        summaries: (!summaries.is_empty()).then(of_summaries),
    }
}
