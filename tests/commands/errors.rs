//! What bad input gets: one error that names file and field, the right exit code, nothing written over.

use std::path::Path;

use crate::common::shell::*;
use serde_json::{Value, json};

/// A copy of the tiny model, to be broken.
pub fn model(dir: &Path) -> String {
    let to = dir.join("model");
    copy(&fixture("llama"), &to);
    "model".into()
}

pub fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

pub const GOOD: &str = "{\"tokens\": [1, 5, 9, 12]}\n";

/// `score` of a good file on a model someone broke; the error.
fn score_error(dir: &Path) -> String {
    write(dir, "in.jsonl", GOOD);
    let e = fail(dir, &["score", "--model", "model", "--input", "in.jsonl", "--output", "out.jsonl"], 1);
    assert!(!dir.join("out.jsonl").exists(), "nothing is written");
    let left: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|n| !n.to_string_lossy().starts_with('.')), "nothing half-written: {left:?}");
    e
}

pub fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    edit(&mut value);
    std::fs::write(path, value.to_string()).unwrap();
}

/// Rewrites a safetensors header; the data stays.
fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = std::fs::read(path).unwrap();
    let n = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + n]).unwrap();
    edit(&mut header);
    let header = header.to_string();
    let mut out = (header.len() as u64).to_le_bytes().to_vec();
    out.extend(header.as_bytes());
    out.extend(&bytes[8 + n..]);
    std::fs::write(path, out).unwrap();
}

#[test]
fn usage_errors_are_exit_code_2() {
    let dir = tempfile::tempdir().unwrap();
    for args in [
        &["nonsense"][..],
        &["score", "--model", "m"],
        &["score", "--model", "m", "--input", "i", "--output", "o", "--device", "tpu"],
        &["run", "--memory", "much"],
        &["train", "--model", "m", "--output", "o"],
    ] {
        let output = run(dir.path(), args);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
    }
    write(dir.path(), "in.jsonl", GOOD);
    for args in [
        &["score", "--input", "in.jsonl", "--output", "o"][..],
        &["score", "--model", "m", "--adapter", "noname", "--input", "in.jsonl", "--output", "o"],
        &["run", "--set", "debate.rounds"],
        &["train", "--model", "m", "--output", "o", "--adapter", "a=new", "--data", "b=in.jsonl"],
        &["train", "--model", "m", "--output", "o", "--adapter", "a=new:rank=0", "--data", "a=in.jsonl"],
        &[
            "train",
            "--model",
            "m",
            "--output",
            "o",
            "--adapter",
            "a=new",
            "--data",
            "a=in.jsonl",
            "--learning-rate",
            "x",
        ],
        &[
            "train",
            "--model",
            "m",
            "--output",
            "o",
            "--adapter",
            "a=new",
            "--data",
            "a=in.jsonl",
            "--shuffle",
            "b=true",
        ],
    ] {
        fail(dir.path(), args, 2);
        assert!(!dir.path().join("o").exists());
    }
}

#[test]
fn a_bench_measures_what_it_is_asked_and_says_what_it_cannot() {
    let dir = tempfile::tempdir().unwrap();
    let small = ["--shape", "tiny", "--batch", "2", "--prompt", "4", "--new-tokens", "2", "--repeats", "1"];
    let bench = |more: &[&'static str]| [&["bench", "--device", "cpu"][..], &small[..], more].concat();
    let out = succeed(dir.path(), &bench(&["decode", "--adapters", "2", "--json", "b.json", "--profile"]));
    assert!(out.contains("2 adapters") && out.contains("base") && out.contains("linear_forward"), "{out}");
    assert!(out.lines().all(|l| l.chars().count() <= 80), "{out}");
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("b.json")).unwrap()).unwrap();
    // Two sequences of two tokens.
    assert_eq!(report["society"][0]["tokens"], 4, "{report}");
    assert!(report["society"][0]["tokens_per_second"].as_f64().unwrap() > 0.0, "{report}");
    assert!(!out.contains("graphs") && report["society"][0].get("graphs").is_none(), "{out}{report}");

    assert!(fail(dir.path(), &bench(&["--json", "b.json"]), 1).contains("exists"));
    let output = run(dir.path(), &bench(&["ops"]));
    assert!(one_error(&output, &["bench"], 1).contains("needs a GPU"));
    assert!(
        !stderr(&output).contains("measuring"),
        "refused before anything is measured: {}",
        stderr(&output)
    );
    assert!(fail(dir.path(), &["bench", "--shape", "7b"], 2).contains("tiny, 135m, 1b, 8b"));
    assert!(fail(dir.path(), &["bench", "--rank", "200"], 2).contains("at most 128"));
    assert!(fail(dir.path(), &["bench", "--batch", "0"], 2).contains("1 or more"));
}

#[test]
fn help_teaches() {
    let dir = tempfile::tempdir().unwrap();
    let text = succeed(dir.path(), &["--help"]);
    for command in ["run", "resume", "report", "debate", "generate", "score", "train", "eval", "bench"] {
        assert!(text.contains(&format!("  {command} ")), "{command} in {text}");
        let help = succeed(dir.path(), &[command, "--help"]);
        assert!(help.contains("Usage:") && help.lines().count() > 10, "{help}");
        let narrow = colloquy(dir.path(), &[command, "--help"]).env("COLUMNS", "80").output().unwrap();
        let narrow = String::from_utf8(narrow.stdout).unwrap();
        let wide: Vec<&str> = narrow.lines().filter(|l| l.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{command}: {wide:?}");
    }
    assert!(succeed(dir.path(), &["--version"]).contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    write(dir.path(), "in.jsonl", GOOD);
    // No machine has that many, and what is missing (kernels, driver, device) is said on each.
    let mut missing = vec!["cuda:99"];
    if !cfg!(feature = "emulator") {
        missing.push("emulator");
    }
    for device in missing {
        let e = fail(
            dir.path(),
            &["score", "--model", "model", "--input", "in.jsonl", "--output", "o", "--device", device],
            1,
        );
        let why =
            ["without CUDA kernels", "no NVIDIA driver", "no such device", "without it", "supports CUDA"];
        assert!(e.contains(device) && why.iter().any(|w| e.contains(w)), "{e}");
        assert!(!dir.path().join("o").exists());
    }
}

#[test]
fn broken_weights() {
    fn file(dir: &Path) -> std::path::PathBuf {
        dir.join("model/model.safetensors")
    }
    const TENSOR: &str = "model.layers.0.mlp.up_proj.weight";
    type Break = Box<dyn Fn(&Path)>;
    let cases: Vec<(&str, Break, &[&str])> = vec![
        ("missing file", Box::new(|d| std::fs::remove_file(file(d)).unwrap()), &["model"]),
        (
            "truncated",
            Box::new(|d| {
                let bytes = std::fs::read(file(d)).unwrap();
                std::fs::write(file(d), &bytes[..bytes.len() - 100]).unwrap();
            }),
            &["model.safetensors"],
        ),
        ("empty", Box::new(|d| std::fs::write(file(d), "").unwrap()), &["model.safetensors"]),
        (
            "no safetensors",
            Box::new(|d| std::fs::write(file(d), [0xff; 300]).unwrap()),
            &["model.safetensors"],
        ),
        (
            "header is no JSON",
            Box::new(|d| {
                let mut bytes = std::fs::read(file(d)).unwrap();
                bytes[9] = b'!';
                std::fs::write(file(d), bytes).unwrap();
            }),
            &["model.safetensors"],
        ),
        (
            "a tensor is missing",
            Box::new(move |d| {
                edit_header(&file(d), |h| {
                    let value = h.as_object_mut().unwrap().remove(TENSOR).unwrap();
                    h["something.else"] = value;
                })
            }),
            &[TENSOR],
        ),
        (
            "overlap",
            Box::new(move |d| {
                edit_header(&file(d), |h| h[TENSOR]["data_offsets"] = json!([0, 32768]));
            }),
            &["model.safetensors"],
        ),
        (
            "out of range",
            Box::new(move |d| {
                edit_header(&file(d), |h| h[TENSOR]["data_offsets"] = json!([1_000_000_000, 1_000_032_768]));
            }),
            &[TENSOR],
        ),
        (
            "another shape",
            Box::new(move |d| edit_header(&file(d), |h| h[TENSOR]["shape"] = json!([64, 128]))),
            &[TENSOR, "[128, 64]"],
        ),
    ];
    for (what, break_it, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        break_it(dir.path());
        let e = score_error(dir.path());
        assert!(expected.iter().all(|x| e.contains(x)), "{what}: {e}");
    }
}

#[test]
fn broken_configs() {
    type Edit = fn(&mut Value);
    let cases: [(&str, Edit, &[&str]); 4] = [
        (
            "no field",
            |c| drop(c.as_object_mut().unwrap().remove("hidden_size")),
            &["config.json", "hidden_size"],
        ),
        (
            "unknown architecture",
            |c| {
                c["architectures"] = json!(["MambaForCausalLM"]);
                c["model_type"] = json!("mamba");
            },
            &["config.json", "LlamaForCausalLM"],
        ),
        ("mistyped", |c| c["num_attention_heads"] = json!("four"), &["config.json", "num_attention_heads"]),
        ("indivisible", |c| c["num_key_value_heads"] = json!(3), &["config.json", "num_key_value_heads"]),
    ];
    for (what, edit, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        edit_json(&dir.path().join("model/config.json"), edit);
        let e = score_error(dir.path());
        assert!(expected.iter().all(|x| e.contains(x)), "{what}: {e}");
    }
    let dir = tempfile::tempdir().unwrap();
    let e = score_error(dir.path());
    assert!(e.contains("model"), "{e}");
}

#[test]
fn a_tokenizer_larger_than_the_vocabulary() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(embedded.join(file), dir.path().join("model").join(file)).unwrap();
    }
    write(dir.path(), "tokens.jsonl", GOOD);
    let score = |input: &'static str| ["score", "--model", "model", "--input", input, "--output", "-"];
    assert!(succeed(dir.path(), &score("tokens.jsonl")).contains("logprobs"), "tokens need no tokenizer");
    succeed(dir.path(), &["info", "model"]);
    write(dir.path(), "text.jsonl", "{\"text\": \"a\"}\n{\"text\": \"1 <|reserved_0|>\"}\n");
    let e = fail(dir.path(), &score("text.jsonl"), 1);
    assert!(e.contains("text.jsonl:2: text: ") && e.contains("tokenizer.json: found token"), "{e}");
    assert!(e.contains("vocab_size = 256"), "{e}");
}

#[test]
fn adapters_that_do_not_fit() {
    type Break = fn(&Path);
    let cases: [(&str, Break, &[&str]); 5] = [
        ("missing", |d| std::fs::remove_dir_all(d).unwrap(), &["adapter"]),
        (
            "another rank",
            |d| edit_json(&d.join("adapter_config.json"), |c| c["r"] = json!(5)),
            &["adapter_model.safetensors", "[5, "],
        ),
        (
            "only unknown targets",
            |d| edit_json(&d.join("adapter_config.json"), |c| c["target_modules"] = json!(["qq_proj"])),
            &["adapter_config.json", "target_modules", "qq_proj", "expected all-linear or modules"],
        ),
        // PEFT passes over a name of nothing; what then has no place is the tensors of the modules that are not named.
        (
            "an unknown target",
            |d| {
                edit_json(&d.join("adapter_config.json"), |c| {
                    c["target_modules"] = json!(["q_proj", "qq_proj"])
                })
            },
            &["adapter_model.safetensors, tensor ", "down_proj", "adapter_config.json does not name"],
        ),
        (
            "a feature that changes the mathematics",
            |d| edit_json(&d.join("adapter_config.json"), |c| c["use_dora"] = json!(true)),
            &["adapter_config.json", "use_dora"],
        ),
    ];
    for (what, break_it, expected) in cases {
        let dir = tempfile::tempdir().unwrap();
        model(dir.path());
        break_it(&dir.path().join("model/adapters/a"));
        write(dir.path(), "in.jsonl", GOOD);
        let e = fail(
            dir.path(),
            &[
                "score",
                "--model",
                "model",
                "--adapter",
                "a=model/adapters/a",
                "--input",
                "in.jsonl",
                "--output",
                "o",
            ],
            1,
        );
        assert!(expected.iter().all(|x| e.contains(x)), "{what}: {e}");
        assert!(!dir.path().join("o").exists());
    }
}

#[test]
fn dropout_matters_to_training_alone() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    write(dir.path(), "in.jsonl", GOOD);
    let adapter = ["--model", "model", "--adapter", "a=model/adapters/a"];
    let score = [&["score"], &adapter[..], &["--input", "in.jsonl", "--output", "-"]].concat();
    let train = |output: &'static str| {
        let args = [&["train"], &adapter[..], &["--data", "a=in.jsonl", "--output", output]].concat();
        succeed(dir.path(), &args);
        std::fs::read(dir.path().join(output).join("a/adapter_model.safetensors")).unwrap()
    };
    let (before, without) = (succeed(dir.path(), &score), train("without"));
    let path = dir.path().join("model/adapters/a/adapter_config.json");
    edit_json(&path, |c| c["lora_dropout"] = json!(0.3));
    assert_eq!(succeed(dir.path(), &score), before);
    let with = train("with");
    assert!(with != without && with == train("again"));
    let config = std::fs::read_to_string(dir.path().join("with/a/adapter_config.json")).unwrap();
    assert!(config.contains("\"lora_dropout\": 0.3"), "{config}");

    edit_json(&path, |c| c["lora_dropout"] = json!(1));
    let args = [&["train"], &adapter[..], &["--data", "a=in.jsonl", "--output", "o"]].concat();
    let e = fail(dir.path(), &args, 1);
    assert!(
        e.contains("adapter_config.json, field lora_dropout: found 1, expected a number from 0 on, below 1"),
        "{e}"
    );
    assert!(!dir.path().join("o").exists());
}

#[test]
fn questions_that_cannot_be_asked() {
    let dir = tempfile::tempdir().unwrap();
    let long = format!("{{\"question\": \"{}\", \"answer\": 12}}\n", "12+".repeat(500) + "12");
    let good = "{\"question\": \"1+2*3\", \"answer\": 7}\n";
    // (content, what `debate` says, what `eval` and `run` say)
    let cases: [(&[u8], &str, &str); 6] = [
        (b"", "q.jsonl: holds no questions", "q.jsonl: holds no questions"),
        (b"\n \n", "q.jsonl: holds no questions", "q.jsonl: holds no questions"),
        (
            &[good, "nope\n"].concat().into_bytes(),
            "q.jsonl:2: not JSON",
            "q.jsonl, line 2: not a JSON object",
        ),
        (
            &[good, "{\"answer\": 1}\n"].concat().into_bytes(),
            "q.jsonl:2: question",
            "q.jsonl, line 2: no field `question`",
        ),
        (b"\n{\"question\": \"1+\xff\"}\n", "q.jsonl:2: not UTF-8", "q.jsonl, line 2: not UTF-8"),
        (long.as_bytes(), "q.jsonl:1: its prompt has", "tokens, but the model's context is 1024"),
    ];
    write(dir.path(), "train.jsonl", "{\"question\": \"2+2\", \"answer\": 4}\n");
    let config = "[task]\nname = \"custom\"\ndata = \"./train.jsonl\"\ndev_data = \"./q.jsonl\"\ntrain_questions = 1\n\
                  dev_questions = 1\n";
    write(dir.path(), "run.toml", config);
    for (content, of_debate, of_file) in cases {
        std::fs::write(dir.path().join("q.jsonl"), content).unwrap();
        let e = fail(dir.path(), &["debate", "--input", "q.jsonl", "--output", "o"], 1);
        assert!(e.contains(of_debate), "debate: {e}");
        let e = fail(dir.path(), &["eval", "--model", "embedded", "--data", "q.jsonl", "--output", "o"], 1);
        assert!(e.contains(of_file) && e.contains("q.jsonl"), "eval: {e}");
        let e = fail(dir.path(), &["run", "run.toml", "--output", "o"], 1);
        assert!(e.contains(of_file), "run: {e}");
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "nothing is written: {left:?}");
    }
}

#[test]
fn bad_records_name_their_line() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    let long = format!("{{\"id\": 7, \"tokens\": {:?}}}", vec![1; 513]);
    let cases = [
        ("{\"tokens\": [1, 2}", "in.jsonl:3: not JSON"),
        ("{\"tokens\": [1, 256]}", "in.jsonl:3: tokens: found token 256"),
        ("{\"tokens\": []}", "in.jsonl:3: tokens"),
        ("{\"tokens\": [1], \"adapter\": \"nobody\"}", "in.jsonl:3: adapter: unknown adapter `nobody`"),
        ("[1]", "in.jsonl:3: found [1], expected an object"),
        ("{\"text\": \"no tokenizer here\"}", "in.jsonl:3: model has no tokenizer.json"),
        (&long, "in.jsonl:3: tokens: found 513 tokens"),
    ];
    for (line, expected) in cases {
        write(dir.path(), "in.jsonl", &format!("{GOOD}\n{line}\n{GOOD}"));
        for command in ["score", "generate"] {
            let e =
                fail(dir.path(), &[command, "--model", "model", "--input", "in.jsonl", "--output", "o"], 1);
            assert!(e.contains(expected), "{command} {line}: {e}");
            assert!(!dir.path().join("o").exists());
        }
        let args = [
            "train",
            "--model",
            "model",
            "--adapter",
            "a=new",
            "--data",
            "a=in.jsonl",
            "--output",
            "trained",
        ];
        let e = fail(dir.path(), &args, 1);
        assert!(e.contains("in.jsonl:3: "), "train {line}: {e}");
        assert!(!dir.path().join("trained").exists());
    }
    for (line, field) in [
        ("{\"tokens\": [1], \"temperature\": -1}", "temperature"),
        ("{\"tokens\": [1], \"top_p\": 0}", "top_p"),
        ("{\"tokens\": [1], \"min_p\": 1.5}", "min_p"),
        ("{\"tokens\": [1], \"min_p\": \"much\"}", "min_p"),
        ("{\"tokens\": [1], \"max_tokens\": 0}", "max_tokens"),
        ("{\"tokens\": [1], \"n\": \"two\"}", "n"),
        ("{\"tokens\": [1], \"max_token\": 3}", "max_token"),
    ] {
        write(dir.path(), "in.jsonl", line);
        let e =
            fail(dir.path(), &["generate", "--model", "model", "--input", "in.jsonl", "--output", "o"], 1);
        assert!(e.contains(&format!("in.jsonl:1: {field}: ")), "{line}: {e}");
    }
    write(dir.path(), "empty.jsonl", "\n\n");
    let e = fail(dir.path(), &["score", "--model", "model", "--input", "empty.jsonl", "--output", "o"], 1);
    assert!(e.contains("empty.jsonl: holds no records"), "{e}");
    let e = fail(dir.path(), &["score", "--model", "model", "--input", "no.jsonl", "--output", "o"], 1);
    assert!(e.contains("no.jsonl"), "{e}");
}

#[test]
fn a_loss_that_is_not_finite() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    write(dir.path(), "in.jsonl", GOOD);
    let args = [
        "train",
        "--model",
        "model",
        "--adapter",
        "a=new:rank=4",
        "--data",
        "a=in.jsonl",
        "--output",
        "trained",
        "--learning-rate",
        "1e30",
        "--max-steps",
        "5",
        "--max-grad-norm",
        "0",
    ];
    let e = fail(dir.path(), &args, 1);
    assert!(e.contains("not a finite number") && e.contains(" adapter a, step"), "{e}");
    assert!(!dir.path().join("trained").exists());
}

#[test]
fn existing_outputs_stay_without_force() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    write(dir.path(), "in.jsonl", GOOD);
    write(dir.path(), "out.jsonl", "precious");
    std::fs::create_dir(dir.path().join("folder")).unwrap();
    write(dir.path(), "folder/note.txt", "precious");
    let score = ["score", "--model", "model", "--input", "in.jsonl", "--output", "out.jsonl"];
    let train =
        ["train", "--model", "model", "--adapter", "a=new", "--data", "a=in.jsonl", "--output", "folder"];
    let run_ = ["run", "--output", "folder"];
    let generate = ["generate", "--model", "model", "--input", "in.jsonl", "--output", "out.jsonl"];
    let debate = ["debate", "1+2*3", "--output", "out.jsonl"];
    let eval = ["eval", "--model", "embedded", "--questions", "1", "--output", "out.jsonl"];
    for args in [&score[..], &train, &run_, &generate, &debate, &eval] {
        let e = fail(dir.path(), args, 1);
        assert!(e.contains("exists already") && e.contains("--force"), "{e}");
    }
    assert_eq!(std::fs::read(dir.path().join("out.jsonl")).unwrap(), b"precious");
    assert_eq!(std::fs::read(dir.path().join("folder/note.txt")).unwrap(), b"precious");
    assert_eq!(std::fs::read_dir(dir.path().join("folder")).unwrap().count(), 1);
    succeed(dir.path(), &[&score[..], &["--force"]].concat());
    assert_eq!(read_lines(&dir.path().join("out.jsonl")).len(), 1);
    let e = fail(dir.path(), &["run", "--output", "folder", "--force"], 1);
    assert!(e.contains("not a run folder"), "{e}");
}

#[test]
fn a_full_disk_leaves_nothing_half_written() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    let records: String = (0..200).map(|i| format!("{{\"tokens\": [1, 5, {}, 12]}}\n", i % 200)).collect();
    write(dir.path(), "in.jsonl", &records);
    let binary = env!("CARGO_BIN_EXE_colloquy");
    let command = format!(
        "trap '' XFSZ; ulimit -f 2; exec '{binary}' score --model model --input in.jsonl --output out.jsonl --force"
    );
    write(dir.path(), "out.jsonl", "precious");
    let output =
        std::process::Command::new("sh").args(["-c", &command]).current_dir(dir.path()).output().unwrap();
    let e = one_error(&output, &["score"], 1);
    assert!(e.contains("out.jsonl"), "{e}");
    assert_eq!(std::fs::read(dir.path().join("out.jsonl")).unwrap(), b"precious");
}

#[test]
fn a_full_disk_leaves_the_last_adapter_whole() {
    let dir = tempfile::tempdir().unwrap();
    model(dir.path());
    write(dir.path(), "in.jsonl", GOOD);
    let train = |rank| {
        let adapter = format!("a=new:rank={rank}");
        let args =
            ["train", "--model", "model", "--data", "a=in.jsonl", "--output", "o", "--force", "--adapter"];
        args.iter().map(|a| a.to_string()).chain([adapter]).collect::<Vec<_>>()
    };
    let first = train(2);
    succeed(dir.path(), &first.iter().map(String::as_str).collect::<Vec<_>>());
    let before = dir.path().join("before");
    copy(&dir.path().join("o"), &before);
    let binary = env!("CARGO_BIN_EXE_colloquy");
    // Files may have 16 KiB: the weights of rank 16 do not fit.
    let command = format!("trap '' XFSZ; ulimit -f 32; exec '{binary}' {}", train(16).join(" "));
    let output =
        std::process::Command::new("sh").args(["-c", &command]).current_dir(dir.path()).output().unwrap();
    let e = one_error(&output, &["train"], 1);
    assert!(e.contains("o/a/adapter_model.safetensors"), "{e}");
    let all = |folder: &Path| tree(folder, &|_| false);
    assert_eq!(all(&before), all(&dir.path().join("o")));
}

#[test]
fn configurations_are_checked_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        ("[debate]\nagnts = 3\n", "run.toml:2: debate.agnts", "`debate.agents`"),
        ("[debate]\nagents = \"three\"\n", "run.toml:2: debate.agents", "expected a whole number"),
        ("[debate]\nagents = 0\n", "run.toml:2: debate.agents", "at least 1"),
        ("[debate]\nrounds = 1000000\n", "run.toml:2: debate.rounds", "found 1000000, expected at most 100"),
        ("[run]\niterations = 1000000\n", "run.toml:2: run.iterations", "expected at most 1000"),
        ("[run]\nthreads = 1000000\n", "run.toml:2: run.threads", "expected at most 1024"),
        ("[training]\nsamples = 1000000\n", "run.toml:2: training.samples", "expected at most 10000"),
        (
            "[training]\nnum_epochs = 10000000\n",
            "run.toml:2: training.num_epochs",
            "expected at most 1000000",
        ),
        ("[eval]\nmajority_samples = 1000000\n", "run.toml:2: eval.majority_samples", "at most 10000"),
        ("[task]\ntrain_questions = 10000000\n", "run.toml:2: task.train_questions", "at most 1000000"),
        (
            "[[arm]]\nname = \"a\"\nrecipe = \"multiagent\"\nset = {\"debate.rounds\" = 1000000}\n",
            "run.toml:",
            "expected at most 100",
        ),
        ("[task]\nname = \"arithmetics\"\n", "task.name", "arithmetic"),
        ("[model]\npath = \"./nowhere\"\n", "nowhere", ""),
        ("[debate\n", "run.toml:1", ""),
        ("[[arm]]\nname = \"a\"\nrecipe = \"magic\"\n", "run.toml:3: arm[0].recipe", "multiagent"),
        ("[run]\ndevice = \"cuda:99\"\n", "cuda:99", ""),
        ("[adapter]\ntargets = [\"qq_proj\"]\n", "qq_proj", "q_proj"),
        ("[task]\nterms = 1\nmax_operand = 3\n", "task.train_questions", "150 asked for"),
        ("[task]\ntrain_pool = 10\n", "run.toml:2: task.train_pool", "at least task.train_questions"),
        ("[transfer]\nname = \"arithmetics\"\n", "transfer.name", "arithmetic"),
        ("[transfer]\nname = \"gsm8k\"\n", "transfer.data", "missing"),
        (
            "[task]\ntest_questions = 5\n[grid]\ndebate.rounds = [2]\n",
            "run.toml:2: task.test_questions",
            "never touches test",
        ),
        ("[training]\nmatch = \"gradient-tokens\"\n", "run.toml:2: training.match", "`single-agent` only"),
        (
            "[report.primary]\narm = \"a\"\nagainst = \"b\"\nmethod = \"single\"\niteration = 1\n",
            "run.toml:2",
            "no arm is called `a`",
        ),
        (
            "[task]\nprompts = \"./few\"\n[[arm]]\nname = \"s\"\nrecipe = \"star\"\n",
            "few/hint.jinja",
            "missing",
        ),
        (
            "[task]\nprompts = \"./few\"\n[debate]\nstyle = \"cooperative\"\n",
            "few/cooperative.jinja",
            "missing",
        ),
    ];
    std::fs::create_dir(dir.path().join("few")).unwrap();
    for name in ["first", "summary", "debate"] {
        write(dir.path(), &format!("few/{name}.jinja"), "{{ question }}");
    }
    for (text, place, expected) in cases {
        write(dir.path(), "run.toml", text);
        let e = fail(dir.path(), &["run", "run.toml", "--output", "out"], 1);
        assert!(e.contains(place) && e.contains(expected), "{text}: {e}");
        assert!(!dir.path().join("out").exists(), "{text}");
    }
    let e = fail(dir.path(), &["run", "--set", "sampling.temprature=1", "--output", "out"], 1);
    assert!(e.contains("--set sampling.temprature=1") && e.contains("`sampling.temperature`"), "{e}");
    write(dir.path(), "data.jsonl", "{\"question\": \"1?\", \"answer\": \"#### 1\"}\nnot json\n");
    write(dir.path(), "run.toml", "[task]\nname = \"gsm8k\"\ndata = \"./data.jsonl\"\n");
    let e = fail(dir.path(), &["run", "run.toml", "--output", "out"], 1);
    assert!(e.contains("data.jsonl") && e.contains('2'), "{e}");
    // Training questions and those of another task, the same file: splits overlap.
    let record = |i: usize| format!("{{\"question\": \"What is {i}?\", \"answer\": \"#### {i}\"}}\n");
    write(dir.path(), "train.jsonl", &(0..40).map(record).collect::<String>());
    let both = "[task]\nname = \"gsm8k\"\ndata = \"./train.jsonl\"\ntrain_questions = 4\ndev_questions = 1\n\
                [transfer]\nname = \"gsm8k\"\ndata = \"./train.jsonl\"\ndev_data = \"./train.jsonl\"\ndev_questions = 40\n";
    write(dir.path(), "both.toml", both);
    let e = fail(dir.path(), &["run", "both.toml", "--output", "out"], 1);
    assert!(e.contains("splits must be disjoint"), "{e}");
    let more = "[task]\nname = \"gsm8k\"\ndata = \"./train.jsonl\"\ntrain_questions = 4\ntrain_pool = 4000\n";
    write(dir.path(), "more.toml", more);
    let e = fail(dir.path(), &["run", "more.toml", "--output", "out"], 1);
    assert!(e.contains("task.train_pool asks for 4000 questions"), "{e}");
    write(dir.path(), "data.jsonl", "\n");
    let e = fail(dir.path(), &["run", "run.toml", "--output", "out"], 1);
    assert!(e.contains("data.jsonl") && e.contains("no questions"), "{e}");
    for args in [&["resume", "nowhere"][..], &["report", "nowhere"], &["resume", "."]] {
        let e = fail(dir.path(), args, 1);
        assert!(e.contains("run folder"), "{e}");
    }
}
