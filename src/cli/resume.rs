//! `colloquy resume`: goes on with an interrupted run.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::execute::{self, Place};
use crate::error::{Error, Result};
use crate::recipe;
use crate::run::{Source, load, read_manifest};

/// Options of `resume`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Go on with an interrupted run",
    long_about = "Runs the same program again from the run folder's config.toml. Calls that were complete are answered from the journal, \
                  so it quickly comes to where it stopped, and ends with the same bytes as a run that was never interrupted. A run that \
                  is complete just shows its results.",
    after_help = "Example:
  colloquy resume runs/default-20260131-235959"
)]
pub struct Args {
    /// The run folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    read_manifest(&args.folder)?;
    let path = args.folder.join("config.toml");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let source = Source { name: path.display().to_string(), text, folder: None };
    let plan = load(&source, &[], recipe::recipes())?;
    execute::execute(&plan, Place::Resume { folder: args.folder })
}
