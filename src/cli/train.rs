//! `colloquy train`: adapters, each on its own data, all in the same batches.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use clap::Args as ClapArgs;
use futures::future::try_join_all;
use serde_json::{Map, Value, json};

use super::common::{Common, name_value, whole};
use super::records::{self, Reader, Record};
use super::screen::Screen;
use super::session::{Purpose, Session, Wanted, longest};
use crate::adapter::{AdapterOrigin, write_peft};
use crate::engine::{
    AdapterId, NORMALIZERS, NonFinite, Normalizer, Service, StepMetrics, TrainRequest, TrainSequence,
    TrainStep, draw_key,
};
use crate::error::{Error, Result};
use crate::recipe::{Training, steps};
use crate::run::{Scheduler, TrainingSection, write_lines, write_training};

/// Options of `train`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Finetune adapters, each on its own data, in the same batches",
    long_about = "Trains any number of LoRA adapters over one frozen base, fused into shared batches. Each adapter has its own data and \
                  optimizer, and comes out as if it had been trained alone, bit for bit.",
    override_usage = "colloquy train --model <MODEL> --adapter <NAME=SOURCE>...\n       --data <NAME=FILE>... --output <DIR> [OPTIONS]",
    after_help = "SOURCE is a PEFT folder, OWNER/NAME[@REVISION] of the Hugging Face hub, or
`new[:rank=16,alpha=32,targets=all-linear,dropout=0,init-seed=0]`, targets joined
by `+`.
Data, JSON Lines, one of:
  {\"messages\": [{\"role\": \"user\", …}, {\"role\": \"assistant\", …}]}
      assistant turns carry the loss; \"weight\": 0 leaves a turn out, other
      numbers weight it
  {\"prompt\": …, \"completion\": …}
      the completion carries the loss; both texts, or both lists of messages
  {\"text\": …}                       every token carries it
  {\"tokens\": […], \"weights\": […]}   as given (default 1); needs no tokenizer
Messages may go with \"tools\" and \"chat_template_kwargs\" for the template. A
field that would mean something elsewhere (\"labels\", \"chosen\") is an error;
others are named as ignored.
A text or completion gets an end-of-sequence token unless it has one; \"eos\":
false leaves it out. \"control_tokens\": true or false reads strings such as
<|im_end|> as tokens or as text; by default they are text in messages and tokens
elsewhere.

A weight w is any finite number; an advantage may be negative. The loss of an
optimizer step is
      Σ w·nll / Z
nll is minus the log-probability of a token; the sums are over the adapter's
tokens in the step. --normalizer says what Z is:
  weights     Σ w (default), which has to be above 0 in every step
  tokens      how many tokens have a weight other than 0
  sequences   how many records the step has
  a number    that number
A negative weight makes its token less likely.

Any training option can be set for one adapter: --learning-rate critic-0=2e-7
Output: DIR/NAME/adapter_config.json and adapter_model.safetensors;
DIR/metrics.jsonl with adapter, step, loss, grad_norm (before clipping),
learning_rate and tokens; the same for TensorBoard in DIR/tensorboard.

Example:
  colloquy train --model embedded --adapter a=new:rank=8 --data a=chats.jsonl --output trained"
)]
pub struct Args {
    /// A Hugging Face model folder, OWNER/NAME[@REVISION] of the hub, or `embedded`.
    #[arg(long, value_name = "MODEL")]
    model: String,
    /// An adapter to train and what it starts from. May be repeated.
    #[arg(long = "adapter", value_name = "NAME=SOURCE", required = true)]
    adapters: Vec<String>,
    /// An adapter's training data. One for each adapter.
    #[arg(long = "data", value_name = "NAME=FILE", required = true)]
    data: Vec<String>,
    /// Folder for the results.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Replace results in --output if it exists.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    training: TrainingArgs,
    /// Most rows (tokens) in a micro-batch; 0 is no limit. Never changes results.
    #[arg(long, default_value_t = 2048, value_name = "ROWS", help_heading = "Device", value_parser = whole::<usize>)]
    micro_batch_rows: usize,
    #[command(flatten)]
    common: Common,
}

/// Training options; each may be given for all adapters (`VALUE`) and for single ones (`NAME=VALUE`).
#[derive(ClapArgs, Debug, Default)]
#[command(next_help_heading = "Training ([NAME=]VALUE)")]
pub struct TrainingArgs {
    /// Peak learning rate [default: 1e-4].
    #[arg(long, value_name = "X", alias = "lr", allow_hyphen_values = true)]
    learning_rate: Vec<String>,
    /// Decoupled weight decay [default: 0].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    weight_decay: Vec<String>,
    /// Decay of the first moment [default: 0.9].
    #[arg(long, value_name = "X")]
    adam_beta1: Vec<String>,
    /// Decay of the second moment [default: 0.999].
    #[arg(long, value_name = "X")]
    adam_beta2: Vec<String>,
    /// Added to the denominator [default: 1e-8].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    adam_epsilon: Vec<String>,
    /// Gradient norm clip; 0 does not clip [default: 1].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    max_grad_norm: Vec<String>,
    /// Passes over the data [default: 1].
    #[arg(long, value_name = "N", aliases = ["epochs", "num-train-epochs"], conflicts_with = "max_steps")]
    num_epochs: Vec<String>,
    /// Optimizer steps, instead of epochs; the data repeats as needed.
    #[arg(long, value_name = "N")]
    max_steps: Vec<String>,
    /// Sequences in one optimizer step; 0 is all [default: 8].
    #[arg(long, value_name = "N", aliases = ["bs", "per-device-train-batch-size"])]
    batch_size: Vec<String>,
    /// Batches whose gradients make one optimizer step. As memory is --micro-batch-rows' business, this is a larger --batch-size, and the loss
    /// is that of all their tokens together [default: 1].
    #[arg(long, value_name = "N")]
    gradient_accumulation_steps: Vec<String>,
    /// What the sum of a step's weighted losses is divided by, see below: `weights`, `tokens`,
    /// `sequences` or a number > 0 [default: weights].
    #[arg(long, value_name = "Z")]
    normalizer: Vec<String>,
    /// constant, linear or cosine [default: constant].
    #[arg(long, value_name = "NAME", alias = "lr-scheduler-type")]
    lr_scheduler: Vec<String>,
    /// Share of the steps that warm up [default: 0].
    #[arg(long, value_name = "X", allow_hyphen_values = true)]
    warmup_ratio: Vec<String>,
    /// Shuffle each epoch [default: true].
    #[arg(long, value_name = "true|false")]
    shuffle: Vec<String>,
    /// A loss or gradient that is not finite: `stop` ends the command, `skip` leaves that optimizer step of that adapter out [default: stop].
    #[arg(long, value_name = "stop|skip")]
    non_finite: Vec<String>,
}

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

    /// The value for an adapter, as it was written.
    fn text(&self, adapter: &str) -> Option<&'a str> {
        self.values.get(&Some(adapter)).or_else(|| self.values.get(&None)).copied()
    }

    /// The value for an adapter, checked.
    fn get<T: std::str::FromStr + Copy>(
        &self,
        adapter: &str,
        default: T,
        expected: &str,
        good: impl Fn(T) -> bool,
    ) -> Result<T> {
        let Some(text) = self.text(adapter) else { return Ok(default) };
        text.parse()
            .ok()
            .filter(|v| good(*v))
            .ok_or_else(|| Error::Usage(format!("--{} {text}: expected {expected}", self.option)))
    }
}

impl TrainingArgs {
    /// From an object whose fields are named as the options, with `_` for `-`. `place` is what to call it.
    pub fn from_json(fields: &Map<String, Value>, place: &str) -> Result<Self> {
        let mut args = Self::default();
        for (name, value) in fields {
            let texts = match name.as_str() {
                "learning_rate" => &mut args.learning_rate,
                "weight_decay" => &mut args.weight_decay,
                "adam_beta1" => &mut args.adam_beta1,
                "adam_beta2" => &mut args.adam_beta2,
                "adam_epsilon" => &mut args.adam_epsilon,
                "max_grad_norm" => &mut args.max_grad_norm,
                "num_epochs" => &mut args.num_epochs,
                "max_steps" => &mut args.max_steps,
                "batch_size" => &mut args.batch_size,
                "gradient_accumulation_steps" => &mut args.gradient_accumulation_steps,
                "normalizer" => &mut args.normalizer,
                "lr_scheduler" => &mut args.lr_scheduler,
                "warmup_ratio" => &mut args.warmup_ratio,
                "shuffle" => &mut args.shuffle,
                "non_finite" => &mut args.non_finite,
                other => return Err(Error::input(format!("{place}: {name}"), unknown(other))),
            };
            texts.push(match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            });
        }
        if !args.num_epochs.is_empty() && !args.max_steps.is_empty() {
            let problem = "found it beside `num_epochs`, expected one of them";
            return Err(Error::input(format!("{place}: max_steps"), problem));
        }
        Ok(args)
    }

    /// The settings of one adapter, and its number of steps if that is set.
    pub fn of(&self, adapter: &str, adapters: &[&str]) -> Result<(Training, Option<usize>)> {
        let setting = |option, texts| Setting::read(option, texts, adapters);
        let number = |option, texts, default: f32, expected: &str, good: fn(f32) -> bool| -> Result<f32> {
            setting(option, texts)?.get(adapter, default, expected, |v: f32| v.is_finite() && good(v))
        };
        let at_least_0 = |v: f32| v >= 0.0;
        let decay = |v: f32| (0.0..1.0).contains(&v);
        let share = |v: f32| (0.0..=1.0).contains(&v);
        let max_steps =
            setting("max-steps", &self.max_steps)?.get(adapter, 0, "at least 1", |n: usize| n >= 1)?;
        let whole = |n: usize| n <= 1 << 24;
        let batch_size = setting("batch-size", &self.batch_size)?.get(adapter, 8, "a whole number", whole)?;
        let accumulated = setting("gradient-accumulation-steps", &self.gradient_accumulation_steps)?.get(
            adapter,
            1,
            "at least 1",
            |n: usize| n >= 1 && whole(n),
        )?;
        let normalizer = setting("normalizer", &self.normalizer)?.get(
            adapter,
            Normalizer::default(),
            NORMALIZERS,
            |_| true,
        )?;
        let section = TrainingSection {
            learning_rate: number("learning-rate", &self.learning_rate, 1e-4, "a number >= 0", at_least_0)?,
            weight_decay: number("weight-decay", &self.weight_decay, 0.0, "a number >= 0", at_least_0)?,
            adam_beta1: number("adam-beta1", &self.adam_beta1, 0.9, "a number >= 0 and < 1", decay)?,
            adam_beta2: number("adam-beta2", &self.adam_beta2, 0.999, "a number >= 0 and < 1", decay)?,
            adam_epsilon: number("adam-epsilon", &self.adam_epsilon, 1e-8, "a number > 0", |v| v > 0.0)?,
            max_grad_norm: number("max-grad-norm", &self.max_grad_norm, 1.0, "a number >= 0", at_least_0)?,
            num_epochs: setting("num-epochs", &self.num_epochs)?.get(
                adapter,
                1,
                "at least 1",
                |n: usize| n >= 1,
            )?,
            batch_size: batch_size * accumulated,
            lr_scheduler: setting("lr-scheduler", &self.lr_scheduler)?.get(
                adapter,
                Scheduler::Constant,
                &Scheduler::NAMES.join(", "),
                |_| true,
            )?,
            warmup_ratio: number("warmup-ratio", &self.warmup_ratio, 0.0, "a number from 0 to 1", share)?,
            shuffle: setting("shuffle", &self.shuffle)?.get(adapter, true, "true or false", |_| true)?,
            non_finite: setting("non-finite", &self.non_finite)?.get(
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
        "{what}: found {found}, expected to go through at most {MAX_SEQUENCES} of the {count} sequences, each as often as it comes up"
    ))
}

/// Optimizer steps over `count` sequences: epochs, or as many epochs as `max_steps` takes, with the learning rates of that many steps.
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
        steps: plan_steps(sequences.len(), training, *max_steps, key),
        sequences: sequences.into(),
        optimizer: training.optimizer(),
        key,
        fresh_moments: true,
    };
    request.divisors().map_err(|e| e.naming(request.adapter.0, &format!("adapter {name}")))?;
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

/// An adapter to train.
struct Job {
    name: String,
    id: AdapterId,
    request: TrainRequest,
}

/// The mean loss of the first and of the last quarter of the steps, where it rose by more than half and more than half a nat.
fn risen(metrics: &[StepMetrics]) -> Option<(f32, f32)> {
    let losses: Vec<f32> = metrics.iter().filter(|m| m.fault.is_none()).map(|m| m.loss).collect();
    let quarter = losses.len().div_ceil(4);
    let mean = |part: &[f32]| part.iter().sum::<f32>() / part.len() as f32;
    if losses.len() < 2 {
        return None;
    }
    let (first, last) = (mean(&losses[..quarter]), mean(&losses[losses.len() - quarter..]));
    (last > 1.5 * first && last - first > 0.5).then_some((first, last))
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Rc::new(Screen::new());
    let mut sources = Vec::new();
    for text in &args.adapters {
        let (name, source) = name_value("adapter", text)?;
        if sources.iter().any(|(n, _)| n == name) {
            return Err(Error::Usage(format!("--adapter {text}: two adapters are called `{name}`")));
        }
        sources.push((name.to_string(), AdapterOrigin::parse(source)?));
    }
    let names: Vec<&str> = sources.iter().map(|(n, _)| n.as_str()).collect();
    let mut data = BTreeMap::new();
    for text in &args.data {
        let (name, file) = name_value("data", text)?;
        if !names.contains(&name) {
            return Err(Error::Usage(format!("--data {text}: no adapter is called `{name}`")));
        }
        if data.insert(name, PathBuf::from(file)).is_some() {
            return Err(Error::Usage(format!("--data {text}: adapter `{name}` has data already")));
        }
    }
    if let Some(name) = names.iter().find(|n| !data.contains_key(*n)) {
        return Err(Error::Usage(format!("adapter `{name}` has no data: give --data {name}=FILE")));
    }
    let settings = names.iter().map(|n| args.training.of(n, &names)).collect::<Result<Vec<_>>>()?;
    if args.output.exists() && !args.force {
        return Err(Error::file(
            &args.output,
            "exists already; choose another --output, or --force to replace results in it",
        ));
    }
    let read = names.iter().map(|n| records::read(&data[n], Reader::Train)).collect::<Result<Vec<_>>>()?;

    let defaults = crate::run::RunSection::default();
    let wanted = Wanted {
        model: args.model.clone(),
        adapters: sources.clone(),
        training: true,
        lanes: vec![],
        rank: 1,
        dropout: false,
        keep_moments: false,
        limits: (args.micro_batch_rows, defaults.step_rows, defaults.max_sequences),
    };
    let session = Session::open_for(&wanted, &args.common, &screen, |files, codec| {
        longest(files, codec, read.iter().flatten(), Purpose::Train)
    })?;
    session.show_plan(&screen);
    session.tell_ignored(read.iter().flatten(), &screen);
    let layout = session.engine.with(|e| e.model().layout().clone());

    let mut jobs = Vec::new();
    for ((name, records), settings) in names.iter().zip(&read).zip(&settings) {
        let seed = args.common.seed.unwrap_or(0);
        let key = draw_key(&[&seed.to_le_bytes(), b"train", name.as_bytes()]);
        let request = request(&session, name, records, settings, key)?;
        jobs.push(Job { name: name.to_string(), id: session.adapters[*name], request });
    }

    let steps: usize = jobs.iter().map(|j| j.request.steps.len()).sum();
    let counted = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let (adapters, steps) = (counted(jobs.len(), "adapter"), counted(steps, "optimizer step"));
    screen.line(&format!("train    {adapters}, {steps}"));
    let engine = session.engine.clone();
    let output = args.output.clone();
    let base = session.base.clone();
    let told = screen.clone();
    session.drive(async move {
        let results = try_join_all(jobs.iter().map(async |job| {
            let trained = engine.train(job.request.clone()).await;
            trained.map_err(|e| e.naming(job.id.0, &format!("adapter {}", job.name)))
        }))
        .await?;
        let mut lines = Vec::new();
        for (job, metrics) in jobs.iter().zip(&results) {
            if let Some((from, to)) = risen(metrics) {
                told.line(&format!(
                    "warning: the loss of adapter {} rose from {from:.2} to {to:.2}; try a smaller --learning-rate",
                    job.name
                ));
            }
            lines.extend(metrics.iter().map(|m| metrics_record(&job.name, m)));
            let snapshot = engine.snapshot(job.id, false)?;
            write_peft(&output.join(&job.name), &snapshot, &layout, base.clone())?;
        }
        write_lines(&output.join("metrics.jsonl"), &lines)?;
        write_training(&output, &lines)
    })?;
    screen.line(&format!("written  {}", args.output.display()));
    Ok(())
}
