//! The files of a model: a Hugging Face folder, or the model that is compiled into the program.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use crate::adapter::{ADAPTER_CONFIG, BaseWeights};
use crate::backend::{Noise, WeightType, WeightView, mix};
use crate::error::{Error, Result};
use crate::files::{Bytes, TensorFile, same_values, without_mark};

/// Everything a model consists of, mapped and with checked safetensors headers; nothing is read yet.
pub struct ModelFiles {
    place: String,
    folder: Option<PathBuf>,
    texts: BTreeMap<&'static str, Bytes>,
    shards: Vec<TensorFile>,
    shard_of: BTreeMap<String, usize>,
    synthetic: Option<Synthetic>,
}

/// The matrices of a [`Synthetic`] model.
pub(super) enum Matrices {
    /// Noise up to this magnitude.
    Noise(f32),
    /// Shapes, and the type that their elements have in the files.
    Shapes(WeightType),
}

/// What stands for the weights of a model that exists for measurements only.
pub(super) struct Synthetic {
    /// What matrices are.
    pub matrices: Matrices,
    /// bf16 ones, for the weights of norms: as many as the longest has.
    pub ones: Vec<u8>,
}

impl Synthetic {
    /// Every matrix of noise is one of its own.
    fn tensor(&self, name: &str, shape: &[usize]) -> WeightView<'_> {
        match *shape {
            [rows, cols] => {
                let seed = name.bytes().fold(0, |h, b| mix(h ^ u64::from(b)));
                let dtype = match self.matrices {
                    Matrices::Noise(scale) => WeightType::Noise(Noise { seed, scale }),
                    Matrices::Shapes(dtype) => dtype,
                };
                WeightView { bytes: &[], dtype, rows, cols }
            }
            _ => {
                let cols = shape.iter().product();
                WeightView { bytes: &self.ones[..2 * cols], dtype: WeightType::Bf16, rows: 1, cols }
            }
        }
    }
}

/// The file that must be there.
pub const CONFIG: &str = "config.json";
/// The files beside the weights that we read, where there are any.
pub const TEXTS: [&str; 7] = [
    CONFIG,
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
];
/// The name of the model that is compiled in.
pub const EMBEDDED: &str = "embedded";
/// The file of all weights.
pub const SINGLE: &str = "model.safetensors";
/// What tells which of several files has which weight, where there is no [`SINGLE`].
pub const INDEX: &str = "model.safetensors.index.json";
/// The embedding's tensor.
pub(super) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The lm_head's tensor, which a model that ties it to the embedding need not have.
pub(super) const LM_HEAD: &str = "lm_head.weight";

impl ModelFiles {
    /// Opens what a user names: `embedded`, or a model folder.
    pub fn named(path: &str) -> Result<Self> {
        if path == EMBEDDED { Self::embedded() } else { Self::open(Path::new(path)) }
    }

    /// The model that is compiled into the program.
    pub fn embedded() -> Result<Self> {
        let weights = Bytes::Static(include_bytes!("../../assets/model/model.safetensors"));
        let weights = TensorFile::parse(format!("{EMBEDDED}/{SINGLE}"), weights)?;
        Self::new(EMBEDDED.into(), embedded_texts(), vec![weights], None)
    }

    /// Opens a model folder.
    pub fn open(folder: &Path) -> Result<Self> {
        if !folder.is_dir() {
            return Err(Error::file(folder, "found no folder, expected a model folder with config.json"));
        }
        check_no_adapter(folder)?;
        let texts = read_texts(folder)?;
        let single = folder.join(SINGLE);
        let index = folder.join(INDEX);
        let place = folder.display().to_string();
        let in_folder = |files| Self { folder: Some(folder.to_path_buf()), ..files };
        if single.exists() {
            return Self::new(place, texts, vec![TensorFile::open(&single)?], None).map(in_folder);
        }
        if !index.exists() {
            // What no weights would help is said first.
            super::ModelConfig::read(&Self::without_weights(&place, WeightType::Bf16)?)?;
            return Err(Error::file(folder, no_weights(&other_weights(folder))));
        }
        let weight_map = read_index(&index)?;
        let names: BTreeSet<&String> = weight_map.values().collect();
        let shards =
            names.iter().map(|name| TensorFile::open(&folder.join(name))).collect::<Result<Vec<_>>>()?;
        let numbers: BTreeMap<&String, usize> = names.iter().enumerate().map(|(i, &n)| (n, i)).collect();
        let shard_of = weight_map.iter().map(|(tensor, shard)| (tensor.clone(), numbers[shard])).collect();
        Self::new(place, texts, shards, Some(shard_of)).map(in_folder)
    }

    pub(super) fn new(
        place: String,
        texts: BTreeMap<&'static str, Bytes>,
        shards: Vec<TensorFile>,
        index: Option<BTreeMap<String, usize>>,
    ) -> Result<Self> {
        let has_index = index.is_some();
        let mut shard_of = index.unwrap_or_default();
        // Programs differ in what they do with weights that only one of index and files has. Buffers, such as the
        // `inv_freq` of older Llama files, are nobody's weights: they are computed.
        let is_weight = |name: &str| name.ends_with(".weight") || name.ends_with(".bias");
        for (i, shard) in shards.iter().enumerate() {
            for name in shard.names() {
                match shard_of.get(name) {
                    None if has_index && !is_weight(name) => {}
                    None if has_index => {
                        return Err(Error::input(
                            format!("{place}/{INDEX}, tensor {name}"),
                            format!("missing, expected it here as it is in {}", shard.place()),
                        ));
                    }
                    None => drop(shard_of.insert(name.to_string(), i)),
                    Some(&named) if named != i && shards[named].shape(name).is_some() => {
                        return Err(Error::input(
                            format!("{}, tensor {name}", shard.place()),
                            format!("found it in {} too, expected it in one file", shards[named].place()),
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        for (tensor, &shard) in &shard_of {
            if shards[shard].shape(tensor).is_none() {
                return Err(Error::input(
                    format!("{}, tensor {tensor}", shards[shard].place()),
                    format!("missing, expected it here by {INDEX}"),
                ));
            }
        }
        Ok(Self { place, folder: None, texts, shards, shard_of, synthetic: None })
    }

    /// A model without files.
    pub(super) fn synthetic(
        place: String,
        texts: BTreeMap<&'static str, Bytes>,
        synthetic: Synthetic,
    ) -> Self {
        let (shards, shard_of) = (Vec::new(), BTreeMap::new());
        Self { place, folder: None, texts, shards, shard_of, synthetic: Some(synthetic) }
    }

    /// The same model with other weights.
    pub(super) fn with_weights(self, synthetic: Synthetic) -> Self {
        Self { synthetic: Some(synthetic), ..self }
    }

    /// Names the model in errors and manifests: its folder.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The folder it lies in, if it does not come with the program.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The files of weights, each with its name.
    pub fn shards(&self) -> impl Iterator<Item = (String, &TensorFile)> {
        self.shards.iter().map(|s| {
            let name = Path::new(s.place()).file_name().unwrap_or_default();
            (name.to_string_lossy().into_owned(), s)
        })
    }

    /// Names one of its files in errors.
    pub fn file_place(&self, name: &str) -> String {
        format!("{}/{name}", self.place)
    }

    /// config.json.
    pub fn config(&self) -> &[u8] {
        without_mark(&self.texts[CONFIG])
    }

    /// One of [`TEXTS`], if the model has it.
    pub fn text(&self, name: &str) -> Option<&[u8]> {
        self.texts.get(name).map(|b| without_mark(b))
    }

    /// Gives back the memory that reading the weights took; see [`Bytes::release`].
    pub fn release(&self) {
        self.shards.iter().for_each(TensorFile::release);
    }

    /// Every file with its name and contents, in a fixed order: for the hashes of a manifest.
    pub fn contents(&self) -> impl Iterator<Item = (String, &[u8])> {
        let texts = self.texts.iter().map(|(name, bytes)| (name.to_string(), &**bytes));
        texts.chain(self.shards().map(|(name, shard)| (name, shard.bytes())))
    }

    /// All tensors' names, sorted.
    pub fn tensor_names(&self) -> impl Iterator<Item = &str> {
        self.shard_of.keys().map(String::as_str)
    }

    /// A float vector or matrix of exactly this shape.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<WeightView<'_>> {
        if let Some(synthetic) = &self.synthetic {
            return Ok(synthetic.tensor(name, shape));
        }
        match self.shard_of.get(name) {
            Some(&shard) => self.shards[shard].view(name, shape),
            None => Err(Error::input(self.tensor_place(name), format!("missing, expected shape {shape:?}"))),
        }
    }

    /// A tensor's shape, if the files have it.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.shards[*self.shard_of.get(name)?].shape(name)
    }

    /// Returns the name of the one matrix that is embedding and lm_head of a tied model: it may be
    /// stored under either name.
    pub(super) fn tied_embedding(&self) -> &'static str {
        let only_head = self.shape(EMBEDDING).is_none() && self.shape(LM_HEAD).is_some();
        if only_head { LM_HEAD } else { EMBEDDING }
    }

    /// Returns whether the files hold both an embedding and an lm_head, and these differ. Both are
    /// `[vocab, hidden]`. Reads them in blocks and keeps neither.
    pub(super) fn has_other_head(&self, vocab: usize, hidden: usize) -> Result<bool> {
        if self.shape(EMBEDDING).is_none() || self.shape(LM_HEAD).is_none() {
            return Ok(false);
        }
        let shape = [vocab, hidden];
        let (embedding, head) = (self.tensor(EMBEDDING, &shape)?, self.tensor(LM_HEAD, &shape)?);
        Ok(!same_values(embedding, head, || self.release()))
    }

    /// Names a tensor in errors.
    pub fn tensor_place(&self, name: &str) -> String {
        match (self.shard_of.get(name), &*self.shards) {
            (Some(&shard), _) => format!("{}, tensor {name}", self.shards[shard].place()),
            (None, [single]) => format!("{}, tensor {name}", single.place()),
            _ => format!("{}/{INDEX}, tensor {name}", self.place),
        }
    }
}

impl BaseWeights for ModelFiles {
    fn matrix(&self, module: &str) -> Result<Option<WeightView<'_>>> {
        let own = format!("{module}.weight");
        let other = if own == EMBEDDING { LM_HEAD } else { EMBEDDING };
        // A tied model may have one matrix for both.
        let name = if self.shape(&own).is_some() { own.as_str() } else { other };
        match self.shape(name) {
            Some(shape) => self.tensor(name, shape).map(Some),
            None => Ok(None),
        }
    }

    fn release(&self) {
        ModelFiles::release(self);
    }
}

/// Checks that a folder is not an adapter's. From such a folder transformers would load the
/// adapter and its base, whatever weights are beside it.
fn check_no_adapter(folder: &Path) -> Result<()> {
    let path = folder.join(ADAPTER_CONFIG);
    match path.exists() {
        true => Err(Error::file(&path, ADAPTER_IS_NO_MODEL)),
        false => Ok(()),
    }
}

/// The error of an adapter that was given as a model.
pub const ADAPTER_IS_NO_MODEL: &str = "found an adapter, expected a model: give its base as --model and \
    the adapter as --adapter NAME=…; if the weights beside it are those of a whole model, move this file away";

/// Returns the error of files without weights in a format that is read. `others` are weights in
/// other formats.
pub fn no_weights(others: &[String]) -> String {
    let found = match others {
        [] => "found no weights".to_string(),
        [first, ..] => format!("found no weights but {first}"),
    };
    format!("{found}, expected {SINGLE} or {INDEX}; other formats are not read")
}

/// Returns whether a file's name is that of weights in a format that is not read.
pub fn is_other_weights(name: &str) -> bool {
    let ends = [".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack", ".safetensors"];
    let starts = ["pytorch_model", "consolidated", "model", "tf_model", "flax_model"];
    ends.iter().any(|end| name.ends_with(end)) && starts.iter().any(|start| name.starts_with(start))
        || name.ends_with(".gguf")
}

/// Returns the names of weights in other formats in a folder, sorted.
fn other_weights(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    let names = entries.filter_map(|e| e.ok()?.file_name().into_string().ok());
    let mut found: Vec<String> = names.filter(|name| is_other_weights(name)).collect();
    found.sort();
    found
}

type Texts = BTreeMap<&'static str, Bytes>;

/// The texts of the model that is compiled in.
pub(super) fn embedded_texts() -> Texts {
    let texts: [(&'static str, &'static [u8]); 4] = [
        (CONFIG, include_bytes!("../../assets/model/config.json")),
        ("generation_config.json", include_bytes!("../../assets/model/generation_config.json")),
        ("tokenizer.json", include_bytes!("../../assets/model/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("../../assets/model/tokenizer_config.json")),
    ];
    texts.into_iter().map(|(name, bytes)| (name, Bytes::Static(bytes))).collect()
}

/// The texts of a model folder.
pub(super) fn read_texts(folder: &Path) -> Result<Texts> {
    let mut texts = BTreeMap::new();
    for name in TEXTS {
        let path = folder.join(name);
        if name == CONFIG || path.exists() {
            texts.insert(name, Bytes::open(&path)?);
        }
    }
    Ok(texts)
}

/// The files that an index names, every one a plain file name.
pub fn shard_names(index: &Path) -> Result<BTreeSet<String>> {
    Ok(read_index(index)?.into_values().collect())
}

/// Reads the `weight_map` of an index: tensor to shard, every shard a plain file name.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = Bytes::open(path)?;
    let index: Index = serde_json::from_slice(without_mark(&bytes)).map_err(|e| {
        Error::file(path, format!("found no valid index ({e}), expected an object with weight_map"))
    })?;
    if index.weight_map.is_empty() {
        return Err(Error::file(path, "field weight_map: found no tensors, expected at least one"));
    }
    for (tensor, shard) in &index.weight_map {
        let mut parts = Path::new(shard).components();
        let plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(n)), None) if n == shard.as_str())
            && !shard.contains('\\');
        if !plain {
            return Err(Error::file(
                path,
                format!("field weight_map.{tensor}: found {shard:?}, expected a file name inside the folder"),
            ));
        }
    }
    Ok(index.weight_map)
}
