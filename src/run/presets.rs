//! Presets: choices that belong together, filled in where the configuration gives none.

use toml::Table;

use super::Preset;
use crate::choice::list;
use crate::error::{Error, Place, Result};

/// The preset of that name, which stands at `place`.
pub fn named(name: &str, place: impl FnOnce() -> Place) -> Result<Preset> {
    name.parse().map_err(|_| {
        Error::input(place(), format!("unknown preset `{name}`; known are {}", list(Preset::NAMES)))
    })
}

/// A preset as a layer beneath the configuration file.
pub fn layer(preset: Preset) -> Table {
    let text = match preset {
        // The values of an empty configuration, spelt out: an arm that names this preset beside
        // arms with others gets them.
        Preset::Default => {
            r#"
            [debate]
            others = "summary"
            min_agreement = 0
            ties = "random"
            [sampling]
            temperature = 1.0
            top_p = 1.0
            [training]
            critic_mix_rule = "ratio"
            critic_loss = "final"
            start_from = "previous"
            "#
        }
        // arXiv 2501.05707: every vote is a pseudo-label, random ties, w unknown (0.5), nucleus 0.9.
        Preset::Paper => {
            r#"
            [debate]
            others = "summary"
            min_agreement = 1
            ties = "random"
            [sampling]
            temperature = 1.0
            top_p = 0.9
            [training]
            critic_mix_rule = "ratio"
            critic_loss = "final"
            start_from = "previous"
            "#
        }
        // What the authors' published code does where it differs from the paper.
        Preset::OfficialCode => {
            r#"
            [debate]
            others = "summary"
            min_agreement = 1
            ties = "largest"
            [sampling]
            temperature = 1.0
            top_p = 0.9
            [training]
            critic_mix_rule = "coin-flip"
            critic_loss = "all"
            start_from = "previous"
            "#
        }
    };
    toml::from_str(text).expect("presets are TOML")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Dotted keys and values.
    fn flat(table: &Table) -> Vec<(String, toml::Value)> {
        let of = |(section, value): (&String, &toml::Value)| {
            let keys = value.as_table().unwrap().clone();
            keys.into_iter().map(|(k, v)| (format!("{section}.{k}"), v)).collect::<Vec<_>>()
        };
        table.iter().flat_map(of).collect()
    }

    #[test]
    fn the_default_preset_is_the_defaults_and_every_preset_sets_the_same_keys() {
        let defaults = Table::try_from(crate::run::RunConfig::default()).unwrap();
        let spelt_out = flat(&layer(Preset::Default));
        for (path, value) in &spelt_out {
            let (section, key) = path.split_once('.').unwrap();
            assert_eq!(&defaults[section][key], value, "{path}");
        }
        let keys = |preset| flat(&layer(preset)).into_iter().map(|(k, _)| k).collect::<Vec<_>>();
        for preset in [Preset::Paper, Preset::OfficialCode] {
            assert_eq!(keys(preset), keys(Preset::Default), "{preset}");
        }
    }
}
