//! Tables from a run folder, nothing else.

mod grid;

use std::collections::BTreeMap;
use std::path::Path;

use comfy_table::{CellAlignment, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Map, Value};

pub use grid::{Point, Ranking, ranking};

use crate::error::{Error, Result};
use crate::run::{RunConfig, read_manifest, read_metrics};

const WIDTH: u16 = 80;

/// A table of text cells; columns from the second on are numbers.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    let style = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());
    table.load_style(style).set_width(WIDTH).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.clone());
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 1));
        if i > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|l| format!("{}\n", l.trim_end())).collect()
}

/// The methods of an evaluation, in the order of their columns, and where their accuracy stands.
fn accuracies(record: &Map<String, Value>) -> Vec<(String, f64, f64)> {
    let mut found = Vec::new();
    let mut add = |name: String, value: &Value| {
        if let Some(accuracy) = value["accuracy"].as_f64() {
            found.push((name, accuracy, value["standard_error"].as_f64().unwrap_or(0.0)));
        }
    };
    let none = Value::Null;
    let of = |key: &str| record.get(key).unwrap_or(&none);
    add("greedy".into(), of("greedy"));
    add("single".into(), of("single"));
    let majority = of("majority");
    add(format!("majority {}", majority["samples"].as_u64().unwrap_or(0)), majority);
    let rounds = of("debate")["rounds"].as_array().map(Vec::as_slice).unwrap_or_default();
    for (m, round) in rounds.iter().enumerate() {
        let last = m + 1 == rounds.len();
        add(if last { "final vote".into() } else { format!("vote {}", m + 1) }, round);
    }
    found
}

/// `47.5 ±3.5`
fn percent(value: f64, error: f64) -> String {
    format!("{:.1} ±{:.1}", 100.0 * value, 100.0 * error)
}

/// The records of one arm by iteration, one a seed.
type Iterations<'a> = BTreeMap<u64, Vec<&'a Map<String, Value>>>;

/// Records of one name, by arm in order of first appearance.
fn by_arm<'a>(metrics: &'a [Map<String, Value>], name: &str) -> Vec<(&'a str, Iterations<'a>)> {
    let mut arms: Vec<(&str, Iterations<'_>)> = Vec::new();
    for record in metrics.iter().filter(|r| r.get("name").and_then(Value::as_str) == Some(name)) {
        let arm = record.get("arm").and_then(Value::as_str).unwrap_or_default();
        let iteration = record.get("iteration").and_then(Value::as_u64).unwrap_or_default();
        let at = arms.iter().position(|(a, _)| *a == arm).unwrap_or_else(|| {
            arms.push((arm, BTreeMap::new()));
            arms.len() - 1
        });
        arms[at].1.entry(iteration).or_default().push(record);
    }
    arms
}

/// The arm's name, with a star if it asks for reference answers of training questions.
fn marked(arm: &str, records: &[&Map<String, Value>]) -> String {
    let asks = records.iter().any(|r| r.get("asks_for_labels").and_then(Value::as_bool) == Some(true));
    if asks { format!("{arm} *") } else { arm.to_string() }
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let all: Vec<f64> = values.collect();
    if all.is_empty() { 0.0 } else { all.iter().sum::<f64>() / all.len() as f64 }
}

/// Accuracy by arm and iteration on the questions of a split (`dev` or `test`); nothing if there is none yet.
pub fn accuracy(metrics: &[Map<String, Value>], split: &str) -> Option<String> {
    let arms = by_arm(metrics, split);
    let mut columns: Vec<String> = Vec::new();
    for record in arms.iter().flat_map(|(_, i)| i.values().flatten()) {
        for (name, ..) in accuracies(record) {
            if !columns.contains(&name) {
                columns.push(name);
            }
        }
    }
    // Votes of rounds belong before the final one, whichever arm has more rounds.
    columns.sort_by_key(|c| c == "final vote");
    let mut seeds = 0;
    let mut questions = 0;
    let mut rows = Vec::new();
    for (arm, iterations) in &arms {
        for (iteration, records) in iterations {
            seeds = seeds.max(records.len());
            questions = records[0].get("questions").and_then(Value::as_u64).unwrap_or(questions);
            let mut row = vec![marked(arm, records), iteration.to_string()];
            for column in &columns {
                let of: Vec<(f64, f64)> = records
                    .iter()
                    .flat_map(|r| accuracies(r))
                    .filter(|(name, ..)| name == column)
                    .map(|(_, a, e)| (a, e))
                    .collect();
                row.push(match of.is_empty() {
                    true => "-".into(),
                    false => percent(mean(of.iter().map(|x| x.0)), mean(of.iter().map(|x| x.1))),
                });
            }
            rows.push(row);
        }
    }
    if rows.is_empty() {
        return None;
    }
    let header: Vec<&str> = ["arm", "iter"].into_iter().chain(columns.iter().map(String::as_str)).collect();
    let of_seeds = if seeds > 1 { format!(", mean of {seeds} seeds") } else { String::new() };
    Some(format!(
        "accuracy on {questions} {split} questions, % ± standard error{of_seeds}\n{}",
        table(&header, &rows)
    ))
}

/// What the columns of [`accuracy`] mean.
pub const LEGEND: &str = "\
greedy: a generator's most likely answer; single: one sample of it;
majority K: the vote of K samples; vote 1: of the debate's first round;
final vote: of its last round; arm *: trained with reference answers
";

/// How many pseudo-labels there were and how many of them were right.
pub fn pseudo_labels(metrics: &[Map<String, Value>]) -> Option<String> {
    let mut rows = Vec::new();
    for (arm, iterations) in by_arm(metrics, "pseudo-labels") {
        for (iteration, records) in iterations {
            let of = |key: &str| mean(records.iter().filter_map(|r| r.get(key).and_then(Value::as_f64)));
            rows.push(vec![
                marked(arm, &records),
                iteration.to_string(),
                format!("{:.0} of {:.0}", of("labelled"), of("questions")),
                format!("{:.1}", 100.0 * of("coverage")),
                percent(of("accuracy"), of("standard_error")),
                format!("{:.1}", 100.0 * of("all_agree")),
            ]);
        }
    }
    let header = ["arm", "iter", "labelled", "coverage %", "right % ±", "all agree %"];
    (!rows.is_empty()).then(|| {
        format!(
            "pseudo-labels (labelled: enough agents agreed; right: of the labelled ones)\n{}",
            table(&header, &rows)
        )
    })
}

/// Training sets and losses, of each arm's first seed.
pub fn training(metrics: &[Map<String, Value>]) -> Option<String> {
    const OWN: [&str; 4] = ["arm", "seed", "iteration", "name"];
    let mut rows = Vec::new();
    for (arm, iterations) in by_arm(metrics, "training") {
        for (iteration, records) in iterations {
            for (adapter, value) in records[0].iter().filter(|(k, _)| !OWN.contains(&k.as_str())) {
                let losses: Vec<f64> =
                    value["loss"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
                let loss = match (losses.first(), losses.last()) {
                    (Some(first), Some(last)) => format!("{first:.3} → {last:.3}"),
                    _ => "no data".into(),
                };
                let mix = value["data"]["effective_mix"].as_f64().map_or("".into(), |w| format!("{w:.2}"));
                rows.push(vec![
                    arm.to_string(),
                    iteration.to_string(),
                    adapter.clone(),
                    value["examples"].as_u64().unwrap_or(0).to_string(),
                    mix,
                    losses.len().to_string(),
                    value["tokens"].as_u64().unwrap_or(0).to_string(),
                    loss,
                ]);
            }
        }
    }
    let header = ["arm", "iter", "adapter", "examples", "w", "steps", "tokens", "loss"];
    (!rows.is_empty()).then(|| {
        format!(
            "finetuning (w: share of corrected trajectories in a critic's data)\n{}",
            table(&header, &rows)
        )
    })
}

/// All tables of a run folder.
pub fn summary(folder: &Path) -> Result<String> {
    read_manifest(folder)?;
    let metrics = read_metrics(folder)?;
    let config = folder.join("config.toml");
    let grid = if config.exists() {
        let text = std::fs::read_to_string(&config).map_err(Error::io(&config))?;
        let config: RunConfig = toml::from_str(&text).map_err(|e| Error::file(&config, e.message()))?;
        grid::tables(&metrics, &config)
    } else {
        None
    };
    let splits = ["dev", "test", "transfer-dev", "transfer-test"].map(|split| accuracy(&metrics, split));
    let others = [pseudo_labels(&metrics), training(&metrics), grid];
    let parts: Vec<String> = splits.into_iter().chain(others).flatten().collect();
    if parts.is_empty() {
        return Ok("nothing has been measured yet\n".into());
    }
    let mut parts = parts;
    if let Some(table) = parts.iter_mut().rev().find(|p| p.starts_with("accuracy")) {
        table.push_str(LEGEND);
    }
    Ok(parts.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn metrics() -> Vec<Map<String, Value>> {
        let mut all = Vec::new();
        for arm in ["multiagent", "single-agent"] {
            for i in 0..3 {
                let estimate = |a: f64| json!({"accuracy": a, "standard_error": 0.035});
                let mut majority = estimate(0.55);
                majority["samples"] = json!(3);
                all.push(json!({"arm": arm, "seed": 0, "iteration": i, "name": "dev", "questions": 200,
                    "greedy": estimate(0.4), "single": estimate(0.475), "majority": majority,
                    "debate": {"accuracy": 0.6, "rounds": [estimate(0.5), estimate(0.6)]}}));
                all.push(json!({"arm": arm, "seed": 0, "iteration": i + 1, "name": "pseudo-labels", "questions": 150,
                    "labelled": 120, "coverage": 0.8, "accuracy": 0.71, "standard_error": 0.04, "all_agree": 0.3}));
                all.push(json!({"arm": arm, "seed": 0, "iteration": i + 1, "name": "training",
                    "generator-0": {"examples": 90, "tokens": 12345, "loss": [1.5, 1.25], "data": {}},
                    "critic-0": {"examples": 60, "tokens": 12345, "loss": [], "data": {"effective_mix": 0.5}}}));
            }
        }
        all.into_iter().map(|v| v.as_object().unwrap().clone()).collect()
    }

    #[test]
    fn tables_fit_a_terminal_and_hold_the_numbers() {
        let all = metrics();
        let dev = accuracy(&all, "dev").unwrap();
        assert!(
            dev.contains("47.5 ±3.5") && dev.contains("majority 3") && dev.contains("final vote"),
            "{dev}"
        );
        assert!(accuracy(&all, "test").is_none());
        let labels = pseudo_labels(&all).unwrap();
        assert!(labels.contains("120 of 150") && labels.contains("71.0 ±4.0"), "{labels}");
        let training = training(&all).unwrap();
        assert!(training.contains("1.500 → 1.250") && training.contains("no data"), "{training}");
        assert!(LEGEND.lines().all(|l| l.chars().count() <= 80));
        for text in [dev, labels, training] {
            assert!(text.lines().all(|l| l.chars().count() <= 80), "{text}");
            assert!(text.lines().filter(|l| l.contains("multiagent")).count() >= 3, "one line a row: {text}");
        }
    }

    #[test]
    fn arms_that_ask_for_labels_are_marked() {
        let mut all = metrics();
        for r in all.iter_mut().filter(|r| r["arm"] == "single-agent") {
            r.insert("asks_for_labels".into(), true.into());
        }
        for text in [accuracy(&all, "dev").unwrap(), pseudo_labels(&all).unwrap()] {
            assert!(text.contains("single-agent *") && !text.contains("multiagent *"), "{text}");
        }
    }

    #[test]
    fn seeds_are_averaged() {
        let record = |seed: u64, a: f64| {
            json!({"arm": "x", "seed": seed, "iteration": 1, "name": "dev", "questions": 10,
                   "greedy": {"accuracy": a, "standard_error": 0.1}})
            .as_object()
            .unwrap()
            .clone()
        };
        let text = accuracy(&[record(0, 0.2), record(1, 0.6)], "dev").unwrap();
        assert!(text.contains("40.0 ±10.0") && text.contains("mean of 2 seeds"), "{text}");
    }
}
