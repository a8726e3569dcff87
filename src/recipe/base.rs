//! No training: what the base model does by every method, measured once.

use futures::future::LocalBoxFuture;

use super::registry::{BASE, Recipe, SocietyNames};
use super::{Examiner, Lane};
use crate::debate::Society;
use crate::engine::AdapterId;
use crate::error::Result;
use crate::run::{RecipeInfo, RunConfig};

/// The base model is examined, as iteration 0. What it is asked is what every other arm asks before training, and is computed once for all.
pub struct Base;

impl Recipe for Base {
    fn info(&self) -> RecipeInfo {
        RecipeInfo {
            is_trained: false,
            ..RecipeInfo::new("base", "nothing is trained; the base model is measured once, as iteration 0")
        }
    }

    fn society(&self, config: &RunConfig) -> SocietyNames {
        SocietyNames::uniform(BASE, config)
    }

    fn run(&self, lane: Lane, examiner: Examiner) -> LocalBoxFuture<'static, Result<()>> {
        Box::pin(run(lane, examiner))
    }
}

async fn run(lane: Lane, examiner: Examiner) -> Result<()> {
    examiner.once(&Society::uniform(AdapterId::BASE, lane.agents())).await
}
