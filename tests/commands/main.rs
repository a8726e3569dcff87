//! The program as its users run it: one test program for all of them, so that no processor waits for the last test of each, and the runs that many
//! tests look at are made once.

#[cfg(feature = "emulator")]
#[path = "../common/mod.rs"]
mod common;
#[path = "../events/mod.rs"]
mod events;
#[path = "../hub_server/mod.rs"]
mod hub_server;
#[path = "../report_run/mod.rs"]
mod report_run;
#[path = "../shell/mod.rs"]
mod shell;

mod completions;
#[cfg(feature = "emulator")]
mod emulator;
mod errors;
mod fixtures;
mod given_data;
mod golden;
mod gpu_check;
mod grade;
mod hub;
mod hub_adapters;
mod info;
mod merge;
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
