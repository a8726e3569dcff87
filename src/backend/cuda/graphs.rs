//! Launch lists that come again are captured as graphs and replayed.

use std::collections::HashMap;

use super::driver::{Driver, GraphId, Launch};
use crate::error::Result;

/// Fewer launches than this gain nothing from a graph.
const MIN_LAUNCHES: usize = 8;
/// Graphs kept at most; beyond it all are dropped and captured anew as they come.
const MAX_GRAPHS: usize = 64;

/// What became of the launch lists that were long enough for a graph.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GraphCounts {
    /// Launched one by one, since they were new.
    pub launched: u64,
    /// Captured, and replayed for the first time.
    pub captured: u64,
    /// Replayed again.
    pub replayed: u64,
}

/// What is known of launch lists.
#[derive(Default)]
pub struct Graphs {
    /// By the list itself, so that a graph can never stand for another list. `None`: seen once.
    seen: HashMap<Vec<Launch>, Option<GraphId>>,
    /// Launch one by one, so that each can be timed.
    pub off: bool,
    /// What was done so far.
    pub counts: GraphCounts,
}

impl Graphs {
    /// Runs the launches, as a graph where this list has come before.
    pub fn run(&mut self, driver: &mut dyn Driver, launches: Vec<Launch>) -> Result<()> {
        if self.off || launches.len() < MIN_LAUNCHES {
            return launches.iter().try_for_each(|l| driver.launch(l));
        }
        match self.seen.get_mut(&launches) {
            Some(Some(graph)) => {
                self.counts.replayed += 1;
                driver.replay(*graph)
            }
            Some(known @ None) => {
                self.counts.captured += 1;
                let graph = driver.capture(&launches)?;
                *known = Some(graph);
                driver.replay(graph)
            }
            None => {
                self.counts.launched += 1;
                launches.iter().try_for_each(|l| driver.launch(l))?;
                if self.seen.len() >= MAX_GRAPHS {
                    for graph in self.seen.drain().filter_map(|(_, graph)| graph) {
                        driver.drop_graph(graph);
                    }
                }
                self.seen.insert(launches, None);
                Ok(())
            }
        }
    }
}
