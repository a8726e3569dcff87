//! Copies of KV pages.

use super::*;

/// The plan's `page_copies`, in all layers, before anything else of the step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CopyPages {
    /// The pages.
    pub kv: KvPool,
}
