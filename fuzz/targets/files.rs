//! The files of models and adapters.

use std::path::{Component, Path};
use std::sync::LazyLock;

use colloquy::adapter::PeftConfig;
use colloquy::backend::{AdapterLayout, MAX_RANK};
use colloquy::files::{Bytes, TensorFile, widen};
use colloquy::model::{Activations, Mode, ModelConfig, ModelFiles, RopeVariant, adapter_layout, shard_names};

/// A safetensors file that is accepted has its tensors within it, one after the other, and each can be read.
pub fn safetensors(input: &[u8]) {
    let Ok(file) = TensorFile::parse("model.safetensors".into(), Bytes::Owned(input.to_vec())) else {
        return;
    };
    let whole = file.bytes().as_ptr_range();
    let names = file.names_in_order();
    assert_eq!(names.len(), file.names().count());
    let mut taken = 0;
    for name in names {
        let (dtype, shape, bytes) = file.raw(name).expect("a tensor of the list");
        let range = bytes.as_ptr_range();
        assert!(whole.start <= range.start && range.end <= whole.end, "{name}: outside of the file");
        let numbers: usize = shape.iter().product();
        assert_eq!(numbers * dtype.bitsize(), 8 * bytes.len(), "{name}: {dtype:?} {shape:?}");
        taken += bytes.len();
        let shape = shape.to_vec();
        // Of floats; of other types and shapes it is an error.
        if (1..=2).contains(&shape.len())
            && let Ok(view) = file.view(name, &shape)
        {
            assert_eq!(widen(view).len(), numbers, "{name}");
        }
        assert!(file.view(name, &[shape.len(), 1, 1]).is_err());
    }
    assert!(taken <= input.len());
}

/// The sizes of a model that is accepted, and all that is counted with them, fit.
pub fn config_json(input: &[u8]) {
    let mut parts = super::parts(input).into_iter();
    let Ok(mut config) = ModelConfig::from_json(parts.next().unwrap_or_default(), "config.json") else {
        return;
    };
    let same = ModelConfig::from_json(super::parts(input)[0], "config.json");
    // Not where a NaN is unlike itself; no field holds one.
    assert!(same.is_ok_and(|same| same == config), "read twice, it is another model");
    if let Some(generation) = parts.next() {
        let _ = config.add_generation_config(generation, "generation_config.json");
    }
    let layers = config.num_layers;
    assert_eq!(config.windows.len(), layers);
    let bytes =
        config.parameters().checked_mul(16).expect("weights, gradients and moments are counted in 64 bits");
    let layout = adapter_layout(&config);
    let numbers = |(inputs, outputs): (usize, usize)| MAX_RANK * (inputs + outputs);
    let adapter: usize =
        layout.groups.iter().flat_map(|g| g.parts.iter().map(|p| numbers((g.inputs, p.outputs)))).sum();
    assert!(layout.groups.len() == 4 * layers && bytes > 0 && adapter > 0);
    for mode in [Mode::Inference, Mode::Training] {
        let rows = config.max_positions;
        assert!(Activations::bytes(&config, rows, rows, 512, 3 * MAX_RANK, mode, 4) > 0);
    }
    let cache = 2 * layers * config.heads().kv_width() * config.max_positions * 4;
    assert!(cache > 0 && config.layer_heads(layers - 1).head_dim == config.head_dim);
    for variant in [0, 1, config.max_positions as u32] {
        assert_eq!(config.rope.frequencies(RopeVariant(variant)).len(), config.rope.dim / 2);
    }
}

/// A file that an index names is in the folder of the index.
pub fn shard_index(input: &[u8]) {
    let outside = super::folder();
    let folder = outside.path().join("model");
    std::fs::create_dir(&folder).expect("a folder");
    let shard = b"\x02\0\0\0\0\0\0\0{}";
    for file in [outside.path().join("secret.safetensors"), folder.join("a.safetensors")] {
        std::fs::write(file, shard).expect("a file");
    }
    std::fs::write(folder.join("config.json"), "{}").expect("a file");
    let index = folder.join("model.safetensors.index.json");
    std::fs::write(&index, input).expect("a file");
    if let Ok(names) = shard_names(&index) {
        for name in names {
            let inside = folder.join(&name);
            assert_eq!(inside.parent(), Some(folder.as_path()), "{name:?} leads elsewhere");
            assert!(
                Path::new(&name).components().all(|part| matches!(part, Component::Normal(_))),
                "{name:?}"
            );
        }
    }
    if let Ok(files) = ModelFiles::open(&folder) {
        assert!(files.shards().all(|(name, _)| name == "a.safetensors"));
    }
}

/// The modules of a small model.
static LAYOUT: LazyLock<AdapterLayout> = LazyLock::new(|| {
    let config = include_bytes!("../../tests/fixtures/llama/config.json");
    adapter_layout(&ModelConfig::from_json(config, "config.json").expect("the configuration of a fixture"))
});

/// What an adapter's configuration gives has ranks that there are.
pub fn adapter_config(input: &[u8]) {
    let Ok(config) = PeftConfig::parse(input, "adapter_config.json") else { return };
    assert!((0.0..1.0).contains(&config.dropout));
    let _ = config.other_base(&["model", "organisation/model"]);
    let Ok(spec) = config.spec(&LAYOUT) else { return };
    assert_eq!(spec.parts.len(), LAYOUT.parts().count());
    assert!(spec.parts.iter().flatten().count() > 0);
    for part in spec.parts.iter().flatten() {
        assert!((1..=MAX_RANK).contains(&part.rank) && part.scale.is_finite(), "{part:?}");
    }
}
