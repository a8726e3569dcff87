//! Signals: a command that is told to end leaves nothing that is half written.

#![cfg(unix)]

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::shell::*;

/// The file that is being written beside `out`, once it is there.
fn half_written(folder: &Path) -> Option<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    names.into_iter().find(|name| name.starts_with(".out"))
}

#[test]
fn an_interrupted_command_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let record = "{\"text\": \"What is the result of 3+4*5+6-7*8?\", \"n\": 500}\n";
    std::fs::write(dir.path().join("prompts.jsonl"), record.repeat(20)).unwrap();
    let record = format!("{{\"text\": \"{}\"}}\n", "3+4*5 ".repeat(80));
    std::fs::write(dir.path().join("texts.jsonl"), record.repeat(5000)).unwrap();
    let generate = ["generate", "--model", "embedded", "--input", "prompts.jsonl", "--output", "out"];
    let score = ["score", "--model", "embedded", "--input", "texts.jsonl", "--output", "out"];
    let eval = ["eval", "--model", "embedded", "--questions", "400", "--output", "out"];
    let debate = ["debate", "--input", "questions.jsonl", "--output", "out"];
    let questions: String = (0..400).map(|i| format!("{{\"question\": \"{i}+3*4\"}}\n")).collect();
    std::fs::write(dir.path().join("questions.jsonl"), questions).unwrap();
    let before = std::fs::read_dir(dir.path()).unwrap().count();
    for (args, name, number) in
        [(&generate[..], "INT", 2), (&score, "TERM", 15), (&eval, "INT", 2), (&debate, "HUP", 1)]
    {
        let mut child =
            colloquy(dir.path(), args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let began = Instant::now();
        while half_written(dir.path()).is_none() {
            assert!(child.try_wait().unwrap().is_none(), "{args:?} has ended");
            assert!(began.elapsed() < Duration::from_secs(60), "{args:?}: writes nothing");
            std::thread::sleep(Duration::from_millis(5));
        }
        let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let status = child.wait().unwrap();
        assert_eq!(status.signal(), Some(number), "{args:?}: {status}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), before, "{args:?}");
    }
}

#[test]
fn a_signal_that_is_passed_over_stays_so() {
    let dir = tempfile::tempdir().unwrap();
    let record = "{\"text\": \"What is the result of 3+4*5+6-7*8?\"}\n";
    std::fs::write(dir.path().join("prompts.jsonl"), record.repeat(3)).unwrap();
    let binary = env!("CARGO_BIN_EXE_colloquy");
    // As of nohup.
    let script =
        format!("trap '' HUP; exec '{binary}' generate --model embedded --input prompts.jsonl --output out");
    let child =
        Command::new("sh").args(["-c", &script]).current_dir(dir.path()).stderr(Stdio::null()).spawn();
    let mut child = child.unwrap();
    let began = Instant::now();
    while half_written(dir.path()).is_none() && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let _ = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    assert!(child.wait().unwrap().success());
    assert_eq!(read_lines(&dir.path().join("out")).len(), 3);
}
