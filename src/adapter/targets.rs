//! Which linears an adapter changes, in PEFT's words and by PEFT's rules
//! (`check_target_module_exists` of its `tuners_utils.py`).

use fancy_regex::{Expr, Regex, RegexBuilder};

use crate::backend::AdapterLayout;
use crate::files::written_out;

/// Steps that matching one name may take: far beyond what patterns of module names need, and over
/// in a fraction of a second for all of a model.
const BACKTRACK_LIMIT: usize = 20_000;
/// Most bytes of a compiled pattern without look-arounds.
const SIZE_LIMIT: usize = 128 << 10;
/// Most bytes of all patterns of a field that are more than names, with their repetitions written
/// out: they take memory and time that their length says little about, and a limit on what is
/// compiled does not reach into look-arounds.
pub(super) const MAX_PATTERNS: usize = 1024;

/// What an adapter must not change, though a model has it: their LoRA would be one of embeddings.
pub(super) const ENDS: [&str; 2] = ["model.embed_tokens", "lm_head"];

/// PEFT's word for every linear but the lm_head.
const ALL_LINEAR: &str = "all-linear";

/// A regular expression in Python's syntax: look-around and back-references work, and a pattern
/// that would take for ever is an error.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    /// None of a plain name, which has no more memory than its text.
    regex: Option<Regex>,
}

impl Pattern {
    /// That a whole name is to match, as `re.fullmatch`. The error says what is wrong with it.
    pub fn whole(text: &str) -> Result<Self, String> {
        Self::framed(text, 0, r"\A(?:", r")\z")
    }

    /// That the end of a name is to match, from the beginning of one of its components: PEFT's `get_pattern_key`.
    pub fn ending(text: &str) -> Result<Self, String> {
        let name = text.strip_prefix('^').unwrap_or(text);
        if name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
            return Ok(Self { text: text.to_string(), regex: None });
        }
        Self::framed(text, 2, r"\A(?:(.*\.)?(", r")$)")
    }

    /// That finds the number of a layer after a component that matches, as the group `idx`: PEFT's
    /// `layers_pattern`. An alternative in the pattern divides the whole expression there, so it
    /// does here.
    pub fn layer(text: &str) -> Result<Self, String> {
        Self::framed(text, 0, r"\A(?:(?:^|.*?\.)", r"\.(?P<idx>\d+)\.)")
    }

    /// That finds the number of a layer after any component but the first.
    pub fn any_layer() -> Result<Self, String> {
        Self::framed(r"[^.]*", 0, r"\A(?:.*?\.", r"\.(?P<idx>\d+)\.)")
    }

    /// `text` must be a pattern by itself, so that it cannot close the frame's brackets; `groups`
    /// are what the frame has of its own before it.
    fn framed(text: &str, groups: usize, before: &str, after: &str) -> Result<Self, String> {
        let weight = written_out(text);
        if weight > MAX_PATTERNS {
            return Err(format!(
                "a pattern has {weight} bytes with its repetitions written out, more than {MAX_PATTERNS}"
            ));
        }
        let build = |pattern: &str| {
            let regex = RegexBuilder::new(pattern)
                .backtrack_limit(BACKTRACK_LIMIT)
                .delegate_size_limit(SIZE_LIMIT)
                .build();
            regex.map_err(|e| format!("{text:?} is no regular expression ({e})"))
        };
        // Parsed alone, but not compiled, which is what takes time.
        Expr::parse_tree(&format!("{}{text}", "()".repeat(groups)))
            .map_err(|e| format!("{text:?} is no regular expression ({e})"))?;
        Ok(Self { text: text.to_string(), regex: Some(build(&format!("{before}{text}{after}"))?) })
    }

    /// What it counts towards [`MAX_PATTERNS`]: nothing if it is a name, in which a dot stands for any character.
    pub(super) fn weight(&self) -> usize {
        if self.regex.is_some() { written_out(&self.text).max(1) } else { 0 }
    }

    /// Whether a module's name matches.
    pub fn matches(&self, module: &str) -> Result<bool, String> {
        match &self.regex {
            Some(regex) => regex.is_match(module).map_err(|e| self.exhausted(module, &e)),
            None => Ok(ends_in(module, &self.text)),
        }
    }

    /// The number of a module's layer: nothing where the pattern does not match, no number where it
    /// matches without one.
    fn layer_of(&self, module: &str) -> Result<Option<Option<i64>>, String> {
        let Some(regex) = &self.regex else { return Ok(None) };
        let captures = regex.captures(module).map_err(|e| self.exhausted(module, &e))?;
        Ok(captures.map(|c| c.name("idx")?.as_str().parse().ok()))
    }

    fn exhausted(&self, module: &str, e: &fancy_regex::Error) -> String {
        format!("the pattern {:?} does not come to an end on {module} ({e})", self.text)
    }
}

/// Whether a name ends in another one, in which a dot stands for any character, from the beginning
/// of one of its components; after a `^`, of the first one.
fn ends_in(module: &str, name: &str) -> bool {
    let (name, whole) = name.strip_prefix('^').map_or((name, false), |name| (name, true));
    let mut rest = module.chars();
    let matches = name.chars().rev().all(|c| rest.next_back().is_some_and(|m| c == '.' || c == m));
    matches && rest.next_back().is_none_or(|m| m == '.' && !whole)
}

/// A choice of modules.
#[derive(Clone, Debug)]
pub enum Names {
    /// Every linear but the lm_head.
    AllLinear,
    /// Module names or their last components.
    List(Vec<String>),
    /// A pattern of whole module names.
    Pattern(Pattern),
}

impl Names {
    /// What a string of adapter_config.json means: `all-linear` in any case, or a pattern.
    pub fn from_text(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case(ALL_LINEAR) {
            return Ok(Names::AllLinear);
        }
        Pattern::whole(text).map(Names::Pattern)
    }

    fn contain(&self, module: &str) -> Result<bool, String> {
        match self {
            // The only modules here that are no linears beneath the head.
            Names::AllLinear => Ok(!ENDS.contains(&module)),
            Names::List(names) => Ok(names.iter().any(|n| is_suffix(module, n))),
            Names::Pattern(pattern) => pattern.matches(module),
        }
    }

    /// As an error shows it.
    fn describe(&self) -> String {
        match self {
            Names::AllLinear => ALL_LINEAR.into(),
            Names::List(names) if names.is_empty() => "an empty list".into(),
            Names::List(names) => names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "),
            Names::Pattern(pattern) => format!("the pattern {:?}", pattern.text),
        }
    }
}

/// `layers_to_transform` and `layers_pattern`.
#[derive(Clone, Debug)]
pub struct Layers {
    /// The layers that are changed.
    pub indices: Vec<i64>,
    /// What finds a layer's number; the first that matches counts.
    pub patterns: Vec<Pattern>,
}

impl Layers {
    fn contain(&self, module: &str) -> Result<bool, String> {
        for pattern in &self.patterns {
            if let Some(layer) = pattern.layer_of(module)? {
                return Ok(layer.is_some_and(|l| self.indices.contains(&l)));
            }
        }
        Ok(false)
    }
}

/// The modules that an adapter changes.
#[derive(Clone, Debug)]
pub struct Targets {
    /// `target_modules`.
    pub include: Names,
    /// `exclude_modules`.
    pub exclude: Option<Names>,
    /// Only these layers, of modules that a list names by their last components: who is named in
    /// full is meant in any case.
    pub layers: Option<Layers>,
}

impl Targets {
    /// From a list of names, one of which may be `all-linear`.
    pub fn from_names(names: &[String]) -> Self {
        let include = match names.iter().any(|n| n == ALL_LINEAR) {
            true => Names::AllLinear,
            false => Names::List(names.to_vec()),
        };
        Self { include, exclude: None, layers: None }
    }

    /// Whether they name this module. The error says which pattern cannot tell.
    pub fn contain(&self, module: &str) -> Result<bool, String> {
        if let Some(exclude) = &self.exclude
            && exclude.contain(module)?
        {
            return Ok(false);
        }
        match (&self.include, &self.layers) {
            (Names::List(names), Some(layers)) if !names.iter().any(|n| n == module) => {
                Ok(self.include.contain(module)? && layers.contain(module)?)
            }
            (include, _) => include.contain(module),
        }
    }

    /// For each of the layout's parts whether it is changed. Something must be, and no embedding
    /// may be; a name in a list that names nothing is passed over, as PEFT does. The error lacks
    /// its place.
    pub fn of(&self, layout: &AdapterLayout) -> Result<Vec<bool>, String> {
        for end in ENDS {
            if self.contain(end)? {
                let found = self.include.describe();
                return Err(format!(
                    "found {found}, which names {end}, expected linears beneath the head: adapters of \
                     embeddings and of the lm_head are not supported"
                ));
            }
        }
        let parts = layout.parts().map(|(_, _, _, part)| self.contain(&part.module));
        let parts = parts.collect::<Result<Vec<bool>, String>>()?;
        if !parts.contains(&true) {
            let left = if self.exclude.is_some() || self.layers.is_some() {
                ", of which exclude_modules and layers_to_transform leave at least one"
            } else {
                ""
            };
            return Err(format!("found {}, expected {}{left}", self.include.describe(), known(layout)));
        }
        Ok(parts)
    }

    /// The error, without its place, of a list with a name that names nothing here: for lists that were just typed.
    pub fn check_each(&self, layout: &AdapterLayout) -> Result<(), String> {
        let Names::List(names) = &self.include else { return Ok(()) };
        let named = |n: &&String| layout.parts().any(|(_, _, _, part)| is_suffix(&part.module, n));
        match names.iter().find(|n| !named(n)) {
            Some(name) => Err(format!("found {name:?}, expected {}", known(layout))),
            None => Ok(()),
        }
    }
}

fn known(layout: &AdapterLayout) -> String {
    format!("{ALL_LINEAR} or modules of this model: {}", suffixes(layout).join(", "))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_name_matches_as_the_pattern_it_is() {
        let modules = [
            "model.layers.0.self_attn.q_proj",
            "model.layers.10.mlp.up_proj",
            "q_proj",
            "xq_proj",
            "a.xq_proj",
            "up-proj",
            "",
            ".",
        ];
        let names = [
            "q_proj",
            "^q_proj",
            "self_attn.q_proj",
            "0.self_attn.q.proj",
            "^model.layers.0.self_attn.q_proj",
            "^",
            "",
            ".",
            ".q_proj",
            "up-proj",
            "proj",
            "^model",
        ];
        for name in names {
            let plain = Pattern::ending(name).unwrap();
            assert!(plain.regex.is_none(), "{name}");
            let regex = Pattern::framed(name, 2, r"\A(?:(.*\.)?(", r")$)").unwrap();
            for module in modules {
                assert_eq!(plain.matches(module), regex.matches(module), "{name:?} on {module:?}");
            }
        }
    }

    #[test]
    fn patterns_take_no_more_than_they_may() {
        assert!(Pattern::whole(r"(\w{100}){100}").unwrap_err().contains("140000 bytes with its repetitions"));
        assert!(Pattern::whole(&r"(?=\w{99})".repeat(2)).is_err());
        assert!(Pattern::whole(r".*\.layers\.\d{1,2}\.(?:self_attn|mlp)\.\w+_proj").is_ok());
        assert!(
            Pattern::whole(&"a*".repeat(600))
                .unwrap_err()
                .contains("1200 bytes with its repetitions written out")
        );
        assert!(Pattern::ending(&"a".repeat(5000)).is_ok());
        assert!(Pattern::whole("a)(?:b").is_err());
        assert!(Pattern::ending(r"(.)\3").is_ok() && Pattern::ending(r"(.)\4").is_err());
        let e = Pattern::whole(r"(?=(a*)*b)(a*)*\1$").unwrap().matches(&"a".repeat(40));
        assert!(e.is_err() || e == Ok(false));
    }
}
