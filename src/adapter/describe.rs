//! What a PEFT folder says of itself, without the model that it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::PeftConfig;
use super::init::scale;
use super::peft::{Base, OPTIMIZER, WEIGHTS, copied_module};
use crate::error::{Error, Result};
use crate::files::TensorFile;

/// A PEFT folder.
#[derive(Clone, Debug, PartialEq)]
pub struct Description {
    /// The model it is for, if it names one.
    pub base: Option<Base>,
    /// Modules by rank, alpha and scale, each as many as there are.
    pub shapes: Vec<(Shape, usize)>,
    /// Whether scales are alpha / sqrt(rank).
    pub rslora: bool,
    /// Last components of its modules' names, sorted.
    pub targets: Vec<String>,
    /// Rate of dropout in training.
    pub dropout: f64,
    /// Numbers of A and B.
    pub parameters: usize,
    /// Modules of the base of which the file has a copy, which must be the base's own.
    pub copies: Vec<String>,
    /// Types they are stored in.
    pub types: Vec<String>,
    /// Bytes of the file of weights.
    pub bytes: u64,
    /// Steps of the optimizer whose state is there, and the bytes of its file.
    pub optimizer: Option<(u32, u64)>,
}

/// Rank, alpha and scale of a module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Rows of A.
    pub rank: usize,
    /// `lora_alpha`, or that of `alpha_pattern`.
    pub alpha: f64,
    /// The factor of B A x.
    pub scale: f32,
}

/// Reads adapter_config.json and the headers of the files beside it.
pub fn describe(folder: &Path) -> Result<Description> {
    let config = PeftConfig::read(folder)?;
    let rslora = config.rslora;
    let file = TensorFile::open(&folder.join(WEIGHTS))?;
    let ranks = ranks(&file)?;
    let mut shapes: Vec<(Shape, usize)> = Vec::new();
    for (module, rank) in &ranks {
        let alpha = config.alpha_of(module)?;
        let shape = Shape { rank: *rank, alpha, scale: scale(alpha, *rank, rslora) };
        match shapes.iter_mut().find(|(s, _)| *s == shape) {
            Some((_, count)) => *count += 1,
            None => shapes.push((shape, 1)),
        }
    }
    let targets: BTreeSet<&str> = ranks.keys().map(|m| m.rsplit('.').next().unwrap_or(m)).collect();
    let numbers = |name| file.shape(name).map_or(0, |s| s.iter().product());
    let own = || file.names().filter(|name| copied_module(name).is_none());
    let types: BTreeSet<String> =
        own().filter_map(|n| file.raw(n)).map(|(t, ..)| format!("{t:?}").to_lowercase()).collect();
    Ok(Description {
        base: config.base.map(|name| Base { name, revision: config.revision }),
        shapes,
        rslora,
        targets: targets.into_iter().map(String::from).collect(),
        dropout: config.dropout,
        parameters: own().map(numbers).sum(),
        copies: file.names().filter_map(copied_module).map(String::from).collect(),
        types: types.into_iter().collect(),
        bytes: file.bytes().len() as u64,
        optimizer: optimizer(folder)?,
    })
}

/// Modules and their ranks, by the tensors' names and shapes.
fn ranks(file: &TensorFile) -> Result<BTreeMap<&str, usize>> {
    let mut ranks = BTreeMap::new();
    for name in file.names().filter(|name| copied_module(name).is_none()) {
        let module = name.strip_prefix("base_model.model.").and_then(|rest| rest.strip_suffix(".weight"));
        match (module.and_then(|m| m.rsplit_once('.')), file.shape(name)) {
            (Some((module, "lora_A")), Some(&[rank, _])) if rank > 0 => drop(ranks.insert(module, rank)),
            (Some((_, "lora_B")), Some(&[_, _])) => {}
            _ => {
                return Err(Error::input(
                    format!("{}, tensor {name}", file.place()),
                    "found something else than a matrix lora_A or lora_B of a module",
                ));
            }
        }
    }
    match ranks.is_empty() {
        true => Err(Error::input(file.place(), "found no tensors, expected those of an adapter")),
        false => Ok(ranks),
    }
}

fn optimizer(folder: &Path) -> Result<Option<(u32, u64)>> {
    let path = folder.join(OPTIMIZER);
    if !path.exists() {
        return Ok(None);
    }
    let file = TensorFile::open(&path)?;
    let steps = file.metadata("steps").and_then(|s| s.parse().ok());
    let steps =
        steps.ok_or_else(|| Error::file(&path, "metadata steps: found none, expected a number of steps"))?;
    Ok(Some((steps, file.bytes().len() as u64)))
}
