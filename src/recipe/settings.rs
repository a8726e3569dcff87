//! Training settings as recipes use them.

use crate::engine::{Normalizer, Optimizer};
use crate::error::{Error, Result};
use crate::run::{TrainingSection, critic_section};

/// `[training]`, or what `[training.critic]` makes of it.
#[derive(Clone, Debug)]
pub struct Training {
    /// The settings.
    pub section: TrainingSection,
    /// What the loss of a step is divided by. No configuration sets it: the weights of recipes are
    /// 0 and 1.
    pub normalizer: Normalizer,
}

impl Training {
    /// Of generators: the section as it stands.
    pub fn of_generators(section: &TrainingSection) -> Result<Self> {
        Self::checked(section.clone(), "training")
    }

    /// Of critics: with `[training.critic]` over it.
    pub fn of_critics(section: &TrainingSection) -> Result<Self> {
        let section =
            critic_section(section).map_err(|(path, e)| Error::input(path, e.replace('\n', " ")))?;
        Self::checked(section, "training.critic")
    }

    fn checked(section: TrainingSection, place: &str) -> Result<Self> {
        for (key, value) in [("critic_mix", section.critic_mix), ("warmup_ratio", section.warmup_ratio)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(Error::input(
                    format!("{place}.{key}"),
                    format!("found {value}, expected a number from 0 to 1"),
                ));
            }
        }
        Ok(Self { section, normalizer: Normalizer::default() })
    }

    /// AdamW as the engine takes it.
    pub fn optimizer(&self) -> Optimizer {
        let s = &self.section;
        Optimizer {
            beta1: s.adam_beta1,
            beta2: s.adam_beta2,
            epsilon: s.adam_epsilon,
            weight_decay: s.weight_decay,
            non_finite: s.non_finite,
            max_grad_norm: if s.max_grad_norm > 0.0 { s.max_grad_norm } else { f32::INFINITY },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::Scheduler;

    #[test]
    fn critics_override_what_they_name() {
        let mut section = TrainingSection { max_grad_norm: 0.0, ..TrainingSection::default() };
        section.critic.insert("learning_rate".into(), toml::Value::Float(2e-7));
        section.critic.insert("lr_scheduler".into(), "cosine".into());
        let (generators, critics) =
            (Training::of_generators(&section).unwrap(), Training::of_critics(&section).unwrap());
        assert_eq!(critics.section.learning_rate, 2e-7);
        assert_eq!(critics.section.lr_scheduler, Scheduler::Cosine);
        assert_eq!(critics.section.batch_size, section.batch_size);
        assert_eq!(generators.section.learning_rate, section.learning_rate);
        assert_eq!(generators.section.lr_scheduler, Scheduler::Constant);
        assert_eq!(generators.optimizer().max_grad_norm, f32::INFINITY);
    }

    #[test]
    fn wrong_choices_name_their_key() {
        let mut section = TrainingSection::default();
        section.critic.insert("lr_scheduler".into(), "cosin".into());
        assert!(Training::of_generators(&section).is_ok());
        let e = Training::of_critics(&section).unwrap_err().to_string();
        assert!(e.starts_with("training.critic.lr_scheduler: found `cosin`"), "{e}");
        section.critic.clear();
        section.critic.insert("learning-rate".into(), toml::Value::Float(1.0));
        let e = Training::of_critics(&section).unwrap_err().to_string();
        assert!(e.contains("learning-rate") && !e.contains('\n'), "{e}");
    }
}
