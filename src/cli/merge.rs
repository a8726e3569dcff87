//! `colloquy merge`: an adapter and its base as one model folder.

use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;

use super::common::name_value;
use super::screen::Screen;
use crate::adapter::read_peft_on;
use crate::error::{Error, Result};
use crate::experiment::{Society, bytes, models, warn_of_other_base};
use crate::model::{MergedType, adapter_layout, merge};

/// Options of `merge`.
#[derive(ClapArgs, Debug)]
#[command(
    about = "Merge an adapter into its base: a model folder that needs no adapter",
    long_about = "Writes a model folder whose weights are W + s B A: the base with one adapter merged in. Sums \
                  are exact to f64 and rounded once. Everything else of the folder (tokenizer, chat template, \
                  generation settings) is copied, and the division into files is the base's. The folder appears \
                  whole or not at all.",
    override_usage = "colloquy merge --model <DIR> --adapter <NAME=DIR> --output <DIR> [OPTIONS]\n       \
                      colloquy merge --society <DIR[@ITERATION]> [--lane <ARM/seed-S>] --adapter <NAME> \
                      --output <DIR> [OPTIONS]",
    after_help = "Example:
  colloquy merge --society runs/mine --adapter generator-0 --output merged --dtype bf16
  colloquy score --model merged --input texts.jsonl --output -"
)]
pub struct Args {
    /// A Hugging Face model folder, OWNER/NAME[@REVISION] of the Hugging Face hub, or `embedded`.
    #[arg(long, value_name = "DIR", required_unless_present = "society")]
    model: Option<String>,
    /// The adapter: a PEFT folder or OWNER/NAME[@REVISION] of the Hugging Face hub and a name for
    /// it, or with --society the name of one of the lane's.
    #[arg(long, value_name = "NAME=DIR")]
    adapter: String,
    /// A run folder: its base model and the adapters of one iteration (the last, unless @ITERATION is given).
    #[arg(long, value_name = "DIR[@ITERATION]", conflicts_with = "model")]
    society: Option<String>,
    /// With --society: which lane of the run, e.g. multiagent/seed-0 (the first, unless given).
    #[arg(long, value_name = "ARM/seed-S", requires = "society", conflicts_with = "model")]
    lane: Option<String>,
    /// Folder for the merged model.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Type of the merged weights: f32, bf16 or f16 [default: the base's].
    #[arg(long, value_name = "TYPE", value_parser = parse_type)]
    dtype: Option<MergedType>,
    /// Replace --output if it is a model folder.
    #[arg(long)]
    force: bool,
}

fn parse_type(text: &str) -> Result<MergedType, String> {
    MergedType::parse(text).ok_or_else(|| "expected f32, bf16 or f16".into())
}

/// Runs it.
pub fn run(args: Args) -> Result<()> {
    let screen = Screen::new();
    let (model, name, adapter) = sources(&args)?;
    check_output(&args.output, args.force, &[Path::new(&model), &adapter])?;
    let files = models::open(&model, &mut &screen)?.files;
    let config = models::config(&files, &mut &screen)?;
    let adapter = models::adapter(&adapter, &mut &screen)?;
    let snapshot = read_peft_on(&adapter, &adapter_layout(&config), &files)?;
    warn_of_other_base(&adapter, &name, &files, &mut &screen)?;
    let merged = merge(&files, &config, &snapshot, args.dtype, &args.output)?;
    screen.line(&format!(
        "merged   {name} into {} of {} tensors, {}",
        merged.changed,
        merged.tensors,
        bytes(merged.bytes)
    ));
    screen.line(&format!("written  {}", args.output.display()));
    Ok(())
}

/// The base, and the adapter's name and folder.
fn sources(args: &Args) -> Result<(String, String, PathBuf)> {
    let text = &args.adapter;
    let Some(society) = &args.society else {
        let (name, folder) = name_value("adapter", text)?;
        return Ok((args.model.clone().unwrap_or_default(), name.to_string(), folder.into()));
    };
    let society = Society::find(society, args.lane.as_deref())?;
    if text.contains('=') {
        let (name, folder) = name_value("adapter", text)?;
        return Ok((society.base(), name.to_string(), folder.into()));
    }
    let known: Vec<&str> = society.adapters.iter().map(|(n, _)| n.as_str()).collect();
    match society.adapters.iter().find(|(n, _)| n == text) {
        Some((name, folder)) => Ok((society.base(), name.clone(), folder.clone())),
        None => Err(Error::Usage(format!(
            "--adapter {text}: {} has after iteration {} of {} {}",
            society.folder.display(),
            society.iteration,
            society.lane,
            if known.is_empty() {
                "no adapters".to_string()
            } else {
                format!("the adapters {}", known.join(", "))
            }
        ))),
    }
}

/// That `output` is new, or with `force` a model folder that may go: it is replaced whole, so it
/// must be nothing else and hold nothing that is merged.
fn check_output(output: &Path, force: bool, sources: &[&Path]) -> Result<()> {
    if !output.exists() && !output.is_symlink() {
        return Ok(());
    }
    if !force {
        return Err(Error::file(output, "exists already; choose another --output, or --force to replace it"));
    }
    let is_empty = || std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_none());
    let replaceable =
        output.is_dir() && !output.is_symlink() && (output.join("config.json").is_file() || is_empty());
    if !replaceable {
        return Err(Error::file(output, "is not a model folder; --force replaces only those"));
    }
    let real = output.canonicalize().map_err(Error::io(output))?;
    match sources.iter().find(|s| s.canonicalize().is_ok_and(|s| s.starts_with(&real))) {
        Some(source) => {
            let problem = format!("holds {}, which is merged; choose another --output", source.display());
            Err(Error::file(output, problem))
        }
        None => Ok(()),
    }
}
