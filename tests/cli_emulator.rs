//! The embedded example, shrunk, on the emulator: debate, vote, training and evaluation through the CUDA backend's own host code and kernels; and a run that is killed
//! and resumed ends with the same bytes as one that is not.
#![cfg(feature = "emulator")]

mod shell;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use shell::*;

fn small(output: &str) -> Vec<&str> {
    let mut args = vec!["run", "--device", "emulator", "--output", output];
    for setting in [
        "task.train_questions=2",
        "task.dev_questions=1",
        "task.max_operand=9",
        "debate.agents=2",
        "debate.min_agreement=1",
        "sampling.max_tokens=48",
        "sampling.summary_max_tokens=24",
        "run.iterations=1",
        "run.max_sequences=16",
    ] {
        args.extend(["--set", setting]);
    }
    args
}

/// What must be the same however often a run was interrupted.
fn results(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    tree(folder, &|name| name == ".lock" || name == "manifest.json" || name == "journal")
}

#[test]
fn a_run_on_the_emulator_is_whole_and_resumes_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &small("whole"));
    let whole = results(&dir.path().join("whole"));
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("whole/manifest.json")).unwrap()).unwrap();
    assert!(manifest["arithmetic"].as_str().unwrap().contains("emulator"), "{manifest}");
    let losses: Vec<f64> = read_lines(&dir.path().join("whole/metrics.jsonl"))
        .iter()
        .filter(|m| m["name"] == "training")
        .flat_map(|m| m.to_string().match_indices("\"loss\":").map(|(i, _)| i).collect::<Vec<_>>().into_iter().map({
            let text = m.to_string();
            move |i| text[i + 7..].split([',', '}']).next().unwrap().parse().unwrap()
        }).collect::<Vec<f64>>())
        .collect();
    assert!(!losses.is_empty() && losses.iter().all(|l| l.is_finite() && *l > 0.0), "{losses:?}");

    let mut child = colloquy(dir.path(), &small("killed"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // As soon as something is in the journal.
    let journal = dir.path().join("killed/journal");
    let began = Instant::now();
    let written = || {
        journal.exists() && tree(&journal, &|name| name.contains(".tmp")).values().any(|b| b.len() > 200)
    };
    while !written() && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(600), "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    succeed(dir.path(), &["resume", "killed"]);
    let resumed = results(&dir.path().join("killed"));
    assert_eq!(whole.keys().collect::<Vec<_>>(), resumed.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole {
        assert!(bytes == &resumed[name], "{name} differs");
    }
}
