//! What a profiler hears of a run: a stand-in for the library of nsys (`nvtx/injection.c`) writes down each range.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::shell::*;

/// Compiles the profiler's library.
fn injection(folder: &Path) -> PathBuf {
    let library = folder.join("libinjection.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/commands/nvtx/injection.c");
    // g++, which the feature `emulator` needs, brings the C compiler.
    let output = Command::new("gcc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-o"])
        .arg(&library)
        .arg(source)
        .output();
    let output = output.expect("a C compiler");
    assert!(output.status.success(), "{}", stderr(&output));
    library
}

/// The ranges of a log by their path from the outermost, with how often they were begun; all must have ended.
fn paths(log: &str) -> std::collections::BTreeMap<String, usize> {
    let (mut open, mut found) = (Vec::new(), std::collections::BTreeMap::new());
    for line in log.lines() {
        match line.strip_prefix("push ") {
            Some(name) => {
                open.push(name);
                *found.entry(open.join(" / ")).or_default() += 1;
            }
            None => {
                assert_eq!(line, "pop");
                assert!(open.pop().is_some(), "a range ends that never began:\n{log}");
            }
        }
    }
    assert!(open.is_empty(), "ranges that do not end: {open:?}");
    found
}

const BENCH: &str = "bench decode train --device emulator --shape tiny --adapters 2 --rank 4 --batch 2 --prompt 3 \
                     --new-tokens 3 --sequences 1 --tokens 5 --repeats 1";

#[test]
fn a_profiler_hears_phases_and_operations() {
    let dir = tempfile::tempdir().unwrap();
    let (library, log) = (injection(dir.path()), dir.path().join("ranges.txt"));
    let args: Vec<&str> = BENCH.split_whitespace().collect();
    let output = colloquy(dir.path(), &args)
        .env("NVTX_INJECTION64_PATH", &library)
        .env("NVTX_TEST_LOG", &log)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let found = paths(&std::fs::read_to_string(&log).unwrap());
    let times = |path: &str| found.get(path).copied().unwrap_or(0);
    // With adapters and without, a run that does not count and one that does: a prompt and three more tokens each.
    assert_eq!((times("prefill"), times("decode")), (4, 12), "{found:?}");
    assert_eq!((times("train step"), times("optimizer step")), (2, 2), "{found:?}");
    // Four layers; launch lists that were new, and so launched one by one.
    for (path, each) in [
        ("prefill / linear_forward", 16),
        ("decode / attention_paged", 4),
        ("decode / lm_head_sample", 1),
        ("train step / attention_packed_backward", 4),
        ("optimizer step / adamw", 1),
    ] {
        assert!(times(path) > 0 && times(path).is_multiple_of(each), "{path}: {found:?}");
    }
    // Replayed graphs have no ranges inside.
    assert!(times("decode / lm_head_sample") < times("decode"), "{found:?}");
}

#[test]
fn a_library_that_is_none_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let args: Vec<&str> = BENCH.split_whitespace().collect();
    let output = colloquy(dir.path(), &args).env("NVTX_INJECTION64_PATH", "/no/such.so").output().unwrap();
    let error = one_error(&output, &args, 1);
    assert!(
        error.starts_with("environment variable NVTX_INJECTION64_PATH: /no/such.so cannot be loaded"),
        "{error}"
    );
    assert!(error.contains("expected the NVTX library of a profiler"), "{error}");
}
