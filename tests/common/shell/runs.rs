//! A whole run on the embedded model, shrunk, and what a test asks of its folder.

use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::*;

/// The default configuration, small enough for a test.
pub const SMALL: [&str; 12] = [
    "--set",
    "task.train_questions=6",
    "--set",
    "task.dev_questions=4",
    "--set",
    "debate.agents=2",
    "--set",
    "debate.min_agreement=1",
    "--set",
    "sampling.max_tokens=90",
    "--set",
    "sampling.summary_max_tokens=60",
];

pub fn small(output: &str) -> Vec<&str> {
    let mut args = vec!["run", "--output", output];
    args.extend(SMALL);
    args
}

/// A complete run, made once for all tests.
pub fn complete() -> &'static Path {
    static RUN: OnceLock<tempfile::TempDir> = OnceLock::new();
    RUN.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let out = succeed(dir.path(), &small("run"));
        assert!(out.contains("accuracy on 4 dev questions"), "{out}");
        dir
    })
    .path()
}

/// What must be the same however often a run was interrupted: all but the lock, dates and times, and the journal's order.
pub fn results(folder: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    const OTHER: [&str; 5] = [".lock", "manifest.json", "times.jsonl", "report.html", "journal"];
    tree(folder, &|name| OTHER.contains(&name))
}

pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (results(a), results(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (name, bytes) in &a {
        assert!(bytes == &b[name], "{name} differs");
    }
}

/// Bytes of all journals and checkpoints of a folder.
pub fn journalled(folder: &Path) -> u64 {
    if !folder.join("journal").exists() {
        return 0;
    }
    tree(&folder.join("journal"), &|name| name.ends_with(".tmp") || name.contains(".tmp/"))
        .values()
        .map(|b| b.len() as u64)
        .sum()
}

/// Waits until `ready` or the process ends; true if it is still running.
pub fn wait_for(child: &mut Child, ready: impl Fn() -> bool) -> bool {
    let began = Instant::now();
    loop {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        if ready() {
            return true;
        }
        assert!(began.elapsed() < Duration::from_secs(600), "nothing happens");
        std::thread::sleep(Duration::from_millis(3));
    }
}

pub fn start(dir: &Path, args: &[&str]) -> Child {
    colloquy(dir, args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
