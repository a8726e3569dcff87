//! `colloquy grade`: what is read of given answers, whether they are equal, and the summary.

use serde_json::{Value, json};

use crate::common::shell::*;

fn write(folder: &std::path::Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(folder.join("a.jsonl"), text).unwrap();
}

fn graded(folder: &std::path::Path, args: &[&str]) -> Vec<Value> {
    let all = [&["grade", "--answers", "a.jsonl", "--output", "-"], args].concat();
    lines(&succeed(folder, &all))
}

#[test]
fn answers_are_read_as_the_task_reads_them_and_the_rule_is_told() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        &[
            json!({"id": 1, "response": "7 and 9, \\boxed{18}", "reference": "9+9\n#### 18"}),
            json!({"id": "b", "response": "it is 17", "reference": "#### 18", "source": "x"}),
            json!({"response": "none", "reference": "#### 18"}),
            json!({"answers": ["1/2", 0]}),
        ],
    );
    let read = graded(dir.path(), &["--task", "gsm8k"]);
    assert_eq!(
        read[0],
        json!({"id": 1, "read": ["18", "18"], "written": ["18", " 18"], "rules": ["boxed", "after-hashes"],
               "equality": "number", "equal": true})
    );
    assert_eq!((&read[1]["read"], &read[1]["equal"]), (&json!(["17", "18"]), &json!(false)));
    assert_eq!(read[1]["rules"], json!(["last-number", "after-hashes"]));
    assert_eq!((&read[2]["read"], &read[2]["rules"]), (&json!([null, "18"]), &json!([null, "after-hashes"])));
    assert_eq!(read[3]["rules"], json!(["whole", "whole"]));

    let output = run(dir.path(), &["grade", "--task", "gsm8k", "--answers", "a.jsonl"]);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.contains("equal                1 of 4, 25.0 % [4.6, 69.9] (95 %, Wilson)"), "{text}");
    assert!(text.contains("without an answer    1"), "{text}");
    assert!(stderr(&output).contains("ignored  source (1 record)"), "{}", stderr(&output));
}

#[test]
fn tasks_of_ones_own_and_numbers_of_many_digits_are_graded() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("a.jsonl"),
        "{\"id\": 123456789012345678901234567890, \"answers\": [123456789012345678901, \"123456789012345678902\"]}\n",
    )
    .unwrap();
    let text = succeed(
        dir.path(),
        &[
            "grade",
            "--task",
            "custom",
            "--set",
            "task.equality=number",
            "--answers",
            "a.jsonl",
            "--output",
            "-",
        ],
    );
    assert!(text.contains("\"id\":123456789012345678901234567890,"), "{text}");
    assert!(text.contains("\"equal\":false") && text.contains("\"123456789012345678901\""), "{text}");

    std::fs::write(
        dir.path().join("own.toml"),
        "[task]\nname = \"custom\"\nextraction = \"regex\"\npattern = \"=> (.*)\"\nequality = \"exact\"\n",
    )
    .unwrap();
    write(dir.path(), &[json!({"response": "so => red", "reference": "red"})]);
    assert_eq!(graded(dir.path(), &["--task", "own.toml"])[0]["equal"], json!(true));
}

#[test]
fn what_cannot_be_graded_is_one_error() {
    let dir = tempfile::tempdir().unwrap();
    let error = |line: Value, code| {
        write(dir.path(), &[line]);
        fail(dir.path(), &["grade", "--task", "math", "--answers", "a.jsonl"], code)
    };
    assert!(
        error(json!({"response": "1"}), 1).contains("a.jsonl:1: found `response`, expected `response` with")
    );
    assert!(error(json!({"answers": ["1"]}), 1).contains("answers: found [\"1\"], expected a list of two"));
    assert!(error(json!({"answers": [0.5, "1"]}), 1).contains("answers[0]: found 0.5, expected a string"));
    assert!(error(json!([1]), 1).contains("expected an object"));
    assert!(
        error(json!({"response": "1", "reference": "1", "choices": 40}), 1).contains("choices: found 40")
    );
    let e = fail(dir.path(), &["grade", "--task", "maths", "--answers", "a.jsonl"], 2);
    assert!(e.contains("--task maths: expected one of arithmetic, gsm8k, math, mmlu, custom"), "{e}");
}
