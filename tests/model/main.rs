//! Models and adapters: their files, every family against transformers, and PEFT's folders.

#[path = "../common/mod.rs"]
mod common;

mod families;
mod files;
mod fixtures;
mod fixtures_kernels;
mod folders;
mod loading;
mod peft;
mod peft_targets;
mod sink;
