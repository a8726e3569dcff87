//! `train`: what adapters are trained on, and how.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::records::Record;
use super::tokens::Purpose;
use crate::engine::{
    NORMALIZERS, NonFinite, Normalizer, StepMetrics, TrainRequest, TrainSequence, TrainStep,
};
use crate::error::{Error, Result};
use crate::experiment::Session;
use crate::recipe::{Training, steps};
use crate::run::{Scheduler, TrainingSection};

/// Most sequences that one training goes through, each as often as it comes up: their order is made before it begins.
const MAX_SEQUENCES: usize = 1 << 24;

/// One option's values: for all adapters, and for single ones.
struct Setting<'a> {
    option: &'a str,
    values: BTreeMap<Option<&'a str>, &'a str>,
}

impl<'a> Setting<'a> {
    fn read(option: &'a str, texts: &'a [String], adapters: &[&str]) -> Result<Self> {
        let mut values = BTreeMap::new();
        for text in texts {
            let (name, value) = match text.split_once('=') {
                Some((name, value)) => (Some(name), value),
                None => (None, text.as_str()),
            };
            if let Some(name) = name
                && !adapters.contains(&name)
            {
                return Err(Error::Usage(format!(
                    "--{option} {text}: no adapter is called `{name}`; there are {}",
                    adapters.join(", ")
                )));
            }
            if values.insert(name, value).is_some() {
                return Err(Error::Usage(format!("--{option} {text}: given twice")));
            }
        }
        Ok(Self { option, values })
    }

    /// The value for an adapter, checked.
    fn get<T: std::str::FromStr + Copy>(
        &self,
        adapter: &str,
        default: T,
        expected: &str,
        good: impl Fn(T) -> bool,
    ) -> Result<T> {
        let text = self.values.get(&Some(adapter)).or_else(|| self.values.get(&None));
        let Some(text) = text else { return Ok(default) };
        text.parse()
            .ok()
            .filter(|v| good(*v))
            .ok_or_else(|| Error::Usage(format!("--{} {text}: expected {expected}", self.option)))
    }
}

/// Training options as they are written.
pub struct Settings(BTreeMap<&'static str, Vec<String>>);

/// Their names on the command line. Fields of requests have `_` for `-`.
const OPTIONS: [&str; 15] = [
    "learning-rate",
    "weight-decay",
    "adam-beta1",
    "adam-beta2",
    "adam-epsilon",
    "max-grad-norm",
    "num-epochs",
    "max-steps",
    "batch-size",
    "gradient-accumulation-steps",
    "normalizer",
    "lr-scheduler",
    "warmup-ratio",
    "shuffle",
    "non-finite",
];

impl Settings {
    /// From each option's texts: `VALUE` for all adapters, `NAME=VALUE` for one.
    pub fn new(written: impl IntoIterator<Item = (&'static str, Vec<String>)>) -> Self {
        Self(written.into_iter().collect())
    }

    /// From an object whose fields are named as the options, with `_` for `-`. `place` is what to call it.
    pub fn from_json(fields: &Map<String, Value>, place: &str) -> Result<Self> {
        let mut written = BTreeMap::new();
        for (name, value) in fields {
            let option = OPTIONS.into_iter().find(|option| option.replace('-', "_") == *name);
            let option = option.ok_or_else(|| Error::input(format!("{place}: {name}"), unknown(name)))?;
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            written.insert(option, vec![text]);
        }
        if written.contains_key("num-epochs") && written.contains_key("max-steps") {
            let problem = "found it beside `num_epochs`, expected one of them";
            return Err(Error::input(format!("{place}: max_steps"), problem));
        }
        Ok(Self(written))
    }

    /// The settings of one adapter, and its number of steps if that is set.
    pub fn of(&self, adapter: &str, adapters: &[&str]) -> Result<(Training, Option<usize>)> {
        let texts = |option| self.0.get(option).map_or(&[][..], Vec::as_slice);
        let setting = |option| Setting::read(option, texts(option), adapters);
        let number = |option, default: f32, expected: &str, good: fn(f32) -> bool| -> Result<f32> {
            setting(option)?.get(adapter, default, expected, |v: f32| v.is_finite() && good(v))
        };
        let at_least_0 = |v: f32| v >= 0.0;
        let decay = |v: f32| (0.0..1.0).contains(&v);
        let share = |v: f32| (0.0..=1.0).contains(&v);
        let max_steps = setting("max-steps")?.get(adapter, 0, "at least 1", |n: usize| n >= 1)?;
        let whole = |n: usize| n <= 1 << 24;
        let batch_size = setting("batch-size")?.get(adapter, 8, "a whole number", whole)?;
        let accumulated =
            setting("gradient-accumulation-steps")?
                .get(adapter, 1, "at least 1", |n: usize| n >= 1 && whole(n))?;
        let normalizer = setting("normalizer")?.get(adapter, Normalizer::default(), NORMALIZERS, |_| true)?;
        let section = TrainingSection {
            learning_rate: number("learning-rate", 1e-4, "a number >= 0", at_least_0)?,
            weight_decay: number("weight-decay", 0.0, "a number >= 0", at_least_0)?,
            adam_beta1: number("adam-beta1", 0.9, "a number >= 0 and < 1", decay)?,
            adam_beta2: number("adam-beta2", 0.999, "a number >= 0 and < 1", decay)?,
            adam_epsilon: number("adam-epsilon", 1e-8, "a number > 0", |v| v > 0.0)?,
            max_grad_norm: number("max-grad-norm", 1.0, "a number >= 0", at_least_0)?,
            num_epochs: setting("num-epochs")?.get(adapter, 1, "at least 1", |n: usize| n >= 1)?,
            batch_size: batch_size * accumulated,
            lr_scheduler: setting("lr-scheduler")?.get(
                adapter,
                Scheduler::Constant,
                &Scheduler::NAMES.join(", "),
                |_| true,
            )?,
            warmup_ratio: number("warmup-ratio", 0.0, "a number from 0 to 1", share)?,
            shuffle: setting("shuffle")?.get(adapter, true, "true or false", |_| true)?,
            non_finite: setting("non-finite")?.get(
                adapter,
                NonFinite::Stop,
                &NonFinite::NAMES.join(" or "),
                |_| true,
            )?,
            ..TrainingSection::default()
        };
        let training = Training { normalizer, ..Training::of_generators(&section)? };
        Ok((training, (max_steps > 0).then_some(max_steps)))
    }
}

/// The problem of a field that no training has, with the one that may be meant.
fn unknown(name: &str) -> String {
    let meant = match name {
        "lr" => Some("learning_rate"),
        "epochs" | "num_train_epochs" => Some("num_epochs"),
        "bs" | "per_device_train_batch_size" => Some("batch_size"),
        "lr_scheduler_type" => Some("lr_scheduler"),
        "steps" => Some("max_steps"),
        "seed" => Some("key"),
        _ => None,
    };
    meant.map_or("unknown field".into(), |meant| format!("unknown field; did you mean `{meant}`?"))
}

/// Refuses a training whose order of sequences would be longer than anybody waits for. The error lacks its place.
pub fn check_length(count: usize, (training, max_steps): &(Training, Option<usize>)) -> Result<(), String> {
    let section = &training.section;
    let batch = if section.batch_size == 0 { count } else { section.batch_size.min(count) };
    let sequences = match max_steps {
        Some(steps) => steps.saturating_mul(batch.max(1)),
        None => section.num_epochs.saturating_mul(count),
    };
    if sequences <= MAX_SEQUENCES {
        return Ok(());
    }
    let (what, found) = match max_steps {
        Some(steps) => ("max_steps", steps),
        None => ("num_epochs", &section.num_epochs),
    };
    Err(format!(
        "{what}: found {found}, expected to go through at most {MAX_SEQUENCES} of the {count} sequences, each \
         as often as it comes up"
    ))
}

/// Optimizer steps over `count` sequences: epochs, or as many epochs as `max_steps` takes, with the
/// learning rates of that many steps.
fn plan_steps(count: usize, training: &Training, max_steps: Option<usize>, key: u64) -> Vec<TrainStep> {
    let Some(max_steps) = max_steps else { return steps(count, training, key) };
    let batch = if training.section.batch_size == 0 { count } else { training.section.batch_size };
    let mut enough = training.clone();
    enough.section.num_epochs = max_steps.div_ceil(count.div_ceil(batch.max(1)).max(1));
    let mut plan = steps(count, &enough, key);
    plan.truncate(max_steps);
    // A schedule depends on the number of steps alone: that of one step a sequence has it.
    let mut rates = training.clone();
    (rates.section.num_epochs, rates.section.batch_size) = (1, 1);
    for (step, rate) in plan.iter_mut().zip(steps(max_steps, &rates, key)) {
        step.learning_rate = rate.learning_rate;
    }
    plan
}

/// An adapter's training on `records`, as the engine takes it; `key` shuffles. What is wrong with the
/// weights of a step is an error here, before any adapter is trained.
pub fn request(
    session: &Session,
    name: &str,
    records: &[Record],
    (training, max_steps): &(Training, Option<usize>),
    key: u64,
) -> Result<TrainRequest> {
    let mut sequences = Vec::new();
    for record in records {
        if let Some(other) = record.adapter.as_deref().filter(|a| *a != name) {
            return Err(record.error("adapter", format!("found `{other}`, but this is the data of `{name}`")));
        }
        let (tokens, weights) = session.tokens(record, Purpose::Train)?;
        if weights.iter().skip(1).all(|w| *w == 0.0) {
            return Err(record.error("", "nothing in it carries loss"));
        }
        sequences.push(TrainSequence { tokens, weights });
    }
    check_length(sequences.len(), &(training.clone(), *max_steps))
        .map_err(|problem| Error::input(format!("adapter {name}"), problem))?;
    let request = TrainRequest {
        adapter: session.adapters[name],
        name: format!("adapter {name}").into(),
        steps: plan_steps(sequences.len(), training, *max_steps, key),
        sequences: sequences.into(),
        optimizer: training.optimizer(),
        key,
        fresh_moments: true,
    };
    request.divisors()?;
    Ok(request)
}

/// A step as it is written.
pub fn metrics_record(adapter: &str, m: &StepMetrics) -> Value {
    match m.fault {
        None => json!({"adapter": adapter, "step": m.step, "loss": m.loss, "grad_norm": m.grad_norm,
                       "learning_rate": m.learning_rate, "tokens": m.tokens}),
        // There are no such numbers.
        Some(fault) => json!({"adapter": adapter, "step": m.step, "loss": null, "grad_norm": null,
                              "learning_rate": m.learning_rate, "tokens": m.tokens, "left_out": fault.to_string()}),
    }
}
