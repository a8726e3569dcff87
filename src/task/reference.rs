//! How a reference answer stands in its field.

use super::answer::Extraction;
use crate::error::{Error, Result};
use crate::run::TaskSection;

/// How a reference answer stands in its field (`task.reference`).
#[derive(Clone, Debug)]
pub(super) enum Reference {
    /// The whole field.
    Whole,
    /// What stands after the last `####`.
    AfterHashes,
    /// As in a response.
    Extracted(Extraction),
}

impl Reference {
    /// By its name in the configuration.
    pub fn named(name: &str, section: &TaskSection) -> Result<Self> {
        Ok(match name {
            "whole" => Self::Whole,
            "after-hashes" => Self::AfterHashes,
            name => Self::Extracted(
                Extraction::named(name, section, "reference")
                    .map_err(|e| Error::input(e, "(task.reference may also be `whole` or `after-hashes`)"))?,
            ),
        })
    }

    /// Of this field, in a resolved `[task]`: as `task.reference` says; else a field `solution` has it in its last
    /// box, and any other is the answer.
    pub fn of_field(field: &str, section: &TaskSection) -> Result<Self> {
        match (section.reference.as_deref(), field) {
            (Some(reference), _) => Self::named(reference, section),
            (None, "solution") => Self::named("boxed", section),
            (None, _) => Self::named("whole", section),
        }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::AfterHashes => "after-hashes",
            Self::Extracted(extraction) => extraction.name(),
        }
    }

    /// The answer as written, if there is one.
    pub fn find(&self, field: &str) -> Option<String> {
        match self {
            Self::Whole => Some(field.to_string()),
            Self::AfterHashes => field.rsplit_once("####").map(|(_, after)| after.to_string()),
            Self::Extracted(extraction) => extraction.find(field),
        }
    }
}
