//! Everything that a run needs before it makes its folder, loaded and checked.

use std::rc::Rc;

use super::session::{DeviceOptions, Session, Wanted};
use super::watch::Watch;
use crate::adapter::NewAdapter;
use crate::error::{Error, Result};
use crate::hub;
use crate::model::ModelFiles;
use crate::recipe::{self, Cost, Lengths, Material, Recipe, Recipes, Tables, forecast};
use crate::run::*;
use crate::task::{self, Questions};
use crate::text::{ChatTokenizer, Codec};

/// A plan's lanes in the order of arms and seeds.
pub fn lanes(plan: &Plan) -> Vec<Lane> {
    let of_arm = |arm: &Arm| {
        let of = |&seed: &u64| Lane { arm: arm.name.clone(), seed };
        arm.seeds.iter().map(of).collect::<Vec<_>>()
    };
    plan.arms.iter().flat_map(of_arm).collect()
}

/// What is said where not all lanes run at once.
pub fn waves(ready: &Ready) -> Option<String> {
    let all: usize = ready.arms.iter().map(|a| a.arm.seeds.len() * a.adapters()).sum();
    let lanes: usize = ready.arms.iter().map(|a| a.arm.seeds.len()).sum();
    let room = ready.session.engine.with(|e| e.plan().options.adapters);
    (room < all).then(|| {
        format!("room for {room} adapters; {lanes} lanes need {all} in all and start as room is left")
    })
}

/// An arm with its questions.
pub struct ArmWork {
    /// The arm.
    pub arm: Arm,
    /// Its recipe.
    pub recipe: &'static dyn Recipe,
    /// Its task, with the training questions of all seeds.
    pub own: Material,
    /// What it is measured on besides.
    pub transfer: Option<Material>,
}

impl ArmWork {
    /// The questions of one seed.
    pub(super) fn of_seed(&self, seed: u64) -> Questions {
        self.own.questions.of_seed(self.arm.config.task.train_questions, seed)
    }

    /// What one lane asks of an engine, at most.
    ///
    /// # Errors
    /// A task that reads no answer in any text known for one.
    pub fn forecast(&self, codec: &Rc<dyn Codec>, lengths: Lengths) -> Result<Cost> {
        forecast(self.recipe, &self.arm.config, codec, &self.own, self.transfer.as_ref(), lengths)
    }

    /// Adapters of one lane.
    pub fn adapters(&self) -> usize {
        self.recipe.society(&self.arm.config).adapters().len()
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

/// Loads and checks everything. A base of the hub is taken at `commit` if there is one: a run goes on with the
/// commit at which it began, wherever its revision is by now.
pub fn prepare(plan: &Plan, recipes: &Recipes, commit: Option<&str>, watch: &mut dyn Watch) -> Result<Ready> {
    let arms = load_arms(plan, recipes)?;
    let session = open_session(plan, &arms, commit, watch)?;
    let codec = debated_in(&session.files, session.tokenizer.as_ref())?;
    let layout = session.engine.with(|e| e.model().layout().clone());
    for (name, section) in all_adapters(&arms)? {
        fresh(&section, 0).spec(&layout).map_err(|e| match e {
            Error::Input { place, problem } => Error::input(format!("{} ({name})", place.text()), problem),
            other => other,
        })?;
    }
    Ok(Ready { session, arms, codec })
}

fn load_arms(plan: &Plan, recipes: &Recipes) -> Result<Vec<ArmWork>> {
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
        let transfer = arm.config.transfer.as_ref().map(&mut material).transpose()?;
        let recipe = recipes.get(arm.recipe.name)?;
        Ok(ArmWork { arm: arm.clone(), recipe, own, transfer })
    };
    plan.arms.iter().map(of_arm).collect()
}

/// The settings of every adapter that some arm trains, each name of an arm once. An entry of
/// `[adapter.of]` must be of one of them.
fn all_adapters(arms: &[ArmWork]) -> Result<Vec<(String, AdapterSection)>> {
    let mut all = Vec::new();
    let mut unknown: Vec<&String> = arms.iter().flat_map(|a| a.arm.config.adapter.of.keys()).collect();
    for work in arms {
        let config = &work.arm.config;
        for name in work.recipe.society(config).adapters() {
            unknown.retain(|key| **key != name && *key != adapter_role(&name));
            let section = adapter_section(&config.adapter, &name)
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
pub(super) fn new_adapter(session: &Session) -> recipe::NewAdapter {
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
        let tables = Tables::new(work.recipe, config, &codec, &work.own, work.transfer.as_ref())
            .map_err(|e| e.at(format!("arm {}", work.arm.name)))?;
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
    let lanes: Vec<usize> = arms.iter().flat_map(|a| vec![a.adapters(); a.arm.seeds.len()]).collect();
    let sections = all_adapters(arms)?;
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
        Error::Input { ref place, .. } if place.text() == plan.config.model.path => e.at("model.path"),
        other => other,
    })
}
