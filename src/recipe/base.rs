//! No training: what the base model does by every method, measured once.

use super::{Examiner, Lane};
use crate::debate::Society;
use crate::engine::AdapterId;
use crate::error::Result;

/// The base model is examined, as iteration 0. What it is asked is what every other arm asks before training, and is computed once for all.
pub async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    examiner.once(&Society::uniform(AdapterId::BASE, lane.agents())).await
}
