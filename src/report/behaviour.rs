//! What outcomes by question tell beyond accuracy: where gains come from, how critics move answers, on what agents agree.

use serde_json::Value;

use super::folder::{Record, Run, iteration, seed};
use super::measures::Measure;
use super::scores::outcomes_of;
use crate::measure::{Gain, Moves, Outcome, consensus, digits, gain, moves};

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

/// The evaluation records of an arm on a split at an iteration.
fn records<'a>(run: &'a Run, arm: &'a str, split: &'a str, i: u64) -> impl Iterator<Item = &'a Record> {
    run.records(arm, split).filter(move |r| iteration(r) == i)
}

fn iterations(run: &Run, arm: &str, split: &str) -> Vec<u64> {
    let mut all: Vec<u64> = run.records(arm, split).map(iteration).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Outcomes of a record; nothing where it has none.
fn of(record: &Record, pick: impl Fn(&Value) -> Option<Value>) -> Vec<Vec<Outcome>> {
    let value = record.get("outcomes").and_then(pick).unwrap_or(Value::Null);
    outcomes_of(&value).unwrap_or_default()
}

/// The kinds of answers whose gains are split, and where their outcomes stand.
const ANSWERS: [&str; 4] = ["single sample", "first answers", "last answers", "final vote"];

fn answers(record: &Record, kind: &str) -> Vec<Vec<Outcome>> {
    of(record, |outcomes| match kind {
        "single sample" => outcomes.get("single").cloned(),
        "first answers" => outcomes.get("debate")?.as_array()?.first().cloned(),
        "last answers" => outcomes.get("debate")?.as_array()?.last().cloned(),
        _ => outcomes.get("vote")?.as_array()?.last().cloned(),
    })
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
            let seeds: Vec<u64> = records(run, &arm.name, split, last).map(seed).collect();
            let side = |i: u64| {
                let of_seeds = records(run, &arm.name, split, i).filter(|r| seeds.contains(&seed(r)));
                of_seeds.flat_map(|r| answers(r, kind)).collect::<Vec<_>>()
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
                for record in records(run, &arm.name, split, i) {
                    let rounds =
                        record.get("outcomes").and_then(|o| o["debate"].as_array()).map_or(0, Vec::len);
                    if rounds > 1 {
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
                for record in records(run, &arm.name, split, i) {
                    let votes = record.get("outcomes").and_then(|o| o["votes"].as_array()?.last()?.as_str());
                    let agents = answers(record, "last answers").len();
                    let Some(votes) = votes.and_then(digits) else { continue };
                    let vote = answers(record, "final vote");
                    if let Some(found) = vote.first().and_then(|vote| consensus(vote, &votes, agents)) {
                        right.push((seed(record), found.right));
                        wrong.push((seed(record), found.wrong));
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
    use serde_json::json;

    fn run(records: Vec<Value>) -> Run {
        Run {
            folder: "x".into(),
            name: "x".into(),
            manifest: json!({"lanes": ["a/seed-0"], "seeds": [0]}),
            config: toml::from_str("[run]\niterations = 1\n[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\n")
                .unwrap(),
            splits: Value::Null,
            metrics: records.into_iter().map(|v| v.as_object().unwrap().clone()).collect(),
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

    fn record(iteration: u64, first: &str, last: &str, vote: &str, votes: &str) -> Value {
        json!({"arm": "a", "seed": 0, "iteration": iteration, "name": "dev", "questions": first.len(),
            "outcomes": {"debate": [[first, first], [last, last]], "vote": [vote, vote], "votes": [votes, votes]}})
    }

    #[test]
    fn moves_gains_and_agreement_come_from_the_right_rounds() {
        let run =
            run(vec![record(0, "10-t", "1000", "1000", "2222"), record(1, "1100", "0110", "0110", "2122")]);
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
