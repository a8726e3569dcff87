//! Adapters of the hub, and paths of its cache as people write them.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;

use crate::common::hub_server::*;
use crate::common::shell::*;
use serde_json::{Value, json};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// A folder to run in, a hub whose repository is an adapter of the fixture `llama`, and its commit.
fn desk(files: BTreeMap<String, Vec<u8>>) -> (tempfile::TempDir, Hub, String) {
    let (dir, hub) = (tempfile::tempdir().unwrap(), Hub::start());
    let record = json!({"tokens": [1, 5, 9, 12], "adapter": "x"});
    std::fs::write(dir.path().join("in.jsonl"), format!("{record}\n")).unwrap();
    let commit = hub.commit("main", files);
    (dir, hub, commit)
}

fn adapter(name: &str) -> BTreeMap<String, Vec<u8>> {
    let mut files = files_of(&fixture(&format!("llama/adapters/{name}")));
    for more in ["README.md", "training_args.bin", "tokenizer.json", "optimizer.pt"] {
        files.insert(more.into(), b"not needed".to_vec());
    }
    files
}

fn ask(dir: &Path, hub: &Hub, args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = colloquy(dir, args);
    for (name, _) in std::env::vars() {
        let upper = name.to_uppercase();
        if upper.starts_with("HF_") || upper.ends_with("_PROXY") || upper.ends_with("_OFFLINE") {
            command.env_remove(name);
        }
    }
    command.env("HF_HOME", dir.join("home")).env("HF_ENDPOINT", hub.endpoint());
    command.envs(environment.iter().copied()).output().unwrap()
}

fn score(dir: &Path, hub: &Hub, adapter: &str, environment: &[(&str, &str)]) -> Output {
    let (model, adapter) = (fixture_str("llama"), format!("x={adapter}"));
    let args = [
        "score",
        "--model",
        &model,
        "--adapter",
        &adapter,
        "--input",
        "in.jsonl",
        "--output",
        "-",
        "--device",
        "cpu",
    ];
    ask(dir, hub, &args, environment)
}

fn scored(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_adapter_is_downloaded_once_and_found_without_a_network() {
    let (dir, hub, commit) = desk(adapter("a"));
    let local = scored(&score(dir.path(), &hub, &fixture_str("llama/adapters/a"), &[]));
    assert_eq!(hub.lines(), [""; 0], "a folder needs no network");
    let output = score(dir.path(), &hub, REPOSITORY, &[]);
    assert_eq!(scored(&output), local);
    assert!(
        stderr(&output).contains(&format!("hub      test/model is commit {commit}")),
        "{}",
        stderr(&output)
    );
    let info = "GET /api/models/test/model/revision/main".to_string();
    let expected = [
        info.clone(),
        format!("GET /large/{commit}/{WEIGHTS}"),
        format!("GET /test/model/resolve/{commit}/{CONFIG}"),
        format!("GET /test/model/resolve/{commit}/{WEIGHTS}"),
    ];
    assert_eq!(hub.lines(), expected, "nothing else of it is needed");
    assert_eq!(scored(&score(dir.path(), &hub, REPOSITORY, &[])), local);
    assert_eq!(hub.lines(), [info]);
    let pinned = format!("{REPOSITORY}@{commit}");
    for (name, environment) in [(pinned.as_str(), &[][..]), (REPOSITORY, &[("HF_HUB_OFFLINE", "1")][..])] {
        assert_eq!(scored(&score(dir.path(), &hub, name, environment)), local);
        assert_eq!(hub.lines(), [""; 0], "{name}");
    }
    // Another branch is another adapter.
    hub.commit("v2", adapter("b"));
    let other = scored(&score(dir.path(), &hub, &format!("{REPOSITORY}@v2"), &[]));
    assert_eq!(other, scored(&score(dir.path(), &hub, &fixture_str("llama/adapters/b"), &[])));
    assert_ne!(other, local);
    // A folder of that name wins.
    copy(&fixture("llama/adapters/b"), &dir.path().join(REPOSITORY));
    hub.requests();
    assert_eq!(scored(&score(dir.path(), &hub, REPOSITORY, &[])), other);
    assert_eq!(hub.lines(), [""; 0]);
}

#[test]
fn every_command_takes_adapters_of_the_hub() {
    let (dir, hub, _) = desk(adapter("a"));
    let model = fixture_str("llama");
    let local = format!("x={}", fixture_str("llama/adapters/a"));
    let named = format!("x={REPOSITORY}");
    let mut merged = Vec::new();
    for (source, output) in [(&local, "from-folder"), (&named, "from-hub")] {
        scored(&ask(
            dir.path(),
            &hub,
            &["merge", "--model", &model, "--adapter", source, "--output", output],
            &[],
        ));
        merged.push(std::fs::read(dir.path().join(output).join("model.safetensors")).unwrap());
        let trained = format!("trained-{output}");
        let args = [
            "train",
            "--model",
            &model,
            "--adapter",
            source,
            "--data",
            "x=data.jsonl",
            "--output",
            &trained,
            "--device",
            "cpu",
        ];
        std::fs::write(dir.path().join("data.jsonl"), "{\"tokens\": [1, 5, 9, 12]}\n").unwrap();
        scored(&ask(dir.path(), &hub, &args, &[]));
        merged.push(std::fs::read(dir.path().join(trained).join("x").join(WEIGHTS)).unwrap());
    }
    assert_eq!(merged[..2], merged[2..]);
    let output = ask(dir.path(), &hub, &["info", REPOSITORY, "--json"], &[]);
    let json: Value = serde_json::from_str(&scored(&output)).unwrap();
    assert_eq!((&json["kind"], &json["shapes"][0]["rank"]), (&json!("adapter"), &json!(4)));
    let output = ask(dir.path(), &hub, &["info", REPOSITORY], &[("HF_HUB_OFFLINE", "1")]);
    assert!(scored(&output).starts_with("adapter  "), "{}", scored(&output));
}

#[test]
fn a_repository_that_is_something_else_says_what_it_is() {
    let (dir, hub, _) = desk(adapter("a"));
    let error = |environment: &[(&str, &str)], name: &str| {
        one_error(&score(dir.path(), &hub, name, environment), &["score", name], 1)
    };
    // A trainer's output.
    let mut output = BTreeMap::new();
    for step in ["checkpoint-9", "checkpoint-10"] {
        output.extend(adapter("a").into_iter().map(|(name, bytes)| (format!("{step}/{name}"), bytes)));
    }
    hub.commit("trainer", output);
    let e = error(&[], "test/model@trainer");
    assert!(
        e.starts_with("test/model@trainer: found no adapter_config.json, expected a PEFT adapter; "),
        "{e}"
    );
    assert!(e.contains("the folders checkpoint-9, checkpoint-10 inside"), "{e}");
    // A model.
    hub.commit("model", files_of(&fixture("llama")));
    let e = error(&[], "test/model@model");
    assert_eq!(e, "test/model@model: found no adapter_config.json, expected a PEFT adapter");
    // Weights in another format, or none.
    let mut files = adapter("a");
    let weights = files.remove(WEIGHTS).unwrap();
    hub.commit("none", files.clone());
    assert!(error(&[], "test/model@none").ends_with("found no weights, expected adapter_model.safetensors"));
    files.insert("adapter_model.bin".into(), weights);
    hub.commit("bin", files);
    assert!(
        error(&[], "test/model@bin").ends_with("found adapter_model.bin, expected adapter_model.safetensors")
    );
    // Nothing.
    let e = error(&[], "test/nothing");
    assert!(e.contains("an adapter folder of this name is not here either"), "{e}");
    let e = error(&[("HF_HUB_OFFLINE", "1")], "test/nothing");
    assert!(e.contains("HF_HUB_OFFLINE is set") && e.contains("or give an adapter folder"), "{e}");
    let e = error(&[], "neither/a/name");
    assert!(
        e.contains("found no folder, expected a PEFT folder with adapter_config.json, or OWNER/NAME"),
        "{e}"
    );
    // An adapter as a model.
    let args = ["score", "--model", REPOSITORY, "--input", "in.jsonl", "--output", "-"];
    let e = one_error(&ask(dir.path(), &hub, &args, &[]), &args, 1);
    assert!(e.contains("test/model, adapter_config.json: found an adapter, expected a model"), "{e}");
}

#[test]
fn paths_of_the_cache_are_expanded() {
    let (dir, hub, _) = desk(adapter("a"));
    let home = dir.path().to_str().unwrap();
    let expected = scored(&score(dir.path(), &hub, REPOSITORY, &[("HOME", home), ("HF_HOME", "~/mine")]));
    assert!(dir.path().join("mine/hub/models--test--model").is_dir());
    let base = [("HOME", home), ("HF_HUB_OFFLINE", "1")];
    for (name, path) in [
        ("HF_HOME", "~/mine"),
        ("HF_HOME", "$HOME/mine"),
        ("HF_HUB_CACHE", "${HOME}/mine/hub"),
        ("HF_HUB_CACHE", "~/mine/hub"),
        ("HUGGINGFACE_HUB_CACHE", "$HOME/mine/hub"),
    ] {
        let output = score(dir.path(), &hub, REPOSITORY, &[&base[..], &[(name, path)]].concat());
        assert_eq!(scored(&output), expected, "{name}={path}");
    }
    std::fs::write(dir.path().join("token"), "hf_mine\n").unwrap();
    hub.requests();
    scored(&score(dir.path(), &hub, REPOSITORY, &[("HOME", home), ("HF_TOKEN_PATH", "~/token")]));
    assert_eq!(hub.requests()[0].token.as_deref(), Some("hf_mine"));
    let places: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(!places.iter().any(|name| name.contains(['~', '$'])), "{places:?}");
}
