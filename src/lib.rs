//! Colloquy trains a society of language-model agents: LoRA adapters over one frozen base, sampled
//! and trained together, in the same packed batches.
//!
//! Most people use the program, which the README and `docs/guide.md` describe. A library user has two
//! doors. [`Experiment`](experiment::Experiment) runs, resumes and verifies a whole configuration.
//! The [`engine`] below it draws, scores and trains with any number of adapters at once: a lane is an
//! async block that queues requests through a [`Scope`](engine::Scope) and waits for the answers, and
//! the engine fuses what all lanes have queued.
//!
//! ```
//! use std::rc::Rc;
//!
//! use colloquy::backend::select;
//! use colloquy::engine::*;
//! use colloquy::model::{LoadOptions, Model, ModelConfig, ModelFiles};
//! use colloquy::text::{ChatTokenizer, Codec, Message};
//!
//! // The model that is compiled in; `ModelFiles::open` opens a Hugging Face folder.
//! let files = ModelFiles::embedded()?;
//! let config = ModelConfig::read(&files)?;
//! let text = ChatTokenizer::new(&files, &config)?;
//! let mut backend = select("cpu", 1)?.backend;
//! let model = Model::load(&files, config, &mut *backend, LoadOptions::default())?;
//! let options = EngineOptions { max_sequences: 1, ..EngineOptions::default() };
//! let engine = EngineHandle::new(Engine::new(backend, model, options)?);
//!
//! let prompt = text.prompt(&[Message::user("What is the result of 3+4*5?")])?;
//! let request = SampleRequest::new(AdapterId::BASE, prompt, SamplingParams::plain(4), 0);
//! let scope = Scope::new("example", Rc::new(engine.clone()), Rc::new(NoJournal));
//! let samples = run_lane(&engine, async move { scope.sample(vec![request]).await })?;
//! println!("{}", text.decode(&samples[0].tokens)?);
//! assert_eq!(samples[0].tokens.len(), 4);
//! # Ok::<(), colloquy::error::Error>(())
//! ```
//!
//! `examples/` has more: adapters in one batch, and training. Nothing here is stable before 1.0.
//!
//! The modules, top to bottom; imports point down this list, never up (`tests/house.rs` checks it):
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`] | the command line: parse, call, print; one file a subcommand |
//! | [`serve`] | requests to a resident model and their answers, without a transport |
//! | [`experiment`] | the door for programs: prepare, estimate, run, resume, verify, without a terminal |
//! | [`recipe`] | multiagent finetuning and its baselines: one file a recipe, straight-line code |
//! | [`debate`] | speakers, the protocol and the vote, generic over the task |
//! | [`task`] | questions, answer extraction, equality, grading |
//! | [`prompt`] | prompt templates |
//! | [`report`] | tables, CSV and a page from run folders, nothing else |
//! | [`run`] | configuration, run folder, journal, checkpoints, resume |
//! | [`measure`] | what is recorded; accuracy, intervals, tests, agreement |
//! | [`text`] | tokenizer, chat templates, stop strings: between text and token ids |
//! | [`engine`] | lanes, memory plan, packed batches, sampler, trainer: token ids only, no text |
//! | [`hub`] | models of the Hugging Face hub: names, the cache, downloads |
//! | [`model`] | config.json to `ModelConfig`, safetensors to weights, forward, backward |
//! | [`adapter`] | PEFT folders in and out, initialisation |
//! | [`files`] | files read without trust and written whole; safetensors |
//! | [`backend`] | operations, one file each; the CPU and CUDA behind one trait |
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
pub mod experiment;
pub mod files;
pub mod hub;
pub mod measure;
pub mod model;
pub mod prompt;
pub mod recipe;
pub mod report;
pub mod run;
pub mod serve;
pub mod task;
pub mod text;
