//! The model that is compiled into the program: `assets/model`.

use std::collections::BTreeMap;

use super::ModelFiles;
use crate::error::Result;
use crate::files::{Bytes, TensorFile};

/// What stands for a folder where the embedded model is meant.
pub const EMBEDDED: &str = "embedded";

macro_rules! asset {
    ($name:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/model/", $name))
    };
}

impl ModelFiles {
    /// The embedded model.
    pub fn embedded() -> Result<Self> {
        let texts: [(&'static str, &'static [u8]); 4] = [
            ("config.json", asset!("config.json")),
            ("generation_config.json", asset!("generation_config.json")),
            ("tokenizer.json", asset!("tokenizer.json")),
            ("tokenizer_config.json", asset!("tokenizer_config.json")),
        ];
        let texts: BTreeMap<_, _> =
            texts.into_iter().map(|(name, bytes)| (name, Bytes::Static(bytes))).collect();
        let weights = Bytes::Static(asset!("model.safetensors"));
        let shard = TensorFile::parse(format!("{EMBEDDED}/model.safetensors"), weights)?;
        Self::new(EMBEDDED.to_string(), texts, vec![shard], None)
    }
}
