//! What outcomes by question tell beyond accuracy: how critics move answers, on what agents agree.

use super::folder::Run;
use super::measures::Measure;
use crate::measure::record::{Evaluation, Letters, Line};
use crate::measure::{Moves, Outcome, consensus, moves};

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

/// The outcomes of the first or the last round's answers, by agent.
fn answers(round: Option<&Vec<Letters>>) -> Vec<Vec<Outcome>> {
    round.into_iter().flatten().map(|letters| letters.0.clone()).collect()
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
                    let Some(debate) = record.outcomes.as_ref().and_then(|o| o.debate.as_ref()) else {
                        continue;
                    };
                    if debate.len() > 1 {
                        before.extend(answers(debate.first()));
                        after.extend(answers(debate.last()));
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

/// On what all agents agree after the last round, by seed: `true_consensus` and `false_consensus`, shares of the
/// questions.
pub fn agreement(run: &Run) -> Vec<Measure> {
    let mut all: Vec<Measure> = Vec::new();
    for arm in &run.arms {
        for split in run.measured_splits() {
            for i in iterations(run, &arm.name, split) {
                let (mut right, mut wrong) = (vec![], vec![]);
                for (line, record) in evaluations(run, &arm.name, split, i) {
                    let found = record.outcomes.as_ref().and_then(|o| {
                        let (vote, votes) = (o.vote.as_ref()?.last()?, o.votes.as_ref()?.last()?);
                        consensus(&vote.0, &votes.0, o.debate.as_ref()?.last()?.len())
                    });
                    if let Some(found) = found {
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
                info: crate::run::RecipeInfo::new("multiagent", ""),
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
    fn moves_and_agreement_come_from_the_right_rounds() {
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
    }
}
