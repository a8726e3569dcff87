//! The vote: answers in canonical form are counted, those that are missing never vote.

use serde::Serialize;

use crate::measure::Chance;
use crate::run::Ties;

/// The outcome of a vote.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Vote {
    /// The winner; none if nobody had an answer.
    pub answer: Option<String>,
    /// Agents that gave it.
    pub votes: usize,
    /// Whether others had as many.
    pub tie: bool,
}

impl Vote {
    /// Counts `answers` in order; `key` decides ties if they are random.
    pub fn of<'a>(answers: impl IntoIterator<Item = Option<&'a str>>, ties: Ties, key: u64) -> Self {
        let mut counts: Vec<(&str, usize)> = Vec::new();
        for answer in answers.into_iter().flatten() {
            match counts.iter_mut().find(|(a, _)| *a == answer) {
                Some((_, count)) => *count += 1,
                None => counts.push((answer, 1)),
            }
        }
        let votes = counts.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let top: Vec<&str> = counts.iter().filter(|(_, count)| *count == votes).map(|(a, _)| *a).collect();
        let winner = match ties {
            Ties::Random if top.len() > 1 => Some(top[Chance::new(key).below(top.len())]),
            Ties::Random | Ties::First => top.first().copied(),
            Ties::Largest => top.iter().max().copied(),
        };
        Self { answer: winner.map(Into::into), votes, tie: top.len() > 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vote(answers: &[&str], ties: Ties, key: u64) -> Vote {
        Vote::of(answers.iter().map(|a| (*a != "-").then_some(*a)), ties, key)
    }

    #[test]
    fn the_most_common_answer_wins_and_missing_ones_dont_vote() {
        for ties in [Ties::Random, Ties::First, Ties::Largest] {
            let v = vote(&["5", "7", "7"], ties, 1);
            assert_eq!((v.answer.as_deref(), v.votes, v.tie), (Some("7"), 2, false));
            let v = vote(&["-", "5", "-"], ties, 1);
            assert_eq!((v.answer.as_deref(), v.votes, v.tie), (Some("5"), 1, false));
            assert_eq!(vote(&["-", "-"], ties, 1), Vote::default());
        }
    }

    #[test]
    fn ties_follow_their_rule() {
        assert_eq!(vote(&["10", "9", "5"], Ties::First, 1).answer.as_deref(), Some("10"));
        assert_eq!(vote(&["10", "9", "5"], Ties::Largest, 1).answer.as_deref(), Some("9"));
        let mut wins = std::collections::HashMap::new();
        for key in 0..3000 {
            let v = vote(&["10", "9", "5", "-"], Ties::Random, key);
            assert!(v.tie);
            assert_eq!(v, vote(&["10", "9", "5", "-"], Ties::Random, key));
            *wins.entry(v.answer.unwrap()).or_insert(0) += 1;
        }
        assert!(wins.values().all(|w| (880..1120).contains(w)), "{wins:?}");
        assert!(
            (0..100).all(|key| vote(&["1", "2", "2", "3", "3"], Ties::Random, key).answer.unwrap() != "1")
        );
    }
}
