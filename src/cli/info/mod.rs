//! `colloquy info`: what a model, an adapter or a run is.

mod adapter;
mod model;
mod run;

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use serde_json::Value;

use super::common::whole;
use super::screen::{Screen, out};
use crate::adapter::ADAPTER_CONFIG;
use crate::error::{Error, Result};
use crate::experiment::models::{self, Place};
use crate::files::names_in;
use crate::model::{CONFIG, EMBEDDED};

/// Options of `info`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Describe a model, an adapter or a run",
    long_about = "Describes a folder: what it is, and what is in it.\n\n\
                  A model (a folder, `embedded`, or OWNER/NAME of the hub; no weights are downloaded): its \
                  shape, its files, and the memory that sampling and training take on each device, from the \
                  same plan that every command makes before it starts.\n\n\
                  An adapter (a PEFT folder, or OWNER/NAME of the hub): its ranks, scales and \
                  modules, its base, and whether it has the optimizer's state.\n\n\
                  A run: its configuration, the progress of its lanes, what takes how much space, and the \
                  command that resumes it.",
    after_help = "Examples:
  colloquy info embedded
  colloquy info HuggingFaceTB/SmolLM2-135M-Instruct --adapters 12 --rank 8
  colloquy info runs/first
  colloquy info runs/first/adapters/multiagent/seed-0/iteration-2/critic-0"
)]
pub struct Args {
    /// A model, a PEFT folder or a run folder.
    #[arg(value_name = "MODEL|ADAPTER|RUN")]
    what: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Of a model: adapters in the memory plans.
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = whole::<usize>)]
    adapters: usize,
    /// Of a model: their rank.
    #[arg(long, value_name = "R", default_value_t = 16, value_parser = whole::<usize>)]
    rank: usize,
    /// Of a model: tokens of each sequence in the memory plans (at most its context).
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = whole::<usize>)]
    tokens: usize,
}

/// What there is to say, for programs and for people.
struct Said {
    json: Value,
    text: String,
}

/// What a path names.
enum Kind {
    Model,
    Adapter(PathBuf),
    Run(PathBuf),
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Screen::new();
    let said = match kind(&args.what)? {
        Kind::Model => match model::say(&args, &screen)? {
            Some(said) => said,
            None => adapter::say(&models::adapter(Path::new(&args.what), &mut &screen)?)?,
        },
        Kind::Adapter(folder) => adapter::say(&folder)?,
        Kind::Run(folder) => run::say(&folder)?,
    };
    if !args.json {
        return out(&said.text);
    }
    let json = serde_json::to_string_pretty(&said.json).map_err(|e| Error::Internal(e.to_string()))?;
    out(&(json + "\n"))
}

fn kind(what: &str) -> Result<Kind> {
    let path = Path::new(what);
    if what == EMBEDDED {
        return Ok(Kind::Model);
    }
    if !path.exists() {
        return match models::place(what) {
            Ok(Place::Hub(_)) => Ok(Kind::Model),
            _ => Err(Error::input(
                what,
                "found no such folder, expected a model, a PEFT adapter, a run, or OWNER/NAME of the Hugging Face hub",
            )),
        };
    }
    let has = |file: &str| path.join(file).is_file();
    // A PEFT folder may have its base's config.json too.
    match (has("manifest.json"), has(ADAPTER_CONFIG), has(CONFIG)) {
        (true, ..) => Ok(Kind::Run(path.into())),
        (_, true, _) => Ok(Kind::Adapter(path.into())),
        (_, _, true) => Ok(Kind::Model),
        _ if !path.is_dir() => {
            Err(Error::file(path, "found a file, expected the folder of a model, an adapter or a run"))
        }
        _ => {
            let below = below(path);
            let below =
                if below.is_empty() { String::new() } else { format!("; below it are {}", below.join(", ")) };
            let problem = format!(
                "found neither manifest.json (of a run) nor {ADAPTER_CONFIG} (of a PEFT adapter) nor {CONFIG} \
                 (of a model){below}"
            );
            Err(Error::file(path, problem))
        }
    }
}

/// Most folders that [`below`] names, and looks into.
const MOST_BELOW: (usize, usize) = (8, 1000);

/// Runs, adapters and models in the folders of a folder, three levels down, in order; links are not followed.
fn below(folder: &Path) -> Vec<String> {
    let (mut found, mut looked) = (Vec::new(), 0);
    let mut waiting = vec![(folder.to_path_buf(), 0)];
    while let Some((at, depth)) = waiting.pop() {
        looked += 1;
        if looked > MOST_BELOW.1 {
            break;
        }
        if depth > 0 && ["manifest.json", ADAPTER_CONFIG, CONFIG].iter().any(|f| at.join(f).is_file()) {
            if found.len() == MOST_BELOW.0 {
                found.push("…".into());
                break;
            }
            found.push(at.display().to_string());
        } else if depth < 3 {
            let entries = names_in(&at).into_iter().map(|name| at.join(name));
            let folders = entries.filter(|path| path.is_dir() && !path.is_symlink());
            waiting.extend(folders.rev().map(|path| (path, depth + 1)));
        }
    }
    found
}

/// Width of a page.
const WIDTH: usize = 80;
/// Where values begin.
const LABEL: usize = 16;

/// Labels and values, one a line; long values go on below where they can be broken.
fn facts(facts: &[(&str, String)]) -> String {
    let mut text = String::new();
    for (label, value) in facts {
        let mut line = format!("{label:<LABEL$}");
        let mut is_first = true;
        for word in value.split(' ') {
            if !is_first && line.chars().count() + 1 + word.chars().count() > WIDTH {
                text.push_str(line.trim_end());
                text.push('\n');
                line = " ".repeat(LABEL);
                is_first = true;
            }
            if !is_first {
                line.push(' ');
            }
            line.push_str(word);
            is_first = false;
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1 file`, `2 files`.
fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_fit_the_page() {
        let long = "word ".repeat(30);
        let text = facts(&[("label", "value".into()), ("long", long.trim().into())]);
        assert!(text.starts_with("label           value\nlong            word"), "{text}");
        assert!(text.lines().all(|l| l.len() <= WIDTH), "{text}");
        assert_eq!(text.matches("word").count(), 30);
        assert_eq!(text.lines().nth(2).map(|l| l.len() - l.trim_start().len()), Some(LABEL));
    }
}
