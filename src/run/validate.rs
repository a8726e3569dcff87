//! What values a configuration may have, beyond their types.

use serde::Deserialize;

use super::RunConfig;
use crate::backend::{MAX_RANK, MAX_THREADS};
use crate::error::{Error, Place, Result};

/// Most rounds of a debate: what one adds to a conversation is a hundredth of the longest contexts.
const MAX_ROUNDS: usize = 100;
/// Most iterations of a run: each is a training.
const MAX_ITERATIONS: usize = 1000;
/// Most answers sampled to one question.
const MAX_SAMPLES: usize = 10_000;
/// Most new tokens of an answer: the longest contexts have as many.
const MAX_TOKENS: usize = 1 << 24;
/// Most questions of a split, and most passes over what they give.
const MAX_QUESTIONS: usize = 1_000_000;
const MAX_EPOCHS: usize = 1_000_000;

/// Checks every value; `place` turns a dotted path into file, line and field.
pub fn check(config: &RunConfig, place: &dyn Fn(&str) -> Place) -> Result<()> {
    let c = Check { place };
    let RunConfig { model, task, debate, sampling, adapter, training, run, transfer, .. } = config;

    c.that(!model.path.is_empty(), "model.path", "an empty string", "a model folder or `embedded`")?;

    task_section(&c, task, "task")?;
    c.at_least(task.train_questions, 1, "task.train_questions")?;
    c.that(
        task.train_pool == 0 || task.train_pool >= task.train_questions,
        "task.train_pool",
        task.train_pool,
        format!("0, or at least task.train_questions = {}", task.train_questions),
    )?;
    if let Some(transfer) = transfer {
        task_section(&c, transfer, "transfer")?;
        for (key, value) in
            [("train_questions", transfer.train_questions), ("train_pool", transfer.train_pool)]
        {
            let expected = "0: nothing is trained on the transfer task";
            c.that(value == 0, &format!("transfer.{key}"), value, expected)?;
        }
    }

    c.at_least(debate.agents, 1, "debate.agents")?;
    // Outcomes give the number of agents that agree as one digit of base 36.
    c.that(debate.agents <= 35, "debate.agents", debate.agents, "at most 35")?;
    c.at_least(debate.rounds, 1, "debate.rounds")?;
    c.that(
        debate.min_agreement <= debate.agents.max(training.samples),
        "debate.min_agreement",
        debate.min_agreement,
        format!("at most debate.agents = {}", debate.agents),
    )?;

    c.that(
        sampling.temperature >= 0.0,
        "sampling.temperature",
        sampling.temperature,
        "a number >= 0 (0 is greedy)",
    )?;
    c.that(
        sampling.top_p > 0.0 && sampling.top_p <= 1.0,
        "sampling.top_p",
        sampling.top_p,
        "a number > 0 and <= 1",
    )?;
    c.that((0.0..=1.0).contains(&sampling.min_p), "sampling.min_p", sampling.min_p, "a number from 0 to 1")?;
    c.at_least(sampling.max_tokens as usize, 1, "sampling.max_tokens")?;
    c.at_least(sampling.summary_max_tokens as usize, 1, "sampling.summary_max_tokens")?;
    c.that(
        sampling.stop.iter().all(|s| !s.is_empty()),
        "sampling.stop",
        "an empty string",
        "non-empty stop strings",
    )?;

    for (name, path) in std::iter::once((String::new(), "adapter".to_string()))
        .chain(adapter.of.keys().map(|name| (name.clone(), format!("adapter.of.{name}"))))
    {
        let section = adapter_section(adapter, &name).map_err(|e| Error::input((c.place)(&path), e))?;
        let at = |key: &str| format!("{path}.{key}");
        c.that(
            (1..=MAX_RANK).contains(&section.rank),
            &at("rank"),
            section.rank,
            format!("1 to {MAX_RANK}"),
        )?;
        c.that(section.alpha > 0.0, &at("alpha"), section.alpha, "a number > 0")?;
        let expected = "`all-linear` or module names";
        c.that(!section.targets.is_empty(), &at("targets"), "an empty list", expected)?;
    }

    training_section(&c, training, "training")?;
    let refused = |(path, problem): (String, String)| Error::input((c.place)(&path), problem);
    let critic = critic_section(training).map_err(refused)?;
    training_section(&c, &critic, "training.critic")?;

    run_section(&c, run)?;
    bounds(&c, config)
}

/// What holds for `[run]`.
fn run_section(c: &Check<'_>, run: &super::RunSection) -> Result<()> {
    c.at_least(run.iterations, 1, "run.iterations")?;
    c.that(!run.seeds.is_empty(), "run.seeds", "an empty list", "at least one seed")?;
    let mut seeds = run.seeds.clone();
    seeds.sort_unstable();
    c.that(seeds.windows(2).all(|w| w[0] != w[1]), "run.seeds", "the same seed twice", "different seeds")?;
    c.that(
        matches!(run.device.as_str(), "auto" | "cpu" | "cpu-bf16" | "emulator")
            || run.device.starts_with("cuda"),
        "run.device",
        format!("`{}`", run.device),
        "`auto`, `cpu`, `cuda`, `cuda:N` or `emulator`",
    )?;
    c.that(
        run.memory.is_empty() || parse_bytes(&run.memory).is_some(),
        "run.memory",
        format!("`{}`", run.memory),
        "a size such as `4GiB` or `800MiB`",
    )?;
    c.that(
        run.keep_checkpoints != 1,
        "run.keep_checkpoints",
        run.keep_checkpoints,
        "0 (all), or 2 or more: the last one is made again from the one before if it is damaged",
    )?;
    c.at_least(run.step_rows, 1, "run.step_rows")?;
    c.at_least(run.max_sequences, 1, "run.max_sequences")
}

/// What would be made before anybody could see that it is too much.
fn bounds(c: &Check<'_>, config: &RunConfig) -> Result<()> {
    let RunConfig { debate, sampling, run, eval, .. } = config;
    c.at_most(debate.rounds, MAX_ROUNDS, "debate.rounds")?;
    c.at_most(sampling.max_tokens as usize, MAX_TOKENS, "sampling.max_tokens")?;
    c.at_most(sampling.summary_max_tokens as usize, MAX_TOKENS, "sampling.summary_max_tokens")?;
    c.at_most(run.threads, MAX_THREADS, "run.threads")?;
    c.at_most(run.iterations, MAX_ITERATIONS, "run.iterations")?;
    c.at_most(eval.majority_samples, MAX_SAMPLES, "eval.majority_samples")?;
    c.at_most(eval.diversity, MAX_QUESTIONS, "eval.diversity")
}

/// What holds for `[task]` and `[transfer]`.
fn task_section(c: &Check<'_>, task: &super::TaskSection, path: &str) -> Result<()> {
    let at = |key: &str| format!("{path}.{key}");
    c.at_least(task.dev_questions, 1, &at("dev_questions"))?;
    for (key, value) in [
        ("train_questions", task.train_questions),
        ("train_pool", task.train_pool),
        ("dev_questions", task.dev_questions),
        ("test_questions", task.test_questions),
    ] {
        c.at_most(value, MAX_QUESTIONS, &at(key))?;
    }
    c.at_least(task.max_operand as usize, 1, &at("max_operand"))?;
    c.at_least(task.terms as usize, 1, &at("terms"))?;
    c.that(task.levels.iter().all(|l| *l > 0), &at("levels"), 0, "levels from 1")?;
    c.that(
        task.subjects.iter().all(|s| !s.trim().is_empty()),
        &at("subjects"),
        "an empty string",
        "names of subjects",
    )?;
    let generated = task.name == "arithmetic" && task.data.is_none();
    for (filter, is_empty) in [("levels", task.levels.is_empty()), ("subjects", task.subjects.is_empty())] {
        c.that(
            is_empty || !generated,
            &at(filter),
            "a list",
            "none: the questions of `arithmetic` are generated and have no such field",
        )?;
    }
    Ok(())
}

fn training_section(c: &Check<'_>, t: &super::TrainingSection, path: &str) -> Result<()> {
    let at = |key: &str| format!("{path}.{key}");
    c.that(t.learning_rate >= 0.0, &at("learning_rate"), t.learning_rate, "a number >= 0")?;
    c.that(t.weight_decay >= 0.0, &at("weight_decay"), t.weight_decay, "a number >= 0")?;
    for (key, beta) in [("adam_beta1", t.adam_beta1), ("adam_beta2", t.adam_beta2)] {
        c.that((0.0..1.0).contains(&beta), &at(key), beta, "a number >= 0 and < 1")?;
    }
    c.that(t.adam_epsilon > 0.0, &at("adam_epsilon"), t.adam_epsilon, "a number > 0")?;
    c.that(t.max_grad_norm >= 0.0, &at("max_grad_norm"), t.max_grad_norm, "a number >= 0 (0: no clipping)")?;
    c.at_least(t.num_epochs, 1, &at("num_epochs"))?;
    c.at_most(t.num_epochs, MAX_EPOCHS, &at("num_epochs"))?;
    c.at_most(t.samples, MAX_SAMPLES, &at("samples"))?;
    let share = 0.0..=1.0;
    c.that(share.contains(&t.warmup_ratio), &at("warmup_ratio"), t.warmup_ratio, "a number from 0 to 1")?;
    c.that(share.contains(&t.critic_mix), &at("critic_mix"), t.critic_mix, "a number from 0 to 1")?;
    Ok(())
}

/// The settings of the adapter called `name`: the section, over it those of the name's role, over
/// them those of the name itself.
pub fn adapter_section(section: &super::AdapterSection, name: &str) -> Result<super::AdapterSection, String> {
    let over = |key: &str| section.of.get(key).and_then(toml::Value::as_table).cloned().unwrap_or_default();
    overridden(section, "of", over(adapter_role(name)).into_iter().chain(over(name)))
}

/// A section with other values over its own, and without `own`, the key that held them.
fn overridden<T: serde::Serialize + serde::de::DeserializeOwned>(
    section: &T,
    own: &str,
    over: impl IntoIterator<Item = (String, toml::Value)>,
) -> Result<T, String> {
    let mut table = toml::Table::try_from(section).map_err(|e| e.to_string())?;
    table.remove(own);
    table.extend(over);
    T::deserialize(table).map_err(|e| e.message().to_string())
}

/// `critic` of `critic-1`.
pub fn adapter_role(name: &str) -> &str {
    match name.rsplit_once('-') {
        Some((role, number)) if number.bytes().all(|b| b.is_ascii_digit()) => role,
        _ => name,
    }
}

/// `[training]` with `[training.critic]` over it. The error is the key in question and the problem.
pub fn critic_section(training: &super::TrainingSection) -> Result<super::TrainingSection, (String, String)> {
    overridden(training, "critic", training.critic.clone()).map_err(|problem| {
        // Every key has a default, so that each can be read alone.
        let refused = training.critic.iter().find_map(|(key, value)| {
            let alone = toml::Table::from_iter([(key.clone(), value.clone())]);
            let e = super::TrainingSection::deserialize(alone).err()?;
            Some((format!("training.critic.{key}"), e.message().to_string()))
        });
        refused.unwrap_or(("training.critic".into(), problem))
    })
}

struct Check<'a> {
    place: &'a dyn Fn(&str) -> Place,
}

impl Check<'_> {
    fn that(
        &self,
        holds: bool,
        path: &str,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(Error::input((self.place)(path), format!("found {found}, expected {expected}")))
    }

    fn at_least(&self, value: usize, least: usize, path: &str) -> Result<()> {
        self.that(value >= least, path, value, format!("at least {least}"))
    }

    fn at_most(&self, value: usize, most: usize, path: &str) -> Result<()> {
        self.that(value <= most, path, value, format!("at most {most}"))
    }
}

/// `"4GiB"`, `"800 MiB"`, `"3GB"`, `"123456"`: bytes.
pub fn parse_bytes(text: &str) -> Option<usize> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit: f64 = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "t" | "tb" => 1e12,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    let bytes = number * unit;
    (1.0..9e18).contains(&bytes).then_some(bytes as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse_bytes("4GiB"), Some(4 << 30));
        assert_eq!(parse_bytes("1.5 MiB"), Some(3 << 19));
        assert_eq!(parse_bytes("3GB"), Some(3_000_000_000));
        assert_eq!(parse_bytes("17"), Some(17));
        for bad in ["", "GiB", "4 gigs", "-1", "0"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn critics_override_training() {
        let mut training = crate::run::TrainingSection::default();
        training.critic.insert("num_epochs".into(), toml::Value::Integer(7));
        let critic = critic_section(&training).unwrap();
        assert_eq!(critic.num_epochs, 7);
        assert_eq!(critic.batch_size, training.batch_size);
    }
}
