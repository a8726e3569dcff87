//! `colloquy run`: the whole loop from a configuration.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::common::{Common, whole};
use super::interrupt::Interruptible;
use super::screen::{Screen, out, quoted};
use super::{live, plan};
use crate::error::{Error, Result};
use crate::experiment::{Experiment, Finished, Watch, built_in, default_name, source};
use crate::recipe::{self, Recipes};
use crate::run::{Preset, RunFolder, Selection, to_toml};

/// Options of `run`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Run the whole loop: debate, vote, finetune, evaluate, repeat",
    long_about = "Runs multiagent finetuning from a TOML configuration; without one, the built-in example on \
                  the model that is compiled in: arithmetic, three agents, and a single agent beside them in \
                  the same batches. Everything it produces goes to one folder. `colloquy resume DIR` continues \
                  an interrupted run, which then ends with the same bytes.",
    after_help = "Examples:
  colloquy run
  colloquy run --dry-run                                  the plan only
  colloquy run --print-config > my.toml                   a configuration to change
  colloquy run my.toml --set debate.rounds=3 --set run.seeds=[0,1]
  colloquy run --model path/to/model --output runs/first
  colloquy run full --arm base --arm multiagent=10,11     a part of an experiment"
)]
pub struct Args {
    /// A configuration file, or the name of a built-in one (see --list).
    #[arg(value_name = "CONFIG.toml")]
    config: Option<String>,
    /// Folder for everything the run produces [default: runs/NAME-TIME].
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Replace an earlier run in --output.
    #[arg(long)]
    force: bool,
    /// Set a value by its dotted path, e.g. debate.rounds=3. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    sets: Vec<String>,
    /// Run only this arm of the configuration, or only these seeds of it. May be repeated. The lanes of a part give
    /// the same bits as in the whole.
    #[arg(long = "arm", value_name = "NAME[=SEED,SEED]")]
    arms: Vec<Selection>,
    /// The base model, a folder or OWNER/NAME[@REVISION] of the Hugging Face hub: short for --set model.path=MODEL.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Check everything and print the plan; run nothing.
    #[arg(long)]
    dry_run: bool,
    /// Print a built-in configuration (the default one unless NAME is given); with --dry-run the
    /// resolved one, every value given.
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "")]
    print_config: Option<String>,
    /// List built-in configurations, tasks, recipes and presets.
    #[arg(long)]
    list: bool,
    /// Seeds of every arm, e.g. 0,1: short for --set run.seeds=[0,1].
    #[arg(long, value_name = "N,N", value_delimiter = ',', value_parser = whole::<u64>, conflicts_with = "seed")]
    seeds: Vec<u64>,
    #[command(flatten)]
    common: Common,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    if args.list {
        return out(&listing());
    }
    if let Some(name) = args.print_config.as_deref().filter(|_| !args.dry_run) {
        let name = if name.is_empty() { args.config.as_deref().unwrap_or(default_name()) } else { name };
        return out(&built_in(name)?.text);
    }
    let sets = sets(&args);
    let experiment = Experiment::new(source(args.config.as_deref())?, &sets)?.select(&args.arms)?;
    if args.print_config.is_some() {
        return out(&to_toml(&experiment.plan().config)?);
    }
    if args.dry_run {
        if let Some(output) = &args.output {
            RunFolder::check_new(output, args.force)?;
        }
        return plan::show(&experiment, &Screen::new());
    }
    let experiment = match args.output {
        Some(output) => experiment.output(output),
        None => experiment,
    };
    watched(|watch| experiment.replacing(args.force).run(watch))
}

/// Runs an experiment, and prints its results or how to go on.
pub fn watched(run: impl FnOnce(&mut dyn Watch) -> Result<Finished>) -> Result<()> {
    let screen = Screen::new();
    let mut watch = Interruptible::new(&screen);
    let result = run(&mut watch);
    screen.clear();
    let Finished { folder, summary, question, seconds } = result.inspect_err(|e| {
        let Some(folder) = &watch.folder else { return };
        let next = match e {
            Error::NotFinite(_) => {
                "Resuming would meet it again; a lower training.learning_rate may not.".to_string()
            }
            _ => format!("To go on:\n  colloquy resume {}", quoted(folder)),
        };
        let why = if let Error::Interrupted(_) = e { e.to_string() } else { "The run stopped".into() };
        screen.line(&format!("{why}; all that was complete is kept. {next}"));
    })?;
    out(&summary)?;
    screen.line(&format!(
        "Done in {seconds:.0} s. All of it is in {}:\n  \
         report.html to look at, metrics.jsonl, transcripts/, data/, adapters/",
        folder.display()
    ));
    screen.line(&format!(
        "Watch the trained agents debate:\n  colloquy debate --society {} '{}'",
        quoted(&folder),
        question.as_deref().unwrap_or("QUESTION")
    ));
    Ok(())
}

/// All `--set`s, those of the shorthands first.
fn sets(args: &Args) -> Vec<String> {
    let quoted = |text: &str| toml::Value::String(text.to_string()).to_string();
    let common = &args.common;
    let mut sets = Vec::new();
    let mut set = |key: &str, value: Option<String>| sets.extend(value.map(|v| format!("{key}={v}")));
    set("model.path", args.model.as_deref().map(quoted));
    set("run.device", common.device.as_deref().map(quoted));
    set("run.threads", common.threads.map(|n| n.to_string()));
    set("run.memory", common.memory.as_deref().map(quoted));
    set("run.seeds", common.seed.map(|n| format!("[{n}]")));
    set("run.seeds", (!args.seeds.is_empty()).then(|| format!("{:?}", args.seeds)));
    sets.extend(args.sets.iter().cloned());
    sets
}

fn listing() -> String {
    let mut out = String::from("configurations (run NAME, --print-config NAME)\n");
    for config in recipe::built_in_configs() {
        out.push_str(&format!("  {}\n", live::note(config.name, config.about).replace('\n', "\n  ")));
    }
    out.push_str("recipes ([[arm]] recipe)\n");
    for recipe in Recipes::default().infos() {
        out.push_str(&format!("  {}\n", live::note(recipe.name, recipe.about).replace('\n', "\n  ")));
    }
    let mut section = |title: &str, names: &[&str]| {
        out.push_str(&format!("{title}\n  {}\n", names.join(", ")));
    };
    let tasks: Vec<&str> = crate::task::BUILT_IN.iter().copied().chain(["custom"]).collect();
    section("tasks ([task] name)", &tasks);
    section("presets ([run] preset)", Preset::NAMES);
    section("prompts ([task] prompts)", &crate::prompt::built_in_names());
    out
}
