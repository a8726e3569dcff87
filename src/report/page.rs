//! What the page is made of, as one JSON value: numbers, configuration, chosen debates. `assets/report/` draws it.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::Results;
use super::behaviour::moved;
use super::compare::{Comparison, Side};
use super::csv::rounded;
use super::debates::choose;
use super::folder::{Run, flatten};
use super::measures::{About, DIVERSITY, adapter_parameters, lessons};
use super::scores::{Mean, Method, find, last_iteration, own_method};
use crate::error::Result;
use crate::measure::record::{Record, SPLITS};
use crate::run::{Standing, utc};

/// A number; null if it is none.
fn num(value: f64) -> Value {
    if value.is_finite() { json!(rounded(value)) } else { Value::Null }
}

fn optional(value: Option<f64>) -> Value {
    value.map_or(Value::Null, num)
}

/// A loss: four digits are all that is seen of a line.
fn short(value: f64) -> Value {
    json!(format!("{value:.3e}").parse::<f64>().unwrap_or(value))
}

/// The page of these runs.
pub fn data(results: &[Results]) -> Result<Value> {
    let mut page = Page { several: results.len() > 1, arms: vec![], labels: labels(results) };
    let mut lists: BTreeMap<&str, Vec<Value>> = LISTS.into_iter().map(|key| (key, vec![])).collect();
    for (r, result) in results.iter().enumerate() {
        page.add_arms(r, result);
        let base = lists["debates"].len();
        let mut add = |key: &'static str, values: Vec<Value>| lists.entry(key).or_default().extend(values);
        add("runs", vec![page.run(r, result)]);
        add("means", result.means.iter().map(|m| page.mean(r, m)).collect());
        add("measures", page.measures(r, result));
        add("samples", page.samples(r, result));
        add("moves", page.moves(r, result));
        add("costs", page.costs(r, result));
        add("lessons", page.lessons(r, result));
        let c = &result.comparisons;
        add(
            "primary",
            c.primary
                .iter()
                .map(|p| match p {
                    Ok(c) => page.comparison(r, c),
                    Err(why) => json!({"run": r, "missing": why}),
                })
                .collect(),
        );
        add("secondary", c.secondary.iter().map(|c| page.comparison(r, c)).collect());
        add(
            "uncompared",
            c.missing.iter().map(|(arm, why)| json!({"a": page.arm(r, arm), "why": why})).collect(),
        );
        add("tables", page.tables(r, result));
        let debates = choose(&result.run, 1.0 / results.len() as f64)?;
        let lanes = debates.lanes.iter().map(|lane| {
            json!({
                "a": page.arm(r, &lane.arm), "seed": lane.seed, "split": lane.split, "i": lane.iteration,
                "questions": lane.questions, "right": lane.changed.0, "wrong": lane.changed.1,
                "pairs": lane.chosen.iter().map(|(b, a)| json!([b + base, a + base])).collect::<Vec<_>>(),
            })
        });
        let lanes = lanes.collect();
        add("lanes", lanes);
        add("debates", debates.texts);
    }
    let is_empty = |key: &str| lists[key].is_empty();
    let has = |key: &str, holds: &dyn Fn(&Value) -> bool| lists[key].iter().any(holds);
    let group = |group: &str| has("measures", &|m| m["g"] == group);
    let absent: Vec<&str> = [
        (!has("means", &|m| m["lo"].is_number()), "outcomes by question, so intervals and comparisons"),
        (!group("diversity"), "diversity"),
        (!group("pseudo-labels"), "pseudo-labels"),
        (!group("debate"), "agreement and false consensus"),
        (is_empty("moves"), "how critics move answers"),
        (is_empty("samples"), "the vote by number of samples"),
        (!has("costs", &|c| c["flop"].as_f64() > Some(0.0)), "compute"),
        (!has("costs", &|c| c["s"].is_number()), "times"),
        (is_empty("lessons"), "finetuning"),
        (is_empty("lanes"), "debates before and after training"),
    ]
    .into_iter()
    .filter_map(|(missing, what)| missing.then_some(what))
    .collect();
    let mut methods: Vec<Method> = results.iter().flat_map(|r| r.means.iter().map(|m| m.method)).collect();
    methods.sort();
    methods.dedup();
    let headline = if has("means", &|m| m["s"] == "test") { "test" } else { "dev" };
    let mut all: Map<String, Value> = lists.into_iter().map(|(k, v)| (k.to_string(), v.into())).collect();
    all.insert("several".into(), page.several.into());
    all.insert("absent".into(), json!(absent));
    all.insert("headline".into(), headline.into());
    all.insert("arms".into(), page.arms.iter().map(|(_, _, v)| v.clone()).collect());
    all.insert(
        "methods".into(),
        methods.iter().map(|m| json!({"id": m.id(), "label": m.to_string()})).collect(),
    );
    all.insert("diversity".into(), diversity(results));
    all.insert("diff".into(), if page.several { diff(results, &page.labels) } else { json!([]) });
    all.insert("version".into(), env!("CARGO_PKG_VERSION").into());
    Ok(Value::Object(all))
}

/// Lists that are there even when empty.
const LISTS: [&str; 13] = [
    "runs",
    "means",
    "measures",
    "samples",
    "moves",
    "costs",
    "lessons",
    "primary",
    "secondary",
    "uncompared",
    "tables",
    "lanes",
    "debates",
];

/// What runs are called: by their folders' names, or by their paths where names are the same.
fn labels(results: &[Results]) -> Vec<String> {
    let same = |name: &str| results.iter().filter(|r| r.run.name == name).count() > 1;
    results
        .iter()
        .map(|r| if same(&r.run.name) { r.run.folder.display().to_string() } else { r.run.name.clone() })
        .collect()
}

/// Titles and explanations of the measures of diversity, with what the records say of how they were taken.
fn diversity(results: &[Results]) -> Value {
    let of = |about: &About| {
        let mut notes: Vec<String> = Vec::new();
        let mut base = Value::Null;
        for line in results.iter().flat_map(|r| &r.run.metrics) {
            let Record::Diversity(record) = &line.record else { continue };
            let Some((_, own)) = record.of_texts().find(|(name, _)| *name == about.key) else { continue };
            let said =
                [("estimator", &own.estimator), ("direction", &own.direction), ("encoder", &own.encoder)];
            for (key, note) in said.into_iter().filter_map(|(key, note)| Some((key, note.as_ref()?))) {
                let note = format!("{key}: {note}");
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            base = own.base.map_or(base, num);
        }
        json!({"key": about.key, "title": about.title, "text": about.text, "notes": notes, "base": base})
    };
    DIVERSITY.iter().map(of).collect()
}

/// Keys of the configurations whose values differ, and each run's value.
fn diff(results: &[Results], labels: &[String]) -> Value {
    let flat: Vec<Vec<(String, String)>> = results
        .iter()
        .map(|r| {
            let mut out = Vec::new();
            flatten("", &toml::Value::Table(r.run.config.clone()), &mut out);
            out
        })
        .collect();
    let mut keys: Vec<&String> = Vec::new();
    for (key, _) in flat.iter().flatten() {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let value =
        |of: &[(String, String)], key: &str| of.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let rows = keys.into_iter().filter_map(|key| {
        let values: Vec<Option<String>> = flat.iter().map(|f| value(f, key)).collect();
        let differ = values.iter().any(|v| *v != values[0]);
        differ.then(|| json!({"key": key, "values": values}))
    });
    json!([{"runs": labels, "rows": rows.collect::<Vec<_>>()}])
}

struct Page {
    several: bool,
    /// Run, arm, and what the page says of it.
    arms: Vec<(usize, String, Value)>,
    labels: Vec<String>,
}

impl Page {
    fn arm(&self, run: usize, name: &str) -> Value {
        self.arms.iter().position(|(r, n, _)| *r == run && n == name).into()
    }

    fn add_arms(&mut self, r: usize, result: &Results) {
        for arm in &result.run.arms {
            let label =
                if self.several { format!("{}: {}", self.labels[r], arm.name) } else { arm.name.clone() };
            let own = own_method(&result.means, arm);
            let value = json!({
                "label": label,
                "run": r,
                "recipe": arm.recipe,
                "labels": arm.uses_labels,
                "set": arm.overrides,
                "iterations": arm.iterations,
                "seeds": result.run.arm_seeds(&arm.name),
                "own": own.map(Method::id),
                "reference": result.comparisons.reference.as_deref() == Some(arm.name.as_str()),
            });
            self.arms.push((r, arm.name.clone(), value));
        }
    }

    fn run(&self, r: usize, result: &Results) -> Value {
        let run = &result.run;
        let progress = run.progress();
        let manifest = &run.manifest;
        let created = manifest["created"].as_u64().map(|s| {
            let [year, month, day, hour, minute, _] = utc(s);
            format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
        });
        json!({
            "name": self.labels[r],
            "created": created,
            "commit": manifest["program"]["commit"],
            "version": manifest["program"]["version"],
            "device": manifest["device"],
            "arithmetic": manifest["arithmetic"],
            "seeds": run.seeds(),
            "complete": progress.complete,
            "lane_count": progress.lanes,
            "unfinished": progress.unfinished,
            "parameters": adapter_parameters(&run.metrics),
            "facts": facts(run),
            "config": toml::to_string_pretty(&run.config).unwrap_or_default(),
        })
    }

    fn mean(&self, r: usize, m: &Mean) -> Value {
        json!({
            "a": self.arm(r, &m.arm), "s": m.split, "i": m.iteration, "m": m.method.id(),
            "round": m.round, "n": m.samples, "q": m.questions,
            "v": num(m.value), "lo": optional(m.interval.map(|i| i.low)), "hi": optional(m.interval.map(|i| i.high)),
            "se": num(m.standard_error),
            "seeds": m.seeds.iter().map(|(seed, s)| json!([seed, num(s.accuracy)])).collect::<Vec<_>>(),
            "parse": optional(m.rate(|r| r.parse_rate)), "cut": optional(m.rate(|r| r.truncation_rate)),
            "tokens": optional(m.rate(|r| r.mean_tokens)),
        })
    }

    fn measures(&self, r: usize, result: &Results) -> Vec<Value> {
        let shown = result.measures.iter().filter(|m| m.group != "compute");
        shown
            .map(|m| {
                let (lo, hi) = m.range();
                json!({
                    "a": self.arm(r, &m.arm), "g": m.group, "s": m.split, "n": m.name, "i": m.iteration,
                    "v": num(m.value()), "lo": num(lo), "hi": num(hi), "k": m.seeds.len(),
                })
            })
            .collect()
    }

    /// The vote by number of samples: means over seeds, at the last iteration of each arm that has it.
    fn samples(&self, r: usize, result: &Results) -> Vec<Value> {
        let mut all = Vec::new();
        for arm in &result.run.arms {
            for split in SPLITS {
                let Some(last) = last_iteration(&result.means, &arm.name, split) else { continue };
                let mut by_k: Vec<(usize, Vec<f64>)> = Vec::new();
                let of_last = result.run.evaluations(&arm.name, split).filter(|(l, _)| l.iteration == last);
                for of_k in of_last.flat_map(|(_, r)| &r.majority).flat_map(|m| &m.by_samples) {
                    match by_k.iter_mut().find(|(own, _)| *own == of_k.samples) {
                        Some((_, values)) => values.push(of_k.accuracy),
                        None => by_k.push((of_k.samples, vec![of_k.accuracy])),
                    }
                }
                if by_k.is_empty() {
                    continue;
                }
                by_k.sort_by_key(|(k, _)| *k);
                let points: Vec<Value> = by_k
                    .iter()
                    .map(|(k, values)| json!([k, num(values.iter().sum::<f64>() / values.len() as f64)]))
                    .collect();
                let at = |method| find(&result.means, &arm.name, split, last, method).map(|m| num(m.value));
                let budget = find(&result.means, &arm.name, split, last, Method::Budget).map(|m| m.samples);
                all.push(json!({
                    "a": self.arm(r, &arm.name), "s": split, "i": last, "points": points,
                    "budget": budget, "final": at(Method::Final),
                }));
            }
        }
        all
    }

    fn moves(&self, r: usize, result: &Results) -> Vec<Value> {
        moved(&result.run)
            .iter()
            .map(|row| {
                let moves = serde_json::to_value(row.moves).unwrap_or_default();
                json!({"a": self.arm(r, &row.arm), "s": row.split, "i": row.iteration, "moves": moves})
            })
            .collect()
    }

    fn costs(&self, r: usize, result: &Results) -> Vec<Value> {
        let costs = result.costs.iter();
        costs
            .map(|c| {
                json!({
                    "a": self.arm(r, &c.arm), "i": c.iteration, "phase": c.phase, "training": c.is_training(),
                    "prompt": num(c.prompt_tokens), "sampled": num(c.sampled_tokens),
                    "gradient": num(c.gradient_tokens), "flop": num(c.flop), "s": optional(c.seconds),
                })
            })
            .collect()
    }

    fn lessons(&self, r: usize, result: &Results) -> Vec<Value> {
        let lessons = lessons(&result.run.metrics);
        lessons
            .iter()
            .map(|l| {
                json!({
                    "a": self.arm(r, &l.line.arm), "seed": l.line.seed, "i": l.line.iteration,
                    "adapter": l.adapter, "examples": l.trained.examples, "tokens": l.trained.tokens,
                    "mix": optional(l.mix()), "loss": l.loss().into_iter().map(short).collect::<Vec<_>>(),
                })
            })
            .collect()
    }

    fn comparison(&self, r: usize, c: &Comparison) -> Value {
        let side = |s: &Side| {
            json!({
                "a": self.arm(r, &s.arm), "i": s.iteration, "m": s.method.id(),
                "label": s.method.to_string(), "v": num(s.value),
            })
        };
        let d = c.paired.difference;
        json!({
            "run": r, "a": side(&c.a), "b": side(&c.b), "s": c.split, "seeds": c.seeds.len(), "q": c.questions,
            "v": num(d.value), "lo": num(d.low), "hi": num(d.high), "p": num(c.paired.p), "holm": optional(c.holm),
            "detectable": num(c.detectable),
        })
    }

    /// The paper's tables 1 and 2 for this run: methods, and what finetuning becomes without its parts.
    fn tables(&self, r: usize, result: &Results) -> Vec<Value> {
        let Some(reference) = result.comparisons.reference.as_deref() else { return vec![] };
        let means = &result.means;
        let columns = columns(result);
        let cells = |arm: &str, method: Method, fixed: Option<u64>| -> Vec<Value> {
            let cell = |(split, i): &(&'static str, u64)| {
                let at = fixed.unwrap_or(*i);
                let found = find(means, arm, split, at, method);
                found.map_or(Value::Null, |m| {
                    let (lo, hi) = (m.interval.map(|i| i.low), m.interval.map(|i| i.high));
                    json!({"v": num(m.value), "lo": optional(lo), "hi": optional(hi), "se": num(m.standard_error)})
                })
            };
            columns.iter().map(cell).collect()
        };
        let trained = |arm: &str| means.iter().any(|m| m.arm == arm && m.iteration > 0);
        let row = |label: String, arm: &str, method: Method, fixed| {
            let samples = means.iter().find(|m| m.arm == arm && m.method == method).map_or(0, |m| m.samples);
            let how = match method {
                Method::Budget => format!("majority of {samples}, the debate's FLOP"),
                _ if samples > 0 => format!("{method} of {samples}"),
                _ => method.to_string(),
            };
            json!({
                "label": label, "a": self.arm(r, arm), "m": method.id(), "method": how,
                "trained": fixed != Some(0), "cells": cells(arm, method, fixed),
            })
        };
        let mut one = Vec::new();
        let untrained: Vec<&str> = result
            .run
            .arms
            .iter()
            .map(|a| a.name.as_str())
            .filter(|a| !trained(a) && means.iter().any(|m| m.arm == *a))
            .collect();
        // What the base does before training: arms of its own, and the reference arm at iteration 0 where it answered
        // otherwise.
        let answered = |arm: &str, method: Method| {
            means.iter().find(|m| m.arm == arm && m.iteration == 0 && m.method == method).map(|m| m.samples)
        };
        for method in [Method::Greedy, Method::Single, Method::Majority, Method::Budget, Method::Final] {
            let measured =
                |arm: &str| columns.iter().any(|(split, _)| find(means, arm, split, 0, method).is_some());
            let has_own = untrained.iter().any(|a| answered(a, method) == answered(reference, method));
            if measured(reference) && !has_own && trained(reference) {
                one.push(row("base model".into(), reference, method, Some(0)));
            }
            for arm in untrained.iter().filter(|a| measured(a)) {
                one.push(row((*arm).into(), arm, method, Some(0)));
            }
        }
        // Baselines of the paper's first table train one model; what trains agents differently stands in the second.
        let in_one = |a: &super::folder::Arm| a.name == reference || a.info.standing == Standing::Baseline;
        let mut two = Vec::new();
        let of_run = result.run.arms.iter().filter(|a| trained(&a.name));
        let mut last_of_one = Vec::new();
        for arm in of_run {
            let Some(method) = own_method(means, arm) else { continue };
            let label = arm.name.clone();
            if arm.name == reference {
                last_of_one.push(row(label.clone(), &arm.name, method, None));
                two.insert(0, row(label, &arm.name, method, None));
            } else if in_one(arm) {
                one.push(row(label, &arm.name, method, None));
            } else {
                two.push(row(label, &arm.name, method, None));
            }
            // The same agents without a debate: the paper's "single-agent FT w/o debate".
            if method == Method::Final && arm.info.standing == Standing::OneModel {
                for (m, how) in
                    [(Method::Majority, "without debate, vote"), (Method::Single, "without debate")]
                {
                    if columns.iter().any(|(split, i)| find(means, &arm.name, split, *i, m).is_some()) {
                        two.push(row(format!("{}, {how}", arm.name), &arm.name, m, None));
                    }
                }
            }
        }
        one.extend(last_of_one);
        let heads: Vec<Value> = columns
            .iter()
            .map(|(split, i)| {
                let q = means.iter().find(|m| m.split == *split).map_or(0, |m| m.questions);
                json!({"s": split, "i": i, "q": q})
            })
            .collect();
        vec![json!({"run": r, "columns": heads, "one": one, "two": if two.len() > 1 { two } else { vec![] }})]
    }
}

/// The columns of the paper's tables: each split after the first iteration and after the last one, as far as it was
/// measured then.
fn columns(result: &Results) -> Vec<(&'static str, u64)> {
    let mut columns = Vec::new();
    for split in ["test", "dev", "transfer-test", "transfer-dev"] {
        let of = result.means.iter().filter(|m| m.split == split);
        let Some(last) = of.clone().map(|m| m.iteration).max() else { continue };
        // What has so far been measured before training only says nothing of finetuning.
        if last == 0 && result.means.iter().any(|m| m.iteration > 0) {
            continue;
        }
        if last > 1 && of.clone().any(|m| m.iteration == 1) {
            columns.push((split, 1));
        }
        columns.push((split, last));
    }
    columns
}

/// The configuration in a few words.
fn facts(run: &Run) -> Value {
    let get = |section: &str, key: &str| {
        let value = run.config.get(section)?.get(key)?;
        Some(value.as_str().map_or_else(|| value.to_string(), String::from))
    };
    let keys = [
        ("model", "model", "path"),
        ("task", "task", "name"),
        ("preset", "run", "preset"),
        ("agents", "debate", "agents"),
        ("rounds", "debate", "rounds"),
        ("others’ answers", "debate", "others"),
        ("iterations", "run", "iterations"),
        ("training questions", "task", "train_questions"),
        ("dev questions", "task", "dev_questions"),
        ("test questions", "task", "test_questions"),
        ("temperature", "sampling", "temperature"),
        ("rank", "adapter", "rank"),
        ("learning rate", "training", "learning_rate"),
        ("epochs", "training", "num_epochs"),
        ("batch size", "training", "batch_size"),
    ];
    keys.iter().filter_map(|(label, s, k)| Some(json!([label, get(s, k)?]))).collect()
}
