//! Options that several commands share.

use std::path::PathBuf;

use clap::Args;

use crate::adapter::AdapterOrigin;
use crate::error::{Error, Result};
use crate::experiment::{DeviceOptions, Society, Wanted};
use crate::run::parse_bytes;

/// Where and how to compute.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Device")]
pub struct Common {
    /// auto, cpu, cuda, cuda:N, emulator, or cpu-bf16 (adapters, K and V rounded as on a GPU). auto
    /// takes a GPU if this build can use one, else the CPU, and says which.
    #[arg(long, value_name = "DEVICE", value_parser = parse_device)]
    pub device: Option<String>,
    /// CPU threads; 0 is all cores. Never changes results.
    #[arg(long, value_name = "N", value_parser = whole::<usize>)]
    pub threads: Option<usize>,
    /// Most memory to use, e.g. 3GiB. Never changes results.
    #[arg(long, value_name = "SIZE", value_parser = parse_memory, allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Seed of every draw.
    #[arg(long, value_name = "N", value_parser = whole::<u64>)]
    pub seed: Option<u64>,
}

impl Common {
    /// Without the seed.
    pub fn device(&self) -> DeviceOptions {
        let memory = self.memory.as_deref().and_then(parse_bytes);
        DeviceOptions { device: self.device.clone(), threads: self.threads, memory }
    }
}

/// A whole number from 0 on.
pub fn whole<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let number = text.parse::<u64>().map_err(|_| match text.strip_prefix('-') {
        Some(digits) if digits.parse::<f64>().is_ok() => "expected a whole number, 0 or more".to_string(),
        _ => "expected a whole number".to_string(),
    })?;
    T::try_from(number).map_err(|_| "expected a smaller number".to_string())
}

fn parse_device(text: &str) -> Result<String, String> {
    let cuda_n = text.strip_prefix("cuda:").is_some_and(|n| n.parse::<u32>().is_ok());
    if cuda_n || ["auto", "cpu", "cpu-bf16", "cuda", "emulator"].contains(&text) {
        Ok(text.to_string())
    } else {
        Err("expected auto, cpu, cpu-bf16, cuda, cuda:N or emulator".into())
    }
}

fn parse_memory(text: &str) -> Result<String, String> {
    parse_bytes(text).map(|_| text.to_string()).ok_or_else(|| "expected a size such as 3GiB or 800MiB".into())
}

/// Which model and which adapters.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// A Hugging Face model folder (config.json, *.safetensors, tokenizer.json),
    /// OWNER/NAME[@REVISION] of the Hugging Face hub, or `embedded`.
    #[arg(long, value_name = "MODEL")]
    pub model: Option<String>,
    /// A PEFT adapter (its folder, or OWNER/NAME[@REVISION] of the Hugging Face hub) and the name that
    /// records use for it. May be repeated.
    #[arg(long = "adapter", value_name = "NAME=DIR")]
    pub adapters: Vec<String>,
    /// A run folder: its base model and the adapters of one iteration (the last, unless @ITERATION is given).
    #[arg(long, value_name = "DIR[@ITERATION]", conflicts_with = "model")]
    pub society: Option<String>,
    /// With --society: which lane of the run, e.g. multiagent/seed-0 (the first, unless given).
    #[arg(long, value_name = "ARM/seed-S", requires = "society", conflicts_with = "model")]
    pub lane: Option<String>,
}

impl ModelArgs {
    /// For inference with what the options name.
    pub fn wanted(&self) -> Result<Wanted> {
        let mut model = self.model.clone();
        let mut adapters: Vec<(String, AdapterOrigin)> = Vec::new();
        if let Some(society) = &self.society {
            let society = Society::find(society, self.lane.as_deref())?;
            model = Some(society.base());
            adapters = society.adapters.into_iter().map(|(n, f)| (n, AdapterOrigin::Folder(f))).collect();
        }
        let model = model.ok_or_else(|| {
            Error::Usage(
                "no model: give --model DIR, --model OWNER/NAME, --model embedded or --society DIR".into(),
            )
        })?;
        let mut wanted = Wanted { adapters, ..Wanted::of_model(&model) };
        add_adapters(&mut wanted, &self.adapters)?;
        Ok(wanted)
    }
}

/// Adds `NAME=DIR` adapters.
pub fn add_adapters(wanted: &mut Wanted, texts: &[String]) -> Result<()> {
    for text in texts {
        let (name, folder) = name_value("adapter", text)?;
        if wanted.adapters.iter().any(|(n, _)| n == name) {
            return Err(Error::Usage(format!("--adapter {text}: two adapters are called `{name}`")));
        }
        wanted.adapters.push((name.to_string(), AdapterOrigin::Folder(folder.into())));
    }
    Ok(())
}

/// Splits `NAME=VALUE`.
pub fn name_value<'a>(option: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    match text.split_once('=') {
        Some((name, value)) if crate::run::is_name(name) && !value.is_empty() => Ok((name, value)),
        _ => Err(Error::Usage(format!("--{option} {text}: expected NAME=VALUE, e.g. --{option} critic-0=…"))),
    }
}

/// Input and output files.
#[derive(Args, Clone, Debug)]
pub struct Files {
    /// JSON Lines to read; `-` is stdin.
    #[arg(long, value_name = "FILE")]
    pub input: PathBuf,
    /// Where results go, JSON Lines in the order of the input; `-` is stdout.
    #[arg(long, value_name = "FILE")]
    pub output: PathBuf,
    /// Replace --output if it exists.
    #[arg(long)]
    pub force: bool,
}
