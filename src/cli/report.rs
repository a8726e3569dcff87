//! `colloquy report`: the tables of run folders.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::screen::out;
use crate::error::Result;
use crate::report;
use crate::run::write_file;

/// Options of `report`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Print the tables of runs: accuracies, pseudo-labels, training",
    long_about = "Prints, for each run folder, accuracy by arm and iteration with standard errors, how many pseudo-labels there were and how \
                  many of them were right, and training sets and losses; and writes the same to report.txt in the folder. Works on runs \
                  that are not complete, too.",
    after_help = "Example:
  colloquy report runs/*"
)]
pub struct Args {
    /// Run folders.
    #[arg(value_name = "DIR", required = true)]
    folders: Vec<PathBuf>,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let summaries = args.folders.iter().map(|f| report::summary(f)).collect::<Result<Vec<_>>>()?;
    for (i, (folder, summary)) in args.folders.iter().zip(&summaries).enumerate() {
        write_file(&folder.join("report.txt"), summary.as_bytes())?;
        if args.folders.len() > 1 {
            out(&format!("{}{}\n\n", if i > 0 { "\n" } else { "" }, folder.display()))?;
        }
        out(summary)?;
    }
    Ok(())
}
