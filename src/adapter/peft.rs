//! PEFT folders in and out: adapter_config.json and adapter_model.safetensors, and for checkpoints optimizer.safetensors beside them.

use std::collections::BTreeMap;
use std::path::Path;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::init::scale;
use super::targets::suffix;
use super::{Matrices, MatrixInfo, Moments, Snapshot, Targets, matrices, suffixes};
use crate::backend::{AdapterLayout, LoraMatrix, MAX_RANK, PartSpec, SlotSpec};
use crate::error::{Error, Result};
use crate::files::json::{Fields, brief, parse_object};
use crate::files::{Bytes, TensorFile, safetensors_bytes, sync_folder, write_whole};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";

/// Fields of adapter_config.json that say nothing about the adapter's mathematics, whatever they hold.
const HARMLESS: [&str; 12] = [
    "auto_mapping",
    "base_model_name_or_path",
    "eva_config",
    "ensure_weight_tying",
    "inference_mode",
    "init_lora_weights",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "layers_pattern",
    "runtime_config",
];

/// Fields that are read.
const READ: [&str; 10] = [
    "peft_type",
    "task_type",
    "bias",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "rank_pattern",
    "alpha_pattern",
];

/// Initialisations that leave the base model as it is; the others (`pissa`, `olora`, `loftq`, ...) come with a changed base.
const PLAIN_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The model that an adapter is for, as its adapter_config.json names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// `base_model_name_or_path`: a folder, or a repository of the hub.
    pub name: String,
    /// `revision`: of the repository.
    pub revision: Option<String>,
}

impl From<&str> for Base {
    fn from(name: &str) -> Self {
        Self { name: name.into(), revision: None }
    }
}

/// Reads a PEFT folder for a model with this layout.
pub fn read_peft(folder: &Path, layout: &AdapterLayout) -> Result<Snapshot> {
    let path = folder.join(CONFIG);
    let bytes = Bytes::open(&path)?;
    let place = path.display().to_string();
    let spec = read_config(&bytes, &place, layout)?;

    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        return Err(Error::file(folder, format!("found adapter_model.bin, expected {WEIGHTS}")));
    }
    let file = TensorFile::open(&path)?;
    let weights = read_matrices(&file, &spec, layout, &[""])?.remove(0);
    Ok(Snapshot { spec, weights, moments: None })
}

/// Refuses a PEFT folder whose adapter is to be trained with dropout: training has none, and leaving it out in silence would give another
/// adapter than PEFT's. What an adapter computes does not depend on it, so [`read_peft`] takes any rate.
pub fn check_trainable(folder: &Path) -> Result<()> {
    let path = folder.join(CONFIG);
    let bytes = Bytes::open(&path)?;
    let place = path.display().to_string();
    let map = parse_object(&bytes, &place)?;
    let fields = Fields { place: &place, prefix: "", map: &map };
    match dropout(&fields)? {
        0.0 => Ok(()),
        rate => Err(Error::input(
            fields.name("lora_dropout"),
            format!("found {rate}, expected 0: training has no dropout; set it to 0 to train without"),
        )),
    }
}

/// Reads a PEFT folder together with the optimizer's state, if [`write_peft`] put one there.
pub fn read_checkpoint(folder: &Path, layout: &AdapterLayout) -> Result<Snapshot> {
    let mut snapshot = read_peft(folder, layout)?;
    let path = folder.join(OPTIMIZER);
    if path.exists() {
        let file = TensorFile::open(&path)?;
        let steps = file.metadata("steps");
        let steps = steps.and_then(|s| s.parse().ok()).ok_or_else(|| {
            Error::file(&path, format!("metadata steps: found {steps:?}, expected a number of steps"))
        })?;
        let mut moments = read_matrices(&file, &snapshot.spec, layout, &["exp_avg.", "exp_avg_sq."])?;
        let second = moments.remove(1);
        snapshot.moments = Some(Moments { steps, first: moments.remove(0), second });
    }
    Ok(snapshot)
}

/// Writes a PEFT folder, and optimizer.safetensors where the snapshot has moments. `base` is named in it.
///
/// A new folder appears whole or not at all. In one that exists each file is replaced whole and files of other names stay. The same
/// snapshot gives the same bytes.
pub fn write_peft(
    folder: &Path,
    snapshot: &Snapshot,
    layout: &AdapterLayout,
    base: impl Into<Base>,
) -> Result<()> {
    let config = config_json(&snapshot.spec, layout, base.into())?;
    let weights = tensor_bytes(snapshot, layout, &[("", &snapshot.weights)], ("format", "pt".into()))?;
    let optimizer = match &snapshot.moments {
        None => None,
        Some(m) => {
            let moments = [("exp_avg.", &m.first), ("exp_avg_sq.", &m.second)];
            Some(tensor_bytes(snapshot, layout, &moments, ("steps", m.steps.to_string()))?)
        }
    };
    let write = |folder: &Path| -> Result<()> {
        match &optimizer {
            Some(bytes) => write_whole(&folder.join(OPTIMIZER), bytes)?,
            None => remove_stale(&folder.join(OPTIMIZER))?,
        }
        write_whole(&folder.join(WEIGHTS), &weights)?;
        write_whole(&folder.join(CONFIG), config.as_bytes())
    };
    if folder.exists() {
        return write(folder);
    }
    let Some(name) = folder.file_name() else {
        return Err(Error::file(folder, "found no folder name, expected one for the adapter"));
    };
    let parent = folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    let mut temporary = name.to_os_string();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = parent.join(temporary);
    let written = std::fs::create_dir_all(&temporary)
        .map_err(Error::io(&temporary))
        .and_then(|()| write(&temporary))
        .and_then(|()| std::fs::rename(&temporary, folder).map_err(Error::io(folder)));
    if written.is_err() {
        let _ = std::fs::remove_dir_all(&temporary);
    }
    written?;
    sync_folder(parent);
    Ok(())
}

fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

// ---- adapter_config.json ----

fn read_config(bytes: &[u8], place: &str, layout: &AdapterLayout) -> Result<SlotSpec> {
    let map = parse_object(bytes, place)?;
    let fields = Fields { place, prefix: "", map: &map };
    check_supported(&fields)?;

    let rank = fields.size("r")?;
    let alpha = number(&fields, "lora_alpha")?;
    dropout(&fields)?;
    let rslora = fields.flag("use_rslora", false)?;
    let rank_pattern = patterns(&fields, "rank_pattern")?;
    let alpha_pattern = patterns(&fields, "alpha_pattern")?;
    let targets = read_targets(&fields)?;
    targets.check(layout).map_err(|problem| Error::input(fields.name("target_modules"), problem))?;

    let mut parts = Vec::new();
    for (_, _, _, part) in layout.parts() {
        if !targets.contain(&part.module) {
            parts.push(None);
            continue;
        }
        let pattern = |patterns: &[(Regex, f64)]| {
            patterns.iter().find(|(p, _)| p.is_match(&part.module)).map(|&(_, value)| value)
        };
        let (rank, field) = match pattern(&rank_pattern) {
            Some(rank) => (rank, "rank_pattern"),
            None => (rank as f64, "r"),
        };
        if rank.fract() != 0.0 || !(1.0..=MAX_RANK as f64).contains(&rank) {
            return Err(Error::input(
                fields.name(field),
                format!("found {rank}, expected a whole rank from 1 to {MAX_RANK}"),
            ));
        }
        let alpha = pattern(&alpha_pattern).unwrap_or(alpha);
        let rank = rank as usize;
        parts.push(Some(PartSpec { rank, scale: scale(alpha, rank, rslora) }));
    }
    Ok(SlotSpec { parts })
}

/// Refuses, by name, every feature that would change what the adapter computes. New PEFT features are off while their field is null, false,
/// or empty.
pub(super) fn check_supported(fields: &Fields<'_>) -> Result<()> {
    match fields.text("peft_type")? {
        Some("LORA") => {}
        None => return Err(Error::input(fields.name("peft_type"), "missing, expected \"LORA\"")),
        Some(other) => return Err(fields.wrong("peft_type", &other.into(), "\"LORA\"")),
    }
    if let Some(task) = fields.text("task_type")?.filter(|t| *t != "CAUSAL_LM") {
        return Err(fields.wrong("task_type", &task.into(), "\"CAUSAL_LM\""));
    }
    if let Some(bias) = fields.text("bias")?.filter(|b| *b != "none") {
        return Err(fields.wrong("bias", &bias.into(), "\"none\": trained biases are not supported"));
    }
    match fields.get("init_lora_weights") {
        None | Some(Value::Bool(_)) => {}
        Some(Value::String(s)) if PLAIN_INITS.contains(&s.as_str()) => {}
        Some(v) => {
            let expected =
                "true, false, \"gaussian\", \"eva\" or \"orthogonal\": others change the base model";
            return Err(fields.wrong("init_lora_weights", v, expected));
        }
    }
    for (field, value) in fields.map {
        let off = match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(a) => a.is_empty(),
            Value::Object(o) => o.is_empty(),
            Value::String(s) => s.is_empty(),
            _ => false,
        };
        if !off && !HARMLESS.contains(&field.as_str()) && !READ.contains(&field.as_str()) {
            return Err(fields.wrong(field, value, "null or false: this feature is not supported"));
        }
    }
    Ok(())
}

/// `lora_dropout`, 0 where it is not given.
pub(super) fn dropout(fields: &Fields<'_>) -> Result<f64> {
    const EXPECTED: &str = "a number from 0 to 1";
    match fields.get("lora_dropout") {
        None => Ok(0.0),
        Some(v) => v
            .as_f64()
            .filter(|rate| (0.0..=1.0).contains(rate))
            .ok_or_else(|| fields.wrong("lora_dropout", v, EXPECTED)),
    }
}

pub(super) fn number(fields: &Fields<'_>, field: &str) -> Result<f64> {
    const EXPECTED: &str = "a finite number";
    match fields.get(field) {
        None => Err(Error::input(fields.name(field), format!("missing, expected {EXPECTED}"))),
        Some(v) => v.as_f64().ok_or_else(|| fields.wrong(field, v, EXPECTED)),
    }
}

/// `rank_pattern` or `alpha_pattern`: patterns of module names, the first that matches counts.
pub(super) fn patterns(fields: &Fields<'_>, field: &str) -> Result<Vec<(Regex, f64)>> {
    let Some(map) = fields.object(field)? else { return Ok(Vec::new()) };
    map.iter()
        .map(|(pattern, value)| {
            let wrong = |expected: &str| {
                Error::input(
                    format!("{}.{pattern}", fields.name(field)),
                    format!("found {}, expected {expected}", brief(value)),
                )
            };
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$"))
                .map_err(|_| wrong("a pattern of module names as its key"))?;
            Ok((regex, value.as_f64().ok_or_else(|| wrong("a number"))?))
        })
        .collect()
}

fn read_targets(fields: &Fields<'_>) -> Result<Targets> {
    const EXPECTED: &str = "a list of module names, a pattern, or \"all-linear\"";
    match fields.get("target_modules") {
        None => Err(Error::input(fields.name("target_modules"), format!("missing, expected {EXPECTED}"))),
        Some(Value::String(s)) if s == "all-linear" => Ok(Targets::AllLinear),
        Some(v @ Value::String(s)) => Regex::new(&format!("^(?:{s})$"))
            .map(Targets::Pattern)
            .map_err(|_| fields.wrong("target_modules", v, EXPECTED)),
        Some(v) => v
            .as_array()
            .and_then(|list| list.iter().map(|v| v.as_str().map(String::from)).collect::<Option<Vec<_>>>())
            .map(Targets::Suffixes)
            .ok_or_else(|| fields.wrong("target_modules", v, EXPECTED)),
    }
}

/// The adapter_config.json of a shape, its fields sorted as PEFT sorts them.
fn config_json(spec: &SlotSpec, layout: &AdapterLayout, base: Base) -> Result<String> {
    let adapted: Vec<(&str, PartSpec)> = layout
        .parts()
        .filter_map(|(part, _, _, p)| {
            Some((p.module.as_str(), spec.parts.get(part.0 as usize).copied().flatten()?))
        })
        .collect();
    let Some(&(_, first)) = adapted.first() else {
        return Err(Error::Internal("an adapter without parts has no PEFT form".into()));
    };

    // A snapshot knows scales; alpha follows from them, as a whole number where one gives the same scale.
    let whole = |rslora| adapted.iter().all(|(_, p)| alpha(*p, rslora).fract() == 0.0);
    let rslora = !whole(false) && whole(true);
    let mut rank_pattern = Map::new();
    let mut alpha_pattern = Map::new();
    for &(module, part) in &adapted {
        if part.rank != first.rank {
            rank_pattern.insert(module.into(), part.rank.into());
        }
        if alpha(part, rslora) != alpha(first, rslora) {
            alpha_pattern.insert(module.into(), plain(alpha(part, rslora)));
        }
    }

    // Suffixes where they name exactly the adapted modules, whole names otherwise.
    let is_adapted = |module: &str| adapted.iter().any(|(m, _)| *m == module);
    let mut targets: Vec<&str> =
        suffixes(layout).into_iter().filter(|s| adapted.iter().any(|(m, _)| suffix(m) == *s)).collect();
    if !layout.parts().all(|(_, _, _, p)| is_adapted(&p.module) || !targets.contains(&suffix(&p.module))) {
        targets = adapted.iter().map(|(m, _)| *m).collect();
    }
    targets.sort_unstable();

    let config = json!({
        "alpha_pattern": alpha_pattern,
        "auto_mapping": null,
        "base_model_name_or_path": base.name,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "init_lora_weights": true,
        "layer_replication": null,
        "layers_pattern": null,
        "layers_to_transform": null,
        "lora_alpha": plain(alpha(first, rslora)),
        "lora_bias": false,
        "lora_dropout": 0.0,
        "modules_to_save": null,
        "peft_type": "LORA",
        "r": first.rank,
        "rank_pattern": rank_pattern,
        "revision": base.revision,
        "target_modules": targets,
        "task_type": "CAUSAL_LM",
        "use_dora": false,
        "use_rslora": rslora,
    });
    let text = serde_json::to_string_pretty(&config).map_err(|e| Error::Internal(e.to_string()))?;
    Ok(text + "\n")
}

/// The alpha that gives a part's scale: a whole number if there is one.
fn alpha(part: PartSpec, rslora: bool) -> f64 {
    let factor = if rslora { (part.rank as f64).sqrt() } else { part.rank as f64 };
    let exact = f64::from(part.scale) * factor;
    let rounded = exact.round();
    if scale(rounded, part.rank, rslora) == part.scale { rounded } else { exact }
}

/// A number as JSON, without a fraction where it has none.
fn plain(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { Value::from(x as i64) } else { Value::from(x) }
}

// ---- tensors ----

/// PEFT's name of a matrix.
fn tensor_name(m: &MatrixInfo<'_>) -> String {
    let matrix = match m.matrix {
        LoraMatrix::A => "lora_A",
        LoraMatrix::B => "lora_B",
    };
    format!("base_model.model.{}.{matrix}.weight", m.module)
}

/// All matrices under each prefix; a tensor that belongs to none is an error.
fn read_matrices(
    file: &TensorFile,
    spec: &SlotSpec,
    layout: &AdapterLayout,
    prefixes: &[&str],
) -> Result<Vec<Matrices>> {
    let mut known = std::collections::BTreeSet::new();
    let mut all = Vec::new();
    for prefix in prefixes {
        let mut list = Vec::new();
        for m in matrices(spec, layout) {
            let name = format!("{prefix}{}", tensor_name(&m));
            list.push((m.part, m.matrix, file.values(&name, &m.shape)?));
            known.insert(name);
        }
        all.push(list);
    }
    match file.names().find(|name| !known.contains(*name)) {
        Some(name) => Err(Error::input(
            format!("{}, tensor {name}", file.place()),
            format!(
                "found a tensor that target_modules of {CONFIG} does not name, or that this model cannot use"
            ),
        )),
        None => Ok(all),
    }
}

/// A safetensors file of lists laid out as the snapshot's weights, each under its prefix.
fn tensor_bytes(
    snapshot: &Snapshot,
    layout: &AdapterLayout,
    lists: &[(&str, &Matrices)],
    metadata: (&str, String),
) -> Result<Vec<u8>> {
    let mut tensors = BTreeMap::new();
    for (prefix, list) in lists {
        let expected: Vec<MatrixInfo<'_>> = matrices(&snapshot.spec, layout).collect();
        let fits = expected.len() == list.len()
            && expected.iter().zip(list.iter()).all(|(m, (part, matrix, values))| {
                (m.part, m.matrix) == (*part, *matrix) && m.shape[0] * m.shape[1] == values.len()
            });
        if !fits {
            return Err(Error::Internal("a snapshot whose matrices do not fit its shape".into()));
        }
        for (m, (_, _, values)) in expected.iter().zip(list.iter()) {
            tensors.insert(format!("{prefix}{}", tensor_name(m)), (m.shape.to_vec(), values.as_slice()));
        }
    }
    safetensors_bytes(&tensors, metadata)
}
