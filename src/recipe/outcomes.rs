//! What became of each question, as one character, and the votes of fewer samples than were drawn.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::exam::{Exam, Methods};
use crate::debate::{Round, Society, Speaker, Turn, Utterance, Vote};
use crate::engine::AdapterId;
use crate::measure::Estimate;
use crate::task::{AnswerKey, Question};

/// How many parameters a token passes through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// Of the base model.
    pub base: usize,
    /// Of each adapter.
    pub adapters: BTreeMap<AdapterId, usize>,
}

impl Parameters {
    /// Of the base and this adapter.
    pub fn with(&self, adapter: AdapterId) -> usize {
        self.base + self.adapters.get(&adapter).copied().unwrap_or(0)
    }

    /// FLOP of a text that this adapter (or the base) read its prompt for and wrote: 2 for each parameter and token.
    fn flop(&self, adapter: AdapterId, said: Option<&Utterance>) -> f64 {
        let tokens = said.map_or(0, |s| s.prompt_tokens + s.tokens);
        2.0 * self.with(adapter) as f64 * tokens as f64
    }

    /// FLOP of a turn with the summary before it, which the base wrote.
    fn of_turn(&self, speaker: &Speaker, turn: &Turn) -> f64 {
        let summary = self.flop(AdapterId::BASE, turn.summary.as_ref());
        let each = |(adapter, _): &(AdapterId, f32)| self.flop(*adapter, turn.response.as_ref());
        summary + speaker.adapters().iter().map(each).sum::<f64>()
    }
}

/// How many samples cost, on average, what one debate costs: at least 1. None if there were no debates or no samples.
pub fn budget(exams: &[Exam], society: &Society, parameters: &Parameters) -> Option<usize> {
    let samples: Vec<f64> = exams
        .iter()
        .flat_map(|e| &e.samples)
        .map(|turn| parameters.of_turn(&society.generators[turn.agent], turn))
        .collect();
    let debates: Vec<f64> = exams
        .iter()
        .filter_map(|e| e.debate.as_ref())
        .map(|debate| {
            let rounds = debate.rounds.iter().enumerate();
            let of_round = |(m, round): (usize, &Round)| {
                let who = society.speakers(m + 1);
                round.turns.iter().map(|turn| parameters.of_turn(&who[turn.agent], turn)).sum::<f64>()
            };
            rounds.map(of_round).sum()
        })
        .collect();
    if samples.is_empty() || debates.is_empty() {
        return None;
    }
    let k = Estimate::of(&debates).value / Estimate::of(&samples).value;
    k.is_finite().then(|| (k.round() as usize).max(1))
}

/// Numbers of samples whose votes are given: 1, 3, 5, … of those drawn.
pub fn sizes(drawn: usize) -> impl Iterator<Item = usize> {
    (1..=drawn).step_by(2)
}

/// `1` right, `0` wrong, `-` no answer, `t` none because it was cut off by length, `m` nothing was said: the prompt outgrew the context.
fn of_turn(question: &Question, turn: &Turn, key: &AnswerKey) -> char {
    match &turn.answer {
        Some(answer) if key.is_right(&question.id, Some(answer)) => '1',
        Some(_) => '0',
        None if turn.response.is_none() => 'm',
        None if turn.is_cut_off() => 't',
        None => '-',
    }
}

/// `1` right, `0` wrong, `-` nobody had an answer.
fn of_vote(question: &Question, vote: &Vote, key: &AnswerKey) -> char {
    match &vote.answer {
        Some(answer) if key.is_right(&question.id, Some(answer)) => '1',
        Some(_) => '0',
        None => '-',
    }
}

/// One string for each of `count` turns, one character a question.
fn of_turns(
    questions: &[Question],
    exams: &[Exam],
    key: &AnswerKey,
    count: usize,
    turns: impl Fn(&Exam) -> &[Turn],
) -> Value {
    let by_question = || questions.iter().zip(exams);
    let of = |n: usize| by_question().map(|(q, e)| of_turn(q, &turns(e)[n], key)).collect::<String>();
    (0..count).map(of).collect::<Vec<_>>().into()
}

/// The `outcomes` of an evaluation: every question by every method, in the order of the questions.
pub fn outcomes(
    questions: &[Question],
    exams: &[Exam],
    agents: usize,
    methods: Methods,
    key: &AnswerKey,
) -> Value {
    let by_question = || questions.iter().zip(exams);
    let all = |count, turns: &dyn Fn(&Exam) -> &[Turn]| of_turns(questions, exams, key, count, turns);
    let mut value = Map::new();
    if methods.greedy {
        let distinct = exams.first().map_or(0, |e| e.greedy.len());
        value.insert("greedy".into(), all(distinct, &|e| &e.greedy));
    }
    if methods.single {
        value.insert("single".into(), all(agents, &|e| &e.samples));
    }
    if methods.majority > 0 {
        let vote = |(q, e): (&Question, &Exam)| e.majority.as_ref().map_or('-', |v| of_vote(q, v, key));
        value.insert("majority".into(), by_question().map(vote).collect::<String>().into());
        let drawn = exams.first().map_or(0, |e| e.samples.len());
        value.insert("samples".into(), all(drawn, &|e| &e.samples));
    }
    if methods.debate {
        let rounds = exams.iter().find_map(|e| e.debate.as_ref()).map_or(0, |d| d.rounds.len());
        let of_round =
            |m: usize| by_question().filter_map(move |(q, e)| Some((q, &e.debate.as_ref()?.rounds[m])));
        let turns = |m: usize| -> Value {
            let of = |n: usize| of_round(m).map(|(q, r)| of_turn(q, &r.turns[n], key)).collect::<String>();
            (0..agents).map(of).collect::<Vec<_>>().into()
        };
        let votes = |digit: &dyn Fn(&Question, &Round) -> char| -> Value {
            let of = |m: usize| of_round(m).map(|(q, r)| digit(q, r)).collect::<String>();
            (0..rounds).map(of).collect::<Vec<_>>().into()
        };
        value.insert("debate".into(), (0..rounds).map(turns).collect::<Vec<_>>().into());
        value.insert("vote".into(), votes(&|q, r| of_vote(q, &r.vote, key)));
        // There are at most 35 agents.
        let digit = |n: usize| char::from_digit(n.min(35) as u32, 36).unwrap_or('z');
        value.insert("votes".into(), votes(&|_, r| digit(r.vote.votes)));
    }
    Value::Object(value)
}

/// The vote of the first `k` samples for every k of [`sizes`], and of as many as a debate costs.
pub fn add_votes_of_fewer(
    value: &mut Value,
    questions: &[Question],
    exams: &[Exam],
    key: &AnswerKey,
    budget: Option<usize>,
) {
    let accuracy = |vote: &dyn Fn(&Exam) -> Option<String>| {
        let right = |(q, e): (&Question, &Exam)| key.is_right(&q.id, vote(e).as_deref());
        Estimate::share(&questions.iter().zip(exams).map(right).collect::<Vec<_>>())
    };
    let measured = |samples: usize, of: Estimate| json!({"samples": samples, "accuracy": of.value, "standard_error": of.standard_error});
    let drawn = exams.first().map_or(0, |e| e.by_samples.len());
    let votes = |k: usize| accuracy(&|e| e.by_samples[k - 1].answer.clone());
    value["by_samples"] = sizes(drawn).map(|k| measured(k, votes(k))).collect::<Vec<_>>().into();
    if let Some(k) = budget.filter(|k| *k <= drawn) {
        value["budget"] = measured(k, votes(k));
    }
}
