//! What test programs share.
#![allow(dead_code)] // each program uses a part

pub mod events;
pub mod fake;
pub mod folders;
pub mod hub_server;
pub mod random;
pub mod report_run;
pub mod rounded;
pub mod shell;
pub mod shrunk;
pub mod tiny;

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file or folder of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// Runs a test's body in a process of its own: it measures what belongs to the whole process. `module` is the
/// caller's `module_path!()`, `test` the name of the test.
pub fn alone(module: &str, test: &str, body: impl FnOnce()) {
    const CHILD: &str = "COLLOQUY_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return body();
    }
    let (_, inside) = module.split_once("::").unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &format!("{inside}::{test}"), "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&child.stdout), String::from_utf8_lossy(&child.stderr));
    print!("{out}");
    assert!(child.status.success() && out.contains("test result: ok. 1 passed"), "{out}{err}");
}
