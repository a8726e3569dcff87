//! A model, its tokenizer and named adapters in an engine: what `generate`, `score`, `train`, `eval`, `debate` and `run` start from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::common::{Common, ModelArgs, name_value};
use super::models::{self, Opened};
use super::records::{self, Content, Record};
use super::screen::{Screen, bytes};
use crate::adapter::{AdapterOrigin, Base, PeftConfig};
use crate::backend::{Selected, select};
use crate::engine::*;
use crate::error::{Error, Result};
use crate::hub::{self, HubName};
use crate::model::{LoadOptions, Model, ModelFiles};
use crate::run::{is_name, read_manifest};
use crate::text::{ChatTokenizer, Message, Reading, SUBSTANTIAL};

/// What a session is to hold.
pub struct Wanted {
    /// Folder, `embedded` or a name of the hub.
    pub model: String,
    /// Names and where they come from.
    pub adapters: Vec<(String, AdapterOrigin)>,
    /// Will adapters be trained?
    pub training: bool,
    /// Adapters beyond those named that each lane makes, in the order in which lanes start; the memory plan counts on those of as many
    /// lanes as there is room for at once.
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
    /// For inference with what the options name.
    pub fn from_args(args: &ModelArgs) -> Result<Self> {
        let mut model = args.model.clone();
        let mut adapters: Vec<(String, AdapterOrigin)> = Vec::new();
        if let Some(society) = &args.society {
            let society = Society::find(society, args.lane.as_deref())?;
            model = Some(society.base());
            adapters = society.adapters.into_iter().map(|(n, f)| (n, AdapterOrigin::Folder(f))).collect();
        }
        let model = model.ok_or_else(|| {
            Error::Usage(
                "no model: give --model DIR, --model OWNER/NAME, --model embedded or --society DIR".into(),
            )
        })?;
        let mut wanted = Self { adapters, ..Self::of_model(&model) };
        wanted.add_adapters(&args.adapters)?;
        Ok(wanted)
    }

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

    /// Adds `NAME=DIR` adapters.
    pub fn add_adapters(&mut self, texts: &[String]) -> Result<()> {
        for text in texts {
            let (name, folder) = name_value("adapter", text)?;
            if self.adapters.iter().any(|(n, _)| n == name) {
                return Err(Error::Usage(format!("--adapter {text}: two adapters are called `{name}`")));
            }
            self.adapters.push((name.to_string(), AdapterOrigin::Folder(folder.into())));
        }
        Ok(())
    }
}

/// What a program takes beside its engine: itself with the records under way, and the tokenizer, whose maps are many times as large as its
/// file.
pub fn program_bytes(files: &ModelFiles) -> usize {
    (48 << 20) + 16 * files.text("tokenizer.json").map_or(0, <[u8]>::len)
}

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
            list(&of_lane).iter().filter_map(|n| n.strip_prefix("iteration-")?.parse().ok()).collect();
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
            list(&at).into_iter().filter(|n| is_name(n)).map(|n| (n.clone(), at.join(n))).collect();
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

/// Names in a folder, sorted; none if it cannot be read.
fn list(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    names
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
    /// Loads everything, and tells the screen what and how large.
    pub fn open(wanted: &Wanted, common: &Common, screen: &Screen) -> Result<Self> {
        Self::open_for(wanted, common, screen, |_, _| Ok(0))
    }

    /// The same where more is known of what is to come: `longest` says from the tokenizer how many tokens the longest sequence has that will be
    /// scored or trained. It is asked before the weights are loaded, and its errors come first.
    pub fn open_for(
        wanted: &Wanted,
        common: &Common,
        screen: &Screen,
        longest: impl FnOnce(&ModelFiles, Option<&Rc<ChatTokenizer>>) -> Result<usize>,
    ) -> Result<Self> {
        let Selected { mut backend, why } =
            select(common.device.as_deref().unwrap_or("auto"), common.threads.unwrap_or(0))?;
        let cores = std::thread::available_parallelism().map_or(usize::MAX, usize::from);
        if let Some(threads) = common.threads.filter(|threads| *threads > cores) {
            screen.line(&format!(
                "warning: {threads} threads on {cores} cores: more than cores only wait for one another"
            ));
        }
        let Opened { files, commit } = models::open(&wanted.model, screen)?;
        let config = models::config(&files, screen)?;
        // Adapters are found before the weights are loaded, and read before memory is planned: a
        // bad one costs little.
        let origins = wanted
            .adapters
            .iter()
            .map(|(name, origin)| Ok((name.clone(), models::origin(origin, screen)?)))
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
                    warn_of_other_base(folder, name, &files, screen)?;
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
            memory_limit: common.memory_limit(),
            ..EngineOptions::default()
        };
        screen.line(&format!(
            "model    {}: {}, {} parameters, {} layers, context {}",
            wanted.model,
            model.config().model_type,
            count(model.config().parameters()),
            model.config().num_layers,
            model.config().max_positions,
        ));
        let why = why.map_or(String::new(), |why| format!(" ({why})"));
        screen.line(&format!("device   {device}{why}"));
        let engine_options = match wanted.lanes.iter().max() {
            Some(&fewest) => waves(&*backend, &model, engine_options, snapshots.len() + fewest)?,
            None => engine_options,
        };
        let engine = EngineHandle::new(Engine::new(backend, model, engine_options)?);
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

    /// The memory plan, on the screen.
    pub fn show_plan(&self, screen: &Screen) {
        let plan = self.engine.with(|e| e.plan().clone());
        screen.line(&format!("memory   {} planned:", bytes(plan.total())));
        for line in plan.to_string().lines() {
            screen.line(&format!("  {line}"));
        }
    }

    /// The tokenizer, or an error that says what lacks it.
    pub fn codec(&self, place: &str) -> Result<&ChatTokenizer> {
        needed(&self.files, self.tokenizer.as_deref(), place)
    }

    /// The adapter of a record.
    pub fn adapter_of(&self, record: &Record) -> Result<AdapterId> {
        let Some(name) = &record.adapter else { return Ok(AdapterId::BASE) };
        self.adapters.get(name).copied().ok_or_else(|| {
            let known: Vec<&str> = self.adapters.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_string() } else { known.join(", ") };
            record.error("adapter", format!("unknown adapter `{name}`; given with --adapter: {known}"))
        })
    }

    /// Tokens of a record, and the loss weights of each.
    pub fn tokens(&self, record: &Record, purpose: Purpose) -> Result<(Vec<u32>, Vec<f32>)> {
        let (field, tokens, weights) = tokens(&self.files, self.tokenizer.as_deref(), record, purpose)?;
        let prompt = purpose == Purpose::Continue;
        let (vocab, context) = self.engine.with(|e| (e.config().vocab_size, e.config().max_positions));
        if let Some(t) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(
                record.error(field, format!("found token {t}, expected less than {vocab}, the vocabulary"))
            );
        }
        if tokens.is_empty() {
            return Err(record.error(field, "found no tokens, expected at least one"));
        }
        let room = if prompt { context - 1 } else { context };
        if tokens.len() > room {
            let what = if prompt { "a prompt that leaves room for one token of" } else { "at most" };
            return Err(record.error(
                field,
                format!("found {} tokens, expected {what} the model's context of {context}", tokens.len()),
            ));
        }
        Ok((tokens, weights))
    }

    /// Names on the screen the fields of records that are not read.
    pub fn tell_ignored<'a>(&self, records: impl Iterator<Item = &'a Record> + Clone, screen: &Screen) {
        if let Some(line) = records::ignored_line(&ignored(self.tokenizer.as_deref(), records)) {
            screen.line(&line);
        }
    }

    /// Runs one future to its end, with the engine.
    pub fn drive(&self, work: impl std::future::Future<Output = Result<()>> + 'static) -> Result<()> {
        run_lanes(&self.engine, vec![Box::pin(work)])
    }
}

fn needed<'a>(
    files: &ModelFiles,
    codec: Option<&'a ChatTokenizer>,
    place: &str,
) -> Result<&'a ChatTokenizer> {
    codec.ok_or_else(|| {
        Error::input(
            place,
            format!("{} has no tokenizer.json; only records with `tokens` work with it", files.place()),
        )
    })
}

/// What a record's tokens are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be continued: no end-of-sequence token is put behind them.
    Continue,
    /// To be read as they are given. With `"eos": true` a text or completion gets an
    /// end-of-sequence token.
    Score,
    /// To be trained on. A text or completion gets an end-of-sequence token, unless the record
    /// says `"eos": false`.
    Train,
}

/// Tokens of the longest of some records.
pub fn longest<'a>(
    files: &ModelFiles,
    codec: Option<&Rc<ChatTokenizer>>,
    records: impl IntoIterator<Item = &'a Record>,
    purpose: Purpose,
) -> Result<usize> {
    records.into_iter().try_fold(0, |longest, record| {
        let (_, tokens, _) = tokens(files, codec.map(|codec| &**codec), record, purpose)?;
        Ok(longest.max(tokens.len()))
    })
}

/// The field that a record's text is in, its tokens, and the loss weights of each.
fn tokens<'a>(
    files: &ModelFiles,
    codec: Option<&ChatTokenizer>,
    record: &'a Record,
    purpose: Purpose,
) -> Result<(&'a str, Vec<u32>, Vec<f32>)> {
    let codec = || needed(files, codec, &record.place);
    let at = |field: &str| {
        let place = format!("{}: {field}", record.place);
        move |e: Error| e.at(&place)
    };
    let ones = |tokens: Vec<u32>| {
        let weights = vec![1.0; tokens.len()];
        (tokens, weights)
    };
    let control_tokens: Option<bool> = record.field("control_tokens", "true or false")?;
    let reading = |default| match control_tokens {
        None => default,
        Some(true) => Reading::Tokens,
        Some(false) => Reading::Text,
    };
    let eos: Option<bool> = record.field("eos", "true or false")?;
    match &record.content {
        Content::Tokens(..) if control_tokens.is_some() => {
            return Err(record.error("control_tokens", "found it beside `tokens`, expected it beside text"));
        }
        Content::Tokens(..) | Content::Messages(_) if eos.is_some() => {
            return Err(record.error("eos", "found it here, expected it beside `text` or `completion`"));
        }
        _ => {}
    }
    let ends = eos.unwrap_or(purpose == Purpose::Train);
    let ended = |tokens: Vec<u32>| if ends { codec()?.ended(tokens) } else { Ok(tokens) };
    let (field, (tokens, weights)) = match &record.content {
        Content::Tokens(tokens, weights) => {
            let weights = weights.clone().unwrap_or_else(|| vec![1.0; tokens.len()]);
            ("tokens", (tokens.clone(), weights))
        }
        Content::Text(text) => {
            let (reading, field) = (reading(Reading::Tokens), record.content_field);
            let tokens = match purpose {
                Purpose::Continue => codec()?.open_text(text, reading),
                Purpose::Score | Purpose::Train => codec()?.text_as(text, reading),
            };
            (field, ones(tokens.and_then(ended).map_err(at(field))?))
        }
        Content::Messages(messages) => {
            let (codec, reading, field) = (codec()?, reading(Reading::Text), record.content_field);
            check_template(codec, record, messages)?;
            let options = &record.chat;
            let tokens = match purpose {
                Purpose::Continue => codec.prompt_as(messages, options, reading).map(ones),
                Purpose::Score => codec.conversation_as(messages, options, reading).map(ones),
                Purpose::Train => codec.training_as(messages, options, reading),
            };
            (field, tokens.map_err(at(field))?)
        }
        Content::PromptCompletion(before, after) => {
            let (codec, reading) = (codec()?, reading(Reading::Tokens));
            let prompt = codec.open_text(before, reading).map_err(at("prompt"))?;
            let tokens = codec.completed(&prompt, after, reading).and_then(ended);
            let tokens = tokens.map_err(at("completion"))?;
            let mut weights = vec![0.0; prompt.len()];
            weights.resize(tokens.len(), 1.0);
            ("prompt", (tokens, weights))
        }
    };
    Ok((field, tokens, weights))
}

/// Refuses what a conversation says that the model's chat template leaves out.
fn check_template(codec: &ChatTokenizer, record: &Record, messages: &[Message]) -> Result<()> {
    const PROBLEM: &str = "the model's chat template does not read it; leave it out";
    for (i, message) in messages.iter().enumerate() {
        if let Some(name) = message.more().find(|name| SUBSTANTIAL.contains(name) && !codec.reads_field(name))
        {
            return Err(record.error(&format!("{}[{i}].{name}", record.content_field), PROBLEM));
        }
    }
    if record.chat.tools.as_ref().is_some_and(|tools| !tools.is_empty()) && !codec.reads_variable("tools") {
        return Err(record.error("tools", PROBLEM));
    }
    match record.chat.kwargs.keys().find(|name| !codec.reads_variable(name)) {
        Some(name) => Err(record.error(&format!("chat_template_kwargs.{name}"), PROBLEM)),
        None => Ok(()),
    }
}

/// Fields of messages that are looked at, and records of which it is tried whether a message's field shows in what the template makes of them.
const TRIED: usize = 100;

/// Fields of records and of their messages that are not read, and in how many records each is. A message's field is read if it changes what
/// the template makes of any of the first records that have it.
pub fn ignored<'a>(
    codec: Option<&ChatTokenizer>,
    records: impl Iterator<Item = &'a Record> + Clone,
) -> Map<String, Value> {
    let mut counts = records::count(records.clone().flat_map(|r| r.ignored.iter().map(String::as_str)));
    let Some(codec) = codec else { return counts };
    // Those that have each field.
    let mut having: BTreeMap<&str, Vec<&Record>> = BTreeMap::new();
    for record in records {
        let Content::Messages(messages) = &record.content else { continue };
        for name in messages.iter().flat_map(Message::more) {
            let of = having.entry(name).or_default();
            if !of.last().is_some_and(|last| std::ptr::eq(*last, record)) {
                of.push(record);
            }
        }
    }
    for (name, of) in having.into_iter().take(TRIED) {
        let shows = |record: &&&Record| match &record.content {
            Content::Messages(messages) => codec.shows_field(messages, &record.chat, name),
            _ => false,
        };
        if !(codec.reads_field(name) && of.iter().take(TRIED).any(|record| shows(&record))) {
            counts.insert(format!("messages.{name}"), of.len().into());
        }
    }
    counts
}

/// Says so where an adapter fits the model but names another as its base: folders move and are renamed, so it is used all the same.
pub fn warn_of_other_base(folder: &Path, name: &str, files: &ModelFiles, screen: &Screen) -> Result<()> {
    let path = Path::new(files.place());
    let resolved = path.canonicalize().unwrap_or_default().display().to_string();
    let config: serde_json::Value = serde_json::from_slice(files.config()).unwrap_or_default();
    let told = config["_name_or_path"].as_str().unwrap_or_default();
    if let Some(base) = PeftConfig::read(folder)?.other_base(&[files.place(), &resolved, told]) {
        let model = files.place();
        screen.line(&format!(
            "warning: adapter {name} was made for {base}; its shapes fit {model}, which is used"
        ));
    }
    Ok(())
}

/// `1234567` as `1.2 M`.
pub fn count(n: usize) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{:.0} k", n as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}
