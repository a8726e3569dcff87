//! Files from strangers, again: every input that the fuzzer has kept and every one that was once a finding goes through its target, with the
//! target's bounds on memory and time. (How inputs are found: fuzz/README.md.)

#[path = "../../fuzz/targets/mod.rs"]
mod targets;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use targets::TARGETS;

fn folder(kind: &str, name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(kind).join(name)
}

/// The files of a folder, in order; none where there is no folder.
fn inputs(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Longest that an input may take on a machine that does other things too: what would not end is named, and ends the tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether an input goes through its target. If not, why is on stderr.
fn passes(name: &str, what: &str, input: &[u8]) -> bool {
    let (done, waits) = std::sync::mpsc::channel::<()>();
    let label = format!("{name}: {what}");
    let watch = std::thread::spawn(move || {
        if waits.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            // Past the harness, which keeps what tests print until they end.
            let _ = writeln!(std::io::stderr(), "{label}: does not end");
            std::process::abort();
        }
    });
    let passed = std::panic::catch_unwind(|| targets::run(name, input)).is_ok();
    drop(done);
    watch.join().unwrap();
    if !passed {
        eprintln!("{name}: the input is {what}");
    }
    passed
}

/// On a thread of a test, whose stack is a quarter of the program's.
fn replay(name: &str) {
    let corpus = inputs(&folder("corpus", name));
    assert!(!corpus.is_empty(), "{name}: has no corpus in fuzz/corpus/{name}");
    let mut failed = Vec::new();
    for path in corpus.into_iter().chain(inputs(&folder("regressions", name))) {
        let what = path.display().to_string();
        if !passes(name, &what, &std::fs::read(&path).unwrap()) {
            failed.push(what);
        }
    }
    for (what, input) in large(name) {
        if !passes(name, what, &input) {
            failed.push(format!("{what:?}, repeated"));
        }
    }
    assert!(failed.is_empty(), "{name}: {} inputs are findings:\n{}", failed.len(), failed.join("\n"));
}

/// A start, what is repeated, an end: inputs for which a small file would not show what they cost.
type Repeated = (&'static str, &'static str, &'static str);

const JSON: [Repeated; 7] = [
    ("", "[", ""),
    ("{\"a\":", "[", ""),
    ("{\"a\":[", "0,", "0]}"),
    ("{\"a\":[", "{\"\":0},", "0]}"),
    ("{\"", "a", "\":0}"),
    ("{\"a\":\"", "\\u0000", "\"}"),
    ("{\"a\":1", "0", "}"),
];

fn repeated(name: &str) -> Vec<Repeated> {
    let own: &[Repeated] = match name {
        "shard_index" => &[("{\"weight_map\":{\"a\":\"", "../", "\"}}")],
        "adapter_config" => &[
            ("{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"target_modules\":\"", "(a*)*", "\"}"),
            (
                "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"target_modules\":[",
                "\"q_proj\",",
                "\"o_proj\"]}",
            ),
        ],
        "chat_template" => &[
            ("", "{{ 'a' * 9 }}", ""),
            ("", "{% if 1 %}", ""),
            ("{{ ", "[", " }}"),
            ("{{ ", "-", "1 }}"),
            ("", "{% for i in range(9) %}x{% endfor %}", ""),
            ("{% set a = 'x' %}", "{% set a = a ~ a %}", "{{ a }}"),
        ],
        "jsonl_records" => &[
            ("", "{\"question\": \"a\", \"answer\": \"#### 1\"}\n", ""),
            ("", "{\"text\": \"a\"}\n", ""),
            ("", "\"", ""),
            ("", ",", ""),
            ("{\"problem\": \"p\", \"solution\": \"", "\\\\boxed{", "\"}"),
            ("{\"question\": \"p\", \"answer\": \"#### ", "\\\\text{", "1\"}"),
        ],
        "toml_config" => &[
            ("", "a.", "b = 1"),
            ("a = ", "[", ""),
            ("a = ", "{a=", ""),
            ("[", "a.", "b]"),
            ("\"", "a", "\" = [0, 0, 0, 0]"),
            ("", "[[arm]]\n", ""),
            ("[run]\nseeds = [", "1,", "0]"),
            ("[[arm]]\nname = \"a\"\nrecipe = \"base\"\nset = { \"a", ".b", "\" = 1 }"),
            ("", "#\n", "debat.rounds = 1"),
        ],
        "answers" => &[
            ("", "9", ""),
            ("x", "9", ""),
            ("", "answer is ", "7"),
            ("", "\\text{", ""),
            ("", "\\text{a}", "1"),
            ("", "\\boxed{", ""),
            ("", "(", ""),
            ("", "1 ", ""),
            ("", "1,", ""),
            ("", "$", "5"),
            ("-", " ", "5"),
            ("", "\\frac{1}{", ""),
            ("", "{,}", ""),
        ],
        "session_lines" => &[
            ("{\"op\":\"score\",\"records\":[", "{\"text\":\"a\"},", "{\"text\":\"\"}]}"),
            ("", "{\"op\":\"list\"}\n", ""),
            (
                "{\"op\":\"train\",\"adapters\":{\"a\":{\"records\":[{\"text\":\"a\"}],\"max_steps\":1",
                "0",
                "}}}",
            ),
        ],
        _ => &[],
    };
    let is_json = !["chat_template", "toml_config", "answers"].contains(&name);
    own.iter().copied().chain(JSON.into_iter().filter(|_| is_json)).collect()
}

const LARGE: usize = 200_000;

fn large(name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let of = |(start, repeated, end): Repeated| {
        let text = [start, &repeated.repeat(LARGE / repeated.len()), end].concat();
        // A safetensors header has its length before it.
        let head = (text.len() as u64).to_le_bytes();
        let head: &[u8] = if name == "safetensors" { &head } else { &[] };
        (repeated, [head, text.as_bytes()].concat())
    };
    repeated(name).into_iter().map(of).collect()
}

macro_rules! replays {
    ($($name:ident),* $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed_and_has_a_program() {
            let replayed = [$(stringify!($name)),*];
            let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, replayed);
            let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).unwrap();
            for name in names {
                assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
                assert!(folder("fuzz_targets", &format!("{name}.rs")).exists(), "{name}");
            }
        }
    };
}

replays!(
    safetensors,
    config_json,
    shard_index,
    adapter_config,
    tokenizer_json,
    chat_template,
    jsonl_records,
    toml_config,
    answers,
    session_lines,
);
