//! Runs: configuration, run folder, journal, checkpoints, resume.

mod config;
mod output;

pub use config::*;
pub use output::*;
