//! The command line itself: names that are nearly right, numbers out of range, and what is said first of several wrong things.

use crate::common::shell::*;
use crate::errors::{GOOD, edit_json, model, write};
use serde_json::json;

#[test]
fn a_configuration_that_is_not_there_is_asked_about() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "c.yaml", "debate:\n  agents: 3\n");
    for (args, expected) in [
        (&["run", "qick"][..], "qick: no such file and no built-in configuration; did you mean `quick`?"),
        (
            &["run", "something-else"],
            "something-else: no such file and no built-in configuration; there are default, quick",
        ),
        (
            &["run", "some/where.toml"],
            "some/where.toml: no such file and no built-in configuration (`colloquy run --list`",
        ),
        (&["run", "."], ".: found a folder, expected a configuration file"),
        (&["run", "c.yaml"], "c.yaml: found .yaml, expected TOML"),
        (&["run", "--dry-run", "--output", "."], ".: exists already"),
    ] {
        let e = fail(dir.path(), args, 1);
        assert!(e.starts_with(expected), "{args:?}: {e}");
    }
    let e = fail(dir.path(), &["run", "--print-config", "qick"], 2);
    assert!(e.contains("did you mean `quick`?"), "{e}");
    let e = fail(dir.path(), &["run", "--set", "model.path=\"./nowhere\""], 1);
    assert!(e.starts_with("model.path: ") && e.contains("nowhere"), "{e}");
}

#[test]
fn a_negative_number_is_a_value_that_is_out_of_range() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "in.jsonl", GOOD);
    let score = ["score", "--model", "m", "--input", "in.jsonl", "--output", "o"];
    let train = ["train", "--model", "m", "--output", "o", "--adapter", "a=new", "--data", "a=in.jsonl"];
    for (args, expected) in [
        (
            [&score[..], &["--threads", "-1"]].concat(),
            "invalid value '-1' for '--threads <N>': expected a whole number, 0 or more",
        ),
        ([&score[..], &["--seed", "-1"]].concat(), "'--seed <N>': expected a whole number, 0 or more"),
        ([&score[..], &["--seed", "1.5"]].concat(), "'--seed <N>': expected a whole number"),
        ([&score[..], &["--memory", "-3GiB"]].concat(), "'--memory <SIZE>': expected a size such as 3GiB"),
        ([&train[..], &["--batch-size", "-1"]].concat(), "--batch-size -1: expected a whole number"),
        (
            [&train[..], &["--learning-rate", "-1e-3"]].concat(),
            "--learning-rate -1e-3: expected a number >= 0",
        ),
        ([&train[..], &["--lr", "-1"]].concat(), "--learning-rate -1: expected a number >= 0"),
        ([&train[..], &["--epochs", "0"]].concat(), "--num-epochs 0: expected at least 1"),
        ([&train[..], &["--bs", "x"]].concat(), "--batch-size x: expected a whole number"),
        (vec!["eval", "--questions", "-1"], "'--questions <N>': expected a whole number, 0 or more"),
        (vec!["eval", "--agents", "-1"], "'--agents <N>': expected a whole number, 0 or more"),
        (vec!["bench", "--rank", "-1"], "'--rank <R>': expected a whole number, 0 or more"),
        (vec!["run", "--seeds", "0,-1"], "'--seeds <N,N>': expected a whole number, 0 or more"),
    ] {
        let output = run(dir.path(), &args);
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(expected), "{args:?}: {text}");
    }
    let config = succeed(dir.path(), &["run", "--seeds", "3,5", "--print-config", "--dry-run"]);
    let seeds: String = config.split_whitespace().collect();
    assert!(seeds.contains("seeds=[3,5,]") || seeds.contains("seeds=[3,5]"), "{config}");
}

#[test]
fn more_threads_than_cores_are_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    write(dir.path(), "in.jsonl", GOOD);
    let score = ["score", "--model", "model", "--input", "in.jsonl", "--output", "-", "--threads"];
    let cores = std::thread::available_parallelism().unwrap().get();
    let e = fail(dir.path(), &[&score[..], &["1000000"]].concat(), 1);
    assert!(e.starts_with("threads: found 1000000, expected at most 1024"), "{e}");
    for (threads, is_warned) in [(cores + 1, true), (cores, false)] {
        let output = run(dir.path(), &[&score[..], &[&threads.to_string()]].concat());
        assert!(output.status.success());
        let said = stderr(&output).contains(&format!("warning: {threads} threads on {cores} cores"));
        assert_eq!(said, is_warned, "{}", stderr(&output));
    }
}

#[test]
fn the_news_comes_first() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    // What is no model that this program knows lacks more than its weights.
    std::fs::remove_file(dir.path().join("model/model.safetensors")).unwrap();
    for command in
        [&["info", "model"][..], &["score", "--model", "model", "--input", "in.jsonl", "--output", "o"]]
    {
        write(dir.path(), "in.jsonl", GOOD);
        let e = fail(dir.path(), command, 1);
        assert!(e.contains("found no weights"), "{e}");
    }
    edit_json(&dir.path().join("model/config.json"), |c| {
        c["architectures"] = json!(["Gemma2ForCausalLM"]);
        c["model_type"] = json!("gemma2");
    });
    for command in
        [&["info", "model"][..], &["score", "--model", "model", "--input", "in.jsonl", "--output", "o"]]
    {
        let e = fail(dir.path(), command, 1);
        assert!(e.contains("Gemma2ForCausalLM") && !e.contains("weights"), "{e}");
    }
    // A folder of adapters names them.
    let e = fail(dir.path(), &["info", "model/adapters"], 1);
    assert!(e.contains("below it are model/adapters/a, model/adapters/b"), "{e}");
    // Before the model is looked at.
    write(dir.path(), "in.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}");
    let args = ["train", "--model", "no", "--adapter", "a=new", "--data", "a=in.jsonl", "--output", "o"];
    assert!(fail(dir.path(), &args, 1).contains("no turn of the assistant"));
    let e = fail(dir.path(), &["eval", "--model", "embedded", "--task", "gsm8k"], 1);
    assert!(e.contains("task.data: missing") && e.contains("--data FILE"), "{e}");
}
