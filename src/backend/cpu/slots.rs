//! STUB.
use super::*;
#[derive(Default)]
pub struct SlotStore {}
impl SlotStore {
    pub fn set_layout(&mut self, _l: &AdapterLayout) -> Result<()> {
        Err(Error::Unsupported("not written yet".into()))
    }
    pub fn create(&mut self, _s: &SlotSpec) -> Result<Slot> {
        Err(Error::Unsupported("not written yet".into()))
    }
    pub fn drop_slot(&mut self, _s: Slot) {}
    pub fn write(&mut self, _s: Slot, _r: SlotRole, _p: PartId, _m: LoraMatrix, _v: &[f32]) -> Result<()> {
        Err(Error::Unsupported("not written yet".into()))
    }
    pub fn read(&mut self, _s: Slot, _r: SlotRole, _p: PartId, _m: LoraMatrix) -> Result<Vec<f32>> {
        Err(Error::Unsupported("not written yet".into()))
    }
    pub fn copy(&mut self, _f: Slot, _t: Slot) -> Result<()> {
        Err(Error::Unsupported("not written yet".into()))
    }
    pub fn attach_optimizer(&mut self, _s: Slot) -> Result<()> {
        Err(Error::Unsupported("not written yet".into()))
    }
    pub fn detach_optimizer(&mut self, _s: Slot) {}
    pub fn bytes(&self) -> usize {
        0
    }
}
