//! Colloquy: multiagent finetuning with every agent a LoRA adapter over one frozen base, sampled and trained together.
//!
//! The modules, top to bottom; imports point down this list, never up (`tests/house.rs` checks it):
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line: parse, call, print; one file a subcommand |
//! | [`recipe`] | multiagent finetuning and its baselines: straight-line code, one short file each |
//! | [`debate`] | the protocol and the vote, generic over the task |
//! | [`task`] | questions, answer extraction, equality, grading |
//! | [`prompt`] | prompt templates |
//! | [`report`] | tables, CSV and a page from run folders, nothing else |
//! | [`measure`] | accuracy, intervals, tests, agreement |
//! | [`run`] | configuration, run folder, journal, checkpoints, resume |
//! | [`text`] | tokenizer, chat templates, stop strings: between text and token ids |
//! | [`engine`] | lanes, memory plan, packed batches, sampler, trainer: token ids only, no text |
//! | [`hub`] | models of the Hugging Face hub: names, the cache, downloads |
//! | [`model`] | config.json to `ModelConfig`, safetensors to weights, forward, backward |
//! | [`adapter`] | PEFT folders in and out, initialisation |
//! | [`files`] | files read without trust and written whole; safetensors |
//! | [`backend`] | the operation list and the CPU backend |
//! | [`error`] | one error type |
//! | `choice` | enums whose values have names |

#[macro_use]
mod choice;

pub mod adapter;
pub mod backend;
pub mod cli;
pub mod debate;
pub mod engine;
pub mod error;
pub mod files;
pub mod hub;
pub mod measure;
pub mod model;
pub mod prompt;
pub mod recipe;
pub mod report;
pub mod run;
pub mod task;
pub mod text;
