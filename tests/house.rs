//! The house rules: imports point down the module list, and no file outgrows its reader.

use std::path::{Path, PathBuf};

/// Bottom to top. A module may use itself and what stands before it.
const MODULES: [&str; 19] = [
    "choice",
    "error",
    "backend",
    "files",
    "adapter",
    "model",
    "hub",
    "engine",
    "text",
    "measure",
    "run",
    "report",
    "prompt",
    "task",
    "debate",
    "recipe",
    "experiment",
    "serve",
    "cli",
];
const MAX_LINES: usize = 800;

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder) else { return found };
    for entry in entries {
        let path = entry.unwrap().path();
        // Hidden folders hold what was installed, like tools/.cuda.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden {
            continue;
        }
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| ["rs", "cu", "cuh", "py"].iter().any(|known| e == *known))
        {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The module a file of `src/` belongs to; none for lib.rs and main.rs.
fn module_of(path: &Path) -> Option<String> {
    let inside = path.strip_prefix(root().join("src")).unwrap();
    let first = inside.components().next()?.as_os_str().to_str()?;
    let name = first.strip_suffix(".rs").unwrap_or(first);
    (!["lib", "main"].contains(&name)).then(|| name.to_string())
}

/// All names `m` in `crate::m` of a text, and in `crate::{m::…, n}`.
fn uses(text: &str) -> Vec<String> {
    let ident = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        // `$crate` and `pub(crate)` are something else; so is the tail of a longer word.
        if text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push(ident(rest));
            continue;
        };
        let mut depth = 0;
        let mut start = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                c if c.is_whitespace() => {}
                _ if start => {
                    found.push(ident(&group[i..]));
                    start = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn imports_point_down_the_list() {
    let rank = |module: &str| MODULES.iter().position(|m| *m == module);
    let mut wrong = Vec::new();
    for path in sources(&root().join("src")) {
        let Some(module) = module_of(&path) else { continue };
        let own = rank(&module).unwrap_or_else(|| {
            panic!("{}: module `{module}` is not in the list of this test", path.display())
        });
        let text = std::fs::read_to_string(&path).unwrap();
        // Unit tests may look up: they are no part of the house.
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let code: String =
            text.lines().filter(|l| !l.trim_start().starts_with("//")).flat_map(|l| [l, "\n"]).collect();
        for used in uses(&code) {
            match rank(&used) {
                Some(r) if r > own => wrong.push(format!("{}: uses crate::{used}", path.display())),
                _ => {}
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point up:\n{}", wrong.join("\n"));
}

#[test]
fn the_list_is_the_library() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).unwrap();
    for line in lib.lines() {
        if let Some(module) = line.strip_prefix("pub mod ") {
            let module = module.trim_end_matches(';');
            assert!(MODULES.contains(&module), "src/lib.rs: `{module}` is not in the list of this test");
            assert!(lib.contains(&format!("//! | [`{module}`] |")), "src/lib.rs: the table lacks `{module}`");
        }
    }
}

/// The names of the built-in recipes, from their own files.
fn recipes() -> Vec<String> {
    let text: String = sources(&root().join("src/recipe"))
        .iter()
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let named = text.split("RecipeInfo::new(").skip(1).filter_map(|rest| rest.split('"').nth(1));
    named.map(String::from).collect()
}

/// Whether code outside of `src/recipe` names one of these recipes. `"base"` is also a value of settings.
fn names_a_recipe(line: &str, recipes: &[String]) -> bool {
    let named = |name: &String| line.contains(&format!("\"{name}\""));
    recipes.iter().any(|name| named(name) && (name != "base" || line.contains("recipe")))
}

#[test]
fn no_file_outside_recipe_names_a_recipe() {
    let recipes = recipes();
    assert!(recipes.len() >= 7 && recipes.contains(&"multiagent".to_string()), "{recipes:?}");
    for line in ["if arm.recipe.name == \"star\" {", "[\"majority-ft\"]", "recipe == \"base\""] {
        assert!(names_a_recipe(line, &recipes), "{line}");
    }
    assert!(!names_a_recipe("value.get(\"base\")", &recipes));
    let mut wrong = Vec::new();
    let recipe = root().join("src/recipe");
    for path in sources(&root().join("src")).into_iter().filter(|p| !p.starts_with(&recipe)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod ").next().unwrap();
        let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        wrong
            .extend(code.filter(|l| names_a_recipe(l, &recipes)).map(|l| format!("{}: {l}", path.display())));
    }
    assert!(wrong.is_empty(), "code that names a recipe:\n{}", wrong.join("\n"));
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for folder in ["src", "tests", "benches", "kernels", "tools"] {
        for path in sources(&root().join(folder)) {
            if path.components().any(|c| c.as_os_str() == ".cache") {
                continue;
            }
            let lines = std::fs::read_to_string(&path).unwrap().lines().count();
            if lines > MAX_LINES {
                long.push(format!("{}: {lines} lines", path.display()));
            }
        }
    }
    assert!(long.is_empty(), "files over {MAX_LINES} lines:\n{}", long.join("\n"));
}

/// Prose is read in narrow columns; a table's row is one line. The first page is short as well.
#[test]
fn pages_keep_their_measure() {
    let mut wide = Vec::new();
    let mut pages: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "KERNELS.md", "docs/results/soak.md"]
            .iter()
            .map(|page| root().join(page))
            .collect();
    let docs = std::fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    pages.extend(docs.filter(|path| path.extension().is_some_and(|e| e == "md")));
    for path in &pages {
        let text = std::fs::read_to_string(path).unwrap();
        let is_first = path.ends_with("README.md");
        assert!(!is_first || text.lines().count() <= 150, "{}: over 150 lines", path.display());
        for (i, line) in text.lines().enumerate() {
            if line.chars().count() > 100 && (is_first || !line.starts_with('|')) {
                wide.push(format!("{}:{}", path.display(), i + 1));
            }
        }
    }
    assert!(wide.is_empty(), "over 100 columns:\n{}", wide.join("\n"));
}

#[test]
fn the_scanner_sees_what_it_should() {
    let text = "use crate::engine::{A, B};\nuse crate::{error::Result, run::{self, X}, cli};\npub(crate) fn f() {}\n\
                let x = $crate::task::Y; crate::model::load()";
    assert_eq!(uses(text), ["engine", "error", "run", "cli", "model"]);
}
