//! Presets: choices that belong together, filled in where the configuration gives none.

use toml::Table;

/// Known presets.
pub const NAMES: [&str; 3] = ["default", "paper", "official-code"];

/// A preset as a layer beneath the configuration file.
pub fn preset(name: &str) -> Option<Table> {
    let text = match name {
        "default" => "",
        // arXiv 2501.05707: every vote is a pseudo-label, random ties, w unknown (0.5), nucleus 0.9.
        "paper" => {
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
        "official-code" => {
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
        _ => return None,
    };
    Some(toml::from_str(text).expect("presets are TOML"))
}
