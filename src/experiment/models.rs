//! What a user names as a model: a folder, `embedded`, or a repository of the hub; and as an
//! adapter: a folder or such a repository.

use std::path::{Path, PathBuf};

use super::watch::{Downloads, Watch};
use crate::adapter::AdapterOrigin;
use crate::error::{Error, Result};
use crate::hub::{self, HubName, Kind};
use crate::model::{EMBEDDED, ModelConfig, ModelFiles};

/// A model's files, and what it is called.
pub struct Opened {
    /// The files.
    pub files: ModelFiles,
    /// The commit, of a model of the hub.
    pub commit: Option<String>,
}

/// Where a model is.
pub enum Place {
    /// In the program or in a folder.
    Here,
    /// On the hub.
    Hub(HubName),
}

/// Where the model `name` is. A folder of that name wins over the hub.
pub fn place(name: &str) -> Result<Place> {
    if name == EMBEDDED || Path::new(name).exists() {
        return Ok(Place::Here);
    }
    HubName::parse(name).map(Place::Hub).ok_or_else(|| {
        let expected =
            "a model folder with config.json, `embedded`, or OWNER/NAME[@REVISION] on the Hugging Face hub";
        Error::input(name, format!("found no folder, expected {expected}"))
    })
}

/// Opens the model `name`; downloads what the cache lacks of it.
pub fn open(name: &str, watch: &mut dyn Watch) -> Result<Opened> {
    match place(name)? {
        Place::Here => Ok(Opened { files: ModelFiles::named(name)?, commit: None }),
        Place::Hub(name) => {
            let snapshot = hub::fetch(&name, Kind::Model, &Downloads::new(watch))?;
            watch.line(format!("hub      {name} is commit {}", snapshot.commit));
            Ok(Opened { files: ModelFiles::open(&snapshot.folder)?, commit: Some(snapshot.commit) })
        }
    }
}

/// A model's configuration. Says so where its lm_head is another than config.json promises.
pub fn config(files: &ModelFiles, watch: &mut dyn Watch) -> Result<ModelConfig> {
    let config = ModelConfig::read(files)?;
    if config.unties {
        watch.warn(format!("{}: {UNTIED}", files.file_place("config.json")));
    }
    Ok(config)
}

/// What is said of a model whose config.json ties two matrices that are not the same.
pub const UNTIED: &str =
    "tie_word_embeddings is true, but lm_head.weight is another matrix than the embedding; it is used";

/// The folder of the adapter `name`: a folder of that name wins over the hub. Downloads what the
/// cache lacks of it.
pub fn adapter(name: &Path, watch: &mut dyn Watch) -> Result<PathBuf> {
    if name.exists() {
        return Ok(name.into());
    }
    let Some(hub_name) = name.to_str().and_then(HubName::parse) else {
        let expected =
            "a PEFT folder with adapter_config.json, or OWNER/NAME[@REVISION] on the Hugging Face hub";
        return Err(Error::file(name, format!("found no folder, expected {expected}")));
    };
    let snapshot = hub::fetch(&hub_name, Kind::Adapter, &Downloads::new(watch))?;
    watch.line(format!("hub      {hub_name} is commit {}", snapshot.commit));
    Ok(snapshot.folder)
}

/// The adapter of `origin`, its folder here if it has one.
pub fn origin(origin: &AdapterOrigin, watch: &mut dyn Watch) -> Result<AdapterOrigin> {
    match origin {
        AdapterOrigin::New(new) => Ok(AdapterOrigin::New(new.clone())),
        AdapterOrigin::Folder(folder) => adapter(folder, watch).map(AdapterOrigin::Folder),
    }
}
