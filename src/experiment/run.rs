//! Runs an experiment: check everything, open the folder, start the lanes, say what happens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use futures::future::{FutureExt, LocalBoxFuture};
use serde_json::Value;

use super::heap;
use super::iterations::Iterations;
use super::manifest::{check_manifest, extend_folder, manifest, splits};
use super::prepare::{ArmWork, Ready, lanes, new_adapter, prepare, waves};
use super::society::model_commit;
use super::watch::{Queue, Said, Watch};
use crate::adapter::{Snapshot, write_peft};
use crate::engine::{Driver, Journal, Scope, Service, run_waves};
use crate::error::Result;
use crate::measure::record::Record;
use crate::recipe::{self, Recipes};
use crate::report::{self, Running};
use crate::run::*;
use crate::task::AnswerKey;

/// What a run that has ended leaves.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its folder.
    pub folder: PathBuf,
    /// Its results, as tables.
    pub summary: String,
    /// A question to ask the society that was trained, if a short one was asked.
    pub question: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Where a run's results go.
pub enum Place<'a> {
    /// To a folder that is made.
    New {
        /// The folder.
        folder: &'a Path,
        /// Replace an earlier run.
        replace: bool,
    },
    /// To the folder of an interrupted run.
    Resume(&'a Path),
}

/// Runs a plan to its end.
pub fn execute(plan: &Plan, recipes: &Recipes, place: Place, watch: &mut dyn Watch) -> Result<Finished> {
    let began = Instant::now();
    // An interrupted run's folder is taken at once, a new one only when nothing is wrong with the configuration.
    let resumed = match place {
        Place::New { folder, replace } => RunFolder::check_new(folder, replace).map(|()| None)?,
        Place::Resume(folder) => Some((RunFolder::open(folder)?, read_manifest(folder)?)),
    };
    let commit = resumed.as_ref().and_then(|(_, manifest)| model_commit(manifest));
    let ready = prepare(plan, recipes, commit.as_deref(), watch)?;
    ready.session.show_plan(watch);
    if let Some(waves) = waves(&ready) {
        watch.line(format!("waves    {waves}"));
    }
    let manifest = manifest(plan, &ready)?;
    let folder = match (resumed, place) {
        (Some((folder, then)), _) => {
            check_manifest(folder.path(), &then, &manifest, watch)?;
            if then["lanes"] != manifest["lanes"] {
                extend_folder(&folder, plan, &ready, &then, manifest)?;
            }
            folder
        }
        (None, Place::New { folder, replace }) => {
            let splits = pretty("splits.json", &splits(&ready.arms))?;
            let manifest = pretty("manifest.json", &manifest)?;
            let config = to_toml(&plan.config)?;
            let files: [(&str, &[u8]); 3] =
                [("config.toml", config.as_bytes()), ("splits.json", &splits), ("manifest.json", &manifest)];
            RunFolder::create(folder, replace, &files)?
        }
        (None, Place::Resume(folder)) => RunFolder::open(folder)?,
    };
    let path = folder.path().to_path_buf();
    watch.hear(Said::Folder(path.clone()));
    run_all(plan, &ready, &folder, watch)?;
    let report = report::Report::of(&path, &recipes.infos())?;
    report.write(&path)?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Finished { folder: path, summary: report.summary, question: example(&ready.arms), seconds })
}

/// A short question of those that were asked.
fn example(arms: &[ArmWork]) -> Option<String> {
    let mut questions = arms.iter().flat_map(|a| a.own.questions.dev.iter().chain(&a.own.questions.train));
    let short = |text: &str| text.len() <= 40 && !text.contains(['\'', '\n']);
    questions.find(|q| short(&q.text)).map(|q| q.text.clone())
}

fn run_all(plan: &Plan, ready: &Ready, folder: &RunFolder, watch: &mut dyn Watch) -> Result<()> {
    let Ready { session, arms, .. } = ready;
    let layout = session.engine.with(|e| e.model().layout().clone());
    let base = session.base.clone();
    let write_adapter: AdapterWriter =
        Box::new(move |path, snapshot| write_peft(path, snapshot, &layout, base.clone()));
    let said = Queue::default();
    let show = Show::new(said.clone(), arms);
    let recorder =
        Recorder::new(folder, lanes(plan), write_adapter, Box::new(move |event| show.event(event)))?;
    let names: Vec<String> = lanes(plan).iter().map(Lane::name).collect();
    let engine = session.engine.clone();
    let forget = move |iteration| engine.forget_before(iteration);
    let iterations = Rc::new(Iterations::new(names.clone(), forget));
    let output: Rc<dyn Output> = Rc::new(Watched {
        recorder,
        iterations: iterations.clone(),
        said: said.clone(),
        running: Running::new(arms.iter().map(|a| a.arm.name.clone()).collect()).into(),
        arms: arms.iter().map(|a| a.arm.clone()).collect(),
        measured: RefCell::default(),
        explained: Cell::default(),
    });
    let futures = lane_futures(ready, &output, &mut |lane| {
        let (journal, warning) = FileJournal::open(&folder.journal(), lane)?;
        let warn = said.clone();
        let journal = journal
            .keeping(plan.config.run.keep_checkpoints)
            .warning(move |warning| warn.say(Said::Warning(warning)));
        if let Some(warning) = warning {
            said.say(Said::Warning(warning));
        }
        if !journal.is_empty() {
            said.say(Said::Line(format!("resume   {lane}: {} calls in the journal", journal.len())));
        }
        Ok((Rc::new(session.engine.clone()), Rc::new(journal)))
    })?;
    let until_the_end = |(name, (adapters, lane)): (String, (usize, LocalBoxFuture<'static, _>))| {
        let iterations = iterations.clone();
        let lane = async move {
            let result = lane.await;
            iterations.ended(&name);
            result
        };
        (adapters, lane.boxed_local())
    };
    let futures = names.into_iter().zip(futures).map(until_the_end).collect();
    let room = session.engine.with(|e| e.plan().options.adapters);
    said.drive(watch, |go_on| run_waves(&session.engine, futures, room, go_on))
}

/// What answers the calls of a lane, and where they are kept.
pub type Connection = (Rc<dyn Service>, Rc<dyn Journal>);

/// The recipe of each lane, ready to run, with the number of its adapters; `connect` is asked lane by lane.
pub fn lane_futures(
    ready: &Ready,
    output: &Rc<dyn Output>,
    connect: &mut dyn FnMut(&str) -> Result<Connection>,
) -> Result<Vec<(usize, LocalBoxFuture<'static, Result<()>>)>> {
    let mut futures = Vec::new();
    for work in &ready.arms {
        for &seed in &work.arm.seeds {
            let lane = Lane { arm: work.arm.name.clone(), seed }.name();
            let (service, journal) = connect(&lane)?;
            let context = recipe::Context {
                scope: Scope::lane(lane, service, journal),
                codec: ready.codec.clone(),
                task: work.own.task.clone(),
                questions: Rc::new(work.of_seed(seed)),
                answers: work.own.answers.clone(),
                transfer: work.transfer.clone(),
                output: output.clone(),
                seed,
                new_adapter: new_adapter(&ready.session),
            };
            futures.push((work.adapters(), recipe::run_arm(work.recipe, &work.arm.config, context)));
        }
    }
    Ok(futures)
}

/// The recorder, what the engine may forget, and a table on the screen whenever all lanes have measured an iteration.
struct Watched {
    recorder: Recorder,
    iterations: Rc<Iterations>,
    said: Queue,
    running: RefCell<Running>,
    arms: Vec<Arm>,
    /// Lanes that have measured each iteration.
    measured: RefCell<BTreeMap<usize, usize>>,
    /// The table's columns have been.
    explained: Cell<bool>,
}

impl Watched {
    /// Lanes that measure this iteration.
    fn lanes(&self, iteration: usize) -> usize {
        let measures = |arm: &&Arm| match iteration {
            0 => arm.config.eval.before || !arm.recipe.is_trained,
            _ => arm.recipe.is_trained && iteration <= arm.config.run.iterations,
        };
        self.arms.iter().filter(measures).map(|arm| arm.seeds.len()).sum()
    }

    /// The last iteration of any lane.
    fn last(&self) -> usize {
        (0..).find(|i| self.lanes(i + 1) == 0).unwrap_or(0)
    }
}

impl Output for Watched {
    fn metrics(&self, lane: &str, iteration: usize, record: Record) -> Result<()> {
        self.recorder.metrics(lane, iteration, record.clone())?;
        if record.name() != "dev" {
            return Ok(());
        }
        let mut running = self.running.borrow_mut();
        running.add(Lane::of_name(lane)?.line(iteration, record));
        let mut measured = self.measured.borrow_mut();
        let count = measured.entry(iteration).or_default();
        *count += 1;
        // The last one is in the summary.
        if *count == self.lanes(iteration)
            && iteration < self.last()
            && let Some(table) = running.table(iteration as u64)
        {
            let legend = if self.explained.replace(true) { "" } else { report::LEGEND };
            self.said.say(Said::Line(format!("{table}{legend}")));
        }
        Ok(())
    }

    fn transcripts(&self, lane: &str, iteration: usize, name: &str, records: &[Value]) -> Result<()> {
        self.iterations.reached(lane, iteration);
        self.recorder.transcripts(lane, iteration, name, records)
    }

    fn dataset(&self, lane: &str, iteration: usize, adapter: &str, records: &[Value]) -> Result<()> {
        self.recorder.dataset(lane, iteration, adapter, records)
    }

    fn adapter(&self, lane: &str, iteration: usize, adapter: &str, snapshot: &Snapshot) -> Result<()> {
        self.recorder.adapter(lane, iteration, adapter, snapshot)?;
        heap::give_back();
        Ok(())
    }

    fn time(&self, lane: &str, iteration: usize, phase: &str, seconds: f64) -> Result<()> {
        self.recorder.time(lane, iteration, phase, seconds)
    }

    fn event(&self, event: Event) {
        self.recorder.event(event);
    }
}

/// Turns events into what is said.
struct Show {
    said: Queue,
    answers: Vec<Rc<AnswerKey>>,
    has_debated: Cell<bool>,
}

impl Show {
    fn new(said: Queue, arms: &[ArmWork]) -> Self {
        let answers = arms.iter().map(|a| a.own.answers.clone()).collect();
        Self { said, answers, has_debated: Cell::new(false) }
    }

    fn event(&self, event: Event) {
        // Of a run's debates the first is shown.
        if let Event::Debate { lane, transcript } = event {
            if !self.has_debated.replace(true) {
                let id = transcript["id"].as_str().unwrap_or_default();
                let right = self.answers.iter().find_map(|key| key.reference(id)).map(String::from);
                self.said.say(Said::Debate { lane, transcript, right });
            }
            return;
        }
        self.said.say(Said::from(event));
    }
}
