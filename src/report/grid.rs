//! The points of a tuning grid, ranked by what they reach on dev questions.

use serde_json::{Map, Value};

use super::table;
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

/// Where a method's accuracy stands in an evaluation.
fn measured<'a>(record: &'a Map<String, Value>, method: &str) -> Option<&'a Value> {
    let debate = || record.get("debate");
    match method {
        "final-vote" => debate(),
        "first-vote" => debate()?["rounds"].get(0),
        other => record.get(other),
    }
}

/// Ranks the points of all arms `NAME@POINT` by `method` on dev questions after `iteration`, or after each arm's last one.
pub fn ranking(metrics: &[Map<String, Value>], method: &str, iteration: Option<u64>) -> Ranking {
    let text = |r: &'_ Map<String, Value>, key: &str| r.get(key).and_then(Value::as_str).map(String::from);
    let number = |r: &Map<String, Value>| r.get("iteration").and_then(Value::as_u64).unwrap_or(0);
    let of_dev = || metrics.iter().filter(|r| text(r, "name").as_deref() == Some("dev"));
    let mut ranking: Ranking = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for full in of_dev().filter_map(|r| text(r, "arm")) {
        let Some((arm, values)) = full.split_once('@').filter(|_| !seen.contains(&full)) else { continue };
        seen.push(full.clone());
        let records: Vec<_> = of_dev().filter(|r| text(r, "arm").as_deref() == Some(full.as_str())).collect();
        let last = records.iter().map(|r| number(r)).max().unwrap_or(0);
        let at = iteration.unwrap_or(last);
        let found: Vec<(f64, f64)> = records
            .iter()
            .filter(|r| number(r) == at)
            .filter_map(|r| measured(r, method))
            .filter_map(|v| Some((v["accuracy"].as_f64()?, v["standard_error"].as_f64().unwrap_or(0.0))))
            .collect();
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

/// The ranking of a run with a grid, by the method and iteration of its primary comparison, or by the final vote after the last iteration.
pub fn tables(metrics: &[Map<String, Value>], config: &RunConfig) -> Option<String> {
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
    use crate::run::{PrimaryMethod, PrimarySection};
    use serde_json::json;

    fn record(arm: &str, seed: u64, iteration: u64, first: f64, last: f64) -> Map<String, Value> {
        let estimate = |a: f64| json!({"accuracy": a, "standard_error": 0.02});
        let mut debate = estimate(last);
        debate["rounds"] = json!([estimate(first), estimate(last)]);
        let value = json!({"arm": arm, "seed": seed, "iteration": iteration, "name": "dev", "questions": 9,
            "single": estimate(first / 2.0), "debate": debate});
        value.as_object().unwrap().clone()
    }

    fn metrics() -> Vec<Map<String, Value>> {
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
