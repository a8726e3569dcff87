//! The numbers as CSV.

use std::fmt::Write;

use super::Results;
use super::compare::Comparison;
use super::measures::Measure;
use super::scores::{Method, Score, own_method};
use crate::measure::record::{Agreement, Rates, Record};

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
    let mut out = String::from(
        "arm,seed,iteration,split,method,round,samples,questions,accuracy,standard_error,parse_rate,\
         truncation_rate,missing_rate,mean_tokens,mean_logprob,all_agree,consensus\n",
    );
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
        let Rates { parse_rate, truncation_rate, missing_rate, mean_tokens, mean_logprob, .. } = s.rates;
        let Agreement { all_agree, consensus } = s.agreement;
        let rates = [parse_rate, truncation_rate, missing_rate, mean_tokens, mean_logprob];
        fields.extend(rates.into_iter().chain([all_agree, consensus]).map(optional));
        line(&mut out, &fields);
    };
    for mean in &results.means {
        for (seed, score) in &mean.seeds {
            row(&mean.arm, *seed, mean.iteration, mean.split, &mean.method.id(), mean.questions, score);
        }
    }
    for l in &results.run.metrics {
        let mut row = |split, method: &str, questions, score: &Score| {
            row(&l.arm, l.seed, l.iteration, split, method, questions, score);
        };
        let plain = |round, samples, accuracy, standard_error| Score {
            method: Method::Majority,
            round,
            samples,
            accuracy,
            standard_error,
            rates: Rates::default(),
            agreement: Agreement::default(),
            outcomes: vec![],
        };
        match &l.record {
            Record::PseudoLabels(r) => {
                let (rates, agreement) = (r.rates.clone(), r.agreement.clone());
                let score = Score { rates, agreement, ..plain(0, 0, r.accuracy, r.standard_error) };
                row("train", "pseudo-label", r.labelled, &score);
                let rounds = &r.vote_accuracy_by_round;
                for (m, accuracy) in rounds.iter().enumerate() {
                    let last = m + 1 == rounds.len();
                    let method = if last { Method::Final } else { Method::Round(m + 1) };
                    row("train", &method.id(), r.questions, &plain(m + 1, 0, *accuracy, f64::NAN));
                }
            }
            Record::Evaluation(split, r) => {
                for of_k in r.majority.iter().flat_map(|m| &m.by_samples) {
                    let score = plain(0, of_k.samples, of_k.accuracy, of_k.standard_error);
                    row(split, "majority-by-samples", r.questions, &score);
                }
            }
            _ => {}
        }
    }
    out
}

/// `summary.csv`: means over seeds, accuracies with their 95 % intervals, everything with its lowest and highest seed;
/// `own` marks the method by which an arm is read when one number must do.
pub fn summary(results: &Results) -> String {
    let mut out = String::from(
        "arm,iteration,split,method,round,samples,measure,value,low,high,lowest_seed,highest_seed,seeds,\
         questions,own\n",
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
