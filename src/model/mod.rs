//! Models: config.json to [`ModelConfig`], safetensors to weights on a backend, forward and backward as lists of operations.

mod config;

pub use config::*;
