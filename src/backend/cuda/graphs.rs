//! Launch lists that come again are captured as graphs and replayed.

use std::collections::HashMap;

use super::driver::{Driver, GraphId, Launch};
use super::nvtx::Ranges;
use crate::backend::GraphCounts;
use crate::error::Result;

/// Fewer launches than this gain nothing from a graph.
const MIN_LAUNCHES: usize = 8;
/// Launch lists remembered at most; beyond it the one that was not run for longest is forgotten and its graph dropped.
const MAX_LISTS: usize = 64;

/// A launch list that was run.
struct Seen {
    /// None: run once, one by one.
    graph: Option<GraphId>,
    /// When it was last run, by the count of runs.
    run: u64,
}

/// What is known of launch lists.
#[derive(Default)]
pub struct Graphs {
    /// By the list itself, so that a graph can never stand for another list.
    seen: HashMap<Vec<Launch>, Seen>,
    runs: u64,
    /// Launch one by one, so that each can be timed.
    pub off: bool,
    /// What was done so far.
    pub counts: GraphCounts,
}

/// The operations of a launch list, told to a profiler as they are launched.
pub struct Told {
    ranges: Ranges,
    /// Of each launch: the number of its operation, and its name.
    operations: Vec<(u64, &'static str)>,
}

impl Told {
    /// Of the operations of each launch.
    pub fn new(ranges: Ranges, operations: Vec<(u64, &'static str)>) -> Self {
        Self { ranges, operations }
    }
}

/// Launches one by one, each operation's launches inside its range.
fn one_by_one(driver: &mut dyn Driver, launches: &[Launch], told: Option<&Told>) -> Result<()> {
    let Some(Told { ranges, operations }) = told else {
        return launches.iter().try_for_each(|l| driver.launch(l));
    };
    let mut rest = launches;
    for operation in operations.chunk_by(|a, b| a.0 == b.0) {
        let (own, others) = rest.split_at(operation.len());
        rest = others;
        ranges.push(operation[0].1);
        let result = own.iter().try_for_each(|l| driver.launch(l));
        ranges.pop();
        result?;
    }
    Ok(())
}

impl Graphs {
    /// Runs the launches, as a graph where this list has come before.
    pub fn run(&mut self, driver: &mut dyn Driver, launches: Vec<Launch>, told: Option<&Told>) -> Result<()> {
        if self.off || launches.len() < MIN_LAUNCHES {
            return one_by_one(driver, &launches, told);
        }
        self.runs += 1;
        if let Some(seen) = self.seen.get_mut(&launches) {
            seen.run = self.runs;
            let graph = match seen.graph {
                Some(graph) => {
                    self.counts.replayed += 1;
                    graph
                }
                None => {
                    self.counts.captured += 1;
                    *seen.graph.insert(driver.capture(&launches)?)
                }
            };
            return driver.replay(graph);
        }
        self.counts.launched += 1;
        one_by_one(driver, &launches, told)?;
        if self.seen.len() >= MAX_LISTS {
            self.forget_oldest(driver);
        }
        self.seen.insert(launches, Seen { graph: None, run: self.runs });
        Ok(())
    }

    /// Forgets the list that was not run for longest.
    fn forget_oldest(&mut self, driver: &mut dyn Driver) {
        let Some(oldest) = self.seen.values().map(|seen| seen.run).min() else { return };
        self.seen.retain(|_, seen| {
            if seen.run == oldest
                && let Some(graph) = seen.graph
            {
                driver.drop_graph(graph);
            }
            seen.run != oldest
        });
    }
}

#[cfg(all(test, feature = "emulator"))]
mod tests {
    use super::super::driver::Kernel;
    use super::super::emulator::Emulator;
    use super::*;

    /// A launch list that differs from the others; nothing of it is ever executed.
    fn list(number: u32) -> Vec<Launch> {
        let mut params = vec![0; 24];
        params[16..20].copy_from_slice(&number.to_le_bytes());
        let kernel = Kernel::new("defects", "no_defect", 64);
        vec![Launch { kernel, grid: [1; 3], shared: 0, params }; MIN_LAUNCHES]
    }

    #[test]
    fn the_list_that_was_not_run_for_longest_is_forgotten() {
        let mut driver = Emulator::new(1);
        let mut graphs = Graphs::default();
        let mut run = |numbers: &mut dyn Iterator<Item = u32>| {
            for number in numbers {
                graphs.run(&mut driver, list(number), None).unwrap();
            }
            std::mem::take(&mut graphs.counts)
        };
        let most = MAX_LISTS as u32;
        assert_eq!(run(&mut (0..most)), GraphCounts { launched: 64, captured: 0, replayed: 0 });
        assert_eq!(run(&mut (0..most)), GraphCounts { launched: 0, captured: 64, replayed: 0 });
        // 0 is used, so 1 is the oldest when 64 comes, and 2 when 1 comes back.
        assert_eq!(run(&mut [0, most].into_iter()), GraphCounts { launched: 1, captured: 0, replayed: 1 });
        assert_eq!(run(&mut (3..most)), GraphCounts { launched: 0, captured: 0, replayed: 61 });
        assert_eq!(run(&mut [1].into_iter()), GraphCounts { launched: 1, captured: 0, replayed: 0 });
        assert_eq!(run(&mut [2].into_iter()), GraphCounts { launched: 1, captured: 0, replayed: 0 });
        assert_eq!(run(&mut [1, 2].into_iter()), GraphCounts { launched: 0, captured: 2, replayed: 0 });
    }
}
