//! What a run is: its manifest, and the questions of its splits.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::prepare::{ArmWork, Ready, lanes};
use super::watch::Watch;
use crate::error::{Error, Result};
use crate::recipe::Material;
use crate::run::*;
use crate::task;

/// What a run is: enough to know whether resuming it gives what it would have given.
pub fn manifest(plan: &Plan, ready: &Ready) -> Result<Value> {
    let Ready { session, arms, .. } = ready;
    let model: Map<String, Value> =
        session.files.contents().map(|(name, bytes)| (name, json!(sha256(bytes)))).collect();
    session.files.release();
    let mut data = Map::new();
    let mut prompts = Map::new();
    for work in arms {
        let sections = std::iter::once(&work.arm.config.task).chain(&work.arm.config.transfer);
        for path in sections.flat_map(task::data_files) {
            data.insert(path.display().to_string(), json!(sha256_file(&path)?));
        }
        let of = |prefix: &str, material: &Material| -> Map<String, Value> {
            let sources = material.task.prompts.sources().iter();
            sources.map(|(name, text)| (format!("{prefix}{name}"), json!(sha256(text.as_bytes())))).collect()
        };
        let mut sources = of("", &work.own);
        sources.extend(work.transfer.iter().flat_map(|t| of("transfer/", t)));
        prompts.insert(work.arm.name.clone(), Value::Object(sources));
    }
    let asks = |arm: &&Arm| arm.recipe.asks_for_labels;
    let asks_for_labels: Vec<&str> = plan.arms.iter().filter(asks).map(|a| a.name.as_str()).collect();
    let mut base = json!({"path": plan.config.model.path, "sha256": model});
    if let Some(commit) = &session.commit {
        base["commit"] = json!(commit);
    }
    let created =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    Ok(json!({
        "schema": SCHEMA,
        "program": {"name": "colloquy", "version": env!("CARGO_PKG_VERSION"), "commit": option_env!("COLLOQUY_COMMIT")},
        "created": created,
        "device": session.device,
        "arithmetic": session.arithmetic,
        "lanes": lanes(plan).iter().map(Lane::name).collect::<Vec<_>>(),
        "seeds": plan.config.run.seeds,
        "asks_for_labels": asks_for_labels,
        "model": base,
        "data_sha256": data,
        "prompts_sha256": prompts,
        "splits": "splits.json",
    }))
}

/// The files that say what a run is, of one that goes on under a larger configuration. It stays the
/// run that it was when it began.
pub fn extend_folder(
    folder: &RunFolder,
    plan: &Plan,
    ready: &Ready,
    then: &Value,
    mut manifest: Value,
) -> Result<()> {
    for key in ["program", "created", "device", "arithmetic"] {
        manifest[key] = then[key].clone();
    }
    folder.write("splits.json", &pretty("splits.json", &splits(&ready.arms))?)?;
    folder.write("config.toml", to_toml(&plan.config)?.as_bytes())?;
    folder.write("manifest.json", &pretty("manifest.json", &manifest)?)
}

/// Refuses to go on with another model, data or prompts (of the arms it has) than those of the manifest `then` in
/// `folder`; warns where only the bits may differ.
pub fn check_manifest(folder: &Path, then: &Value, now: &Value, watch: &mut dyn Watch) -> Result<()> {
    let place = folder.join("manifest.json");
    let kept = |key: &str| match (&then[key], &now[key]) {
        (Value::Object(then), Value::Object(now)) => then.iter().all(|(name, v)| now.get(name) == Some(v)),
        (then, now) => then == now,
    };
    for (key, what) in
        [("model", "the model"), ("data_sha256", "the data"), ("prompts_sha256", "the prompts")]
    {
        if !kept(key) {
            return Err(Error::input(
                format!("{}: {key}", place.display()),
                format!("{what} changed since the run began; this would mix two runs"),
            ));
        }
    }
    for (key, what) in [("program", "another version of the program"), ("arithmetic", "other arithmetic")] {
        if then[key] != now[key] {
            watch.warn(format!(
                "the run began with {what} ({}, now {}); bits may differ from an uninterrupted run",
                then[key], now[key]
            ));
        }
    }
    Ok(())
}

/// Ids of all questions, by arm; training questions also by seed, where each seed draws its own.
pub fn splits(arms: &[ArmWork]) -> Value {
    let ids = |questions: &[task::Question]| questions.iter().map(|q| json!(q.id)).collect::<Vec<_>>();
    let of_arm = |work: &ArmWork| {
        let q = &work.own.questions;
        let mut value = json!({"train": ids(&q.train), "dev": ids(&q.dev), "test": ids(&q.test)});
        let by_seed =
            work.arm.seeds.iter().map(|&s| (format!("seed-{s}"), json!(ids(&work.of_seed(s).train))));
        value["train_by_seed"] = Value::Object(by_seed.collect());
        if let Some(transfer) = &work.transfer {
            value["transfer-dev"] = ids(&transfer.questions.dev).into();
            value["transfer-test"] = ids(&transfer.questions.test).into();
        }
        (work.arm.name.clone(), value)
    };
    Value::Object(arms.iter().map(of_arm).collect())
}
