//! `colloquy verify`: checks a run's results against its journal, and its journal against the model.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::screen::{Screen, out};
use crate::error::{Error, Result};
use crate::experiment::{DeviceOptions, Experiment, VerifyOptions};

/// Options of `verify`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Check a run's results against its model, data and seeds",
    long_about = "Runs the recipes of a run again over the run's own journal and compares every byte of \
                  transcripts, data sets, metrics and adapters with their output. Some rows of the transcripts \
                  (all calls of one question in one phase) and some trainings, picked at random, are computed \
                  again by the model, with the adapters of their iteration and the same draw keys, and compared \
                  bit for bit.\n\n\
                  On another instruction set or device than the run's, the same draw may come out differently. \
                  There the journalled tokens are scored and compared within a tolerance, and the command says \
                  so.\n\nNothing in the folder is changed. Exit code 1 if anything differs.",
    after_help = "Examples:
  colloquy verify runs/mine --sample 100       about a hundred rows, and one training
  colloquy verify runs/mine --all              everything: takes as long as the run
  colloquy verify runs/mine --seed 7           the same rows again"
)]
pub struct Args {
    /// The run folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Rows of transcripts to compute again.
    #[arg(long, value_name = "N", default_value_t = 100)]
    sample: usize,
    /// Trainings to compute again: all optimizer steps of a lane's iteration.
    #[arg(long, value_name = "N", default_value_t = 1)]
    trainings: usize,
    /// Compute everything again.
    #[arg(long, conflicts_with_all = ["sample", "trainings"])]
    all: bool,
    /// Seed of the rows that are picked; a new one each time, unless given. It is printed.
    #[arg(long, value_name = "INTEGER")]
    seed: Option<u64>,
    /// Where to compute: auto, cpu, cpu-bf16, cuda, cuda:N, emulator [default: the run's]
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// CPU threads; 0 takes all cores [default: the run's]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Screen::new();
    let options = VerifyOptions {
        rows: (!args.all).then_some(args.sample),
        trainings: (!args.all).then_some(args.trainings),
        seed: args.seed,
        device: DeviceOptions { device: args.device, threads: args.threads, memory: None },
    };
    let found = Experiment::of_folder(&args.folder)?.verify(&options, &mut &screen)?;
    screen.clear();
    let mut text = String::new();
    for difference in &found.differences {
        text.push_str(&format!("differs  {difference}\n"));
    }
    for (lane, call) in &found.unfinished {
        text.push_str(&format!("note     {lane} is not complete: its journal ends before {call}\n"));
    }
    text.push_str(&format!(
        "checked  {} files and {} records against the journal\nmade again  {} generations, scores and \
         encodings, {} optimizer steps{}\n",
        found.files,
        found.records,
        found.calls,
        found.steps,
        if found.exact { ", bit for bit" } else { ", within the tolerance" },
    ));
    out(&text)?;
    match found.differences.len() {
        0 => Ok(()),
        1 => Err(Error::file(&args.folder, "1 thing differs from what the run puts out")),
        n => Err(Error::file(&args.folder, format!("{n} things differ from what the run puts out"))),
    }
}
