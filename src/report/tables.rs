//! Tables of a terminal: 80 columns.

use comfy_table::{CellAlignment, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};

use super::Results;
use super::compare::{Comparison, Comparisons, Side};
use super::csv::rounded;
use super::folder::Progress;
use super::measures::{Cost, Lesson, lessons};
use super::plot;
use super::scores::{Mean, Method};
use crate::measure::record::{Line, PseudoLabels, Record, SPLITS};

const WIDTH: usize = 80;
/// Longer tables show of each arm the first iteration and the last.
const ROWS: usize = 40;
/// Longer names of arms are cut.
const NAME: usize = 24;

/// A table of text cells; columns from the second on are numbers.
pub fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut table = Table::new();
    let style = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());
    table.load_style(style).set_width(WIDTH as u16).set_header(header.iter().copied());
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

/// `47.5 ±3.5`, of the value as it stands in the files.
pub fn percent(value: f64, error: f64) -> String {
    format!("{:.1} ±{:.1}", 100.0 * rounded(value), 100.0 * error)
}

/// A difference in percentage points: `+4.2 [+1.0, +7.4]`
pub fn points(difference: f64, low: f64, high: f64) -> String {
    let shown = |v: f64| format!("{:+.1}", 100.0 * rounded(v));
    format!("{} [{}, {}]", shown(difference), shown(low), shown(high))
}

/// A p value: `0.034`, `<0.001`.
pub fn p_value(p: f64) -> String {
    if p < 0.001 { "<0.001".into() } else { format!("{p:.3}") }
}

/// A large number: `1.23e12` or `12.3k`.
pub fn large(value: f64) -> String {
    match value {
        0.0 => "-".into(),
        v if v >= 1e9 => format!("{v:.2e}"),
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 1e4 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// A name with its middle cut out if it is long: arms of a grid differ at their ends.
fn name(arm: &str) -> String {
    let all: Vec<char> = arm.chars().collect();
    if all.len() <= NAME {
        return arm.to_string();
    }
    let (head, tail) = (&all[..NAME / 2 - 1], &all[all.len() - NAME / 2..]);
    format!("{}…{}", head.iter().collect::<String>(), tail.iter().collect::<String>())
}

/// The same with a star if it is among those whose training is given right answers.
fn marked(arm: &str, asking: &[&str]) -> String {
    format!("{}{}", name(arm), if asking.contains(&arm) { " *" } else { "" })
}

/// The arms whose training is given right answers.
pub fn asking(metrics: &[Line]) -> Vec<&str> {
    distinct(metrics.iter().filter(|line| line.record.asks_for_labels()).map(|line| line.arm.as_str()))
}

/// What a column of accuracies is called.
fn heading(means: &[Mean], method: Method) -> String {
    let mut samples: Vec<usize> = means.iter().filter(|m| m.method == method).map(|m| m.samples).collect();
    samples.dedup();
    match (method, &samples[..]) {
        (Method::Single, _) => "single".into(),
        (Method::Majority, [k]) => format!("majority {k}"),
        (Method::Majority, _) => "majority".into(),
        (Method::Budget, _) => "at budget".into(),
        (Method::Round(m), _) => format!("vote {m}"),
        (method, _) => method.to_string(),
    }
}

/// Lines of at most 80 characters, broken between words.
fn wrapped(text: &str) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push_str("\n  ");
            column = 2;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out + "\n"
}

/// Which columns to give up first where there is no room for all.
fn importance(method: &Method) -> usize {
    match method {
        Method::Final => 5,
        Method::Majority => 4,
        Method::Single => 3,
        Method::Round(1) => 2,
        Method::Greedy => 1,
        Method::Budget | Method::Round(_) => 0,
    }
}

/// Each name once, in order of first appearance.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut once = Vec::new();
    for name in names {
        if !once.contains(&name) {
            once.push(name);
        }
    }
    once
}

/// Accuracy by arm and iteration on the questions of a split; nothing if there is none yet.
/// `asking` are the arms whose training is given right answers.
pub fn accuracy(means: &[Mean], asking: &[&str], split: &str) -> Option<String> {
    let means: Vec<Mean> = means.iter().filter(|m| m.split == split).cloned().collect();
    let first = means.first()?;
    let mut methods: Vec<Method> = means.iter().map(|m| m.method).collect();
    methods.sort();
    methods.dedup();
    let mut keys: Vec<(&str, u64)> = means.iter().map(|m| (m.arm.as_str(), m.iteration)).collect();
    keys.dedup();
    let all = keys.len();
    if all > ROWS {
        let first = |i: usize| i == 0 || keys[i - 1].0 != keys[i].0;
        let last = |i: usize| i + 1 == keys.len() || keys[i + 1].0 != keys[i].0;
        keys = (0..keys.len()).filter(|&i| first(i) || last(i)).map(|i| keys[i]).collect();
    }
    let cell = |(arm, i): (&str, u64), method| {
        match means.iter().find(|m| m.arm == arm && m.iteration == i && m.method == method) {
            None => "-".to_string(),
            Some(m) => match (m.half_width(), means.iter().any(|m| m.interval.is_some())) {
                (Some(half), _) => percent(m.value, half),
                (None, false) => percent(m.value, m.standard_error),
                // Among intervals a standard error would be taken for one.
                (None, true) => format!("{:.1}", 100.0 * m.value),
            },
        }
    };
    let width = |methods: &[Method]| {
        let arm = keys.iter().map(|k| marked(k.0, asking).chars().count()).max().unwrap_or(0).max(3);
        let of = |m: &Method| {
            let cells = keys.iter().map(|&k| cell(k, *m).chars().count()).max().unwrap_or(0);
            cells.max(heading(&means, *m).chars().count()) + 2
        };
        arm + 2 + 6 + methods.iter().map(of).sum::<usize>()
    };
    let mut left_out = Vec::new();
    while width(&methods) > WIDTH && methods.len() > 1 {
        let least = methods.iter().copied().min_by_key(importance).expect("more than one");
        methods.retain(|m| *m != least);
        left_out.push(heading(&means, least));
    }
    let mut rows = Vec::new();
    for &key in &keys {
        let mut row = vec![marked(key.0, asking), key.1.to_string()];
        row.extend(methods.iter().map(|&m| cell(key, m)));
        rows.push(row);
    }
    let headings: Vec<String> = methods.iter().map(|m| heading(&means, *m)).collect();
    let header: Vec<&str> = ["arm", "iter"].into_iter().chain(headings.iter().map(String::as_str)).collect();
    let seeds = || means.iter().map(|m| m.seeds.len());
    let of_seeds =
        if seeds().any(|n| n > 1) { format!(", mean of {}", plot::numbers(seeds())) } else { String::new() };
    let error = match means.iter().any(|m| m.interval.is_some()) {
        true => "half the 95 % interval",
        false => "standard error",
    };
    let title = format!("accuracy on {} {split} questions, % ± {error}{of_seeds}", first.questions);
    let mut out = format!("{}{}", wrapped(&title), table(&header, &rows));
    if all > keys.len() {
        out.push_str("each arm's first and last iteration; the others are in report.html\n");
    }
    if !left_out.is_empty() {
        out.push_str(&wrapped(&format!("no room here, but in report.html: {}", left_out.join(", "))));
    }
    Some(out)
}

/// What the columns of [`accuracy`] mean.
pub const LEGEND: &str = "\
greedy: a generator's most likely answer; single: one sample of it;
majority K: the vote of K samples; vote 1: of the debate's first round;
final vote: of its last round; arm *: trained with reference answers
";

/// Labels by arm, in order of first appearance, and by iteration, one a seed.
fn labels_by_arm(metrics: &[Line]) -> Vec<(&str, u64, Vec<&PseudoLabels>)> {
    let mut found: Vec<(&str, u64, Vec<&PseudoLabels>)> = Vec::new();
    for line in metrics {
        let Record::PseudoLabels(record) = &line.record else { continue };
        match found.iter_mut().find(|(a, n, _)| *a == line.arm && *n == line.iteration) {
            Some(group) => group.2.push(record),
            None => found.push((&line.arm, line.iteration, vec![record])),
        }
    }
    let arms = distinct(found.iter().map(|group| group.0));
    found.sort_by_key(|(arm, i, _)| (arms.iter().position(|a| a == arm), *i));
    found
}

/// How many pseudo-labels there were and how many of them were right.
pub fn pseudo_labels(metrics: &[Line]) -> Option<String> {
    let asking = asking(metrics);
    let mut rows = Vec::new();
    for (arm, i, records) in labels_by_arm(metrics) {
        let mean = |of: &dyn Fn(&PseudoLabels) -> Option<f64>| {
            let all: Vec<f64> = records.iter().filter_map(|r| of(r)).collect();
            if all.is_empty() { 0.0 } else { all.iter().sum::<f64>() / all.len() as f64 }
        };
        let [labelled, questions] = [mean(&|r| Some(r.labelled as f64)), mean(&|r| Some(r.questions as f64))];
        rows.push(vec![
            marked(arm, &asking),
            i.to_string(),
            format!("{labelled:.0} of {questions:.0}"),
            format!("{:.1}", 100.0 * mean(&|r| Some(r.coverage))),
            percent(mean(&|r| Some(r.accuracy)), mean(&|r| Some(r.standard_error))),
            format!("{:.1}", 100.0 * mean(&|r| r.agreement.all_agree)),
        ]);
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
pub fn training(metrics: &[Line]) -> Option<String> {
    let lessons = lessons(metrics);
    if lessons.len() > ROWS {
        return Some(format!("finetuning: {} training sets, in report.html\n", lessons.len()));
    }
    let row = |lesson: &Lesson<'_>| {
        let all = lesson.loss();
        let loss = match (all.first(), all.last()) {
            (Some(first), Some(last)) => format!("{first:.3} → {last:.3}"),
            _ => "no data".into(),
        };
        vec![
            name(&lesson.line.arm),
            lesson.line.iteration.to_string(),
            lesson.adapter.to_string(),
            lesson.trained.examples.to_string(),
            lesson.mix().map_or("".into(), |w| format!("{w:.2}")),
            all.len().to_string(),
            lesson.trained.tokens.to_string(),
            loss,
        ]
    };
    let rows: Vec<Vec<String>> = lessons.iter().map(row).collect();
    let header = ["arm", "iter", "adapter", "examples", "w", "steps", "tokens", "loss"];
    (!rows.is_empty()).then(|| {
        format!(
            "finetuning (w: share of corrected trajectories in a critic's data)\n{}",
            table(&header, &rows)
        )
    })
}

/// What training and measuring cost, summed over iterations, means over seeds. Times are on the page only: what a
/// terminal shows is the same however often a run was interrupted.
pub fn compute(costs: &[Cost]) -> Option<String> {
    // Costs come by phase, and an arm has several.
    let arms = distinct(costs.iter().map(|c| c.arm.as_str()));
    let counted = costs.iter().any(|c| c.flop > 0.0);
    if arms.is_empty() || !counted {
        return None;
    }
    let mut rows = Vec::new();
    for arm in arms {
        let sum = |training: bool, f: &dyn Fn(&Cost) -> f64| {
            costs.iter().filter(|c| c.arm == arm && c.is_training() == training).map(f).sum::<f64>()
        };
        rows.push(vec![
            name(arm),
            large(sum(true, &|c| c.prompt_tokens)),
            large(sum(true, &|c| c.sampled_tokens)),
            large(sum(true, &|c| c.gradient_tokens)),
            large(sum(true, &|c| c.flop)),
            large(sum(false, &|c| c.flop)),
        ]);
    }
    let header = ["arm", "prompt", "sampled", "gradient", "FLOP", "evaluation"];
    Some(format!("tokens and FLOP of training, FLOP of evaluation, a seed\n{}", table(&header, &rows)))
}

fn side(side: &Side) -> String {
    format!(
        "{} of {} at iteration {}: {:.1} %",
        side.method,
        name(&side.arm),
        side.iteration,
        100.0 * side.value
    )
}

/// The primary comparison, if the configuration names one.
pub fn primary(comparisons: &Comparisons) -> Option<String> {
    Some(match comparisons.primary.as_ref()? {
        Err(why) => wrapped(&format!("primary comparison: not yet: {why}")),
        Ok(c) => {
            let d = c.paired.difference;
            format!(
                "primary comparison, {} {} questions, {} seed{}\n  {}\n  {}\n  difference {} points, \
                 95 % interval; p = {}\n  smallest detectable difference {:.1} points (80 % power)\n",
                c.questions,
                c.split,
                c.seeds.len(),
                if c.seeds.len() == 1 { "" } else { "s" },
                side(&c.a),
                side(&c.b),
                points(d.value, d.low, d.high),
                p_value(c.paired.p),
                100.0 * c.detectable
            )
        }
    })
}

/// The secondary comparisons.
pub fn secondary(comparisons: &Comparisons) -> Option<String> {
    let first = comparisons.secondary.first()?;
    let row = |c: &Comparison| {
        let d = c.paired.difference;
        vec![
            name(&c.b.arm),
            c.b.iteration.to_string(),
            format!("{:.1}", 100.0 * c.b.value),
            points(d.value, d.low, d.high),
            p_value(c.paired.p),
            c.holm.map_or("-".into(), p_value),
            format!("{:.1}", 100.0 * c.detectable),
        ]
    };
    let rows: Vec<Vec<String>> = comparisons.secondary.iter().map(row).collect();
    let header = ["against", "iter", "%", "difference", "p", "Holm", "detectable"];
    let Side { arm, iteration, method, .. } = &first.a;
    let what = format!("{method} of {} at iteration {iteration}", name(arm));
    let title = wrapped(&format!("{what} less others, points, 95 % interval, {} questions", first.split));
    Some(format!("{title}{}", table(&header, &rows)))
}

/// How far a run is that is not complete.
pub fn progress(progress: &Progress) -> Option<String> {
    let (lane, last) = progress.unfinished.first()?;
    let at = match last {
        Some(i) => format!("has measured iteration {i}"),
        None => "has measured nothing".into(),
    };
    let lanes = format!("{} of {} lanes have their last iteration", progress.complete, progress.lanes);
    Some(wrapped(&format!("not complete: {lanes}; {lane} {at}")))
}

/// All tables of a run.
pub fn summary(results: &Results) -> String {
    let metrics = &results.run.metrics;
    let asking = asking(metrics);
    let mut accuracies: Vec<String> =
        SPLITS.iter().filter_map(|s| accuracy(&results.means, &asking, s)).collect();
    if let Some(last) = accuracies.last_mut() {
        last.push_str(LEGEND);
    }
    let parts: Vec<String> = [primary(&results.comparisons)]
        .into_iter()
        .flatten()
        .chain(accuracies)
        .chain(
            [
                secondary(&results.comparisons),
                pseudo_labels(metrics),
                training(metrics),
                results.grid.clone(),
                compute(&results.costs),
                progress(&results.run.progress()).filter(|_| !metrics.is_empty()),
            ]
            .into_iter()
            .flatten(),
        )
        .collect();
    if results.means.is_empty() && parts.is_empty() {
        return "nothing has been measured yet\n".into();
    }
    parts.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::scores::means_of;
    use serde_json::json;

    fn read(line: serde_json::Value) -> Line {
        Line::read(line.as_object().unwrap().clone()).unwrap()
    }

    fn metrics(asks_for_labels: bool) -> Vec<Line> {
        let mut all = Vec::new();
        let trained = |examples, loss: &[f64], data| {
            json!({"data": data, "examples": examples, "tokens": 12345, "loss": loss, "grad_norm": loss,
                "learning_rate": loss})
        };
        let mix = json!({"corrected": 2, "confirmed": 2, "corrected_taken": 1, "confirmed_taken": 1,
            "critic_mix": 0.5, "effective_mix": 0.5});
        for arm in ["multiagent", "single-agent"] {
            let asks = asks_for_labels && arm == "single-agent";
            for i in 0..3 {
                let estimate = |a: f64| json!({"accuracy": a, "standard_error": 0.035});
                let (mut majority, mut debate) = (estimate(0.55), estimate(0.6));
                majority["samples"] = json!(3);
                debate["rounds"] = json!([estimate(0.5), estimate(0.6)]);
                all.push(json!({"arm": arm, "seed": 0, "iteration": i, "name": "dev", "questions": 200,
                    "greedy": estimate(0.4), "single": estimate(0.475), "majority": majority,
                    "debate": debate, "asks_for_labels": asks}));
                all.push(json!({"arm": arm, "seed": 0, "iteration": i + 1, "name": "pseudo-labels",
                    "source": "vote", "questions": 150, "unanswered": 0, "labelled": 120, "coverage": 0.8,
                    "accuracy": 0.71, "standard_error": 0.04, "all_agree": 0.3, "asks_for_labels": asks}));
                all.push(json!({"arm": arm, "seed": 0, "iteration": i + 1, "name": "training",
                    "generator-0": trained(90, &[1.5, 1.25], json!({})),
                    "critic-0": trained(60, &[], mix.clone())}));
            }
        }
        all.into_iter().map(read).collect()
    }

    /// As [`super::summary`] shows it.
    fn shown(metrics: &[Line], split: &'static str) -> Option<String> {
        let arms = distinct(metrics.iter().map(|line| line.arm.as_str()));
        accuracy(&means_of(metrics, &arms, &[split]), &asking(metrics), split)
    }

    #[test]
    fn an_arm_has_one_row_whatever_the_order_of_its_costs() {
        let cost = |arm: &str, phase: &str, flop: f64| Cost {
            arm: arm.into(),
            phase: phase.into(),
            flop,
            ..Cost::default()
        };
        let costs = [cost("x", "dev", 1e9), cost("y", "dev", 2e9), cost("x", "debate", 4e9)];
        let text = compute(&costs).unwrap();
        let rows = |arm: &str| text.lines().filter(|l| l.starts_with(arm)).count();
        assert_eq!((rows("x"), rows("y")), (1, 1), "{text}");
    }

    #[test]
    fn tables_fit_a_terminal_and_hold_the_numbers() {
        let all = metrics(false);
        let dev = shown(&all, "dev").unwrap();
        assert!(
            dev.contains("47.5 ±3.5") && dev.contains("majority 3") && dev.contains("final vote"),
            "{dev}"
        );
        assert!(shown(&all, "test").is_none());
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
    fn long_names_keep_both_ends() {
        let arm = |v: &str| format!("multiagent@training.learning_rate={v}");
        assert_eq!(name("multiagent"), "multiagent");
        assert_ne!(name(&arm("0.001")), name(&arm("0.003")));
        assert_eq!(name(&arm("0.001")).chars().count(), NAME);
    }

    #[test]
    fn arms_that_ask_for_labels_are_marked() {
        let all = metrics(true);
        for text in [shown(&all, "dev").unwrap(), pseudo_labels(&all).unwrap()] {
            assert!(text.contains("single-agent *") && !text.contains("multiagent *"), "{text}");
        }
    }

    #[test]
    fn seeds_are_averaged() {
        let record = |seed: u64, a: f64| {
            read(json!({"arm": "x", "seed": seed, "iteration": 1, "name": "dev", "questions": 10,
                "greedy": {"accuracy": a, "standard_error": 0.1}}))
        };
        let text = shown(&[record(0, 0.2), record(1, 0.6)], "dev").unwrap();
        assert!(text.contains("40.0 ±10.0") && text.contains("mean of 2 seeds"), "{text}");
    }
}
