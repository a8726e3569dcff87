//! Adapters outside the device: what they are made of, how they are initialised, and PEFT folders in and out.

use crate::backend::{LoraMatrix, PartId, SlotSpec};

/// An adapter's numbers on the host, row-major f32: for each adapted part A `[rank, inputs]` and B `[outputs, rank]`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Ranks and scales.
    pub spec: SlotSpec,
    /// Weights, in order of part, A before B.
    pub weights: Vec<(PartId, LoraMatrix, Vec<f32>)>,
    /// The optimizer's state, if it was asked for and there is one.
    pub moments: Option<Moments>,
}

/// AdamW's state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Moments {
    /// Optimizer steps taken since the moments were zeroed.
    pub steps: u32,
    /// Running mean of gradients, laid out as `Snapshot::weights`.
    pub first: Vec<(PartId, LoraMatrix, Vec<f32>)>,
    /// Running mean of squared gradients.
    pub second: Vec<(PartId, LoraMatrix, Vec<f32>)>,
}
