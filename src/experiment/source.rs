//! Where a configuration comes from: a file, or the program itself.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::error::{Error, Result};
use crate::files::read_text;
use crate::recipe;
use crate::run::{Source, is_name, utc};

/// What the names of built-in configurations are shown with.
const BUILT_IN: &str = "built-in ";

/// The configuration in a file or of a built-in name; the default one without either.
pub fn source(config: Option<&str>) -> Result<Source> {
    let Some(config) = config else { return built_in(default_name()) };
    let path = PathBuf::from(config);
    if !path.is_file() && recipe::built_in_configs().iter().any(|b| b.name == config) {
        return built_in(config);
    }
    if !path.exists() {
        return Err(no_such(config));
    }
    if path.is_dir() {
        return Err(Error::file(&path, "found a folder, expected a configuration file"));
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if ["yaml", "yml", "json"].contains(&extension) {
        return Err(Error::file(
            &path,
            format!("found .{extension}, expected TOML: configurations are .toml"),
        ));
    }
    let text = read_text(&path)?;
    let folder = path.parent().map(|p| if p.as_os_str().is_empty() { ".".into() } else { p.to_path_buf() });
    let folder = folder.map(|f| std::fs::canonicalize(&f).unwrap_or(f));
    Ok(Source { name: config.to_string(), text, folder })
}

/// A folder for a run that begins now.
pub fn new_folder(source: &Source) -> PathBuf {
    let built_in = source.name.strip_prefix(BUILT_IN).filter(|_| source.folder.is_none());
    let name = Path::new(built_in.unwrap_or(&source.name)).file_stem().and_then(|name| name.to_str());
    let name = name.filter(|name| is_name(name)).unwrap_or("run");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let [year, month, day, hour, minute, second] = utc(now);
    Path::new("runs").join(format!("{name}-{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}"))
}

/// The error of a configuration that is not there.
fn no_such(config: &str) -> Error {
    let is_path = config.contains(['/', '\\']) || config.ends_with(".toml");
    let tip = if is_path { String::new() } else { meant(config) };
    Error::input(
        config,
        format!("no such file and no built-in configuration{tip} (`colloquy run --list` shows those)"),
    )
}

/// The built-in configuration that may be meant, or all of them.
fn meant(name: &str) -> String {
    let known = || recipe::built_in_configs().iter().map(|b| b.name);
    let far = |known: &&str| strsim::damerau_levenshtein(name, known);
    match known().min_by_key(far).filter(|near| name.len() < 40 && far(near) <= 2) {
        Some(near) => format!("; did you mean `{near}`?"),
        None => format!("; there are {}", known().collect::<Vec<_>>().join(", ")),
    }
}

/// A built-in configuration.
pub fn built_in(name: &str) -> Result<Source> {
    let Some(found) = recipe::built_in_configs().iter().find(|b| b.name == name) else {
        return Err(Error::Usage(format!("no built-in configuration is called `{name}`{}", meant(name))));
    };
    Ok(Source { name: format!("{BUILT_IN}{name}"), text: found.text.to_string(), folder: None })
}

/// The configuration of a run without one.
pub fn default_name() -> &'static str {
    recipe::built_in_configs()[0].name
}
