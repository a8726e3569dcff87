//! The operations: every one on every device against an oracle, what a recording of them says, and the emulator that
//! runs the kernels here.

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod dropout;
#[cfg(feature = "emulator")]
mod emulator;
mod kernels;
mod recording;
mod rows;
mod support;
