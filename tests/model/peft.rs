//! PEFT folders: read, written, read again; what does not fit is refused by name.

use std::path::{Path, PathBuf};

use colloquy::adapter::{
    AdapterOrigin, Moments, NewAdapter, NoBase, PeftConfig, Snapshot, matrices, read_checkpoint, read_peft,
    write_peft,
};
use colloquy::backend::{AdapterLayout, LoraMatrix, PartId, PartSpec, SlotSpec};
use colloquy::files::TensorFile;
use colloquy::model::{ModelConfig, ModelFiles, adapter_layout};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::fixture;

fn layout(model: &str) -> AdapterLayout {
    let files = ModelFiles::open(&fixture(model)).unwrap();
    adapter_layout(&ModelConfig::read(&files).unwrap())
}

/// A copy of an adapter's folder with its configuration changed.
fn spoilt(adapter: &str, change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = TempDir::new().unwrap();
    let from = fixture("llama/adapters").join(adapter);
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    let path = folder.path().join("adapter_config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut config);
    std::fs::write(&path, config.to_string()).unwrap();
    folder
}

fn read_error(folder: &Path) -> String {
    let e = read_peft(folder, &layout("llama")).unwrap_err().to_string();
    assert!(!e.contains('\n'), "{e}");
    e
}

fn written(snapshot: &Snapshot) -> (TempDir, PathBuf, Value) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("new/adapter");
    write_peft(&path, snapshot, &layout("llama"), "base-model").unwrap();
    let config = serde_json::from_slice(&std::fs::read(path.join("adapter_config.json")).unwrap()).unwrap();
    (folder, path, config)
}

#[test]
fn fixtures_are_read() {
    for model in ["llama", "llama-tied"] {
        let layout = layout(model);
        let a = read_peft(&fixture(model).join("adapters/a"), &layout).unwrap();
        assert!(a.spec.parts.iter().all(|p| *p == Some(PartSpec { rank: 4, scale: 2.0 })));
        assert_eq!(a.weights.len(), 28);
        let b = read_peft(&fixture(model).join("adapters/b"), &layout).unwrap();
        let scale = (16.0 / 8f64.sqrt()) as f32;
        assert_eq!(b.spec.parts.iter().flatten().count(), 6);
        assert!(b.spec.parts.iter().flatten().all(|p| *p == PartSpec { rank: 8, scale }));
        assert_eq!(
            (b.spec.parts[0].is_some(), b.spec.parts[1].is_some(), b.spec.parts[6].is_some()),
            (true, false, true)
        );
        let (part, matrix, values) = &b.weights[0];
        assert_eq!((*part, *matrix, values.len()), (PartId(0), LoraMatrix::A, 8 * 64));
    }
}

#[test]
fn folders_round_trip() {
    for adapter in ["a", "b"] {
        let original = read_peft(&fixture("llama/adapters").join(adapter), &layout("llama")).unwrap();
        let (_keep, path, config) = written(&original);
        assert_eq!(read_peft(&path, &layout("llama")).unwrap(), original);
        let source =
            std::fs::read(fixture("llama/adapters").join(adapter).join("adapter_config.json")).unwrap();
        let source: Value = serde_json::from_slice(&source).unwrap();
        for field in
            ["r", "lora_alpha", "use_rslora", "peft_type", "task_type", "rank_pattern", "alpha_pattern"]
        {
            assert_eq!(config[field], source[field], "{field}");
        }
        let mut targets: Vec<&str> =
            source["target_modules"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
        targets.sort_unstable();
        assert_eq!(config["target_modules"], json!(targets));
        assert_eq!(config["base_model_name_or_path"], "base-model");
        // The weights are the very tensors of the original.
        let name = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight";
        let tensor = |folder: &Path| {
            let file = TensorFile::open(&folder.join("adapter_model.safetensors")).unwrap();
            file.raw(name).unwrap().2.to_vec()
        };
        assert_eq!(tensor(&path), tensor(&fixture("llama/adapters").join(adapter)));
    }
}

/// A snapshot with ranks, scales and targets that no single number describes.
fn uneven() -> Snapshot {
    let layout = layout("llama");
    let mut spec = SlotSpec { parts: vec![None; 14], dropout: 0.0 };
    spec.parts[0] = Some(PartSpec { rank: 3, scale: 1.0 / 3.0 });
    spec.parts[3] = Some(PartSpec { rank: 16, scale: 0.123_456_79 });
    spec.parts[7] = Some(PartSpec { rank: 3, scale: 7.0 });
    let mut next = 0.0;
    let mut numbers = |n: usize| -> Vec<f32> {
        (0..n)
            .map(|_| {
                next += 0.37;
                f32::sin(next) * 1e-3
            })
            .collect()
    };
    let shapes: Vec<_> =
        matrices(&spec, &layout).map(|m| (m.part, m.matrix, m.shape[0] * m.shape[1])).collect();
    let mut list = || shapes.iter().map(|&(p, m, n)| (p, m, numbers(n))).collect::<Vec<_>>();
    let weights = list();
    let moments = Some(Moments { steps: 12_345, first: list(), second: list() });
    Snapshot { spec, weights, moments }
}

#[test]
fn uneven_adapters_round_trip() {
    let snapshot = uneven();
    let (_keep, path, config) = written(&snapshot);
    let read = read_peft(&path, &layout("llama")).unwrap();
    assert_eq!((&read.spec, &read.weights), (&snapshot.spec, &snapshot.weights));
    assert_eq!(config["rank_pattern"], json!({"model.layers.0.self_attn.o_proj": 16}));
    assert_eq!(config["lora_alpha"], json!(1), "a whole number where there is one");
    assert_eq!(config["target_modules"].as_array().unwrap().len(), 3, "whole names, not suffixes");
}

#[test]
fn checkpoints_round_trip_with_their_moments() {
    let snapshot = uneven();
    let (_keep, path, _) = written(&snapshot);
    assert_eq!(read_checkpoint(&path, &layout("llama")).unwrap(), snapshot);

    // Written again without moments: no stale state stays, and other people's files do.
    std::fs::write(path.join("notes.txt"), "mine").unwrap();
    let plain = Snapshot { moments: None, ..snapshot };
    write_peft(&path, &plain, &layout("llama"), "base-model").unwrap();
    assert_eq!(read_checkpoint(&path, &layout("llama")).unwrap(), plain);
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 3);
    assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "no temporary folder is left");
}

#[test]
fn the_same_snapshot_gives_the_same_bytes() {
    let bytes = |snapshot: &Snapshot| {
        let (_keep, path, _) = written(snapshot);
        ["adapter_config.json", "adapter_model.safetensors", "optimizer.safetensors"]
            .map(|f| std::fs::read(path.join(f)).unwrap())
    };
    assert_eq!(bytes(&uneven()), bytes(&uneven()));
}

#[test]
fn half_precision_is_widened() {
    let original = read_peft(&fixture("llama/adapters/b"), &layout("llama")).unwrap();
    let folder = spoilt("b", |_| {});
    let path = folder.path().join("adapter_model.safetensors");
    let file = TensorFile::open(&path).unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for (i, name) in file.names().enumerate() {
        let shape = file.shape(name).unwrap().to_vec();
        let start = data.len();
        for v in file.values(name, &shape).unwrap() {
            let bits =
                if i % 2 == 0 { half::bf16::from_f32(v).to_bits() } else { half::f16::from_f32(v).to_bits() };
            data.extend(bits.to_le_bytes());
        }
        let dtype = if i % 2 == 0 { "BF16" } else { "F16" };
        header.insert(
            name.into(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat();
    drop(file);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let read = read_peft(folder.path(), &layout("llama")).unwrap();
    assert_eq!(read.spec, original.spec);
    for ((_, _, r), (_, _, o)) in read.weights.iter().zip(&original.weights) {
        assert!(r.iter().zip(o).all(|(r, o)| (r - o).abs() <= o.abs() / 256.0 + 1e-7));
    }
}

#[test]
fn target_spellings() {
    let layout = layout("llama");
    let original = read_peft(&fixture("llama/adapters/a"), &layout).unwrap();
    for targets in [
        json!("all-linear"),
        json!(r".*\.(q|k|v|o|gate|up|down)_proj"),
        json!(["self_attn.q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "mlp.down_proj"]),
    ] {
        let folder = spoilt("a", |c| c["target_modules"] = targets);
        assert_eq!(read_peft(folder.path(), &layout).unwrap(), original);
    }
    let folder = spoilt("a", |c| {
        c["r"] = json!(9);
        c["rank_pattern"] = json!({".*_proj": 4});
        c["lora_alpha"] = json!(1);
        c["alpha_pattern"] = json!({"q_proj": 8, r"model\.layers\.\d\.self_attn\.[kvo]_proj": 8, "mlp.*": 8});
    });
    assert_eq!(read_peft(folder.path(), &layout).unwrap(), original);
}

#[test]
fn unsupported_features_are_named() {
    for (field, value) in [
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("bias", json!("lora_only")),
        ("use_dora", json!(true)),
        ("lora_bias", json!(true)),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("layers_pattern", json!("layers")),
        ("layer_replication", json!([[0, 1]])),
        ("trainable_token_indices", json!([5])),
        ("target_parameters", json!(["x"])),
        ("layers_to_transform", json!("0")),
        ("exclude_modules", json!([0])),
        ("bias", json!("all")),
        ("alora_invocation_tokens", json!([1])),
        ("use_qalora", json!(true)),
        ("init_lora_weights", json!("pissa")),
        ("some_future_feature", json!(true)),
        ("r", json!(0)),
        ("r", json!(200)),
        ("r", json!("4")),
        ("r", json!(null)),
        ("lora_alpha", json!("8")),
        ("lora_alpha", json!(null)),
        ("lora_dropout", json!("0.1")),
        ("lora_dropout", json!(-0.1)),
        ("lora_dropout", json!(1.0)),
        ("use_rslora", json!(1)),
        ("rank_pattern", json!([])),
        ("rank_pattern", json!({"q_proj": 1.5})),
        ("rank_pattern", json!({"(": 4})),
        ("alpha_pattern", json!({"q_proj": "x"})),
        ("target_modules", json!(null)),
        ("target_modules", json!(["q_proj", "lm_head"])),
        ("target_modules", json!(["q_proj", "embed_tokens"])),
        ("target_modules", json!(["proj"])),
        ("target_modules", json!([])),
        ("target_modules", json!([3])),
        ("target_modules", json!("c_attn")),
    ] {
        let folder = spoilt("a", |c| c[field] = value.clone());
        let e = read_error(folder.path());
        assert!(e.contains(&format!("adapter_config.json, field {field}")), "{field} = {value}: {e}");
        assert!(e.contains("expected"), "{e}");
    }
    let folder = spoilt("a", |c| c["use_dora"] = json!(true));
    assert!(read_error(folder.path()).contains("found true, expected null or false: DoRA is not supported"));
}

/// The adapter "a" with its tensors called otherwise.
fn renamed(rename: impl Fn(&str) -> String) -> TempDir {
    let folder = spoilt("a", |_| {});
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let views = tensors.iter().map(|(name, view)| (rename(name), view));
    let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
    std::fs::write(&path, bytes).unwrap();
    folder
}

#[test]
fn tensor_names_may_lack_the_prefix_and_keep_the_adapters_name() {
    let layout = layout("llama");
    let original = read_peft(&fixture("llama/adapters/a"), &layout).unwrap();
    let bare = |name: &str| name.strip_prefix("base_model.model.").unwrap().to_string();
    let named = |name: &str| name.replace(".weight", ".default.weight");
    for folder in [renamed(bare), renamed(named), renamed(|n| bare(&named(n)))] {
        assert_eq!(read_peft(folder.path(), &layout).unwrap(), original);
    }
    // Any other name is of another adapter or of something else.
    let first = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight";
    for other in [
        first.replace(".weight", ".policy.weight"),
        first.replace(".weight", ".bias"),
        format!("base_model.model.{first}"),
        first.replace("layers.0", "layers.00"),
    ] {
        let folder = renamed(|n| if n == first { other.clone() } else { n.to_string() });
        let e = read_error(folder.path());
        assert!(e.contains(&format!("{first}: missing, expected shape [4, 128]")), "{other}: {e}");
    }
    for (extra, problem) in [
        (
            "base_model.model.model.embed_tokens.lora_embedding_A",
            "a tensor that adapter_config.json does not name",
        ),
        ("base_model.model.lm_head.lora_A.weight", "that this model has no place for"),
        (
            "base_model.model.model.layers.0.mlp.down_proj.lora_magnitude_vector",
            "a tensor that adapter_config.json",
        ),
        ("model.layers.0.mlp.down_proj.lora_A.weight", "a second time as base_model."),
        ("model.layers.0.mlp.down_proj.lora_A.default.weight", "a second time as base_model."),
    ] {
        let folder = spoilt("a", |_| {});
        let path = folder.path().join("adapter_model.safetensors");
        let bytes = std::fs::read(&path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut views: Vec<_> = tensors.iter().map(|(n, v)| (n.to_string(), v)).collect();
        views.push((extra.to_string(), tensors.tensor(first).unwrap()));
        std::fs::write(&path, safetensors::serialize(views, None).unwrap()).unwrap();
        let e = read_error(folder.path());
        assert!(e.contains(&format!("tensor {extra}: found")) && e.contains(problem), "{extra}: {e}");
        assert!(e.contains("expected"), "{e}");
    }
}

#[test]
fn an_adapter_of_another_base_is_recognised() {
    let folder = spoilt("a", |c| c["base_model_name_or_path"] = json!("org/Some-Model"));
    let config = PeftConfig::read(folder.path()).unwrap();
    assert_eq!(config.base.as_deref(), Some("org/Some-Model"));
    for same in [
        "org/Some-Model",
        "/moved/to/some-model/",
        "cache/models--org--Some-Model/snapshots/0123",
        r"C:\models\Some-Model",
        "Some-Model",
    ] {
        assert_eq!(config.other_base(&["models/x", same]), None, "{same}");
    }
    for other in
        ["org/Some-Model-2", "org", "models/embedded", "cache/models--Some-Model--x/snapshots/Some-Model", ""]
    {
        assert_eq!(config.other_base(&[other]), Some("org/Some-Model"), "{other}");
    }
    assert_eq!(PeftConfig::read(&fixture("llama/adapters/a")).unwrap().other_base(&["x"]), None);
    // Shapes that do not fit say so, and whose they are.
    let folder = spoilt("a", |c| {
        c["base_model_name_or_path"] = json!("org/Some-Model");
        c["r"] = json!(8);
    });
    let e = read_error(folder.path());
    assert!(
        e.contains("found shape [4, 64], expected [8, 64] (the adapter was made for org/Some-Model)"),
        "{e}"
    );
}

#[test]
fn dropout_changes_nothing_but_training() {
    let layout = layout("llama");
    let original = read_peft(&fixture("llama/adapters/a"), &layout).unwrap();
    for rate in [json!(0.0), json!(0), json!(null), json!(0.05)] {
        let folder = spoilt("a", |c| c["lora_dropout"] = rate.clone());
        let read = read_peft(folder.path(), &layout).unwrap();
        let expected = rate.as_f64().unwrap_or(0.0);
        assert_eq!(read.spec.dropout, expected as f32, "{rate}");
        assert_eq!(read.weights, original.weights, "{rate}");
        // Written as a person would write it, and read again as the same.
        let folder = tempfile::tempdir().unwrap();
        let again = folder.path().join("again");
        write_peft(&again, &read, &layout, "base").unwrap();
        assert_eq!(PeftConfig::read(&again).unwrap().dropout, expected);
        assert_eq!(read_peft(&again, &layout).unwrap(), read);
    }
}

#[test]
fn weights_that_do_not_fit_are_named() {
    let folder = spoilt("a", |c| c["r"] = json!(8));
    let e = read_error(folder.path());
    assert!(e.contains("adapter_model.safetensors, tensor base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight: "), "{e}");
    assert!(e.contains("found shape [4, 64], expected [8, 64]"), "{e}");

    let folder = spoilt("a", |c| c["target_modules"] = json!(["q_proj"]));
    let e = read_error(folder.path());
    assert!(
        e.contains("down_proj.lora_A.weight: found a tensor that adapter_config.json does not name"),
        "{e}"
    );

    let folder = spoilt("b", |c| c["target_modules"] = json!("all-linear"));
    let e = read_error(folder.path());
    assert!(e.contains("k_proj.lora_A.weight: missing, expected shape [8, 64]"), "{e}");

    // An adapter of another model.
    let e = read_peft(&fixture("llama-tied/adapters/a"), &layout("llama")).unwrap_err().to_string();
    assert!(e.contains("k_proj.lora_B.weight: found shape [64, 4], expected [32, 4]"), "{e}");

    let folder = spoilt("a", |_| {});
    let path = folder.path().join("adapter_model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 100]).unwrap();
    assert!(read_error(folder.path()).contains("adapter_model.safetensors, tensor "));
    let mut nan = bytes.clone();
    let end = nan.len();
    nan[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(&path, nan).unwrap();
    assert!(read_error(folder.path()).contains("found NaN, expected finite numbers"));
    std::fs::remove_file(&path).unwrap();
    assert!(read_error(folder.path()).contains("adapter_model.safetensors: "));
    std::fs::write(folder.path().join("adapter_model.bin"), b"").unwrap();
    assert!(
        read_error(folder.path()).contains("found adapter_model.bin, expected adapter_model.safetensors")
    );
    assert!(read_error(&folder.path().join("none")).contains("adapter_config.json: "));
}

#[test]
fn new_adapters_are_written_and_read() {
    let layout = layout("llama");
    let origin = AdapterOrigin::parse("new:rank=5,alpha=10,targets=q_proj+down_proj,init-seed=9").unwrap();
    let snapshot = origin.snapshot(&layout, &NoBase).unwrap();
    assert_eq!(snapshot, origin.snapshot(&layout, &NoBase).unwrap());
    let (_keep, path, config) = written(&snapshot);
    assert_eq!(
        (&config["r"], &config["lora_alpha"], &config["use_rslora"]),
        (&json!(5), &json!(10), &json!(false))
    );
    let read = AdapterOrigin::parse(path.to_str().unwrap()).unwrap().snapshot(&layout, &NoBase).unwrap();
    assert_eq!(read, snapshot);

    let rslora = NewAdapter { rslora: true, ..Default::default() }.snapshot(&layout).unwrap();
    assert_eq!(rslora.spec.parts[0], Some(PartSpec { rank: 16, scale: 8.0 }));
}
