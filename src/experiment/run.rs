//! Runs an experiment: check everything, open the folder, start the lanes, say what happens.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use futures::future::{FutureExt, LocalBoxFuture};
use serde_json::{Map, Value, json};

use super::heap;
use super::iterations::Iterations;
use super::session::{DeviceOptions, Session, Wanted};
use super::society::model_commit;
use super::watch::{Queue, Said, Watch};
use crate::adapter::{NewAdapter, Snapshot, write_peft};
use crate::engine::{Journal, Scope, Service, run_waves};
use crate::error::{Error, Result};
use crate::hub;
use crate::model::ModelFiles;
use crate::recipe::{self, Material, Tables};
use crate::report;
use crate::run::*;
use crate::task::{self, AnswerKey, Questions};
use crate::text::{ChatTokenizer, Codec};

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

/// A plan's lanes in the order of arms and seeds.
pub fn lanes(plan: &Plan) -> Vec<Lane> {
    let of_arm = |arm: &Arm| {
        let of = |&seed: &u64| Lane { arm: arm.name.clone(), seed };
        arm.seeds.iter().map(of).collect::<Vec<_>>()
    };
    plan.arms.iter().flat_map(of_arm).collect()
}

/// What a run folder's run is.
pub fn plan_of(folder: &Path) -> Result<Plan> {
    read_manifest(folder)?;
    let path = folder.join("config.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let source = Source { name: path.display().to_string(), text, folder: None };
    load(&source, &[], recipe::recipes())
}

/// Adapters of one lane of an arm.
pub fn adapters(arm: &Arm) -> usize {
    let Ok(names) = recipe::society_names(&arm.recipe, &arm.config) else { return 0 };
    let all = names.generators.iter().chain(&names.critics);
    let mut all: Vec<&String> = all.filter(|name| *name != recipe::BASE).collect();
    all.sort();
    all.dedup();
    all.len()
}

/// What is said where not all lanes run at once.
pub fn waves(plan: &Plan, ready: &Ready) -> Option<String> {
    let all: usize = plan.arms.iter().map(|a| a.seeds.len() * adapters(a)).sum();
    let lanes: usize = plan.arms.iter().map(|a| a.seeds.len()).sum();
    let room = ready.session.engine.with(|e| e.plan().options.adapters);
    (room < all).then(|| {
        format!("room for {room} adapters; {lanes} lanes need {all} in all and start as room is left")
    })
}

/// An arm with its questions.
pub struct ArmWork {
    /// The arm.
    pub arm: Arm,
    /// Its task, with the training questions of all seeds.
    pub own: Material,
    /// What it is measured on besides.
    pub transfer: Option<Material>,
}

impl ArmWork {
    /// The questions of one seed.
    fn of_seed(&self, seed: u64) -> Questions {
        self.own.questions.of_seed(self.arm.config.task.train_questions, seed)
    }
}

/// Everything a run needs before it makes its folder.
pub struct Ready {
    /// The model.
    pub session: Session,
    /// What is to be run.
    pub arms: Vec<ArmWork>,
    /// The model's tokenizer.
    pub codec: Rc<dyn Codec>,
}

/// Loads and checks everything.
pub fn prepare(plan: &Plan, watch: &mut dyn Watch) -> Result<Ready> {
    prepare_at(plan, None, watch)
}

/// The same with the base of the hub at one commit: that at which a run that goes on began, wherever its revision is by now.
pub fn prepare_at(plan: &Plan, commit: Option<&str>, watch: &mut dyn Watch) -> Result<Ready> {
    let arms = load_arms(plan)?;
    let session = open_session(plan, &arms, commit, watch)?;
    let codec = debated_in(&session.files, session.tokenizer.as_ref())?;
    let layout = session.engine.with(|e| e.model().layout().clone());
    for (name, section) in all_adapters(plan)? {
        fresh(&section, 0).spec(&layout).map_err(|e| match e {
            Error::Input { place, problem } => Error::input(format!("{place} ({name})"), problem),
            other => other,
        })?;
    }
    Ok(Ready { session, arms, codec })
}

/// What a run that has ended leaves.
pub struct Finished {
    /// Its folder.
    pub folder: PathBuf,
    /// Its results, as tables.
    pub summary: String,
    /// A question to ask the society that was trained.
    pub question: Option<String>,
    /// How long it took.
    pub seconds: f64,
}

/// Why a run did not end, and where what was complete is kept.
pub struct Stopped {
    /// Why.
    pub error: Error,
    /// The folder, if lanes had begun.
    pub folder: Option<PathBuf>,
}

impl From<Error> for Stopped {
    fn from(error: Error) -> Self {
        Self { error, folder: None }
    }
}

/// Runs a plan to its end.
pub fn execute(plan: &Plan, place: Place, watch: &mut dyn Watch) -> Result<Finished, Stopped> {
    let began = Instant::now();
    // An interrupted run's folder is taken at once, a new one only when nothing is wrong with the configuration.
    let resumed = match &place {
        Place::New { folder, force } => {
            RunFolder::check_new(folder, *force)?;
            None
        }
        Place::Resume { folder } => Some(RunFolder::open(folder)?),
    };
    let commit = resumed.as_ref().map(|f| read_manifest(f.path())).transpose()?;
    let commit = commit.as_ref().and_then(model_commit);
    let ready = prepare_at(plan, commit.as_deref(), watch)?;
    ready.session.show_plan(watch);
    if let Some(waves) = waves(plan, &ready) {
        watch.line(format!("waves    {waves}"));
    }

    let manifest = manifest(plan, &ready)?;
    let folder = match (resumed, &place) {
        (Some(folder), _) => {
            let then = check_manifest(folder.path(), &manifest, watch)?;
            if then["lanes"] != manifest["lanes"] {
                extend_folder(&folder, plan, &ready, &then, manifest)?;
            }
            folder
        }
        (None, Place::New { folder, force }) => {
            let splits = pretty("splits.json", &splits(&ready.arms))?;
            let manifest = pretty("manifest.json", &manifest)?;
            let config = to_toml(&plan.config)?;
            let files: [(&str, &[u8]); 3] =
                [("config.toml", config.as_bytes()), ("splits.json", &splits), ("manifest.json", &manifest)];
            RunFolder::create(folder, *force, &files)?
        }
        (None, Place::Resume { folder }) => RunFolder::open(folder)?,
    };
    let path = folder.path().to_path_buf();
    watch.line(format!("folder   {}", path.display()));
    let result = run_all(plan, &ready, &folder, watch).and_then(|()| {
        let report = report::Report::of(&path)?;
        report.write(&path)?;
        Ok(report)
    });
    let report = result.map_err(|error| Stopped { error, folder: Some(path.clone()) })?;
    let seconds = began.elapsed().as_secs_f64();
    Ok(Finished { folder: path, summary: report.summary, question: example(&ready.arms), seconds })
}

/// A short question of those that were asked.
fn example(arms: &[ArmWork]) -> Option<String> {
    let mut questions = arms.iter().flat_map(|a| a.own.questions.dev.iter().chain(&a.own.questions.train));
    let short = |text: &str| text.len() <= 40 && !text.contains(['\'', '\n']);
    questions.find(|q| short(&q.text)).map(|q| q.text.clone())
}

/// What is wrong with one arm's questions or prompts, and which arm that is.
fn in_arm(e: Error, arm: &str) -> Error {
    e.at(&format!("arm {arm}"))
}

fn load_arms(plan: &Plan) -> Result<Vec<ArmWork>> {
    let mut loaded: Vec<(TaskSection, Material)> = Vec::new();
    let mut material = |section: &TaskSection| -> Result<Material> {
        if let Some((_, known)) = loaded.iter().find(|(s, _)| s == section) {
            return Ok(known.clone());
        }
        let task::Loaded { task, questions, answers } = task::load(section)?;
        let new = Material { task: task.into(), questions: questions.into(), answers: answers.into() };
        loaded.push((section.clone(), new.clone()));
        Ok(new)
    };
    let of_arm = |arm: &Arm| {
        let own = material(&arm.config.task)?;
        let in_transfer = |e| match e {
            Error::Input { place, problem } => {
                let named = |text: String| match text.strip_prefix("task.") {
                    Some(key) => format!("transfer.{key}"),
                    None => text,
                };
                Error::Input { place: named(place), problem: named(problem) }
            }
            other => other,
        };
        let transfer = arm.config.transfer.as_ref().map(&mut material).transpose().map_err(in_transfer)?;
        Ok(ArmWork { arm: arm.clone(), own, transfer })
    };
    plan.arms.iter().map(of_arm).collect()
}

/// The settings of every adapter that some arm trains, each name of an arm once. An entry of `[adapter.of]` must be of one of them.
fn all_adapters(plan: &Plan) -> Result<Vec<(String, AdapterSection)>> {
    let mut all = Vec::new();
    let mut unknown: Vec<&String> = plan.arms.iter().flat_map(|a| a.config.adapter.of.keys()).collect();
    for arm in &plan.arms {
        let society = recipe::society_names(&arm.recipe, &arm.config)?;
        let mut names: Vec<String> = society.generators.into_iter().chain(society.critics).collect();
        names.sort();
        names.dedup();
        for name in names.into_iter().filter(|name| name != recipe::BASE) {
            unknown.retain(|key| **key != name && *key != adapter_role(&name));
            let section = adapter_section(&arm.config.adapter, &name)
                .map_err(|problem| Error::input(format!("adapter.of, {name}"), problem))?;
            all.push((name, section));
        }
    }
    let Some(key) = unknown.first() else { return Ok(all) };
    let mut names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let known = if names.is_empty() { "none".to_string() } else { names.join(", ") };
    Err(Error::input(
        format!("adapter.of.{key}"),
        format!("no adapter of these arms, and no role, is called so; there are {known}"),
    ))
}

/// Initialises adapters for a session's model.
fn new_adapter(session: &Session) -> recipe::NewAdapter {
    let layout = session.engine.with(|e| e.model().layout().clone());
    Rc::new(move |section, seed| fresh(section, seed).snapshot(&layout))
}

fn fresh(section: &AdapterSection, seed: u64) -> NewAdapter {
    let AdapterSection { rank, alpha, targets, rslora, dropout, .. } = section.clone();
    NewAdapter { rank, alpha, targets, rslora, dropout, init_seed: seed }
}

/// The tokenizer, without which there is no debate.
fn debated_in(files: &ModelFiles, tokenizer: Option<&Rc<ChatTokenizer>>) -> Result<Rc<dyn Codec>> {
    match tokenizer {
        Some(tokenizer) => Ok(tokenizer.clone()),
        None => Err(Error::input(files.place(), "has no tokenizer.json, which debates need")),
    }
}

/// Checks what arms ask and how; the tokens of the longest conversation that any of them can come to.
fn longest(arms: &[ArmWork], files: &ModelFiles, codec: Option<&Rc<ChatTokenizer>>) -> Result<usize> {
    let codec = debated_in(files, codec)?;
    arms.iter().try_fold(0, |longest, work| {
        let config = &work.arm.config;
        let tables = Tables::new(&work.arm.recipe, config, &codec, &work.own, work.transfer.as_ref())
            .map_err(|e| in_arm(e, &work.arm.name))?;
        Ok(tables.longest.max(longest))
    })
}

/// The model in an engine whose memory plan counts on all lanes' adapters, and on the longest conversation.
fn open_session(
    plan: &Plan,
    arms: &[ArmWork],
    commit: Option<&str>,
    watch: &mut dyn Watch,
) -> Result<Session> {
    let run = &plan.config.run;
    let lanes: Vec<usize> = plan.arms.iter().flat_map(|a| vec![adapters(a); a.seeds.len()]).collect();
    let sections = all_adapters(plan)?;
    let rank = sections.iter().map(|(_, section)| section.rank).max().unwrap_or(1);
    let wanted = Wanted {
        model: hub::pinned(&plan.config.model.path, commit),
        adapters: vec![],
        training: true,
        lanes,
        rank,
        dropout: sections.iter().any(|(_, section)| section.dropout > 0.0),
        keep_moments: plan.arms.iter().any(|a| {
            let training = &a.config.training;
            training.keep_moments || critic_section(training).is_ok_and(|critic| critic.keep_moments)
        }),
        limits: (run.micro_batch_rows, run.step_rows, run.max_sequences),
    };
    let device = DeviceOptions {
        device: Some(run.device.clone()),
        threads: Some(run.threads),
        memory: parse_bytes(&run.memory),
    };
    let opened = Session::open_for(&wanted, &device, watch, |files, codec| longest(arms, files, codec));
    opened.map_err(|e| match e {
        // A path that nobody typed here is found by its key.
        Error::Input { place, problem } if place == plan.config.model.path => {
            Error::input(format!("model.path: {place}"), problem)
        }
        other => other,
    })
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
    let forget = move |iteration| engine.with(|e| e.forget_before(iteration));
    let iterations = Rc::new(Iterations::new(names.clone(), forget));
    let output: Rc<dyn Output> = Rc::new(Watched {
        recorder,
        iterations: iterations.clone(),
        said: said.clone(),
        folder: folder.path().to_path_buf(),
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
            let adapters = adapters(&work.arm);
            futures.push((adapters, recipe::run_arm(&work.arm.recipe, &work.arm.config, context)));
        }
    }
    Ok(futures)
}

/// The recorder, what the engine may forget, and a table on the screen whenever all lanes have measured an iteration.
struct Watched {
    recorder: Recorder,
    iterations: Rc<Iterations>,
    said: Queue,
    folder: PathBuf,
    arms: Vec<Arm>,
    /// Lanes that have measured each iteration.
    measured: RefCell<BTreeMap<usize, usize>>,
    /// The table's columns have been.
    explained: Cell<bool>,
}

impl Watched {
    /// Lanes that measure this iteration.
    fn lanes(&self, iteration: usize) -> usize {
        let measures = |arm: &&Arm| match recipe::info(&arm.recipe) {
            Ok(info) if info.is_trained => {
                let before = iteration == 0 && arm.config.eval.before;
                before || (1..=arm.config.run.iterations).contains(&iteration)
            }
            _ => iteration == 0,
        };
        self.arms.iter().filter(measures).map(|arm| arm.seeds.len()).sum()
    }

    /// The last iteration of any lane.
    fn last(&self) -> usize {
        (0..).find(|i| self.lanes(i + 1) == 0).unwrap_or(0)
    }
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
        if *count == self.lanes(iteration) && iteration < self.last() {
            let metrics = read_metrics_where(&self.folder, |r| {
                report::iteration(r) <= iteration as u64
                    && (r.get("name").and_then(Value::as_str) == Some("dev") || report::asks_for_labels(r))
            })?;
            if let Some(table) = report::accuracy(&metrics, "dev") {
                let legend = if self.explained.replace(true) { "" } else { report::LEGEND };
                self.said.say(Said::Line(format!("{table}{legend}")));
            }
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

/// What a run is: enough to know whether resuming it gives what it would have given.
pub fn manifest(plan: &Plan, ready: &Ready) -> Result<Value> {
    let Ready { session, arms, .. } = ready;
    let model: Map<String, Value> =
        session.files.contents().map(|(name, bytes)| (name, json!(sha256(bytes)))).collect();
    session.files.release();
    let mut data = Map::new();
    let mut prompts = Map::new();
    for work in arms {
        let sections = std::iter::once(&work.arm.config.task).chain(&work.arm.config.transfer);
        for path in sections.flat_map(task::data_files) {
            data.insert(path.display().to_string(), json!(sha256_file(&path)?));
        }
        let of = |prefix: &str, material: &Material| -> Map<String, Value> {
            let sources = material.task.prompts.sources().iter();
            sources.map(|(name, text)| (format!("{prefix}{name}"), json!(sha256(text.as_bytes())))).collect()
        };
        let mut sources = of("", &work.own);
        sources.extend(work.transfer.iter().flat_map(|t| of("transfer/", t)));
        prompts.insert(work.arm.name.clone(), Value::Object(sources));
    }
    let asks = |arm: &&Arm| recipe::info(&arm.recipe).is_ok_and(|r| r.asks_for_labels);
    let asks_for_labels: Vec<&str> = plan.arms.iter().filter(asks).map(|a| a.name.as_str()).collect();
    let mut base = json!({"path": plan.config.model.path, "sha256": model});
    if let Some(commit) = &session.commit {
        base["commit"] = json!(commit);
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
        "asks_for_labels": asks_for_labels,
        "model": base,
        "data_sha256": data,
        "prompts_sha256": prompts,
        "splits": "splits.json",
    }))
}

/// The files that say what a run is, of one that goes on under a larger configuration. It stays the run that it was when it began.
fn extend_folder(
    folder: &RunFolder,
    plan: &Plan,
    ready: &Ready,
    then: &Value,
    mut manifest: Value,
) -> Result<()> {
    for key in ["program", "created", "device", "arithmetic"] {
        manifest[key] = then[key].clone();
    }
    folder.write("splits.json", &pretty("splits.json", &splits(&ready.arms))?)?;
    folder.write("config.toml", to_toml(&plan.config)?.as_bytes())?;
    folder.write("manifest.json", &pretty("manifest.json", &manifest)?)
}

/// What the run's manifest says. Refuses to resume with another model, data or prompts (of the arms it has); warns where only the bits
/// may differ.
pub fn check_manifest(folder: &Path, now: &Value, watch: &mut dyn Watch) -> Result<Value> {
    let then = read_manifest(folder)?;
    let place = folder.join("manifest.json");
    let kept = |key: &str| match (&then[key], &now[key]) {
        (Value::Object(then), Value::Object(now)) => then.iter().all(|(name, v)| now.get(name) == Some(v)),
        (then, now) => then == now,
    };
    for (key, what) in
        [("model", "the model"), ("data_sha256", "the data"), ("prompts_sha256", "the prompts")]
    {
        if !kept(key) {
            return Err(Error::input(
                format!("{}: {key}", place.display()),
                format!("{what} changed since the run began; this would mix two runs"),
            ));
        }
    }
    for (key, what) in [("program", "another version of the program"), ("arithmetic", "other arithmetic")] {
        if then[key] != now[key] {
            watch.warn(format!(
                "the run began with {what} ({}, now {}); bits may differ from an uninterrupted run",
                then[key], now[key]
            ));
        }
    }
    Ok(then)
}

/// Ids of all questions, by arm; training questions also by seed, where each seed draws its own.
pub fn splits(arms: &[ArmWork]) -> Value {
    let ids = |questions: &[task::Question]| questions.iter().map(|q| json!(q.id)).collect::<Vec<_>>();
    let of_arm = |work: &ArmWork| {
        let q = &work.own.questions;
        let mut value = json!({"train": ids(&q.train), "dev": ids(&q.dev), "test": ids(&q.test)});
        let by_seed =
            work.arm.seeds.iter().map(|&s| (format!("seed-{s}"), json!(ids(&work.of_seed(s).train))));
        value["train_by_seed"] = Value::Object(by_seed.collect());
        if let Some(transfer) = &work.transfer {
            value["transfer-dev"] = ids(&transfer.questions.dev).into();
            value["transfer-test"] = ids(&transfer.questions.test).into();
        }
        (work.arm.name.clone(), value)
    };
    Value::Object(arms.iter().map(of_arm).collect())
}
