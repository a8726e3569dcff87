//! The program as its users run it: one test program for all of them, so that no processor waits for the last test of each, and the runs that many
//! tests look at are made once.

#[path = "../common/mod.rs"]
mod common;

mod completions;
#[cfg(feature = "emulator")]
mod emulator;
mod errors;
mod examples;
mod fixtures;
mod given_data;
mod golden;
mod gpu_check;
#[cfg(target_os = "linux")]
mod gpu_errors;
mod grade;
mod hub;
mod hub_adapters;
mod info;
mod merge;
#[cfg(feature = "emulator")]
mod nvtx;
mod other_task;
mod records;
mod reliability;
mod report;
mod run;
mod session;
mod signals;
mod tensorboard;
mod tokens;
mod usage;
mod verify;
