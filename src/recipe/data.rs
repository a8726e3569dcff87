//! From debates to training data (Multiagent Finetuning, Algorithm 1, lines 16 to 27). No reference answer is used.

use serde_json::{Value, json};

use super::Training;
use crate::debate::{Debate, Turn};
use crate::engine::TrainSequence;
use crate::error::{Error, Result};
use crate::measure::Chance;
use crate::run::{CriticLoss, MixRule};
use crate::text::{Codec, Message};

/// A training example: an agent's own response to what it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The question's id.
    pub question: String,
    /// `first`, `corrected`, `confirmed`; of the control with shuffled labels `random`; after a hint `hinted`.
    pub kind: &'static str,
    /// Who wrote it.
    pub agent: usize,
    /// The conversation, the response last; turns without loss have weight 0.
    pub messages: Vec<Message>,
    /// The answer it arrives at: the pseudo-label.
    pub answer: String,
    /// Tokens and loss weights.
    pub sequence: TrainSequence,
}

impl Example {
    /// The sampled tokens themselves carry the loss, everything before them is context.
    pub fn of_turn(debate: &Debate, turn: &Turn, kind: &'static str) -> Option<Self> {
        let response = turn.response.as_ref()?;
        let tokens: Vec<u32> = response.prompt_ids.iter().chain(&response.ids).copied().collect();
        let mut weights = vec![0.0; response.prompt_ids.len()];
        weights.resize(tokens.len(), 1.0);
        let mut messages = turn.messages.clone();
        messages.iter_mut().filter(|m| m.role == "assistant").for_each(|m| m.weight = Some(0.0.into()));
        messages.push(Message::assistant(response.text.clone()));
        Some(Self {
            question: debate.id.clone(),
            kind,
            agent: turn.agent,
            messages,
            answer: turn.answer.clone()?,
            sequence: TrainSequence { tokens, weights },
        })
    }

    /// What was said after a hint, as the answer to the question without one: the hint is in no training data.
    pub fn without_hint(debate: &Debate, unhinted: &Turn, hinted: &Turn) -> Option<Self> {
        let mut response = hinted.response.clone()?;
        response.prompt_ids = unhinted.response.as_ref()?.prompt_ids.clone();
        let turn = Turn { response: Some(response), answer: hinted.answer.clone(), ..unhinted.clone() };
        Self::of_turn(debate, &turn, "hinted")
    }

    /// Every assistant turn carries loss. `None` if the conversation as training tokenizes it outgrows the context.
    fn with_all_turns(mut self, codec: &dyn Codec) -> Result<Option<Self>> {
        self.messages.iter_mut().for_each(|m| m.weight = None);
        let (tokens, weights) = match codec.training(&self.messages) {
            Err(Error::TooLong { .. }) => return Ok(None),
            found => found?,
        };
        let fits = tokens.len() <= codec.max_positions();
        self.sequence = TrainSequence { tokens, weights };
        Ok(fits.then_some(self))
    }

    /// As data sets store it; `colloquy train` reads it.
    pub fn record(&self) -> Value {
        json!({
            "id": self.question,
            "kind": self.kind,
            "agent": self.agent,
            "answer": self.answer,
            "tokens_in_all": self.sequence.tokens.len(),
            "tokens_with_loss": self.sequence.weights.iter().filter(|w| **w != 0.0).count(),
            "messages": self.messages,
        })
    }
}

/// The debate's vote, if enough agents agree on it: at least `min_agreement`, or more than half if that is 0.
pub fn pseudo_label(debate: &Debate, min_agreement: usize) -> Option<&str> {
    let vote = &debate.vote;
    let enough =
        if min_agreement == 0 { 2 * vote.votes > debate.agents() } else { vote.votes >= min_agreement };
    if enough { vote.answer.as_deref() } else { None }
}

/// All first answers of every agent that match the pseudo-label, question by question.
pub fn matching_answers(debates: &[Debate], labels: &[Option<&str>]) -> Vec<Example> {
    let of_question = |(debate, label): (&Debate, &Option<&str>)| {
        let of_agent = |n| generator_set(std::slice::from_ref(debate), &[*label], n);
        (0..debate.agents()).flat_map(of_agent).collect::<Vec<_>>()
    };
    debates.iter().zip(labels).flat_map(of_question).collect()
}

/// All first answers of every agent that parse, whatever they are, except those cut off by length.
pub fn all_answers(debates: &[Debate]) -> Vec<Example> {
    let of_question = |debate: &Debate| {
        let whole = debate.rounds[0].turns.iter().filter(|turn| !turn.is_cut_off());
        whole.filter_map(|turn| Example::of_turn(debate, turn, "first")).collect::<Vec<_>>()
    };
    debates.iter().flat_map(of_question).collect()
}

/// What a generator could learn if nothing were asked of its first answers but that they parse and are whole.
pub fn generator_candidates(debates: &[Debate], agent: usize) -> Vec<Example> {
    let whole = debates.iter().filter(|debate| !debate.first(agent).is_cut_off());
    whole.filter_map(|debate| Example::of_turn(debate, debate.first(agent), "random")).collect()
}

/// The same of a critic: whole trajectories whose last answer parses.
pub fn critic_candidates(
    debates: &[Debate],
    agent: usize,
    loss: CriticLoss,
    codec: &dyn Codec,
) -> Result<Vec<Example>> {
    let whole = debates.iter().filter(|d| !is_cut_off(d, agent, loss));
    let trajectories = whole.filter_map(|d| trajectory(d, agent, "random", loss, codec).transpose());
    trajectories.collect()
}

/// Whether a turn that would carry loss is cut off by length.
fn is_cut_off(debate: &Debate, agent: usize, loss: CriticLoss) -> bool {
    let last = debate.last(agent);
    let trained = |turn: &Turn| loss == CriticLoss::All || std::ptr::eq(turn, last);
    debate.rounds.iter().map(|r| &r.turns[agent]).any(|t| trained(t) && t.is_cut_off())
}

/// An agent's whole trajectory, if its last turn has an answer.
fn trajectory(
    debate: &Debate,
    agent: usize,
    kind: &'static str,
    loss: CriticLoss,
    codec: &dyn Codec,
) -> Result<Option<Example>> {
    match Example::of_turn(debate, debate.last(agent), kind) {
        Some(example) if loss == CriticLoss::All => example.with_all_turns(codec),
        example => Ok(example),
    }
}

/// D^G of an agent: its first answers that match the pseudo-label, except those cut off by length.
pub fn generator_set(debates: &[Debate], labels: &[Option<&str>], agent: usize) -> Vec<Example> {
    debates
        .iter()
        .zip(labels)
        .filter_map(|(debate, label)| {
            let turn = debate.first(agent);
            let kept = label.is_some() && turn.answer.as_deref() == *label && !turn.is_cut_off();
            kept.then(|| Example::of_turn(debate, turn, "first")).flatten()
        })
        .collect()
}

/// D^C- and D^C+ of an agent: whole trajectories whose last answer matches the pseudo-label, by whether the first did not or did.
pub fn critic_sets(
    debates: &[Debate],
    labels: &[Option<&str>],
    agent: usize,
    loss: CriticLoss,
    codec: &dyn Codec,
) -> Result<(Vec<Example>, Vec<Example>)> {
    let (mut corrected, mut confirmed) = (Vec::new(), Vec::new());
    for (debate, label) in debates.iter().zip(labels) {
        let (first, last) = (debate.first(agent), debate.last(agent));
        if label.is_none() || last.answer.as_deref() != *label || is_cut_off(debate, agent, loss) {
            continue;
        }
        let was_right = first.answer.as_deref() == *label;
        let kind = if was_right { "confirmed" } else { "corrected" };
        let example = trajectory(debate, agent, kind, loss, codec)?;
        if was_right { confirmed.extend(example) } else { corrected.extend(example) }
    }
    Ok((corrected, confirmed))
}

/// What a critic's data were made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MixShares {
    /// |D^C-|
    pub corrected: usize,
    /// |D^C+|
    pub confirmed: usize,
    /// Taken of D^C-.
    pub corrected_taken: usize,
    /// Taken of D^C+.
    pub confirmed_taken: usize,
}

impl MixShares {
    /// The share of corrected ones among those taken.
    pub fn effective_mix(&self) -> Option<f64> {
        let all = self.corrected_taken + self.confirmed_taken;
        (all > 0).then(|| self.corrected_taken as f64 / all as f64)
    }
}

/// How many to take of `corrected` and `confirmed`: with both there, floor(min(|D⁻|/w, |D⁺|/(1-w))) in all, a share w of them corrected; the
/// other side alone where one is empty.
pub fn critic_mix(corrected: usize, confirmed: usize, w: f32) -> MixShares {
    // The shortest decimal of the setting, so that 3 / 0.3 is 10; and an allowance for the division's own rounding.
    let w: f64 = w.to_string().parse().unwrap_or(0.5);
    let (corrected_taken, confirmed_taken) = if w >= 1.0 {
        (corrected, 0)
    } else if w <= 0.0 {
        (0, confirmed)
    } else if corrected == 0 || confirmed == 0 {
        (corrected, confirmed)
    } else {
        let size = ((corrected as f64 / w).min(confirmed as f64 / (1.0 - w)) + 1e-9).floor();
        let minus = ((w * size + 0.5 + 1e-9).floor() as usize).min(corrected);
        (minus, (size as usize - minus).min(confirmed))
    };
    MixShares { corrected, confirmed, corrected_taken, confirmed_taken }
}

/// D^C: a seeded choice from both, in the order of the questions.
pub fn critic_set(
    corrected: Vec<Example>,
    confirmed: Vec<Example>,
    training: &Training,
    order: &[Debate],
    key: u64,
) -> (Vec<Example>, MixShares) {
    let mut chance = Chance::new(key);
    let (minus, plus, shares) = match training.section.critic_mix_rule {
        MixRule::Ratio => {
            let shares = critic_mix(corrected.len(), confirmed.len(), training.section.critic_mix);
            let minus = chance.choose(&corrected, shares.corrected_taken);
            (minus, chance.choose(&confirmed, shares.confirmed_taken), shares)
        }
        MixRule::CoinFlip => {
            let heads = corrected.iter().filter(|_| chance.coin()).count().min(confirmed.len());
            let shares = MixShares {
                corrected: corrected.len(),
                confirmed: confirmed.len(),
                corrected_taken: corrected.len(),
                confirmed_taken: heads,
            };
            (corrected, chance.choose(&confirmed, heads), shares)
        }
    };
    let mut both: Vec<Example> = minus.into_iter().chain(plus).collect();
    let place = |e: &Example| order.iter().position(|d| d.id == e.question);
    both.sort_by_cached_key(place);
    (both, shares)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn critic_mix_takes_the_right_numbers() {
        // |D-|, |D+|, w, taken of each.
        for (minus, plus, w, expected) in [
            (10, 10, 0.5, (10, 10)),
            (3, 100, 0.5, (3, 3)),
            (100, 3, 0.5, (3, 3)),
            (3, 100, 0.3, (3, 7)),
            (3, 7, 0.3, (3, 7)),
            (3, 6, 0.3, (2, 6)),
            (100, 10, 0.9, (90, 10)),
            (1, 1, 0.9, (1, 0)),
            (5, 4, 0.9, (5, 0)),
            (20, 30, 0.4, (20, 30)),
            (19, 30, 0.4, (19, 28)),
            (0, 12, 0.5, (0, 12)),
            (12, 0, 0.5, (12, 0)),
            (0, 0, 0.5, (0, 0)),
            (7, 9, 0.0, (0, 9)),
            (7, 9, 1.0, (7, 0)),
            (0, 9, 1.0, (0, 0)),
            (7, 0, 0.0, (0, 0)),
        ] {
            let shares = critic_mix(minus, plus, w);
            assert_eq!((shares.corrected_taken, shares.confirmed_taken), expected, "{minus} {plus} {w}");
        }
    }

    #[test]
    fn critic_mix_is_never_more_than_there_is_and_near_the_share() {
        for minus in 0..40usize {
            for plus in 0..40usize {
                for w in [0.05f32, 0.1, 0.25, 0.3, 0.5, 0.6, 0.7, 0.9, 0.95] {
                    let s = critic_mix(minus, plus, w);
                    assert!(s.corrected_taken <= minus && s.confirmed_taken <= plus);
                    if minus > 0 && plus > 0 {
                        let taken = s.corrected_taken + s.confirmed_taken;
                        let most = (minus as f64 / f64::from(w)).min(plus as f64 / (1.0 - f64::from(w)));
                        assert!(
                            taken as f64 <= most + 1e-4 && taken as f64 > most - 1.0 - 1e-4,
                            "{minus} {plus} {w}"
                        );
                        assert!((s.corrected_taken as f64 - f64::from(w) * taken as f64).abs() <= 0.5 + 1e-4);
                    }
                }
            }
        }
    }

    #[test]
    fn effective_mix_is_what_was_taken() {
        assert_eq!(critic_mix(3, 7, 0.3).effective_mix(), Some(0.3));
        assert_eq!(critic_mix(0, 7, 0.3).effective_mix(), Some(0.0));
        assert_eq!(critic_mix(0, 0, 0.3).effective_mix(), None);
    }
}
