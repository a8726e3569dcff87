//! `colloquy verify`: a run confirms itself, and whatever is altered in it is found.

use std::path::{Path, PathBuf};

use crate::common::shell::runs::*;
use crate::common::shell::*;

/// A copy of the complete run.
fn copied() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    copy(&complete().join("run"), &dir.path().join("run"));
    dir
}

/// Changes a file of the run.
fn alter(dir: &Path, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let path = dir.join("run").join(name);
    let mut bytes = std::fs::read(&path).unwrap();
    change(&mut bytes);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Runs `verify run` with these options, expects that it finds something; what it prints.
fn finds(dir: &Path, options: &[&str]) -> String {
    let args = [&["verify", "run"], options].concat();
    let output = run(dir, &args);
    let e = one_error(&output, &args, 1);
    assert!(e.starts_with("run: ") && e.ends_with("from what the run puts out"), "{e}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_run_confirms_itself_and_is_left_alone() {
    let dir = copied();
    let before = tree(&dir.path().join("run"), &|_| false);
    let output = run(dir.path(), &["verify", "run", "--sample", "10", "--seed", "3"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let (err, out) = (stderr(&output), String::from_utf8(output.stdout).unwrap());
    assert!(err.contains("10 of ") && err.contains("1 of 4 trainings are made again (--seed 3)"), "{err}");
    assert!(out.contains("bit for bit") && !out.contains("differs"), "{out}");
    let out = succeed(dir.path(), &["verify", "run", "--all"]);
    assert!(out.contains("bit for bit") && !out.contains("differs"), "{out}");
    assert!(tree(&dir.path().join("run"), &|_| false) == before, "verify changed the folder");
    // Threads are not part of the arithmetic.
    succeed(dir.path(), &["verify", "run", "--sample", "4", "--threads", "1"]);
}

#[test]
fn an_altered_character_anywhere_is_found() {
    for (name, place) in [
        ("transcripts/multiagent/seed-0/iteration-1/train.jsonl", 700),
        ("transcripts/single-agent/seed-0/iteration-2/dev-debate.jsonl", 90),
        ("data/multiagent/seed-0/iteration-2/critic-0.jsonl", 40),
        ("metrics.jsonl", 400),
        ("adapters/multiagent/seed-0/iteration-1/generator-1/adapter_model.safetensors", 90_000),
        ("adapters/multiagent/seed-0/iteration-2/critic-0/adapter_config.json", 30),
        ("splits.json", 60),
    ] {
        let dir = copied();
        let path = alter(dir.path(), name, |bytes| bytes[place] ^= 1);
        // None is made again: these are held against the journal, whatever is drawn.
        let out = finds(dir.path(), &["--sample", "0", "--trainings", "0"]);
        let relative = path.strip_prefix(dir.path()).unwrap().display().to_string();
        assert!(out.contains(&format!("differs  {relative}")), "{name}: {out}");
        assert_eq!(out.matches("differs  ").count(), 1, "{name}: {out}");
    }
    let dir = copied();
    std::fs::remove_file(dir.path().join("run/transcripts/multiagent/seed-0/iteration-1/train.jsonl"))
        .unwrap();
    assert!(finds(dir.path(), &["--sample", "0"]).contains("train.jsonl: missing"));
    let dir = copied();
    alter(dir.path(), "metrics.jsonl", |bytes| {
        let again = String::from_utf8(bytes.clone())
            .unwrap()
            .lines()
            .nth(1)
            .unwrap()
            .replace("\"name\":\"", "\"name\":\"more-");
        bytes.extend(format!("{again}\n").bytes());
    });
    assert!(finds(dir.path(), &["--sample", "0"]).contains("the run does not put out this record"));
    let dir = copied();
    alter(dir.path(), "metrics.jsonl", |bytes| bytes.splice(..0, b" ".iter().copied()).for_each(drop));
    let out = finds(dir.path(), &["--sample", "0"]);
    assert!(out.contains("metrics.jsonl:1: found  {\"schema\":1}, expected {\"schema\":1}"), "{out}");
}

/// The journal's own sums find what chance alters; here it is altered as a forger would, sums and all.
fn forge(dir: &Path, lane: &str, from: &str, to: &str) -> String {
    let mut call = String::new();
    alter(dir, &format!("journal/{lane}.jsonl"), |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let mut lines: Vec<String> = text.lines().map(String::from).collect();
        let line = lines.iter_mut().find(|l| l.contains(from)).expect("a line to forge");
        call = serde_json::from_str::<serde_json::Value>(line).unwrap()["call"].as_str().unwrap().to_string();
        let body = format!("{{{}", &line[26..]).replacen(from, to, 1);
        let sum = body
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        *line = format!("{{\"sum\":\"{sum:016x}\",{}", &body[1..]);
        *bytes = (lines.join("\n") + "\n").into_bytes();
    });
    call
}

#[test]
fn a_journal_that_does_not_say_what_the_model_does_is_found_when_its_row_is_drawn() {
    // A log-probability nobody looks at: no other file shows it but the mean in the transcript.
    let dir = copied();
    let journal = std::fs::read_to_string(dir.path().join("run/journal/multiagent/seed-0.jsonl")).unwrap();
    let line = journal.lines().find(|l| l.contains("iteration-1/debate") && l.contains("logprobs")).unwrap();
    let values = line.split("\"logprobs\":[").nth(1).unwrap().split(']').next().unwrap();
    let altered = values.replacen('-', "-1", 1);
    let call = forge(dir.path(), "multiagent/seed-0", values, &altered);
    let out = finds(dir.path(), &["--all"]);
    assert!(out.contains(&format!("differs  {call}: log-probability of token")), "{out}");

    // The numbers that a training left behind.
    let dir = copied();
    let checkpoint = std::fs::read_dir(dir.path().join("run/journal/single-agent/seed-0"))
        .unwrap()
        .map(|e| e.unwrap().path())
        .max()
        .unwrap();
    let name = checkpoint.strip_prefix(dir.path().join("run")).unwrap().display().to_string();
    alter(dir.path(), &name, |bytes| {
        let place = bytes.len() - 5000;
        bytes[place] ^= 1;
    });
    let out = finds(dir.path(), &["--all"]);
    assert!(out.contains("differs  "), "{out}");
}

#[test]
fn a_damaged_journal_and_an_incomplete_run_are_told_apart() {
    let dir = copied();
    alter(dir.path(), "journal/multiagent/seed-0.jsonl", |bytes| {
        let place = bytes.len() / 2;
        bytes[place] ^= 1;
    });
    let out = finds(dir.path(), &["--sample", "3"]);
    assert!(out.contains("journal of multiagent/seed-0: ") && out.contains("damaged"), "{out}");

    let dir = copied();
    alter(dir.path(), "journal/multiagent/seed-0.jsonl", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        *bytes = (lines[..lines.len() * 2 / 3].join("\n") + "\n").into_bytes();
    });
    let out = succeed(dir.path(), &["verify", "run", "--sample", "3"]);
    assert!(out.contains("note     multiagent/seed-0 is not complete: its journal ends before"), "{out}");
}

#[test]
fn under_other_arithmetic_numbers_are_compared_within_a_tolerance() {
    let dir = copied();
    let args = ["verify", "run", "--device", "cpu-bf16", "--all"];
    let output = run(dir.path(), &args);
    assert!(output.status.success(), "{}{}", stderr(&output), String::from_utf8_lossy(&output.stdout));
    assert!(stderr(&output).contains("note: the run was computed with"), "{}", stderr(&output));
    assert!(String::from_utf8(output.stdout).unwrap().contains("within the tolerance"));
    // A token that was never drawn there is far from what its log-probability says.
    let journal = std::fs::read_to_string(dir.path().join("run/journal/multiagent/seed-0.jsonl")).unwrap();
    let line =
        journal.lines().find(|l| l.contains("iteration-1/debate") && l.contains("\"tokens\":[")).unwrap();
    let tokens = line.split("\"tokens\":[").nth(1).unwrap().split(']').next().unwrap();
    let mut altered: Vec<String> = tokens.split(',').map(String::from).collect();
    altered[2] = ((altered[2].parse::<u32>().unwrap() + 40) % 300).to_string();
    forge(dir.path(), "multiagent/seed-0", tokens, &altered.join(","));
    let out = finds(dir.path(), &["--device", "cpu-bf16", "--all"]);
    assert!(out.contains("log-probability of token"), "{out}");
}

#[test]
fn what_is_no_run_or_not_this_model_is_refused() {
    let dir = copied();
    assert!(fail(dir.path(), &["verify", "no"], 1).contains("no such run folder"));
    alter(dir.path(), "manifest.json", |bytes| {
        let text = String::from_utf8(bytes.clone()).unwrap();
        let at = text.find("\"sha256\"").unwrap();
        let hash = at + text[at..].find(": \"").unwrap() + 3;
        bytes[hash] = if bytes[hash] == b'0' { b'1' } else { b'0' };
    });
    let e = fail(dir.path(), &["verify", "run"], 1);
    assert!(e.contains("the model changed since the run began"), "{e}");
}
