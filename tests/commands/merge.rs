//! `merge`: the merged model scores as base and adapter do, keeps what it should, and nothing is lost or left where something fails.

use std::collections::BTreeMap;
use std::path::Path;

use crate::common::shell::*;
use colloquy::adapter::{NewAdapter, read_peft, write_peft};
use colloquy::backend::{AdapterLayout, LoraMatrix};
use colloquy::model::{ModelConfig, ModelFiles, adapter_layout};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

type Tensor = (Dtype, Vec<usize>, Vec<u8>);

/// All tensors of a safetensors file.
fn tensors(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    file.iter().map(|(n, t)| (n.to_string(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()))).collect()
}

fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) {
    let views = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    let metadata = [("format".to_string(), "pt".to_string())].into_iter().collect();
    std::fs::write(path, safetensors::serialize(views, Some(metadata)).unwrap()).unwrap();
}

fn floats((dtype, _, bytes): &Tensor) -> Vec<f32> {
    match dtype {
        Dtype::F32 => bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::BF16 => {
            bytes.chunks_exact(2).map(|b| half::bf16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        Dtype::F16 => {
            bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes(b.try_into().unwrap()).to_f32()).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn layout(model: &str) -> AdapterLayout {
    adapter_layout(&ModelConfig::read(&ModelFiles::named(model).unwrap()).unwrap())
}

/// `W + s B A` by the definition, each number a sum in f64, by tensor.
fn by_definition(model: &Path, adapter: &Path) -> BTreeMap<String, Vec<f64>> {
    let layout = layout(model.to_str().unwrap());
    let snapshot = read_peft(adapter, &layout).unwrap();
    let base = tensors(&model.join("model.safetensors"));
    let mut merged = BTreeMap::new();
    for (id, _, group, part) in layout.parts() {
        let Some(spec) = snapshot.spec.parts[id.0 as usize] else { continue };
        let get = |m| &snapshot.weights.iter().find(|(p, n, _)| (*p, *n) == (id, m)).unwrap().2;
        let (a, b) = (get(LoraMatrix::A), get(LoraMatrix::B));
        let name = format!("{}.weight", part.module);
        let w = floats(&base[&name]);
        let at = |i: usize, j: usize| -> f64 {
            let product = |r: usize| f64::from(b[i * spec.rank + r]) * f64::from(a[r * group.inputs + j]);
            f64::from(w[i * group.inputs + j])
                + f64::from(spec.scale) * (0..spec.rank).map(product).sum::<f64>()
        };
        let values = (0..part.outputs).flat_map(|i| (0..group.inputs).map(move |j| (i, j)));
        merged.insert(name, values.map(|(i, j)| at(i, j)).collect());
    }
    merged
}

fn write_input(dir: &Path) {
    let record = |adapter: Value, i: u64| json!({"adapter": adapter, "tokens": (0..40).map(|t| (t * t + 7 * i + t) % 256).collect::<Vec<_>>()});
    let of = |adapter: Value| (0..3).map(|i| format!("{}\n", record(adapter.clone(), i))).collect::<String>();
    std::fs::write(dir.join("base.jsonl"), of(Value::Null)).unwrap();
    std::fs::write(dir.join("x.jsonl"), of(json!("x"))).unwrap();
}

fn scores(dir: &Path, args: &[&str]) -> Vec<f64> {
    let mut all = vec!["score", "--device", "cpu", "--output", "-"];
    all.extend(args);
    let out = succeed(dir, &all);
    let logprobs =
        |r: Value| r["logprobs"].as_array().unwrap().iter().filter_map(Value::as_f64).collect::<Vec<_>>();
    lines(&out).into_iter().flat_map(logprobs).collect()
}

fn farthest(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

/// Names in a folder, hidden ones too.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_merged_model_is_the_base_with_its_adapter() {
    for (model, adapter) in [("llama", "a"), ("llama", "b"), ("llama-tied", "a"), ("llama-tied", "b")] {
        let dir = tempfile::tempdir().unwrap();
        write_input(dir.path());
        let (base, folder) = (fixture_str(model), fixture_str(&format!("{model}/adapters/{adapter}")));
        let named = format!("x={folder}");
        succeed(dir.path(), &["merge", "--model", &base, "--adapter", &named, "--output", "merged"]);
        let expected = scores(dir.path(), &["--model", &base, "--adapter", &named, "--input", "x.jsonl"]);
        let found = scores(dir.path(), &["--model", "merged", "--input", "base.jsonl"]);
        let without = scores(dir.path(), &["--model", &base, "--input", "base.jsonl"]);
        assert!(farthest(&found, &expected) < 1e-4, "{model} {adapter}: {}", farthest(&found, &expected));
        assert!(farthest(&found, &without) > 0.1, "the adapter does something");

        // Bit for bit: rounded once, and what the adapter does not change is what it was.
        let (before, after) = (
            tensors(&fixture(model).join("model.safetensors")),
            tensors(&dir.path().join("merged/model.safetensors")),
        );
        let definition = by_definition(&fixture(model), Path::new(&folder));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        for (name, tensor) in &after {
            match definition.get(name) {
                None => assert!(tensor == &before[name], "{name}"),
                Some(values) => {
                    assert_eq!((&tensor.0, &tensor.1), (&before[name].0, &before[name].1));
                    // The order of the sum may move its last bit in f64, which moves an f32 only where it is all but a tie.
                    let off = floats(tensor).iter().zip(values).filter(|(f, v)| **f != **v as f32).count();
                    assert!(off * 10_000 <= values.len(), "{name}: {off} of {}", values.len());
                }
            }
        }
        let read = |p: std::path::PathBuf| std::fs::read(p).unwrap();
        assert_eq!(read(dir.path().join("merged/config.json")), read(fixture(model).join("config.json")));
        assert_eq!(names(&dir.path().join("merged")), ["config.json", "model.safetensors"]);
        assert_eq!(names(dir.path()), ["base.jsonl", "merged", "x.jsonl"]);
    }
}

#[test]
fn a_type_of_ones_own_is_written_throughout() {
    let dir = tempfile::tempdir().unwrap();
    write_input(dir.path());
    let (base, named) = (fixture_str("llama"), format!("x={}", fixture_str("llama/adapters/a")));
    let definition = by_definition(&fixture("llama"), &fixture("llama/adapters/a"));
    let expected = scores(dir.path(), &["--model", &base, "--adapter", &named, "--input", "x.jsonl"]);
    for (dtype, in_config, in_file, part, far) in [
        ("bf16", "bfloat16", Dtype::BF16, 2f64.powi(-8), 0.3),
        ("f16", "float16", Dtype::F16, 2f64.powi(-11), 0.05),
        ("f32", "float32", Dtype::F32, 2f64.powi(-24), 1e-4),
    ] {
        let args = ["merge", "--model", &base, "--adapter", &named, "--output", dtype, "--dtype", dtype];
        succeed(dir.path(), &args);
        let config: Value =
            serde_json::from_slice(&std::fs::read(dir.path().join(dtype).join("config.json")).unwrap())
                .unwrap();
        assert_eq!(config["torch_dtype"], in_config);
        assert_eq!(config["hidden_size"], 64);
        for (name, tensor) in tensors(&dir.path().join(dtype).join("model.safetensors")) {
            assert_eq!(tensor.0, in_file, "{name}");
            let Some(values) = definition.get(&name) else { continue };
            for (found, value) in floats(&tensor).iter().zip(values) {
                let off = (f64::from(*found) - value).abs();
                assert!(off <= value.abs() * part + 1e-7, "{dtype} {name}: {found} for {value}");
            }
        }
        let found = scores(dir.path(), &["--model", dtype, "--input", "base.jsonl"]);
        assert!(farthest(&found, &expected) < far, "{dtype}: {}", farthest(&found, &expected));
    }
}

/// The fixture as a folder of two shards in bf16, with all that a model folder may hold.
fn sharded(folder: &Path) {
    std::fs::create_dir_all(folder.join("additional_chat_templates")).unwrap();
    let mut shards = [BTreeMap::new(), BTreeMap::new()];
    let (mut map, mut size) = (serde_json::Map::new(), 0);
    for (i, (name, tensor)) in tensors(&fixture("llama").join("model.safetensors")).into_iter().enumerate() {
        let halves = floats(&tensor)
            .into_iter()
            .flat_map(|v| half::bf16::from_f32(v).to_le_bytes())
            .collect::<Vec<_>>();
        map.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", i % 2 + 1).into());
        size += halves.len();
        shards[i % 2].insert(name, (Dtype::BF16, tensor.1, halves));
    }
    // Something that is no float stays as it is.
    shards[0]
        .insert("model.layers.0.self_attn.rotary_emb.inv_freq".into(), (Dtype::I64, vec![1], vec![7; 8]));
    for (i, shard) in shards.iter().enumerate() {
        write_tensors(&folder.join(format!("model-0000{}-of-00002.safetensors", i + 1)), shard);
    }
    let index = json!({"metadata": {"total_size": size, "note": "kept"}, "weight_map": map});
    let write = |name: &str, text: String| std::fs::write(folder.join(name), text).unwrap();
    write("model.safetensors.index.json", index.to_string());
    let mut config: Value =
        serde_json::from_slice(&std::fs::read(fixture("llama").join("config.json")).unwrap()).unwrap();
    config["torch_dtype"] = "bfloat16".into();
    write("config.json", config.to_string());
    for name in ["generation_config.json", "tokenizer_config.json", "special_tokens_map.json"] {
        write(name, format!("{{\"of\": \"{name}\"}}"));
    }
    for name in ["chat_template.jinja", "additional_chat_templates/rag.jinja", "LICENSE", "tokenizer.model"] {
        write(name, format!("that is {name}"));
    }
    for name in ["README.md", "pytorch_model.bin", "optimizer.pt"] {
        write(name, "not copied".into());
    }
}

#[test]
fn shards_index_and_companions_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    write_input(dir.path());
    sharded(&dir.path().join("base"));
    let named = format!("x={}", fixture_str("llama/adapters/b"));
    succeed(dir.path(), &["merge", "--model", "base", "--adapter", &named, "--output", "deep/er/merged"]);
    let (base, merged) = (dir.path().join("base"), dir.path().join("deep/er/merged"));
    let copied = |n: &String| !["README.md", "pytorch_model.bin", "optimizer.pt"].contains(&n.as_str());
    assert_eq!(names(&merged), names(&base).into_iter().filter(copied).collect::<Vec<_>>());
    let same =
        |name: &str| std::fs::read(base.join(name)).unwrap() == std::fs::read(merged.join(name)).unwrap();
    for name in [
        "config.json",
        "generation_config.json",
        "LICENSE",
        "additional_chat_templates/rag.jinja",
        "tokenizer.model",
    ] {
        assert!(same(name), "{name}");
    }
    let json = |path: &Path| -> Value { serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap() };
    let index = "model.safetensors.index.json";
    let (before, after) = (json(&base.join(index)), json(&merged.join(index)));
    assert_eq!(before["weight_map"], after["weight_map"]);
    let shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    let bytes = |folder: &Path| -> usize {
        shards.iter().flat_map(|s| tensors(&folder.join(s)).into_values()).map(|t| t.2.len()).sum()
    };
    assert_eq!(after["metadata"], json!({"total_size": bytes(&merged), "note": "kept"}));
    let mut changed = 0;
    for shard in shards {
        let (before, after) = (tensors(&base.join(shard)), tensors(&merged.join(shard)));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>());
        changed += after.iter().filter(|(name, tensor)| before[*name] != **tensor).count();
        assert!(after.iter().all(|(name, tensor)| tensor.0 == before[name].0));
    }
    assert_eq!(changed, 6);

    // As f32 the two files are as good as the adapter beside the base, and what is no float is what it was.
    succeed(
        dir.path(),
        &["merge", "--model", "base", "--adapter", &named, "--output", "wide", "--dtype", "f32"],
    );
    let expected = scores(dir.path(), &["--model", "base", "--adapter", &named, "--input", "x.jsonl"]);
    let found = scores(dir.path(), &["--model", "wide", "--input", "base.jsonl"]);
    assert!(farthest(&found, &expected) < 1e-4, "{}", farthest(&found, &expected));
    let wide = dir.path().join("wide");
    let kept = &tensors(&wide.join(shards[0]))["model.layers.0.self_attn.rotary_emb.inv_freq"];
    assert_eq!(*kept, (Dtype::I64, vec![1], vec![7; 8]));
    assert_eq!(json(&wide.join(index))["metadata"]["total_size"], bytes(&wide));
    assert_eq!(json(&wide.join("config.json"))["torch_dtype"], "float32");
}

/// A run folder with a lane that has one adapter after each of two iterations.
fn society(dir: &Path) -> String {
    let run = dir.join("run");
    let manifest =
        json!({"schema": 1, "lanes": ["m/seed-0", "n/seed-0"], "model": {"path": fixture_str("llama")}});
    std::fs::create_dir_all(&run).unwrap();
    std::fs::write(run.join("manifest.json"), manifest.to_string()).unwrap();
    for (iteration, adapter) in [(1, "a"), (2, "b")] {
        let to = run.join(format!("adapters/m/seed-0/iteration-{iteration}/generator-0"));
        copy(&fixture("llama/adapters").join(adapter), &to);
    }
    run.to_str().unwrap().to_string()
}

#[test]
fn a_societys_adapters_go_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let run = society(dir.path());
    let at = format!("{run}@1");
    for (society, adapter) in [(&run, "b"), (&at, "a")] {
        let args = [
            "merge",
            "--society",
            society,
            "--lane",
            "m/seed-0",
            "--adapter",
            "generator-0",
            "--output",
            adapter,
        ];
        succeed(dir.path(), &args);
        let (model, named) =
            (fixture_str("llama"), format!("x={}", fixture_str(&format!("llama/adapters/{adapter}"))));
        succeed(
            dir.path(),
            &["merge", "--model", &model, "--adapter", &named, "--output", "direct", "--force"],
        );
        let file = |folder: &str| std::fs::read(dir.path().join(folder).join("model.safetensors")).unwrap();
        assert!(file(adapter) == file("direct"));
    }
    let outside = format!("x={}", fixture_str("llama/adapters/a"));
    succeed(dir.path(), &["merge", "--society", &run, "--adapter", &outside, "--output", "outside"]);

    let e = fail(dir.path(), &["merge", "--society", &run, "--adapter", "critic-0", "--output", "o"], 2);
    assert!(e.contains("after iteration 2 of m/seed-0 the adapters generator-0"), "{e}");
    let none =
        ["merge", "--society", &run, "--lane", "n/seed-0", "--adapter", "generator-0", "--output", "o"];
    assert!(fail(dir.path(), &none, 2).contains("no adapters"));
}

#[test]
fn the_embedded_model_is_merged_with_its_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let layout = layout("embedded");
    let mut snapshot = NewAdapter { rank: 3, ..NewAdapter::default() }.snapshot(&layout).unwrap();
    for (i, (_, _, values)) in snapshot.weights.iter_mut().enumerate() {
        values.iter_mut().enumerate().for_each(|(j, v)| *v += 0.01 * f32::sin((i * 31 + j * 7) as f32));
    }
    write_peft(&dir.path().join("x"), &snapshot, &layout, "somewhere/else").unwrap();
    let args = ["merge", "--model", "embedded", "--adapter", "x=x", "--output", "merged"];
    let output = run(dir.path(), &args);
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(
        text.contains("warning: adapter x was made for somewhere/else; its shapes fit embedded"),
        "{text}"
    );
    assert_eq!(
        names(&dir.path().join("merged")),
        [
            "config.json",
            "generation_config.json",
            "model.safetensors",
            "tokenizer.json",
            "tokenizer_config.json"
        ]
    );
    let messages = json!([{"role": "user", "content": "3+4"}, {"role": "assistant", "content": "7"}]);
    for (name, adapter) in [("x.jsonl", json!("x")), ("base.jsonl", Value::Null)] {
        std::fs::write(dir.path().join(name), json!({"adapter": adapter, "messages": messages}).to_string())
            .unwrap();
    }
    let expected = scores(dir.path(), &["--model", "embedded", "--adapter", "x=x", "--input", "x.jsonl"]);
    let found = scores(dir.path(), &["--model", "merged", "--input", "base.jsonl"]);
    // The embedded weights are 16 bits wide, and so are the merged ones.
    assert!(farthest(&found, &expected) < 0.05, "{}", farthest(&found, &expected));
}

#[test]
fn nothing_is_overwritten_or_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let d = dir.path();
    let (base, named) = (fixture_str("llama"), format!("x={}", fixture_str("llama/adapters/a")));
    let args = |output: &'static str, extra: &[&'static str]| -> Vec<String> {
        let mut args = vec!["merge", "--model", &base, "--adapter", &named, "--output", output];
        args.extend(extra);
        args.into_iter().map(String::from).collect()
    };
    let fails =
        |args: Vec<String>, code: i32| fail(d, &args.iter().map(String::as_str).collect::<Vec<_>>(), code);
    let done = |args: Vec<String>| succeed(d, &args.iter().map(String::as_str).collect::<Vec<_>>());

    std::fs::create_dir(d.join("taken")).unwrap();
    std::fs::write(d.join("taken/notes.txt"), "mine").unwrap();
    std::fs::write(d.join("file"), "mine").unwrap();
    assert!(fails(args("taken", &[]), 1).contains("taken: exists already"));
    assert!(fails(args("taken", &["--force"]), 1).contains("taken: is not a model folder"));
    assert!(fails(args("file", &["--force"]), 1).contains("file: is not a model folder"));
    assert_eq!(std::fs::read_to_string(d.join("taken/notes.txt")).unwrap(), "mine");
    std::fs::create_dir(d.join("empty")).unwrap();
    done(args("empty", &["--force"]));

    // A model folder is replaced whole, unless it is what is merged or holds the adapter.
    done(args("out", &[]));
    std::fs::write(d.join("out/stale.safetensors"), "old").unwrap();
    done(args("out", &["--force", "--dtype", "bf16"]));
    assert_eq!(names(&d.join("out")), ["config.json", "model.safetensors"]);
    let itself = ["merge", "--model", "out", "--adapter", &named, "--output", "out", "--force"];
    assert!(fail(d, &itself, 1).contains("out: holds out, which is merged"));
    copy(&fixture("llama/adapters/a"), &d.join("out/adapter"));
    let holds = ["merge", "--model", &base, "--adapter", "x=out/adapter", "--output", "./out", "--force"];
    assert!(fail(d, &holds, 1).contains("holds out/adapter, which is merged"));

    // What fails half way leaves what was there, and nothing else.
    let before = names(d);
    let out = tree(&d.join("out"), &|_| false);
    let mut huge = read_peft(&fixture("llama/adapters/a"), &layout(&base)).unwrap();
    huge.weights.last_mut().unwrap().2.fill(3e6);
    write_peft(&d.join("huge"), &huge, &layout(&base), "").unwrap();
    let too_large =
        ["merge", "--model", &base, "--adapter", "x=huge", "--output", "out", "--force", "--dtype", "f16"];
    let other = format!("x={}", fixture_str("llama-tied/adapters/a"));
    let wrong = ["merge", "--model", &base, "--adapter", &other, "--output", "new"];
    std::fs::remove_dir_all(d.join("out/adapter")).unwrap();
    let e = fail(d, &too_large, 1);
    assert!(
        e.contains("tensor model.layers.1.mlp.down_proj.weight: found ") && e.contains("f16 holds"),
        "{e}"
    );
    assert!(fail(d, &wrong, 1).contains("k_proj.lora_B.weight: found shape [64, 4], expected [32, 4]"));
    let mut expected = [before, vec!["huge".into()]].concat();
    expected.sort();
    assert_eq!(names(d), expected);
    assert!(tree(&d.join("out"), &|_| false).iter().all(|(n, b)| out[n] == *b));

    let e = fail(d, &["merge", "--model", &base, "--adapter", "x", "--output", "o"], 2);
    assert!(e.contains("--adapter x: expected NAME=VALUE"), "{e}");
    for wrong in [
        &["merge", "--model", &base, "--adapter", &named, "--output", "o", "--dtype", "f64"][..],
        &["merge", "--adapter", &named, "--output", "o"],
        &["merge", "--model", &base, "--adapter", &named],
        &["merge", "--model", &base, "--society", "run", "--adapter", &named, "--output", "o"],
        &["merge", "--model", &base, "--adapter", &named, "--output", "o", "--lane", "m/seed-0"],
    ] {
        assert_eq!(run(d, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

/// A disk that is full, as far as a process can have one to itself: files may not grow beyond a limit.
#[cfg(unix)]
#[test]
fn a_disk_that_is_full_is_an_error_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let named = format!("x={}", fixture_str("llama/adapters/a"));
    // Units of ulimit are 512 bytes or 1 KiB; the model takes 429 KB.
    let script = r#"trap "" XFSZ; ulimit -f 100; exec "$0" "$@""#;
    let output = std::process::Command::new("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_colloquy"), "merge", "--model", &fixture_str("llama")])
        .args(["--adapter", &named, "--output", "deep/merged"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let e = one_error(&output, &["merge"], 1);
    assert!(e.starts_with("deep/merged/model.safetensors: "), "{e}");
    assert_eq!(names(&dir.path().join("deep")), [""; 0]);
}

/// A base whose config.json ties two matrices that are not the same.
fn untied(folder: &Path) {
    copy(&fixture("llama-tied"), folder);
    let path = folder.join("model.safetensors");
    let mut all = tensors(&path);
    let (dtype, shape, mut bytes) = all["model.embed_tokens.weight"].clone();
    // One row, of a token that the records have.
    let row = bytes.len() / shape[0];
    bytes[9 * row..10 * row].rotate_left(row / 2);
    all.insert("lm_head.weight".into(), (dtype, shape, bytes));
    std::fs::remove_file(&path).unwrap();
    write_tensors(&path, &all);
}

#[test]
fn a_head_that_is_not_tied_is_merged_and_said_so() {
    let dir = tempfile::tempdir().unwrap();
    write_input(dir.path());
    untied(&dir.path().join("base"));
    let adapter = format!("x={}", fixture_str("llama-tied/adapters/a"));
    let args = ["merge", "--model", "base", "--adapter", &adapter, "--output", "merged"];
    let output = run(dir.path(), &args);
    assert!(output.status.success(), "{}", stderr(&output));
    let warning =
        "tie_word_embeddings is true, but lm_head.weight is another matrix than the embedding; it is used";
    assert!(stderr(&output).contains(warning), "{}", stderr(&output));
    let with_adapter = scores(dir.path(), &["--model", "base", "--adapter", &adapter, "--input", "x.jsonl"]);
    let merged = scores(dir.path(), &["--model", "merged", "--input", "base.jsonl"]);
    assert!(farthest(&with_adapter, &merged) < 2e-4);
    // Programs that go by config.json alone must not tie them.
    let config: Value =
        serde_json::from_slice(&std::fs::read(dir.path().join("merged/config.json")).unwrap()).unwrap();
    assert_eq!(config["tie_word_embeddings"], false);
    let head =
        |folder: &str| tensors(&dir.path().join(folder).join("model.safetensors"))["lm_head.weight"].clone();
    assert_eq!(head("merged"), head("base"));
    // A base whose ends are tied stays one.
    let tied = fixture_str("llama-tied");
    succeed(dir.path(), &["merge", "--model", &tied, "--adapter", &adapter, "--output", "tied"]);
    assert_eq!(
        std::fs::read(dir.path().join("tied/config.json")).unwrap(),
        std::fs::read(fixture("llama-tied").join("config.json")).unwrap()
    );
    // The head shows in the scores, and `info` counts it.
    let plain = scores(dir.path(), &["--model", &tied, "--input", "base.jsonl"]);
    let other = scores(dir.path(), &["--model", "base", "--input", "base.jsonl"]);
    assert!(farthest(&plain, &other) > 0.1);
    let of = |model: &str| -> Value {
        serde_json::from_str(&succeed(dir.path(), &["info", model, "--json"])).unwrap()
    };
    let (base, tied) = (of("base"), of(&tied));
    assert_eq!((&base["tied_embeddings"], &tied["tied_embeddings"]), (&json!(false), &json!(true)));
    assert_eq!(base["parameters"].as_u64().unwrap() - tied["parameters"].as_u64().unwrap(), 256 * 64);
    assert!(
        succeed(dir.path(), &["info", "base"]).contains("lm_head         tie_word_embeddings is true, but")
    );
}
