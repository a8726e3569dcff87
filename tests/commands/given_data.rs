//! Data as users have it: with byte order marks, with numbers that no 64 bits hold, in formats that are not read.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::common::shell::*;
use serde_json::Value;

const MARK: &str = "\u{feff}";

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// The records that a command prints.
fn records(dir: &Path, args: &[&str]) -> Vec<Value> {
    succeed(dir, args).lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// The question and the reference of each record of an `eval` of a file.
fn questions_and_references(dir: &Path, task: &str, file: &str) -> Vec<(String, String)> {
    let mut args = vec!["eval", "--model", "embedded", "--task", task, "--data", file];
    args.extend(["--method", "greedy", "--output", "-", "--set", "sampling.max_tokens=1"]);
    let text = |record: &Value, key: &str| {
        record[key].as_str().unwrap_or_else(|| panic!("{key} in {record}")).to_string()
    };
    records(dir, &args).iter().map(|r| (text(r, "question"), text(r, "reference"))).collect()
}

/// Those of its one record.
fn question_and_reference(dir: &Path, task: &str, file: &str) -> (String, String) {
    let mut all = questions_and_references(dir, task, file);
    assert_eq!(all.len(), 1, "{file}");
    all.remove(0)
}

/// What `session` says to some lines, the greeting left out.
fn session(dir: &Path, lines: &str) -> Vec<String> {
    let mut child = colloquy(dir, &["session", "--model", "embedded"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().skip(1).map(String::from).collect()
}

#[test]
fn byte_order_marks_are_skipped_wherever_text_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let record = r#"{"question": "What is 1+1?", "answer": 2}"#;
    write(dir, "marked.jsonl", &format!("{MARK}{record}\n"));
    write(dir, "joined.jsonl", &format!("{MARK}{record}\n{MARK}{record}\n"));
    write(dir, "marked.json", &format!("{MARK}[{record}]"));
    for file in ["marked.jsonl", "joined.jsonl", "marked.json"] {
        let (question, reference) = question_and_reference(dir, "arithmetic", file);
        assert_eq!((&*question, &*reference), ("What is 1+1?", "2"), "{file}");
    }
    write(dir, "plain_test.csv", &format!("{MARK}Which is 2?,1,2,3,4,B\n"));
    write(dir, "quoted_test.csv", &format!("{MARK}\"Which, pray, is 2?\",1,2,3,4,B\n"));
    for (file, expected) in [("plain_test.csv", "Which is 2?"), ("quoted_test.csv", "Which, pray, is 2?")] {
        let (question, reference) = question_and_reference(dir, "mmlu", file);
        assert!(question.starts_with(expected) && reference == "B", "{file}: {question:?}");
    }
    write(dir, "texts.jsonl", &format!("{MARK}{{\"text\": \"a\", \"id\": 1}}\n"));
    assert_eq!(
        records(dir, &["score", "--model", "embedded", "--input", "texts.jsonl", "--output", "-"])[0]["id"],
        1
    );
    assert_eq!(
        session(dir, &format!("{MARK}{{\"id\": 1, \"op\": \"list\"}}\n")),
        [r#"{"id":1,"result":{"adapters":[]}}"#]
    );

    // The texts of a model folder.
    let model = dir.join("model");
    copy(&fixture("qwen3"), &model);
    let texts = ["config.json", "tokenizer_config.json", "tokenizer.json", "generation_config.json"];
    for name in texts.iter().filter(|name| model.join(name).exists()) {
        let text = std::fs::read_to_string(model.join(name)).unwrap();
        std::fs::write(model.join(name), format!("{MARK}{text}")).unwrap();
    }
    write(dir, "tokens.jsonl", "{\"tokens\": [1, 2, 3]}\n");
    let of =
        |model: &str| records(dir, &["score", "--model", model, "--input", "tokens.jsonl", "--output", "-"]);
    assert_eq!(of("model"), of(&fixture_str("qwen3")));
}

#[test]
fn numbers_beyond_64_bits_keep_their_digits() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let answers = [
        "123456789012345678901",
        "9007199254740993",
        "18446744073709551617",
        "0.12345678901234567891",
        "0.5",
    ];
    let of = |answer: &&str| format!("{{\"question\": {answer}, \"answer\": {answer}}}");
    let lines: Vec<String> = answers.iter().map(of).collect();
    write(dir, "q.jsonl", &lines.join("\n"));
    write(dir, "q.json", &format!("[{}]", lines.join(",")));
    for file in ["q.jsonl", "q.json"] {
        let read = questions_and_references(dir, "arithmetic", file);
        let expected: Vec<(String, String)> =
            answers.iter().map(|a| (a.to_string(), a.to_string())).collect();
        assert_eq!(read, expected, "{file}");
    }
    let ids =
        ["123456789012345678901234567890", "-0.12345678901234567891", "[1,{\"a\":18446744073709551616}]"];
    let starts = ids.map(|id| format!("{{\"id\":{id},"));
    let text = ids.map(|id| format!("{{\"id\": {id}, \"text\": \"a\", \"note\": 1e-400}}\n")).concat();
    write(dir, "in.jsonl", &text);
    for (command, output) in [("score", "-"), ("generate", "out.jsonl")] {
        let args = [command, "--model", "embedded", "--input", "in.jsonl", "--output", output];
        let mut written = succeed(dir, &args);
        if output != "-" {
            written = std::fs::read_to_string(dir.join(output)).unwrap();
        }
        assert_eq!(written.lines().count(), ids.len());
        let mut lines = written.lines().zip(&starts);
        assert!(lines.all(|(line, start)| line.starts_with(start)), "{command}: {written}");
    }
    let lines: String = ids
        .iter()
        .flat_map(|id| {
            [
                format!("{{\"op\": \"list\", \"id\": {id}}}\n"),
                format!("{{\"op\": \"sing\", \"id\": {id}}}\n"),
                format!("{{\"op\": \"score\", \"records\": [{{\"text\": \"a\", \"id\": {id}}}]}}\n"),
            ]
        })
        .collect();
    let answers = session(dir, &lines);
    assert_eq!(answers.len(), 3 * ids.len());
    for (three, id) in answers.chunks(3).zip(ids) {
        assert!(three[..2].iter().all(|a| a.starts_with(&format!("{{\"id\":{id},"))), "{three:?}");
        assert!(three[1].contains("unknown variant `sing`"), "{three:?}");
        assert!(three[2].contains(&format!("[{{\"id\":{id},")), "{three:?}");
    }
}

#[test]
fn other_formats_are_named_for_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("parquets")).unwrap();
    std::fs::write(dir.join("parquets/train.parquet"), b"PAR1").unwrap();
    let e = fail(dir, &["eval", "--model", "embedded", "--data", "parquets"], 1);
    assert!(e.contains("parquets: a folder without .jsonl") && e.contains("train.parquet"), "{e}");
    let e = fail(dir, &["score", "--model", "embedded", "--input", "parquets", "--output", "o"], 1);
    assert!(e.contains("parquets: found a folder, expected a file"), "{e}");
    for (bytes, expected) in [
        (&b"PAR1\x15\x04PAR1"[..], "found a Parquet file, expected text in UTF-8; convert it to JSON Lines"),
        (b"\x1f\x8b\x08\0\0\0", "found a gzip archive, expected text in UTF-8; decompress it first"),
        (b"\xff\xfe{\0}\0", "found text in UTF-16, expected text in UTF-8; save it as UTF-8"),
    ] {
        for name in ["data.jsonl", "data.json", "data_test.csv", "data"] {
            std::fs::write(dir.join(name), bytes).unwrap();
            let data = format!("a={name}");
            let read: [&[&str]; 5] = [
                &["eval", "--model", "embedded", "--task", "mmlu", "--data", name],
                &["score", "--model", "embedded", "--output", "o", "--input", name],
                &["generate", "--model", "embedded", "--output", "o", "--input", name],
                &[
                    "train",
                    "--model",
                    "embedded",
                    "--output",
                    "o",
                    "--adapter",
                    "a=new:rank=1",
                    "--data",
                    &data,
                ],
                &["debate", "--output", "o", "--input", name],
            ];
            for args in read {
                let e = fail(dir, args, 1);
                assert!(e.contains(&format!("{name}: {expected}")), "{args:?}: {e}");
            }
        }
    }
}
