//! What the operations should give, in f64.

pub mod attention;
pub mod lm_head;
