//! The configuration of a run, as it stands in TOML. A run is arms × seeds; unknown keys are errors.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::choices::*;
use crate::engine::NonFinite;
use crate::error::Place;

/// The whole file. Every section has defaults; `[[arm]]` entries override any of them by dotted path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunConfig {
    /// The base model.
    pub model: ModelSection,
    /// Questions, prompts, extraction, equality, splits.
    pub task: TaskSection,
    /// The debate.
    pub debate: DebateSection,
    /// How answers are drawn.
    pub sampling: SamplingSection,
    /// The agents' adapters.
    pub adapter: AdapterSection,
    /// Finetuning; `[training.critic]` overrides for critics.
    pub training: TrainingSection,
    /// Iterations, seeds, checkpoints, device.
    pub run: RunSection,
    /// What is measured on dev and test questions.
    pub eval: EvalSection,
    /// What the report compares first.
    pub report: ReportSection,
    /// Another task, on whose dev and test questions every lane is measured before training and
    /// after the last iteration; keys as in `[task]`, nothing is trained on it.
    #[serde(deserialize_with = "transfer")]
    pub transfer: Option<TaskSection>,
    /// Dotted key = list of values: every arm is multiplied into arms `NAME@key=value,…`. For
    /// tuning on dev questions only.
    pub grid: BTreeMap<String, toml::Value>,
    /// The arms; none means one arm `multiagent`.
    pub arm: Vec<ArmSection>,
}

/// `[model]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSection {
    /// A Hugging Face model folder, `OWNER/NAME[@REVISION]` of the hub, or `embedded`.
    pub path: String,
}

impl Default for ModelSection {
    fn default() -> Self {
        Self { path: "embedded".into() }
    }
}

/// `[task]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TaskSection {
    /// Which section it is: `task` or `transfer`.
    #[serde(skip)]
    pub section: &'static str,
    /// A built-in task (`arithmetic`, `gsm8k`, `math`, `mmlu`) whose settings the other keys override, or `custom`.
    pub name: String,
    /// JSONL, JSON, CSV (`mmlu`) or a folder of them with the questions (not for generated tasks).
    /// Split by hash unless `dev_data` or `test_data` is given.
    pub data: Option<String>,
    /// The same for dev questions.
    pub dev_data: Option<String>,
    /// The same for test questions.
    pub test_data: Option<String>,
    /// Field that holds the question; `question`, or `problem` for `math`.
    pub question_field: Option<String>,
    /// Field that holds the reference answer; `answer`, or for `math` the first that is there of
    /// `answer` and `solution`.
    pub answer_field: Option<String>,
    /// Only questions whose field `level` is one of these, as `3` or `Level 3`; empty: all.
    pub levels: Vec<u32>,
    /// Only questions whose field `subject` (else `type`) is one of these; case, `_` and `&` for
    /// `and` don't matter; empty: all.
    pub subjects: Vec<String>,
    /// Folder of prompt templates (first.jinja, summary.jinja, debate.jinja, debate-concat.jinja), or a built-in name.
    pub prompts: Option<String>,
    /// How an answer is read from a response: `boxed`, `last-number`, `number-after`, `choice`, `regex`.
    pub extraction: Option<String>,
    /// The pattern of `regex` (first group), or the marker of `number-after`.
    pub pattern: Option<String>,
    /// How the reference answer is read from its field: `whole`, `last-number`, `after-hashes`, or an extraction.
    pub reference: Option<String>,
    /// When two answers are the same: `exact`, `number`, `choice`, `math`.
    pub equality: Option<String>,
    /// Training questions used in each iteration.
    pub train_questions: usize,
    /// Each seed draws its `train_questions` of the first this many training questions; 0 takes the
    /// first `train_questions` for all seeds.
    pub train_pool: usize,
    /// Dev questions.
    pub dev_questions: usize,
    /// Test questions (0: the test split is not touched).
    pub test_questions: usize,
    /// arithmetic: operands are 0 ..= max_operand.
    pub max_operand: u32,
    /// arithmetic: number of terms, e.g. 3 for `a+b*c-d*e`.
    pub terms: u32,
}

impl Default for TaskSection {
    fn default() -> Self {
        Self {
            section: "task",
            name: "arithmetic".into(),
            data: None,
            dev_data: None,
            test_data: None,
            question_field: None,
            answer_field: None,
            levels: vec![],
            subjects: vec![],
            prompts: None,
            extraction: None,
            pattern: None,
            reference: None,
            equality: None,
            train_questions: 150,
            train_pool: 0,
            dev_questions: 200,
            test_questions: 0,
            max_operand: 29,
            terms: 4,
        }
    }
}

impl TaskSection {
    /// The place of one of its keys.
    pub fn key(&self, name: &str) -> Place {
        Place::key(format!("{}.{name}", self.section))
    }

    /// The key that asks for training questions.
    pub fn train_key(&self) -> &'static str {
        if self.train_pool > 0 { "train_pool" } else { "train_questions" }
    }
}

fn transfer<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<TaskSection>, D::Error> {
    let section = Option::<TaskSection>::deserialize(deserializer)?;
    Ok(section.map(|s| TaskSection { section: "transfer", ..s }))
}

/// `[debate]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DebateSection {
    /// N.
    pub agents: usize,
    /// M, the first answers included.
    pub rounds: usize,
    /// Others' answers: `summary` (written by the base model) or `concatenate`.
    pub others: Others,
    /// What agents make of them: `debate` (weigh them as advice) or `cooperative` (build on them);
    /// other templates, the same protocol.
    pub style: Style,
    /// multiagent: who answers later rounds: `own` (a critic for every agent, finetuned too),
    /// `generator` (the agent's generator; nothing is finetuned on later rounds) or `base` (the
    /// base model; the same).
    pub critics: Critics,
    /// A question's vote counts as a pseudo-label if at least this many agents agree; 0 means more
    /// than half (2·top > N), 1 keeps all.
    pub min_agreement: usize,
    /// Ties of the final vote: `random` (seeded by the question), `first`, or `largest` (official code).
    pub ties: Ties,
}

impl Default for DebateSection {
    fn default() -> Self {
        Self {
            agents: 3,
            rounds: 2,
            others: Others::Summary,
            style: Style::Debate,
            critics: Critics::Own,
            min_agreement: 0,
            ties: Ties::Random,
        }
    }
}

/// `[sampling]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SamplingSection {
    /// Temperature of answers.
    pub temperature: f32,
    /// Nucleus mass.
    pub top_p: f32,
    /// 0 keeps all.
    pub top_k: u32,
    /// Keep tokens at least this share as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// New tokens of an answer.
    pub max_tokens: u32,
    /// New tokens of a summary.
    pub summary_max_tokens: u32,
    /// Stop strings.
    pub stop: Vec<String>,
}

impl Default for SamplingSection {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_tokens: 160,
            summary_max_tokens: 120,
            stop: vec![],
        }
    }
}

/// `[adapter]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdapterSection {
    /// LoRA rank.
    pub rank: usize,
    /// LoRA alpha; the scale is alpha / rank.
    pub alpha: f32,
    /// `all-linear` or module suffixes.
    pub targets: Vec<String>,
    /// alpha / sqrt(rank) instead.
    pub rslora: bool,
    /// Rate of dropout in training.
    pub dropout: f32,
    /// Other settings for some adapters, by role (`generator`, `critic`) or by name (`critic-1`),
    /// which counts over the role's.
    pub of: BTreeMap<String, toml::Value>,
}

impl Default for AdapterSection {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: 32.0,
            targets: vec!["all-linear".into()],
            rslora: false,
            dropout: 0.0,
            of: BTreeMap::new(),
        }
    }
}

/// `[training]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainingSection {
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// AdamW.
    pub adam_beta1: f32,
    /// AdamW.
    pub adam_beta2: f32,
    /// AdamW.
    pub adam_epsilon: f32,
    /// Gradient clip.
    pub max_grad_norm: f32,
    /// Passes over the iteration's data.
    pub num_epochs: usize,
    /// Sequences in an optimizer step of one adapter; 0 is all.
    pub batch_size: usize,
    /// `constant`, `linear` or `cosine`.
    pub lr_scheduler: Scheduler,
    /// Share of the steps that warm up.
    pub warmup_ratio: f32,
    /// Shuffle each epoch.
    pub shuffle: bool,
    /// A loss or gradient that is not finite: `stop` ends the run, `skip` leaves that optimizer
    /// step of that adapter out.
    pub non_finite: NonFinite,
    /// w: the share of corrected trajectories in a critic's data.
    pub critic_mix: f32,
    /// `ratio` (floor(min(|D-|/w, |D+|/(1-w)))) or `coin-flip` (official code).
    pub critic_mix_rule: MixRule,
    /// `final` trains critics on their last turn, `all` on every assistant turn.
    pub critic_loss: CriticLoss,
    /// Each iteration starts from `previous` adapters or from the `base`.
    pub start_from: StartFrom,
    /// Keep the optimizer's moments across iterations.
    pub keep_moments: bool,
    /// majority-ft, self-training and star: answers sampled to a training question; 0 is the number
    /// of agents, for star 1.
    pub samples: usize,
    /// multiagent: every agent learns from its `own` data, or all agents' data are pooled and
    /// `dealt` to them at random, as many examples to each as its own would be, generators' and
    /// critics' apart.
    pub data: DataOf,
    /// multiagent: `vote` keeps what matches the pseudo-label. `shuffled` is a control: as many
    /// examples for each agent and role as the vote would keep, but a random choice among all of
    /// its answers that parse.
    pub labels: LabelsOf,
    /// single-agent: `none`, or `gradient-tokens`: go over the data until as many tokens have
    /// carried gradients as multiagent finetuning would have used on the same debates, in place of
    /// `num_epochs`.
    #[serde(rename = "match")]
    pub matching: Matching,
    /// Overrides for critics, by the keys above.
    pub critic: BTreeMap<String, toml::Value>,
}

impl Default for TrainingSection {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            weight_decay: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.999,
            adam_epsilon: 1e-8,
            max_grad_norm: 1.0,
            num_epochs: 2,
            batch_size: 16,
            lr_scheduler: Scheduler::Constant,
            warmup_ratio: 0.0,
            shuffle: true,
            non_finite: NonFinite::Stop,
            critic_mix: 0.5,
            critic_mix_rule: MixRule::Ratio,
            critic_loss: CriticLoss::Final,
            start_from: StartFrom::Previous,
            keep_moments: false,
            samples: 0,
            data: DataOf::Own,
            labels: LabelsOf::Vote,
            matching: Matching::None,
            critic: BTreeMap::new(),
        }
    }
}

/// `[run]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RunSection {
    /// `default`, `paper` or `official-code`: fills in debate and training choices not given.
    pub preset: Preset,
    /// L.
    pub iterations: usize,
    /// One run of every arm for each seed.
    pub seeds: Vec<u64>,
    /// `auto`, `cpu`, `cuda`, `cuda:N`, `emulator`.
    pub device: String,
    /// CPU threads; 0 is all.
    pub threads: usize,
    /// Memory limit such as `4GiB`; empty is what the plan needs.
    pub memory: String,
    /// Checkpoints that a lane's journal keeps, the latest; 0 keeps all, otherwise at least 2.
    pub keep_checkpoints: usize,
    /// Most rows in a training micro-batch; 0 is no limit.
    pub micro_batch_rows: usize,
    /// Most rows in a sampling step.
    pub step_rows: usize,
    /// Most sequences sampled at once.
    pub max_sequences: usize,
}

impl Default for RunSection {
    fn default() -> Self {
        Self {
            preset: Preset::Default,
            iterations: 2,
            seeds: vec![0],
            device: "auto".into(),
            threads: 0,
            memory: String::new(),
            keep_checkpoints: 0,
            micro_batch_rows: 2048,
            step_rows: 512,
            max_sequences: 192,
        }
    }
}

/// `[eval]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EvalSection {
    /// Of `greedy`, `single`, `majority`, `debate`.
    pub methods: Vec<EvalMethod>,
    /// Samples in `majority`; 0 is the number of agents.
    pub majority_samples: usize,
    /// Evaluate the base before the first iteration too.
    pub before: bool,
    /// Debates of dev questions on which diversity is measured after each evaluation; 0: it is not.
    /// Each costs about N² + N sequences to score for N agents.
    pub diversity: usize,
    /// What encodes answers for the embedding dissimilarity: `base-mean-pooled` (the base model's
    /// last hidden state after its final norm, averaged over the answer's tokens).
    pub encoder: Encoder,
}

impl Default for EvalSection {
    fn default() -> Self {
        Self {
            methods: vec![EvalMethod::Greedy, EvalMethod::Single, EvalMethod::Majority, EvalMethod::Debate],
            majority_samples: 0,
            before: true,
            diversity: 50,
            encoder: Encoder::BaseMeanPooled,
        }
    }
}

/// `[report]`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReportSection {
    /// The primary comparison, named before test questions are asked; all others are secondary.
    pub primary: Option<PrimarySection>,
}

/// `[report.primary]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrimarySection {
    /// The arm in question.
    pub arm: String,
    /// The arm it is compared with.
    pub against: String,
    /// `greedy`, `single`, `majority`, `first-vote` (of the debate's first round) or `final-vote`.
    pub method: PrimaryMethod,
    /// After which iteration.
    pub iteration: usize,
}

/// `[[arm]]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ArmSection {
    /// Unique name; the lane's name.
    pub name: String,
    /// One of the recipes that `colloquy run --list` shows.
    pub recipe: String,
    /// Seeds of this arm; `run.seeds` if not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Vec<u64>>,
    /// Overrides by dotted path, e.g. `"debate.rounds" = 3`.
    #[serde(default)]
    pub set: BTreeMap<String, toml::Value>,
}

/// What `[[arm]] recipe` may name, as far as a configuration must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecipeInfo {
    /// Its name.
    pub name: &'static str,
    /// One line.
    pub about: &'static str,
    /// Keys that only some recipes read, and this one does. Another recipe's arm may not change them.
    pub options: &'static [&'static str],
    /// Whether anything is trained. What is not is measured once, as iteration 0.
    pub is_trained: bool,
    /// Whether it is given the reference answers of its training questions.
    pub asks_for_labels: bool,
    /// Whether prompts tell agents which of them they are.
    pub tells_ids: bool,
    /// Whether a debate is a part of the method. Where none is, an arm is read by the vote of its samples.
    pub debates: bool,
    /// Where it stands in the paper's tables.
    pub standing: Standing,
}

/// Where a recipe stands in the tables that reports lay out as the paper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The method itself, which others are compared with.
    Method,
    /// A baseline that trains one model, beside the base.
    Baseline,
    /// One model that plays all agents: its rows without a debate are shown too.
    OneModel,
    /// Among the variants.
    Variant,
}

impl RecipeInfo {
    /// Of a recipe that trains, without labels, and reads only what all recipes do.
    pub const fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            options: &[],
            is_trained: true,
            asks_for_labels: false,
            tells_ids: false,
            debates: true,
            standing: Standing::Variant,
        }
    }
}

/// Whether options hold: the key in question and the problem if they do not.
pub type Checked = Result<(), (&'static str, String)>;
