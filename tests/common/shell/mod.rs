//! Helpers of the command-line tests: run the real binary in a folder of its own.

pub mod runs;

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

pub use super::fixture;

/// The binary, with plain output.
pub fn colloquy(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colloquy"));
    command.args(args).current_dir(folder).env("NO_COLOR", "1");
    command
}

/// Runs to the end.
pub fn run(folder: &Path, args: &[&str]) -> Output {
    colloquy(folder, args).output().expect("the binary starts")
}

/// Runs, expects success, and gives stdout.
pub fn succeed(folder: &Path, args: &[&str]) -> String {
    let output = run(folder, args);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs and expects failure with this code and exactly one line of error, which it gives.
pub fn fail(folder: &Path, args: &[&str], code: i32) -> String {
    let output = run(folder, args);
    one_error(&output, args, code)
}

/// Expects failure with this code and one line that starts with `error:`.
pub fn one_error(output: &Output, args: &[&str], code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    let errors: Vec<&str> = text.lines().filter(|l| l.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{args:?}: {text}");
    assert!(!text.contains("panicked"), "{args:?}: {text}");
    errors[0]["error: ".len()..].to_string()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn fixture_str(name: &str) -> String {
    fixture(name).to_str().expect("UTF-8").to_string()
}

/// Copies a folder with everything in it.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// A JSON Lines file's records.
pub fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

pub fn read_lines(path: &Path) -> Vec<Value> {
    lines(&std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display())))
}

/// All files below a folder, by relative path, but for those whose path `skip` takes, and for those that are
/// renamed or removed meanwhile, as a run under way does.
pub fn tree(folder: &Path, skip: &dyn Fn(&str) -> bool) -> std::collections::BTreeMap<String, Vec<u8>> {
    fn walk(
        root: &Path,
        at: &Path,
        skip: &dyn Fn(&str) -> bool,
        out: &mut std::collections::BTreeMap<String, Vec<u8>>,
    ) {
        for entry in std::fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_string();
            if skip(&name) {
                continue;
            }
            if path.is_dir() {
                walk(root, &path, skip, out);
            } else {
                match std::fs::read(&path) {
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    bytes => drop(out.insert(name, bytes.unwrap())),
                }
            }
        }
    }
    let mut out = std::collections::BTreeMap::new();
    walk(folder, folder, skip, &mut out);
    out
}

/// A safetensors file's f32 (or i64, as f32) tensors.
pub struct Tensors(Vec<u8>);

impl Tensors {
    pub fn open(path: &Path) -> Self {
        Self(std::fs::read(path).unwrap())
    }

    pub fn names(&self) -> Vec<String> {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        tensors.names().into_iter().map(String::from).collect()
    }

    pub fn floats(&self, name: &str) -> Vec<f32> {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let data = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec();
        data.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    pub fn integers(&self, name: &str) -> Vec<i64> {
        let tensors = safetensors::SafeTensors::deserialize(&self.0).unwrap();
        let data = tensors.tensor(name).unwrap_or_else(|e| panic!("{name}: {e}")).data().to_vec();
        data.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect()
    }
}
