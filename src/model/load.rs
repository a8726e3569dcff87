//! From files to a backend: each weight is checked, handed over as it lies in its file, and forgotten.

use std::collections::BTreeSet;

use super::files::{CONFIG, EMBEDDING, LM_HEAD};
use super::layout::Modules;
use super::{GroupKind, Layer, Model, ModelConfig, ModelFiles, Rotary, adapter_layout};
use crate::backend::{Backend, HeadNormWeights, Linear, LinearSpec, Vector};
use crate::error::{Error, Result};
use crate::files::widen;

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Also load what [`Model::forward_backward`] needs: on the CPU a second packing of every matrix.
    pub training: bool,
    /// Use no more than this many positions of the model's context, which shortens the rotary table.
    pub max_positions: Option<usize>,
}

impl Model {
    /// Loads all weights into `backend` and tells it what adapters may change.
    pub fn load(
        files: &ModelFiles,
        mut config: ModelConfig,
        backend: &mut dyn Backend,
        options: LoadOptions,
    ) -> Result<Self> {
        if let Some(limit) = options.max_positions {
            config.max_positions = config.max_positions.min(limit.max(1));
        }
        check_dropout(files, &config, options)?;
        check_widths(files, &config, backend)?;
        check_room(files, &config, backend)?;
        let heads = config.heads();
        let (d, v) = (config.hidden_size, config.vocab_size);
        let mut loader = Loader { files, backend, used: BTreeSet::new() };

        let tied = config.tie_word_embeddings;
        let embedding_name = if tied { loader.files.tied_embedding() } else { EMBEDDING };
        let table = loader.files.tensor(embedding_name, &[v, d])?;
        loader.used.insert(embedding_name.into());
        let embedding = loader.backend.load_table(table)?;
        files.release();

        // Before the layers: its pages of the file, as many as several layers', are given back
        // while there is little beside them.
        let lm_head_name = if tied { embedding_name } else { LM_HEAD };
        let weights = loader.files.tensor(lm_head_name, &[v, d])?;
        loader.used.insert(lm_head_name.into());
        let spec = LinearSpec { parts: &[weights], bias: None, backward: options.training };
        let lm_head = if tied {
            loader.backend.load_tied(embedding, spec)?
        } else {
            loader.backend.load_linear(spec)?
        };
        files.release();

        let mut layers = Vec::new();
        for i in 0..config.num_layers {
            let name = |module: &str| format!("model.layers.{i}.{module}");
            let mut group = |kind: GroupKind, bias, backward| {
                let Modules { inputs, modules } = kind.modules(&config);
                let parts: Vec<(String, usize)> = modules.iter().map(|&(m, n)| (name(m), n)).collect();
                loader.linear(&parts, inputs, bias, backward)
            };
            let training = options.training;
            // Nothing below the first layer's q, k and v wants a gradient.
            let qkv = group(GroupKind::Qkv, config.qkv_bias, training && i > 0)?;
            let o = group(GroupKind::O, config.o_bias, training)?;
            let gate_up = group(GroupKind::GateUp, config.mlp_bias, training)?;
            let down = group(GroupKind::Down, config.mlp_bias, training)?;
            let qk_norm = match config.qk_norm {
                true => Some(HeadNormWeights {
                    q: loader.vector(&name("self_attn.q_norm.weight"), config.head_dim)?,
                    k: loader.vector(&name("self_attn.k_norm.weight"), config.head_dim)?,
                    eps: config.rms_norm_eps,
                }),
                false => None,
            };
            layers.push(Layer {
                input_norm: loader.vector(&name("input_layernorm.weight"), d)?,
                qkv,
                qk_norm,
                heads: config.layer_heads(i),
                o,
                post_norm: loader.vector(&name("post_attention_layernorm.weight"), d)?,
                gate_up,
                down,
            });
            // What the backend has taken need not stay in memory a second time.
            files.release();
        }
        let norm = loader.vector("model.norm.weight", d)?;

        loader.check_unused(&config)?;
        files.release();

        let tables = config.rope.tables(config.max_positions);
        let rope = backend.load_rope(&tables.cos, &tables.sin, config.rope.dim / 2)?;
        let rotary = Rotary::new(&config.rope, &tables);
        let layout = adapter_layout(&config);
        backend.adapter_layout(&layout)?;
        let training = options.training;
        Ok(Self { config, heads, layout, embedding, rope, rotary, layers, norm, lm_head, training })
    }
}

/// That the base is without dropout where it is to be trained on: transformers would apply it, and
/// adapters would be others.
fn check_dropout(files: &ModelFiles, config: &ModelConfig, options: LoadOptions) -> Result<()> {
    match config.base_dropout.filter(|_| options.training) {
        None => Ok(()),
        Some((field, rate)) => Err(Error::input(
            format!("{}, field {field}", files.file_place(CONFIG)),
            format!("found {rate}, expected 0: training with dropout inside the base is not supported"),
        )),
    }
}

/// That the backend has kernels for rows of these widths, before any weight is moved. (Head sizes
/// are checked as config.json is read.)
fn check_widths(files: &ModelFiles, config: &ModelConfig, backend: &dyn Backend) -> Result<()> {
    let step = backend.width_step();
    for (field, width) in
        [("hidden_size", config.hidden_size), ("intermediate_size", config.intermediate_size)]
    {
        if !width.is_multiple_of(step) {
            let place = format!("{}, field {field}", files.file_place("config.json"));
            let problem = format!("found {width}, expected a multiple of {step} on {}", backend.describe());
            return Err(Error::input(place, problem));
        }
    }
    Ok(())
}

/// That the weights alone fit a device with memory of its own, before any is moved there. (What
/// else is needed is the engine's plan.)
fn check_room(files: &ModelFiles, config: &ModelConfig, backend: &dyn Backend) -> Result<()> {
    let ceiling = backend.memory_ceiling();
    let limits = backend.memory_limit().into_iter().chain(ceiling.as_ref().map(|c| c.bytes));
    let Some(limit) = limits.min() else { return Ok(()) };
    let whose = ceiling.filter(|c| c.bytes == limit).map(|c| format!(" of {}", c.whose)).unwrap_or_default();
    let (parameters, each) = (config.parameters(), backend.activation_bytes());
    let (needed, room) = (parameters * each, limit.saturating_sub(backend.bytes_in_use()));
    if needed <= room {
        return Ok(());
    }
    Err(Error::Memory(format!(
        "{}: {parameters} parameters take {needed} bytes on {}, {room} bytes{whose} are free; a model of at \
         most {} parameters would fit, less what adapters, activations and the KV cache need",
        files.place(),
        backend.describe(),
        room / each
    )))
}

/// Hands tensors over and remembers which.
struct Loader<'a> {
    files: &'a ModelFiles,
    backend: &'a mut dyn Backend,
    used: BTreeSet<String>,
}

impl Loader<'_> {
    fn vector(&mut self, name: &str, len: usize) -> Result<Vector> {
        let view = self.files.tensor(name, &[len])?;
        self.used.insert(name.into());
        self.backend.load_vector(view)
    }

    /// A linear group: modules `(name, outputs)` that share `inputs`, stacked by rows.
    fn linear(
        &mut self,
        modules: &[(String, usize)],
        inputs: usize,
        bias: bool,
        backward: bool,
    ) -> Result<Linear> {
        let mut parts = Vec::with_capacity(modules.len());
        let mut biases = Vec::new();
        for (module, outputs) in modules {
            let name = format!("{module}.weight");
            parts.push(self.files.tensor(&name, &[*outputs, inputs])?);
            self.used.insert(name);
            if bias {
                let name = format!("{module}.bias");
                biases.extend(widen(self.files.tensor(&name, &[*outputs])?));
                self.used.insert(name);
            }
        }
        let bias = bias.then_some(biases.as_slice());
        self.backend.load_linear(LinearSpec { parts: &parts, bias, backward })
    }

    /// A tensor that nothing reads means that config.json describes another model than the weights.
    fn check_unused(&self, config: &ModelConfig) -> Result<()> {
        let harmless = |name: &str| {
            // Old Llama files store the frequencies; a tied lm_head may be stored a second time,
            // which `ModelConfig::read` has compared.
            name.ends_with(".rotary_emb.inv_freq") || (config.tie_word_embeddings && name == LM_HEAD)
        };
        match self.files.tensor_names().find(|name| !self.used.contains(*name) && !harmless(name)) {
            Some(name) => Err(Error::input(
                self.files.tensor_place(name),
                format!(
                    "found a tensor that a {} model of config.json's shape does not have",
                    config.model_type
                ),
            )),
            None => Ok(()),
        }
    }
}
