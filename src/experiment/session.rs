//! A model, its tokenizer and named adapters in an engine: what every command that computes starts from.

use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use super::amounts::{bytes, count};
use super::models::{self, Opened};
use super::watch::Watch;
use crate::adapter::{AdapterOrigin, Base, PeftConfig};
use crate::backend::{Selected, select};
use crate::engine::*;
use crate::error::Result;
use crate::hub::HubName;
use crate::model::{LoadOptions, Model, ModelFiles};
use crate::text::ChatTokenizer;

/// What a session is to hold.
pub struct Wanted {
    /// Folder, `embedded` or a name of the hub.
    pub model: String,
    /// Names and where they come from.
    pub adapters: Vec<(String, AdapterOrigin)>,
    /// Will adapters be trained?
    pub training: bool,
    /// Adapters beyond those named that each lane makes, in the order in which lanes start; the
    /// memory plan counts on those of as many lanes as there is room for at once.
    pub lanes: Vec<usize>,
    /// Their rank.
    pub rank: usize,
    /// Will some of these have dropout?
    pub dropout: bool,
    /// Do checkpoints hold the optimizer's moments?
    pub keep_moments: bool,
    /// Rows of a micro-batch, of a sampling step, sequences at once.
    pub limits: (usize, usize, usize),
}

impl Wanted {
    /// A model alone, for inference.
    pub fn of_model(model: &str) -> Self {
        let defaults = crate::run::RunSection::default();
        let limits = (defaults.micro_batch_rows, defaults.step_rows, defaults.max_sequences);
        Self {
            model: model.to_string(),
            adapters: vec![],
            training: false,
            lanes: vec![],
            rank: 1,
            dropout: false,
            keep_moments: false,
            limits,
        }
    }
}

/// What a program takes beside its engine: itself with the records under way, and the tokenizer,
/// whose maps are many times as large as its file.
pub fn program_bytes(files: &ModelFiles) -> usize {
    (48 << 20) + 16 * files.text("tokenizer.json").map_or(0, <[u8]>::len)
}

/// Where and how to compute.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// The device's name; none is `auto`.
    pub device: Option<String>,
    /// CPU threads; none or 0 is all cores.
    pub threads: Option<usize>,
    /// Most bytes to use.
    pub memory: Option<usize>,
}

/// A model ready to work.
pub struct Session {
    /// Its files, for hashes.
    pub files: ModelFiles,
    /// Its commit, if it came from the hub.
    pub commit: Option<String>,
    /// What adapters for it call it.
    pub base: Base,
    /// The engine.
    pub engine: EngineHandle,
    /// Its tokenizer; none if the folder has none.
    pub tokenizer: Option<Rc<ChatTokenizer>>,
    /// By name.
    pub adapters: BTreeMap<String, AdapterId>,
    /// What it computes on, for people.
    pub device: String,
    /// Where results are bit for bit the same.
    pub arithmetic: String,
}

impl Session {
    /// Loads everything, and says what and how large.
    pub fn open(wanted: &Wanted, on: &DeviceOptions, watch: &mut dyn Watch) -> Result<Self> {
        Self::open_for(wanted, on, watch, |_, _| Ok(0))
    }

    /// The same where more is known of what is to come: `longest` says from the tokenizer how many
    /// tokens the longest sequence has that will be scored or trained. It is asked before the
    /// weights are loaded, and its errors come first.
    pub fn open_for(
        wanted: &Wanted,
        on: &DeviceOptions,
        watch: &mut dyn Watch,
        longest: impl FnOnce(&ModelFiles, Option<&Rc<ChatTokenizer>>) -> Result<usize>,
    ) -> Result<Self> {
        let Selected { mut backend, why } =
            select(on.device.as_deref().unwrap_or("auto"), on.threads.unwrap_or(0))?;
        let cores = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        if let Some(threads) = on.threads.filter(|threads| *threads > cores) {
            watch.warn(format!(
                "{threads} threads on {cores} cores: more than cores only wait for one another"
            ));
        }
        let Opened { files, commit } = models::open(&wanted.model, watch)?;
        let config = models::config(&files, watch)?;
        // Adapters are found before the weights are loaded, and read before memory is planned: a
        // bad one costs little.
        let origins = wanted
            .adapters
            .iter()
            .map(|(name, origin)| Ok((name.clone(), models::origin(origin, watch)?)))
            .collect::<Result<Vec<_>>>()?;
        let tokenizer = match files.text("tokenizer.json") {
            Some(_) => Some(Rc::new(ChatTokenizer::new(&files, &config)?)),
            None => None,
        };
        let longest = longest(&files, tokenizer.as_ref())?;
        let options = LoadOptions { training: wanted.training, max_positions: None };
        let model = Model::load(&files, config, &mut *backend, options)?;
        let (device, arithmetic) = (backend.describe(), backend.arithmetic());
        let snapshots = origins
            .iter()
            .map(|(name, origin)| {
                let snapshot = origin.snapshot(model.layout(), &files)?;
                if let AdapterOrigin::Folder(folder) = origin {
                    warn_of_other_base(folder, name, &files, watch)?;
                }
                Ok((name.clone(), snapshot))
            })
            .collect::<Result<Vec<_>>>()?;
        let ranks = snapshots.iter().flat_map(|(_, s)| s.spec.parts.iter().flatten().map(|p| p.rank));
        let max_rank = ranks.chain([wanted.rank]).max().unwrap_or(1);
        let (micro_batch_rows, max_rows, max_sequences) = wanted.limits;
        let engine_options = EngineOptions {
            max_rows: max_rows.max(max_sequences),
            max_sequences,
            micro_batch_rows,
            longest,
            adapters: snapshots.len() + wanted.lanes.iter().sum::<usize>(),
            max_rank,
            training: wanted.training,
            dropout: wanted.dropout || snapshots.iter().any(|(_, s)| s.spec.dropout > 0.0),
            checkpoint_copies: if wanted.keep_moments { 3 } else { 1 },
            program_bytes: program_bytes(&files),
            memory_limit: on.memory,
            ..EngineOptions::default()
        };
        watch.line(format!(
            "model    {}: {}, {} parameters, {} layers, context {}",
            wanted.model,
            model.config().model_type,
            count(model.config().parameters()),
            model.config().num_layers,
            model.config().max_positions,
        ));
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        watch.line(format!("device   {device}{why}"));
        let engine_options = match wanted.lanes.iter().max() {
            Some(&fewest) => waves(&*backend, &model, engine_options, snapshots.len() + fewest)?,
            None => engine_options,
        };
        let engine = EngineHandle::new(Engine::new(backend, model, engine_options)?);
        if let Some(tokenizer) = tokenizer.clone() {
            engine.with(|e| e.add_stop_rules(tokenizer));
        }
        let mut adapters = BTreeMap::new();
        for (name, snapshot) in snapshots {
            adapters.insert(name, engine.create(AdapterSource::Snapshot(Arc::new(snapshot)))?);
        }
        let base = match HubName::parse(&wanted.model).filter(|_| commit.is_some()) {
            Some(name) => Base { name: name.repository, revision: commit.clone() },
            None => Base { name: wanted.model.clone(), revision: None },
        };
        Ok(Self { files, commit, base, engine, tokenizer, adapters, device, arithmetic })
    }

    /// Says the memory plan.
    pub fn show_plan(&self, watch: &mut dyn Watch) {
        let plan = self.engine.with(|e| e.plan().clone());
        watch.line(format!("memory   {} planned:", bytes(plan.total())));
        for line in plan.to_string().lines() {
            watch.line(format!("  {line}"));
        }
    }

    /// Runs one future to its end, with the engine.
    pub fn drive(&self, work: impl std::future::Future<Output = Result<()>> + 'static) -> Result<()> {
        run_lanes(&self.engine, vec![Box::pin(work)])
    }
}

/// Says so where an adapter fits the model but names another as its base: folders move and are
/// renamed, so it is used all the same.
pub fn warn_of_other_base(
    folder: &Path,
    name: &str,
    files: &ModelFiles,
    watch: &mut dyn Watch,
) -> Result<()> {
    let path = Path::new(files.place());
    let resolved = path.canonicalize().unwrap_or_default().display().to_string();
    let config: serde_json::Value = serde_json::from_slice(files.config()).unwrap_or_default();
    let told = config["_name_or_path"].as_str().unwrap_or_default();
    if let Some(base) = PeftConfig::read(folder)?.other_base(&[files.place(), &resolved, told]) {
        let model = files.place();
        watch.warn(format!("adapter {name} was made for {base}; its shapes fit {model}, which is used"));
    }
    Ok(())
}
