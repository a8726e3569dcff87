//! The embedded example, shrunk, on the emulator: debate, vote, training and evaluation through the CUDA backend's own host code and kernels; and a run that is killed
//! and resumed ends with the same bytes as one that is not.
#![cfg(feature = "emulator")]

mod shell;

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use shell::*;

/// A run that debates, finds pseudo-labels, trains generators and critics, and evaluates.
const SMALL: &str = r#"
[task]
name = "arithmetic"
max_operand = 9
train_questions = 2
dev_questions = 1

[debate]
agents = 2
rounds = 2
others = "concatenate"
min_agreement = 1

[sampling]
max_tokens = 100

[eval]
before = false
methods = ["greedy"]

[run]
iterations = 1
device = "emulator"

[[arm]]
name = "multiagent"
recipe = "multiagent"
"#;

/// What must be the same however often a run was interrupted.
fn results(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    tree(folder, &|name| [".lock", "manifest.json", "times.jsonl", "report.html", "journal"].contains(&name))
}

#[test]
fn a_run_on_the_emulator_is_whole_and_resumes_with_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("small.toml"), SMALL).unwrap();
    let args = |output| ["run", "small.toml", "--output", output];
    succeed(dir.path(), &args("whole"));
    let whole = results(&dir.path().join("whole"));
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("whole/manifest.json")).unwrap()).unwrap();
    assert!(manifest["arithmetic"].as_str().unwrap().contains("emulator"), "{manifest}");
    let trained = read_lines(&dir.path().join("whole/metrics.jsonl"))
        .into_iter()
        .filter(|m| m["name"] == "training")
        .collect::<Vec<_>>();
    let text = serde_json::to_string(&trained).unwrap();
    assert!(text.contains("critic-0") && text.contains("generator-0"), "{text}");
    let adapters = whole.keys().filter(|n| n.ends_with("adapter_model.safetensors")).count();
    assert_eq!(adapters, 4, "{:?}", whole.keys());

    let mut child =
        colloquy(dir.path(), &args("killed")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // As soon as something is in the journal.
    let journal = dir.path().join("killed/journal");
    let began = Instant::now();
    let written =
        || journal.exists() && tree(&journal, &|name| name.contains(".tmp")).values().any(|b| b.len() > 200);
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
