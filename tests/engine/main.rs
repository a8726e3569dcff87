//! The engine: samples, scores, embeddings and training of many adapters at once, on the CPU and on the kernels.

#[path = "../common/mod.rs"]
mod common;

mod embedding;
mod fixtures;
mod kernels;
mod lanes;
mod memory_plan;
#[cfg(feature = "emulator")]
mod memory_plan_kernels;
mod sampling;
mod trace;
mod training;
