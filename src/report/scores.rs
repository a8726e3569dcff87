//! Accuracies as the records hold them, and over seeds with their intervals.

use std::fmt;

use super::csv::rounded;
use super::folder::{Arm, Run};
use crate::backend::in_parts;
use crate::error::{Error, Result};
use crate::measure::record::{Agreement, Evaluation, Letters, Line, Rates, SPLITS};
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
    /// What the texts were like.
    pub rates: Rates,
    /// How far the agents of a round agree.
    pub agreement: Agreement,
    /// For each answerer (an agent, or the vote) one outcome a question; empty in folders of older versions.
    pub outcomes: Vec<Vec<Outcome>>,
}

impl Score {
    /// One value a question: the share of answerers that were right. Nothing without outcomes.
    pub fn by_question(&self) -> Option<Vec<f64>> {
        (!self.outcomes.is_empty()).then(|| shares_right(&self.outcomes))
    }
}

/// The scores of an evaluation, in the order of their columns.
pub fn scores(record: &Evaluation) -> Vec<Score> {
    let none = Default::default();
    let outcomes = record.outcomes.as_ref().unwrap_or(&none);
    let mut found = Vec::new();
    let score = |method, accuracy, standard_error, rates: &Rates| Score {
        method,
        round: 0,
        samples: 0,
        accuracy,
        standard_error,
        rates: rates.clone(),
        agreement: Agreement::default(),
        outcomes: vec![],
    };
    for (method, answers, letters) in [
        (Method::Greedy, &record.greedy, &outcomes.greedy),
        (Method::Single, &record.single, &outcomes.single),
    ] {
        found.extend(answers.iter().map(|answers| Score {
            outcomes: letters.iter().flatten().map(|l| l.0.clone()).collect(),
            ..score(method, answers.accuracy, answers.standard_error, &answers.rates)
        }));
    }
    if let Some(majority) = &record.majority {
        found.push(Score {
            samples: majority.samples,
            outcomes: outcomes.majority.iter().map(|l| l.0.clone()).collect(),
            ..score(Method::Majority, majority.accuracy, majority.standard_error, &majority.rates)
        });
        // Its votes are not among the outcomes.
        found.extend(majority.budget.iter().map(|vote| Score {
            samples: vote.samples,
            ..score(Method::Budget, vote.accuracy, vote.standard_error, &Rates::default())
        }));
    }
    let rounds = record.debate.as_ref().map_or(&[][..], |d| &d.rounds);
    for (m, round) in rounds.iter().enumerate() {
        let method = if m + 1 == rounds.len() { Method::Final } else { Method::Round(m + 1) };
        let letters = outcomes.vote.as_ref().and_then(|votes| votes.get(m));
        found.push(Score {
            round: m + 1,
            agreement: round.agreement.clone(),
            outcomes: letters.iter().map(|l| l.0.clone()).collect(),
            ..score(method, round.accuracy, round.standard_error, &round.rates)
        });
    }
    found
}

/// Outcomes of a record must be of as many questions as there are, and give the accuracies that
/// stand beside them.
fn check(run: &Run, line: &Line, record: &Evaluation) -> Result<()> {
    let Line { arm, seed, iteration, .. } = line;
    let place = run.folder.join("metrics.jsonl");
    let place = || {
        format!("{}: {} of {arm}, seed {seed}, iteration {iteration}", place.display(), line.record.name())
    };
    let outcomes = record.outcomes.clone().unwrap_or_default();
    let lists: [(&str, Vec<Letters>); 6] = [
        ("greedy", outcomes.greedy.unwrap_or_default()),
        ("single", outcomes.single.unwrap_or_default()),
        ("majority", outcomes.majority.into_iter().collect()),
        ("samples", outcomes.samples.unwrap_or_default()),
        ("debate", outcomes.debate.unwrap_or_default().concat()),
        ("vote", outcomes.vote.unwrap_or_default()),
    ];
    for (name, all) in lists {
        if let Some(found) = all.iter().map(|l| l.0.len()).find(|n| *n != record.questions) {
            return Err(Error::input(
                format!("{}, outcomes.{name}", place()),
                format!("found {found} questions, expected {}", record.questions),
            ));
        }
    }
    for score in scores(record) {
        let Some(values) = score.by_question() else { continue };
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        if (mean - score.accuracy).abs() > 1e-9 {
            return Err(Error::input(
                format!("{}, {}", place(), score.method),
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
    pub fn rate(&self, rate: fn(&Rates) -> Option<f64>) -> Option<f64> {
        let values: Vec<f64> = self.seeds.iter().filter_map(|(_, s)| rate(&s.rates)).collect();
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
    for line in &run.metrics {
        SPLITS.iter().filter_map(|s| line.evaluation(s)).try_for_each(|record| check(run, line, record))?;
    }
    Ok(means_of(&run.metrics, &names, &SPLITS))
}

/// The same from records alone.
pub fn means_of(metrics: &[Line], arms: &[&str], splits: &[&'static str]) -> Vec<Mean> {
    let mut all: Vec<Mean> = Vec::new();
    for &arm in arms {
        for &split in splits {
            let of_split = all.len();
            for line in metrics.iter().filter(|line| line.arm == arm) {
                let Some(record) = line.evaluation(split) else { continue };
                for score in scores(record) {
                    let key = (line.iteration, score.method);
                    let found = all[of_split..].iter().position(|m| (m.iteration, m.method) == key);
                    let at = found.map(|i| of_split + i).unwrap_or_else(|| {
                        all.push(Mean {
                            arm: arm.to_string(),
                            split,
                            iteration: key.0,
                            method: score.method,
                            round: score.round,
                            samples: score.samples,
                            questions: record.questions,
                            seeds: vec![],
                            value: 0.0,
                            standard_error: 0.0,
                            interval: None,
                        });
                        all.len() - 1
                    });
                    all[at].seeds.push((line.seed, score));
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

/// How an arm is read when one number must do: the final vote of its debate, else the vote of its samples, else one
/// answer. Where no debate is a part of the method, the vote of its samples comes before that of a debate.
pub fn own_method(means: &[Mean], arm: &Arm) -> Option<Method> {
    means.iter().filter(|m| m.arm == arm.name).map(|m| m.method).max_by_key(|m| match m {
        Method::Final if arm.info.debates => 5,
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
