//! The numbers as CSV.

use std::fmt::Write;

use serde_json::Value;

use super::Results;
use super::compare::Comparison;
use super::folder::{iteration, seed, text};
use super::measures::Measure;
use super::scores::{Method, RATES, Score, own_method};

/// A number as every file of a report holds it: six decimals, more than any of them is known to.
pub fn rounded(value: f64) -> f64 {
    format!("{value:.6}").parse().unwrap_or(value)
}

/// The same as text; empty if it is no number.
fn number(value: f64) -> String {
    if value.is_finite() { rounded(value).to_string() } else { String::new() }
}

fn optional(value: Option<f64>) -> String {
    value.map(number).unwrap_or_default()
}

/// A field. Names of arms need no quotes, but nothing here relies on that.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

fn line(out: &mut String, fields: &[String]) {
    let fields: Vec<String> = fields.iter().map(|f| field(f)).collect();
    let _ = writeln!(out, "{}", fields.join(","));
}

fn count(n: usize) -> String {
    if n == 0 { String::new() } else { n.to_string() }
}

/// `report.csv`: every accuracy of every lane.
pub fn report(results: &Results) -> String {
    let mut out =
        String::from("arm,seed,iteration,split,method,round,samples,questions,accuracy,standard_error");
    RATES.iter().for_each(|r| out.push_str(&format!(",{r}")));
    out.push('\n');
    let mut row = |arm: &str, seed: u64, i: u64, split: &str, method: &str, questions: usize, s: &Score| {
        let mut fields = vec![
            arm.to_string(),
            seed.to_string(),
            i.to_string(),
            split.to_string(),
            method.to_string(),
            count(s.round),
            count(s.samples),
            questions.to_string(),
            number(s.accuracy),
            number(s.standard_error),
        ];
        let rate = |name| s.rates.iter().find(|r| r.0 == name).map(|r| r.1);
        fields.extend(RATES.iter().map(|&r| optional(rate(r))));
        line(&mut out, &fields);
    };
    for mean in &results.means {
        for (seed, score) in &mean.seeds {
            row(&mean.arm, *seed, mean.iteration, mean.split, &mean.method.id(), mean.questions, score);
        }
    }
    for record in &results.run.metrics {
        let (arm, seed, i) = (text(record, "arm"), seed(record), iteration(record));
        let plain = |value: &Value, round, samples| Score {
            method: Method::Majority,
            round,
            samples,
            accuracy: value["accuracy"].as_f64().unwrap_or(f64::NAN),
            standard_error: value["standard_error"].as_f64().unwrap_or(f64::NAN),
            rates: RATES.iter().filter_map(|&r| Some((r, value.get(r)?.as_f64()?))).collect(),
            outcomes: vec![],
        };
        let questions = |key: &str| record.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
        if text(record, "name") == "pseudo-labels" {
            let whole = Value::Object(record.clone());
            row(arm, seed, i, "train", "pseudo-label", questions("labelled"), &plain(&whole, 0, 0));
            let rounds = record.get("vote_accuracy_by_round").and_then(Value::as_array);
            for (m, accuracy) in rounds.into_iter().flatten().enumerate() {
                let last = Some(m + 1) == rounds.map(Vec::len);
                let method = if last { Method::Final } else { Method::Round(m + 1) };
                let value = serde_json::json!({ "accuracy": accuracy });
                row(arm, seed, i, "train", &method.id(), questions("questions"), &plain(&value, m + 1, 0));
            }
        }
        for of_k in record.get("majority").and_then(|m| m["by_samples"].as_array()).into_iter().flatten() {
            let samples = of_k["samples"].as_u64().unwrap_or(0) as usize;
            let split = text(record, "name");
            row(arm, seed, i, split, "majority-by-samples", questions("questions"), &plain(of_k, 0, samples));
        }
    }
    out
}

/// `summary.csv`: means over seeds, accuracies with their 95 % intervals, everything with its lowest and highest seed; `own` marks the
/// method by which an arm is read when one number must do.
pub fn summary(results: &Results) -> String {
    let mut out = String::from(
        "arm,iteration,split,method,round,samples,measure,value,low,high,lowest_seed,highest_seed,seeds,questions,own\n",
    );
    let own = |name: &str| {
        results.run.arms.iter().find(|a| a.name == name).and_then(|a| own_method(&results.means, a))
    };
    for m in &results.means {
        let seeds = || m.seeds.iter().map(|(_, s)| s.accuracy);
        line(
            &mut out,
            &[
                m.arm.clone(),
                m.iteration.to_string(),
                m.split.into(),
                m.method.id(),
                count(m.round),
                count(m.samples),
                "accuracy".into(),
                number(m.value),
                optional(m.interval.map(|i| i.low)),
                optional(m.interval.map(|i| i.high)),
                number(seeds().fold(f64::INFINITY, f64::min)),
                number(seeds().fold(f64::NEG_INFINITY, f64::max)),
                m.seeds.len().to_string(),
                m.questions.to_string(),
                if own(&m.arm) == Some(m.method) { "yes".into() } else { String::new() },
            ],
        );
    }
    for m in counted(results) {
        let (lowest, highest) = m.range();
        let none = String::new;
        line(
            &mut out,
            &[
                m.arm.clone(),
                m.iteration.to_string(),
                m.split.clone(),
                none(),
                none(),
                none(),
                format!("{}.{}", m.group, m.name),
                number(m.value()),
                none(),
                none(),
                number(lowest),
                number(highest),
                m.seeds.len().to_string(),
                none(),
                none(),
            ],
        );
    }
    out
}

/// All measures but times: these files are the same bytes however often a run was interrupted.
fn counted(results: &Results) -> impl Iterator<Item = &Measure> {
    results.measures.iter().filter(|m| !m.name.ends_with(".seconds"))
}

/// `measures.csv`: diversity, pseudo-labels, agreement and compute of every lane.
pub fn measures(results: &Results) -> String {
    let mut out = String::from("arm,seed,iteration,split,group,measure,value\n");
    for m in counted(results) {
        for (seed, value) in &m.seeds {
            let fields = [
                &m.arm,
                &seed.to_string(),
                &m.iteration.to_string(),
                &m.split,
                m.group,
                &m.name,
                &number(*value),
            ];
            line(&mut out, &fields.map(String::from));
        }
    }
    out
}

/// `comparisons.csv`: differences between arms.
pub fn comparisons(results: &Results) -> String {
    let mut out = String::from(
        "kind,split,arm,iteration,method,accuracy,against,against_iteration,against_method,against_accuracy,\
         difference,low,high,p,p_holm,detectable,seeds,questions\n",
    );
    let mut row = |kind: &str, c: &Comparison| {
        let d = c.paired.difference;
        line(
            &mut out,
            &[
                kind.into(),
                c.split.into(),
                c.a.arm.clone(),
                c.a.iteration.to_string(),
                c.a.method.id(),
                number(c.a.value),
                c.b.arm.clone(),
                c.b.iteration.to_string(),
                c.b.method.id(),
                number(c.b.value),
                number(d.value),
                number(d.low),
                number(d.high),
                number(c.paired.p),
                optional(c.holm),
                number(c.detectable),
                c.seeds.len().to_string(),
                c.questions.to_string(),
            ],
        );
    };
    if let Some(Ok(primary)) = &results.comparisons.primary {
        row("primary", primary);
    }
    results.comparisons.secondary.iter().for_each(|c| row("secondary", c));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_with_commas_are_quoted_and_numbers_are_short() {
        assert_eq!(field("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(field("plain"), "plain");
        assert_eq!(number(0.475), "0.475");
        assert_eq!(number(1.0 / 3.0), "0.333333");
        assert_eq!(number(1.5e15), "1500000000000000");
        assert_eq!(number(f64::NAN), "");
    }
}
