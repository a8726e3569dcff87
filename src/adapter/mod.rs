//! Adapters outside the device: what they are made of, how they are initialised, and PEFT folders in and out.

mod config;
mod describe;
mod init;
mod peft;
mod targets;

pub use config::{ADAPTER_CONFIG, PeftConfig, adapters_in, holding, sort_naturally};
pub use describe::{Description, describe};
pub use init::*;
pub use peft::*;
pub use targets::*;

use serde::{Deserialize, Serialize};

use crate::backend::{AdapterLayout, GroupLayout, LoraMatrix, PartId, PartLayout, SlotSpec};

/// Matrices of an adapter, row-major, in order of part, A before B.
pub type Matrices = Vec<(PartId, LoraMatrix, Vec<f32>)>;

/// An adapter's numbers on the host, row-major f32: for each adapted part A `[rank, inputs]` and B `[outputs, rank]`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Ranks and scales.
    pub spec: SlotSpec,
    /// Weights, in order of part, A before B.
    pub weights: Matrices,
    /// The optimizer's state, if it was asked for and there is one.
    pub moments: Option<Moments>,
}

impl Snapshot {
    /// How many numbers A and B hold.
    pub fn parameters(&self) -> usize {
        self.weights.iter().map(|(_, _, values)| values.len()).sum()
    }
}

/// AdamW's state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Moments {
    /// Optimizer steps taken since the moments were zeroed.
    pub steps: u32,
    /// Running mean of gradients, laid out as `Snapshot::weights`.
    pub first: Matrices,
    /// Running mean of squared gradients.
    pub second: Matrices,
}

/// One matrix of an adapter.
#[derive(Clone, Copy, Debug)]
pub struct MatrixInfo<'a> {
    /// The part it belongs to.
    pub part: PartId,
    /// A or B.
    pub matrix: LoraMatrix,
    /// The part's module, e.g. `model.layers.3.self_attn.q_proj`.
    pub module: &'a str,
    /// A `[rank, inputs]`, B `[outputs, rank]`.
    pub shape: [usize; 2],
}

/// All matrices of an adapter of shape `spec`, in order of part, A before B.
pub fn matrices<'a>(
    spec: &SlotSpec,
    layout: &'a AdapterLayout,
) -> impl Iterator<Item = MatrixInfo<'a>> + use<'a> {
    let parts: Vec<(PartId, usize, &GroupLayout, &PartLayout)> = layout
        .parts()
        .filter_map(|(part, _, group, layout)| {
            let rank = spec.parts.get(part.0 as usize).copied().flatten()?.rank;
            Some((part, rank, group, layout))
        })
        .collect();
    parts.into_iter().flat_map(|(part, rank, group, layout)| {
        let info = |matrix, shape| MatrixInfo { part, matrix, module: &layout.module, shape };
        [info(LoraMatrix::A, [rank, group.inputs]), info(LoraMatrix::B, [layout.outputs, rank])]
    })
}
