//! A society ready to be asked: what `debate` and `eval` share.

use std::path::PathBuf;
use std::rc::Rc;

use clap::Args as ClapArgs;

use super::common::{Common, ModelArgs, add_adapters, whole};
use super::screen::Screen;
use crate::adapter::AdapterOrigin;
use crate::debate::{Protocol, Society};
use crate::engine::AdapterId;
use crate::error::{Error, Result};
use crate::experiment::{Session, Society as Found, Wanted};
use crate::model::EMBEDDED;
use crate::recipe::{self, Recipes, SocietyNames};
use crate::run::{Arm, RunConfig, Source};
use crate::task::{self, Task};
use crate::text::Codec;

/// Who is asked, and how they debate.
#[derive(ClapArgs, Clone, Debug)]
pub struct CouncilArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Number of agents [default: 3, or the society's].
    #[arg(long, value_name = "N", value_parser = whole::<usize>, help_heading = "Debate")]
    pub agents: Option<usize>,
    /// Rounds, the first answers included [default: 2, or the society's].
    #[arg(long, value_name = "M", value_parser = whole::<usize>, help_heading = "Debate")]
    pub rounds: Option<usize>,
    /// Set any value of the configuration by its dotted path, e.g. sampling.max_tokens=300.
    #[arg(long = "set", value_name = "KEY=VALUE", help_heading = "Debate")]
    pub sets: Vec<String>,
}

/// Agents, their protocol and their task.
pub struct Council {
    /// The model.
    pub session: Session,
    /// Task, debate and sampling settings.
    pub config: RunConfig,
    /// Its tokenizer.
    pub codec: Rc<dyn Codec>,
    /// How to ask and read.
    pub task: Rc<Task>,
    /// The protocol.
    pub table: Rc<Protocol>,
    /// The adapters.
    pub society: Society,
    /// The seed.
    pub seed: u64,
}

impl Council {
    /// Loads everything. `more` are settings of the command itself, beneath the user's `--set`.
    pub fn open(args: &CouncilArgs, more: Vec<String>, common: &Common, screen: &Screen) -> Result<Self> {
        let found =
            args.model.society.as_deref().map(|s| Found::find(s, args.model.lane.as_deref())).transpose()?;
        let named = args.model.adapters.len();
        let quoted = |text: &str| toml::Value::String(text.to_string()).to_string();
        let mut sets = more;
        if let Some(model) = &args.model.model {
            sets.push(format!("model.path={}", quoted(model)));
        }
        let agents = args.agents.or((found.is_none() && named > 1).then(|| agents_named(&args.model)));
        sets.extend(agents.map(|n| format!("debate.agents={n}")));
        sets.extend(args.rounds.map(|n| format!("debate.rounds={n}")));
        sets.extend(args.sets.iter().cloned());
        let arm = arm(args, found.as_ref(), &sets)?;
        let config = arm.config.clone();

        // The society's own base at the commit it was trained on, unless --set names another.
        let model = match &found {
            Some(f) if f.model == config.model.path => f.base(),
            _ => config.model.path.clone(),
        };
        let mut wanted = match &found {
            Some(f) => Wanted {
                adapters: f
                    .adapters
                    .iter()
                    .map(|(n, p)| (n.clone(), AdapterOrigin::Folder(p.clone())))
                    .collect(),
                ..Wanted::of_model(&model)
            },
            None => Wanted::of_model(&model),
        };
        add_adapters(&mut wanted, &args.model.adapters)?;
        let session = Session::open(&wanted, &common.device(), &mut &*screen)?;
        let codec: Rc<dyn Codec> = match &session.tokenizer {
            Some(t) => t.clone(),
            None => {
                return Err(Error::input(session.files.place(), "has no tokenizer.json, which debates need"));
            }
        };
        let (society, tells_ids) = society(&arm, &session, found.as_ref())?;
        let task = Rc::new(task::open(&config.task)?);
        let table = Protocol::new(
            codec.clone(),
            task.clone(),
            &config.debate,
            &config.sampling,
            config.run.max_sequences,
        )?
        .telling_ids(tells_ids);
        let seed = common.seed.unwrap_or(config.run.seeds[0]);
        Ok(Self { session, config, codec, task, table: Rc::new(table), society, seed })
    }
}

/// Agents that `--adapter` names: `generator-…` and `critic-…` are one agent's halves.
fn agents_named(model: &ModelArgs) -> usize {
    let names: Vec<&str> = model.adapters.iter().filter_map(|a| Some(a.split_once('=')?.0)).collect();
    match names.iter().filter(|n| n.starts_with("generator")).count() {
        0 => names.len(),
        generators => generators,
    }
}

/// The configuration: the society's own, or the embedded example's, or plain defaults for a model folder.
fn arm(args: &CouncilArgs, found: Option<&Found>, sets: &[String]) -> Result<Arm> {
    let embedded = args.model.model.as_deref().is_none_or(|m| m == EMBEDDED);
    let source = match found {
        Some(f) => {
            let path: PathBuf = f.folder.join("config.toml");
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            Source { name: path.display().to_string(), text, folder: None }
        }
        None if embedded => {
            let config = recipe::built_in_configs()[0];
            Source { name: format!("built-in {}", config.name), text: config.text.into(), folder: None }
        }
        None => {
            // Questions of any kind, answered in \boxed{}, else by the last number.
            let text = "[task]\nname = \"custom\"\nextraction = \"boxed, last-number\"\n\
                        [sampling]\nmax_tokens = 512\nsummary_max_tokens = 384\ntop_p = 0.9\n";
            Source { name: "defaults".into(), text: text.into(), folder: None }
        }
    };
    let plan = Recipes::default().load(&source, sets)?;
    let wanted = found.and_then(|f| f.lane.rsplit_once("/seed-")).map(|(arm, _)| arm);
    let at = wanted.and_then(|name| plan.arms.iter().position(|a| a.name == name)).unwrap_or(0);
    Ok(plan.arms[at].clone())
}

/// The adapters of each agent, and whether agents are told which they are.
fn society(arm: &Arm, session: &Session, found: Option<&Found>) -> Result<(Society, bool)> {
    let agents = arm.config.debate.agents;
    let names: Vec<&String> = session.adapters.keys().collect();
    let tells_ids = found.is_some() && arm.recipe.tells_ids;
    if names.is_empty() {
        return Ok((Society::uniform(AdapterId::BASE, agents), tells_ids));
    }
    let SocietyNames { generators, critics } = match found {
        Some(_) => Recipes::default().get(arm.recipe.name)?.society(&arm.config),
        None => {
            let role = |role: &str| -> Vec<String> {
                names.iter().filter(|n| n.starts_with(role)).map(|n| n.to_string()).collect()
            };
            let all = || -> Vec<String> {
                let of = |i: usize| names[i % names.len()].clone();
                (0..if names.len() == 1 { agents } else { names.len() }).map(of).collect()
            };
            let generators = if role("generator").is_empty() { all() } else { role("generator") };
            let critics = if role("critic").is_empty() { generators.clone() } else { role("critic") };
            SocietyNames { generators, critics }
        }
    };
    if generators.len() != agents || critics.len() != agents {
        return Err(Error::Usage(format!(
            "{agents} agents need {agents} generators and {agents} critics; there are adapters for {} and {}",
            generators.len(),
            critics.len()
        )));
    }
    let speaker = |name: &String| {
        if found.is_some() && name == recipe::BASE {
            return Ok(AdapterId::BASE.into());
        }
        session.adapters.get(name).map(|&id| id.into()).ok_or_else(|| {
            let place = found.map_or("--adapter".into(), |f| f.folder.display().to_string());
            Error::input(place, format!("there is no adapter `{name}`, which {agents} agents need"))
        })
    };
    let society = Society {
        generators: generators.iter().map(speaker).collect::<Result<_>>()?,
        critics: critics.iter().map(speaker).collect::<Result<_>>()?,
    };
    Ok((society, tells_ids))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The task that is read for these arguments, with all its choices made.
    fn task_of(model: &str, sets: &[&str]) -> crate::run::TaskSection {
        let model = ModelArgs { model: Some(model.into()), adapters: vec![], society: None, lane: None };
        let args = CouncilArgs { model, agents: None, rounds: None, sets: vec![] };
        let sets: Vec<String> = sets.iter().map(|set| set.to_string()).collect();
        task::resolve(&arm(&args, None, &sets).unwrap().config.task).unwrap()
    }

    #[test]
    fn a_named_task_brings_its_own_reading_whatever_the_model() {
        for model in [EMBEDDED, "some/folder"] {
            for (name, prompts, extraction, equality) in [
                ("math", "math", "boxed", "math"),
                ("mmlu", "mmlu", "choice", "choice"),
                ("gsm8k", "gsm8k", "boxed, last-number", "number"),
            ] {
                let read = task_of(model, &[&format!("task.name={name}")]);
                assert_eq!(read.prompts.as_deref(), Some(prompts), "{model}, {name}");
                assert_eq!(read.extraction.as_deref(), Some(extraction), "{model}, {name}");
                assert_eq!(read.equality.as_deref(), Some(equality), "{model}, {name}");
            }
        }
        // What is set beside it counts, and without a name any question is answered.
        let read = task_of("some/folder", &["task.extraction=last-number", "task.name=math"]);
        assert_eq!(read.extraction.as_deref(), Some("last-number"));
        assert_eq!(task_of("some/folder", &[]).extraction.as_deref(), Some("boxed, last-number"));
    }
}
