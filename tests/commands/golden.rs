//! Golden files, in `tests/golden`: what users see and what runs write must not change unnoticed.
//!
//! - `sums-*.txt`: SHA-256 of every result file of three shrunken runs, by the arithmetic of the processor. The bits of
//!   another instruction set differ, so they need a file of their own.
//! - `identity.txt`: the fields that say what a run is, and the schema lines of its files.
//! - `help.txt`, `errors.txt`, `plan.txt`: transcripts. A line `$ colloquy …` is run in a copy of `inputs/`; what it prints
//!   and its exit code stand below it.
//!
//! `COLLOQUY_WRITE_GOLDEN=1 cargo test golden` writes them anew. A commit that changes one says why.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::common::shell::runs::complete;
use crate::common::shell::*;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with a golden file, or writes it if asked to.
fn compare(name: &str, now: &str) {
    let path = golden(name);
    if std::env::var_os("COLLOQUY_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, now).unwrap();
        return;
    }
    let then = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut differences = String::new();
    let (then, now): (Vec<&str>, Vec<&str>) = (then.lines().collect(), now.lines().collect());
    for line in then.iter().filter(|line| !now.contains(line)) {
        writeln!(differences, "- {line}").unwrap();
    }
    for line in now.iter().filter(|line| !then.contains(line)) {
        writeln!(differences, "+ {line}").unwrap();
    }
    assert!(then == now, "tests/golden/{name} differs:\n{differences}");
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// Lines without those that only say what schema the file has; those have a golden file of their own.
fn is_schema(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok_and(|v| v.get("schema").is_some())
}

/// A result file as it is compared: journals in any order, pages without times, commit and device.
fn settled(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    if name.ends_with("report.html") {
        let times = regex::Regex::new(r#""s":[0-9.e-]+|"(created|commit|device)":(null|"[^"]*")"#).unwrap();
        return times.replace_all(std::str::from_utf8(&bytes).unwrap(), "").into_owned().into_bytes();
    }
    if !name.ends_with(".jsonl") {
        return bytes;
    }
    let text = String::from_utf8(bytes).unwrap();
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_schema(line)).collect();
    if name.starts_with("journal/") {
        lines.sort_unstable();
    }
    lines.join("\n").into_bytes()
}

fn sums(run: &Path, title: &str, text: &mut String) {
    const OTHER: [&str; 3] = [".lock", "manifest.json", "times.jsonl"];
    for (name, bytes) in tree(run, &|name| OTHER.contains(&name)) {
        writeln!(text, "{}  {title}/{name}", sum(&settled(&name, bytes))).unwrap();
    }
}

/// The processor's arithmetic, as a file's name has it.
fn arithmetic(run: &Path) -> String {
    let manifest: Value = serde_json::from_slice(&std::fs::read(run.join("manifest.json")).unwrap()).unwrap();
    manifest["arithmetic"].as_str().unwrap().replace([' ', '+'], "-")
}

#[test]
fn golden_runs_write_the_same_bytes() {
    let small = complete().join("run");
    let name = format!("sums-{}.txt", arithmetic(&small));
    if !golden(&name).exists() && std::env::var_os("COLLOQUY_WRITE_GOLDEN").is_none() {
        println!("skipped: there is no tests/golden/{name}");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    sums(&small, "small", &mut text);
    for config in ["arms", "transfer"] {
        let file = format!("{config}.toml");
        std::fs::copy(golden(&file), dir.path().join(&file)).unwrap();
        let printed = succeed(dir.path(), &["run", &file, "--output", config]);
        sums(&dir.path().join(config), config, &mut text);
        let steady: Vec<&str> = printed.lines().filter(|line| !line.starts_with("Done in ")).collect();
        writeln!(text, "{}  {config}, standard output", sum(steady.join("\n").as_bytes())).unwrap();
    }
    compare(&name, &text);
}

#[test]
fn golden_identity_of_a_run() {
    let run = complete().join("run");
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(run.join("manifest.json")).unwrap()).unwrap();
    for volatile in ["created", "arithmetic", "device"] {
        assert!(manifest.as_object_mut().unwrap().remove(volatile).is_some(), "{volatile}");
    }
    manifest["program"].as_object_mut().unwrap().remove("commit"); // Builds without git have none.
    let mut text = format!("manifest.json\n{}\n", serde_json::to_string_pretty(&manifest).unwrap());
    for (name, bytes) in tree(&run, &|name| name == "times.jsonl") {
        if name.ends_with(".jsonl") {
            let schema = String::from_utf8(bytes).unwrap();
            schema
                .lines()
                .filter(|line| is_schema(line))
                .for_each(|l| writeln!(text, "{name}\n{l}").unwrap());
        }
    }
    compare("identity.txt", &text);
}

/// The words of a command line; single quotes keep blanks.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    words
}

/// Runs each command of a transcript again. `keep` says which lines of the output belong to it.
fn replay(name: &str, keep: &dyn Fn(&str) -> String) {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden("inputs"), dir.path());
    let transcript = std::fs::read_to_string(golden(name)).unwrap();
    let mut text = String::new();
    for line in transcript.lines().filter(|line| line.starts_with("$ ")) {
        let words = words(line.strip_prefix("$ colloquy").unwrap().trim_start());
        let output = Command::new(env!("CARGO_BIN_EXE_colloquy"))
            .args(words.iter().filter(|word| !word.is_empty()))
            .current_dir(dir.path())
            .envs([("NO_COLOR", "1"), ("COLUMNS", "100")])
            .output()
            .unwrap();
        let printed = format!(
            "{}{}",
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap()
        );
        let printed = printed.replace(dir.path().to_str().unwrap(), "FOLDER");
        writeln!(text, "{line}\n{}\n[{}]\n", keep(&printed).trim_end(), output.status.code().unwrap())
            .unwrap();
    }
    compare(name, &text);
}

#[test]
fn golden_help() {
    replay("help.txt", &str::to_string);
}

#[test]
fn golden_errors() {
    replay("errors.txt", &str::to_string);
}

/// What a dry run counts; its rates and its memory are the machine's.
#[test]
fn golden_plans() {
    replay("plan.txt", &|printed| printed.split("\nmemory\n").next().unwrap().to_string());
}
