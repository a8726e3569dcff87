//! Comparisons between arms: the primary one, if the configuration names it, and all others.

use serde_json::Value;

use super::folder::{Arm, Run};
use super::scores::{Mean, Method, find, last_iteration, own_method};
use crate::measure::{Paired, holm, paired, smallest_detectable};
use crate::run::Standing;

/// One side of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Side {
    /// The arm.
    pub arm: String,
    /// The iteration.
    pub iteration: u64,
    /// The method.
    pub method: Method,
    /// Its accuracy over the seeds of the comparison.
    pub value: f64,
}

/// A difference between two arms, paired by seed and question.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// The arm in question.
    pub a: Side,
    /// What it is compared with.
    pub b: Side,
    /// The split.
    pub split: &'static str,
    /// Seeds that both have.
    pub seeds: Vec<u64>,
    /// Questions of one seed.
    pub questions: usize,
    /// a - b.
    pub paired: Paired,
    /// The smallest true difference that would be found four times in five.
    pub detectable: f64,
    /// p adjusted for all secondary comparisons; none for the primary one.
    pub holm: Option<f64>,
}

/// All comparisons of a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparisons {
    /// The primary one, or why there is none although the configuration names it. `None`: it names none.
    pub primary: Option<Result<Comparison, String>>,
    /// The arm that the others are compared with.
    pub reference: Option<String>,
    /// Reference minus every other arm; the primary pair is not among them.
    pub secondary: Vec<Comparison>,
    /// Arms that could not be compared, and why.
    pub missing: Vec<(String, String)>,
}

/// Compares the arms of a run.
pub fn compare(run: &Run, means: &[Mean]) -> Comparisons {
    let wanted = run.primary();
    let text = |key: &str| wanted.and_then(|w| w.get(key)).and_then(|v| v.as_str()).unwrap_or_default();
    let mut all = Comparisons::default();
    if let Some(wanted) = wanted {
        let i = wanted.get("iteration").and_then(|v| v.as_integer()).unwrap_or(0).max(0) as u64;
        all.primary = Some(match Method::from_id(text("method")) {
            None => Err(format!("report.primary.method: `{}` is no method", text("method"))),
            Some(method) => primary(run, means, text("arm"), text("against"), method, i),
        });
    }
    let named = run.arms.iter().find(|a| a.name == text("arm"));
    let first = || run.arms.iter().find(|a| a.info.standing == Standing::Method).or(run.arms.first());
    let Some(reference) = named.or_else(first) else { return all };
    all.reference = Some(reference.name.clone());
    for arm in run.arms.iter().filter(|a| a.name != reference.name) {
        if matches!(&all.primary, Some(Ok(p)) if p.b.arm == arm.name) {
            continue;
        }
        match secondary(run, means, reference, arm) {
            Ok(comparison) => all.secondary.push(comparison),
            Err(why) => all.missing.push((arm.name.clone(), why)),
        }
    }
    let adjusted = holm(&all.secondary.iter().map(|c| c.paired.p).collect::<Vec<_>>());
    all.secondary.iter_mut().zip(adjusted).for_each(|(c, p)| c.holm = Some(p));
    all
}

/// The comparison that the configuration names: on test questions where there are any, else on dev questions.
fn primary(
    run: &Run,
    means: &[Mean],
    arm: &str,
    against: &str,
    method: Method,
    iteration: u64,
) -> Result<Comparison, String> {
    for name in [arm, against] {
        if !run.arms.iter().any(|a| a.name == name) {
            return Err(format!("there is no arm `{name}`"));
        }
    }
    let split = headline_split(run);
    let of = |name: &str| {
        find(means, name, split, iteration, method).ok_or_else(|| {
            format!("{method} of {name} has not been measured on {split} questions at iteration {iteration}")
        })
    };
    difference(run, of(arm)?, of(against)?)
}

/// Where results count: on test questions once there are any, else on dev questions.
pub fn headline_split(run: &Run) -> &'static str {
    let asks = run.config.get("task").and_then(|t| t.get("test_questions")).and_then(|v| v.as_integer());
    if run.measured_splits().contains(&"test") || asks.is_some_and(|n| n > 0) { "test" } else { "dev" }
}

/// The reference's last iteration against an arm's last one, each by its own method.
fn secondary(run: &Run, means: &[Mean], reference: &Arm, arm: &Arm) -> Result<Comparison, String> {
    // Test questions are asked at the end: until then dev questions are all there is.
    let last = |split| last_iteration(means, &reference.name, split);
    let split = if last("test").is_some() && last("test") >= last("dev") { "test" } else { "dev" };
    let of = |arm: &Arm| {
        let not_yet = || format!("{} has not been measured on {split} questions", arm.name);
        let method = own_method(means, arm).ok_or_else(not_yet)?;
        let last = last_iteration(means, &arm.name, split).ok_or_else(not_yet)?;
        find(means, &arm.name, split, last, method).ok_or_else(not_yet)
    };
    difference(run, of(reference)?, of(arm)?)
}

/// a - b on the seeds and questions that both have.
fn difference(run: &Run, a: &Mean, b: &Mean) -> Result<Comparison, String> {
    let ids = |m: &Mean| run.splits.get(&m.arm).and_then(|s| s.get(m.split)).cloned().unwrap_or(Value::Null);
    if ids(a) != ids(b) || a.questions != b.questions {
        return Err(format!("{} and {} were asked different questions", a.arm, b.arm));
    }
    let seeds: Vec<u64> = a.seed_list().into_iter().filter(|s| b.seed_list().contains(s)).collect();
    if seeds.is_empty() {
        return Err(format!("{} and {} have no seed in common", a.arm, b.arm));
    }
    let (Some(rows_a), Some(rows_b)) = (a.matrix(&seeds), b.matrix(&seeds)) else {
        return Err("the folder has no outcomes by question (an older version made it)".into());
    };
    let paired = paired(&rows_a, &rows_b);
    let side = |m: &Mean, rows: &[Vec<f64>]| {
        let value = rows.iter().flatten().sum::<f64>() / rows.iter().map(Vec::len).sum::<usize>() as f64;
        Side { arm: m.arm.clone(), iteration: m.iteration, method: m.method, value }
    };
    Ok(Comparison {
        a: side(a, &rows_a),
        b: side(b, &rows_b),
        split: a.split,
        seeds,
        questions: a.questions,
        detectable: smallest_detectable(paired.standard_error),
        paired,
        holm: None,
    })
}
