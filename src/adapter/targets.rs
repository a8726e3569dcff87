//! Which linears an adapter changes, in PEFT's words.

use regex::Regex;

use crate::backend::AdapterLayout;

/// PEFT's `target_modules`.
#[derive(Clone, Debug)]
pub enum Targets {
    /// Every linear but the lm_head.
    AllLinear,
    /// Module names or their last components.
    Suffixes(Vec<String>),
    /// A pattern of whole module names.
    Pattern(Regex),
}

impl Targets {
    /// From a list of names, one of which may be `all-linear`.
    pub fn from_names(names: &[String]) -> Self {
        if names.iter().any(|n| n == "all-linear") {
            Targets::AllLinear
        } else {
            Targets::Suffixes(names.to_vec())
        }
    }

    /// Whether they name this module.
    pub fn contain(&self, module: &str) -> bool {
        match self {
            Targets::AllLinear => true,
            Targets::Suffixes(names) => names.iter().any(|n| is_suffix(module, n)),
            Targets::Pattern(pattern) => pattern.is_match(module),
        }
    }

    /// The error, without its place, of targets that name something `layout` does not have.
    pub fn check(&self, layout: &AdapterLayout) -> Result<(), String> {
        let modules = || layout.parts().map(|(_, _, _, part)| part.module.as_str());
        let unknown = match self {
            Targets::AllLinear => None,
            Targets::Suffixes(names) if names.is_empty() => Some("an empty list".to_string()),
            Targets::Suffixes(names) => {
                names.iter().find(|n| !modules().any(|m| is_suffix(m, n))).map(|n| format!("{n:?}"))
            }
            Targets::Pattern(pattern) if modules().any(|m| pattern.is_match(m)) => None,
            Targets::Pattern(pattern) => Some(format!("the pattern {:?}", pattern.as_str())),
        };
        match unknown {
            Some(found) => {
                let known = suffixes(layout).join(", ");
                Err(format!("found {found}, expected all-linear or modules of this model: {known}"))
            }
            None => Ok(()),
        }
    }
}

fn is_suffix(module: &str, name: &str) -> bool {
    module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The last component of a module's name.
pub(super) fn suffix(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// The last components of all modules that an adapter may change, in order of first appearance.
pub fn suffixes(layout: &AdapterLayout) -> Vec<&str> {
    let mut found: Vec<&str> = Vec::new();
    for (_, _, _, part) in layout.parts() {
        let s = suffix(&part.module);
        if !found.contains(&s) {
            found.push(s);
        }
    }
    found
}
