//! A model: its shape, its files, and the memory it takes, planned by the engine's own plan on
//! backends that only count.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Args, Said, facts, plural};
use crate::backend::cpu::CpuBackend;
use crate::backend::cuda::CudaBackend;
use crate::backend::{Backend, MAX_RANK, WeightType};
use crate::cli::screen::Screen;
use crate::engine::{EngineOptions, KvBudget, MemoryPlan};
use crate::error::{Error, Result};
use crate::experiment::models::{self, Place, UNTIED};
use crate::experiment::{Downloads, bytes, count, program_bytes};
use crate::hub;
use crate::model::{LoadOptions, Model, ModelConfig, ModelFiles};
use crate::report;
use crate::run::RunSection;
use crate::text::ChatTokenizer;

/// Sequences at once of the plans to sample with.
const SEQUENCES: [usize; 4] = [1, 16, 64, 256];
/// Rows of a micro-batch of the plans to train with.
const MICRO_BATCHES: [usize; 3] = [512, 2048, 8192];
/// Sequences sampled at once beside training.
const BESIDE_TRAINING: usize = 64;
/// Multiprocessors of the GPU that is planned for: an H100 or H200. Others change the plan by some MiB.
const MULTIPROCESSORS: u32 = 132;
/// The devices of the plans.
const DEVICES: [&str; 3] = ["cpu", "cpu-bf16", "cuda"];

/// The files, found wherever they are.
struct Found {
    /// A folder, or `embedded`.
    path: String,
    /// All files, where the weights are there too.
    files: Option<ModelFiles>,
    commit: Option<String>,
    /// Files of weights and their bytes; none where the hub cannot be asked.
    weights: Vec<(String, u64)>,
    /// Bytes by element type, where the headers are there.
    types: BTreeMap<String, usize>,
}

/// Nothing of a repository that is an adapter's.
fn find(name: &str, screen: &Screen) -> Result<Option<Found>> {
    let (path, commit, listed) = match models::place(name)? {
        Place::Here => (name.to_string(), None, None),
        Place::Hub(hub_name) => {
            let Some(overview) = hub::look(&hub_name, &Downloads::new(&mut &*screen))? else {
                return Ok(None);
            };
            let listed = (!overview.is_complete).then_some(overview.weights);
            (overview.folder.display().to_string(), Some(overview.commit), listed)
        }
    };
    if let Some(weights) = listed {
        return Ok(Some(Found { path, files: None, commit, weights, types: BTreeMap::new() }));
    }
    let files = ModelFiles::named(&path)?;
    let mut types = BTreeMap::new();
    let mut weights = Vec::new();
    for (_, shard) in files.shards() {
        for (dtype, _, data) in shard.names().filter_map(|n| shard.raw(n)) {
            *types.entry(format!("{dtype:?}").to_lowercase()).or_default() += data.len();
        }
        let name = std::path::Path::new(shard.place()).file_name().unwrap_or_default();
        weights.push((name.to_string_lossy().into_owned(), shard.bytes().len() as u64));
    }
    Ok(Some(Found { path, files: Some(files), commit, weights, types }))
}

/// What it is; nothing if it is a repository with an adapter.
pub fn say(args: &Args, screen: &Screen) -> Result<Option<Said>> {
    if args.rank == 0 || args.rank > MAX_RANK {
        return Err(Error::Usage(format!("--rank {}: expected 1 to {MAX_RANK}", args.rank)));
    }
    if args.tokens == 0 {
        return Err(Error::Usage("--tokens 0: expected at least 1".into()));
    }
    let Some(found) = find(&args.what, screen)? else { return Ok(None) };
    let texts = ModelFiles::without_weights(&found.path, WeightType::Bf16)?;
    let config = ModelConfig::read(found.files.as_ref().unwrap_or(&texts))?;
    let tokenizer = texts.text("tokenizer.json").map(|_| ChatTokenizer::new(&texts, &config)).transpose()?;
    let has_template = tokenizer.as_ref().is_some_and(ChatTokenizer::has_template);
    // Of weights that are not here, config.json knows best.
    let dtypes: Vec<String> = match found.types.is_empty() {
        false => found.types.keys().cloned().collect(),
        true => declared(&texts).into_iter().collect(),
    };
    let stored = match dtypes.as_slice() {
        [one] if one == "f32" => WeightType::F32,
        [one] if one == "f16" => WeightType::F16,
        _ => WeightType::Bf16,
    };
    let total: u64 = found.weights.iter().map(|w| w.1).sum();
    let plans = Plans { args, config: &config, program: program_bytes(&texts) };
    let (memory, notes) = plans.make(&found.path, stored)?;

    let json = json!({
        "kind": "model", "model": args.what, "commit": found.commit, "path": found.path,
        "family": config.model_type, "parameters": config.parameters(), "layers": config.num_layers,
        "heads": config.num_heads, "kv_heads": config.num_kv_heads, "head_dim": config.head_dim,
        "hidden_size": config.hidden_size, "intermediate_size": config.intermediate_size,
        "context": config.max_positions, "vocabulary": config.vocab_size, "tied_embeddings": config.tie_word_embeddings,
        "unknown_fields": config.unknown_fields,
        "dtypes": dtypes, "bytes": total,
        "files": found.weights.iter().map(|(name, bytes)| json!({"file": name, "bytes": bytes})).collect::<Vec<_>>(),
        "tokenizer": tokenizer.is_some(), "chat_template": has_template,
        "adapters": args.adapters, "rank": args.rank, "tokens": plans.tokens(),
        "memory": memory.iter().map(Planned::json).collect::<Vec<_>>(),
    });

    let commit = found.commit.as_ref().map_or(String::new(), |c| format!(" at commit {c}"));
    let tied = if config.tie_word_embeddings { ", one matrix for both ends" } else { "" };
    let dtype = if dtypes.is_empty() { "unknown type".into() } else { dtypes.join(" and ") };
    let files = plural(found.weights.len(), "file");
    let mut lines = vec![
        ("model", format!("{}{commit}", args.what)),
        ("family", config.model_type.clone()),
        ("parameters", format!("{} ({})", count(config.parameters()), config.parameters())),
        ("layers", config.num_layers.to_string()),
        (
            "heads",
            format!(
                "{}, and {} of keys and values, of {}",
                config.num_heads, config.num_kv_heads, config.head_dim
            ),
        ),
        ("widths", format!("{} hidden, {} in the MLP", config.hidden_size, config.intermediate_size)),
        ("context", format!("{} tokens", config.max_positions)),
        ("vocabulary", format!("{} tokens{tied}", config.vocab_size)),
        ("weights", format!("{dtype}, {} in {files}", bytes(total as usize))),
        (
            "tokenizer",
            if tokenizer.is_some() { "yes" } else { "none: only records with `tokens` work" }.into(),
        ),
        ("chat template", if has_template { "yes" } else { "none: no `messages` and no debates" }.into()),
    ];
    if config.unties {
        lines.push(("lm_head", UNTIED.into()));
    }
    if !config.unknown_fields.is_empty() {
        lines.push(("not read", format!("{} of config.json", config.unknown_fields.join(", "))));
    }
    lines.push(("path", found.path.clone()));
    let mut page = facts(&lines);
    page.push_str(&format!(
        "\nmemory with {} of rank {}, sequences of {} tokens\n",
        plural(args.adapters, "adapter"),
        args.rank,
        plans.tokens()
    ));
    let header = [&["work"][..], &DEVICES].concat();
    let rows: Vec<Vec<String>> = memory.iter().map(Planned::row).collect();
    page.push_str(&report::table(&header, &rows));
    page.push_str(&format!(
        "Training counts on {BESIDE_TRAINING} sequences sampled beside it. --memory lowers all of it.\n"
    ));
    notes.iter().for_each(|note| page.push_str(&format!("{note}\n")));
    Ok(Some(Said { json, text: page }))
}

/// The element type that config.json declares.
fn declared(files: &ModelFiles) -> Option<String> {
    let config: Value = serde_json::from_slice(files.config()).ok()?;
    let name = config.get("dtype").or_else(|| config.get("torch_dtype"))?.as_str()?;
    let known = [("float32", "f32"), ("float16", "f16"), ("bfloat16", "bf16")];
    Some(known.iter().find(|(long, _)| *long == name).map_or(name, |(_, short)| short).to_string())
}

/// A kind of work and how much of it at once.
#[derive(Clone, Copy)]
enum Work {
    Sampling(usize),
    Training(usize),
}

/// Bytes on each device; none where the model does not run there.
struct Planned {
    work: Work,
    bytes: [Option<usize>; DEVICES.len()],
}

impl Planned {
    fn json(&self) -> Value {
        let mut json = match self.work {
            Work::Sampling(n) => json!({"work": "sampling", "sequences": n}),
            Work::Training(rows) => {
                json!({"work": "training", "micro_batch_rows": rows, "sequences": BESIDE_TRAINING})
            }
        };
        let by_device = DEVICES.iter().zip(self.bytes).map(|(d, b)| (d.to_string(), json!(b)));
        json["bytes"] = Value::Object(by_device.collect());
        json
    }

    fn row(&self) -> Vec<String> {
        let work = match self.work {
            Work::Sampling(n) => format!("sampling, {} at once", plural(n, "sequence")),
            Work::Training(rows) => format!("training, micro-batches of {rows} rows"),
        };
        let sizes = self.bytes.iter().map(|b| b.map_or("–".into(), bytes));
        [work].into_iter().chain(sizes).collect()
    }
}

/// What is planned for.
struct Plans<'a> {
    args: &'a Args,
    config: &'a ModelConfig,
    program: usize,
}

impl Plans<'_> {
    fn tokens(&self) -> usize {
        self.args.tokens.min(self.config.max_positions)
    }

    fn options(&self, work: Work) -> EngineOptions {
        let defaults = RunSection::default();
        let (sequences, micro_batch_rows, training) = match work {
            Work::Sampling(n) => (n, defaults.micro_batch_rows, false),
            Work::Training(rows) => (BESIDE_TRAINING, rows, true),
        };
        let options = EngineOptions::default();
        EngineOptions {
            max_rows: defaults.step_rows.max(sequences),
            max_sequences: sequences,
            micro_batch_rows,
            longest: self.tokens(),
            kv: KvBudget::Pages(sequences * self.tokens().div_ceil(options.page_tokens)),
            adapters: self.args.adapters,
            max_rank: self.args.rank,
            training,
            checkpoint_copies: usize::from(training),
            program_bytes: self.program,
            ..options
        }
    }

    /// All plans, and what is to be said of devices where there is none.
    fn make(&self, path: &str, stored: WeightType) -> Result<(Vec<Planned>, Vec<String>)> {
        let work: Vec<Work> =
            SEQUENCES.map(Work::Sampling).into_iter().chain(MICRO_BATCHES.map(Work::Training)).collect();
        let mut planned: Vec<Planned> =
            work.iter().map(|&work| Planned { work, bytes: [None; DEVICES.len()] }).collect();
        let mut notes = Vec::new();
        for training in [false, true] {
            let files = ModelFiles::without_weights(path, stored)?;
            let load = LoadOptions { training, max_positions: None };
            let mut fill = |device: usize, backend: &dyn Backend, model: &Model| -> Result<()> {
                for p in planned.iter_mut().filter(|p| matches!(p.work, Work::Training(_)) == training) {
                    let plan = MemoryPlan::new(backend, model, &self.options(p.work))?;
                    p.bytes[device] = Some(plan.total());
                }
                Ok(())
            };
            let mut cpu = CpuBackend::new(0)?.counting();
            let model = Model::load(&files, self.config.clone(), &mut cpu, load)?;
            fill(0, &cpu, &model)?;
            // The weights are the same.
            let cpu = cpu.with_bf16_adapters().with_bf16_kv();
            fill(1, &cpu, &model)?;
            // On a GPU all weights are bf16.
            let files = ModelFiles::without_weights(path, WeightType::Bf16)?;
            let mut cuda = CudaBackend::counting(MULTIPROCESSORS);
            match Model::load(&files, self.config.clone(), &mut cuda, load) {
                Ok(model) => fill(2, &cuda, &model)?,
                Err(e) if notes.is_empty() => notes.push(format!("cuda: {e}")),
                Err(_) => {}
            }
        }
        Ok((planned, notes))
    }
}
