//! What recipes there are and how their adapters are called.

use super::{lane, single_agent};
use crate::error::{Error, Result};
use crate::run::{Critics, RecipeInfo, RunConfig};

/// The name of an agent that is the base model.
pub const BASE: &str = "base";

/// What holds for all that debate.
fn nothing_else(_: &RunConfig) -> Result<(), (&'static str, String)> {
    Ok(())
}

/// A label must be reachable by the samples that vote.
fn enough_samples(config: &RunConfig) -> Result<(), (&'static str, String)> {
    let (samples, wanted) = (samples(config), config.debate.min_agreement);
    if wanted <= samples {
        return Ok(());
    }
    Err(("debate.min_agreement", format!("found {wanted}, expected at most the {samples} samples that vote")))
}

/// Answers sampled to a training question where there is no debate.
pub fn samples(config: &RunConfig) -> usize {
    if config.training.samples == 0 { config.debate.agents } else { config.training.samples }
}

const RECIPES: [RecipeInfo; 7] = [
    RecipeInfo {
        name: "multiagent",
        about: "N generators and N critics, each finetuned on its own part of the debates",
        options: &["debate.critics", "training.data", "training.labels"],
        is_trained: true,
        asks_for_labels: false,
        check: nothing_else,
    },
    RecipeInfo {
        name: "single-agent",
        about: "one adapter plays all agents of the debate and learns first answers that match the vote",
        options: &["training.match"],
        is_trained: true,
        asks_for_labels: false,
        check: nothing_else,
    },
    RecipeInfo {
        name: "majority-ft",
        about: "one adapter, samples without a debate; learns those that match their vote",
        options: &["training.samples"],
        is_trained: true,
        asks_for_labels: false,
        check: enough_samples,
    },
    RecipeInfo {
        name: "self-training",
        about: "one adapter, samples without a debate; learns every one that has an answer",
        options: &["training.samples"],
        is_trained: true,
        asks_for_labels: false,
        check: nothing_else,
    },
    RecipeInfo {
        name: "star",
        about: "STaR: asks for reference answers; learns right samples, and after a hint those that were wrong",
        options: &["training.samples"],
        is_trained: true,
        asks_for_labels: true,
        check: nothing_else,
    },
    RecipeInfo {
        name: "agent-ids",
        about: "one adapter whose prompts say which agent it is; learns what all generators and critics would",
        options: &[],
        is_trained: true,
        asks_for_labels: false,
        check: nothing_else,
    },
    RecipeInfo {
        name: "base",
        about: "nothing is trained; the base model is measured once, as iteration 0",
        options: &[],
        is_trained: false,
        asks_for_labels: false,
        check: nothing_else,
    },
];

/// The known recipes.
pub fn recipes() -> &'static [RecipeInfo] {
    &RECIPES
}

/// Their names, as `[[arm]] recipe` has them.
pub fn names() -> Vec<&'static str> {
    RECIPES.iter().map(|r| r.name).collect()
}

/// The recipe of that name.
pub fn info(recipe: &str) -> Result<&'static RecipeInfo> {
    RECIPES.iter().find(|r| r.name == recipe).ok_or_else(|| {
        Error::input("arm.recipe", format!("unknown recipe `{recipe}`; known are {}", names().join(", ")))
    })
}

/// The adapters' names of a society, as files are named: who writes first answers, who writes later ones. [`BASE`] is the base model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocietyNames {
    /// By agent.
    pub generators: Vec<String>,
    /// By agent.
    pub critics: Vec<String>,
    /// Prompts tell agents which of them they are.
    pub tells_ids: bool,
}

/// The names that `recipe` gives its adapters.
pub fn society_names(recipe: &str, config: &RunConfig) -> Result<SocietyNames> {
    let agents = config.debate.agents;
    let info = info(recipe)?;
    let all = |name: &str| vec![name.to_string(); agents];
    let (generators, critics) = match info.name {
        "multiagent" => {
            let generators = lane::names("generator", agents);
            let critics = match config.debate.critics {
                _ if config.debate.rounds == 1 => generators.clone(),
                Critics::Generator => generators.clone(),
                Critics::Base => all(BASE),
                Critics::Own => lane::names("critic", agents),
            };
            (generators, critics)
        }
        "base" => (all(BASE), all(BASE)),
        _ => (all(single_agent::NAME), all(single_agent::NAME)),
    };
    Ok(SocietyNames { generators, critics, tells_ids: info.name == "agent-ids" })
}
