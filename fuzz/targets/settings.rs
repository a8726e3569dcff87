//! Configurations.

use colloquy::recipe::Recipes;
use colloquy::run::{Source, is_name, to_toml};

/// A configuration that is accepted is the same when it is written and read again, and its arms are names of folders.
pub fn toml_config(input: &[u8]) {
    let mut parts = super::parts(input).into_iter().map(String::from_utf8_lossy);
    let text = parts.next().unwrap_or_default().into_owned();
    let sets: Vec<String> = parts.map(|set| set.into_owned()).collect();
    let source = Source { name: "run.toml".into(), text, folder: None };
    let Ok(plan) = Recipes::default().load(&source, &sets) else { return };
    for arm in &plan.arms {
        assert!(is_name(arm.name.split('@').next().unwrap_or_default()), "{}", arm.name);
        assert!(!arm.name.contains(['/', '\\']) && !arm.seeds.is_empty(), "{}", arm.name);
    }
    let text = to_toml(&plan.config).expect("a configuration is TOML");
    let again = Source { name: "config.toml".into(), text, folder: None };
    let again =
        Recipes::default().load(&again, &[]).unwrap_or_else(|e| panic!("written and read again: {e}"));
    assert_eq!(again, plan, "written and read again, it is another one");
}
