//! PEFT folders in and out: adapter_config.json and adapter_model.safetensors, and for checkpoints
//! optimizer.safetensors beside them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::{CONFIG, PeftConfig};
use super::init::scale;
use super::targets::{ENDS, suffix};
use super::{Matrices, MatrixInfo, Moments, Snapshot, matrices, suffixes};
use crate::backend::{AdapterLayout, LoraMatrix, PartSpec, SlotSpec, WeightView};
use crate::error::{Error, Result};
use crate::files::{TensorFile, safetensors_bytes, same_values, sync_folder, write_whole};

pub(super) const WEIGHTS: &str = ADAPTER_WEIGHTS;

/// The file of an adapter's matrices.
pub const ADAPTER_WEIGHTS: &str = "adapter_model.safetensors";
pub(super) const OPTIMIZER: &str = "optimizer.safetensors";

/// What PEFT puts before the name of a module of the model.
const WRAPPER: &str = "base_model.model.";

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

/// The embedding and the lm_head of a base. A PEFT folder may hold copies of them beside the
/// adapter's matrices.
pub trait BaseWeights {
    /// The matrix of `model.embed_tokens` or of `lm_head`, if the base has it.
    fn matrix(&self, module: &str) -> Result<Option<WeightView<'_>>>;
    /// Gives back the memory that reading it took.
    fn release(&self);
}

/// A base of which nothing is known.
pub struct NoBase;

impl BaseWeights for NoBase {
    fn matrix(&self, _module: &str) -> Result<Option<WeightView<'_>>> {
        Ok(None)
    }
    fn release(&self) {}
}

/// Reads a PEFT folder for a model with this layout. Refuses copies of the embedding or the
/// lm_head in it, as there is nothing to compare them with; see [`read_peft_on`].
pub fn read_peft(folder: &Path, layout: &AdapterLayout) -> Result<Snapshot> {
    read_peft_on(folder, layout, &NoBase)
}

/// Reads a PEFT folder for a model with this layout and these weights.
///
/// PEFT saves the embedding and the lm_head too where it thinks that the vocabulary was resized
/// (`save_embedding_layers`). Passes over such a copy if all its numbers are the base's, and
/// refuses any other.
pub fn read_peft_on(folder: &Path, layout: &AdapterLayout, base: &dyn BaseWeights) -> Result<Snapshot> {
    let config = PeftConfig::read(folder)?;
    let spec = config.spec(layout)?;
    let path = folder.join(WEIGHTS);
    if !path.exists() && folder.join("adapter_model.bin").exists() {
        return Err(Error::file(folder, format!("found adapter_model.bin, expected {WEIGHTS}")));
    }
    let file = TensorFile::open(&path)?;
    let weights = check_copies(&file, base).and_then(|()| read_matrices(&file, &spec, layout, &[""]));
    let weights = weights.map_err(|e| match (e, &config.base) {
        // What does not fit most often belongs to another model.
        (Error::Input { place, problem }, Some(base)) => {
            Error::input(place, format!("{problem} (the adapter was made for {base})"))
        }
        (e, _) => e,
    })?;
    Ok(Snapshot { spec, weights: weights.into_iter().next().unwrap_or_default(), moments: None })
}

/// Returns the module that a tensor of a PEFT file is a copy of: `model.embed_tokens` or `lm_head`.
pub(super) fn copied_module(name: &str) -> Option<&'static str> {
    let module = name.strip_prefix(WRAPPER).unwrap_or(name).strip_suffix(".weight")?;
    ENDS.into_iter().find(|name| *name == module)
}

/// Checks that copies of the embedding and the lm_head have the base's numbers.
fn check_copies(file: &TensorFile, base: &dyn BaseWeights) -> Result<()> {
    for name in file.names() {
        let Some(module) = copied_module(name) else { continue };
        let wrong = |problem: String| {
            let meaning =
                "PEFT would put this matrix in the place of the base's, which all adapters here share";
            Err(Error::input(format!("{}, tensor {name}", file.place()), format!("{problem}: {meaning}")))
        };
        let Some(own) = base.matrix(module)? else {
            return wrong(format!(
                "found a copy of {module}, which this base cannot be compared with, expected none"
            ));
        };
        let shape = [own.rows, own.cols];
        if file.shape(name) != Some(shape.as_slice()) {
            let found = file.shape(name).unwrap_or_default();
            return wrong(format!("found shape {found:?}, expected that of the base's {module}, {shape:?}"));
        }
        let pause = || {
            base.release();
            file.release();
        };
        if !same_values(file.view(name, &shape)?, own, pause) {
            return wrong(format!("found other numbers than the base's {module} has, expected the same"));
        }
    }
    Ok(())
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

/// Writes a PEFT folder, and optimizer.safetensors where the snapshot has moments. `base` is named
/// in it.
///
/// A new folder appears whole or not at all. In one that exists each file is replaced whole and
/// files of other names stay. The same snapshot gives the same bytes.
pub fn write_peft(
    folder: &Path,
    snapshot: &Snapshot,
    layout: &AdapterLayout,
    base: impl Into<Base>,
) -> Result<()> {
    let files = peft_files(snapshot, layout, base)?;
    let write = |folder: &Path| -> Result<()> {
        if snapshot.moments.is_none() {
            remove_stale(&folder.join(OPTIMIZER))?;
        }
        files.iter().try_for_each(|(name, bytes)| write_whole(&folder.join(name), bytes))
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

/// The files that [`write_peft`] writes: names and contents.
pub fn peft_files(
    snapshot: &Snapshot,
    layout: &AdapterLayout,
    base: impl Into<Base>,
) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let mut files = Vec::new();
    if let Some(m) = &snapshot.moments {
        let moments = [("exp_avg.", &m.first), ("exp_avg_sq.", &m.second)];
        let steps = ("steps", m.steps.to_string());
        files.push((OPTIMIZER, tensor_bytes(snapshot, layout, &moments, steps)?));
    }
    let weights = tensor_bytes(snapshot, layout, &[("", &snapshot.weights)], ("format", "pt".into()))?;
    files.push((WEIGHTS, weights));
    // Last: a folder with a configuration is complete.
    files.push((CONFIG, config_json(&snapshot.spec, layout, base.into())?.into_bytes()));
    Ok(files)
}

fn remove_stale(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path)(e)),
        _ => Ok(()),
    }
}

// ---- adapter_config.json ----

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
        "lora_dropout": decimal(spec.dropout),
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

/// The shortest decimal number that is this one in f32.
fn decimal(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
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
    format!("{WRAPPER}{}.{matrix}.weight", m.module)
}

/// The name PEFT writes for what a file calls `name`: old files lack the wrapper's prefix, and one
/// that was saved as it lay in memory has the name of the adapter, `default`, in it.
fn plain_name(prefix: &str, name: &str) -> String {
    let Some(rest) = name.strip_prefix(prefix) else { return name.to_string() };
    let module = rest.strip_prefix(WRAPPER).unwrap_or(rest);
    let module = match module.strip_suffix(".default.weight") {
        Some(start) if start.ends_with(".lora_A") || start.ends_with(".lora_B") => format!("{start}.weight"),
        _ => module.to_string(),
    };
    format!("{prefix}{WRAPPER}{module}")
}

/// All matrices under each prefix; a tensor that belongs to none is an error.
fn read_matrices(
    file: &TensorFile,
    spec: &SlotSpec,
    layout: &AdapterLayout,
    prefixes: &[&str],
) -> Result<Vec<Matrices>> {
    let mut unread: BTreeMap<String, &str> = BTreeMap::new();
    // Copies of the embedding and the lm_head have a check of their own.
    for name in file.names().filter(|name| copied_module(name).is_none()) {
        let prefix = prefixes.iter().find(|p| name.starts_with(**p)).unwrap_or(&"");
        if let Some(other) = unread.insert(plain_name(prefix, name), name) {
            let problem = format!("found it a second time as {other}, expected each matrix once");
            return Err(Error::input(format!("{}, tensor {name}", file.place()), problem));
        }
    }
    let mut all = Vec::new();
    for prefix in prefixes {
        let mut list = Vec::new();
        for m in matrices(spec, layout) {
            let name = format!("{prefix}{}", tensor_name(&m));
            let stored = unread.remove(&name);
            list.push((m.part, m.matrix, file.values(stored.unwrap_or(&name), &m.shape)?));
        }
        all.push(list);
    }
    match unread.values().next() {
        Some(name) => Err(Error::input(
            format!("{}, tensor {name}", file.place()),
            format!(
                "found a tensor that {CONFIG} does not name or that this model has no place for, expected none"
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
