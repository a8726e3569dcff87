//! What the training of a recipe asks of a model's chat template, known before anything is sampled.

use super::{Recipe, Training};
use crate::error::{Error, Result};
use crate::run::{CriticLoss, RunConfig};
use crate::text::{Codec, Message};

/// Answers as models write them: without thoughts, and with thoughts, which many templates leave
/// out of earlier turns. With each what of it must be learned.
const ANSWERS: [(&str, &[&str]); 2] = [
    ("The answer is 4.", &["The answer is 4."]),
    ("<think>\n2 and 2\n</think>\n\nThe answer is 4.", &["2 and 2", "The answer is 4."]),
];

/// Refuses `critic_loss = "all"` with a template by which earlier turns cannot be trained on as
/// they are sampled.
pub fn check(recipe: &dyn Recipe, config: &RunConfig, codec: &dyn Codec) -> Result<()> {
    if !recipe.learns_trajectories(config)
        || Training::of_critics(&config.training)?.section.critic_loss != CriticLoss::All
    {
        return Ok(());
    }
    ANSWERS.iter().try_for_each(|(answer, parts)| learns_all_turns(codec, answer, parts)).map_err(|problem| {
        Error::input(
            "training.critic_loss",
            format!("found \"all\", which trains on every turn of a critic, expected \"final\": {problem}"),
        )
    })
}

/// Two turns of an assistant are learned where each stands behind its prompt, and is all there.
fn learns_all_turns(codec: &dyn Codec, answer: &str, parts: &[&str]) -> Result<(), String> {
    let turns = [Message::user("2+2?"), Message::assistant(answer)];
    let talk = [turns.clone(), turns].concat();
    let (tokens, weights) = codec.training(&talk).map_err(|e| e.to_string())?;
    let another = |what: &str| format!("{} {what} an earlier answer", codec.template_place());
    for n in [1, 3] {
        if !tokens.starts_with(&codec.prompt(&talk[..n]).map_err(|e| e.to_string())?) {
            return Err(another("renders another text than the prompt before"));
        }
    }
    let learned: Vec<u32> =
        tokens.iter().zip(&weights).filter(|(_, w)| **w != 0.0).map(|(t, _)| *t).collect();
    let learned = codec.decode(&learned).map_err(|e| e.to_string())?;
    match parts.iter().all(|part| learned.matches(part).count() == 2) {
        true => Ok(()),
        false => Err(another("leaves out a part of")),
    }
}
