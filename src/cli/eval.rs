//! `colloquy eval`: the accuracy of a model, an adapter or a society on a task.

use std::path::PathBuf;
use std::rc::Rc;

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::common::{Common, whole};
use super::council::{Council, CouncilArgs};
use super::lines::Sink;
use super::screen::{Screen, out};
use crate::debate::Occasion;
use crate::engine::{AdapterId, NoJournal, Scope, Service};
use crate::error::{Error, Result};
use crate::experiment::Society;
use crate::measure::record::{self, Rates};
use crate::recipe::{Evaluation, Examination, Methods, Parameters};
use crate::report;
use crate::task::{self, AnswerKey, Question};

/// Options of `eval`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Measure accuracy on a task: greedy, single sample, majority vote, debate",
    long_about = "Asks a model, adapters or a society the questions of a task and grades the answers. A \
                  question without an answer counts as wrong. Each accuracy has its standard error over questions.",
    after_help = "Examples:
  colloquy eval --model embedded --task arithmetic --questions 100
  colloquy eval --society runs/first@1 --method debate
  colloquy eval --model path/to/model --task gsm8k --data test.jsonl --questions 200 --method greedy"
)]
pub struct Args {
    #[command(flatten)]
    council: CouncilArgs,
    /// A built-in task (arithmetic, gsm8k, math, mmlu), with its own prompts, reading and equality
    /// [default: the society's, or arithmetic for the embedded model].
    #[arg(long, value_name = "TASK")]
    task: Option<String>,
    /// Questions with answers, as `task.data` takes them; all of them are asked.
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// Ask at most this many questions [default: all of --data, or the configuration's number].
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    questions: Option<usize>,
    /// Which questions, without --data.
    #[arg(long, value_name = "SPLIT", default_value = "dev", value_parser = ["dev", "test"])]
    split: String,
    /// greedy, single, majority or debate. May be repeated [default: all of them].
    #[arg(long = "method", value_name = "METHOD", value_parser = ["greedy", "single", "majority", "debate"])]
    methods: Vec<String>,
    /// Samples in a majority vote [default: the number of agents].
    #[arg(long, value_name = "K", value_parser = whole::<usize>)]
    majority_samples: Option<usize>,
    /// Also write every answer, as JSON Lines; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace --output if it exists.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Rc::new(Screen::new());
    let sink = args.output.as_deref().map(|p| Sink::create(p, args.force)).transpose()?;
    let mut sets = Vec::new();
    sets.extend(args.task.as_ref().map(|t| format!("task.name={}", toml::Value::String(t.clone()))));
    if !args.methods.is_empty() {
        let list = toml::Value::Array(args.methods.iter().cloned().map(toml::Value::String).collect());
        sets.push(format!("eval.methods={list}"));
    }
    sets.extend(args.majority_samples.map(|n| format!("eval.majority_samples={n}")));
    let council = Council::open(&args.council, sets, &args.common, &screen)?;
    let (questions, answers) = questions(&args, &council)?;
    council.table.check(&questions).map_err(|e| match &args.data {
        Some(path) => e.at(path.display()),
        None => e,
    })?;
    let methods = Methods::new(&council.config.eval, council.config.debate.agents);

    let scope = Scope::new("eval", Rc::new(council.session.engine.clone()), Rc::new(NoJournal));
    // The draws of a run's evaluation, so that both give the same numbers.
    let iteration = args
        .council
        .model
        .society
        .as_deref()
        .map_or(Ok(0), |s| Society::find(s, args.council.model.lane.as_deref()).map(|s| s.iteration))?;
    let purpose = if args.split == "test" { "test" } else { "dev" };
    let occasion = Occasion { seed: council.seed, iteration, purpose };
    let (table, society) = (council.table.clone(), council.society.clone());
    // Samples at a debate's cost are counted with the largest adapter that takes part.
    let of_adapter = |&id: &AdapterId| -> Result<usize> {
        let numbers = council.session.engine.snapshot(id, false)?;
        Ok(numbers.parameters())
    };
    let adapters = council.session.adapters.values().map(of_adapter).collect::<Result<Vec<_>>>()?;
    let largest = adapters.into_iter().max().unwrap_or(0);
    let parameters = Parameters {
        base: council.session.engine.base_parameters(),
        adapters: council.session.adapters.values().map(|&id| (id, largest)).collect(),
    };
    let result: Rc<std::cell::RefCell<Option<Evaluation>>> = Rc::default();
    let (slot, progress) = (result.clone(), screen.clone());
    screen.phase("eval", "questions", questions.len() as u64);
    council.session.drive(async move {
        let answered = |_: Option<Value>| progress.advance("eval", 1);
        let (table, society, methods, answers) = (&table, &society, &methods, &answers);
        let examination = Examination { table, society, occasion, methods, answers, parameters };
        *slot.borrow_mut() = Some(examination.evaluate(&scope, &questions, &answered).await?);
        Ok(())
    })?;
    screen.end_phase("eval");
    let result = result.take().ok_or_else(|| Error::Internal("no evaluation".into()))?;
    if let Some(mut sink) = sink {
        for (method, records) in &result.transcripts {
            for record in records {
                let mut line = json!({"method": method});
                if let (Some(line), Some(record)) = (line.as_object_mut(), record.as_object()) {
                    line.extend(record.clone());
                }
                sink.write(&line)?;
            }
        }
        sink.finish()?;
        if args.output.as_deref() == Some(std::path::Path::new("-")) {
            screen.line(&show(&result.record));
            return Ok(());
        }
    }
    out(&format!("{}\n", show(&result.record)))
}

fn questions(args: &Args, council: &Council) -> Result<(Vec<Question>, AnswerKey)> {
    let mut section = council.config.task.clone();
    if let Some(path) = &args.data {
        let (mut questions, answers) = task::load_file(&section, path)?;
        questions.truncate(args.questions.unwrap_or(usize::MAX));
        return Ok((questions, answers));
    }
    let wanted = |of: usize| args.questions.unwrap_or(of);
    section.train_questions = 0;
    if args.split == "test" {
        section.test_questions = wanted(section.test_questions.max(section.dev_questions));
        section.dev_questions = 0;
    } else {
        section.dev_questions = wanted(section.dev_questions);
        section.test_questions = 0;
    }
    let loaded = task::load(&section)?;
    let questions = if args.split == "test" { loaded.questions.test } else { loaded.questions.dev };
    if questions.is_empty() {
        return Err(Error::Usage("--questions: expected at least 1".into()));
    }
    Ok((questions, loaded.answers))
}

fn show(record: &record::Evaluation) -> String {
    let header = ["method", "accuracy % ±", "parsed %", "cut off %", "tokens"];
    let mut rows = Vec::new();
    let mut add = |name: &str, accuracy: f64, standard_error: f64, rates: &Rates| {
        let percent = |rate: Option<f64>| format!("{:.1}", 100.0 * rate.unwrap_or(0.0));
        rows.push(vec![
            name.to_string(),
            format!("{:.1} ±{:.1}", 100.0 * accuracy, 100.0 * standard_error),
            percent(rates.parse_rate),
            percent(rates.truncation_rate),
            format!("{:.0}", rates.mean_tokens.unwrap_or(0.0)),
        ]);
    };
    for (name, answers) in [("greedy", &record.greedy), ("single sample", &record.single)] {
        answers.iter().for_each(|a| add(name, a.accuracy, a.standard_error, &a.rates));
    }
    if let Some(m) = &record.majority {
        add(&format!("majority of {}", m.samples), m.accuracy, m.standard_error, &m.rates);
    }
    let rounds = record.debate.as_ref().map_or(&[][..], |d| &d.rounds);
    for (m, round) in rounds.iter().enumerate() {
        let last = if m + 1 == rounds.len() { " (final)" } else { "" };
        let name = format!("debate, vote of round {}{last}", m + 1);
        add(&name, round.accuracy, round.standard_error, &round.rates);
    }
    format!("{} questions\n{}", record.questions, report::table(&header, &rows).trim_end())
}
