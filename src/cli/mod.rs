//! The command line: parse, call, print; one file a subcommand.

mod bench;
mod common;
mod completions;
mod council;
mod debate;
mod eval;
mod generate;
mod grade;
mod info;
mod interrupt;
pub mod lines;
mod live;
mod merge;
mod overheard;
mod plan;
mod report;
mod resume;
mod run;
mod score;
mod screen;
mod session;
mod train;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::{Error, Result};

#[derive(Parser)]
#[command(
    name = "colloquy",
    version,
    about = "Multiagent finetuning: a society of LoRA agents debates, votes and learns over one frozen base",
    long_about = "Colloquy trains a society of language-model agents. N agents share one frozen base model; \
                  each is a pair of LoRA adapters, a generator and a critic. They debate questions, vote, and \
                  each is finetuned on its own part of what the debate produced (Multiagent Finetuning, arXiv \
                  2501.05707). All agents are sampled and trained together, in fused batches, from one set of weights.",
    after_help = "Start with:
  colloquy run                       the whole loop on the model that is compiled in
  colloquy debate \"3+4*5+6-7*8\"     watch three agents argue
  colloquy run --print-config        the configuration, to copy and change

Results go to stdout or the named file, everything else to stderr. Exit code 0: done, 1: failed, 2: wrong usage."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Run(Box<run::Args>),
    Resume(resume::Args),
    Verify(verify::Args),
    Report(report::Args),
    Debate(debate::Args),
    Generate(generate::Args),
    Score(score::Args),
    Train(train::Args),
    Eval(eval::Args),
    Grade(grade::Args),
    Session(session::Args),
    Merge(merge::Args),
    Bench(bench::Args),
    Info(info::Args),
    Completions(completions::Args),
}

/// The whole program, with the arguments of the process.
pub fn main() -> ExitCode {
    crate::experiment::heap::settle();
    #[cfg(unix)]
    if let Err(e) = interrupt::leave_nothing_behind() {
        let _ = writeln!(std::io::stderr(), "warning: signals are not watched for: {e}");
    }
    ExitCode::from(call(std::env::args_os()))
}

/// The command line. A negative number is a value, so that what is wrong with it can be said.
pub fn command() -> clap::Command {
    Cli::command().mut_subcommands(|subcommand| {
        subcommand.mut_args(|arg| match arg.get_action().takes_values() && !arg.is_positional() {
            true => arg.allow_negative_numbers(true),
            false => arg,
        })
    })
}

/// Parses the arguments, of which the first is the program's name, runs the command, prints an
/// error if there is one; the exit code.
pub fn call(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> u8 {
    let parsed = command().try_get_matches_from(arguments).and_then(|found| Cli::from_arg_matches(&found));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return e.exit_code() as u8;
        }
    };
    let result: Result<()> = match cli.command {
        Command::Run(args) => run::run(*args),
        Command::Resume(args) => resume::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Report(args) => report::run(args),
        Command::Debate(args) => debate::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Score(args) => score::run(args),
        Command::Train(args) => train::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Grade(args) => grade::run(args),
        Command::Session(args) => session::run(args),
        Command::Merge(args) => merge::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Info(args) => info::run(args),
        Command::Completions(args) => completions::run(args),
    };
    match result {
        Ok(()) => 0,
        Err(e) => {
            // The interrupt handler already printed the resume command.
            if !matches!(e, Error::Interrupted(_)) {
                let _ = writeln!(std::io::stderr(), "error: {}", e.one_line());
            }
            e.exit_code()
        }
    }
}
