//! `colloquy grade`: what a task reads from given answers, and whether they are the same. Needs no model.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::Value;

use super::lines::{Sink, read_text};
use super::screen::{Screen, out};
use crate::error::{Error, Result};
use crate::files::json::{parse_with_ids, with_exact_numbers};
use crate::measure::wilson;
use crate::serve::grade::Grading;
use crate::serve::records::ignored_line;

/// Options of `grade`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Grade answers made elsewhere, as a task does, without a model",
    long_about = "Reads JSON Lines with answers from any source, and grades each as runs and `eval` would: what is \
                  read from the response and from the reference, by which rule, and whether the two are the same \
                  answer. Needs no model.",
    after_help = "Input, one of:
  {\"response\": \"So it is \\\\boxed{18}.\", \"reference\": \"#### 18\"}
      each is read as the task reads it
  {\"response\": …, \"solution\": …}
      the reference stands in a worked solution
  {\"answers\": [\"\\\\frac{1}{2}\", \"0.5\"]}
      both are taken as they are
each with an optional \"id\" and, where letters are compared, \"choices\": how many
there are, or a list of them.

Output: {\"id\", \"read\": [A, B], \"written\": [A, B], \"rules\": [A, B],
\"equality\", \"equal\"}. `read` has the canonical forms, null where nothing could
be read; equal answers have equal ones.

Examples:
  colloquy grade --task gsm8k --answers answers.jsonl
  colloquy grade --task math --answers pairs.jsonl --output -
  colloquy grade --task examples/own-task/task.toml --answers answers.jsonl
  colloquy grade --task custom --set task.equality=number --answers a.jsonl"
)]
pub struct Args {
    /// A built-in task (arithmetic, gsm8k, math, mmlu), custom, or a configuration file with a [task].
    #[arg(long, value_name = "TASK")]
    task: String,
    /// The answers, JSON Lines; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    answers: PathBuf,
    /// Set a value of the configuration by its dotted path, e.g. task.extraction=last-number.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Also write what was read of each, as JSON Lines; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace --output if it exists.
    #[arg(long)]
    force: bool,
}

fn show(grading: &Grading) -> String {
    let (low, high) = wilson(grading.equal, grading.records);
    let mut text = format!(
        "equal                {} of {}, {:.1} % [{:.1}, {:.1}] (95 %, Wilson)\n",
        grading.equal,
        grading.records,
        100.0 * grading.equal as f64 / grading.records.max(1) as f64,
        100.0 * low,
        100.0 * high
    );
    for (what, count) in
        [("without an answer", grading.unread[0]), ("without a reference", grading.unread[1])]
    {
        if count > 0 {
            text += &format!("{what:<20} {count}\n");
        }
    }
    text
}

/// A line whose answers keep their digits, and its id too.
fn parse(line: &str) -> serde_json::Result<Value> {
    let mut record: Value = serde_json::from_str(&with_exact_numbers(line))?;
    if let Some(id) = record.get_mut("id") {
        *id = parse_with_ids(line)?["id"].take();
    }
    Ok(record)
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let mut grading = Grading::open(&args.task, &args.sets)?;
    let (name, text) = read_text(&args.answers)?;
    let mut sink = args.output.as_deref().map(|path| Sink::create(path, args.force)).transpose()?;
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let place = format!("{name}:{}", i + 1);
        let record = parse(line).map_err(|e| Error::input(&place, format!("not JSON: {e} of the line")))?;
        let graded = grading.grade(record, &place)?;
        if let Some(sink) = &mut sink {
            sink.write(&graded)?;
        }
    }
    if grading.records == 0 {
        return Err(Error::input(name, "holds no records"));
    }
    if let Some(sink) = sink {
        sink.finish()?;
    }
    let screen = Screen::new();
    if let Some(line) = ignored_line(&grading.ignored) {
        screen.line(&line);
    }
    match args.output.as_deref() == Some(Path::new("-")) {
        // Stdout has the records.
        true => show(&grading).lines().for_each(|line| screen.line(line)),
        false => out(&show(&grading))?,
    }
    Ok(())
}
