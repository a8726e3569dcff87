//! Models: config.json to [`ModelConfig`], safetensors to weights on a backend, forward and
//! backward as lists of operations.
//!
//! A [`Model`] holds handles only; its weights lie in the backend that loaded them. [`Activations`]
//! are the buffers of one kind of step. What a step does is straight-line code in `forward.rs` and
//! `backward.rs`, one operation a line.

mod activations;
mod backward;
mod config;
mod families;
mod fields;
mod files;
mod forward;
mod layout;
mod load;
mod merge;
mod rope;
mod synthetic;

pub use activations::*;
pub use config::*;
pub use fields::{GENERATION_FIELDS, IGNORED_FIELDS, Neutral, READ_FIELDS, REFUSED_FIELDS, Refused};
pub use files::*;
pub use layout::*;
pub use load::*;
pub use merge::*;
pub use rope::*;
pub use synthetic::{SHAPES, Shape};

use crate::backend::{
    AdapterLayout, GroupId, HeadNormWeights, Heads, Linear, RopeTable, Table, Vector, WorkspaceSpec,
};

/// Linear groups in a layer; group `layer * GROUPS_PER_LAYER + kind`.
pub const GROUPS_PER_LAYER: usize = 4;

/// The linear groups of a layer, in the order of their [`GroupId`]s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupKind {
    /// q, k and v, which share the normed input of the attention.
    Qkv,
    /// The attention's output projection.
    O,
    /// gate and up, which share the normed input of the MLP.
    GateUp,
    /// The MLP's output projection.
    Down,
}

impl GroupKind {
    /// This group of a layer.
    pub fn of(self, layer: usize) -> GroupId {
        GroupId((layer * GROUPS_PER_LAYER + self as usize) as u32)
    }
}

/// A decoder whose weights lie in a backend.
#[derive(Clone, Debug)]
pub struct Model {
    config: ModelConfig,
    heads: Heads,
    layout: AdapterLayout,
    /// `[V, d]`.
    embedding: Table,
    rope: RopeTable,
    rotary: Rotary,
    layers: Vec<Layer>,
    /// `[d]`.
    norm: Vector,
    /// `[V, d]`.
    lm_head: Linear,
    training: bool,
}

/// A decoder layer's weights.
#[derive(Clone, Copy, Debug)]
pub struct Layer {
    /// `[d]`.
    pub input_norm: Vector,
    /// `[(H + 2 K) D, d]`.
    pub qkv: Linear,
    /// Norms of query and key heads, if the model has them.
    pub qk_norm: Option<HeadNormWeights>,
    /// Shape of the attention.
    pub heads: Heads,
    /// `[d, H D]`.
    pub o: Linear,
    /// `[d]`.
    pub post_norm: Vector,
    /// `[2 f, d]`.
    pub gate_up: Linear,
    /// `[d, f]`.
    pub down: Linear,
}

impl Model {
    /// What it is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// Everything an adapter may change in it.
    pub fn layout(&self) -> &AdapterLayout {
        &self.layout
    }

    /// Its layers' weights.
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Embedding, rotary table and lm_head.
    pub fn ends(&self) -> (Table, RopeTable, Linear) {
        (self.embedding, self.rope, self.lm_head)
    }

    /// Which rotary frequencies a sequence takes, and where they are.
    pub fn rotary(&self) -> &Rotary {
        &self.rotary
    }

    /// What of [`WorkspaceSpec`] the model decides; the rest is 0.
    pub fn workspace(&self) -> WorkspaceSpec {
        WorkspaceSpec {
            inference_rows: 0,
            training_rows: 0,
            dropout: false,
            lm_head_rows: 0,
            lm_head: self.lm_head,
            shrink_width: 0,
            heads: self.heads,
            context: self.config.max_positions,
            page_entries: 0,
            rope_extra: 0,
            adapters: 0,
            adapter_elements: 0,
        }
    }

    /// Whether it was loaded with what the backward needs.
    pub fn training(&self) -> bool {
        self.training
    }
}
