//! The points of a tuning grid, ranked by what they reach on dev questions.

use super::{Method, table};
use crate::measure::record::{Evaluation, Line};
use crate::run::{EvalMethod, RunConfig};

/// A point of one arm's grid.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// `KEY=VALUE,…`
    pub values: String,
    /// The iteration it was measured after.
    pub iteration: u64,
    /// Mean accuracy over seeds.
    pub accuracy: f64,
    /// Mean over seeds of the standard error over questions.
    pub standard_error: f64,
    /// How many seeds.
    pub seeds: usize,
}

/// An arm as the configuration names it, and its points, the best first.
pub type Ranking = Vec<(String, Vec<Point>)>;

/// A method's accuracy in an evaluation, and its standard error.
fn measured(record: &Evaluation, method: Method) -> Option<(f64, f64)> {
    let debate = record.debate.as_ref();
    let of_round = |m: usize| debate?.rounds.get(m).map(|r| (r.accuracy, r.standard_error));
    match method {
        Method::Greedy => record.greedy.as_ref().map(|a| (a.accuracy, a.standard_error)),
        Method::Single => record.single.as_ref().map(|a| (a.accuracy, a.standard_error)),
        Method::Majority => record.majority.as_ref().map(|m| (m.accuracy, m.standard_error)),
        Method::Budget => None,
        Method::Round(m) => of_round(m - 1),
        Method::Final => of_round(debate?.rounds.len() - 1),
    }
}

/// Ranks the points of all arms `NAME@POINT` by `method` on dev questions after `iteration`, or
/// after each arm's last one.
pub fn ranking(metrics: &[Line], method: &str, iteration: Option<u64>) -> Ranking {
    let method = Method::from_id(method);
    let of_dev = || metrics.iter().filter_map(|line| Some((line, line.evaluation("dev")?)));
    let mut ranking: Ranking = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for full in of_dev().map(|(line, _)| line.arm.as_str()) {
        let Some((arm, values)) = full.split_once('@').filter(|_| !seen.contains(&full)) else { continue };
        seen.push(full);
        let records: Vec<_> = of_dev().filter(|(line, _)| line.arm == full).collect();
        let last = records.iter().map(|(line, _)| line.iteration).max().unwrap_or(0);
        let at = iteration.unwrap_or(last);
        let of_iteration = records.iter().filter(|(line, _)| line.iteration == at);
        let found: Vec<(f64, f64)> = of_iteration.filter_map(|(_, r)| measured(r, method?)).collect();
        if found.is_empty() {
            continue;
        }
        let mean = |of: fn(&(f64, f64)) -> f64| found.iter().map(of).sum::<f64>() / found.len() as f64;
        let point = Point {
            values: values.to_string(),
            iteration: at,
            accuracy: mean(|f| f.0),
            standard_error: mean(|f| f.1),
            seeds: found.len(),
        };
        match ranking.iter_mut().find(|(a, _)| a == arm) {
            Some((_, points)) => points.push(point),
            None => ranking.push((arm.to_string(), vec![point])),
        }
    }
    for (_, points) in &mut ranking {
        points.sort_by(|a, b| b.accuracy.total_cmp(&a.accuracy));
    }
    ranking
}

/// The ranking of a run with a grid, by the method and iteration of its primary comparison, or by the final vote after
/// the last iteration.
pub fn tables(metrics: &[Line], config: &RunConfig) -> Option<String> {
    let primary = config.report.primary.as_ref();
    let debates = config.eval.methods.contains(&EvalMethod::Debate);
    let fallback =
        if debates { "final-vote" } else { config.eval.methods.first().map_or("", |m| (*m).into()) };
    let method = primary.map_or(fallback, |p| p.method.into());
    let mut parts = Vec::new();
    for (arm, points) in ranking(metrics, method, primary.map(|p| p.iteration as u64)) {
        let row = |p: &Point| {
            let accuracy = format!("{:.1} ±{:.1}", 100.0 * p.accuracy, 100.0 * p.standard_error);
            vec![p.values.replace(',', " "), p.iteration.to_string(), p.seeds.to_string(), accuracy]
        };
        let rows: Vec<Vec<String>> = points.iter().map(row).collect();
        parts.push(format!(
            "grid of {arm}: {method} on dev questions, % ± standard error; best first\n{}",
            table(&["point", "iter", "seeds", "accuracy"], &rows)
        ));
    }
    (!parts.is_empty()).then(|| parts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::record::{Answers, Debated, Record, Round};
    use crate::run::{PrimaryMethod, PrimarySection};

    fn record(arm: &str, seed: u64, iteration: u64, first: f64, last: f64) -> Line {
        let [first_round, last_round] =
            [first, last].map(|a| Round { accuracy: a, standard_error: 0.02, ..Round::default() });
        let rounds = vec![first_round, last_round.clone()];
        let record = Evaluation {
            questions: 9,
            single: Some(Answers { accuracy: first / 2.0, standard_error: 0.02, ..Answers::default() }),
            debate: Some(Debated { last: last_round, rounds, costs_samples: None }),
            ..Evaluation::default()
        };
        Line { arm: arm.into(), seed, iteration, record: Record::Evaluation("dev", record.into()) }
    }

    fn metrics() -> Vec<Line> {
        vec![
            record("m@rate=0.1", 0, 1, 0.9, 0.9),
            record("m@rate=0.1", 0, 2, 0.5, 0.4),
            record("m@rate=0.1", 1, 2, 0.5, 0.6),
            record("m@rate=0.2", 0, 2, 0.3, 0.7),
            record("m@rate=0.2", 1, 2, 0.3, 0.5),
            record("s@rate=0.1", 0, 2, 0.3, 0.2),
            record("plain", 0, 2, 1.0, 1.0),
        ]
    }

    #[test]
    fn points_are_ranked_by_their_mean_over_seeds() {
        let all = metrics();
        let ranked = ranking(&all, "final-vote", None);
        assert_eq!(ranked.iter().map(|(a, _)| a.as_str()).collect::<Vec<_>>(), ["m", "s"]);
        let order = |r: &Ranking| {
            r[0].1.iter().map(|p| (p.values.clone(), (p.accuracy * 100.0).round())).collect::<Vec<_>>()
        };
        assert_eq!(order(&ranked), [("rate=0.2".into(), 60.0), ("rate=0.1".into(), 50.0)]);
        assert_eq!(ranked[0].1[0].seeds, 2);
        assert_eq!(order(&ranking(&all, "first-vote", None))[0].0, "rate=0.1");
        assert_eq!(ranking(&all, "final-vote", Some(1))[0].1.len(), 1);
        assert!(ranking(&all, "greedy", None).is_empty());
    }

    #[test]
    fn the_table_says_which_method_and_fits() {
        let mut config = RunConfig::default();
        let text = tables(&metrics(), &config).unwrap();
        assert!(text.contains("grid of m: final-vote") && text.contains("60.0 ±2.0"), "{text}");
        assert!(text.find("rate=0.2") < text.find("rate=0.1"));
        assert!(text.lines().all(|l| l.chars().count() <= 80));
        let (arm, against, method) = ("m".into(), "s".into(), PrimaryMethod::Single);
        config.report.primary = Some(PrimarySection { arm, against, method, iteration: 2 });
        assert!(tables(&metrics(), &config).unwrap().contains("grid of m: single"));
        assert!(tables(&metrics()[6..], &config).is_none());
    }
}
