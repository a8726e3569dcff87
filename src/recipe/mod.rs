//! Recipes: multiagent finetuning and its baselines, as straight-line code over one shared engine.
//!
//! A recipe is an async function over a [`Lane`], which holds questions without answers, and an [`Examiner`], which holds
//! the answers, writes what it measures to the run's output, and tells the recipe nothing. So no reference answer can reach training.

mod data;
mod evaluate;
mod finetune;
mod lane;
mod multiagent;
mod schedule;
mod settings;
mod single_agent;

use std::rc::Rc;

use futures::future::LocalBoxFuture;

pub use data::{Example, MixShares, critic_mix, pseudo_label};
pub use evaluate::{Evaluation, Examiner, Methods, evaluate};
pub use lane::{Lane, NewAdapter};
pub use schedule::steps;
pub use settings::{CriticLoss, MixRule, Scheduler, Training};

use crate::debate::Table;
use crate::engine::Scope;
use crate::error::{Error, Result};
use crate::run::{Output, RunConfig};
use crate::task::{AnswerKey, Questions, Task};
use crate::text::Codec;

/// The known recipes, as `[[arm]] recipe` names them.
pub fn names() -> &'static [&'static str] {
    &["multiagent", "single-agent"]
}

/// What one (arm, seed) runs with.
pub struct Context {
    /// The root of its lane; its path is the lane's name.
    pub scope: Scope,
    /// Tokenizer and chat template.
    pub codec: Rc<dyn Codec>,
    /// How to ask and how to read answers.
    pub task: Rc<Task>,
    /// What to ask.
    pub questions: Rc<Questions>,
    /// The answers, for measuring only.
    pub answers: Rc<AnswerKey>,
    /// Where results go.
    pub output: Rc<dyn Output>,
    /// The seed.
    pub seed: u64,
    /// Makes the numbers of a fresh adapter (B = 0).
    pub new_adapter: NewAdapter,
}

/// Runs one (arm, seed): `config` is the run's configuration with the arm's overrides applied.
pub fn run_arm(recipe: &str, config: &RunConfig, context: Context) -> LocalBoxFuture<'static, Result<()>> {
    match recipe {
        "multiagent" => prepared(config.clone(), context, multiagent::run),
        "single-agent" => prepared(config.clone(), context, single_agent::run),
        other => {
            let error = Error::input(
                "arm.recipe",
                format!("unknown recipe `{other}`; known are {}", names().join(", ")),
            );
            Box::pin(async { Err(error) })
        }
    }
}

fn prepared<F>(
    config: RunConfig,
    context: Context,
    recipe: impl FnOnce(Lane, Examiner) -> F + 'static,
) -> LocalBoxFuture<'static, Result<()>>
where
    F: Future<Output = Result<()>>,
{
    Box::pin(async move {
        let Context { scope, codec, task, questions, answers, output, seed, new_adapter } = context;
        let table =
            Rc::new(Table::new(codec, task, &config.debate, &config.sampling, config.run.max_sequences)?);
        table.check(questions.train.iter().chain(&questions.dev).chain(&questions.test))?;
        let examiner = Examiner::new(
            scope.child("exam"),
            scope.path(),
            table.clone(),
            questions.clone(),
            answers,
            output.clone(),
            seed,
            &config,
        )?;
        let lane = Lane::new(scope, table, questions.train.clone(), output, seed, new_adapter, config)?;
        recipe(lane, examiner).await
    })
}

/// The adapters' names of a society, as files are named: who writes first answers, who writes later ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocietyNames {
    /// By agent.
    pub generators: Vec<String>,
    /// By agent.
    pub critics: Vec<String>,
}

/// The names that `recipe` gives its adapters.
pub fn society_names(recipe: &str, config: &RunConfig) -> Result<SocietyNames> {
    let agents = config.debate.agents;
    match recipe {
        "multiagent" => {
            let generators = lane::names("generator", agents);
            let critics =
                if config.debate.rounds > 1 { lane::names("critic", agents) } else { generators.clone() };
            Ok(SocietyNames { generators, critics })
        }
        "single-agent" => {
            let all = vec![single_agent::NAME.to_string(); agents];
            Ok(SocietyNames { generators: all.clone(), critics: all })
        }
        other => Err(Error::input(
            "arm.recipe",
            format!("unknown recipe `{other}`; known are {}", names().join(", ")),
        )),
    }
}

/// A built-in configuration.
#[derive(Clone, Copy, Debug)]
pub struct BuiltIn {
    /// For `--print-config NAME`.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// TOML.
    pub text: &'static str,
}

/// The built-in configurations; the first is what `colloquy run` does without one.
pub fn built_in_configs() -> &'static [BuiltIn] {
    &[
        BuiltIn {
            name: "default",
            about: "multiagent and single-agent finetuning side by side on the embedded model, arithmetic",
            text: include_str!("../../assets/configs/default.toml"),
        },
        BuiltIn {
            name: "gsm8k",
            about: "grade-school mathematics on a model folder and data files of yours",
            text: include_str!("../../examples/gsm8k.toml"),
        },
        BuiltIn {
            name: "math",
            about: "competition mathematics (Hendrycks MATH) on a model folder and data files of yours",
            text: include_str!("../../examples/math.toml"),
        },
        BuiltIn {
            name: "mmlu",
            about: "multiple choice (MMLU) on a model folder and data files of yours",
            text: include_str!("../../examples/mmlu.toml"),
        },
        BuiltIn {
            name: "smollm2-arithmetic",
            about: "short arithmetic on SmolLM2-135M-Instruct, a real model that two CPU cores can finetune",
            text: include_str!("../../examples/smollm2-arithmetic.toml"),
        },
    ]
}
