//! Slots: where adapters live. A slot holds, for each part of each linear group it adapts, `A [rank, inputs]` and
//! `B [outputs, rank]`; the linear group computes `y = x Wᵀ + b + s (x Aᵀ) Bᵀ` (Hu et al. 2021, arXiv 2106.09685).

use serde::{Deserialize, Serialize};

/// An adapter's place on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u32);

impl Slot {
    /// Slot 0: the base model, no adapter.
    pub const BASE: Slot = Slot(0);
}

/// A linear group of the model, counted over all layers: `layer * groups_per_layer + kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupId(pub u32);

/// A part of a linear group that one LoRA pair may change, counted over all groups in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartId(pub u32);

/// A range of a group's outputs that one LoRA pair adds to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartLayout {
    /// Its name in Hugging Face models, e.g. `model.layers.3.self_attn.q_proj`.
    pub module: String,
    /// First output row of the group that it changes.
    pub start: usize,
    /// Number of output rows.
    pub outputs: usize,
}

/// One linear group as adapters see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupLayout {
    /// Width of the shared input.
    pub inputs: usize,
    /// All outputs of the group.
    pub outputs: usize,
    /// Its parts, in order of `start`, not overlapping.
    pub parts: Vec<PartLayout>,
}

/// Everything an adapter may change in one model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AdapterLayout {
    /// Groups by [`GroupId`].
    pub groups: Vec<GroupLayout>,
}

impl AdapterLayout {
    /// The first [`PartId`] of a group.
    pub fn first_part(&self, group: GroupId) -> PartId {
        PartId(self.groups[..group.0 as usize].iter().map(|g| g.parts.len() as u32).sum())
    }

    /// All parts in order of [`PartId`], each with its group.
    pub fn parts(&self) -> impl Iterator<Item = (PartId, GroupId, &GroupLayout, &PartLayout)> {
        self.groups
            .iter()
            .enumerate()
            .flat_map(|(g, group)| group.parts.iter().map(move |part| (GroupId(g as u32), group, part)))
            .enumerate()
            .map(|(p, (g, group, part))| (PartId(p as u32), g, group, part))
    }
}

/// Rank and scale of one LoRA pair.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartSpec {
    /// 1 to 128.
    pub rank: usize,
    /// `s`: alpha / rank, or alpha / sqrt(rank) with rank-stabilised LoRA.
    pub scale: f32,
}

/// The shape of an adapter: one entry for each [`PartId`], `None` where the adapter leaves the part alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SlotSpec {
    /// By [`PartId`].
    pub parts: Vec<Option<PartSpec>>,
    /// Rate of dropout in training: 0 or above, below 1. Backends do not read it; see
    /// [`SequenceDropout`](super::SequenceDropout).
    pub dropout: f32,
}

/// Ranks are padded with exact zeros to a multiple of this, so that kernels have one k-step.
pub const RANK_STEP: usize = 16;
/// The largest rank a slot may have.
pub const MAX_RANK: usize = 128;

/// A rank padded to [`RANK_STEP`].
pub fn padded_rank(rank: usize) -> usize {
    rank.div_ceil(RANK_STEP) * RANK_STEP
}

impl SlotSpec {
    /// Width of the shrink `h` of a group for this slot: the padded ranks of its parts, one after another.
    pub fn shrink_width(&self, layout: &AdapterLayout, group: GroupId) -> usize {
        let first = layout.first_part(group).0 as usize;
        let parts = layout.groups[group.0 as usize].parts.len();
        self.parts
            .get(first..first + parts)
            .map_or(0, |p| p.iter().flatten().map(|p| padded_rank(p.rank)).sum())
    }

    /// Trainable numbers in an adapter of this shape (without padding).
    pub fn parameters(&self, layout: &AdapterLayout) -> usize {
        layout
            .parts()
            .filter_map(|(p, _, group, part)| {
                self.parts
                    .get(p.0 as usize)
                    .copied()
                    .flatten()
                    .map(|s| s.rank * (group.inputs + part.outputs))
            })
            .sum()
    }
}

/// Which matrix of a LoRA pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum LoraMatrix {
    /// The shrink, `[rank, inputs]`.
    A,
    /// The expand, `[outputs, rank]`.
    B,
}

/// Which copy of a slot's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotRole {
    /// The weights (f32 master).
    Weights,
    /// The gradient accumulated since the last optimizer step.
    Gradient,
    /// AdamW's running mean of gradients.
    Moment1,
    /// AdamW's running mean of squared gradients.
    Moment2,
}
