//! Where a running recipe puts what it produces. The run folder implements it; tests and `debate` have their own.

use serde_json::Value;

use crate::adapter::Snapshot;
use crate::error::Result;
use crate::measure::record::Record;

/// Sink of one lane's results. Nothing here may depend on the order in which lanes or questions finish: every record
/// has a key (lane, iteration, name) and files are written in key order.
pub trait Output {
    /// One line of metrics.jsonl for (lane, iteration).
    fn metrics(&self, lane: &str, iteration: usize, record: Record) -> Result<()>;
    /// All transcripts of a debate or evaluation, in question order: `transcripts/LANE/iteration-I/NAME.jsonl`.
    fn transcripts(&self, lane: &str, iteration: usize, name: &str, records: &[Value]) -> Result<()>;
    /// A training set: `data/LANE/iteration-I/ADAPTER.jsonl`.
    fn dataset(&self, lane: &str, iteration: usize, adapter: &str, records: &[Value]) -> Result<()>;
    /// An adapter after an iteration, as a PEFT folder: `adapters/LANE/iteration-I/ADAPTER/`.
    fn adapter(&self, lane: &str, iteration: usize, adapter: &str, snapshot: &Snapshot) -> Result<()>;
    /// How many seconds a phase took in its lane; lanes overlap. Goes to times.jsonl, apart from everything that must
    /// be the same in a run made again.
    fn time(&self, lane: &str, iteration: usize, phase: &str, seconds: f64) -> Result<()>;
    /// Something worth showing while it happens; never stored.
    fn event(&self, event: Event);
}

/// Progress, for the screen.
#[derive(Clone, Debug)]
pub enum Event {
    /// A phase began: `total` units of work are known of.
    Phase {
        /// The lane.
        lane: String,
        /// E.g. `iteration 1: debate`.
        name: String,
        /// Units (questions, optimizer steps).
        total: u64,
    },
    /// `done` more units of the lane's current phase are complete.
    Advance {
        /// The lane.
        lane: String,
        /// Units.
        done: u64,
    },
    /// A whole debate of one question, to be shown to people.
    Debate {
        /// The lane.
        lane: String,
        /// The transcript record, as stored.
        transcript: Value,
    },
    /// A line worth reading, e.g. accuracies of an iteration.
    Note {
        /// The lane.
        lane: String,
        /// The line.
        text: String,
    },
}
