//! What `run` and `resume` share: check everything, open the folder, start the lanes, show what happens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::common::Common;
use super::live;
use super::run::lanes;
use super::screen::{Paint, Screen, out};
use super::session::{Session, Wanted};
use crate::adapter::{NewAdapter, Snapshot, write_peft};
use crate::debate::Table;
use crate::engine::{Scope, run_lanes};
use crate::error::{Error, Result};
use crate::recipe;
use crate::report;
use crate::run::*;
use crate::task::{self, AnswerKey, Questions, Task};
use crate::text::Codec;

/// Where a run's results go.
pub enum Place {
    /// To a folder that is made.
    New {
        /// The folder.
        folder: PathBuf,
        /// Replace an earlier run.
        force: bool,
    },
    /// To the folder of an interrupted run.
    Resume {
        /// The folder.
        folder: PathBuf,
    },
}

/// An arm with its questions.
pub struct ArmWork {
    arm: Arm,
    task: Rc<Task>,
    questions: Rc<Questions>,
    answers: Rc<AnswerKey>,
}

/// Everything a run needs before it makes its folder.
pub struct Ready {
    /// The model.
    pub session: Session,
    arms: Vec<ArmWork>,
    codec: Rc<dyn Codec>,
}

/// Loads and checks everything.
pub fn prepare(plan: &Plan, screen: &Screen) -> Result<Ready> {
    let arms = load_arms(plan)?;
    let session = open_session(plan, screen)?;
    let codec: Rc<dyn Codec> = match &session.tokenizer {
        Some(t) => t.clone(),
        None => return Err(Error::input(session.files.place(), "has no tokenizer.json, which debates need")),
    };
    for work in &arms {
        let config = &work.arm.config;
        let table = Table::new(
            codec.clone(),
            work.task.clone(),
            &config.debate,
            &config.sampling,
            config.run.max_sequences,
        )?;
        let questions = &work.questions;
        table.check(questions.train.iter().chain(&questions.dev).chain(&questions.test))?;
        new_adapter(&session)(&config.adapter, 0)?;
    }
    Ok(Ready { session, arms, codec })
}

/// Runs a plan to its end.
pub fn execute(plan: &Plan, place: Place) -> Result<()> {
    let began = Instant::now();
    let screen = Rc::new(Screen::new());
    // An interrupted run's folder is taken at once, a new one only when nothing is wrong with the configuration.
    let resumed = match &place {
        Place::New { folder, force } => {
            RunFolder::check_new(folder, *force)?;
            None
        }
        Place::Resume { folder } => Some(RunFolder::open(folder)?),
    };
    let ready = prepare(plan, &screen)?;
    ready.session.show_plan(&screen);

    let manifest = manifest(plan, &ready)?;
    let folder = match (resumed, &place) {
        (Some(folder), _) => {
            check_manifest(folder.path(), &manifest, &screen)?;
            folder
        }
        (None, Place::New { folder, force }) => {
            let folder = RunFolder::create(folder, *force)?;
            folder.write("config.toml", to_toml(&plan.config)?.as_bytes())?;
            folder.write_json("splits.json", &splits(&ready.arms))?;
            // Last: a folder with a manifest has all it takes to resume.
            folder.write_json("manifest.json", &manifest)?;
            folder
        }
        (None, Place::Resume { folder }) => RunFolder::open(folder)?,
    };
    screen.line(&format!("folder   {}", folder.path().display()));

    let result = run_all(plan, &ready, &folder, &screen);
    screen.clear();
    result.inspect_err(|e| {
        let next = match e {
            Error::NotFinite(_) => {
                "Resuming would meet it again; a lower training.learning_rate may not.".to_string()
            }
            _ => format!("To go on:\n  colloquy resume {}", quoted(folder.path())),
        };
        screen.line(&format!("The run stopped; all that was complete is kept. {next}"));
    })?;
    let report = report::Report::of(folder.path())?;
    report.write(folder.path())?;
    out(&report.summary)?;
    screen.line(&format!(
        "Done in {:.0} s. All of it is in {}:\n  report.html to look at, metrics.jsonl, transcripts/, data/, adapters/",
        began.elapsed().as_secs_f64(),
        folder.path().display()
    ));
    screen.line(&format!(
        "Watch the trained agents debate:\n  colloquy debate --society {} {}",
        quoted(folder.path()),
        example(&ready.arms)
    ));
    Ok(())
}

/// A question to ask, as an argument.
fn example(arms: &[ArmWork]) -> String {
    let questions = arms.iter().flat_map(|a| a.questions.dev.iter().chain(&a.questions.train));
    let short =
        questions.map(|q| q.text.as_str()).find(|text| text.len() <= 40 && !text.contains(['\'', '\n']));
    format!("'{}'", short.unwrap_or("QUESTION"))
}

fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.+:".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

fn load_arms(plan: &Plan) -> Result<Vec<ArmWork>> {
    let mut arms: Vec<ArmWork> = Vec::new();
    for arm in &plan.arms {
        let same = arms.iter().find(|other| other.arm.config.task == arm.config.task);
        let (task, questions, answers) = match same {
            Some(o) => (o.task.clone(), o.questions.clone(), o.answers.clone()),
            None => {
                let loaded = task::load(&arm.config.task)?;
                (Rc::new(loaded.task), Rc::new(loaded.questions), Rc::new(loaded.answers))
            }
        };
        arms.push(ArmWork { arm: arm.clone(), task, questions, answers });
    }
    Ok(arms)
}

/// Initialises adapters for a session's model.
fn new_adapter(session: &Session) -> recipe::NewAdapter {
    let layout = session.engine.with(|e| e.model().layout().clone());
    Rc::new(move |section, seed| {
        let AdapterSection { rank, alpha, targets, rslora } = section.clone();
        NewAdapter { rank, alpha, targets, rslora, init_seed: seed }.snapshot(&layout)
    })
}

/// The model in an engine whose memory plan counts on all lanes' adapters.
fn open_session(plan: &Plan, screen: &Screen) -> Result<Session> {
    let run = &plan.config.run;
    let seeds = run.seeds.len();
    let adapters = plan.arms.iter().map(|a| seeds * super::plan::adapters(a)).sum();
    let rank = plan.arms.iter().map(|a| a.config.adapter.rank).max().unwrap_or(1);
    let wanted = Wanted {
        model: plan.config.model.path.clone(),
        adapters: vec![],
        training: true,
        more_adapters: (adapters, rank),
        keep_moments: plan.arms.iter().any(|a| {
            let training = &a.config.training;
            training.keep_moments || critic_section(training).is_ok_and(|critic| critic.keep_moments)
        }),
        limits: (run.micro_batch_rows, run.step_rows, run.max_sequences),
    };
    let common = Common {
        device: Some(run.device.clone()),
        threads: Some(run.threads),
        memory: (!run.memory.is_empty()).then(|| run.memory.clone()),
        seed: None,
    };
    Session::open(&wanted, &common, screen)
}

fn run_all(plan: &Plan, ready: &Ready, folder: &RunFolder, screen: &Rc<Screen>) -> Result<()> {
    let Ready { session, arms, codec } = ready;
    let layout = session.engine.with(|e| e.model().layout().clone());
    let base = plan.config.model.path.clone();
    let write_adapter: AdapterWriter =
        Box::new(move |path, snapshot| write_peft(path, snapshot, &layout, &base));
    let show = Show::new(screen.clone(), arms);
    let recorder =
        Recorder::new(folder, lanes(plan), write_adapter, Box::new(move |event| show.event(event)))?;
    let output: Rc<dyn Output> = Rc::new(Watched {
        recorder,
        screen: screen.clone(),
        folder: folder.path().to_path_buf(),
        lanes: lanes(plan).len(),
        iterations: arms.iter().map(|a| a.arm.config.run.iterations).max().unwrap_or(0),
        measured: RefCell::default(),
        explained: Cell::default(),
    });
    let mut futures = Vec::new();
    for work in arms {
        for &seed in &plan.config.run.seeds {
            let lane = Lane { arm: work.arm.name.clone(), seed }.name();
            let (journal, warning) = FileJournal::open(&folder.journal(), &lane)?;
            if let Some(warning) = warning {
                screen.line(&format!("warning: {warning}"));
            }
            if !journal.is_empty() {
                screen.line(&format!("resume   {lane}: {} calls in the journal", journal.len()));
            }
            let context = recipe::Context {
                scope: Scope::new(lane, Rc::new(session.engine.clone()), Rc::new(journal)),
                codec: codec.clone(),
                task: work.task.clone(),
                questions: work.questions.clone(),
                answers: work.answers.clone(),
                output: output.clone(),
                seed,
                new_adapter: new_adapter(session),
            };
            futures.push(recipe::run_arm(&work.arm.recipe, &work.arm.config, context));
        }
    }
    run_lanes(&session.engine, futures)
}

/// The recorder, and a table on the screen whenever all lanes have measured an iteration.
struct Watched {
    recorder: Recorder,
    screen: Rc<Screen>,
    folder: PathBuf,
    lanes: usize,
    /// The last iteration of the longest arm.
    iterations: usize,
    /// Lanes that have measured each iteration.
    measured: RefCell<BTreeMap<usize, usize>>,
    /// The table's columns have been.
    explained: Cell<bool>,
}

impl Output for Watched {
    fn metrics(&self, lane: &str, iteration: usize, name: &str, value: Value) -> Result<()> {
        self.recorder.metrics(lane, iteration, name, value)?;
        if name != "dev" {
            return Ok(());
        }
        let mut measured = self.measured.borrow_mut();
        let count = measured.entry(iteration).or_default();
        *count += 1;
        // The last one is in the summary.
        if *count == self.lanes && iteration < self.iterations {
            let upto =
                |r: &Map<String, Value>| r.get("iteration").and_then(Value::as_u64) <= Some(iteration as u64);
            let metrics: Vec<_> = read_metrics(&self.folder)?.into_iter().filter(upto).collect();
            if let Some(table) = report::accuracy(&metrics, "dev") {
                let legend = if self.explained.replace(true) { "" } else { report::LEGEND };
                self.screen.line(&format!("{table}{legend}"));
            }
        }
        Ok(())
    }

    fn transcripts(&self, lane: &str, iteration: usize, name: &str, records: &[Value]) -> Result<()> {
        self.recorder.transcripts(lane, iteration, name, records)
    }

    fn dataset(&self, lane: &str, iteration: usize, adapter: &str, records: &[Value]) -> Result<()> {
        self.recorder.dataset(lane, iteration, adapter, records)
    }

    fn adapter(&self, lane: &str, iteration: usize, adapter: &str, snapshot: &Snapshot) -> Result<()> {
        self.recorder.adapter(lane, iteration, adapter, snapshot)
    }

    fn event(&self, event: Event) {
        self.recorder.event(event);
    }
}

/// Turns events into what is seen.
struct Show {
    screen: Rc<Screen>,
    answers: Vec<Rc<AnswerKey>>,
    debates: Cell<usize>,
}

impl Show {
    fn new(screen: Rc<Screen>, arms: &[ArmWork]) -> Self {
        let answers = arms.iter().map(|a| a.answers.clone()).collect();
        Self { screen, answers, debates: Cell::new(0) }
    }

    fn event(&self, event: Event) {
        match event {
            Event::Phase { lane, name, total } => self.screen.phase(&lane, &name, total),
            Event::Advance { lane, done } => self.screen.advance(&lane, done),
            Event::Note { lane, text } => self.screen.line(&live::note(&lane, &text)),
            Event::Debate { lane, transcript } => self.debate(&lane, &transcript),
        }
    }

    /// The first debate of the run, whole.
    fn debate(&self, lane: &str, transcript: &Value) {
        if self.debates.replace(self.debates.get() + 1) > 0 {
            return;
        }
        let paint = Paint::stderr();
        let id = transcript["id"].as_str().unwrap_or_default();
        let right = self.answers.iter().find_map(|key| key.reference(id));
        let title = live::heading(&format!("the first debate, of {lane}"));
        self.screen.line(&format!(
            "{}\n{}",
            paint.dim(&title),
            live::debate(transcript, right, paint).trim_end()
        ));
        self.screen.line(&paint.dim(&"─".repeat(78)));
    }
}

/// What a run is: enough to know whether resuming it gives what it would have given.
fn manifest(plan: &Plan, ready: &Ready) -> Result<Value> {
    let Ready { session, arms, .. } = ready;
    let model: Map<String, Value> =
        session.files.contents().map(|(name, bytes)| (name, json!(sha256(bytes)))).collect();
    session.files.release();
    let mut data = Map::new();
    let mut prompts = Map::new();
    for work in arms {
        for path in task::data_files(&work.arm.config.task) {
            data.insert(path.display().to_string(), json!(sha256_file(&path)?));
        }
        let sources: Map<String, Value> = work
            .task
            .prompts
            .sources()
            .iter()
            .map(|(name, text)| (name.clone(), json!(sha256(text.as_bytes()))))
            .collect();
        prompts.insert(work.arm.name.clone(), Value::Object(sources));
    }
    let created =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Ok(json!({
        "schema": SCHEMA,
        "program": {"name": "colloquy", "version": env!("CARGO_PKG_VERSION"), "commit": option_env!("COLLOQUY_COMMIT")},
        "created": created,
        "device": session.device,
        "arithmetic": session.arithmetic,
        "lanes": lanes(plan).iter().map(Lane::name).collect::<Vec<_>>(),
        "seeds": plan.config.run.seeds,
        "model": {"path": plan.config.model.path, "sha256": model},
        "data_sha256": data,
        "prompts_sha256": prompts,
        "splits": "splits.json",
    }))
}

/// Refuses to resume with another model, data or prompts; warns where only the bits may differ.
fn check_manifest(folder: &Path, now: &Value, screen: &Screen) -> Result<()> {
    let then = read_manifest(folder)?;
    let place = folder.join("manifest.json");
    for (key, what) in
        [("model", "the model"), ("data_sha256", "the data"), ("prompts_sha256", "the prompts")]
    {
        if then[key] != now[key] {
            return Err(Error::input(
                format!("{}: {key}", place.display()),
                format!("{what} changed since the run began; resuming would mix two runs"),
            ));
        }
    }
    for (key, what) in [("program", "another version of the program"), ("arithmetic", "other arithmetic")] {
        if then[key] != now[key] {
            screen.line(&format!(
                "warning: the run began with {what} ({}, now {}); bits may differ from an uninterrupted run",
                then[key], now[key]
            ));
        }
    }
    Ok(())
}

/// Ids of all questions, by arm.
fn splits(arms: &[ArmWork]) -> Value {
    let ids = |questions: &[task::Question]| questions.iter().map(|q| json!(q.id)).collect::<Vec<_>>();
    let by_arm: Map<String, Value> = arms
        .iter()
        .map(|work| {
            let q = &work.questions;
            (work.arm.name.clone(), json!({"train": ids(&q.train), "dev": ids(&q.dev), "test": ids(&q.test)}))
        })
        .collect();
    Value::Object(by_arm)
}
