//! `colloquy train`: adapters, each on its own data, all in the same batches.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use clap::Args as ClapArgs;
use futures::future::try_join_all;

use super::common::{Common, name_value, whole};
use super::lines;
use super::screen::Screen;
use crate::adapter::{AdapterOrigin, write_peft};
use crate::engine::{AdapterId, Service, StepMetrics, TrainRequest, draw_key};
use crate::error::{Error, Result};
use crate::experiment::{Session, Wanted};
use crate::run::{write_lines, write_training};
use crate::serve::records::Reader;
use crate::serve::tokens::{Purpose, longest};
use crate::serve::train::{Settings, metrics_record, request};

/// Options of `train`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Finetune adapters, each on its own data, in the same batches",
    long_about = "Trains any number of LoRA adapters over one frozen base, fused into shared batches. Each \
                  adapter has its own data and optimizer, and comes out as if it had been trained alone, bit for bit.",
    override_usage = "colloquy train --model <MODEL> --adapter <NAME=SOURCE>...\n       --data <NAME=FILE>... \
                      --output <DIR> [OPTIONS]",
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
field that means something to other programs (\"labels\", \"chosen\") is an error;
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
    /// Batches whose gradients make one optimizer step. The same as a larger --batch-size: the
    /// loss is that of all their tokens together. Memory depends on --micro-batch-rows alone [default: 1].
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
    /// A loss or gradient that is not finite: `stop` ends the command, `skip` leaves that optimizer
    /// step of that adapter out [default: stop].
    #[arg(long, value_name = "stop|skip")]
    non_finite: Vec<String>,
}

impl TrainingArgs {
    /// All of them by name.
    fn settings(&self) -> Settings {
        let written = [
            ("learning-rate", &self.learning_rate),
            ("weight-decay", &self.weight_decay),
            ("adam-beta1", &self.adam_beta1),
            ("adam-beta2", &self.adam_beta2),
            ("adam-epsilon", &self.adam_epsilon),
            ("max-grad-norm", &self.max_grad_norm),
            ("num-epochs", &self.num_epochs),
            ("max-steps", &self.max_steps),
            ("batch-size", &self.batch_size),
            ("gradient-accumulation-steps", &self.gradient_accumulation_steps),
            ("normalizer", &self.normalizer),
            ("lr-scheduler", &self.lr_scheduler),
            ("warmup-ratio", &self.warmup_ratio),
            ("shuffle", &self.shuffle),
            ("non-finite", &self.non_finite),
        ];
        Settings::new(written.map(|(option, texts)| (option, texts.clone())))
    }
}

/// An adapter to train.
struct Job {
    name: String,
    id: AdapterId,
    request: TrainRequest,
}

/// The mean loss of the first and of the last quarter of the steps, where it rose by more than half
/// and more than half a nat.
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
    let settings = args.training.settings();
    let settings = names.iter().map(|n| settings.of(n, &names)).collect::<Result<Vec<_>>>()?;
    if args.output.exists() && !args.force {
        return Err(Error::file(
            &args.output,
            "exists already; choose another --output, or --force to replace results in it",
        ));
    }
    let read = names.iter().map(|n| lines::read(&data[n], Reader::Train)).collect::<Result<Vec<_>>>()?;

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
    let session = Session::open_for(&wanted, &args.common.device(), &mut &*screen, |files, codec| {
        longest(files, codec, read.iter().flatten(), Purpose::Train)
    })?;
    session.show_plan(&mut &*screen);
    session.ignored_line(read.iter().flatten()).iter().for_each(|line| screen.line(line));
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
        let results = try_join_all(jobs.iter().map(|job| engine.train(job.request.clone()))).await?;
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
