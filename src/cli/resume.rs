//! `colloquy resume`: goes on with an interrupted run, or with a complete one under a larger configuration.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::run::watched;
use crate::error::Result;
use crate::experiment::{Experiment, source};
use crate::run::Selection;

/// Options of `resume`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Resume an interrupted run",
    long_about = "Runs the same program again from the run folder's config.toml. Calls that were complete are \
                  answered from the journal, so the run quickly reaches the point where it stopped. It ends \
                  with the same bytes as a run that was never interrupted. A run that is complete shows its \
                  results.\n\nWith --config it continues under a larger configuration, with more arms or more \
                  seeds. What the run already has must be in it unchanged.",
    after_help = "Examples:
  colloquy resume runs/default-20260131-235959
  colloquy run full --arm base --arm multiagent --output runs/full     a part of an experiment
  colloquy resume runs/full --config full                              the rest of it"
)]
pub struct Args {
    /// The run folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Continue under this configuration: a file, or the name of a built-in one.
    #[arg(long, value_name = "CONFIG.toml")]
    config: Option<String>,
    /// With --config: set a value by its dotted path, e.g. debate.rounds=3. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", requires = "config")]
    sets: Vec<String>,
    /// With --config: only this arm of it, or only these seeds. May be repeated.
    #[arg(long = "arm", value_name = "NAME[=SEED,SEED]", requires = "config")]
    arms: Vec<Selection>,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let mut experiment = Experiment::of_folder(&args.folder)?;
    if let Some(config) = &args.config {
        experiment = Experiment::new(source(Some(config))?, &args.sets)?.select(&args.arms)?;
    }
    watched(|watch| experiment.output(&args.folder).resume(watch))
}
