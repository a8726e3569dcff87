//! What stands in the records beside accuracies: diversity, pseudo-labels, compute, times, losses.

use std::collections::BTreeMap;

use serde_json::Value;

use super::folder::{Record, Run, SPLITS, iteration, seed, text};

/// One number of an arm at an iteration, for each seed that has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// The arm.
    pub arm: String,
    /// `diversity`, `pseudo-labels`, `debate` or `compute`.
    pub group: &'static str,
    /// What it was measured on; empty where that is no split.
    pub split: String,
    /// Its name, e.g. `nll`.
    pub name: String,
    /// The iteration.
    pub iteration: u64,
    /// By seed.
    pub seeds: Vec<(u64, f64)>,
}

impl Measure {
    /// Mean over seeds.
    pub fn value(&self) -> f64 {
        self.seeds.iter().map(|s| s.1).sum::<f64>() / self.seeds.len() as f64
    }

    /// The lowest and the highest seed.
    pub fn range(&self) -> (f64, f64) {
        let fold = |f: fn(f64, f64) -> f64, from| self.seeds.iter().map(|s| s.1).fold(from, f);
        (fold(f64::min, f64::INFINITY), fold(f64::max, f64::NEG_INFINITY))
    }
}

/// A measure of diversity as people read it.
pub struct About {
    /// Its key in the records.
    pub key: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What it is.
    pub text: &'static str,
}

/// The measures of diversity, in the order in which they are shown.
pub const DIVERSITY: [About; 9] = [
    About {
        key: "nll",
        title: "Negative log-likelihood",
        text: "of the other agents' answers under each critic, nats a token; higher is more diverse",
    },
    About {
        key: "disagreement",
        title: "1 − consensus",
        text: "mean share of agents that did not give the vote's answer",
    },
    About { key: "kl", title: "KL divergence", text: "between agents, nats a token; higher is more diverse" },
    About { key: "kl_base", title: "KL from the base", text: "of each agent, nats a token" },
    About {
        key: "embedding",
        title: "Embedding dissimilarity",
        text: "1 − cosine between agents' answers; higher is more diverse",
    },
    About { key: "distinct_answers", title: "Distinct answers", text: "different answers to a question" },
    About {
        key: "error_correlation",
        title: "Error correlation",
        text: "between pairs of agents, right or wrong; lower is more diverse",
    },
    About {
        key: "pass_at_n",
        title: "Pass@N",
        text: "share of questions that at least one agent answers rightly",
    },
    About {
        key: "off_task_nll",
        title: "Off-task text",
        text: "negative log-likelihood of fixed text of other kinds, nats a token; a rise is forgetting",
    },
];

/// Arm, group, split, name, iteration.
type Key = (String, &'static str, String, String, u64);

/// Collects numbers by key, seeds in order.
#[derive(Default)]
struct Collected {
    order: Vec<Key>,
    values: BTreeMap<Key, Vec<(u64, f64)>>,
}

impl Collected {
    fn add(&mut self, record: &Record, group: &'static str, split: &str, name: &str, value: Option<f64>) {
        let Some(value) = value.filter(|v| v.is_finite()) else { return };
        let key =
            (text(record, "arm").to_string(), group, split.to_string(), name.to_string(), iteration(record));
        if !self.values.contains_key(&key) {
            self.order.push(key.clone());
        }
        let seeds = self.values.entry(key).or_default();
        // A phase may come in several parts.
        match seeds.iter_mut().find(|s| s.0 == seed(record)) {
            Some(had) => had.1 += value,
            None => seeds.push((seed(record), value)),
        }
    }

    fn finish(mut self) -> Vec<Measure> {
        let of = |key: Key| {
            let mut seeds = self.values.remove(&key).unwrap_or_default();
            seeds.sort_by_key(|s| s.0);
            let (arm, group, split, name, iteration) = key;
            Measure { arm, group, split, name, iteration, seeds }
        };
        self.order.into_iter().map(of).collect()
    }
}

/// A number, or the `value` of an object.
fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.get("value")?.as_f64())
}

/// Diversity, pseudo-labels, compute and times, as far as they were measured.
pub fn measures(run: &Run) -> Vec<Measure> {
    const OWN: [&str; 4] = ["arm", "seed", "iteration", "name"];
    let mut all = Collected::default();
    for record in &run.metrics {
        match text(record, "name") {
            "diversity" => {
                for (key, value) in record.iter().filter(|(k, _)| !OWN.contains(&k.as_str())) {
                    let mut add = |prefix: &str, key: &str, value: &Value| match key {
                        // As the paper turns it into a measure of diversity.
                        "consensus" => {
                            let value = number(value).map(|c| 1.0 - c);
                            all.add(record, "diversity", "dev", &format!("{prefix}disagreement"), value);
                        }
                        "questions" => {}
                        _ => all.add(record, "diversity", "dev", &format!("{prefix}{key}"), number(value)),
                    };
                    match (key.as_str(), value.as_object()) {
                        ("first_round", Some(first)) => {
                            first.iter().for_each(|(k, v)| add("first_round.", k, v))
                        }
                        _ => add("", key, value),
                    }
                }
            }
            "pseudo-labels" => {
                let of = |key: &str| record.get(key).and_then(Value::as_f64);
                for key in ["accuracy", "coverage", "all_agree", "consensus", "labelled", "questions"] {
                    all.add(record, "pseudo-labels", "train", key, of(key));
                }
                let rounds = record.get("vote_accuracy_by_round").and_then(Value::as_array);
                for (m, value) in rounds.into_iter().flatten().enumerate() {
                    let name = format!("vote_accuracy_round_{}", m + 1);
                    all.add(record, "pseudo-labels", "train", &name, value.as_f64());
                }
            }
            "compute" => {
                for phase in record.get("phases").and_then(Value::as_array).into_iter().flatten() {
                    let name = phase["phase"].as_str().unwrap_or_default();
                    for key in ["prompt_tokens", "sampled_tokens", "gradient_tokens", "flop"] {
                        let value = phase[key].as_f64();
                        all.add(record, "compute", "", &format!("{name}.{key}"), value);
                    }
                }
            }
            _ => {}
        }
    }
    for record in &run.times {
        let name = format!("{}.seconds", text(record, "phase"));
        all.add(record, "compute", "", &name, record.get("seconds").and_then(Value::as_f64));
    }
    all.finish()
}

/// What one phase of an arm's iteration cost: means over seeds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// The arm.
    pub arm: String,
    /// The iteration.
    pub iteration: u64,
    /// The phase.
    pub phase: String,
    /// Prompt tokens.
    pub prompt_tokens: f64,
    /// Sampled tokens.
    pub sampled_tokens: f64,
    /// Tokens of sequences that carried gradients.
    pub gradient_tokens: f64,
    /// Floating-point operations.
    pub flop: f64,
    /// Wall time in the lane; none where times were not kept.
    pub seconds: Option<f64>,
}

impl Cost {
    /// Whether it is a part of training, not of measuring.
    pub fn is_training(&self) -> bool {
        !SPLITS.contains(&self.phase.as_str()) && self.phase != "diversity"
    }
}

/// What every phase cost.
pub fn costs(measures: &[Measure]) -> Vec<Cost> {
    let mut costs: Vec<Cost> = Vec::new();
    for measure in measures.iter().filter(|m| m.group == "compute") {
        let Some((phase, what)) = measure.name.split_once('.') else { continue };
        let same = |c: &Cost| c.arm == measure.arm && c.iteration == measure.iteration && c.phase == phase;
        let at = costs.iter().position(same).unwrap_or_else(|| {
            let (arm, iteration) = (measure.arm.clone(), measure.iteration);
            costs.push(Cost { arm, iteration, phase: phase.into(), ..Cost::default() });
            costs.len() - 1
        });
        let (cost, value) = (&mut costs[at], measure.value());
        match what {
            "prompt_tokens" => cost.prompt_tokens = value,
            "sampled_tokens" => cost.sampled_tokens = value,
            "gradient_tokens" => cost.gradient_tokens = value,
            "flop" => cost.flop = value,
            _ => cost.seconds = Some(value),
        }
    }
    costs
}

/// The adapter parameters of the arms that say how many they have.
pub fn adapter_parameters(metrics: &[Record]) -> BTreeMap<String, f64> {
    let of = |r: &Record| Some((text(r, "arm").to_string(), r.get("adapter_parameters")?.as_f64()?));
    metrics.iter().filter(|r| text(r, "name") == "compute").filter_map(of).collect()
}

/// What one adapter was finetuned on in one iteration.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// The arm.
    pub arm: String,
    /// The seed.
    pub seed: u64,
    /// The iteration.
    pub iteration: u64,
    /// The adapter, e.g. `critic-0`.
    pub adapter: String,
    /// Sequences.
    pub examples: u64,
    /// Tokens with loss, over all steps.
    pub tokens: u64,
    /// The share of corrected trajectories among a critic's.
    pub mix: Option<f64>,
    /// Before each step.
    pub loss: Vec<f64>,
}

/// Training sets and losses of each arm's first seed.
pub fn lessons(metrics: &[Record]) -> Vec<Lesson> {
    const OWN: [&str; 4] = ["arm", "seed", "iteration", "name"];
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    let mut all = Vec::new();
    for record in metrics.iter().filter(|r| text(r, "name") == "training") {
        let arm = text(record, "arm");
        if *first.entry(arm).or_insert(seed(record)) != seed(record) {
            continue;
        }
        for (adapter, value) in record.iter().filter(|(k, v)| !OWN.contains(&k.as_str()) && v.is_object()) {
            all.push(Lesson {
                arm: arm.into(),
                seed: seed(record),
                iteration: iteration(record),
                adapter: adapter.clone(),
                examples: value["examples"].as_u64().unwrap_or(0),
                tokens: value["tokens"].as_u64().unwrap_or(0),
                mix: value["data"]["effective_mix"].as_f64(),
                loss: value["loss"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect(),
            });
        }
    }
    all
}
