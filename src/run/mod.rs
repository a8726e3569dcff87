//! Runs: configuration, run folder, journal, checkpoints, resume.

mod arms;
mod audit;
mod checkpoint;
mod choices;
mod clock;
mod config;
mod events;
mod extend;
mod files;
mod folder;
mod journal;
mod load;
mod output;
mod presets;
mod select;
mod sorted;
mod task_layer;
mod tensorboard;
mod validate;

pub use arms::Arm;
pub use audit::*;
pub use choices::*;
pub use clock::utc;
pub use config::*;
pub use extend::extend;
pub use files::*;
pub use folder::*;
pub use journal::FileJournal;
pub use load::*;
pub use output::*;
pub use select::{Selection, select};
pub use tensorboard::{write_lane, write_training};
pub use validate::{adapter_role, adapter_section, critic_section, parse_bytes};
