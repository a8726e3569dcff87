//! A society that a run has trained: its base, and the adapters of a lane at an iteration.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::files::names_in;
use crate::hub;
use crate::run::{is_name, read_manifest};

/// A run folder at an iteration.
pub struct Society {
    /// The base, as the run's configuration names it.
    pub model: String,
    /// The commit of a base of the hub.
    pub commit: Option<String>,
    /// Names and PEFT folders of the lane's adapters, none at iteration 0.
    pub adapters: Vec<(String, PathBuf)>,
    /// The run folder.
    pub folder: PathBuf,
    /// The lane.
    pub lane: String,
    /// The iteration.
    pub iteration: usize,
}

impl Society {
    /// Reads `DIR[@ITERATION]`.
    pub fn find(text: &str, lane: Option<&str>) -> Result<Self> {
        let (folder, iteration) = match text.rsplit_once('@') {
            Some((folder, n)) if n.parse::<usize>().is_ok() => (folder, n.parse().ok()),
            _ => (text, None),
        };
        let folder = PathBuf::from(folder);
        let manifest = read_manifest(&folder)?;
        let lanes: Vec<&str> =
            manifest["lanes"].as_array().into_iter().flatten().filter_map(|l| l.as_str()).collect();
        let lane = match lane {
            Some(lane) if lanes.contains(&lane) => lane,
            Some(lane) => {
                return Err(Error::Usage(format!(
                    "--lane {lane}: {} has the lanes {}",
                    folder.display(),
                    lanes.join(", ")
                )));
            }
            None => lanes.first().copied().unwrap_or_default(),
        };
        let model = manifest["model"]["path"]
            .as_str()
            .ok_or_else(|| Error::file(&folder.join("manifest.json"), "field model.path: missing"))?;
        let commit = model_commit(&manifest);
        let of_lane = folder.join("adapters").join(lane);
        let mut known: Vec<usize> =
            names_in(&of_lane).iter().filter_map(|n| n.strip_prefix("iteration-")?.parse().ok()).collect();
        known.sort_unstable();
        let iteration = match iteration {
            Some(i) if i == 0 || known.contains(&i) => i,
            Some(i) => {
                return Err(Error::file(
                    &of_lane,
                    format!("no iteration {i}; there are {}", describe_iterations(&known)),
                ));
            }
            None => known.last().copied().unwrap_or(0),
        };
        let at = of_lane.join(format!("iteration-{iteration}"));
        let adapters =
            names_in(&at).into_iter().filter(|n| is_name(n)).map(|n| (n.clone(), at.join(n))).collect();
        Ok(Self { model: model.to_string(), commit, adapters, lane: lane.to_string(), iteration, folder })
    }

    /// The base that the adapters were trained on.
    pub fn base(&self) -> String {
        hub::pinned(&self.model, self.commit.as_deref())
    }
}

/// The commit of a run's base, if it came from the hub.
pub fn model_commit(manifest: &serde_json::Value) -> Option<String> {
    manifest["model"]["commit"].as_str().map(String::from)
}

fn describe_iterations(known: &[usize]) -> String {
    match known {
        [] => "only 0, the base".into(),
        known => known.iter().map(usize::to_string).collect::<Vec<_>>().join(", "),
    }
}
