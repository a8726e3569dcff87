//! What stands in the records beside accuracies: diversity, pseudo-labels, compute, times, losses.

use std::collections::BTreeMap;

use super::folder::Run;
use crate::measure::record::{AnswerDiversity, Diversity, Line, Record, SPLITS, Trained};

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
    fn add(&mut self, key: Key, seed: u64, value: f64) {
        if !value.is_finite() {
            return;
        }
        if !self.values.contains_key(&key) {
            self.order.push(key.clone());
        }
        let seeds = self.values.entry(key).or_default();
        // A phase may come in several parts.
        match seeds.iter_mut().find(|s| s.0 == seed) {
            Some(had) => had.1 += value,
            None => seeds.push((seed, value)),
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

/// What is shown of a record of diversity, by name.
fn of_diversity(r: &Diversity) -> Vec<(String, f64)> {
    let of_answers = |prefix: &str, answers: &AnswerDiversity| {
        let all = [
            // As the paper turns it into a measure of diversity.
            ("disagreement", Some(1.0 - answers.consensus)),
            ("distinct_answers", Some(answers.distinct_answers)),
            ("error_correlation", answers.error_correlation),
            ("pass_at_n", answers.pass_at_n),
        ];
        all.map(|(name, value)| value.map(|v| (format!("{prefix}{name}"), v))).into_iter().flatten()
    };
    let of_texts = r.of_texts().map(|(name, measured)| (name.to_string(), measured.value));
    let (off_task, of_debates): (Vec<_>, Vec<_>) = of_texts.partition(|(name, _)| name == "off_task_nll");
    let first = r.first_round.iter().flat_map(|first| of_answers("first_round.", first));
    of_debates.into_iter().chain(of_answers("", &r.answers)).chain(first).chain(off_task).collect()
}

/// Diversity, pseudo-labels, compute and times, as far as they were measured.
pub fn measures(run: &Run) -> Vec<Measure> {
    let mut all = Collected::default();
    for Line { arm, seed, iteration, record } in &run.metrics {
        let mut add = |group, split: &str, name: &str, value: f64| {
            all.add((arm.clone(), group, split.into(), name.into(), *iteration), *seed, value);
        };
        match record {
            Record::Diversity(r) => {
                of_diversity(r).iter().for_each(|(name, value)| add("diversity", "dev", name, *value));
            }
            Record::PseudoLabels(r) => {
                for (name, value) in [
                    ("accuracy", Some(r.accuracy)),
                    ("coverage", Some(r.coverage)),
                    ("all_agree", r.agreement.all_agree),
                    ("consensus", r.agreement.consensus),
                    ("labelled", Some(r.labelled as f64)),
                    ("questions", Some(r.questions as f64)),
                ] {
                    value.into_iter().for_each(|v| add("pseudo-labels", "train", name, v));
                }
                for (m, value) in r.vote_accuracy_by_round.iter().enumerate() {
                    add("pseudo-labels", "train", &format!("vote_accuracy_round_{}", m + 1), *value);
                }
            }
            Record::Compute(r) => {
                for phase in &r.phases {
                    for (name, value) in [
                        ("prompt_tokens", phase.prompt_tokens as f64),
                        ("sampled_tokens", phase.sampled_tokens as f64),
                        ("gradient_tokens", phase.gradient_tokens as f64),
                        ("flop", phase.flop),
                    ] {
                        add("compute", "", &format!("{}.{name}", phase.phase), value);
                    }
                }
            }
            Record::Evaluation(..) | Record::Training(_) => {}
        }
    }
    for time in &run.times {
        let name = format!("{}.seconds", time.phase);
        let key = (time.arm.clone(), "compute", String::new(), name, time.iteration);
        all.add(key, time.seed, time.seconds);
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

/// The adapter parameters of the arms, as far as they are known.
pub fn adapter_parameters(metrics: &[Line]) -> BTreeMap<String, f64> {
    let of = |line: &Line| match &line.record {
        Record::Compute(r) => Some((line.arm.clone(), r.adapter_parameters as f64)),
        _ => None,
    };
    metrics.iter().filter_map(of).collect()
}

/// What one adapter was finetuned on in one iteration.
pub struct Lesson<'a> {
    /// The arm, the seed and the iteration.
    pub line: &'a Line,
    /// The adapter, e.g. `critic-0`.
    pub adapter: &'a str,
    /// What was recorded of it.
    pub trained: &'a Trained,
}

impl Lesson<'_> {
    /// The share of corrected trajectories among a critic's.
    pub fn mix(&self) -> Option<f64> {
        self.trained.data.mix.as_ref()?.effective_mix
    }

    /// Before each step that was not left out.
    pub fn loss(&self) -> Vec<f64> {
        self.trained.loss.iter().flatten().map(|l| f64::from(*l)).collect()
    }
}

/// Training sets and losses of each arm's first seed.
pub fn lessons(metrics: &[Line]) -> Vec<Lesson<'_>> {
    let mut first: BTreeMap<&str, u64> = BTreeMap::new();
    let mut all = Vec::new();
    for line in metrics {
        let Record::Training(training) = &line.record else { continue };
        if *first.entry(&line.arm).or_insert(line.seed) == line.seed {
            all.extend(training.0.iter().map(|(adapter, trained)| Lesson { line, adapter, trained }));
        }
    }
    all
}
