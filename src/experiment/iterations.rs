//! Which iteration each lane of a run is in, so that nobody need remember what none of them will ask for again.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

/// The lanes that have not ended, and where they are.
pub struct Iterations {
    at: RefCell<BTreeMap<String, usize>>,
    first: Cell<usize>,
    forget_before: Box<dyn Fn(usize)>,
}

impl Iterations {
    /// All lanes, none of which has begun. `forget_before` is called whenever the first iteration
    /// that any of them is in goes up.
    pub fn new(lanes: impl IntoIterator<Item = String>, forget_before: impl Fn(usize) + 'static) -> Self {
        let at = lanes.into_iter().map(|lane| (lane, 0)).collect();
        Self { at: RefCell::new(at), first: Cell::new(0), forget_before: Box::new(forget_before) }
    }

    /// A lane has a result of this iteration, and draws for none before it any more.
    pub fn reached(&self, lane: &str, iteration: usize) {
        if let Some(at) = self.at.borrow_mut().get_mut(lane) {
            *at = iteration.max(*at);
        }
        self.forget();
    }

    /// A lane draws no more.
    pub fn ended(&self, lane: &str) {
        self.at.borrow_mut().remove(lane);
        self.forget();
    }

    fn forget(&self) {
        let first = self.at.borrow().values().min().copied();
        if let Some(first) = first.filter(|&first| first > self.first.get()) {
            self.first.set(first);
            (self.forget_before)(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;

    #[test]
    fn what_every_lane_is_past_is_forgotten_once() {
        let said = Rc::new(RefCell::new(Vec::new()));
        let saying = said.clone();
        let lanes = ["fast", "slow", "base", "later"].map(String::from);
        let iterations = Iterations::new(lanes, move |first| saying.borrow_mut().push(first));
        let then = |what: &dyn Fn(&Iterations), expected: &[usize]| {
            what(&iterations);
            assert_eq!(std::mem::take(&mut *said.borrow_mut()), expected);
        };
        then(&|i| (0..4).for_each(|n| i.reached("fast", n)), &[]);
        then(&|i| i.ended("base"), &[]);
        then(&|i| i.reached("slow", 2), &[]);
        // One that waits for room has all before it.
        then(&|i| i.reached("later", 1), &[1]);
        then(&|i| i.reached("later", 1), &[]);
        then(&|i| i.reached("later", 5), &[2]);
        then(&|i| i.reached("slow", 1), &[]);
        then(&|i| i.ended("slow"), &[3]);
        then(&|i| i.ended("fast"), &[5]);
        then(&|i| i.ended("later"), &[]);
    }
}
