//! Experiments without a terminal: prepare, run, resume, verify. Nothing here prints, reads arguments or
//! installs a signal handler.

mod amounts;
pub mod heap;
mod iterations;
pub mod models;
mod run;
mod session;
mod society;
mod source;
mod verify;
mod watch;

pub use amounts::{bytes, count};
pub use run::*;
pub use session::{DeviceOptions, Session, Wanted, program_bytes, warn_of_other_base};
pub use society::{Society, model_commit};
pub use source::{built_in, default_name, source};
pub use verify::{Verified, VerifyOptions, verify};
pub use watch::{Downloads, Remembered, Said, Silent, Watch};
