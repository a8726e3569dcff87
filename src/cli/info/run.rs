//! A run folder.

use std::path::Path;

use serde_json::json;
use toml::{Table, Value as Toml};

use super::{Said, facts, plural};
use crate::cli::screen::quoted;
use crate::error::{Error, Result};
use crate::experiment::{bytes, model_commit};
use crate::hub::pinned;
use crate::recipe::Recipes;
use crate::report::{self, Run};
use crate::run::{utc, worker};

/// What it is.
pub fn say(folder: &Path) -> Result<Said> {
    let run = Run::read(folder, &Recipes::default().infos())?;
    let progress = run.progress();
    let worker = worker(folder);
    let state = match (&worker, progress.complete == progress.lanes) {
        (Some(_), _) => "running",
        (None, true) => "complete",
        (None, false) => "interrupted",
    };
    let mut lanes = Vec::new();
    for arm in &run.arms {
        for seed in run.arm_seeds(&arm.name) {
            let name = format!("{}/seed-{seed}", arm.name);
            let unfinished = progress.unfinished.iter().find(|(lane, _)| *lane == name);
            let done = unfinished.map_or(arm.iterations, |(_, last)| last.unwrap_or(0));
            lanes.push((name, arm.recipe.clone(), done, arm.iterations, unfinished.is_none()));
        }
    }
    let parts = parts(folder)?;
    let total: u64 = parts.iter().map(|p| p.bytes).sum();
    let m = &run.manifest;
    let text = |v: &serde_json::Value| v.as_str().unwrap_or("unknown").to_string();
    let model = pinned(&text(&m["model"]["path"]), model_commit(m).as_deref());
    let resume = format!("colloquy resume {}", quoted(folder));
    let is_open = state == "interrupted";

    let json = json!({
        "kind": "run", "folder": folder.display().to_string(), "state": state, "process": worker,
        "model": model, "device": m["device"], "program": m["program"], "created": m["created"],
        "configuration": configuration_json(&run.config),
        "lanes": lanes.iter().map(|(name, recipe, done, wanted, is_complete)| {
            json!({"lane": name, "recipe": recipe, "iterations": done, "wanted": wanted, "complete": is_complete})
        }).collect::<Vec<_>>(),
        "parts": parts.iter().map(|p| json!({"part": p.name, "files": p.files, "bytes": p.bytes})).collect::<Vec<_>>(),
        "bytes": total, "resume": is_open.then_some(&resume),
    });

    let described = match &worker {
        Some(process) => format!("running, in process {process}"),
        None => state.to_string(),
    };
    let program = format!("colloquy {}", text(&m["program"]["version"]));
    let begun = m["created"].as_u64().map_or("unknown".into(), |seconds| {
        let [year, month, day, hour, minute, _] = utc(seconds);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC, with {program}")
    });
    let mut page = facts(&[
        ("run", folder.display().to_string()),
        (
            "state",
            format!("{described}: {} of {} complete", progress.complete, plural(progress.lanes, "lane")),
        ),
        ("model", model),
        ("device", text(&m["device"])),
        ("begun", begun),
        ("task", task(&run.config)),
        ("debate", debate(&run.config)),
        ("training", training(&run.config)),
    ]);
    let rows: Vec<Vec<String>> = lanes
        .iter()
        .map(|(name, recipe, done, wanted, is_complete)| {
            let state = if *is_complete { "complete" } else { "" };
            vec![name.clone(), recipe.clone(), format!("{done} of {wanted}"), state.into()]
        })
        .collect();
    page.push('\n');
    page.push_str(&report::table(&["lane", "recipe", "iterations", ""], &rows));
    let rows: Vec<Vec<String>> = parts
        .iter()
        .map(|p| vec![p.name.clone(), p.files.to_string(), bytes(p.bytes as usize)])
        .chain([vec![
            "in all".into(),
            parts.iter().map(|p| p.files).sum::<usize>().to_string(),
            bytes(total as usize),
        ]])
        .collect();
    page.push('\n');
    page.push_str(&report::table(&["on disk", "files", "size"], &rows));
    if is_open {
        page.push_str(&format!("\nTo go on:\n  {resume}\n"));
    }
    Ok(Said { json, text: page })
}

/// A folder of a run, or all files beside the folders.
struct Part {
    name: String,
    files: usize,
    bytes: u64,
}

fn parts(folder: &Path) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut beside = Part { name: "other files".into(), files: 0, bytes: 0 };
    for entry in entries(folder)? {
        if entry.is_dir() {
            let name = entry.file_name().unwrap_or_default().to_string_lossy();
            let mut part = Part { name: format!("{name}/"), files: 0, bytes: 0 };
            measure(&entry, &mut part)?;
            parts.push(part);
        } else {
            measure(&entry, &mut beside)?;
        }
    }
    parts.push(beside);
    Ok(parts)
}

/// What is in a folder, sorted; links are left out.
fn entries(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        if !path.is_symlink() {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn measure(path: &Path, part: &mut Part) -> Result<()> {
    if path.is_dir() {
        return entries(path)?.iter().try_for_each(|p| measure(p, part));
    }
    match std::fs::metadata(path) {
        Ok(m) => {
            part.files += 1;
            part.bytes += m.len();
            Ok(())
        }
        // A run that goes on meanwhile renames its files.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(Error::io(path)(e)),
    }
}

/// A value of the configuration, as TOML writes it; texts without quotes.
fn get(config: &Table, section: &str, key: &str) -> String {
    match config.get(section).and_then(|s| s.get(key)) {
        None => "?".into(),
        Some(Toml::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

/// What of the configuration is told: section and key.
const TOLD: [(&str, &str); 13] = [
    ("task", "name"),
    ("task", "train_questions"),
    ("task", "dev_questions"),
    ("task", "test_questions"),
    ("debate", "agents"),
    ("debate", "rounds"),
    ("debate", "others"),
    ("sampling", "temperature"),
    ("sampling", "max_tokens"),
    ("adapter", "rank"),
    ("training", "learning_rate"),
    ("training", "num_epochs"),
    ("run", "iterations"),
];

fn configuration_json(config: &Table) -> serde_json::Value {
    let told = TOLD.iter().filter_map(|(section, key)| {
        let value = config.get(*section)?.get(*key)?;
        Some((format!("{section}.{key}"), serde_json::to_value(value).ok()?))
    });
    serde_json::Value::Object(told.collect())
}

fn task(config: &Table) -> String {
    let of = |key| get(config, "task", key);
    format!(
        "{}: {} train, {} dev, {} test questions",
        of("name"),
        of("train_questions"),
        of("dev_questions"),
        of("test_questions")
    )
}

fn debate(config: &Table) -> String {
    let of = |key| get(config, "debate", key);
    let sampling = |key| get(config, "sampling", key);
    format!(
        "{} agents, {} rounds, others by {}; temperature {}, at most {} tokens",
        of("agents"),
        of("rounds"),
        of("others"),
        sampling("temperature"),
        sampling("max_tokens")
    )
}

fn training(config: &Table) -> String {
    format!(
        "{} iterations of {} epochs, learning rate {}, adapters of rank {}",
        get(config, "run", "iterations"),
        get(config, "training", "num_epochs"),
        get(config, "training", "learning_rate"),
        get(config, "adapter", "rank")
    )
}
