//! Experiments without a terminal: prepare, estimate, run, resume, verify. Nothing here prints, reads arguments or
//! installs a signal handler: a [`Watch`] hears what happens, and decides whether it goes on.
//!
//! ```no_run
//! use colloquy::experiment::{Experiment, Silent, VerifyOptions};
//!
//! let text = std::fs::read_to_string("my.toml").unwrap();
//! let experiment = Experiment::from_toml(&text)?.set("run.seeds=[0,1]")?.output("runs/mine");
//! let finished = experiment.run(&mut Silent)?;
//! println!("{}", finished.summary);
//! assert!(experiment.verify(&VerifyOptions::default(), &mut Silent)?.differences.is_empty());
//! # Ok::<(), colloquy::error::Error>(())
//! ```

mod amounts;
mod estimate;
pub mod heap;
mod iterations;
mod manifest;
pub mod models;
mod prepare;
mod run;
mod session;
mod society;
mod source;
mod stopwatch;
mod verify;
mod watch;

use std::path::{Path, PathBuf};

pub use amounts::{bytes, count, duration};
pub use estimate::Estimate;
pub use prepare::{ArmWork, Ready, waves};
pub use run::Finished;
pub use session::{DeviceOptions, Session, Wanted, program_bytes, warn_of_other_base};
pub use society::{Society, model_commit};
pub use source::{built_in, default_name, source};
pub use stopwatch::Rates;
pub use verify::{Verified, VerifyOptions};
pub use watch::{Downloads, Remembered, Said, Silent, Watch};

use crate::error::{Error, Result};
use crate::recipe::Recipes;
use crate::run::{Plan, RunFolder, Selection, Source, extend, read_manifest, select};

/// A configuration, and the folder for the results of its run.
pub struct Experiment {
    recipes: Recipes,
    source: Source,
    sets: Vec<String>,
    selected: Vec<Selection>,
    plan: Plan,
    folder: PathBuf,
    replace: bool,
}

impl Experiment {
    /// From the text of a configuration. Results go to a new folder in `runs/`, unless
    /// [`output`](Self::output) names one.
    ///
    /// # Errors
    /// What is wrong with the configuration, with its line.
    pub fn from_toml(text: &str) -> Result<Self> {
        Self::new(Source { name: "configuration".into(), text: text.into(), folder: None }, &[])
    }

    /// From a configuration and `KEY=VALUE` settings over it.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(source: Source, sets: &[String]) -> Result<Self> {
        Self::with(Recipes::default(), source, sets)
    }

    /// The same where arms may name these recipes.
    ///
    /// # Errors
    /// What is wrong with the configuration.
    pub fn with(recipes: Recipes, source: Source, sets: &[String]) -> Result<Self> {
        let plan = recipes.load(&source, sets)?;
        let folder = source::new_folder(&source);
        Ok(Self { recipes, source, sets: sets.to_vec(), selected: vec![], plan, folder, replace: false })
    }

    /// That of the run in `folder`, to go on with it or to check it.
    ///
    /// # Errors
    /// A folder that is no run's, or whose configuration cannot be read.
    pub fn of_folder(folder: &Path) -> Result<Self> {
        Self::in_folder(Recipes::default(), folder)
    }

    fn in_folder(recipes: Recipes, folder: &Path) -> Result<Self> {
        read_manifest(folder)?;
        let path = folder.join("config.toml");
        let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
        let source = Source { name: path.display().to_string(), text, folder: None };
        Ok(Self::with(recipes, source, &[])?.output(folder))
    }

    /// With one more setting, a dotted path and its value: `debate.rounds=3`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn set(mut self, set: &str) -> Result<Self> {
        self.sets.push(set.into());
        self.plan = self.recipes.load(&self.source, &self.sets)?;
        select(&mut self.plan, &self.selected)?;
        Ok(self)
    }

    /// Only these arms, or only these seeds of them.
    ///
    /// # Errors
    /// An arm or a seed that there is not.
    pub fn select(mut self, arms: &[Selection]) -> Result<Self> {
        select(&mut self.plan, arms)?;
        self.selected.extend_from_slice(arms);
        Ok(self)
    }

    /// Results go to this folder.
    pub fn output(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// A run that is in the folder may be replaced.
    pub fn replacing(mut self, replace: bool) -> Self {
        self.replace = replace;
        self
    }

    /// What is to be run, every value given.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Loads and checks everything that a run needs, and runs nothing.
    ///
    /// # Errors
    /// What would stop the run before its first step.
    pub fn prepare(&self, watch: &mut dyn Watch) -> Result<Ready> {
        RunFolder::check_new(&self.folder, self.replace)?;
        prepare::prepare(&self.plan, &self.recipes, None, watch)
    }

    /// Loads and checks everything that a run needs, and measures for some seconds how fast this device is.
    ///
    /// # Errors
    /// As of [`prepare`](Self::prepare); the folder may be there.
    pub fn estimate(&self, watch: &mut dyn Watch) -> Result<Estimate> {
        let ready = prepare::prepare(&self.plan, &self.recipes, None, watch)?;
        watch.line("measuring the time it would take: some seconds");
        Estimate::of(ready)
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What stops it. Once the watch has heard [`Said::Folder`], all that was complete is kept, and
    /// [`resume`](Self::resume) goes on with it.
    pub fn run(&self, watch: &mut dyn Watch) -> Result<Finished> {
        let place = run::Place::New { folder: &self.folder, replace: self.replace };
        run::execute(&self.plan, &self.recipes, place, watch)
    }

    /// Goes on with the run in the folder, which ends with the bytes of one that was never interrupted. The
    /// configuration may have become larger by arms and seeds; where and how the run computes stays as it was.
    ///
    /// # Errors
    /// A run of another configuration; what stops it.
    pub fn resume(&self, watch: &mut dyn Watch) -> Result<Finished> {
        let then = Self::in_folder(self.recipes.clone(), &self.folder)?;
        let plan = extend(&then.plan, self.plan.clone(), &self.source.name)?;
        run::execute(&plan, &self.recipes, run::Place::Resume(&self.folder), watch)
    }

    /// Checks the results in the folder against the run's journal, and its journal against the model. Nothing in
    /// the folder is changed, and what differs is no error.
    ///
    /// # Errors
    /// A run that cannot be checked: one of another model, or one that is under way.
    pub fn verify(&self, options: &VerifyOptions, watch: &mut dyn Watch) -> Result<Verified> {
        verify::verify(&self.plan, &self.recipes, &self.folder, options, watch)
    }
}
