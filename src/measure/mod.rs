//! What runs record, accuracy, intervals, tests and agreement from outcomes, and the seeded chance
//! that recipes use outside the engine.

mod agreement;
mod bootstrap;
mod chance;
mod holm;
mod outcome;
mod power;
pub mod record;
mod statistics;

pub use agreement::*;
pub use bootstrap::*;
pub use chance::*;
pub use holm::*;
pub use outcome::*;
pub use power::*;
pub use statistics::*;
