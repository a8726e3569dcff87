//! Accuracy, agreement and their standard errors, and the seeded chance that recipes use outside the engine.

mod chance;
mod statistics;

pub use chance::*;
pub use statistics::*;
