//! Training settings with their choices read.

use crate::engine::{NonFinite, Normalizer, Optimizer};
use crate::error::{Error, Result};
use crate::run::{TrainingSection, critic_section};

/// How the learning rate changes over the steps of one iteration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Not at all after the warm-up.
    Constant,
    /// Straight to zero.
    Linear,
    /// Along half a cosine to zero.
    Cosine,
}

/// How corrected and confirmed trajectories make a critic's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MixRule {
    /// `critic_mix` of the data are corrected ones.
    Ratio,
    /// Every corrected one, and after each a fair coin adds a confirmed one.
    CoinFlip,
}

/// Which turns of a critic's trajectory carry loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CriticLoss {
    /// The last.
    Final,
    /// Every assistant turn.
    All,
}

/// `[training]`, or what `[training.critic]` makes of it, with its choices read.
#[derive(Clone, Debug)]
pub struct Training {
    /// The numbers.
    pub section: TrainingSection,
    /// `lr_scheduler`
    pub scheduler: Scheduler,
    /// `critic_mix_rule`
    pub mix_rule: MixRule,
    /// `critic_loss`
    pub critic_loss: CriticLoss,
    /// `start_from = "base"`
    pub from_base: bool,
    /// `data = "dealt"`
    pub is_dealt: bool,
    /// `labels = "shuffled"`
    pub is_shuffled: bool,
    /// `match = "gradient-tokens"`
    pub matches_tokens: bool,
    /// What the loss of a step is divided by. No configuration sets it: the weights of recipes are
    /// 0 and 1.
    pub normalizer: Normalizer,
}

impl Training {
    /// Of generators: the section as it stands.
    pub fn of_generators(section: &TrainingSection) -> Result<Self> {
        Self::read(section.clone(), "training")
    }

    /// Of critics: with `[training.critic]` over it.
    pub fn of_critics(section: &TrainingSection) -> Result<Self> {
        let place = "training.critic";
        let section = critic_section(section).map_err(|e| Error::input(place, e.replace('\n', " ")))?;
        Self::read(section, place)
    }

    fn read(section: TrainingSection, place: &str) -> Result<Self> {
        fn one_of<T: Copy>(place: &str, key: &str, value: &str, known: &[(&str, T)]) -> Result<T> {
            known.iter().find(|(name, _)| *name == value).map(|(_, v)| *v).ok_or_else(|| {
                let names = known.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
                Error::input(format!("{place}.{key}"), format!("`{value}` is none of {names}"))
            })
        }
        let schedulers =
            [("constant", Scheduler::Constant), ("linear", Scheduler::Linear), ("cosine", Scheduler::Cosine)];
        let rules = [("ratio", MixRule::Ratio), ("coin-flip", MixRule::CoinFlip)];
        let losses = [("final", CriticLoss::Final), ("all", CriticLoss::All)];
        let starts = [("previous", false), ("base", true)];
        let data = [("own", false), ("dealt", true)];
        let labels = [("vote", false), ("shuffled", true)];
        let matches = [("none", false), ("gradient-tokens", true)];
        for (key, value) in [("critic_mix", section.critic_mix), ("warmup_ratio", section.warmup_ratio)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::input(
                    format!("{place}.{key}"),
                    format!("found {value}, expected a number from 0 to 1"),
                ));
            }
        }
        Ok(Self {
            scheduler: one_of(place, "lr_scheduler", &section.lr_scheduler, &schedulers)?,
            mix_rule: one_of(place, "critic_mix_rule", &section.critic_mix_rule, &rules)?,
            critic_loss: one_of(place, "critic_loss", &section.critic_loss, &losses)?,
            from_base: one_of(place, "start_from", &section.start_from, &starts)?,
            is_dealt: one_of(place, "data", &section.data, &data)?,
            is_shuffled: one_of(place, "labels", &section.labels, &labels)?,
            matches_tokens: one_of(place, "match", &section.matching, &matches)?,
            normalizer: Normalizer::default(),
            section,
        })
    }

    /// AdamW as the engine takes it.
    pub fn optimizer(&self) -> Optimizer {
        let s = &self.section;
        Optimizer {
            beta1: s.adam_beta1,
            beta2: s.adam_beta2,
            epsilon: s.adam_epsilon,
            weight_decay: s.weight_decay,
            non_finite: if s.non_finite == "skip" { NonFinite::Skip } else { NonFinite::Stop },
            max_grad_norm: if s.max_grad_norm > 0.0 { s.max_grad_norm } else { f32::INFINITY },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn critics_override_what_they_name() {
        let mut section = TrainingSection { max_grad_norm: 0.0, ..TrainingSection::default() };
        section.critic.insert("learning_rate".into(), toml::Value::Float(2e-7));
        section.critic.insert("lr_scheduler".into(), "cosine".into());
        let (generators, critics) =
            (Training::of_generators(&section).unwrap(), Training::of_critics(&section).unwrap());
        assert_eq!(critics.section.learning_rate, 2e-7);
        assert_eq!(critics.scheduler, Scheduler::Cosine);
        assert_eq!(critics.section.batch_size, section.batch_size);
        assert_eq!(generators.section.learning_rate, section.learning_rate);
        assert_eq!(generators.scheduler, Scheduler::Constant);
        assert_eq!(generators.optimizer().max_grad_norm, f32::INFINITY);
    }

    #[test]
    fn wrong_choices_name_their_key() {
        let mut section = TrainingSection::default();
        section.critic.insert("lr_scheduler".into(), "cosin".into());
        assert!(Training::of_generators(&section).is_ok());
        let e = Training::of_critics(&section).unwrap_err().to_string();
        assert!(e.starts_with("training.critic.lr_scheduler: `cosin`"), "{e}");
        section.critic.clear();
        section.critic.insert("learning-rate".into(), toml::Value::Float(1.0));
        let e = Training::of_critics(&section).unwrap_err().to_string();
        assert!(e.contains("learning-rate") && !e.contains('\n'), "{e}");
    }
}
