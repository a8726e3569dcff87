//! The engine: lanes, memory plan, packed batches, sampler, trainer. It knows token ids only, no text.

mod lane;
mod request;

pub use lane::*;
pub use request::*;
