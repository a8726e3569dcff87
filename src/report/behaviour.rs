//! What outcomes by question tell beyond accuracy: where gains come from, how critics move answers, on what agents agree.

use super::folder::Run;
use super::measures::Measure;
use crate::measure::record::{Evaluation, Letters, Line};
use crate::measure::{Gain, Moves, Outcome, consensus, gain, moves};

/// A gain from before training to an iteration, over all seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct GainRow {
    /// The arm.
    pub arm: String,
    /// The split.
    pub split: &'static str,
    /// The later iteration.
    pub iteration: u64,
    /// Which answers: `single sample`, `first answers` or `last answers` of debates, `final vote`.
    pub answers: &'static str,
    /// The gain and its parts.
    pub gain: Gain,
}

/// How answers moved from the first round of a debate to the last, over all seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct MoveRow {
    /// The arm.
    pub arm: String,
    /// The split.
    pub split: &'static str,
    /// The iteration.
    pub iteration: u64,
    /// Numbers of answers.
    pub moves: Moves,
}

/// The evaluations of an arm on a split at an iteration.
fn evaluations<'a>(
    run: &'a Run,
    arm: &'a str,
    split: &'a str,
    i: u64,
) -> impl Iterator<Item = (&'a Line, &'a Evaluation)> {
    run.evaluations(arm, split).filter(move |(line, _)| line.iteration == i)
}

fn iterations(run: &Run, arm: &str, split: &str) -> Vec<u64> {
    let mut all: Vec<u64> = run.evaluations(arm, split).map(|(line, _)| line.iteration).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The kinds of answers whose gains are split.
const ANSWERS: [&str; 4] = ["single sample", "first answers", "last answers", "final vote"];

fn answers(record: &Evaluation, kind: &str) -> Vec<Vec<Outcome>> {
    let Some(outcomes) = &record.outcomes else { return vec![] };
    let debate = outcomes.debate.as_deref().unwrap_or_default();
    let letters: Option<&[Letters]> = match kind {
        "single sample" => outcomes.single.as_deref(),
        "first answers" => debate.first().map(Vec::as_slice),
        "last answers" => debate.last().map(Vec::as_slice),
        _ => outcomes.vote.as_deref().and_then(|votes| votes.last()).map(std::slice::from_ref),
    };
    letters.unwrap_or_default().iter().map(|l| l.0.clone()).collect()
}

/// Every arm's gain from iteration 0 to its last one, on test questions where both were measured, else on dev questions.
pub fn gains(run: &Run) -> Vec<GainRow> {
    let mut rows = Vec::new();
    for arm in &run.arms {
        let both = ["test", "dev"].into_iter().find_map(|split| {
            let all = iterations(run, &arm.name, split);
            let last = *all.last()?;
            (all[0] == 0 && last > 0).then_some((split, last))
        });
        let Some((split, last)) = both else { continue };
        for kind in ANSWERS {
            // Seeds that were measured both times, so that the two sides differ in training only.
            let seeds: Vec<u64> =
                evaluations(run, &arm.name, split, last).map(|(line, _)| line.seed).collect();
            let side = |i: u64| {
                let of_seeds =
                    evaluations(run, &arm.name, split, i).filter(|(line, _)| seeds.contains(&line.seed));
                of_seeds.flat_map(|(_, record)| answers(record, kind)).collect::<Vec<_>>()
            };
            // Where there is a debate, its first answers are the single samples.
            let again = kind == "first answers" && rows.last().is_some_and(|r: &GainRow| r.arm == arm.name);
            if let Some(gain) = gain(&side(0), &side(last)).filter(|_| !again) {
                rows.push(GainRow { arm: arm.name.clone(), split, iteration: last, answers: kind, gain });
            }
        }
    }
    rows
}

/// How critics moved answers, at every iteration, on dev questions (test questions where dev ones were not debated).
pub fn moved(run: &Run) -> Vec<MoveRow> {
    let mut rows = Vec::new();
    for arm in &run.arms {
        for split in ["dev", "test"] {
            let had = rows.len();
            for i in iterations(run, &arm.name, split) {
                let (mut before, mut after) = (vec![], vec![]);
                for (_, record) in evaluations(run, &arm.name, split, i) {
                    let debate = record.outcomes.as_ref().and_then(|o| o.debate.as_ref());
                    if debate.is_some_and(|rounds| rounds.len() > 1) {
                        before.extend(answers(record, "first answers"));
                        after.extend(answers(record, "last answers"));
                    }
                }
                if !before.is_empty() {
                    let moves = moves(&before, &after);
                    rows.push(MoveRow { arm: arm.name.clone(), split, iteration: i, moves });
                }
            }
            if rows.len() > had {
                break;
            }
        }
    }
    rows
}

/// On what all agents agree after the last round, by seed: `true_consensus` and `false_consensus`, shares of the questions.
pub fn agreement(run: &Run) -> Vec<Measure> {
    let mut all: Vec<Measure> = Vec::new();
    for arm in &run.arms {
        for split in run.measured_splits() {
            for i in iterations(run, &arm.name, split) {
                let (mut right, mut wrong) = (vec![], vec![]);
                for (line, record) in evaluations(run, &arm.name, split, i) {
                    let votes = record.outcomes.as_ref().and_then(|o| o.votes.as_ref()?.last());
                    let agents = answers(record, "last answers").len();
                    let Some(votes) = votes else { continue };
                    let vote = answers(record, "final vote");
                    if let Some(found) = vote.first().and_then(|vote| consensus(vote, &votes.0, agents)) {
                        right.push((line.seed, found.right));
                        wrong.push((line.seed, found.wrong));
                    }
                }
                for (name, seeds) in [("true_consensus", right), ("false_consensus", wrong)] {
                    if !seeds.is_empty() {
                        all.push(Measure {
                            arm: arm.name.clone(),
                            group: "debate",
                            split: split.into(),
                            name: name.into(),
                            iteration: i,
                            seeds,
                        });
                    }
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::{Digits, Outcomes, Record};
    use serde_json::{Value, json};

    fn run(metrics: Vec<Line>) -> Run {
        Run {
            folder: "x".into(),
            name: "x".into(),
            manifest: json!({"lanes": ["a/seed-0"], "seeds": [0]}),
            config: toml::from_str("[run]\niterations = 1\n[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\n")
                .unwrap(),
            splits: Value::Null,
            metrics,
            times: vec![],
            arms: vec![super::super::folder::Arm {
                name: "a".into(),
                recipe: "multiagent".into(),
                overrides: vec![],
                uses_labels: false,
                iterations: 1,
            }],
        }
    }

    fn record(iteration: u64, first: &str, last: &str, vote: &str, votes: &[usize]) -> Line {
        let of = |text: &str| vec![Letters(Outcome::read(text).unwrap()); 2];
        let outcomes = Outcomes {
            debate: Some(vec![of(first), of(last)]),
            vote: Some(of(vote)),
            votes: Some(vec![Digits(votes.into()); 2]),
            ..Outcomes::default()
        };
        let record = Evaluation { questions: first.len(), outcomes: Some(outcomes), ..Evaluation::default() };
        Line { arm: "a".into(), seed: 0, iteration, record: Record::Evaluation("dev", record.into()) }
    }

    #[test]
    fn moves_gains_and_agreement_come_from_the_right_rounds() {
        let run = run(vec![
            record(0, "10-t", "1000", "1000", &[2; 4]),
            record(1, "1100", "0110", "0110", &[2, 1, 2, 2]),
        ]);
        let moves = moved(&run);
        assert_eq!(moves.len(), 2);
        assert_eq!((moves[0].moves.none_to_wrong, moves[0].moves.right_to_right), (4, 2));
        assert_eq!((moves[1].moves.right_to_wrong, moves[1].moves.wrong_to_right), (2, 2));
        let agreed = agreement(&run);
        let of =
            |name: &str, i: u64| agreed.iter().find(|m| m.name == name && m.iteration == i).unwrap().value();
        assert_eq!((of("true_consensus", 0), of("false_consensus", 0)), (0.25, 0.75));
        // The second question's agents do not all give the vote's answer.
        assert_eq!((of("true_consensus", 1), of("false_consensus", 1)), (0.25, 0.5));
        let gains = gains(&run);
        let first = gains.iter().find(|g| g.answers == "first answers").unwrap().gain;
        assert!((first.total - 0.25).abs() < 1e-12, "{first:?}");
        assert!(first.truncation > 0.0 && first.parsing > 0.0);
        let vote = gains.iter().find(|g| g.answers == "final vote").unwrap().gain;
        assert!((vote.total - 0.25).abs() < 1e-12 && (vote.accuracy - 0.25).abs() < 1e-12);
    }
}
