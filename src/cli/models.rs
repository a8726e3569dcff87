//! What a user names as a model: a folder, `embedded`, or a repository of the hub.

use std::path::Path;

use super::screen::Screen;
use crate::error::{Error, Result};
use crate::hub::{self, HubName, Watch};
use crate::model::{EMBEDDED, ModelFiles};

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
pub fn open(name: &str, screen: &Screen) -> Result<Opened> {
    match place(name)? {
        Place::Here => Ok(Opened { files: ModelFiles::named(name)?, commit: None }),
        Place::Hub(name) => {
            let snapshot = hub::fetch(&name, &Downloads(screen))?;
            screen.line(&format!("hub      {name} is commit {}", snapshot.commit));
            Ok(Opened { files: ModelFiles::open(&snapshot.folder)?, commit: Some(snapshot.commit) })
        }
    }
}

/// Downloads, on the screen.
pub struct Downloads<'a>(pub &'a Screen);

/// The one phase of downloads: they come one after another.
const KEY: &str = "download";

impl Watch for Downloads<'_> {
    fn note(&self, text: &str) {
        self.0.line(text);
    }

    fn begin(&self, file: &str, bytes: u64, there: u64) {
        self.0.phase_of_bytes(KEY, file, bytes);
        self.0.advance(KEY, there);
    }

    fn advance(&self, bytes: u64) {
        self.0.advance(KEY, bytes);
    }

    fn end(&self) {
        self.0.end_phase(KEY);
    }
}
