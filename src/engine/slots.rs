//! Adapters by id: their slots on the device, and which of them hold the same weights.

use std::collections::{BTreeMap, BTreeSet};

use super::request::{AdapterId, AdapterSource};
use crate::adapter::{Moments, Snapshot, matrices};
use crate::backend::{AdapterLayout, Backend, LoraMatrix, Slot, SlotRole, SlotSpec};
use crate::error::{Error, Result};

/// Names the numbers of an adapter: equal ids, equal weights. The base's while B is all zero, its
/// parent's after a clone, a new one at the first write. What is cached under an id (KV pages,
/// samples) stays true as long as the id lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightsId(pub u64);

impl WeightsId {
    /// The base model's, and that of every adapter that changes nothing.
    pub const BASE: WeightsId = WeightsId(0);
}

/// An adapter.
struct Adapter {
    slot: Slot,
    spec: SlotSpec,
    weights: WeightsId,
    /// Optimizer steps since the moments were zeroed, if there are moments.
    steps: Option<u32>,
    /// A training request is under way: nobody else may read or write the adapter.
    training: bool,
}

/// All adapters of an engine.
pub struct SlotTable {
    layout: AdapterLayout,
    adapters: BTreeMap<AdapterId, Adapter>,
    /// The slots that hold each weights id; any of them will do.
    holders: BTreeMap<WeightsId, BTreeSet<Slot>>,
    /// Weights ids that nobody holds any more, until [`SlotTable::take_dead`].
    dead: Vec<WeightsId>,
    widest_shrink: usize,
    next_adapter: u32,
    next_weights: u64,
}

impl SlotTable {
    /// No adapters yet. The backend knows the layout already.
    pub fn new(layout: AdapterLayout) -> Self {
        Self {
            layout,
            adapters: BTreeMap::new(),
            holders: BTreeMap::from([(WeightsId::BASE, BTreeSet::from([Slot::BASE]))]),
            dead: Vec::new(),
            widest_shrink: 0,
            next_adapter: 1,
            next_weights: 1,
        }
    }

    /// Adapters that no backend knows of, to try what needs ids only.
    #[cfg(test)]
    pub fn with_adapters(adapters: &[(AdapterId, Slot, WeightsId)]) -> Self {
        let mut table = Self::new(AdapterLayout::default());
        for &(id, slot, weights) in adapters {
            let spec = SlotSpec::default();
            table.adapters.insert(id, Adapter { slot, spec, weights, steps: None, training: false });
            table.hold(weights, slot);
        }
        table
    }

    /// An adapter's weights id. Refused while the adapter is trained.
    pub fn weights(&self, adapter: AdapterId) -> Result<WeightsId> {
        if adapter == AdapterId::BASE { Ok(WeightsId::BASE) } else { Ok(self.idle(adapter)?.weights) }
    }

    /// A slot that holds these weights; the base's own for the base's.
    pub fn slot_of(&self, weights: WeightsId) -> Result<Slot> {
        self.holders
            .get(&weights)
            .and_then(BTreeSet::first)
            .copied()
            .ok_or_else(|| Error::Internal(format!("no slot holds weights {}", weights.0)))
    }

    /// The widest shrink of any linear group over all adapters so far.
    pub fn widest_shrink(&self) -> usize {
        self.widest_shrink
    }

    /// Weights ids that died since the last call.
    pub fn take_dead(&mut self) -> Vec<WeightsId> {
        std::mem::take(&mut self.dead)
    }

    /// Makes an adapter.
    pub fn create(&mut self, backend: &mut dyn Backend, source: &AdapterSource) -> Result<AdapterId> {
        let id = AdapterId(self.next_adapter);
        let adapter = match source {
            AdapterSource::Snapshot(snapshot) => {
                self.check(snapshot)?;
                let slot = backend.create_slot(&snapshot.spec)?;
                let mut adapter = Adapter {
                    slot,
                    spec: snapshot.spec.clone(),
                    weights: WeightsId::BASE,
                    steps: None,
                    training: false,
                };
                if let Err(e) = write(backend, &mut adapter, snapshot) {
                    backend.drop_slot(slot);
                    return Err(e);
                }
                adapter.weights = self.id_for(snapshot);
                adapter
            }
            AdapterSource::Clone(parent) => {
                let parent = self.idle(*parent)?;
                let slot = backend.create_slot(&parent.spec)?;
                if let Err(e) = backend.copy_slot(parent.slot, slot) {
                    backend.drop_slot(slot);
                    return Err(e);
                }
                backend.detach_optimizer(slot);
                let (spec, weights) = (parent.spec.clone(), parent.weights);
                Adapter { slot, spec, weights, steps: None, training: false }
            }
        };
        self.hold(adapter.weights, adapter.slot);
        self.widest_shrink = self.widest_shrink.max(widest_shrink(&self.layout, &adapter.spec));
        self.adapters.insert(id, adapter);
        self.next_adapter += 1;
        Ok(id)
    }

    /// Forgets an adapter.
    pub fn drop_adapter(&mut self, backend: &mut dyn Backend, id: AdapterId) -> Result<()> {
        self.idle(id)?;
        if let Some(adapter) = self.adapters.remove(&id) {
            self.let_go(adapter.weights, adapter.slot);
            backend.drop_slot(adapter.slot);
        }
        Ok(())
    }

    /// An adapter's numbers, and its optimizer's state if asked for and there is one.
    pub fn snapshot(&self, backend: &mut dyn Backend, id: AdapterId, moments: bool) -> Result<Snapshot> {
        let adapter = self.idle(id)?;
        let mut read = |role| -> Result<Vec<_>> {
            matrices(&adapter.spec, &self.layout)
                .map(|m| Ok((m.part, m.matrix, backend.read_slot(adapter.slot, role, m.part, m.matrix)?)))
                .collect()
        };
        let weights = read(SlotRole::Weights)?;
        let moments = match adapter.steps {
            Some(steps) if moments => {
                Some(Moments { steps, first: read(SlotRole::Moment1)?, second: read(SlotRole::Moment2)? })
            }
            _ => None,
        };
        Ok(Snapshot { spec: adapter.spec.clone(), weights, moments })
    }

    /// Overwrites an adapter's numbers, and its optimizer's state with the snapshot's, if any.
    pub fn restore(&mut self, backend: &mut dyn Backend, id: AdapterId, snapshot: &Snapshot) -> Result<()> {
        if self.idle(id)?.spec.parts != snapshot.spec.parts {
            return Err(Error::input(name(id), "the snapshot is of an adapter with other parts or ranks"));
        }
        self.check(snapshot)?;
        let weights = self.id_for(snapshot);
        let adapter = self.adapters.get_mut(&id).expect("found above");
        write(backend, adapter, snapshot)?;
        let (old, slot) = (adapter.weights, adapter.slot);
        adapter.weights = weights;
        adapter.spec.dropout = snapshot.spec.dropout;
        self.hold(weights, slot);
        if old != weights {
            self.let_go(old, slot);
        }
        Ok(())
    }

    /// Begins a training request: the adapter's slot. Others are refused until [`SlotTable::end_training`].
    pub fn begin_training(&mut self, id: AdapterId) -> Result<Slot> {
        self.idle(id)?;
        let adapter = self.adapters.get_mut(&id).expect("found above");
        adapter.training = true;
        Ok(adapter.slot)
    }

    /// Gives the adapter optimizer state: zeroed if `fresh` or if it had none.
    pub fn attach_optimizer(&mut self, backend: &mut dyn Backend, id: AdapterId, fresh: bool) -> Result<()> {
        let adapter = self.get_mut(id)?;
        if fresh || adapter.steps.is_none() {
            backend.detach_optimizer(adapter.slot);
            backend.attach_optimizer(adapter.slot)?;
            adapter.steps = Some(0);
        }
        Ok(())
    }

    /// The adapter's rate of dropout in training.
    pub fn dropout(&self, id: AdapterId) -> Result<f32> {
        Ok(self.get(id)?.spec.dropout)
    }

    /// The number of the adapter's next optimizer step since its moments were zeroed, from 1.
    pub fn next_step(&self, id: AdapterId) -> Result<u32> {
        Ok(self.get(id)?.steps.unwrap_or(0) + 1)
    }

    /// The optimizer has written the adapter: its old weights are gone.
    pub fn stepped(&mut self, id: AdapterId) -> Result<()> {
        let fresh = self.fresh_id();
        let adapter = self.get_mut(id)?;
        adapter.steps = Some(adapter.steps.unwrap_or(0) + 1);
        let (old, slot) = (adapter.weights, adapter.slot);
        adapter.weights = fresh;
        self.hold(fresh, slot);
        self.let_go(old, slot);
        Ok(())
    }

    /// Others may use the adapter again.
    pub fn end_training(&mut self, id: AdapterId) {
        if let Some(adapter) = self.adapters.get_mut(&id) {
            adapter.training = false;
        }
    }

    fn get(&self, id: AdapterId) -> Result<&Adapter> {
        self.adapters.get(&id).ok_or_else(|| unknown(id))
    }

    fn get_mut(&mut self, id: AdapterId) -> Result<&mut Adapter> {
        self.adapters.get_mut(&id).ok_or_else(|| unknown(id))
    }

    fn idle(&self, id: AdapterId) -> Result<&Adapter> {
        let adapter = self.get(id)?;
        if adapter.training {
            return Err(Error::input(
                name(id),
                "it is being trained; wait for that before it is used otherwise",
            ));
        }
        Ok(adapter)
    }

    fn fresh_id(&mut self) -> WeightsId {
        let id = WeightsId(self.next_weights);
        self.next_weights += 1;
        id
    }

    /// The base's id if the snapshot changes nothing, a new one otherwise.
    fn id_for(&mut self, snapshot: &Snapshot) -> WeightsId {
        let changes_nothing = snapshot
            .weights
            .iter()
            .all(|(_, matrix, values)| *matrix == LoraMatrix::A || values.iter().all(|&v| v == 0.0));
        if changes_nothing { WeightsId::BASE } else { self.fresh_id() }
    }

    fn hold(&mut self, weights: WeightsId, slot: Slot) {
        self.holders.entry(weights).or_default().insert(slot);
    }

    fn let_go(&mut self, weights: WeightsId, slot: Slot) {
        if let Some(slots) = self.holders.get_mut(&weights) {
            slots.remove(&slot);
            if slots.is_empty() {
                self.holders.remove(&weights);
                self.dead.push(weights);
            }
        }
    }

    /// A snapshot fits the model and itself.
    fn check(&self, snapshot: &Snapshot) -> Result<()> {
        let parts = self.layout.parts().count();
        if snapshot.spec.parts.len() != parts {
            return Err(Error::input(
                "adapter",
                format!("it is made for {} linear parts, the model has {parts}", snapshot.spec.parts.len()),
            ));
        }
        let moments = snapshot.moments.as_ref();
        let lists = [Some(&snapshot.weights), moments.map(|m| &m.first), moments.map(|m| &m.second)];
        for list in lists.into_iter().flatten() {
            let expected = matrices(&snapshot.spec, &self.layout);
            if !list.iter().map(|&(p, m, _)| (p, m)).eq(expected.map(|e| (e.part, e.matrix))) {
                return Err(Error::input("adapter", "its matrices are not those of its parts, in order"));
            }
            for ((_, matrix, values), expected) in list.iter().zip(matrices(&snapshot.spec, &self.layout)) {
                let [rows, cols] = expected.shape;
                if values.len() != rows * cols {
                    return Err(Error::input(
                        format!("adapter, {matrix:?} of {}", expected.module),
                        format!("{} numbers, expected {rows} x {cols}", values.len()),
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The widest shrink of any group for one adapter.
pub fn widest_shrink(layout: &AdapterLayout, spec: &SlotSpec) -> usize {
    (0..layout.groups.len())
        .map(|g| spec.shrink_width(layout, crate::backend::GroupId(g as u32)))
        .max()
        .unwrap_or(0)
}

fn write(backend: &mut dyn Backend, adapter: &mut Adapter, snapshot: &Snapshot) -> Result<()> {
    for (part, matrix, values) in &snapshot.weights {
        backend.write_slot(adapter.slot, *part, *matrix, values)?;
    }
    backend.detach_optimizer(adapter.slot);
    adapter.steps = None;
    if let Some(moments) = &snapshot.moments {
        backend.attach_optimizer(adapter.slot)?;
        for (role, list) in [(SlotRole::Moment1, &moments.first), (SlotRole::Moment2, &moments.second)] {
            for (part, matrix, values) in list {
                backend.write_moment(adapter.slot, role, *part, *matrix, values)?;
            }
        }
        adapter.steps = Some(moments.steps);
    }
    Ok(())
}

/// How errors name an adapter.
fn name(id: AdapterId) -> String {
    format!("adapter {}", id.0)
}

/// The error of an id that no adapter has.
pub fn unknown(id: AdapterId) -> Error {
    if id == AdapterId::BASE {
        Error::input("adapter 0", "the base model can be sampled and scored, but not changed or copied")
    } else {
        Error::input(name(id), "there is no such adapter")
    }
}
