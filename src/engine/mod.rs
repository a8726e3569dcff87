//! The engine: lanes, memory plan, packed batches, sampler, trainer. It knows token ids only, no
//! text.
//!
//! [`Engine`] owns a backend, a model and the adapters' slots. Requests queue in the sampler, the
//! scorer and the trainer; [`Engine::step`] fuses what is queued into one packed batch. Lanes share
//! an engine through [`EngineHandle`]; [`run_lanes`] drives both.

mod device;
mod embedder;
#[allow(clippy::module_inception)]
mod engine;
mod handle;
mod kv;
mod local;
mod normalizer;
mod plan;
mod queue;
mod request;
mod sampler;
mod scope;
mod scorer;
mod slots;
mod trainer;
mod waves;

pub use engine::*;
pub use handle::*;
pub use local::*;
pub use normalizer::*;
pub use plan::*;
pub use request::*;
pub use sampler::{Hear, SamplerStats, Submitted};
pub use scope::*;
pub use waves::*;
