//! Where adapters live on the device. A slot is one layout of all its numbers, A `[rank, inputs]` and B
//! `[outputs, rank]` part after part, ranks padded with zeros; five buffers have it: what the model reads
//! (bf16), the master weights, the gradient and the two moments (f32).

use bytemuck::{Pod, Zeroable};

use super::driver::{DevicePtr, Driver};
use crate::backend::*;
use crate::error::{Error, Result};

/// `struct Part` of `kernels/plan.cuh`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct DevicePart {
    /// Padded; 0 where the slot leaves the part alone.
    pub rank: u32,
    /// First column of its `h` in the group's shrink.
    pub column: u32,
    /// `s`.
    pub scale: f32,
    unused: u32,
    /// First element of A.
    pub a: u64,
    /// First element of B.
    pub b: u64,
}

/// `struct SlotEntry`.
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
#[repr(C)]
struct SlotEntry {
    weights: DevicePtr,
    master: DevicePtr,
    gradient: DevicePtr,
    moment1: DevicePtr,
    moment2: DevicePtr,
    elements: u64,
    unused: u64,
    parts: DevicePtr,
}

/// `struct PartPlace`.
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
#[repr(C)]
struct PartPlace {
    start: u32,
    outputs: u32,
    inputs: u32,
    unused: u32,
}

/// One adapter.
pub struct SlotData {
    spec: SlotSpec,
    /// By [`PartId`].
    pub parts: Vec<DevicePart>,
    /// Numbers in each buffer.
    pub elements: usize,
    entry: SlotEntry,
}

/// All adapters.
#[derive(Default)]
pub struct SlotStore {
    layout: AdapterLayout,
    places: DevicePtr,
    /// By slot; entry 0 is the base.
    slots: Vec<Option<SlotData>>,
    table: DevicePtr,
    capacity: usize,
    bytes: usize,
}

impl SlotStore {
    /// Fixes the layout and makes slot 0.
    pub fn set_layout(&mut self, driver: &mut dyn Driver, layout: &AdapterLayout) -> Result<()> {
        if !self.slots.is_empty() {
            return Err(Error::Internal("the adapter layout is fixed once".into()));
        }
        let places: Vec<PartPlace> = layout
            .parts()
            .map(|(_, _, group, part)| PartPlace {
                start: part.start as u32,
                outputs: part.outputs as u32,
                inputs: group.inputs as u32,
                unused: 0,
            })
            .collect();
        self.layout = layout.clone();
        if !places.is_empty() {
            self.places = driver.alloc(size_of_val(&places[..]), "the places of adapter parts")?;
            self.bytes += size_of_val(&places[..]);
            driver.upload(self.places, bytemuck::cast_slice(&places))?;
        }
        let base = self.create(driver, &SlotSpec { parts: vec![None; places.len()], dropout: 0.0 })?;
        debug_assert_eq!(base, Slot::BASE);
        Ok(())
    }

    /// Where the places of all parts lie, by [`PartId`].
    pub fn places(&self) -> DevicePtr {
        self.places
    }

    /// Where the table of slots lies.
    pub fn table(&self) -> DevicePtr {
        self.table
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// A group and its first part.
    pub fn group(&self, group: GroupId) -> Result<(&GroupLayout, PartId)> {
        self.layout
            .groups
            .get(group.0 as usize)
            .map(|g| (g, self.layout.first_part(group)))
            .ok_or_else(|| Error::Internal(format!("group {} does not exist", group.0)))
    }

    /// A slot.
    pub fn get(&self, slot: Slot) -> Result<&SlotData> {
        self.slots
            .get(slot.0 as usize)
            .and_then(Option::as_ref)
            .ok_or_else(|| Error::Internal(format!("slot {} does not exist", slot.0)))
    }

    /// Whether a slot has gradients and moments.
    pub fn has_optimizer(&self, slot: Slot) -> Result<bool> {
        Ok(self.get(slot)?.entry.gradient != DevicePtr::NULL)
    }

    /// Bytes of the weights of a slot: bf16 and f32.
    pub fn bytes_of(&self, spec: &SlotSpec) -> usize {
        let (elements, parts) = self.place(spec);
        elements * 6 + size_of_val(&parts[..])
    }

    /// Bytes of gradient and moments.
    pub fn optimizer_bytes_of(&self, spec: &SlotSpec) -> usize {
        self.place(spec).0 * 12
    }

    /// Numbers in a slot, and where its parts lie.
    fn place(&self, spec: &SlotSpec) -> (usize, Vec<DevicePart>) {
        let mut elements = 0;
        let mut column = 0;
        let mut last = None;
        let parts = self
            .layout
            .parts()
            .map(|(id, group_id, group, part)| {
                if last != Some(group_id) {
                    (last, column) = (Some(group_id), 0);
                }
                let Some(s) = spec.parts.get(id.0 as usize).copied().flatten() else {
                    return DevicePart::default();
                };
                let rank = padded_rank(s.rank);
                let a = elements;
                // Each matrix starts on 16 bytes of bf16.
                let b = (a + rank * group.inputs).next_multiple_of(8);
                elements = (b + part.outputs * rank).next_multiple_of(8);
                let place = DevicePart {
                    rank: rank as u32,
                    column,
                    scale: s.scale,
                    unused: 0,
                    a: a as u64,
                    b: b as u64,
                };
                column += rank as u32;
                place
            })
            .collect();
        (elements, parts)
    }

    /// Makes a slot of zeros.
    pub fn create(&mut self, driver: &mut dyn Driver, spec: &SlotSpec) -> Result<Slot> {
        if spec.parts.len() != self.layout.parts().count() {
            return Err(Error::Internal(format!(
                "a slot of {} parts for a layout of {}",
                spec.parts.len(),
                self.layout.parts().count()
            )));
        }
        if let Some(s) = spec.parts.iter().flatten().find(|s| !(1..=MAX_RANK).contains(&s.rank)) {
            return Err(Error::Unsupported(format!("an adapter of rank {}: 1 to {MAX_RANK}", s.rank)));
        }
        let (elements, parts) = self.place(spec);
        let mut entry = SlotEntry { elements: elements as u64, ..SlotEntry::default() };
        if !parts.is_empty() {
            entry.parts = self.alloc(driver, size_of_val(&parts[..]))?;
            driver.upload(entry.parts, bytemuck::cast_slice(&parts))?;
        }
        if elements > 0 {
            entry.weights = self.alloc(driver, elements * 2)?;
            driver.fill(entry.weights, 0, elements * 2)?;
            entry.master = self.alloc(driver, elements * 4)?;
            driver.fill(entry.master, 0, elements * 4)?;
        }
        let data = Some(SlotData { spec: spec.clone(), parts, elements, entry });
        // Slot 0 exists for as long as the backend, so a free place is never it.
        let slot = match self.slots.iter().position(Option::is_none) {
            Some(i) => {
                self.slots[i] = data;
                i
            }
            None => {
                self.slots.push(data);
                self.slots.len() - 1
            }
        };
        if slot >= self.capacity {
            self.grow(driver)?;
        }
        self.publish(driver, Slot(slot as u32))?;
        Ok(Slot(slot as u32))
    }

    fn alloc(&mut self, driver: &mut dyn Driver, bytes: usize) -> Result<DevicePtr> {
        let memory = driver.alloc(bytes, "an adapter")?;
        self.bytes += bytes;
        Ok(memory)
    }

    /// A larger table of slots, filled.
    fn grow(&mut self, driver: &mut dyn Driver) -> Result<()> {
        let size = size_of::<SlotEntry>();
        if self.capacity > 0 {
            driver.free(self.table);
        }
        self.bytes -= self.capacity * size;
        self.capacity = (self.slots.len() * 2).max(16);
        self.bytes += self.capacity * size;
        self.table = driver.alloc(self.capacity * size, "the table of adapters")?;
        let entries: Vec<SlotEntry> =
            self.slots.iter().map(|s| s.as_ref().map_or(SlotEntry::default(), |s| s.entry)).collect();
        driver.upload(self.table, bytemuck::cast_slice(&entries))
    }

    /// Writes a slot's entry of the table.
    fn publish(&mut self, driver: &mut dyn Driver, slot: Slot) -> Result<()> {
        let entry = self.get(slot)?.entry;
        let at = self.table.offset(slot.0 as usize * size_of::<SlotEntry>());
        driver.upload(at, bytemuck::bytes_of(&entry))
    }

    /// Frees a slot.
    pub fn drop_slot(&mut self, driver: &mut dyn Driver, slot: Slot) {
        if slot == Slot::BASE {
            return;
        }
        self.detach_optimizer(driver, slot);
        if let Some(data) = self.slots.get_mut(slot.0 as usize).and_then(Option::take) {
            let SlotEntry { weights, master, parts, .. } = data.entry;
            for memory in [weights, master, parts] {
                if memory != DevicePtr::NULL {
                    driver.free(memory);
                }
            }
            self.bytes -= data.elements * 6 + size_of_val(&data.parts[..]);
        }
    }

    /// Zeroed gradients and moments.
    pub fn attach_optimizer(&mut self, driver: &mut dyn Driver, slot: Slot) -> Result<()> {
        let elements = self.get(slot)?.elements;
        if slot == Slot::BASE {
            return Err(Error::Internal("the base has no optimizer".into()));
        }
        let mut entry = self.get(slot)?.entry;
        if entry.gradient == DevicePtr::NULL && elements > 0 {
            for memory in [&mut entry.gradient, &mut entry.moment1, &mut entry.moment2] {
                *memory = self.alloc(driver, elements * 4)?;
            }
        }
        for memory in [entry.gradient, entry.moment1, entry.moment2] {
            if elements > 0 {
                driver.fill(memory, 0, elements * 4)?;
            }
        }
        self.set_entry(driver, slot, entry)
    }

    /// Frees gradients and moments.
    pub fn detach_optimizer(&mut self, driver: &mut dyn Driver, slot: Slot) {
        let Ok(data) = self.get(slot) else { return };
        let (mut entry, elements) = (data.entry, data.elements);
        if entry.gradient == DevicePtr::NULL {
            return;
        }
        for memory in [&mut entry.gradient, &mut entry.moment1, &mut entry.moment2] {
            driver.free(std::mem::take(memory));
            self.bytes -= elements * 4;
        }
        // The table is written before any kernel that could read it; there is no error that a write of host
        // memory could give here.
        let _ = self.set_entry(driver, slot, entry);
    }

    fn set_entry(&mut self, driver: &mut dyn Driver, slot: Slot, entry: SlotEntry) -> Result<()> {
        if let Some(Some(data)) = self.slots.get_mut(slot.0 as usize) {
            data.entry = entry;
        }
        self.publish(driver, slot)
    }

    /// A matrix's first element, rows, columns as stored, and columns (A) or rank (B) without padding:
    /// `(first, rows, stored, used)`.
    fn matrix(&self, slot: Slot, part: PartId, matrix: LoraMatrix) -> Result<(usize, usize, usize, usize)> {
        let data = self.get(slot)?;
        let absent = || Error::Internal(format!("slot {} has no part {}", slot.0, part.0));
        let spec = data.spec.parts.get(part.0 as usize).copied().flatten().ok_or_else(absent)?;
        let place = data.parts[part.0 as usize];
        let (_, _, group, layout) = self.layout.parts().nth(part.0 as usize).ok_or_else(absent)?;
        Ok(match matrix {
            LoraMatrix::A => (place.a as usize, spec.rank, group.inputs, group.inputs),
            LoraMatrix::B => (place.b as usize, layout.outputs, place.rank as usize, spec.rank),
        })
    }

    fn buffer(&self, slot: Slot, role: SlotRole) -> Result<DevicePtr> {
        let entry = self.get(slot)?.entry;
        let memory = match role {
            SlotRole::Weights => entry.master,
            SlotRole::Gradient => entry.gradient,
            SlotRole::Moment1 => entry.moment1,
            SlotRole::Moment2 => entry.moment2,
        };
        if memory == DevicePtr::NULL {
            return Err(Error::Internal(format!("slot {} has no {role:?}", slot.0)));
        }
        Ok(memory)
    }

    /// Overwrites one matrix from row-major f32.
    pub fn write(
        &mut self,
        driver: &mut dyn Driver,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
        values: &[f32],
    ) -> Result<()> {
        let (first, rows, stored, used) = self.matrix(slot, part, matrix)?;
        if values.len() != rows * used {
            return Err(Error::Internal(format!(
                "slot {}, part {}: {} values for {matrix:?} [{rows}, {used}]",
                slot.0,
                part.0,
                values.len()
            )));
        }
        let mut padded = vec![0f32; rows * stored];
        for (to, from) in padded.chunks_exact_mut(stored).zip(values.chunks_exact(used)) {
            to[..used].copy_from_slice(from);
        }
        driver.upload(self.buffer(slot, role)?.offset(first * 4), bytemuck::cast_slice(&padded))?;
        if role == SlotRole::Weights {
            let rounded: Vec<half::bf16> = padded.iter().map(|&x| half::bf16::from_f32(x)).collect();
            driver.upload(self.get(slot)?.entry.weights.offset(first * 2), bytemuck::cast_slice(&rounded))?;
        }
        Ok(())
    }

    /// Reads one matrix as row-major f32.
    pub fn read(
        &mut self,
        driver: &mut dyn Driver,
        slot: Slot,
        role: SlotRole,
        part: PartId,
        matrix: LoraMatrix,
    ) -> Result<Vec<f32>> {
        let (first, rows, stored, used) = self.matrix(slot, part, matrix)?;
        let mut padded = vec![0f32; rows * stored];
        driver.download(self.buffer(slot, role)?.offset(first * 4), bytemuck::cast_slice_mut(&mut padded))?;
        Ok(padded.chunks_exact(stored).flat_map(|row| &row[..used]).copied().collect())
    }

    /// Makes `to` equal to `from`.
    pub fn copy(&mut self, driver: &mut dyn Driver, from: Slot, to: Slot) -> Result<()> {
        if self.get(from)?.spec != self.get(to)?.spec {
            return Err(Error::Internal(format!("slots {} and {} have different shapes", from.0, to.0)));
        }
        if self.has_optimizer(from)? {
            self.attach_optimizer(driver, to)?;
        } else {
            self.detach_optimizer(driver, to);
        }
        let elements = self.get(from)?.elements;
        let (a, b) = (self.get(from)?.entry, self.get(to)?.entry);
        let buffers = [
            (a.weights, b.weights, 2),
            (a.master, b.master, 4),
            (a.gradient, b.gradient, 4),
            (a.moment1, b.moment1, 4),
            (a.moment2, b.moment2, 4),
        ];
        for (a, b, size) in buffers {
            if a != DevicePtr::NULL && from != to {
                driver.copy(a, b, elements * size)?;
            }
        }
        Ok(())
    }
}
