//! `colloquy bench`: how fast this machine is at what a society does, and at each operation.

mod ops;
mod society;

use std::io::Write;
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};
use comfy_table::{CellAlignment, LineStyle, Table, presets::UTF8_HORIZONTAL_ONLY};
use serde_json::{Value, json};

use super::common::{Common, whole};
use super::screen::Screen;
use crate::backend::{GraphCounts, OpTimes, Selected, select};
use crate::error::{Error, Result};
use crate::experiment::{bytes, models};
use crate::files::NewFile;
use crate::model::{LoadOptions, Model, ModelConfig, Shape};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum What {
    /// Prompts of a batch, one token each.
    Prefill,
    /// New tokens of a batch whose prompts are in the cache.
    Decode,
    /// One optimizer step of every adapter.
    Train,
    /// Prefill, decode and training, as in one round of a debate.
    Round,
    /// Each operation alone, beside what the device reaches at its best (a GPU only; on a CPU
    /// `cargo bench --bench ops`).
    Ops,
}

/// Options of `bench`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Measure prefill, decoding, training and single operations",
    long_about = "Measures how many tokens a second this machine samples and trains with several adapters in \
                  one batch, and with the base model alone beside it. The model has the shape you name and \
                  random weights (speed does not depend on them), or is a folder of yours.",
    after_help = "Examples:
  colloquy bench                                      all, at the shape of SmolLM2-135M
  colloquy bench decode --shape 1b --batch 256 --adapters 8 --device cuda
  colloquy bench train --profile                      time by operation (CPU) or kernel (GPU)
  colloquy bench ops --device cuda --json ops.json

Each number is the median of --repeats runs after one that does not count. `base` is the same batch without adapters.
On a GPU, `graphs` counts what became of the lists of kernel launches in those runs: a list is launched kernel \
by kernel the first time, captured as a CUDA graph the second time, and replayed from then on.

Under `nsys profile colloquy bench decode --device cuda` (or ncu --nvtx) each step is an NVTX range: prefill, \
decode, score, train step, optimizer step. A step that is launched kernel by kernel has its operations as \
ranges inside: all are with --profile, without it those that no CUDA graph replays yet (nsys shows a graph's \
kernels with --cuda-graph-trace=node)."
)]
pub struct Args {
    /// What to measure; everything that the device can, unless given.
    #[arg(value_enum)]
    what: Vec<What>,
    /// A published shape with random weights: tiny, 135m, 1b or 8b.
    #[arg(long, value_name = "NAME", default_value = "135m", conflicts_with = "model")]
    shape: String,
    /// A Hugging Face model folder, OWNER/NAME[@REVISION] of the hub, or `embedded`, instead of --shape.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Adapters, all in every batch.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = whole::<usize>)]
    adapters: usize,
    /// Their rank.
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = whole::<usize>)]
    rank: usize,
    /// Sequences sampled together.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = whole::<usize>)]
    batch: usize,
    /// Tokens of a prompt.
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = whole::<usize>)]
    prompt: usize,
    /// Tokens sampled after it.
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = whole::<usize>)]
    new_tokens: usize,
    /// Training sequences of each adapter.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = whole::<usize>)]
    sequences: usize,
    /// Tokens of a training sequence.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = whole::<usize>)]
    tokens: usize,
    /// Rows of a training micro-batch.
    #[arg(long, value_name = "N", default_value_t = 8192, value_parser = whole::<usize>)]
    micro_batch: usize,
    /// Runs, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = whole::<usize>)]
    repeats: usize,
    /// Time by operation or kernel, after the measurement (which it does not disturb).
    #[arg(long)]
    profile: bool,
    /// Also write the numbers as JSON; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

/// One measurement.
struct Measured {
    /// What, e.g. `decode`.
    what: String,
    /// With whom, e.g. `6 adapters`.
    who: String,
    /// Tokens of one run.
    tokens: usize,
    /// Seconds of each run, sorted.
    seconds: Vec<f64>,
    /// What became of the launch lists of these runs, on a device with graphs.
    graphs: Option<GraphCounts>,
}

impl Measured {
    fn median(&self) -> f64 {
        let n = self.seconds.len();
        (self.seconds[(n - 1) / 2] + self.seconds[n / 2]) / 2.0
    }

    fn rate(&self) -> f64 {
        self.tokens as f64 / self.median()
    }

    fn json(&self) -> Value {
        let mut report = json!({
            "what": self.what, "who": self.who, "tokens": self.tokens, "seconds": self.seconds,
            "tokens_per_second": self.rate(),
        });
        if let Some(GraphCounts { launched, captured, replayed }) = self.graphs {
            report["graphs"] = json!({"launched": launched, "captured": captured, "replayed": replayed});
        }
        report
    }
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    check(&args)?;
    let screen = Screen::new();
    let everything = args.what.is_empty();
    let wanted = |what| args.what.contains(&what) || (everything && what != What::Ops);
    let mut report = json!({
        "program": env!("CARGO_PKG_VERSION"), "commit": option_env!("COLLOQUY_COMMIT"),
        "model": args.model.clone().unwrap_or_else(|| format!("shape {}", args.shape)),
        "adapters": args.adapters, "rank": args.rank, "batch": args.batch, "prompt": args.prompt,
        "new_tokens": args.new_tokens, "sequences": args.sequences, "tokens": args.tokens,
        "micro_batch": args.micro_batch, "repeats": args.repeats,
    });

    if wanted(What::Ops) {
        if args.model.is_some() {
            return Err(Error::Usage("bench ops takes --shape, not --model".into()));
        }
        let (backend, device) = open(&args, &screen)?;
        report["device"] = device.into();
        report["ops"] = ops::measure(backend, &Shape::named(&args.shape)?, &args, &screen)?;
    }
    if [What::Prefill, What::Decode, What::Train, What::Round].into_iter().any(wanted) {
        let context = (args.prompt + args.new_tokens + 1).max(args.tokens);
        let files = match &args.model {
            Some(model) => models::open(model, &mut &screen)?.files,
            None => Shape::named(&args.shape)?.files(context)?,
        };
        let config = ModelConfig::read(&files)?;
        if config.max_positions < context {
            return Err(Error::Usage(format!(
                "a context of {context} tokens is asked for, {} has {}",
                files.place(),
                config.max_positions
            )));
        }
        let (mut backend, device) = open(&args, &screen)?;
        report["device"] = device.into();
        let load = LoadOptions {
            training: wanted(What::Train) || wanted(What::Round),
            max_positions: Some(context),
        };
        let model = Model::load(&files, config, &mut *backend, load)?;
        let mut society = society::Society::new(backend, model, &args, load.training)?;
        screen.line(&format!("memory   {} held", bytes(society.bytes())));
        let mut rows = Vec::new();
        let mut profiles = Vec::new();
        for what in [What::Prefill, What::Decode, What::Train, What::Round] {
            if wanted(what) {
                let (measured, profile) = society.measure(what, &args, &screen)?;
                rows.extend(measured);
                profiles.extend(profile);
            }
        }
        print(&rows);
        report["society"] = rows.iter().map(Measured::json).collect();
        for (what, times) in &profiles {
            print_profile(what, times);
        }
        report["profiles"] = profiles
            .iter()
            .map(|(what, times)| {
                let times: Vec<Value> = times
                    .iter()
                    .map(|t| json!({"name": t.name, "calls": t.seconds.len(), "seconds": t.total()}))
                    .collect();
                json!({"what": what, "times": times})
            })
            .collect();
    }
    match &args.json {
        None => Ok(()),
        Some(path) => {
            let text = format!("{report:#}\n");
            if path.as_os_str() == "-" {
                std::io::stdout().write_all(text.as_bytes()).map_err(Error::io(path))
            } else {
                let mut file = NewFile::create(path)?;
                file.write_all(text.as_bytes()).map_err(Error::io(path))?;
                file.finish()
            }
        }
    }
}

/// Values that would measure nothing.
fn check(args: &Args) -> Result<()> {
    let least = [
        ("--adapters", args.adapters, 1),
        ("--rank", args.rank, 1),
        ("--batch", args.batch, 1),
        ("--prompt", args.prompt, 1),
        ("--new-tokens", args.new_tokens, 1),
        ("--sequences", args.sequences, 1),
        ("--tokens", args.tokens, 2),
        ("--repeats", args.repeats, 1),
    ];
    match least.iter().find(|(_, value, least)| value < least) {
        Some((name, value, least)) => Err(Error::Usage(format!("{name} {value}: expected {least} or more"))),
        None if args.rank > crate::backend::MAX_RANK => {
            Err(Error::Usage(format!("--rank {}: expected at most {}", args.rank, crate::backend::MAX_RANK)))
        }
        None => match &args.json {
            Some(path) if path.as_os_str() != "-" && path.exists() => {
                Err(Error::file(path, "exists already; give another --json"))
            }
            _ => Ok(()),
        },
    }
}

/// The device, said on the screen.
fn open(args: &Args, screen: &Screen) -> Result<(Box<dyn crate::backend::Backend>, String)> {
    let Selected { backend, why } =
        select(args.common.device.as_deref().unwrap_or("auto"), args.common.threads.unwrap_or(0))?;
    let device = backend.describe();
    let why = why.map_or(String::new(), |why| format!(" ({why})"));
    screen.line(&format!("device   {device}{why}"));
    Ok((backend, device))
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    let style = UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none());
    table.load_style(style).set_header(header.iter().copied());
    table
}

/// Right-aligns all columns from `first` on.
fn align(table: &mut Table, first: usize) {
    for column in table.column_iter_mut().skip(first) {
        column.set_cell_alignment(CellAlignment::Right);
    }
}

fn print(rows: &[Measured]) {
    let mut t = table(&["what", "who", "tokens", "median ms", "tokens/s", "of base"]);
    for row in rows {
        let base = rows.iter().find(|b| b.what == row.what && b.who == "base");
        t.add_row([
            row.what.clone(),
            row.who.clone(),
            row.tokens.to_string(),
            format!("{:.1}", row.median() * 1e3),
            format!("{:.0}", row.rate()),
            base.map_or(String::new(), |b| format!("{:.2}", row.rate() / b.rate())),
        ]);
    }
    align(&mut t, 2);
    println!("{t}");
    for row in rows {
        if let Some(counts) = row.graphs {
            println!("graphs   {}, {}: {counts}", row.what, row.who);
        }
    }
}

fn print_profile(what: &str, times: &[OpTimes]) {
    let all: f64 = times.iter().map(OpTimes::total).sum();
    println!("\nTime of {what} by operation, {:.1} ms in all", all * 1e3);
    let mut t = table(&["operation", "calls", "ms", "share"]);
    for time in times {
        t.add_row([
            time.name.clone(),
            time.seconds.len().to_string(),
            format!("{:.2}", time.total() * 1e3),
            format!("{:.1} %", 100.0 * time.total() / all),
        ]);
    }
    align(&mut t, 1);
    println!("{t}");
}
