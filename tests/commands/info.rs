//! `colloquy info`: what it says of models, adapters and runs, and that its memory plans are those of the real backends.

use std::path::Path;

use crate::common::report_run::{self, FAKE};
use crate::common::shell::*;
use colloquy::adapter::{Base, Moments, NewAdapter, write_peft};
use colloquy::backend::cpu::CpuBackend;
use colloquy::backend::{Backend, Op, WeightType, ZeroGrad};
use colloquy::engine::{EngineOptions, KvBudget, MemoryPlan};
use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles, adapter_layout};
use serde_json::{Value, json};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What is said as text, which fits a terminal, and as JSON.
fn info(dir: &Path, args: &[&str]) -> (String, Value) {
    let text = succeed(dir, &[&["info"], args].concat());
    for line in text.lines().filter(|l| !l.starts_with("path ") && !l.contains(dir.to_str().unwrap())) {
        assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
    }
    let json = succeed(dir, &[&["info"], args, &["--json"]].concat());
    (text, serde_json::from_str(&json).unwrap())
}

/// The words behind a label.
fn fact(text: &str, label: &str) -> String {
    let line = text.lines().find(|l| l.starts_with(&format!("{label} ")));
    line.unwrap_or_else(|| panic!("no {label} in {text}"))[label.len()..].trim().to_string()
}

#[test]
fn a_model_folder() {
    let dir = tempfile::tempdir().unwrap();
    copy(&fixture("llama"), &dir.path().join("model"));
    let (text, json) = info(dir.path(), &["model"]);
    let config: Value =
        serde_json::from_slice(&std::fs::read(fixture("llama/config.json")).unwrap()).unwrap();
    let size = std::fs::metadata(fixture("llama/model.safetensors")).unwrap().len();
    assert_eq!((&json["kind"], &json["family"]), (&json!("model"), &json!("llama")));
    for (ours, theirs) in [
        ("layers", "num_hidden_layers"),
        ("heads", "num_attention_heads"),
        ("kv_heads", "num_key_value_heads"),
        ("context", "max_position_embeddings"),
        ("vocabulary", "vocab_size"),
    ] {
        assert_eq!(json[ours], config[theirs], "{ours}");
    }
    assert_eq!(json["bytes"], size);
    assert_eq!(json["files"], json!([{"file": "model.safetensors", "bytes": size}]));
    assert_eq!((&json["tokenizer"], &json["chat_template"]), (&json!(false), &json!(false)));
    let tensors = std::fs::read(fixture("llama/model.safetensors")).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&tensors).unwrap();
    let numbers: usize = tensors.iter().map(|(_, t)| t.shape().iter().product::<usize>()).sum();
    assert_eq!(json["parameters"], numbers);
    let dtype = format!("{:?}", tensors.iter().next().unwrap().1.dtype()).to_lowercase();
    assert_eq!(json["dtypes"], json!([dtype]));
    assert!(fact(&text, "tokenizer").starts_with("none"));
    assert!(fact(&text, "weights").starts_with(&format!("{dtype}, ")), "{text}");
    assert_eq!(fact(&text, "context"), format!("{} tokens", config["max_position_embeddings"]));

    let (text, json) = info(dir.path(), &["embedded"]);
    assert_eq!((&json["tokenizer"], &json["chat_template"]), (&json!(true), &json!(true)));
    assert_eq!((fact(&text, "tokenizer"), fact(&text, "chat template")), ("yes".into(), "yes".into()));
}

/// A plan on a backend that has loaded `files`.
fn plan(backend: &mut dyn Backend, files: &ModelFiles, options: &EngineOptions) -> MemoryPlan {
    let config = ModelConfig::read(files).unwrap();
    let load = LoadOptions { training: options.training, max_positions: None };
    let model = Model::load(files, config, backend, load).unwrap();
    MemoryPlan::new(backend, &model, options).unwrap()
}

fn models() -> [(String, WeightType); 3] {
    let stored = |path: &str| {
        let files = ModelFiles::named(path).unwrap();
        let (dtype, ..) = files.shards().next().unwrap().1.raw("model.embed_tokens.weight").unwrap();
        match format!("{dtype:?}").as_str() {
            "F32" => WeightType::F32,
            "BF16" => WeightType::Bf16,
            other => panic!("{other}"),
        }
    };
    [fixture_str("llama"), fixture_str("llama-tied"), "embedded".into()].map(|path| {
        let dtype = stored(&path);
        (path, dtype)
    })
}

fn options(training: bool) -> EngineOptions {
    EngineOptions { training, adapters: 3, max_rank: 8, checkpoint_copies: 1, ..EngineOptions::default() }
}

#[test]
fn what_is_counted_is_what_a_cpu_holds() {
    for (path, stored) in models() {
        for training in [false, true] {
            let real = plan(
                &mut CpuBackend::new(2).unwrap(),
                &ModelFiles::named(&path).unwrap(),
                &options(training),
            );
            let mut counting = CpuBackend::new(2).unwrap().counting();
            let counted =
                plan(&mut counting, &ModelFiles::without_weights(&path, stored).unwrap(), &options(training));
            assert_eq!(counted, real, "{path}");
        }
    }
}

#[cfg(feature = "emulator")]
#[test]
fn what_is_counted_is_what_a_gpu_holds() {
    use colloquy::backend::cuda::CudaBackend;
    use colloquy::backend::cuda::driver::Driver;
    use colloquy::backend::cuda::emulator::Emulator;
    for (path, _) in models() {
        for training in [false, true] {
            let emulator = Emulator::new(0);
            let mut counting = CudaBackend::counting(emulator.multiprocessors());
            let mut real = CudaBackend::new(Box::new(emulator));
            // Without a limit: the counting device has no end.
            let no_limit = EngineOptions { memory_limit: None, kv: KvBudget::Pages(64), ..options(training) };
            let real = plan(&mut real, &ModelFiles::named(&path).unwrap(), &no_limit);
            let files = ModelFiles::without_weights(&path, WeightType::Bf16).unwrap();
            assert_eq!(plan(&mut counting, &files, &no_limit), real, "{path}");
        }
    }
}

#[test]
fn a_backend_that_counts_computes_nothing() {
    let mut cpu = CpuBackend::new(1).unwrap().counting();
    let files = ModelFiles::without_weights("embedded", WeightType::Bf16).unwrap();
    plan(&mut cpu, &files, &options(false));
    let e = cpu.enqueue(Op::ZeroGrad(ZeroGrad { slots: vec![] })).unwrap_err();
    assert!(e.to_string().contains("only counts"), "{e}");
}

#[test]
fn memory_by_device_and_batch() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture_str("llama");
    let memory = |args: &[&str]| info(dir.path(), &[&[model.as_str()], args].concat()).1["memory"].clone();
    let all = memory(&["--adapters", "3", "--rank", "8", "--tokens", "100"]);
    let bytes = |work: &str, key: &str, n: usize, device: &str| {
        let found = all.as_array().unwrap().iter().find(|m| m["work"] == work && m[key] == n);
        found.unwrap_or_else(|| panic!("{work} {n} in {all}"))["bytes"][device].as_u64().unwrap()
    };
    let sampling = |n, device| bytes("sampling", "sequences", n, device);
    let training = |n, device| bytes("training", "micro_batch_rows", n, device);
    for device in ["cpu", "cpu-bf16", "cuda"] {
        assert!(sampling(1, device) < sampling(16, device) && sampling(64, device) < sampling(256, device));
        assert!(
            training(512, device) < training(2048, device) && training(2048, device) < training(8192, device)
        );
        assert!(sampling(64, device) < training(512, device), "{device}");
    }
    assert!(
        sampling(256, "cpu-bf16") < sampling(256, "cpu") && sampling(256, "cuda") < sampling(256, "cpu-bf16")
    );

    // What `score` and its like would plan with these limits.
    let defaults = EngineOptions::default();
    let options = EngineOptions {
        max_rows: 512,
        max_sequences: 64,
        kv: KvBudget::Pages(64 * 7),
        adapters: 3,
        max_rank: 8,
        program_bytes: 48 << 20,
        ..defaults
    };
    let real = plan(&mut CpuBackend::new(0).unwrap(), &ModelFiles::named(&model).unwrap(), &options);
    assert_eq!(sampling(64, "cpu"), real.total() as u64, "{real}");

    let more = memory(&["--adapters", "30", "--rank", "8", "--tokens", "100"]);
    assert!(more[0]["bytes"]["cpu"].as_u64() > all[0]["bytes"]["cpu"].as_u64(), "adapters take memory");
    let longer = memory(&["--adapters", "3", "--rank", "8", "--tokens", "400"]);
    assert!(longer[3]["bytes"]["cuda"].as_u64() > all[3]["bytes"]["cuda"].as_u64(), "tokens take memory");
    let e = fail(dir.path(), &["info", &model, "--rank", "1000"], 2);
    assert!(e.contains("--rank 1000"), "{e}");
}

#[test]
fn an_adapter() {
    let dir = tempfile::tempdir().unwrap();
    let config = ModelConfig::read(&ModelFiles::named("embedded").unwrap()).unwrap();
    let layout = adapter_layout(&config);
    let new = NewAdapter {
        rank: 4,
        alpha: 12.0,
        targets: vec!["q_proj".into(), "down_proj".into()],
        ..NewAdapter::default()
    };
    let mut snapshot = new.snapshot(&layout).unwrap();
    let base = Base { name: "test/model".into(), revision: Some("v1".into()) };
    write_peft(&dir.path().join("plain"), &snapshot, &layout, base).unwrap();
    let (text, json) = info(dir.path(), &["plain"]);
    let modules = 2 * config.num_layers;
    assert_eq!((&json["kind"], &json["modules"]), (&json!("adapter"), &json!(modules)));
    assert_eq!((&json["base"], &json["base_revision"]), (&json!("test/model"), &json!("v1")));
    assert_eq!(json["shapes"], json!([{"rank": 4, "alpha": 12.0, "scale": 3.0, "modules": modules}]));
    assert_eq!(json["targets"], json!(["down_proj", "q_proj"]));
    assert_eq!((&json["parameters"], &json["dtypes"]), (&json!(snapshot.parameters()), &json!(["f32"])));
    assert_eq!(json["optimizer"], Value::Null);
    assert_eq!(fact(&text, "base"), "test/model @ v1");
    assert_eq!(fact(&text, "rank"), "4, alpha 12, scale 3; scale = alpha / rank");
    assert!(fact(&text, "optimizer").starts_with("no state"));

    let zeros = snapshot.weights.clone();
    snapshot.moments = Some(Moments { steps: 17, first: zeros.clone(), second: zeros });
    write_peft(&dir.path().join("trained"), &snapshot, &layout, "embedded").unwrap();
    let (text, json) = info(dir.path(), &["trained"]);
    let size = std::fs::metadata(dir.path().join("trained/optimizer.safetensors")).unwrap().len();
    assert_eq!(json["optimizer"], json!({"steps": 17, "bytes": size}));
    assert!(fact(&text, "optimizer").starts_with("state after 17 steps"), "{text}");

    // Written by PEFT itself.
    for name in ["a", "b"] {
        let folder = fixture(&format!("llama/adapters/{name}"));
        let (_, json) = info(dir.path(), &[folder.to_str().unwrap()]);
        let config: Value =
            serde_json::from_slice(&std::fs::read(folder.join("adapter_config.json")).unwrap()).unwrap();
        let ranks: Vec<&Value> = json["shapes"].as_array().unwrap().iter().map(|s| &s["rank"]).collect();
        assert!(ranks.contains(&&config["r"]), "{json}");
        assert_eq!(json["dropout"], config["lora_dropout"].as_f64().unwrap());
    }
}

#[test]
fn ranks_and_scales_that_differ() {
    let dir = tempfile::tempdir().unwrap();
    let layout = adapter_layout(&ModelConfig::read(&ModelFiles::named("embedded").unwrap()).unwrap());
    let mut snapshot = NewAdapter { rank: 4, alpha: 8.0, ..NewAdapter::default() }.snapshot(&layout).unwrap();
    let first = snapshot.spec.parts[0].as_mut().unwrap();
    (first.rank, first.scale) = (2, 5.0);
    for (_, _, values) in snapshot.weights.iter_mut().take(2) {
        values.truncate(values.len() / 2);
    }
    write_peft(&dir.path().join("mixed"), &snapshot, &layout, "embedded").unwrap();
    let (text, json) = info(dir.path(), &["mixed"]);
    let others = snapshot.spec.parts.len() - 1;
    let shapes = json["shapes"].as_array().unwrap();
    assert!(shapes.contains(&json!({"rank": 2, "alpha": 10.0, "scale": 5.0, "modules": 1})), "{json}");
    assert!(shapes.contains(&json!({"rank": 4, "alpha": 8.0, "scale": 2.0, "modules": others})), "{json}");
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("2, alpha 10, scale 5 (1 module)"), "{text}");
}

#[test]
fn runs_that_are_complete_interrupted_and_running() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("my run");
    let complete = report_run::Fake { questions: 6, seeds: 2, iterations: 3, ..FAKE };
    complete.write(&run);
    let (text, json) = info(dir.path(), &["my run"]);
    assert_eq!((&json["kind"], &json["state"]), (&json!("run"), &json!("complete")));
    assert!(fact(&text, "state").starts_with("complete: 10 of 10 lanes"), "{text}");
    assert!(json["resume"].is_null() && !text.contains("colloquy resume"));
    let parts = json["parts"].as_array().unwrap();
    let on_disk = tree(&run, &|_| false);
    assert_eq!(json["bytes"], on_disk.values().map(Vec::len).sum::<usize>());
    let files: u64 = parts.iter().map(|p| p["files"].as_u64().unwrap()).sum();
    assert_eq!(files as usize, on_disk.len());
    let transcripts: usize =
        on_disk.iter().filter(|f| f.0.starts_with("transcripts/")).map(|f| f.1.len()).sum();
    assert!(parts.iter().any(|p| p["part"] == "transcripts/" && p["bytes"] == transcripts), "{json}");

    let stopped = report_run::Fake { stop_at: Some(1), ..complete };
    std::fs::remove_dir_all(&run).unwrap();
    stopped.write(&run);
    let (text, json) = info(dir.path(), &["my run"]);
    assert_eq!(json["state"], "interrupted");
    assert!(text.contains("To go on:\n  colloquy resume 'my run'\n"), "{text}");
    assert_eq!(json["resume"], "colloquy resume 'my run'");
    let lanes = json["lanes"].as_array().unwrap();
    let open: Vec<&Value> = lanes.iter().filter(|l| l["complete"] == false).collect();
    assert!(!open.is_empty() && open.iter().all(|l| l["iterations"] == 1 || l["wanted"] == 0), "{json}");
    let whole = lanes.iter().find(|l| l["lane"] == "multiagent/seed-0").unwrap();
    assert_eq!(
        (&whole["iterations"], &whole["wanted"], &whole["recipe"]),
        (&json!(3), &json!(3), &json!("multiagent"))
    );

    let lock = std::fs::File::create(run.join(".lock")).unwrap();
    std::io::Write::write_all(&mut &lock, b"4711").unwrap();
    lock.lock().unwrap();
    let (text, json) = info(dir.path(), &["my run"]);
    assert_eq!(
        (&json["state"], &json["process"], &json["resume"]),
        (&json!("running"), &json!("4711"), &Value::Null)
    );
    assert!(fact(&text, "state").starts_with("running, in process 4711"), "{text}");
    drop(lock);
    assert_eq!(info(dir.path(), &["my run"]).1["state"], "interrupted");
}

#[test]
fn neither_model_nor_adapter_nor_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("empty")).unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    for (what, expected) in [
        ("empty", "empty: found neither manifest.json (of a run) nor adapter_config.json"),
        ("file", "file: found a file, expected the folder"),
        ("nowhere", "nowhere: found no such folder, expected a model, a PEFT adapter, a run, or OWNER/NAME"),
        ("./no/thing", "./no/thing: found no such folder"),
    ] {
        let e = fail(dir.path(), &["info", what], 1);
        assert!(e.contains(expected), "{e}");
    }
    std::fs::write(dir.path().join("empty/adapter_config.json"), "{\"peft_type\": \"IA3\"}").unwrap();
    let e = fail(dir.path(), &["info", "empty"], 1);
    assert!(e.contains("adapter_config.json, field peft_type: found \"IA3\", expected \"LORA\""), "{e}");
    std::fs::write(dir.path().join("empty/manifest.json"), "{}").unwrap();
    let e = fail(dir.path(), &["info", "empty"], 1);
    assert!(e.contains("manifest.json: schema: missing"), "{e}");
}

#[test]
fn a_name_of_the_hub_downloads_no_weights() {
    use crate::common::hub_server::*;
    let dir = tempfile::tempdir().unwrap();
    let hub = Hub::start();
    let mut files = files_of(&here().join("assets/model"));
    let size = files["model.safetensors"].len();
    let commit = hub.commit("main", files.clone());
    let ask = |environment: &[(&str, &str)]| {
        let mut command = colloquy(dir.path(), &["info", REPOSITORY, "--json"]);
        for name in [
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "http_proxy",
            "HTTP_PROXY",
            "all_proxy",
            "ALL_PROXY",
        ] {
            command.env_remove(name);
        }
        command.env("HF_HOME", dir.path().join("home")).env("HF_ENDPOINT", hub.endpoint());
        command.envs(environment.iter().copied()).output().unwrap()
    };
    let output = ask(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&json["commit"], &json["bytes"]), (&json!(commit), &json!(size)));
    assert_eq!((&json["tokenizer"], &json["family"]), (&json!(true), &json!("llama")));
    let lines = hub.lines();
    assert!(lines.contains(&format!("HEAD /test/model/resolve/{commit}/model.safetensors")), "{lines:?}");
    assert!(!lines.iter().any(|l| l.starts_with("GET") && l.contains(".safetensors")), "{lines:?}");
    // The same as of the folder itself, apart from where it is and what its headers say.
    let folder = here().join("assets/model");
    let (_, local) = info(dir.path(), &[folder.to_str().unwrap()]);
    for key in ["parameters", "bytes", "files", "chat_template"] {
        assert_eq!(json[key], local[key], "{key}");
    }
    assert_eq!(
        one_error(&ask(&[("HF_HUB_OFFLINE", "1")]), &["info"], 1).matches("model.safetensors").count(),
        1
    );
    files.remove("model.safetensors");
    hub.commit("main", files);
    let e = one_error(&ask(&[]), &["info"], 1);
    assert!(e.contains("test/model: found no weights"), "{e}");
}
