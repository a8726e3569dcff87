//! The operations, a file for each with its backward: as coarse as a fused kernel, with formula,
//! shapes and source.
//!
//! Notation: R rows of the step's [`BatchPlan`], S its segments, L its `logit_rows`, d the hidden
//! width, H query heads and K key/value heads of size D, V the vocabulary. All matrices are
//! row-major.

mod adamw;
mod attention;
mod attention_backward;
mod dropout;
mod embed;
mod head_norm;
mod linear;
mod linear_backward;
mod lm_head_loss;
mod lm_head_sample;
mod pages;
mod rms_norm;
mod rope;
mod shapes;
mod swiglu;

pub use adamw::*;
pub use attention::*;
pub use attention_backward::*;
pub use dropout::*;
pub use embed::*;
pub use head_norm::*;
pub use linear::*;
pub use linear_backward::*;
pub use lm_head_loss::*;
pub use lm_head_sample::*;
pub use pages::*;
pub use rms_norm::*;
pub use rope::*;
pub(crate) use shapes::*;
pub use swiglu::*;

use super::*;

/// Declares the operations: the variants of [`Op`] and their names.
macro_rules! operations {
    ($($name:ident = $text:literal,)*) => {
        /// One enqueued operation.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)*
        }

        impl Op {
            /// The operation's name, for traces and profiles.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Op::$name(_) => $name::NAME,)*
                }
            }
        }

        $(impl $name {
            /// The operation's name, for traces, profiles and errors.
            pub const NAME: &'static str = $text;
        })*
    };
}

operations! {
    Embed = "embed",
    GatherRows = "gather_rows",
    ScatterRows = "scatter_rows",
    RmsNorm = "rms_norm",
    RmsNormBackward = "rms_norm_backward",
    Dropout = "dropout",
    LinearForward = "linear_forward",
    LinearBackward = "linear_backward",
    HeadNorm = "head_norm",
    HeadNormBackward = "head_norm_backward",
    Rope = "rope",
    RopeBackward = "rope_backward",
    AttentionPacked = "attention_packed",
    AttentionPackedBackward = "attention_packed_backward",
    AttentionPaged = "attention_paged",
    CopyPages = "copy_pages",
    SwiGlu = "swiglu",
    SwiGluBackward = "swiglu_backward",
    LmHeadLoss = "lm_head_loss",
    LmHeadSample = "lm_head_sample",
    GradNorms = "grad_norms",
    AdamW = "adamw",
    ZeroGrad = "zero_grad",
}
