//! The linear groups of a layer: their modules as transformers names them, and what adapters may change.

use super::{GroupKind, ModelConfig};
use crate::backend::{AdapterLayout, GroupLayout, PartLayout};

/// Modules that share an input.
pub(super) struct Modules {
    /// Width of the input.
    pub inputs: usize,
    /// Names inside a layer, and outputs.
    pub modules: Vec<(&'static str, usize)>,
}

impl GroupKind {
    /// All kinds, in the order of their ids.
    pub const ALL: [GroupKind; super::GROUPS_PER_LAYER] = [Self::Qkv, Self::O, Self::GateUp, Self::Down];

    /// Its modules in a layer of a model.
    pub(super) fn modules(self, config: &ModelConfig) -> Modules {
        let heads = config.heads();
        let (d, f, q, kv) = (config.hidden_size, config.intermediate_size, heads.q_width(), heads.kv_width());
        let (inputs, modules) = match (self, config.fused) {
            (Self::Qkv, false) => {
                (d, vec![("self_attn.q_proj", q), ("self_attn.k_proj", kv), ("self_attn.v_proj", kv)])
            }
            (Self::Qkv, true) => (d, vec![("self_attn.qkv_proj", q + 2 * kv)]),
            (Self::O, _) => (q, vec![("self_attn.o_proj", d)]),
            (Self::GateUp, false) => (d, vec![("mlp.gate_proj", f), ("mlp.up_proj", f)]),
            (Self::GateUp, true) => (d, vec![("mlp.gate_up_proj", 2 * f)]),
            (Self::Down, _) => (f, vec![("mlp.down_proj", d)]),
        };
        Modules { inputs, modules }
    }
}

/// What adapters may change in a model of this shape: every linear but the lm_head, named as in transformers.
pub fn adapter_layout(config: &ModelConfig) -> AdapterLayout {
    let group = |layer: usize, kind: GroupKind| {
        let Modules { inputs, modules } = kind.modules(config);
        let mut start = 0;
        let parts = modules
            .into_iter()
            .map(|(module, outputs)| {
                let part = PartLayout { module: format!("model.layers.{layer}.{module}"), start, outputs };
                start += outputs;
                part
            })
            .collect();
        GroupLayout { inputs, outputs: start, parts }
    };
    let groups = (0..config.num_layers).flat_map(|i| GroupKind::ALL.map(|kind| group(i, kind))).collect();
    AdapterLayout { groups }
}
