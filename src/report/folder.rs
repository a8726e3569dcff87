//! What a run folder holds, read for reports. A folder that is not complete, or that an older version made, has less in
//! it.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Error, Result};
use crate::measure::record::{Evaluation, Line, SPLITS, Time};
use crate::run::{RecipeInfo, read_manifest, read_metrics, read_times};

/// A run folder's results.
pub struct Run {
    /// The folder.
    pub folder: PathBuf,
    /// What it is called among several runs: the last part of its path.
    pub name: String,
    /// manifest.json.
    pub manifest: Value,
    /// config.toml.
    pub config: toml::Table,
    /// splits.json: ids of the questions by arm and split.
    pub splits: Value,
    /// metrics.jsonl.
    pub metrics: Vec<Line>,
    /// times.jsonl; empty where times were not kept.
    pub times: Vec<Time>,
    /// In the order of the configuration.
    pub arms: Vec<Arm>,
}

/// An arm of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Arm {
    /// Its name.
    pub name: String,
    /// Its recipe's name.
    pub recipe: String,
    /// What is known of its recipe.
    pub info: RecipeInfo,
    /// What it sets otherwise than the run, by dotted path.
    pub overrides: Vec<(String, String)>,
    /// Whether its training saw right answers.
    pub uses_labels: bool,
    /// Iterations it is to train.
    pub iterations: u64,
}

/// How far a lane is.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// The lanes that have all their iterations.
    pub complete: usize,
    /// All lanes.
    pub lanes: usize,
    /// Every lane that has not, and the last iteration that it has measured; none if it has measured nothing.
    pub unfinished: Vec<(String, Option<u64>)>,
}

impl Run {
    /// Reads a run folder; `recipes` are the known ones. One that is not among them is taken for a variant that trains.
    pub fn read(folder: &Path, recipes: &[RecipeInfo]) -> Result<Self> {
        let manifest = read_manifest(folder)?;
        let path = folder.join("config.toml");
        let text = if path.exists() {
            std::fs::read_to_string(&path).map_err(Error::io(&path))?
        } else {
            String::new()
        };
        let config: toml::Table =
            toml::from_str(&text).map_err(|e| Error::file(&path, e.message().replace('\n', " ")))?;
        let path = folder.join("splits.json");
        let splits = if path.exists() {
            let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
            serde_json::from_str(&text).map_err(|e| Error::file(&path, e))?
        } else {
            Value::Null
        };
        let metrics = read_metrics(folder)?;
        let times = read_times(folder)?;
        let arms = arms(&config, &manifest, &metrics, recipes);
        let absolute = std::fs::canonicalize(folder).map_err(Error::io(folder))?;
        let name = absolute.file_name().map_or("run".into(), |n| n.to_string_lossy().into_owned());
        Ok(Self { folder: folder.to_path_buf(), name, manifest, config, splits, metrics, times, arms })
    }

    /// The primary comparison, as the configuration names it.
    pub fn primary(&self) -> Option<&toml::Table> {
        self.config.get("report")?.get("primary")?.as_table()
    }

    /// The seeds, in order.
    pub fn seeds(&self) -> Vec<u64> {
        let of = |v: &Value| v.as_array().map(|a| a.iter().filter_map(Value::as_u64).collect::<Vec<_>>());
        of(&self.manifest["seeds"]).unwrap_or_default()
    }

    /// The seeds of one arm's lanes, in order.
    pub fn arm_seeds(&self, arm: &str) -> Vec<u64> {
        let Some(lanes) = self.manifest["lanes"].as_array() else { return self.seeds() };
        let seed = |lane: &Value| {
            let (name, seed) = lane.as_str()?.rsplit_once("/seed-")?;
            if name == arm { seed.parse().ok() } else { None }
        };
        lanes.iter().filter_map(seed).collect()
    }

    /// The evaluations of an arm on a split.
    pub fn evaluations<'a>(
        &'a self,
        arm: &'a str,
        split: &'a str,
    ) -> impl Iterator<Item = (&'a Line, &'a Evaluation)> {
        let of_arm = self.metrics.iter().filter(move |line| line.arm == arm);
        of_arm.filter_map(move |line| Some((line, line.evaluation(split)?)))
    }

    /// The splits that something was measured on: dev, test, then those of other tasks.
    pub fn measured_splits(&self) -> Vec<&'static str> {
        SPLITS.into_iter().filter(|s| self.metrics.iter().any(|l| l.evaluation(s).is_some())).collect()
    }

    /// How far the run is: a lane is complete once it has measured its last iteration on dev questions.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress { complete: 0, lanes: 0, unfinished: Vec::new() };
        for arm in &self.arms {
            for seed in self.arm_seeds(&arm.name) {
                progress.lanes += 1;
                let last_on = |split| {
                    let own = self.evaluations(&arm.name, split).filter(|(line, _)| line.seed == seed);
                    own.map(|(line, _)| line.iteration).max()
                };
                let last = last_on("dev");
                let done = last == Some(arm.iterations);
                let has_test = self.config_number("task", "test_questions") == 0 || last_on("test") == last;
                match done && has_test {
                    true => progress.complete += 1,
                    false => progress.unfinished.push((format!("{}/seed-{seed}", arm.name), last)),
                }
            }
        }
        progress
    }

    fn config_number(&self, section: &str, key: &str) -> i64 {
        self.config.get(section).and_then(|s| s.get(key)).and_then(|v| v.as_integer()).unwrap_or(0)
    }
}

/// The arms of a configuration that have lanes, and those that a grid made of them (`NAME@key=value,…`), in the order
/// of the lanes.
fn arms(config: &toml::Table, manifest: &Value, metrics: &[Line], recipes: &[RecipeInfo]) -> Vec<Arm> {
    let string = |t: &toml::Value, key: &str| t.get(key).and_then(|v| v.as_str()).map(String::from);
    let sections = config.get("arm").and_then(|a| a.as_array()).map(Vec::as_slice).unwrap_or_default();
    let iterations =
        config.get("run").and_then(|r| r.get("iterations")).and_then(|v| v.as_integer()).unwrap_or(0);
    let mut names: Vec<String> = Vec::new();
    for lane in manifest["lanes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let name = lane.rsplit_once("/seed-").map_or(lane, |(name, _)| name);
        if !names.iter().any(|n| n == name) {
            names.push(name.into());
        }
    }
    let of = |name: String| {
        let (base, point) = name.split_once('@').unwrap_or((&name, ""));
        let is = |wanted: &str| sections.iter().find(|s| string(s, "name").as_deref() == Some(wanted));
        // A configuration without arms has one that is called as its recipe.
        let section = is(&name).or_else(|| is(base));
        let recipe = section.and_then(|s| string(s, "recipe")).unwrap_or_else(|| base.to_string());
        let mut overrides = Vec::new();
        if let Some(set) = section.and_then(|s| s.get("set")) {
            flatten("", set, &mut overrides);
        }
        if is(&name).is_none() {
            overrides.extend(
                point.split(',').filter_map(|p| p.split_once('=')).map(|(k, v)| (k.into(), v.into())),
            );
        }
        let own = overrides.iter().find(|(k, _)| k == "run.iterations").and_then(|(_, v)| v.parse().ok());
        let planned = own.unwrap_or(iterations.max(0) as u64);
        let info = recipes.iter().find(|r| r.name == recipe).copied().unwrap_or(RecipeInfo::new("", ""));
        Arm {
            uses_labels: metrics.iter().any(|line| line.arm == name && line.record.asks_for_labels()),
            iterations: if info.is_trained { planned } else { 0 },
            info,
            name,
            recipe,
            overrides,
        }
    };
    names.into_iter().map(of).collect()
}

/// Every value below `value`, by dotted path, as TOML writes it. Tables of an array are called by their `name`, or by
/// their number.
pub fn flatten(path: &str, value: &toml::Value, out: &mut Vec<(String, String)>) {
    let join = |key: &str| if path.is_empty() { key.to_string() } else { format!("{path}.{key}") };
    match value {
        toml::Value::Table(table) => table.iter().for_each(|(k, v)| flatten(&join(k), v, out)),
        toml::Value::Array(items) if items.iter().any(toml::Value::is_table) => {
            for (i, item) in items.iter().enumerate() {
                let name = item.get("name").and_then(|n| n.as_str()).map_or(i.to_string(), String::from);
                flatten(&format!("{path}[{name}]"), item, out);
            }
        }
        other => out.push((path.to_string(), other.to_string())),
    }
}
