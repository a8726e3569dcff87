//! Model folders as programs and people leave them, read as transformers reads them
//! (`tools/folder_fixtures.py`) or refused by name.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::shrunk::{folder, tokens};
use crate::common::tiny::*;
use colloquy::adapter::{NewAdapter, read_peft, read_peft_on, write_peft};
use colloquy::backend::Backend;
use colloquy::backend::cpu::CpuBackend;
use colloquy::engine::*;
use colloquy::error::Result;
use colloquy::files::TensorFile;
use colloquy::model::{
    GENERATION_FIELDS, IGNORED_FIELDS, LoadOptions, Model, ModelConfig, ModelFiles, Neutral, READ_FIELDS,
    REFUSED_FIELDS, adapter_layout,
};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use tempfile::TempDir;

const HEAD: &str = "lm_head.weight";
const EMBEDDING: &str = "model.embed_tokens.weight";
const POINTER: &str = "version https://git-lfs.github.com/spec/v1\noid sha256:\
                       4665a5ea423c2713d436b5ee50593a9640e0018c1550b5a0002f74190d6caea8\nsize 269060552\n";

fn records() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string("tests/data/folders.json").unwrap()).unwrap()
}

fn record(name: &str) -> Value {
    records().into_iter().find(|r| r["name"] == name).unwrap()
}

/// The folder of a record.
fn made(record: &Value) -> TempDir {
    folder(&record["config"], &record["stored"])
}

fn open(folder: &Path) -> Result<(ModelFiles, ModelConfig)> {
    let files = ModelFiles::open(folder)?;
    let config = ModelConfig::read(&files)?;
    Ok((files, config))
}

fn load(folder: &Path, options: LoadOptions) -> Result<EngineHandle> {
    let (files, config) = open(folder)?;
    let mut backend: Box<dyn Backend> = Box::new(CpuBackend::new(2)?);
    let model = Model::load(&files, config, &mut *backend, options)?;
    Ok(EngineHandle::new(Engine::new(backend, model, EngineOptions { training: false, ..options_of() })?))
}

fn options_of() -> EngineOptions {
    options()
}

/// The farthest of a folder's log-probabilities from those of a record.
fn off(folder: &Path, record: &Value) -> f64 {
    let handle = load(folder, LoadOptions { max_positions: Some(256), ..Default::default() }).unwrap();
    let found = score(&handle, AdapterId::BASE, &tokens(record)).logprobs;
    let expected: Vec<f64> =
        record["logprobs"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
    let found = &found[found.len() - expected.len()..];
    found.iter().zip(&expected).map(|(f, e)| (f64::from(*f) - e).abs()).fold(0.0, f64::max)
}

fn refusal(folder: &Path) -> String {
    let e = load(folder, LoadOptions::default()).err().expect("a folder that is refused").to_string();
    assert!(!e.contains('\n'), "{e}");
    e
}

type Tensor = (String, Dtype, Vec<usize>, Vec<u8>);
type Tensors = Vec<Tensor>;

fn read_tensors(path: &Path) -> Tensors {
    let file = TensorFile::open(path).unwrap();
    let one = |name: &str| {
        let (dtype, shape, bytes) = file.raw(name).unwrap();
        (name.to_string(), dtype, shape.to_vec(), bytes.to_vec())
    };
    file.names().map(one).collect()
}

fn write_tensors(path: &Path, tensors: &[Tensor]) {
    let views = tensors.iter().map(|(n, d, s, b)| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    // The file may be mapped still.
    let _ = std::fs::remove_file(path);
    std::fs::write(path, bytes).unwrap();
}

/// Changes the tensors of a folder's single file.
fn edit(folder: &Path, change: impl FnOnce(&mut Tensors)) {
    let path = folder.join("model.safetensors");
    let mut tensors = read_tensors(&path);
    change(&mut tensors);
    write_tensors(&path, &tensors);
}

/// Divides the single file in two, one of which has the lm_head, the other the embedding.
fn divide(folder: &Path) {
    let tensors = read_tensors(&folder.join("model.safetensors"));
    std::fs::remove_file(folder.join("model.safetensors")).unwrap();
    let (heads, others): (Vec<_>, Vec<_>) = tensors.into_iter().partition(|t| t.0 == HEAD);
    let mut map = serde_json::Map::new();
    for (name, part) in [("a.safetensors", &others), ("b.safetensors", &heads)] {
        write_tensors(&folder.join(name), part);
        map.extend(part.iter().map(|t| (t.0.clone(), json!(name))));
    }
    write_index(folder, &map);
}

fn write_index(folder: &Path, map: &serde_json::Map<String, Value>) {
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    std::fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
}

fn find<'a>(tensors: &'a mut [Tensor], name: &str) -> &'a mut Tensor {
    tensors.iter_mut().find(|t| t.0 == name).unwrap()
}

#[test]
fn log_probabilities_are_those_of_transformers() {
    let records = records();
    assert!(records.len() >= 24);
    for record in records {
        let off = off(made(&record).path(), &record);
        println!("{}: off by {off:.2e} at most", record["name"]);
        assert!(off < 2e-4, "{}: off by {off:.2e}", record["name"]);
    }
}

// ---- ends that config.json ties ----

#[test]
fn tied_ends_are_compared_wherever_they_are_stored() {
    let (same, other) = (record("tied-stored-twice"), record("tied-other-head"));
    for record in [&same, &other] {
        let folder = made(record);
        divide(folder.path());
        assert!(off(folder.path(), record) < 2e-4, "{}", record["name"]);
        let (_, config) = open(folder.path()).unwrap();
        let is_other = record["name"] == other["name"];
        assert_eq!((config.unties, config.tie_word_embeddings), (is_other, !is_other));
    }
    // One matrix counts once.
    let (_, one) = open(made(&same).path()).unwrap();
    let (_, two) = open(made(&other).path()).unwrap();
    assert_eq!(two.parameters() - one.parameters(), 128 * 64);
}

#[test]
fn one_number_is_enough_to_untie() {
    let same = record("tied-stored-twice");
    for (row, column) in [(0, 0), (77, 13), (127, 63)] {
        let folder = made(&same);
        edit(folder.path(), |tensors| {
            // The least that can differ.
            find(tensors, HEAD).3[4 * (64 * row + column)] ^= 1;
        });
        let (_, config) = open(folder.path()).unwrap();
        assert!(config.unties && !config.tie_word_embeddings, "row {row}, column {column}");
    }
    // A row of its own shows in that token's log-probability, and by the sum in all others'.
    let folder = made(&same);
    let token = *tokens(&same).last().unwrap() as usize;
    edit(folder.path(), |tensors| find(tensors, HEAD).3[4 * 64 * token..4 * 64 * (token + 1)].fill(0));
    let handle = load(folder.path(), LoadOptions::default()).unwrap();
    let found = *score(&handle, AdapterId::BASE, &tokens(&same)).logprobs.last().unwrap();
    assert!(
        (f64::from(found) - same["logprobs"].as_array().unwrap().last().unwrap().as_f64().unwrap()).abs()
            > 0.1
    );
}

#[test]
fn tied_ends_of_two_types_are_compared_by_their_numbers() {
    let folder = made(&record("tied-stored-twice"));
    let rounded = |bytes: &[u8]| -> Vec<half::bf16> {
        let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        floats.map(half::bf16::from_f32).collect()
    };
    edit(folder.path(), |tensors| {
        let embedding = find(tensors, EMBEDDING);
        let numbers = rounded(&embedding.3);
        embedding.3 = numbers.iter().flat_map(|v| v.to_f32().to_le_bytes()).collect();
        let head = find(tensors, HEAD);
        (head.1, head.3) = (Dtype::BF16, numbers.iter().flat_map(|v| v.to_le_bytes()).collect());
    });
    assert!(!open(folder.path()).unwrap().1.unties, "bf16 numbers are the same in f32");
    edit(folder.path(), |tensors| find(tensors, HEAD).3[64] ^= 1);
    assert!(open(folder.path()).unwrap().1.unties);
    // Zeros of both signs are one number.
    let folder = made(&record("tied-stored-twice"));
    edit(folder.path(), |tensors| {
        find(tensors, EMBEDDING).3[..4].copy_from_slice(&0f32.to_le_bytes());
        find(tensors, HEAD).3[..4].copy_from_slice(&(-0f32).to_le_bytes());
    });
    assert!(!open(folder.path()).unwrap().1.unties);
    edit(folder.path(), |tensors| {
        let head = find(tensors, HEAD);
        (head.2, head.3) = (vec![127, 64], head.3[..4 * 127 * 64].to_vec());
    });
    let e = refusal(folder.path());
    assert!(e.contains("tensor lm_head.weight: found shape [127, 64], expected [128, 64]"), "{e}");
}

// ---- the fields of config.json ----

/// A small config.json with these changes, where null stays null.
fn config_with(changes: Value) -> Result<ModelConfig> {
    let mut config = record("swish")["config"].clone();
    let map = config.as_object_mut().unwrap();
    map.extend(changes.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.clone())));
    ModelConfig::from_json(config.to_string().as_bytes(), "config.json")
}

fn wrong(changes: Value) -> String {
    config_with(changes).unwrap_err().to_string()
}

#[test]
fn what_changes_the_meaning_is_refused_by_name() {
    for refused in REFUSED_FIELDS {
        let field = refused.field;
        let (on, off): (Vec<Value>, Vec<Value>) = match refused.neutral {
            Neutral::Off => {
                let on = [json!(true), json!(2), json!("x"), json!({"0": {"a": 1}}), json!([0])];
                (on.into(), [json!(null), json!(false), json!(0), json!([]), json!({}), json!("")].into())
            }
            Neutral::On => (vec![json!(false), json!(0), json!("no")], vec![json!(null), json!(true)]),
            Neutral::One => {
                (vec![json!(0.5), json!(0), json!(true)], vec![json!(null), json!(1), json!(1.0)])
            }
        };
        for value in on {
            let e = wrong(json!({field: value}));
            assert!(e.starts_with(&format!("config.json, field {field}: found ")), "{e}");
            assert!(e.contains(refused.expected), "{e}");
        }
        for value in off {
            assert!(config_with(json!({field: value})).is_ok(), "{field} = {value}");
        }
    }
}

#[test]
fn what_is_passed_over_changes_nothing() {
    let plain = config_with(json!({})).unwrap();
    for field in IGNORED_FIELDS.iter().chain(&GENERATION_FIELDS) {
        for value in [json!(null), json!(3), json!("x"), json!([1]), json!({"a": 1})] {
            assert_eq!(config_with(json!({*field: value})).unwrap(), plain, "{field} = {value}");
        }
    }
    // What nobody knows is passed over too, and told by `info`.
    let config = config_with(json!({"some_future_field": 1, "vocab_size": 128, "another": null})).unwrap();
    assert_eq!(config.unknown_fields, ["some_future_field", "another"]);
    assert_eq!(ModelConfig { unknown_fields: vec![], ..config }, plain);
}

/// docs/model-folders.md names in the first cells of its tables the fields that the program has in
/// its lists.
#[test]
fn the_documentation_has_the_same_fields() {
    let text = std::fs::read_to_string("docs/model-folders.md").unwrap();
    let of_section = |title: &str| -> BTreeSet<String> {
        let (_, section) = text.split_once(&format!("\n### {title}\n")).unwrap_or_else(|| panic!("{title}"));
        let section = section.split("\n#").next().unwrap();
        let cells = section.lines().filter_map(|line| line.strip_prefix("| `")?.split(" | ").next());
        cells
            .flat_map(|cell| cell.trim_end_matches('`').split("`, `").map(String::from).collect::<Vec<_>>())
            .collect()
    };
    let set = |fields: &[&str]| fields.iter().map(|f| f.to_string()).collect::<BTreeSet<_>>();
    assert_eq!(of_section("Fields that are read"), set(&READ_FIELDS));
    assert_eq!(of_section("Fields that are refused"), set(&REFUSED_FIELDS.map(|r| r.field)));
    let mut ignored = set(&IGNORED_FIELDS);
    ignored.extend(set(&GENERATION_FIELDS));
    assert_eq!(of_section("Fields that are ignored"), ignored);
}

#[test]
fn null_is_not_absent() {
    for field in
        ["rms_norm_eps", "max_position_embeddings", "tie_word_embeddings", "hidden_act", "attention_bias"]
    {
        let e = wrong(json!({field: null}));
        assert!(e.starts_with(&format!("config.json, field {field}: found null, expected ")), "{e}");
    }
    assert!(
        wrong(json!({"rope_theta": null})).starts_with("config.json, field rope_theta: missing, expected")
    );
    let qwen3 = json!({"architectures": null, "model_type": "qwen3", "head_dim": null});
    assert!(wrong(qwen3).starts_with("config.json, field head_dim: "));
}

#[test]
fn the_special_tokens_of_a_family_stand_for_absent_ones_where_no_file_has_any() {
    let folder = made(&record("llama-absent"));
    let path = folder.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config.as_object_mut().unwrap().remove("eos_token_id");
    config.as_object_mut().unwrap().remove("bos_token_id");
    std::fs::write(&path, config.to_string()).unwrap();
    let read = || open(folder.path()).unwrap().1;
    assert_eq!((read().bos_token_id, read().eos_token_ids), (Some(1), vec![2]));
    std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [9, 7]}"#).unwrap();
    assert_eq!((read().bos_token_id, read().eos_token_ids), (None, vec![9, 7]));
    std::fs::write(folder.path().join("generation_config.json"), "{}").unwrap();
    assert!(read().eos_token_ids.is_empty());
}

#[test]
fn the_family_is_that_of_the_model_type() {
    let family = |architectures: Value, model_type: Value| {
        config_with(json!({"architectures": architectures, "model_type": model_type})).map(|c| c.model_type)
    };
    let (llama, none) = (json!("llama"), json!(null));
    for names in [json!(["FSDPLlamaForCausalLM"]), json!(["LLaMAForCausalLM"]), json!(["LlamaForCausalLM"])] {
        assert_eq!(family(names.clone(), llama.clone()).unwrap(), "llama", "{names}");
        assert_eq!(family(names.clone(), none.clone()).unwrap(), "llama", "{names}");
    }
    assert_eq!(family(none.clone(), json!("qwen2")).unwrap(), "qwen2");
    let e = family(json!(["LlamaForCausalLM"]), json!("mistral")).unwrap_err().to_string();
    assert_eq!(
        e,
        "config.json, field model_type: found \"mistral\", expected \"llama\" beside the architecture LlamaForCausalLM"
    );
    for names in [json!(["FSDPGPT2LMHeadModel"]), json!(["LlamaForSequenceClassification"]), json!(["FSDP"])]
    {
        let e = family(names, llama.clone()).unwrap_err().to_string();
        assert!(e.starts_with("config.json, field architectures: found "), "{e}");
    }
    let e = family(none.clone(), none).unwrap_err().to_string();
    assert!(e.starts_with("config.json, field architectures: missing"), "{e}");
}

#[test]
fn rotary_parameters_that_would_be_lost_are_refused() {
    let full = json!({"rope_type": "default", "rope_theta": 1e6});
    for (changes, field, expected) in [
        (
            json!({"rope_parameters": {"full_attention": full}}),
            "rope_parameters.full_attention",
            "for all layers",
        ),
        (
            json!({"rope_parameters": {"full_attention": full}, "layer_types": ["full_attention", "full_attention"]}),
            "rope_parameters.full_attention",
            "by type of layer",
        ),
        (
            json!({"rope_parameters": {"rope_theta": 1e4, "sliding_attention": null}}),
            "rope_parameters.sliding_attention",
            "for all layers",
        ),
        (json!({"rope_scaling": {"full_attention": full}}), "rope_scaling.full_attention", "for all layers"),
        (
            json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "mrope_section": [1, 2]}}),
            "rope_parameters.mrope_section",
            "no such field",
        ),
        (json!({"rope_scaling": {"factor": 4.0}}), "rope_scaling.factor", "type default do not have it"),
        (
            json!({"rope_scaling": {"type": "linear", "factor": 4.0, "beta_fast": 3}}),
            "rope_scaling.beta_fast",
            "type linear do not have it",
        ),
        (
            json!({"rope_scaling": {"type": "yarn", "original_max_position_embeddings": 64}}),
            "rope_scaling.factor",
            "missing",
        ),
        (json!({"rope_parameters": {"rope_theta": null}}), "rope_parameters.rope_theta", "missing"),
    ] {
        let e = wrong(changes);
        assert!(e.starts_with(&format!("config.json, field {field}: ")) && e.contains(expected), "{e}");
    }
    // Beside rope_scaling nothing of rope_parameters is read. What that would lose must be said
    // again.
    let beside = |more: Value| {
        let mut config = record("swish")["config"].clone();
        config.as_object_mut().unwrap().remove("rope_theta");
        config["rope_parameters"] = json!({"rope_type": "default", "rope_theta": 5e5});
        config["rope_scaling"] = json!({"type": "linear", "factor": 2.0});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        ModelConfig::from_json(config.to_string().as_bytes(), "config.json").map(|c| c.rope.theta)
    };
    let e = beside(json!({})).unwrap_err().to_string();
    assert!(
        e.starts_with("config.json, field rope_scaling.rope_theta: missing, expected one: beside"),
        "{e}"
    );
    assert!(e.contains("500000"), "{e}");
    assert_eq!(beside(json!({"rope_theta": 7e4})).unwrap(), 7e4);
    assert_eq!(beside(json!({"rope_parameters": {"rope_theta": 1e4}})).unwrap(), 1e4);
    assert_eq!(beside(json!({"rope_scaling": null})).unwrap(), 5e5);
    let partial =
        json!({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}});
    let e = beside(partial).unwrap_err().to_string();
    assert!(e.contains("field rope_scaling.partial_rotary_factor: missing"), "{e}");
    // Phi-3 has a context of pre-training of its own, unless the file has one outside.
    let mut phi = record("phi3-longrope-absent")["config"].clone();
    phi["rope_scaling"]["original_max_position_embeddings"] = json!(64);
    let e = ModelConfig::from_json(phi.to_string().as_bytes(), "config.json").unwrap_err().to_string();
    assert!(e.contains("field rope_scaling.original_max_position_embeddings: found 64, expected"), "{e}");
    phi["original_max_position_embeddings"] = json!(64);
    assert!(ModelConfig::from_json(phi.to_string().as_bytes(), "config.json").is_ok());
}

#[test]
fn windows_that_a_family_does_not_have_are_refused() {
    for (changes, expected) in [
        (
            json!({"sliding_window": 16}),
            "field sliding_window: found 16, expected null: a llama model has no window",
        ),
        (
            json!({"layer_types": ["full_attention", "sliding_attention"]}),
            "field layer_types: found \"sliding_attention\"",
        ),
        (json!({"layer_types": ["full_attention"]}), "field layer_types: found [\"full_attention\"]"),
        (
            json!({"architectures": null, "model_type": "phi3", "sliding_window": 8,
                   "layer_types": ["full_attention", "sliding_attention"]}),
            "field layer_types: found [\"full_attention\",\"sliding_attention\"], expected \"sliding_attention\" for every layer",
        ),
    ] {
        let e = wrong(changes);
        assert!(e.contains(expected), "{e}");
    }
    for harmless in [
        json!({"sliding_window": 256}),
        json!({"sliding_window": 16, "use_sliding_window": false}),
        json!({"sliding_window": null, "layer_types": ["full_attention", "attention"]}),
    ] {
        let config = config_with(harmless.clone()).unwrap();
        assert_eq!(config.windows, [None, None], "{harmless}");
    }
}

#[test]
fn a_base_with_dropout_is_for_inference_only() {
    let mut record = record("swish");
    record["config"]["attention_dropout"] = json!(0.1);
    let folder = made(&record);
    assert!(off(folder.path(), &record) < 2e-4);
    let training = LoadOptions { training: true, ..Default::default() };
    let e = load(folder.path(), training).err().unwrap().to_string();
    assert!(e.ends_with("config.json, field attention_dropout: found 0.1, expected 0: training with dropout inside the base is not supported"), "{e}");
    assert!(wrong(json!({"attention_dropout": 1.5})).contains("field attention_dropout: found 1.5"));
}

// ---- files ----

#[test]
fn pointers_of_git_lfs_are_told_from_files() {
    let expected = "found a Git LFS pointer (134 bytes) to a file of 269060552 bytes, expected the file itself: run `git lfs pull`";
    for file in [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ] {
        let folder = made(&record("swish"));
        std::fs::write(folder.path().join(file), POINTER).unwrap();
        let e = refusal(folder.path());
        assert!(e.contains(&format!("{file}: {expected}")), "{file}: {e}");
    }
    for file in ["model.safetensors.index.json", "a.safetensors"] {
        let folder = made(&record("tied-stored-twice"));
        divide(folder.path());
        std::fs::write(folder.path().join(file), POINTER).unwrap();
        assert!(refusal(folder.path()).contains(&format!("{file}: {expected}")));
    }
    let folder = made(&record("swish"));
    let (files, config) = open(folder.path()).unwrap();
    let layout = adapter_layout(&config);
    let adapter = NewAdapter { rank: 2, ..NewAdapter::default() }.snapshot(&layout).unwrap();
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        let path = folder.path().join(format!("with-{file}"));
        write_peft(&path, &adapter, &layout, "base").unwrap();
        std::fs::write(path.join(file), POINTER).unwrap();
        let e = read_peft_on(&path, &layout, &files).unwrap_err().to_string();
        assert!(e.contains(&format!("{file}: {expected}")), "{e}");
    }
    // A file that only begins like one is read for what it is.
    std::fs::write(folder.path().join("config.json"), POINTER.repeat(20)).unwrap();
    assert!(refusal(folder.path()).contains("config.json: found no valid JSON"));
}

#[test]
fn weights_in_several_places() {
    let folder = made(&record("tied-other-head"));
    let path = |name: &str| folder.path().join(name);
    let single = std::fs::read(path("model.safetensors")).unwrap();
    divide(folder.path());
    // Files that no index names, and formats that are not read, change nothing.
    for stray in ["c.safetensors", "pytorch_model.bin", "consolidated.safetensors"] {
        std::fs::write(path(stray), b"not read").unwrap();
    }
    assert!(off(folder.path(), &record("tied-other-head")) < 2e-4);

    // Index and files must agree.
    let index = std::fs::read(path("model.safetensors.index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    let mut map = index["weight_map"].as_object().unwrap().clone();
    map["model.norm.weight"] = json!("b.safetensors");
    write_index(folder.path(), &map);
    let e = refusal(folder.path());
    assert!(e.contains("b.safetensors, tensor model.norm.weight: missing, expected it here by"), "{e}");
    // An lm_head that the index leaves out would not be compared with the embedding.
    map["model.norm.weight"] = json!("a.safetensors");
    map.remove(HEAD);
    map.insert("model.layers.0.mlp.extra".into(), json!("b.safetensors"));
    write_index(folder.path(), &map);
    let e = refusal(folder.path());
    assert!(e.contains("index.json, tensor lm_head.weight: missing, expected it here as it is in "), "{e}");
    map.insert(HEAD.into(), json!("b.safetensors"));
    write_index(folder.path(), &map);
    assert!(refusal(folder.path()).contains("tensor model.layers.0.mlp.extra: missing"));
    map.remove("model.layers.0.mlp.extra");
    write_index(folder.path(), &map);

    // One tensor in two files: which one is meant is not for us to guess.
    let mut heads = read_tensors(&path("b.safetensors"));
    heads.push(("model.norm.weight".into(), Dtype::F32, vec![64], vec![0; 256]));
    write_tensors(&path("b.safetensors"), &heads);
    let e = refusal(folder.path());
    assert!(
        e.contains("b.safetensors, tensor model.norm.weight: found it in ")
            && e.contains("a.safetensors too"),
        "{e}"
    );

    // model.safetensors counts before the index.
    std::fs::write(path("model.safetensors"), single).unwrap();
    assert!(off(folder.path(), &record("tied-other-head")) < 2e-4);
    for file in ["model.safetensors", "model.safetensors.index.json", "c.safetensors"] {
        std::fs::remove_file(path(file)).unwrap();
    }
    assert!(
        refusal(folder.path())
            .contains("found no weights but consolidated.safetensors, expected model.safetensors or")
    );
}

#[test]
fn an_adapter_is_no_model() {
    let folder = made(&record("swish"));
    let (_, config) = open(folder.path()).unwrap();
    let layout = adapter_layout(&config);
    let adapter = NewAdapter { rank: 2, ..NewAdapter::default() }.snapshot(&layout).unwrap();
    // transformers would load the adapter's base here, and not these weights.
    write_peft(folder.path(), &adapter, &layout, "somewhere/else").unwrap();
    let e = refusal(folder.path());
    assert!(
        e.contains("adapter_config.json: found an adapter, expected a model: give its base as --model"),
        "{e}"
    );
    for file in ["config.json", "model.safetensors"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
        assert!(refusal(folder.path()).contains("adapter_config.json: found an adapter"));
    }
}

// ---- adapters ----

#[test]
fn copies_of_the_bases_ends_are_taken_where_they_are_its_own() {
    for name in ["swish", "tied", "tied-stored-twice", "tied-other-head", "tied-only-head"] {
        let folder = made(&record(name));
        let (files, config) = open(folder.path()).unwrap();
        let layout = adapter_layout(&config);
        let path = folder.path().join("adapter");
        let mut plain = NewAdapter { rank: 2, ..NewAdapter::default() }.snapshot(&layout).unwrap();
        plain.weights[1].2.fill(0.25);
        write_peft(&path, &plain, &layout, "base").unwrap();
        let own = read_tensors(&path.join("adapter_model.safetensors"));
        let base = read_tensors(&folder.path().join("model.safetensors"));
        let of_base = |end: &str| {
            let found = base.iter().find(|t| t.0 == end);
            found.or_else(|| base.iter().find(|t| t.0 == EMBEDDING || t.0 == HEAD)).unwrap().clone()
        };
        let with = |copies: &[(&str, Dtype, Vec<usize>, Vec<u8>)]| {
            let mut all = own.clone();
            all.extend(copies.iter().map(|(n, d, s, b)| (n.to_string(), *d, s.clone(), b.clone())));
            write_tensors(&path.join("adapter_model.safetensors"), &all);
            read_peft_on(&path, &layout, &files)
        };
        let named = [
            ("base_model.model.model.embed_tokens.weight", EMBEDDING),
            ("base_model.model.lm_head.weight", HEAD),
        ];
        let copies = named.map(|(stored, end)| {
            let (_, dtype, shape, bytes) = of_base(end);
            (stored, dtype, shape, bytes)
        });
        assert_eq!(with(&copies).unwrap(), plain, "{name}");
        assert_eq!(with(&copies[..1]).unwrap(), plain, "{name}");
        // Old files lack the prefix.
        let bare = [("lm_head.weight", copies[1].1, copies[1].2.clone(), copies[1].3.clone())];
        assert_eq!(with(&bare).unwrap(), plain, "{name}");
        for i in 0..2 {
            let mut other = copies.clone();
            let last = other[i].3.len() - 4;
            other[i].3[last] ^= 1;
            let e = with(&other).unwrap_err().to_string();
            let module = ["model.embed_tokens", "lm_head"][i];
            assert!(
                e.contains(&format!(
                    "adapter_model.safetensors, tensor {}: found other numbers than the base's {module} has",
                    named[i].0
                )),
                "{e}"
            );
            assert!(e.contains("PEFT would put this matrix in the place of the base's"), "{e}");
            let mut longer = copies.clone();
            longer[i].2[0] += 1;
            longer[i].3.extend([0; 256]);
            let e = with(&longer).unwrap_err().to_string();
            assert!(e.contains("found shape [129, 64], expected that of the base's"), "{e}");
        }
        let e = with(&copies).and_then(|_| read_peft(&path, &layout)).unwrap_err().to_string();
        assert!(e.contains("which this base cannot be compared with"), "{e}");
    }
}

#[test]
fn copies_of_another_type_are_compared_by_their_numbers() {
    let folder = made(&record("swish"));
    let whole = |bytes: &[u8]| -> Vec<half::bf16> {
        let floats = bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
        floats.map(half::bf16::from_f32).collect()
    };
    edit(folder.path(), |tensors| {
        let head = find(tensors, HEAD);
        head.3 = whole(&head.3).iter().flat_map(|v| v.to_f32().to_le_bytes()).collect();
    });
    let (files, config) = open(folder.path()).unwrap();
    let layout = adapter_layout(&config);
    let path = folder.path().join("adapter");
    let plain = NewAdapter { rank: 2, ..NewAdapter::default() }.snapshot(&layout).unwrap();
    write_peft(&path, &plain, &layout, "base").unwrap();
    let mut tensors = read_tensors(&path.join("adapter_model.safetensors"));
    for (end, fits) in [(HEAD, true), (EMBEDDING, false)] {
        let base = read_tensors(&folder.path().join("model.safetensors"));
        let bytes = whole(&base.iter().find(|t| t.0 == end).unwrap().3)
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        tensors.push((format!("base_model.model.{end}"), Dtype::BF16, vec![128, 64], bytes));
        write_tensors(&path.join("adapter_model.safetensors"), &tensors);
        assert_eq!(read_peft_on(&path, &layout, &files).is_ok(), fits, "{end}");
    }
}

#[test]
fn a_trainers_output_says_what_is_in_it() {
    let folder = made(&record("swish"));
    let (_, config) = open(folder.path()).unwrap();
    let layout = adapter_layout(&config);
    let adapter = NewAdapter { rank: 2, ..NewAdapter::default() }.snapshot(&layout).unwrap();
    let output = folder.path().join("output");
    for name in ["checkpoint-10", "checkpoint-9", "checkpoint-10/critic"] {
        write_peft(&output.join(name), &adapter, &layout, "base").unwrap();
    }
    std::fs::create_dir(output.join("runs")).unwrap();
    let e = read_peft(&output, &layout).unwrap_err().to_string();
    assert!(
        e.ends_with(
            "adapter_config.json: found no such file, expected the folder of a PEFT adapter; there are adapters in the folders \
             checkpoint-9, checkpoint-10, checkpoint-10/critic inside: give one of these"
        ),
        "{e}"
    );
    for i in 0..20 {
        write_peft(&output.join(format!("step-{i}")), &adapter, &layout, "base").unwrap();
    }
    let e = read_peft(&output, &layout).unwrap_err().to_string();
    assert!(e.contains("step-4 and 15 more inside"), "{e}");
    let e = read_peft(folder.path(), &layout).unwrap_err().to_string();
    assert!(e.contains("there are adapters in the folders output/"), "{e}");
    std::fs::remove_dir_all(&output).unwrap();
    let e = read_peft(folder.path(), &layout).unwrap_err().to_string();
    assert!(e.contains("found no such file beside config.json of a model"), "{e}");
    let e = read_peft(&folder.path().join("nowhere"), &layout).unwrap_err().to_string();
    assert!(e.contains("nowhere/adapter_config.json: found no folder"), "{e}");
}
