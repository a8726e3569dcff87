//! How agents agree, err together, and move between rounds; from outcomes.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Outcome;

/// Questions on which all agents give the same answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Consensus {
    /// The share of all questions on which they agree on the right answer.
    pub right: f64,
    /// The share on which they agree on a wrong one: false consensus.
    pub wrong: f64,
}

/// Consensus of `agents` agents: `vote` is how the vote went and `votes` how many agents gave its answer, a question
/// each. `None` without questions or with lists of different lengths.
pub fn consensus(vote: &[Outcome], votes: &[usize], agents: usize) -> Option<Consensus> {
    if vote.is_empty() || vote.len() != votes.len() {
        return None;
    }
    let share = |wanted: Outcome| {
        let agreed = vote.iter().zip(votes).filter(|(o, n)| **o == wanted && **n == agents);
        agreed.count() as f64 / vote.len() as f64
    };
    Some(Consensus { right: share(Outcome::Right), wrong: share(Outcome::Wrong) })
}

/// How answers moved between two rounds: numbers of answers. No answer is one that could not be read, was cut off, or
/// is missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Moves {
    /// Right and stayed so.
    pub right_to_right: usize,
    /// Corrupted.
    pub right_to_wrong: usize,
    /// Right, then no answer.
    pub right_to_none: usize,
    /// Corrected.
    pub wrong_to_right: usize,
    /// Wrong before and after; perhaps another wrong answer.
    pub wrong_to_wrong: usize,
    /// Wrong, then no answer.
    pub wrong_to_none: usize,
    /// No answer, then the right one.
    pub none_to_right: usize,
    /// No answer, then a wrong one.
    pub none_to_wrong: usize,
    /// No answer before or after.
    pub none_to_none: usize,
}

/// The moves from one round to another: strings by agent, of the same questions. What one round lacks is not counted.
pub fn moves(before: &[Vec<Outcome>], after: &[Vec<Outcome>]) -> Moves {
    let mut m = Moves::default();
    for (from, to) in before.iter().zip(after).flat_map(|(b, a)| b.iter().zip(a)) {
        use Outcome::{Right, Wrong};
        let count = match (from, to) {
            (Right, Right) => &mut m.right_to_right,
            (Right, Wrong) => &mut m.right_to_wrong,
            (Right, _) => &mut m.right_to_none,
            (Wrong, Right) => &mut m.wrong_to_right,
            (Wrong, Wrong) => &mut m.wrong_to_wrong,
            (Wrong, _) => &mut m.wrong_to_none,
            (_, Right) => &mut m.none_to_right,
            (_, Wrong) => &mut m.none_to_wrong,
            _ => &mut m.none_to_none,
        };
        *count += 1;
    }
    m
}

/// The correlation of two agents' errors (anything but a right answer), averaged over all pairs of agents: the phi
/// coefficient `(n11 n00 - n10 n01) / sqrt(n1. n0. n.1 n.0)`, which is Pearson's for two yes-or-no variables. A pair
/// one of which always errs or never does has none and is left out; `None` if that is all pairs.
pub fn error_correlation(agents: &[Vec<Outcome>]) -> Option<f64> {
    let mut found = Vec::new();
    for (i, a) in agents.iter().enumerate() {
        for b in &agents[i + 1..] {
            let count = |x: bool, y: bool| {
                let holds = |(a, b): &(&Outcome, &Outcome)| {
                    (**a != Outcome::Right) == x && (**b != Outcome::Right) == y
                };
                a.iter().zip(b).filter(holds).count() as f64
            };
            let (n11, n10, n01, n00) =
                (count(true, true), count(true, false), count(false, true), count(false, false));
            let product = (n11 + n10) * (n01 + n00) * (n11 + n01) * (n10 + n00);
            if product > 0.0 {
                found.push((n11 * n00 - n10 * n01) / product.sqrt());
            }
        }
    }
    (!found.is_empty()).then(|| found.iter().sum::<f64>() / found.len() as f64)
}

/// The chance that at least one of `k` samples, drawn without replacement from `n` of which `right` are right, is
/// right: `1 - C(n - right, k) / C(n, k)`, the unbiased estimator of pass@k (Chen et al. 2021, arXiv 2107.03374).
/// `None` unless `right <= n` and `1 <= k <= n`.
pub fn pass_at(n: usize, right: usize, k: usize) -> Option<f64> {
    if right > n || k == 0 || k > n {
        return None;
    }
    // C(n - right, k) / C(n, k) = prod of (1 - k / i) for i = n - right + 1 ..= n; none of them is left where k > n -
    // right.
    if k > n - right {
        return Some(1.0);
    }
    Some(1.0 - (n - right + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>())
}

/// [`pass_at`] `k`, averaged over questions: one string a sample. `None` where a question has fewer than `k` samples,
/// or there is none.
pub fn mean_pass_at(samples: &[Vec<Outcome>], k: usize) -> Option<f64> {
    let questions = samples.iter().map(Vec::len).min().filter(|q| *q > 0)?;
    let of = |q: usize| pass_at(samples.len(), samples.iter().filter(|s| s[q] == Outcome::Right).count(), k);
    Some((0..questions).map(of).sum::<Option<f64>>()? / questions as f64)
}

/// How many different answers there are. No answer is none.
pub fn distinct_answers<'a>(answers: impl IntoIterator<Item = Option<&'a str>>) -> usize {
    answers.into_iter().flatten().collect::<BTreeSet<_>>().len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Chance;

    fn read(s: &str) -> Vec<Outcome> {
        Outcome::read(s).unwrap()
    }

    #[test]
    fn consensus_is_of_all_agents() {
        let found = consensus(&read("1100-"), &[3, 2, 3, 3, 1], 3).unwrap();
        assert_eq!(found, Consensus { right: 0.2, wrong: 0.4 });
        assert_eq!(consensus(&read("11"), &[1], 3), None);
    }

    #[test]
    fn every_move_has_its_place() {
        // Each of 5 × 5, and one more from wrong to right.
        let (mut from, mut to) = (read("0"), read("1"));
        for a in Outcome::ALL {
            for b in Outcome::ALL {
                from.push(a);
                to.push(b);
            }
        }
        let found = moves(&[read("1"), from], &[read("0"), to]);
        let expected = Moves {
            right_to_right: 1,
            right_to_wrong: 2,
            right_to_none: 3,
            wrong_to_right: 2,
            wrong_to_wrong: 1,
            wrong_to_none: 3,
            none_to_right: 3,
            none_to_wrong: 3,
            none_to_none: 9,
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn errors_correlate_as_pearson_says() {
        assert_eq!(error_correlation(&[read("1100"), read("1100")]), Some(1.0));
        assert_eq!(error_correlation(&[read("1100"), read("0011")]), Some(-1.0));
        assert_eq!(error_correlation(&[read("1100"), read("1010")]), Some(0.0));
        // One that never errs has none; any miss is an error.
        assert_eq!(error_correlation(&[read("1111"), read("1010")]), None);
        assert_eq!(error_correlation(&[read("1111"), read("1t-m"), read("1000")]), Some(1.0));
        assert_eq!(error_correlation(&[read("10")]), None);
        let mut chance = Chance::new(6);
        let draw = |chance: &mut Chance| -> Vec<Outcome> {
            (0..40).map(|_| Outcome::ALL[chance.below(2)]).collect()
        };
        let agents: Vec<Vec<Outcome>> = (0..4).map(|_| draw(&mut chance)).collect();
        let mut sum = 0.0;
        for i in 0..4 {
            for j in 0..i {
                let xs = |k: usize| agents[k].iter().map(|o| f64::from(u8::from(*o != Outcome::Right)));
                let mean = |k: usize| xs(k).sum::<f64>() / 40.0;
                let spread = |k: usize| xs(k).map(|x| (x - mean(k)).powi(2)).sum::<f64>().sqrt();
                let joint: f64 = xs(i).zip(xs(j)).map(|(x, y)| (x - mean(i)) * (y - mean(j))).sum();
                sum += joint / (spread(i) * spread(j));
            }
        }
        assert!((error_correlation(&agents).unwrap() - sum / 6.0).abs() < 1e-12);
    }

    /// By drawing every subset.
    #[test]
    fn pass_at_k_counts_subsets() {
        for n in 1..=7usize {
            for right in 0..=n {
                for k in 1..=n {
                    let subsets = (0u32..1 << n).filter(|s| s.count_ones() as usize == k);
                    let (mut all, mut hit) = (0, 0);
                    for subset in subsets {
                        all += 1;
                        hit += u32::from(subset & ((1 << right) - 1) != 0);
                    }
                    let expected = f64::from(hit) / f64::from(all);
                    assert!((pass_at(n, right, k).unwrap() - expected).abs() < 1e-12, "{n} {right} {k}");
                }
            }
        }
        assert_eq!((pass_at(3, 1, 0), pass_at(3, 1, 4), pass_at(3, 4, 1)), (None, None, None));
        assert_eq!(mean_pass_at(&[read("10"), read("00")], 2), Some(0.5));
        assert_eq!(mean_pass_at(&[read("10"), read("00")], 1), Some(0.25));
        assert_eq!(mean_pass_at(&[read("10")], 2), None);
        assert_eq!(mean_pass_at(&[], 1), None);
    }

    #[test]
    fn no_answer_is_no_distinct_answer() {
        assert_eq!(distinct_answers([Some("7"), None, Some("5"), Some("7")]), 2);
        assert_eq!(distinct_answers([None]), 0);
    }
}
