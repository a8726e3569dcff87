//! The embedded example, shrunk, on the emulator: debate, vote, training and evaluation through the CUDA backend's own host code and kernels; and a run that is killed
//! or whose device fails, and that is resumed, ends with the same bytes as one that is not. What has no kernel is refused before any work.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::shell::*;
use crate::common::tiny::{self, TINY};
use colloquy::backend::Backend;
use colloquy::backend::cuda::CudaBackend;
use colloquy::backend::cuda::emulator::Emulator;
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use serde_json::{Value, json};

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

/// What must be the same however often a run was interrupted: all but dates, times, and the journal's order.
fn results(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    tree(folder, &|name| [".lock", "manifest.json", "times.jsonl", "report.html", "journal"].contains(&name))
}

fn args(output: &str) -> [&str; 4] {
    ["run", "small.toml", "--output", output]
}

/// A folder with the configuration.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("small.toml"), SMALL).unwrap();
    dir
}

/// The journal's only lane, which must have whole lines only: how many.
fn journalled(folder: &Path) -> usize {
    let text = std::fs::read_to_string(folder.join("journal/multiagent/seed-0.jsonl")).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    lines(&text).len()
}

/// Runs on a device with this fault.
fn with_fault(dir: &Path, fault: &str, args: &[&str]) -> Output {
    colloquy(dir, args).env("COLLOQUY_EMULATOR_FAULT", fault).output().expect("the binary starts")
}

#[test]
fn a_run_on_the_emulator_is_whole_and_resumes_with_the_same_bytes() {
    let dir = folder();
    let run = dir.path().join("whole");
    succeed(dir.path(), &args("whole"));
    let manifest: Value = serde_json::from_slice(&std::fs::read(run.join("manifest.json")).unwrap()).unwrap();
    assert!(manifest["arithmetic"].as_str().unwrap().contains("emulator"), "{manifest}");
    let trained = read_lines(&run.join("metrics.jsonl"))
        .into_iter()
        .filter(|m| m["name"] == "training")
        .collect::<Vec<_>>();
    let text = serde_json::to_string(&trained).unwrap();
    assert!(text.contains("critic-0") && text.contains("generator-0"), "{text}");
    let whole = results(&run);
    let adapters = whole.keys().filter(|n| n.ends_with("adapter_model.safetensors")).count();
    assert_eq!(adapters, 4, "{:?}", whole.keys());

    let broken = dir.path().join("broken");
    let mut child =
        colloquy(dir.path(), &args("broken")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // As soon as something is in the journal.
    let journal = broken.join("journal");
    let began = Instant::now();
    let written =
        || journal.exists() && tree(&journal, &|name| name.contains(".tmp")).values().any(|b| b.len() > 200);
    while !written() && child.try_wait().unwrap().is_none() {
        assert!(began.elapsed() < Duration::from_secs(600), "nothing happens");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    // Then the device fails, while it samples and while it trains.
    let all = journalled(&run);
    let mut before = 0;
    let resume = ["resume", "broken"];
    for kernel in ["lm_head_sample", "adamw"] {
        let launch = if kernel == "adamw" { 2 } else { 60 };
        let output = with_fault(dir.path(), &format!("{kernel}:{launch}"), &resume);
        let e = one_error(&output, &resume, 1);
        let expected =
            format!("device: CUDA error 700 CUDA_ERROR_ILLEGAL_ADDRESS: kernel {kernel} with grid [");
        assert!(e.starts_with(&expected) && e.contains(" threads, "), "{e}");
        assert!(e.contains(" bytes of shared memory"), "{e}");
        assert!(stderr(&output).contains("colloquy resume broken"), "{}", stderr(&output));
        let kept = journalled(&broken);
        assert!(before < kept && kept < all, "{kernel}: {kept} calls of {all}, {before} before");
        before = kept;
    }
    assert!(!broken.join("adapters").exists(), "no adapter of a training that failed is kept");
    let output = colloquy(dir.path(), &resume).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(!stderr(&output).contains("warning"), "{}", stderr(&output));
    let resumed = results(&broken);
    assert_eq!(whole.keys().collect::<Vec<_>>(), resumed.keys().collect::<Vec<_>>());
    for (name, bytes) in &whole {
        assert!(bytes == &resumed[name], "{name} differs");
    }
}

#[test]
fn a_fault_that_cannot_be_is_an_error() {
    let dir = folder();
    for (fault, expected) in [
        ("adamw", "COLLOQUY_EMULATOR_FAULT: found \"adamw\", expected KERNEL:N"),
        ("adamw:0", "found \"adamw:0\", expected KERNEL:N"),
        ("nothing:1", "COLLOQUY_EMULATOR_FAULT: there is no kernel \"nothing\""),
    ] {
        let output = with_fault(dir.path(), fault, &args("out"));
        let e = one_error(&output, &args("out"), 1);
        assert!(e.contains(expected), "{e}");
        assert!(!dir.path().join("out").exists());
    }
}

#[test]
fn an_arithmetic_that_the_emulator_does_not_have_is_an_error() {
    let dir = folder();
    let output = colloquy(dir.path(), &args("out")).env("COLLOQUY_EMULATOR_MMA", "nearest").output().unwrap();
    let e = one_error(&output, &args("out"), 1);
    let expected = "COLLOQUY_EMULATOR_MMA: found \"nearest\", expected round, ampere or hopper";
    assert!(e.contains(expected), "{e}");
    assert!(!dir.path().join("out").exists());
}

/// The step of the prompts is one launch list; the three decoding steps after it share another,
/// which the run that does not count has captured. Of the very first step, the list was cut where
/// memory for operations was taken, so the prompts' list is new to the run that counts; with the
/// base alone it is captured there.
#[test]
fn a_bench_counts_what_became_of_launch_lists() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        [
            &[
                "bench",
                "decode",
                "--device",
                "emulator",
                "--shape",
                "tiny",
                "--adapters",
                "1",
                "--batch",
                "2",
            ][..],
            &["--prompt", "12", "--new-tokens", "3", "--repeats", "1", "--json", "b.json"],
        ]
        .concat();
    let out = succeed(dir.path(), &args);
    let report: Value = serde_json::from_slice(&std::fs::read(dir.path().join("b.json")).unwrap()).unwrap();
    for (who, launched, captured) in [("1 adapters", 1, 0), ("base", 0, 1)] {
        let row = report["society"].as_array().unwrap().iter().find(|row| row["who"] == who).unwrap();
        assert_eq!(
            row["graphs"],
            json!({"launched": launched, "captured": captured, "replayed": 3}),
            "{report}"
        );
        let line = format!(
            "graphs   decode, {who}: {launched} launched one by one, {captured} captured, 3 replayed"
        );
        assert!(out.lines().any(|l| l == line), "{out}");
    }
}

fn edit_json(path: &Path, field: &str, value: Value) {
    let mut object: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    object[field] = value;
    std::fs::write(path, object.to_string()).unwrap();
}

#[test]
fn a_rank_without_a_kernel_is_refused_before_any_work() {
    let dir = folder();
    copy(&fixture("llama"), &dir.path().join("model"));
    std::fs::write(dir.path().join("in.jsonl"), "{\"tokens\": [1, 5, 9, 12]}\n").unwrap();
    let adapter = dir.path().join("model/adapters/a/adapter_config.json");
    let score =
        "score --device emulator --model model --adapter a=model/adapters/a --input in.jsonl --output o";
    let score: Vec<&str> = score.split(' ').collect();
    let place = "model/adapters/a/adapter_config.json, field ";
    edit_json(&adapter, "r", json!(129));
    let e = fail(dir.path(), &score, 1);
    assert!(e.contains(&format!("{place}r: found 129, expected a whole rank from 1 to 128")), "{e}");
    edit_json(&adapter, "r", json!(4));
    edit_json(&adapter, "rank_pattern", json!({"q_proj": 200}));
    let e = fail(dir.path(), &score, 1);
    assert!(
        e.contains(&format!("{place}rank_pattern: found 200, expected a whole rank from 1 to 128")),
        "{e}"
    );

    let new = "train --device emulator --model model --adapter a=new:rank=129 --data a=in.jsonl --output o";
    let e = fail(dir.path(), &new.split(' ').collect::<Vec<_>>(), 2);
    assert!(e.contains("found rank 129, expected 1 to 128"), "{e}");

    let config = format!("{SMALL}\n[adapter]\nrank = 129\n");
    std::fs::write(dir.path().join("small.toml"), config).unwrap();
    let e = fail(dir.path(), &args("o"), 1);
    assert!(e.contains("small.toml:") && e.contains(": adapter.rank: found 129, expected 1 to 128"), "{e}");
    assert!(!dir.path().join("o").exists());
}

#[test]
fn a_head_size_without_a_kernel_is_refused_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture("llama"), &dir.path().join("model"));
    std::fs::write(dir.path().join("in.jsonl"), "{\"tokens\": [1, 5, 9, 12]}\n").unwrap();
    let config = dir.path().join("model/config.json");
    let score = "score --device emulator --model model --input in.jsonl --output o";
    let score: Vec<&str> = score.split(' ').collect();
    succeed(dir.path(), &[&score[..], &["--force"]].concat());
    std::fs::remove_file(dir.path().join("o")).unwrap();
    for size in [8, 20, 136] {
        edit_json(&config, "head_dim", json!(size));
        let e = fail(dir.path(), &score, 1);
        let expected = format!(
            "model/config.json, field head_dim: found {size}, expected a head size that is a multiple of 8 from 16 to 128"
        );
        assert!(e.contains(&expected), "{e}");
    }
    // Where it is not given, it follows from these two.
    edit_json(&config, "head_dim", Value::Null);
    edit_json(&config, "hidden_size", json!(80));
    edit_json(&config, "num_attention_heads", json!(4));
    let e = fail(dir.path(), &score, 1);
    let expected =
        "field num_attention_heads: found 4, which makes heads of hidden_size / 4 = 20, expected a head size";
    assert!(e.contains(expected), "{e}");
    assert!(!dir.path().join("o").exists());
}

/// Rows are read 16 bytes at a time, so their widths are multiples of 8; the CPU has no such limit.
#[test]
fn a_width_without_a_kernel_is_refused_before_any_upload() {
    for (field, model) in [
        ("hidden_size", tiny::Tiny { hidden: 36, ..TINY }),
        ("intermediate_size", tiny::Tiny { intermediate: 52, ..TINY }),
    ] {
        let folder = model.folder();
        let found = if field == "hidden_size" { 36 } else { 52 };
        let expected =
            format!("config.json, field {field}: found {found}, expected a multiple of 8 on the emulator");
        let files = ModelFiles::open(folder.path()).unwrap();
        let config = ModelConfig::read(&files).unwrap();
        let mut backend = CudaBackend::new(Box::new(Emulator::new(1)));
        let Err(e) = Model::load(&files, config, &mut backend, LoadOptions::default()) else {
            panic!("{field}: not refused");
        };
        assert!(e.to_string().contains(&expected), "{e}");
        assert_eq!(backend.bytes_in_use(), 0);

        let at = folder.path();
        std::fs::write(at.join("in.jsonl"), "{\"tokens\": [1, 5, 9, 12]}\n").unwrap();
        let score = ["score", "--model", ".", "--input", "in.jsonl", "--output", "o", "--device"];
        let e = fail(at, &[&score[..], &["emulator"]].concat(), 1);
        assert!(e.contains(&expected), "{e}");
        assert!(!at.join("o").exists());
        succeed(at, &[&score[..], &["cpu"]].concat());
    }
}
