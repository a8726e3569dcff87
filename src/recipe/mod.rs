//! Recipes: multiagent finetuning and its baselines, as straight-line code over one shared engine.
//!
//! A recipe is an async function over a [`Lane`], which holds questions without
//! answers, and an [`Examiner`], which holds the answers, writes what it measures to the run's
//! output, and tells the recipe nothing. So no reference answer can reach training; except in a
//! recipe that says in its [`RecipeInfo`] that it asks for labels.

mod agent_ids;
mod base;
mod compute;
mod counting;
mod data;
mod diversity;
mod exam;
mod finetune;
mod forecast;
mod lane;
mod majority_ft;
mod multiagent;
mod precondition;
mod registry;
mod schedule;
mod self_training;
mod sets;
mod settings;
mod single_agent;
mod star;

use std::collections::HashSet;
use std::rc::Rc;

use futures::future::LocalBoxFuture;

pub use compute::{Ledger, Parameters, Phase, Usage};
pub use data::{Example, MixShares, critic_mix, matching_answers, pseudo_label};
pub use diversity::Diversity;
pub use exam::{Evaluation, Examination, Examiner, Methods, Sitting};
pub use finetune::Lesson;
pub use forecast::{Calls, Cost, Draw, Lengths, forecast};
pub use lane::{Lane, NewAdapter, Student};
pub use registry::{AGENT, BASE, Recipe, Recipes, SocietyNames};
pub use schedule::steps;
pub use settings::Training;

use crate::debate::Protocol;
use crate::engine::Scope;
use crate::error::{Error, Result};
use crate::run::{Output, RunConfig};
use crate::task::{AnswerKey, Labels, Questions, Task};
use crate::text::Codec;

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
    /// The answers, for measuring, and for the recipe's training if it asks for labels.
    pub answers: Rc<AnswerKey>,
    /// Another task, for measuring only.
    pub transfer: Option<Material>,
    /// Where results go.
    pub output: Rc<dyn Output>,
    /// The seed.
    pub seed: u64,
    /// Makes the numbers of a fresh adapter (B = 0).
    pub new_adapter: NewAdapter,
}

/// A task with its questions and answers.
#[derive(Clone)]
pub struct Material {
    /// How to ask and how to read answers.
    pub task: Rc<Task>,
    /// What to ask.
    pub questions: Rc<Questions>,
    /// The answers.
    pub answers: Rc<AnswerKey>,
}

/// The protocols of an arm.
pub struct Tables {
    /// Over its own task.
    pub own: Rc<Protocol>,
    /// Over the transfer task.
    pub transfer: Option<Rc<Protocol>>,
    /// The most tokens that a conversation at one of them can come to.
    pub longest: usize,
}

impl Tables {
    /// Those of `recipe`; all that can be known to be wrong before the first question is asked is an error.
    pub fn new(
        recipe: &dyn Recipe,
        config: &RunConfig,
        codec: &Rc<dyn Codec>,
        own: &Material,
        transfer: Option<&Material>,
    ) -> Result<Self> {
        let info = recipe.info();
        recipe.check(config).map_err(|(key, problem)| Error::input(key, problem))?;
        let (agents, wanted) = (config.debate.agents, config.debate.min_agreement);
        if wanted > agents.max(config.training.samples) {
            let problem = format!("{wanted} agents can't agree when there are {agents}");
            return Err(Error::input("debate.min_agreement", problem));
        }
        precondition::check(recipe, config, &**codec)?;
        let mut longest = 0;
        let mut table = |material: &Material| {
            let (debate, sampling) = (&config.debate, &config.sampling);
            let table = Protocol::new(
                codec.clone(),
                material.task.clone(),
                debate,
                sampling,
                config.run.max_sequences,
            )?
            .telling_ids(info.tells_ids);
            let Questions { train, dev, test } = &*material.questions;
            longest = longest.max(table.check(train.iter().chain(dev).chain(test))?);
            Ok::<_, Error>(Rc::new(table))
        };
        let tables = Self { own: table(own)?, transfer: transfer.map(table).transpose()?, longest };
        if let (true, Some(question)) = (info.asks_for_labels, own.questions.train.first()) {
            tables.own.check_hint(question, &Labels::of(&own.questions.train, &own.answers))?;
        }
        let trained: HashSet<&str> = own.questions.train.iter().map(|q| q.id.as_str()).collect();
        let measured = transfer.iter().flat_map(|t| t.questions.dev.iter().chain(&t.questions.test));
        if let Some(both) = measured.into_iter().find(|q| trained.contains(q.id.as_str())) {
            let shown: String = both.text.chars().take(60).collect();
            return Err(Error::input(
                "transfer",
                format!("the question {shown:?} is also a training question; splits must be disjoint"),
            ));
        }
        Ok(tables)
    }
}

/// Runs one (arm, seed): `config` is the run's configuration with the arm's overrides applied.
pub fn run_arm(
    recipe: &'static dyn Recipe,
    config: &RunConfig,
    context: Context,
) -> LocalBoxFuture<'static, Result<()>> {
    let config = config.clone();
    Box::pin(async move {
        let Context { scope, codec, task, questions, answers, transfer, output, seed, new_adapter } = context;
        let own = Material { task, questions, answers };
        let tables = Tables::new(recipe, &config, &codec, &own, transfer.as_ref())?;
        let ledger = Rc::new(Ledger::new(scope.path(), output.clone(), scope.service().base_parameters()));
        let info = recipe.info();
        let questions = own.questions.train.clone();
        let labels = info.asks_for_labels.then(|| Labels::of(&questions, &own.answers));
        let sitting = |table, material: Material| Sitting {
            table,
            questions: material.questions,
            answers: material.answers,
        };
        let transfer = tables.transfer.zip(transfer).map(|(table, material)| sitting(table, material));
        let examiner = Examiner::new(
            &scope,
            sitting(tables.own.clone(), own),
            transfer,
            ledger.clone(),
            seed,
            &info,
            &config,
        );
        let training = Training::of_generators(&config.training)?;
        let critic_training = Training::of_critics(&config.training)?;
        let lane = Lane {
            scope,
            table: tables.own,
            questions,
            output,
            ledger,
            seed,
            config,
            training,
            critic_training,
            labels,
            new_adapter,
        };
        recipe.run(lane, examiner).await
    })
}

/// The built-in recipes.
pub const BUILT_IN: &[&dyn Recipe] = &[
    &multiagent::Multiagent,
    &single_agent::SingleAgent,
    &majority_ft::MajorityFt,
    &self_training::SelfTraining,
    &star::Star,
    &agent_ids::AgentIds,
    &base::Base,
];

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
            name: "quick",
            about: "base, majority-ft, single-agent and multiagent, 3 seeds: the paper's comparison in small",
            text: include_str!("../../assets/configs/quick.toml"),
        },
        BuiltIn {
            name: "full",
            about: "every baseline, ablation and control, 5 iterations, 10 seeds for the primary pair; hours",
            text: include_str!("../../assets/configs/full.toml"),
        },
        BuiltIn {
            name: "tune",
            about: "a grid of settings for every trained arm, ranked on dev questions",
            text: include_str!("../../assets/configs/tune.toml"),
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
