//! Which iteration each lane of a run is in, so that the engine need not remember what none of them will ask for again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use crate::engine::EngineHandle;

/// The lanes that have not ended, and where they are.
pub struct Iterations {
    engine: EngineHandle,
    at: RefCell<BTreeMap<String, usize>>,
    /// What iterations before this one drew is forgotten.
    first: Cell<usize>,
}

impl Iterations {
    /// All lanes, none of which has begun.
    pub fn new(engine: EngineHandle, lanes: impl IntoIterator<Item = String>) -> Self {
        let at = lanes.into_iter().map(|lane| (lane, 0)).collect();
        Self { engine, at: RefCell::new(at), first: Cell::new(0) }
    }

    /// A lane has a result of this iteration.
    pub fn reached(&self, lane: &str, iteration: usize) {
        if let Some(at) = self.at.borrow_mut().get_mut(lane) {
            *at = iteration.max(*at);
        }
        self.forget();
    }

    /// A lane asks for nothing any more.
    pub fn ended(&self, lane: &str) {
        self.at.borrow_mut().remove(lane);
        self.forget();
    }

    fn forget(&self) {
        let first = self.at.borrow().values().min().copied();
        if let Some(first) = first.filter(|&first| first > self.first.get()) {
            self.first.set(first);
            self.engine.with(|e| e.forget_before(first));
        }
    }
}
