//! `colloquy verify`: checks a run's results against its journal, and its journal against the model.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::rc::Rc;

use clap::Args as ClapArgs;
use futures::FutureExt;

use super::execute::{self, Ready};
use super::resume::plan_of;
use super::run::lanes;
use super::screen::{Screen, out};
use crate::adapter::peft_files;
use crate::engine::{Service, draw_key, run_waves};
use crate::error::{Error, Result};
use crate::run::*;

/// Options of `verify`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Check that a run's results are what its model, data and seeds give",
    long_about = "Runs the recipes of a run again over the run's own journal and compares every byte of transcripts, data sets, metrics and \
                  adapters with what they put out. Rows of the transcripts (all calls of one question in one phase) and trainings are drawn at random; \
                  they are made again by the model, with the adapters of their iteration, from the same draw keys, and compared bit for bit.\n\n\
                  On another instruction set or device than the run's the same draw may fall otherwise. There the journalled tokens are \
                  scored and compared within a tolerance, and the command says so.\n\nNothing in the folder is changed. Exit code 1 if \
                  anything differs.",
    after_help = "Examples:
  colloquy verify runs/mine --sample 100       about a hundred rows, and one training
  colloquy verify runs/mine --all              everything: takes as long as the run
  colloquy verify runs/mine --seed 7           the same rows again"
)]
pub struct Args {
    /// The run folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Rows of transcripts to make again.
    #[arg(long, value_name = "N", default_value_t = 100)]
    sample: usize,
    /// Trainings to make again: all optimizer steps of a lane's iteration.
    #[arg(long, value_name = "N", default_value_t = 1)]
    trainings: usize,
    /// Make everything again.
    #[arg(long, conflicts_with_all = ["sample", "trainings"])]
    all: bool,
    /// What is drawn depends on this number; a new one each time, unless given. It is printed.
    #[arg(long, value_name = "INTEGER")]
    seed: Option<u64>,
    /// Where to compute: auto, cpu, cpu-bf16, cuda, cuda:N, emulator [default: the run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// CPU threads; 0 takes all cores [default: the run's]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// The calls of a lane's journal by row: all of one question in one phase, or one training.
struct Rows {
    journal: FileJournal,
    calls: BTreeMap<String, Vec<String>>,
}

/// The row that a call belongs to.
fn row(call: &str) -> &str {
    call.rsplit_once('#').map_or(call, |(row, _)| row)
}

/// Whether it is a training.
fn is_training(row: &str) -> bool {
    row.rsplit('/').next() == Some("finetune")
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Rc::new(Screen::new());
    let mut plan = plan_of(&args.folder)?;
    if let Some(worker) = worker(&args.folder) {
        return Err(Error::file(&args.folder, format!("in use by process {worker}")));
    }
    if let Some(device) = &args.device {
        plan.config.run.device = device.clone();
    }
    if let Some(threads) = args.threads {
        plan.config.run.threads = threads;
    }
    let then = read_manifest(&args.folder)?;
    let ready = execute::prepare_at(&plan, super::session::model_commit(&then).as_deref(), &screen)?;
    let now = execute::manifest(&plan, &ready)?;
    execute::check_manifest(&args.folder, &now, &screen)?;
    let exact = then["arithmetic"] == now["arithmetic"];
    if !exact {
        screen.line(&format!(
            "note: the run was computed with {}, this is {}: bits differ, so numbers are compared within {LOGPROB_TOLERANCE} nats a token, {MEAN_TOLERANCE} in the mean of a row, and {:.0} % of a loss",
            then["arithmetic"],
            now["arithmetic"],
            100.0 * LOSS_TOLERANCE
        ));
    }

    let findings = Rc::new(Findings::default());
    let path = args.folder.join("splits.json");
    let found: Option<serde_json::Value> =
        std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    if found.as_ref() != Some(&execute::splits(&ready.arms)) {
        findings
            .add(format!("{}: not the questions that the configuration and the data give", path.display()));
    }
    let mut journals = BTreeMap::new();
    for lane in lanes(&plan) {
        let (journal, lost) = FileJournal::read(&args.folder.join("journal"), &lane.name())?;
        if lost > 0 {
            findings.add(format!(
                "journal of {}: {lost} line{} damaged or after a damaged one",
                lane.name(),
                if lost == 1 { "" } else { "s" }
            ));
        }
        let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for call in journal.calls()? {
            calls.entry(row(&call).to_string()).or_default().push(call);
        }
        journals.insert(lane.name(), Rows { journal, calls });
    }
    let seed = args.seed.unwrap_or_else(|| std::hash::RandomState::new().build_hasher().finish() >> 32);
    let (rows, trainings) = draw(&args, seed, &journals);
    let all_rows = journals.values().flat_map(|r| r.calls.keys()).filter(|r| !is_training(r)).count();
    let all_trainings = journals.values().map(|r| r.calls.len()).sum::<usize>() - all_rows;
    screen.line(&format!(
        "verify   {} of {all_rows} rows and {} of {all_trainings} trainings are made again (--seed {seed})",
        rows.len(),
        trainings.len()
    ));
    let drawn: BTreeSet<String> = rows.into_iter().chain(trainings).collect();

    let unfinished = audit(&args, &plan, &ready, journals, &drawn, exact, &findings, &screen)?;
    screen.clear();
    let differences = findings.differences.borrow();
    let mut text = String::new();
    for difference in differences.iter() {
        text.push_str(&format!("differs  {difference}\n"));
    }
    for (lane, call) in &unfinished {
        text.push_str(&format!("note     {lane} is not complete: its journal ends before {call}\n"));
    }
    text.push_str(&format!(
        "checked  {} files and {} records against the journal\nmade again  {} generations, scores and encodings, {} optimizer steps{}\n",
        findings.files.get(),
        findings.records.get(),
        findings.calls.get(),
        findings.steps.get(),
        if exact { ", bit for bit" } else { ", within the tolerance" },
    ));
    out(&text)?;
    match differences.len() {
        0 => Ok(()),
        1 => Err(Error::file(&args.folder, "1 thing differs from what the run puts out")),
        n => Err(Error::file(&args.folder, format!("{n} things differ from what the run puts out"))),
    }
}

/// The rows and the trainings that are made again.
fn draw(args: &Args, seed: u64, journals: &BTreeMap<String, Rows>) -> (Vec<String>, Vec<String>) {
    let (mut trainings, mut rows): (Vec<String>, Vec<String>) =
        journals.values().flat_map(|r| r.calls.keys().cloned()).partition(|row| is_training(row));
    let order = |row: &String| draw_key(&[&seed.to_le_bytes(), b"verify", row.as_bytes()]);
    rows.sort_by_key(order);
    trainings.sort_by_key(order);
    if !args.all {
        rows.truncate(args.sample);
        trainings.truncate(args.trainings);
    }
    (rows, trainings)
}

/// Runs all lanes over their journals; those that are not complete, and where they end.
fn audit(
    args: &Args,
    plan: &Plan,
    ready: &Ready,
    mut journals: BTreeMap<String, Rows>,
    drawn: &BTreeSet<String>,
    exact: bool,
    findings: &Rc<Findings>,
    screen: &Rc<Screen>,
) -> Result<Vec<(String, String)>> {
    let session = &ready.session;
    let layout = session.engine.with(|e| e.model().layout().clone());
    let base = session.base.clone();
    let files: AdapterFiles = Box::new(move |snapshot| peft_files(snapshot, &layout, base.clone()));
    let show = screen.clone();
    let events = Box::new(move |event| match event {
        Event::Phase { lane, name, total } => show.phase(&lane, &name, total),
        Event::Advance { lane, done } => show.advance(&lane, done),
        Event::Note { .. } | Event::Debate { .. } => {}
    });
    let auditor = Rc::new(Auditor::new(&args.folder, lanes(plan), files, findings.clone(), events)?);
    let output: Rc<dyn Output> = auditor.clone();
    let mut audited = Vec::new();
    let futures = execute::lane_futures(ready, &output, &mut |lane| {
        let Rows { journal, calls } = journals.remove(lane).expect("one for each lane");
        let own = calls.into_iter().filter(|(row, _)| drawn.contains(row)).flat_map(|(_, calls)| calls);
        let engine = session.engine.clone();
        let connection = Rc::new(Audited::new(engine, journal, own.collect(), exact, findings.clone()));
        audited.push((lane.to_string(), connection.clone()));
        let service: Rc<dyn Service> = connection.clone();
        Ok((service, connection))
    })?;
    // A lane whose journal ends, or does not fit the calls, ends by itself; the others go on.
    let futures = futures.into_iter().zip(&audited).map(|((adapters, lane), (name, connection))| {
        let (connection, findings, name) = (connection.clone(), findings.clone(), name.clone());
        let lane = lane.map(move |result| {
            if let (Err(e), None) = (result, connection.ended()) {
                findings.add(format!("{name}: {e}"));
            }
            Ok(())
        });
        (adapters, lane.boxed_local())
    });
    let room = session.engine.with(|e| e.plan().options.adapters);
    run_waves(&session.engine, futures.collect(), room, &|| Ok(()))?;
    let ended = |(lane, connection): &(String, Rc<Audited>)| Some((lane.clone(), connection.ended()?));
    let unfinished: Vec<(String, String)> = audited.iter().filter_map(ended).collect();
    if unfinished.is_empty() && findings.differences.borrow().is_empty() {
        auditor.end();
    }
    Ok(unfinished)
}
