//! Accuracies as the records hold them, and over seeds with their intervals.

use std::fmt;
use std::path::Path;

use serde_json::Value;

use super::csv::rounded;
use super::folder::{Arm, Record, Run, SPLITS, iteration, seed, text};
use crate::backend::in_parts;
use crate::error::{Error, Result};
use crate::measure::{Interval, Outcome, interval, shares_right};

/// A way to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// A generator's most likely answer.
    Greedy,
    /// One sample of a generator.
    Single,
    /// The vote of the method's number of samples.
    Majority,
    /// The vote of as many samples as cost the debate's inference FLOP.
    Budget,
    /// The vote of an earlier round of the debate, counted from 1.
    Round(usize),
    /// The vote of the debate's last round.
    Final,
}

impl Method {
    /// As configurations and pages name it.
    pub fn id(self) -> String {
        match self {
            Method::Greedy => "greedy".into(),
            Method::Single => "single".into(),
            Method::Majority => "majority".into(),
            Method::Budget => "majority-at-budget".into(),
            Method::Round(1) => "first-vote".into(),
            Method::Round(m) => format!("vote-{m}"),
            Method::Final => "final-vote".into(),
        }
    }

    /// From its [`Method::id`].
    pub fn from_id(id: &str) -> Option<Self> {
        Some(match id {
            "greedy" => Method::Greedy,
            "single" => Method::Single,
            "majority" => Method::Majority,
            "majority-at-budget" => Method::Budget,
            "first-vote" => Method::Round(1),
            "final-vote" => Method::Final,
            other => Method::Round(other.strip_prefix("vote-")?.parse().ok()?),
        })
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Method::Greedy => write!(f, "greedy"),
            Method::Single => write!(f, "single sample"),
            Method::Majority => write!(f, "majority"),
            Method::Budget => write!(f, "majority at the debate's FLOP"),
            Method::Round(m) => write!(f, "vote of round {m}"),
            Method::Final => write!(f, "final vote"),
        }
    }
}

/// One method's result in one evaluation of one lane.
#[derive(Clone, Debug, PartialEq)]
pub struct Score {
    /// How the questions were answered.
    pub method: Method,
    /// The round that voted, counted from 1; 0 for methods without.
    pub round: usize,
    /// Samples that voted; 0 for other methods.
    pub samples: usize,
    /// The share of right answers.
    pub accuracy: f64,
    /// Over questions.
    pub standard_error: f64,
    /// The other rates of the record, by name, where it has them.
    pub rates: Vec<(&'static str, f64)>,
    /// For each answerer (an agent, or the vote) one outcome a question; empty in folders of older versions.
    pub outcomes: Vec<Vec<Outcome>>,
}

/// Rates that stand beside an accuracy.
pub const RATES: [&str; 7] = [
    "parse_rate",
    "truncation_rate",
    "missing_rate",
    "mean_tokens",
    "mean_logprob",
    "all_agree",
    "consensus",
];

impl Score {
    /// One value a question: the share of answerers that were right. Nothing without outcomes.
    pub fn by_question(&self) -> Option<Vec<f64>> {
        (!self.outcomes.is_empty()).then(|| shares_right(&self.outcomes))
    }
}

/// The scores of an evaluation record, in the order of their columns.
pub fn scores(record: &Record) -> Vec<Score> {
    let none = Value::Null;
    let of = |key: &str| record.get(key).unwrap_or(&none);
    let outcomes = of("outcomes");
    let mut found = Vec::new();
    let mut add = |method, round, samples: usize, value: &Value, outcomes: &Value| {
        let Some(accuracy) = value["accuracy"].as_f64() else { return };
        found.push(Score {
            method,
            round,
            samples,
            accuracy,
            standard_error: value["standard_error"].as_f64().unwrap_or(0.0),
            rates: RATES.iter().filter_map(|&r| Some((r, value[r].as_f64()?))).collect(),
            // What is no outcome is found by `check`.
            outcomes: outcomes_of(outcomes).unwrap_or_default(),
        });
    };
    add(Method::Greedy, 0, 0, of("greedy"), &outcomes["greedy"]);
    add(Method::Single, 0, 0, of("single"), &outcomes["single"]);
    let majority = of("majority");
    let samples = majority["samples"].as_u64().unwrap_or(0) as usize;
    add(Method::Majority, 0, samples, majority, &outcomes["majority"]);
    let budget = &majority["budget"];
    // Its votes are not among the outcomes.
    add(Method::Budget, 0, budget["samples"].as_u64().unwrap_or(0) as usize, budget, &none);
    let rounds = of("debate")["rounds"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (m, round) in rounds.iter().enumerate() {
        let method = if m + 1 == rounds.len() { Method::Final } else { Method::Round(m + 1) };
        add(method, m + 1, 0, round, &outcomes["vote"][m]);
    }
    found
}

/// The outcomes of an array of strings, or of one; nothing where there is neither.
pub fn outcomes_of(value: &Value) -> Result<Vec<Vec<Outcome>>> {
    match value {
        Value::String(one) => Ok(vec![Outcome::read(one)?]),
        Value::Array(all) => all.iter().map(|o| Outcome::read(o.as_str().unwrap_or("?"))).collect(),
        _ => Ok(vec![]),
    }
}

/// Outcomes of a record must be outcomes, of as many questions as there are, and give the accuracies that stand beside them.
fn check(place: &Path, record: &Record) -> Result<()> {
    let questions = record.get("questions").and_then(Value::as_u64).unwrap_or(0) as usize;
    let of = |key: &str| record.get(key).and_then(Value::as_str).unwrap_or_default();
    let place = format!(
        "{}: {} of {}, seed {}, iteration {}",
        place.display(),
        of("name"),
        of("arm"),
        seed(record),
        iteration(record)
    );
    let outcomes = record.get("outcomes").unwrap_or(&Value::Null);
    for (name, value) in outcomes.as_object().into_iter().flatten().filter(|(n, _)| *n != "votes") {
        // Debates have a list a round.
        let lists = if name == "debate" {
            value.as_array().cloned().unwrap_or_default()
        } else {
            vec![value.clone()]
        };
        for list in lists {
            let all = outcomes_of(&list).map_err(|e| Error::input(format!("{place}, {name}"), e))?;
            if let Some(found) = all.iter().map(Vec::len).find(|n| *n != questions) {
                return Err(Error::input(
                    format!("{place}, outcomes.{name}"),
                    format!("found {found} questions, expected {questions}"),
                ));
            }
        }
    }
    for score in scores(record) {
        let Some(values) = score.by_question() else { continue };
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        if (mean - score.accuracy).abs() > 1e-9 {
            return Err(Error::input(
                format!("{place}, {}", score.method),
                format!("found accuracy {}, but its outcomes give {mean}", score.accuracy),
            ));
        }
    }
    Ok(())
}

/// What one method of one arm reached at an iteration, over seeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Mean {
    /// The arm.
    pub arm: String,
    /// The split.
    pub split: &'static str,
    /// The iteration, 0 before training.
    pub iteration: u64,
    /// The method.
    pub method: Method,
    /// As in [`Score`].
    pub round: usize,
    /// As in [`Score`].
    pub samples: usize,
    /// Questions of one seed.
    pub questions: usize,
    /// The seeds and their scores, by seed.
    pub seeds: Vec<(u64, Score)>,
    /// Mean over seeds.
    pub value: f64,
    /// Mean of the seeds' standard errors over questions.
    pub standard_error: f64,
    /// 95 % interval over seeds and questions; none in folders without outcomes.
    pub interval: Option<Interval>,
}

impl Mean {
    /// Half the width of the interval, as it stands in the files.
    pub fn half_width(&self) -> Option<f64> {
        self.interval.map(|i| (rounded(i.high) - rounded(i.low)) / 2.0)
    }

    /// A rate's mean over the seeds that have it.
    pub fn rate(&self, name: &str) -> Option<f64> {
        let values: Vec<f64> = self
            .seeds
            .iter()
            .filter_map(|(_, s)| s.rates.iter().find(|r| r.0 == name))
            .map(|r| r.1)
            .collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    }

    /// One value a question for each of these seeds; none if one of them has no outcomes.
    pub fn matrix(&self, seeds: &[u64]) -> Option<Vec<Vec<f64>>> {
        seeds.iter().map(|s| self.seeds.iter().find(|(own, _)| own == s)?.1.by_question()).collect()
    }

    /// All its seeds.
    pub fn seed_list(&self) -> Vec<u64> {
        self.seeds.iter().map(|(s, _)| *s).collect()
    }
}

/// Every accuracy of a run over its seeds: by arm, split, iteration and method, in the order of the configuration.
pub fn means(run: &Run) -> Result<Vec<Mean>> {
    let names: Vec<&str> = run.arms.iter().map(|a| a.name.as_str()).collect();
    let place = run.folder.join("metrics.jsonl");
    for record in run.metrics.iter().filter(|r| SPLITS.contains(&text(r, "name"))) {
        check(&place, record)?;
    }
    Ok(means_of(&run.metrics, &names, &SPLITS))
}

/// The same from records alone.
pub fn means_of(metrics: &[Record], arms: &[&str], splits: &[&'static str]) -> Vec<Mean> {
    let mut all: Vec<Mean> = Vec::new();
    for &arm in arms {
        for &split in splits {
            let of_split = all.len();
            for record in metrics.iter().filter(|r| text(r, "arm") == arm && text(r, "name") == split) {
                let questions = record.get("questions").and_then(Value::as_u64).unwrap_or(0) as usize;
                for score in scores(record) {
                    let key = (iteration(record), score.method);
                    let found = all[of_split..].iter().position(|m| (m.iteration, m.method) == key);
                    let at = found.map(|i| of_split + i).unwrap_or_else(|| {
                        all.push(Mean {
                            arm: arm.to_string(),
                            split,
                            iteration: key.0,
                            method: score.method,
                            round: score.round,
                            samples: score.samples,
                            questions,
                            seeds: vec![],
                            value: 0.0,
                            standard_error: 0.0,
                            interval: None,
                        });
                        all.len() - 1
                    });
                    all[at].seeds.push((seed(record), score));
                }
            }
            all[of_split..].sort_by_key(|m| (m.iteration, m.method));
        }
    }
    in_parts(&mut all, 1, |_, part| {
        for mean in part {
            mean.seeds.sort_by_key(|(seed, _)| *seed);
            let n = mean.seeds.len() as f64;
            mean.value = mean.seeds.iter().map(|(_, s)| s.accuracy).sum::<f64>() / n;
            mean.standard_error = mean.seeds.iter().map(|(_, s)| s.standard_error).sum::<f64>() / n;
            mean.interval = mean.matrix(&mean.seed_list()).map(|matrix| interval(&matrix));
        }
    });
    all
}

/// Recipes that learn from samples, without a debate.
const WITHOUT_DEBATE: [&str; 3] = ["majority-ft", "self-training", "star"];

/// How an arm is read when one number must do: the final vote of its debate, else the vote of its samples, else one answer. Where no debate
/// is a part of the method, the vote of its samples comes before that of a debate.
pub fn own_method(means: &[Mean], arm: &Arm) -> Option<Method> {
    let debates = !WITHOUT_DEBATE.contains(&arm.recipe.as_str());
    means.iter().filter(|m| m.arm == arm.name).map(|m| m.method).max_by_key(|m| match m {
        Method::Final if debates => 5,
        Method::Final => 2,
        Method::Majority => 4,
        Method::Single => 3,
        Method::Greedy => 1,
        Method::Budget | Method::Round(_) => 0,
    })
}

/// The mean of an arm, if it was measured.
pub fn find<'a>(
    means: &'a [Mean],
    arm: &str,
    split: &str,
    iteration: u64,
    method: Method,
) -> Option<&'a Mean> {
    means.iter().find(|m| m.arm == arm && m.split == split && m.iteration == iteration && m.method == method)
}

/// The last iteration at which an arm was measured on a split.
pub fn last_iteration(means: &[Mean], arm: &str, split: &str) -> Option<u64> {
    means.iter().filter(|m| m.arm == arm && m.split == split).map(|m| m.iteration).max()
}
