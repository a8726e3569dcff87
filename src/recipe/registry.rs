//! What a recipe is, and which there are: the built-in ones and those of a user of the library.

use futures::future::LocalBoxFuture;

use super::{Examiner, Lane};
use crate::error::{Error, Result};
use crate::run::{Checked, Plan, RecipeInfo, RunConfig, Source, load};

/// A way to make training data and to train on them. All that is known of a recipe stands here: a
/// new one is a file of its own and an entry in a slice.
pub trait Recipe: Sync {
    /// What must be known of it before it runs.
    fn info(&self) -> RecipeInfo;

    /// Checks its options.
    ///
    /// # Errors
    ///
    /// The key in question and the problem.
    fn check(&self, _: &RunConfig) -> Checked {
        Ok(())
    }

    /// The names of its adapters, by agent.
    fn society(&self, config: &RunConfig) -> SocietyNames;

    /// Whether it makes training data of all that an agent said in a debate, as those of critics
    /// are. A chat template must then render earlier turns as they were sampled.
    fn learns_trajectories(&self, _: &RunConfig) -> bool {
        false
    }

    /// Runs one lane to its end.
    fn run(&self, lane: Lane, examiner: Examiner) -> LocalBoxFuture<'static, Result<()>>;
}

/// The name of an agent that is the base model.
pub const BASE: &str = "base";
/// The name of the adapter where one plays all agents.
pub const AGENT: &str = "agent";

/// `generator-0`, `generator-1`, …
pub fn names(role: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{role}-{n}")).collect()
}

/// The adapters' names of a society, as files are named: who writes first answers, who writes later
/// ones. [`BASE`] is the base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocietyNames {
    /// By agent.
    pub generators: Vec<String>,
    /// By agent.
    pub critics: Vec<String>,
}

impl SocietyNames {
    /// One adapter, or the base model, plays all agents.
    pub fn uniform(name: &str, config: &RunConfig) -> Self {
        let all = vec![name.to_string(); config.debate.agents];
        Self { generators: all.clone(), critics: all }
    }

    /// The adapters of a lane, each once.
    pub fn adapters(self) -> Vec<String> {
        let mut names = [self.generators, self.critics].concat();
        names.retain(|name| name != BASE);
        names.sort();
        names.dedup();
        names
    }
}

/// The known recipes. The first is what a configuration without arms runs.
#[derive(Clone)]
pub struct Recipes(Vec<&'static dyn Recipe>);

impl Default for Recipes {
    /// The built-in ones.
    fn default() -> Self {
        Self(super::BUILT_IN.to_vec())
    }
}

impl Recipes {
    /// The built-in recipes and `more`.
    ///
    /// # Errors
    ///
    /// Names the recipe whose name is taken.
    pub fn with(more: &[&'static dyn Recipe]) -> Result<Self> {
        let mut all = Self::default();
        for &recipe in more {
            let name = recipe.info().name;
            if all.0.iter().any(|known| known.info().name == name) {
                let problem = format!("a recipe is called `{name}` already, expected a name of its own");
                return Err(Error::input("recipes", problem));
            }
            all.0.push(recipe);
        }
        Ok(all)
    }

    /// What is known of each.
    pub fn infos(&self) -> Vec<RecipeInfo> {
        self.0.iter().map(|recipe| recipe.info()).collect()
    }

    /// The recipe of that name.
    ///
    /// # Errors
    ///
    /// Names the known ones if there is none.
    pub fn get(&self, name: &str) -> Result<&'static dyn Recipe> {
        self.0.iter().copied().find(|recipe| recipe.info().name == name).ok_or_else(|| {
            let known: Vec<&str> = self.infos().iter().map(|info| info.name).collect();
            let problem = format!("unknown recipe `{name}`; known are {}", known.join(", "));
            Error::input("arm.recipe", problem)
        })
    }

    /// Reads, checks and resolves a configuration, see [`load`].
    ///
    /// # Errors
    ///
    /// Names the file, the line and the key of what is wrong.
    pub fn load(&self, source: &Source, sets: &[String]) -> Result<Plan> {
        let named = |info: &RecipeInfo| self.0.iter().find(|recipe| recipe.info().name == info.name);
        let check = |info: &RecipeInfo, config: &RunConfig| named(info).map_or(Ok(()), |r| r.check(config));
        load(source, sets, &self.infos(), &check)
    }
}
