//! Where adapters live: one layout of every number of a slot, the same for weights, gradient and moments.
//!
//! With rp the rank padded to [`RANK_STEP`], A is stored `[inputs][rp]` and B `[panel][rp][PANEL]` on the
//! grid of its group's output panels. So the shrink `x Aᵀ` and the expand `h Bᵀ`, which sampling runs for
//! every token, read them as packed weights, and the outer products of the gradient write the same layout
//! without a transposition. The backward's `dy B` and `dh A` need the other orientation; they transpose a
//! cache-sized piece at a time, which costs a few percent of the product it feeds, so no second copy has to
//! be kept in step with the first. What pads a rank or a panel is exactly zero and stays so.

use super::gemm::{Aligned, PANEL, transpose};
use super::*;

/// One LoRA part's place in its group; the same for every slot.
pub struct PartShape {
    module: String,
    /// Width of x.
    pub inputs: usize,
    /// First output of the group that it changes.
    pub start: usize,
    /// Outputs that it changes.
    pub outputs: usize,
    /// The group's output panels it lies in.
    pub panels: std::ops::Range<usize>,
}

/// One part of one slot: ranges into the slot's buffers.
pub struct PartPlace {
    /// As asked for.
    pub rank: usize,
    /// Padded to [`RANK_STEP`].
    pub padded: usize,
    /// `s`.
    pub scale: f32,
    /// `[inputs][padded]`.
    pub a: std::ops::Range<usize>,
    /// `[panel][padded][PANEL]`.
    pub b: std::ops::Range<usize>,
}

/// Gradient and moments, laid out as the weights.
pub struct OptimizerState {
    /// Summed since the last step.
    pub gradient: Aligned,
    /// AdamW's m.
    pub moment1: Aligned,
    /// AdamW's v.
    pub moment2: Aligned,
}

/// One adapter.
pub struct SlotData {
    spec: SlotSpec,
    /// By [`PartId`].
    pub parts: Vec<Option<PartPlace>>,
    /// A and B of all parts, as the model reads them.
    pub weights: Aligned,
    /// Where the model reads them rounded: the numbers that the optimizer keeps.
    pub master: Option<Aligned>,
    /// Present while attached.
    pub optimizer: Option<OptimizerState>,
}

impl SlotData {
    /// What the optimizer works on.
    pub fn kept(&mut self) -> &mut Aligned {
        self.master.as_mut().unwrap_or(&mut self.weights)
    }

    /// Makes what the model reads again from what the optimizer keeps, where these are two.
    pub fn round(&mut self) {
        if let Some(master) = &self.master {
            for (w, &m) in self.weights.iter_mut().zip(master.iter()) {
                *w = half::bf16::from_f32(m).to_f32();
            }
        }
    }
}

/// All adapters.
#[derive(Default)]
pub struct SlotStore {
    /// The model reads adapters rounded to bf16, as on a GPU.
    pub rounded: bool,
    layout: Option<AdapterLayout>,
    shapes: Vec<PartShape>,
    /// By slot; entry 0, the base, is always empty.
    slots: Vec<Option<SlotData>>,
}

impl SlotStore {
    /// Fixes which outputs of which group adapters may change.
    pub fn set_layout(&mut self, layout: &AdapterLayout) -> Result<()> {
        if self.layout.is_some() {
            return Err(Error::Internal("the adapter layout is fixed once".into()));
        }
        for (g, group) in layout.groups.iter().enumerate() {
            let mut end = 0;
            for part in &group.parts {
                if group.inputs == 0 || part.outputs == 0 || part.start < end {
                    return Err(Error::Internal(format!(
                        "group {g}: {} is empty or out of order",
                        part.module
                    )));
                }
                end = part.start + part.outputs;
            }
            if end > group.outputs {
                return Err(Error::Internal(format!(
                    "group {g}: parts to {end} of {} outputs",
                    group.outputs
                )));
            }
        }
        self.shapes = layout
            .parts()
            .map(|(_, _, group, part)| PartShape {
                module: part.module.clone(),
                inputs: group.inputs,
                start: part.start,
                outputs: part.outputs,
                panels: part.start / PANEL..(part.start + part.outputs).div_ceil(PANEL),
            })
            .collect();
        self.layout = Some(layout.clone());
        Ok(())
    }

    /// Bytes of the weights of a slot of this shape.
    pub fn bytes_of(&self, spec: &SlotSpec) -> usize {
        let parts = self.shapes.iter().zip(&spec.parts);
        let copies = if self.rounded { 2 } else { 1 };
        let weights: usize = parts
            .filter_map(|(shape, part)| {
                Some(padded_rank((*part)?.rank) * (shape.inputs + shape.panels.len() * PANEL) * 4)
            })
            .sum();
        copies * weights
    }

    /// A new slot of zeros, under the lowest free number.
    pub fn create(&mut self, spec: &SlotSpec) -> Result<Slot> {
        if spec.parts.len() != self.shapes.len() {
            return Err(Error::Internal(format!(
                "a slot of {} parts where the layout has {}",
                spec.parts.len(),
                self.shapes.len()
            )));
        }
        let mut len = 0;
        let mut parts = Vec::with_capacity(spec.parts.len());
        for (shape, part) in self.shapes.iter().zip(&spec.parts) {
            let Some(PartSpec { rank, scale }) = *part else {
                parts.push(None);
                continue;
            };
            if rank == 0 || rank > MAX_RANK {
                return Err(Error::input(&shape.module, format!("rank {rank}: expected 1 to {MAX_RANK}")));
            }
            if !scale.is_finite() {
                return Err(Error::input(&shape.module, format!("scale {scale}: expected a finite number")));
            }
            let padded = padded_rank(rank);
            let a = len..len + shape.inputs * padded;
            let b = a.end..a.end + shape.panels.len() * padded * PANEL;
            len = b.end;
            parts.push(Some(PartPlace { rank, padded, scale, a, b }));
        }
        let master = self.rounded.then(|| Aligned::zeros(len));
        let data =
            SlotData { spec: spec.clone(), parts, weights: Aligned::zeros(len), master, optimizer: None };
        if self.slots.is_empty() {
            self.slots.push(None);
        }
        let index = match (1..self.slots.len()).find(|&i| self.slots[i].is_none()) {
            Some(free) => free,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[index] = Some(data);
        Ok(Slot(index as u32))
    }

    /// Frees a slot; its number may be used again. The base stays.
    pub fn drop_slot(&mut self, slot: Slot) {
        if let Some(data) = self.slots.get_mut(slot.0 as usize) {
            *data = None;
        }
    }

    /// A slot other than the base.
    pub fn get(&self, slot: Slot) -> Result<&SlotData> {
        self.slots.get(slot.0 as usize).and_then(Option::as_ref).ok_or_else(|| missing(slot))
    }

    /// Likewise, to change it.
    pub fn get_mut(&mut self, slot: Slot) -> Result<&mut SlotData> {
        self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut).ok_or_else(|| missing(slot))
    }

    /// The shape of a part.
    pub fn shape(&self, part: usize) -> &PartShape {
        &self.shapes[part]
    }

    /// A group's layout and the numbers of its parts.
    pub fn group(&self, group: GroupId) -> Result<(&GroupLayout, std::ops::Range<usize>)> {
        let layout = self.layout.as_ref().filter(|l| l.groups.len() > group.0 as usize);
        let layout =
            layout.ok_or_else(|| Error::Internal(format!("linear group {} does not exist", group.0)))?;
        let first = layout.first_part(group).0 as usize;
        let found = &layout.groups[group.0 as usize];
        Ok((found, first..first + found.parts.len()))
    }

    /// Overwrites one matrix from row-major values.
    pub fn write(
        &mut self,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
        values: &[f32],
    ) -> Result<()> {
        let data =
            self.slots.get_mut(slot.0 as usize).and_then(Option::as_mut).ok_or_else(|| missing(slot))?;
        let (shape, place) = part_of(&self.shapes, &data.parts, slot, part)?;
        let expected = place.rank * if matrix == LoraMatrix::A { shape.inputs } else { shape.outputs };
        if values.len() != expected {
            return Err(Error::input(
                format!("{} {matrix:?}", shape.module),
                format!("{} values, expected {expected} (rank {})", values.len(), place.rank),
            ));
        }
        let (shape, rank, padded) = (shape, place.rank, place.padded);
        let (a, b) = (place.a.clone(), place.b.clone());
        let buffer = match (role, &mut data.optimizer) {
            (SlotRole::Weights, _) => data.master.as_mut().unwrap_or(&mut data.weights),
            (SlotRole::Gradient, Some(o)) => &mut o.gradient,
            (SlotRole::Moment1, Some(o)) => &mut o.moment1,
            (SlotRole::Moment2, Some(o)) => &mut o.moment2,
            (_, None) => return Err(no_optimizer(slot)),
        };
        match matrix {
            LoraMatrix::A => transpose(values, rank, shape.inputs, shape.inputs, &mut buffer[a], padded),
            LoraMatrix::B => {
                let target = &mut buffer[b];
                for (n, row) in values.chunks_exact(rank).enumerate() {
                    let (panel, lane) = panel_lane(shape, n);
                    for (r, &v) in row.iter().enumerate() {
                        target[(panel * padded + r) * PANEL + lane] = v;
                    }
                }
            }
        }
        if role == SlotRole::Weights {
            data.round();
        }
        Ok(())
    }

    /// One matrix as row-major values.
    pub fn read(&self, slot: Slot, role: SlotRole, part: PartId, matrix: LoraMatrix) -> Result<Vec<f32>> {
        let data = self.get(slot)?;
        let (shape, place) = part_of(&self.shapes, &data.parts, slot, part)?;
        let buffer = match (role, &data.optimizer) {
            (SlotRole::Weights, _) => data.master.as_ref().unwrap_or(&data.weights),
            (SlotRole::Gradient, Some(o)) => &o.gradient,
            (SlotRole::Moment1, Some(o)) => &o.moment1,
            (SlotRole::Moment2, Some(o)) => &o.moment2,
            (_, None) => return Err(no_optimizer(slot)),
        };
        let (rank, padded) = (place.rank, place.padded);
        match matrix {
            LoraMatrix::A => {
                let mut values = vec![0.0; rank * shape.inputs];
                transpose(&buffer[place.a.clone()], shape.inputs, rank, padded, &mut values, shape.inputs);
                Ok(values)
            }
            LoraMatrix::B => {
                let source = &buffer[place.b.clone()];
                let mut values = Vec::with_capacity(rank * shape.outputs);
                for n in 0..shape.outputs {
                    let (panel, lane) = panel_lane(shape, n);
                    values.extend((0..rank).map(|r| source[(panel * padded + r) * PANEL + lane]));
                }
                Ok(values)
            }
        }
    }

    /// Makes `to` equal to `from`, optimizer state included.
    pub fn copy(&mut self, from: Slot, to: Slot) -> Result<()> {
        let source = self.get(from)?;
        let target = self.get(to)?;
        if source.spec != target.spec {
            return Err(Error::Internal(format!("slot {} to {}: ranks or scales differ", from.0, to.0)));
        }
        if from == to {
            return Ok(());
        }
        let [source, target] = self
            .slots
            .get_disjoint_mut([from.0 as usize, to.0 as usize])
            .map_err(|e| Error::Internal(format!("slot {} to {}: {e}", from.0, to.0)))?;
        if let (Some(source), Some(target)) = (source, target) {
            target.weights.copy_from_slice(&source.weights);
            target.master.clone_from(&source.master);
            target.optimizer = source.optimizer.as_ref().map(|o| OptimizerState {
                gradient: o.gradient.clone(),
                moment1: o.moment1.clone(),
                moment2: o.moment2.clone(),
            });
        }
        Ok(())
    }

    /// Zeroed gradient and moments.
    pub fn attach_optimizer(&mut self, slot: Slot) -> Result<()> {
        let data = self.get_mut(slot)?;
        let zeros = || Aligned::zeros(data.weights.len());
        data.optimizer = Some(OptimizerState { gradient: zeros(), moment1: zeros(), moment2: zeros() });
        Ok(())
    }

    /// Frees gradient and moments.
    pub fn detach_optimizer(&mut self, slot: Slot) {
        if let Ok(data) = self.get_mut(slot) {
            data.optimizer = None;
        }
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> usize {
        let copies =
            |s: &SlotData| 1 + usize::from(s.master.is_some()) + if s.optimizer.is_some() { 3 } else { 0 };
        self.slots.iter().flatten().map(|s| s.weights.len() * 4 * copies(s)).sum()
    }
}

/// Panel (from the part's first) and lane of output `n` of a part.
fn panel_lane(shape: &PartShape, n: usize) -> (usize, usize) {
    let column = shape.start + n;
    (column / PANEL - shape.panels.start, column % PANEL)
}

fn part_of<'a>(
    shapes: &'a [PartShape],
    parts: &'a [Option<PartPlace>],
    slot: Slot,
    part: PartId,
) -> Result<(&'a PartShape, &'a PartPlace)> {
    let index = part.0 as usize;
    match (shapes.get(index), parts.get(index).and_then(Option::as_ref)) {
        (Some(shape), Some(place)) => Ok((shape, place)),
        _ => Err(Error::Internal(format!("slot {} has no part {}", slot.0, part.0))),
    }
}

fn missing(slot: Slot) -> Error {
    Error::Internal(format!("slot {} does not exist, or is the base where an adapter is needed", slot.0))
}

/// The error of an optimizer operation on a slot without state.
pub fn no_optimizer(slot: Slot) -> Error {
    Error::Internal(format!("slot {} has no optimizer state", slot.0))
}
