//! What the engine itself costs: decode steps over a backend that computes nothing. The time of a step is the host's share of it: scheduling, the plan, enqueuing,
//! pages, and taking the drawn tokens.
//!
//!     cargo bench --bench engine_host

#[path = "../tests/common/mod.rs"]
mod common;

use std::sync::Arc;
use std::time::Instant;

use colloquy::backend::*;
use colloquy::engine::*;
use colloquy::error::Result;
use common::tiny::*;

fn main() {
    let model = Tiny {
        layers: 4,
        hidden: 128,
        intermediate: 384,
        heads: 4,
        kv_heads: 2,
        context: 2048,
        vocab: 512,
        ..TINY
    };
    println!("sequences adapters   prompt   us/step   us/row");
    for (sequences, adapters, prompt) in [(24, 1, 128), (24, 6, 128), (128, 6, 128), (192, 24, 512)] {
        let mut backend: Box<dyn Backend> = Box::new(Nothing::default());
        let loaded = model.load(&mut *backend);
        let options = EngineOptions {
            max_rows: 512,
            max_sequences: 192,
            kv: KvBudget::Pages(20_000),
            ..EngineOptions::default()
        };
        let handle = EngineHandle::new(Engine::new(backend, loaded, options).unwrap());
        let layout = layout(&handle);
        let ids: Vec<AdapterId> =
            (0..adapters).map(|a| add(&handle, &strong_adapter(&layout, 16, a))).collect();
        let _waiting: Vec<_> = (0..sequences)
            .map(|i| {
                let prompt = Random(i as u64).tokens(prompt, model.vocab);
                handle.sample(request(ids[i % ids.len()], &prompt, 1000, i as u64))
            })
            .collect();
        let tokens = || handle.with(|e| e.stats().sampling.tokens);
        while tokens() < 2 * sequences as u64 {
            handle.with(Engine::step).unwrap();
        }
        let steps = 500;
        let start = Instant::now();
        for _ in 0..steps {
            handle.with(Engine::step).unwrap();
        }
        let us = start.elapsed().as_secs_f64() * 1e6 / f64::from(steps);
        println!("{sequences:>9} {adapters:>8} {prompt:>8} {us:>9.1} {:>8.2}", us / sequences as f64);
    }
}

/// A backend that computes nothing and draws token 5.
#[derive(Default)]
struct Nothing {
    plan: Arc<BatchPlan>,
    handles: u32,
}

impl Nothing {
    fn next(&mut self) -> u32 {
        self.handles += 1;
        self.handles
    }
}

impl Measured for Nothing {}

impl Backend for Nothing {
    fn describe(&self) -> String {
        "nothing".into()
    }
    fn arithmetic(&self) -> String {
        "none".into()
    }
    fn bytes_in_use(&self) -> usize {
        0
    }
    fn activation_bytes(&self) -> usize {
        4
    }
    fn kv_bytes(&self) -> usize {
        4
    }
    fn workspace_bytes(&self, _: &WorkspaceSpec) -> usize {
        0
    }
    fn logit_rows(&self, _: usize) -> usize {
        64
    }
    fn width_step(&self) -> usize {
        1
    }
    fn memory_limit(&self) -> Option<usize> {
        None
    }
    fn memory_ceiling(&self) -> Option<Ceiling> {
        None
    }
    fn runs_beside(&self) -> bool {
        false
    }
    fn optimizer_bytes(&self, _: &SlotSpec) -> usize {
        0
    }
    fn tensor(&mut self, _: TensorSpec) -> Result<Tensor> {
        Ok(Tensor(self.next()))
    }
    fn free(&mut self, _: Tensor) {}
    fn kv_pool(&mut self, _: KvSpec) -> Result<KvPool> {
        Ok(KvPool(self.next()))
    }
    fn free_kv_pool(&mut self, _: KvPool) {}
    fn load_linear(&mut self, _: LinearSpec<'_>) -> Result<Linear> {
        Ok(Linear(self.next()))
    }
    fn load_vector(&mut self, _: WeightView<'_>) -> Result<Vector> {
        Ok(Vector(self.next()))
    }
    fn load_table(&mut self, _: WeightView<'_>) -> Result<Table> {
        Ok(Table(self.next()))
    }
    fn load_rope(&mut self, _: &[f32], _: &[f32], _: usize) -> Result<RopeTable> {
        Ok(RopeTable(self.next()))
    }
    fn adapter_layout(&mut self, _: &AdapterLayout) -> Result<()> {
        Ok(())
    }
    fn create_slot(&mut self, _: &SlotSpec) -> Result<Slot> {
        Ok(Slot(self.next()))
    }
    fn slot_bytes(&self, _: &SlotSpec) -> usize {
        0
    }
    fn drop_slot(&mut self, _: Slot) {}
    fn write_slot(&mut self, _: Slot, _: PartId, _: LoraMatrix, _: &[f32]) -> Result<()> {
        Ok(())
    }
    fn read_slot(&mut self, _: Slot, _: SlotRole, _: PartId, _: LoraMatrix) -> Result<Vec<f32>> {
        Ok(vec![])
    }
    fn copy_slot(&mut self, _: Slot, _: Slot) -> Result<()> {
        Ok(())
    }
    fn attach_optimizer(&mut self, _: Slot) -> Result<()> {
        Ok(())
    }
    fn detach_optimizer(&mut self, _: Slot) {}
    fn write_moment(&mut self, _: Slot, _: SlotRole, _: PartId, _: LoraMatrix, _: &[f32]) -> Result<()> {
        Ok(())
    }
    fn begin(&mut self, plan: Arc<BatchPlan>) -> Result<()> {
        self.plan = plan;
        Ok(())
    }
    fn enqueue(&mut self, op: Op) -> Result<()> {
        std::hint::black_box(op);
        Ok(())
    }
    fn submit(&mut self) -> Result<()> {
        Ok(())
    }
    fn download_f32(&mut self, _: Tensor, rows: usize) -> Result<Vec<f32>> {
        Ok(vec![-1.0; rows])
    }
    fn download_u32(&mut self, _: Tensor, rows: usize) -> Result<Vec<u32>> {
        Ok(vec![5; rows])
    }
    fn upload_f32(&mut self, _: Tensor, _: &[f32]) -> Result<()> {
        Ok(())
    }
}
