//! Every operation on every device that is there: one body for the CPU, the emulator and a GPU, against f64 oracles on the inputs as the
//! device stores them.
//!
//! A bound is a number per operation: the largest error allowed, as a share of the largest magnitude of the exact result. Each check prints the share of its
//! bound that was used (`--nocapture` shows it).

mod adamw;
mod attention;
mod dropout;
mod embed;
mod linear;
mod lm_head;
mod lora;
mod noise;
pub mod oracles;
mod rows;
mod support;
