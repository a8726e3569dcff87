//! adapter_config.json: what PEFT writes into it, read by PEFT's rules. A field that would change
//! what the adapter computes and that is not supported is an error that names it.

use std::path::Path;

use serde_json::Value;

use super::init::scale;
use super::targets::{Layers, MAX_PATTERNS, Names, Pattern, Targets};
use crate::backend::{AdapterLayout, MAX_RANK, PartSpec, SlotSpec};
use crate::error::{Error, Result};
use crate::files::json::{Fields, brief, parse_object};
use crate::files::{Bytes, names_in, written_out};

pub(super) const CONFIG: &str = ADAPTER_CONFIG;

/// The file that makes a folder one of an adapter.
pub const ADAPTER_CONFIG: &str = "adapter_config.json";

/// Fields of adapter_config.json that say nothing about the adapter's mathematics, whatever they hold.
const HARMLESS: [&str; 10] = [
    "auto_mapping",
    "eva_config",
    "ensure_weight_tying",
    "inference_mode",
    "init_lora_weights",
    "megatron_core",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
];

/// Fields that are read.
const READ: [&str; 14] = [
    "peft_type",
    "task_type",
    "bias",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
];

/// Fields that turn something on that is not supported, and what that is. Any other unknown field
/// is refused too, while it holds more than null, false or nothing.
const UNSUPPORTED: [(&str, &str); 9] = [
    ("use_dora", "DoRA"),
    ("modules_to_save", "a module trained whole"),
    ("lora_bias", "a bias in lora_B"),
    ("trainable_token_indices", "training of single token embeddings"),
    ("target_parameters", "LoRA on parameters of other modules than linears"),
    ("layer_replication", "replication of layers"),
    ("fan_in_fan_out", "a transposed weight"),
    ("use_qalora", "QALoRA"),
    ("alora_invocation_tokens", "activated LoRA"),
];

/// Initialisations that leave the base model as it is; the others (`pissa`, `olora`, `loftq`, ...)
/// come with a changed base.
const PLAIN_INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// What an adapter_config.json says.
#[derive(Clone, Debug)]
pub struct PeftConfig {
    /// Names the file in errors.
    place: String,
    /// `base_model_name_or_path`: the model that the adapter was made for, if it says so.
    pub base: Option<String>,
    /// `revision`: of the model, where that is a repository of the hub.
    pub revision: Option<String>,
    /// `lora_dropout`, which matters to training alone.
    pub dropout: f64,
    /// The modules it changes.
    pub targets: Targets,
    /// `use_rslora`: scales are alpha / sqrt(rank).
    pub rslora: bool,
    rank: usize,
    alpha: f64,
    rank_pattern: Vec<(Pattern, f64)>,
    alpha_pattern: Vec<(Pattern, f64)>,
}

impl PeftConfig {
    /// Reads the one of a PEFT folder.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG);
        if !path.exists() {
            return Err(Error::file(&path, no_config(folder)));
        }
        Self::parse(&Bytes::open(&path)?, &path.display().to_string())
    }

    /// Reads its contents; `place` names it in errors.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Self> {
        let map = parse_object(bytes, place)?;
        let fields = Fields { place, prefix: "", map: &map };
        check_supported(&fields)?;
        Ok(Self {
            place: place.to_string(),
            base: fields.text("base_model_name_or_path")?.filter(|b| !b.is_empty()).map(String::from),
            revision: fields.get("revision").and_then(Value::as_str).map(String::from),
            dropout: dropout(&fields)?,
            targets: Targets {
                include: targets(&fields)?,
                exclude: excluded(&fields)?,
                layers: layers(&fields)?,
            },
            rank: fields.size("r")?,
            alpha: number(&fields, "lora_alpha")?,
            rslora: fields.flag("use_rslora", false)?,
            rank_pattern: patterns(&fields, "rank_pattern")?,
            alpha_pattern: patterns(&fields, "alpha_pattern")?,
        })
    }

    /// Names a field in errors.
    pub fn field(&self, field: &str) -> String {
        format!("{}, field {field}", self.place)
    }

    /// Ranks and scales for a model with this layout.
    pub fn spec(&self, layout: &AdapterLayout) -> Result<SlotSpec> {
        let wrong = |field: &str| {
            let place = self.field(field);
            move |problem: String| Error::input(place, problem)
        };
        let adapted = self.targets.of(layout).map_err(wrong("target_modules"))?;
        let mut parts = Vec::new();
        for ((_, _, _, part), adapted) in layout.parts().zip(adapted) {
            if !adapted {
                parts.push(None);
                continue;
            }
            let of_rank = first(&self.rank_pattern, &part.module).map_err(wrong("rank_pattern"))?;
            let (rank, field) = match of_rank {
                Some(rank) => (rank, "rank_pattern"),
                None => (self.rank as f64, "r"),
            };
            if rank.fract() != 0.0 || !(1.0..=MAX_RANK as f64).contains(&rank) {
                let problem = format!("found {rank}, expected a whole rank from 1 to {MAX_RANK}");
                return Err(wrong(field)(problem));
            }
            let (rank, alpha) = (rank as usize, self.alpha_of(&part.module)?);
            let scale = scale(alpha, rank, self.rslora);
            if !scale.is_finite() {
                let problem =
                    format!("found {alpha} for {}, expected one whose scale is a number in f32", part.module);
                return Err(wrong("lora_alpha")(problem));
            }
            parts.push(Some(PartSpec { rank, scale }));
        }
        Ok(SlotSpec { parts, dropout: self.dropout as f32 })
    }

    /// `lora_alpha` of a module, or what `alpha_pattern` gives it.
    pub fn alpha_of(&self, module: &str) -> Result<f64> {
        let found = first(&self.alpha_pattern, module)
            .map_err(|problem| Error::input(self.field("alpha_pattern"), problem))?;
        Ok(found.unwrap_or(self.alpha))
    }

    /// The name of the model this adapter was made for, if it gives one and none of `names`
    /// (folders or names of the model in use) ends in the same component. Folders move and are
    /// renamed, so this is a reason for a warning and no more; whether an adapter fits is for the
    /// shapes to say.
    pub fn other_base(&self, names: &[&str]) -> Option<&str> {
        let base = self.base.as_deref()?;
        (!names.iter().any(|name| last_component(name) == last_component(base))).then_some(base)
    }
}

/// Returns the error of a folder without adapter_config.json, with what may have been meant.
fn no_config(folder: &Path) -> String {
    const EXPECTED: &str = "expected the folder of a PEFT adapter";
    let inside = adapters_in(folder);
    if !inside.is_empty() {
        return format!("found no such file, {EXPECTED}; {}", holding(&inside));
    }
    match (folder.is_dir(), folder.join("config.json").exists()) {
        (false, _) => format!("found no folder {}, {EXPECTED}", folder.display()),
        (true, true) => format!("found no such file beside config.json of a model, {EXPECTED}"),
        (true, false) => format!("found no such file, {EXPECTED}"),
    }
}

/// Says which adapters are in a folder such as a trainer's output.
pub fn holding(adapters: &[String]) -> String {
    /// As many as an error names.
    const SHOWN: usize = 8;
    let more = adapters.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let shown = adapters[..adapters.len().min(SHOWN)].join(", ");
    format!("there are adapters in the folders {shown}{more} inside: give one of these")
}

/// Returns the folders inside `folder`, at most two levels down, that are adapters: for example
/// `checkpoint-10` and `checkpoint-10/critic`. Numbers in names are sorted by value.
pub fn adapters_in(folder: &Path) -> Vec<String> {
    /// Entries of a folder that are looked at.
    const MOST: usize = 1000;
    let folders = |of: &Path| -> Vec<String> {
        names_in(of).into_iter().take(MOST).filter(|name| of.join(name).is_dir()).collect()
    };
    let mut found = Vec::new();
    for outer in folders(folder) {
        let path = folder.join(&outer);
        let is_adapter = |path: &Path| path.join(CONFIG).is_file();
        let inner = folders(&path).into_iter().filter(|name| is_adapter(&path.join(name)));
        found.extend(inner.map(|inner| format!("{outer}/{inner}")));
        if is_adapter(&path) {
            found.push(outer);
        }
    }
    sort_naturally(&mut found);
    found
}

/// Sorts names, numbers in them by value: `checkpoint-9` before `checkpoint-10`.
pub fn sort_naturally(names: &mut [String]) {
    names.sort_by_cached_key(|name| {
        let mut key = String::new();
        let mut digits = String::new();
        for c in name.chars().chain(['\0']) {
            if c.is_ascii_digit() {
                digits.push(c);
                continue;
            }
            if !digits.is_empty() {
                key.push_str(&format!("{digits:0>20}"));
                digits.clear();
            }
            key.push(c);
        }
        key
    });
}

/// What the first pattern that matches gives.
fn first(patterns: &[(Pattern, f64)], module: &str) -> Result<Option<f64>, String> {
    for (pattern, value) in patterns {
        if pattern.matches(module)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// What a model is called, wherever it lies: the last component of a path or name, in small
/// letters; of a path into a cache of downloads (`models--ORGANISATION--NAME/snapshots/…`) the
/// model's name.
fn last_component(name: &str) -> String {
    let mut components = name.split(['/', '\\']).filter(|c| !c.is_empty());
    let cached = components.clone().find_map(|c| c.strip_prefix("models--")?.rsplit("--").next());
    cached.or_else(|| components.next_back()).unwrap_or_default().to_lowercase()
}

/// Refuses, by name, every feature that would change what the adapter computes. New PEFT features
/// are off while their field is null, false, or empty.
fn check_supported(fields: &Fields<'_>) -> Result<()> {
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
            let what = UNSUPPORTED.iter().find(|(f, _)| f == field).map_or("this feature", |(_, what)| what);
            return Err(fields.wrong(field, value, &format!("null or false: {what} is not supported")));
        }
    }
    Ok(())
}

/// `lora_dropout`, 0 where it is not given.
fn dropout(fields: &Fields<'_>) -> Result<f64> {
    const EXPECTED: &str = "a number from 0 on, below 1";
    match fields.get("lora_dropout") {
        None => Ok(0.0),
        Some(v) => v
            .as_f64()
            .filter(|&rate| rate >= 0.0 && (rate as f32) < 1.0)
            .ok_or_else(|| fields.wrong("lora_dropout", v, EXPECTED)),
    }
}

fn number(fields: &Fields<'_>, field: &str) -> Result<f64> {
    const EXPECTED: &str = "a finite number";
    match fields.get(field) {
        None => Err(Error::input(fields.name(field), format!("missing, expected {EXPECTED}"))),
        Some(v) => v.as_f64().ok_or_else(|| fields.wrong(field, v, EXPECTED)),
    }
}

/// `rank_pattern` or `alpha_pattern`: patterns of module names and what they give.
fn patterns(fields: &Fields<'_>, field: &str) -> Result<Vec<(Pattern, f64)>> {
    let Some(map) = fields.object(field)? else { return Ok(Vec::new()) };
    let mut compiled = 0;
    map.iter()
        .map(|(text, value)| {
            let place = || format!("{}.{text}", fields.name(field));
            let pattern = Pattern::ending(text).map_err(|problem| {
                Error::input(
                    place(),
                    format!("found a key of which {problem}, expected a pattern of module names"),
                )
            })?;
            compiled += pattern.weight();
            if compiled > MAX_PATTERNS {
                let problem = format!(
                    "found more than {MAX_PATTERNS} bytes of patterns, expected names of modules beyond that"
                );
                return Err(Error::input(fields.name(field), problem));
            }
            let number = value
                .as_f64()
                .ok_or_else(|| Error::input(place(), format!("found {}, expected a number", brief(value))))?;
            Ok((pattern, number))
        })
        .collect()
}

fn texts(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|v| v.as_str().map(String::from)).collect()
}

/// A string or a list of them.
fn names(fields: &Fields<'_>, field: &str, value: &Value, expected: &str) -> Result<Names> {
    match value {
        Value::String(text) => Names::from_text(text)
            .map_err(|problem| Error::input(fields.name(field), format!("{problem}, expected {expected}"))),
        list => texts(list).map(Names::List).ok_or_else(|| fields.wrong(field, list, expected)),
    }
}

fn targets(fields: &Fields<'_>) -> Result<Names> {
    const EXPECTED: &str = "a list of module names, a pattern of whole names, or \"all-linear\"";
    let field = "target_modules";
    match fields.get(field) {
        None => Err(Error::input(fields.name(field), format!("missing, expected {EXPECTED}"))),
        Some(value) => names(fields, field, value, EXPECTED),
    }
}

/// `exclude_modules`, in which `all-linear` means nothing; absent while it is empty.
fn excluded(fields: &Fields<'_>) -> Result<Option<Names>> {
    const EXPECTED: &str = "a list of module names or a pattern of whole names";
    let field = "exclude_modules";
    match fields.get(field) {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::Array(list)) if list.is_empty() => Ok(None),
        Some(value) => match names(fields, field, value, EXPECTED)? {
            Names::AllLinear => Err(fields.wrong(field, value, EXPECTED)),
            names => Ok(Some(names)),
        },
    }
}

/// `layers_to_transform`, a number or a list, and `layers_pattern`, a string or a list; PEFT wants
/// a list of targets with either.
fn layers(fields: &Fields<'_>) -> Result<Option<Layers>> {
    let (indices, pattern) = ("layers_to_transform", "layers_pattern");
    if let Some(Value::String(text)) = fields.get("target_modules")
        && let Some((field, value)) = [indices, pattern].iter().find_map(|f| Some((f, fields.get(f)?)))
    {
        return Err(fields.wrong(
            field,
            value,
            &format!("null beside target_modules = {text:?}, which is no list"),
        ));
    }
    let of_list = |field: &str, value: &'_ Value, expected: &str| -> Result<Vec<Value>> {
        match value {
            Value::Array(list) => Ok(list.clone()),
            Value::Number(_) | Value::String(_) => Ok(vec![value.clone()]),
            other => Err(fields.wrong(field, other, expected)),
        }
    };
    const INDICES: &str = "the number of a layer or a list of them";
    let numbers = match fields.get(indices) {
        None => None,
        Some(value) => {
            let list = of_list(indices, value, INDICES)?;
            let list = list.iter().map(Value::as_i64).collect::<Option<Vec<i64>>>();
            Some(list.ok_or_else(|| fields.wrong(indices, value, INDICES))?)
        }
    };
    const PATTERN: &str = "the name of what holds the layers or a list of them";
    let mut texts = Vec::new();
    if let Some(value) = fields.get(pattern) {
        let list = of_list(pattern, value, PATTERN)?;
        if list
            .iter()
            .filter_map(Value::as_str)
            .map(|text| written_out(text).saturating_add(1))
            .fold(0, usize::saturating_add)
            > MAX_PATTERNS
        {
            return Err(fields.wrong(pattern, value, &format!("at most {MAX_PATTERNS} bytes of patterns")));
        }
        for text in list {
            let text = text.as_str().ok_or_else(|| fields.wrong(pattern, value, PATTERN))?;
            texts.push(text.to_string());
        }
    }
    // An empty string is no pattern, unless a list says so.
    let none = fields.get(pattern).is_none_or(|v| v.as_str() == Some("")) || texts.is_empty();
    let Some(indices) = numbers else {
        return match none {
            true => Ok(None),
            false => Err(Error::input(
                fields.name(pattern),
                format!("found {texts:?}, expected null where {indices} is null"),
            )),
        };
    };
    if indices.is_empty() {
        return Ok(None);
    }
    let found = match none {
        true => Pattern::any_layer().map(|p| vec![p]),
        false => texts.iter().map(|t| Pattern::layer(t)).collect(),
    };
    let patterns = found
        .map_err(|problem| Error::input(fields.name(pattern), format!("{problem}, expected {PATTERN}")))?;
    Ok(Some(Layers { indices, patterns }))
}
