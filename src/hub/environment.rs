//! The environment variables that huggingface_hub reads.

use std::path::PathBuf;

use crate::error::{Error, Result};

const ENDPOINT: &str = "https://huggingface.co";

/// Where the hub and its cache are, and who asks.
pub struct Environment {
    /// The folder of all repositories in the cache.
    pub cache: PathBuf,
    /// Where the hub is, without a slash at the end.
    pub endpoint: String,
    /// Whom the hub takes us for.
    pub token: Option<String>,
    /// Never ask it.
    pub offline: bool,
}

impl Environment {
    /// Reads the process's: HF_HUB_CACHE, HF_HOME, HF_TOKEN, HF_TOKEN_PATH,
    /// HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE, with the older names of some
    /// of them. Paths are expanded as there: `~`, `~USER`, `$NAME` and `${NAME}`. One that is empty
    /// counts as unset.
    pub fn read() -> Result<Self> {
        Self::from(&|name| std::env::var(name).ok())
    }

    fn from(all: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let variable = |name: &str| all(name).filter(|v| !v.is_empty());
        let expanded = |name: &str, path: &str| {
            expand(path, all).map(PathBuf::from).map_err(|problem| Error::input(name, problem))
        };
        let path = |name: &str| variable(name).map(|text| expanded(name, &text)).transpose();
        let is_on = |name: &str| {
            variable(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()))
        };
        let home = match (path("HF_HOME")?, path("XDG_CACHE_HOME")?, variable("HOME")) {
            (Some(home), _, _) => Some(home),
            (None, Some(folder), _) => Some(folder.join("huggingface")),
            (None, None, home) => home.map(|home| PathBuf::from(home).join(".cache/huggingface")),
        };
        let cache = match path("HF_HUB_CACHE")? {
            Some(cache) => Some(cache),
            None => path("HUGGINGFACE_HUB_CACHE")?,
        };
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| {
            Error::input(
                "HF_HOME",
                "found neither it nor HF_HUB_CACHE nor HOME, expected a folder for models of the hub",
            )
        })?;
        // Links in the cache are relative, which only whole paths can be.
        let cache = std::path::absolute(&cache).map_err(Error::io(&cache))?;
        let token_path = path("HF_TOKEN_PATH")?;
        let token_file = || {
            let file = token_path.or_else(|| Some(home.as_ref()?.join("token")))?;
            std::fs::read_to_string(file).ok().filter(|_| !is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN"))
        };
        let token = variable("HF_TOKEN").or_else(|| variable("HUGGING_FACE_HUB_TOKEN")).or_else(token_file);
        let token = token.map(|t| t.trim().to_string()).filter(|t| !t.is_empty());
        if token.as_ref().is_some_and(|t| !t.bytes().all(|b| b.is_ascii_graphic())) {
            return Err(Error::input(
                "HF_TOKEN",
                "found characters that no token has, expected one like hf_…",
            ));
        }
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        let endpoint = endpoint.trim_end_matches('/').to_string();
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(Error::input(
                "HF_ENDPOINT",
                format!("found {endpoint:?}, expected a URL such as {ENDPOINT}"),
            ));
        }
        // The second is an older name, which does not count beside the first.
        let offline = match variable("HF_HUB_OFFLINE") {
            Some(_) => is_on("HF_HUB_OFFLINE"),
            None => is_on("TRANSFORMERS_OFFLINE"),
        };
        Ok(Self { cache, endpoint, token, offline })
    }
}

/// A path with `~`, `~USER`, `$NAME` and `${NAME}` replaced as Python's
/// `expandvars(expanduser(path))` does: in this order, each once; what a variable holds is not
/// looked at again, and one that is not set stays as it is written.
///
/// A user who is not known is an error, where Python leaves the name as it is: files would go into
/// a folder called `~USER`.
fn expand(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    expand_user(path, variable).map(|path| expand_variables(&path, variable))
}

fn expand_user(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let Some(rest) = path.strip_prefix('~') else { return Ok(path.to_string()) };
    let (user, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let home = match user {
        "" => variable("HOME").or_else(|| std::env::home_dir()?.to_str().map(String::from)),
        user => home_of(user),
    };
    let home = home.ok_or_else(|| format!("found {path}, expected a path: no home of ~{user} is known"))?;
    let whole = format!("{}{rest}", home.trim_end_matches('/'));
    Ok(if whole.is_empty() { "/".into() } else { whole })
}

/// A user's home, of those that the system's own file lists.
fn home_of(user: &str) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users.lines().map(|line| line.split(':'));
    fields.find_map(|mut line| if line.next() == Some(user) { line.nth(4).map(String::from) } else { None })
}

fn expand_variables(path: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let (mut done, mut rest) = (String::new(), path);
    while let Some((before, after)) = rest.split_once('$') {
        done.push_str(before);
        let word = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
        let (name, written) = match (after.strip_prefix('{').and_then(|inside| inside.split_once('}')), word)
        {
            (Some((name, _)), _) => (name, name.len() + 2),
            (None, word) => (&after[..word], word),
        };
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => done.push_str(&value),
            None => done.push_str(&rest[before.len()..before.len() + 1 + written]),
        }
        rest = &after[written..];
    }
    done + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Environment> {
        let find = |name: &str| variables.iter().find(|v| v.0 == name).map(|v| v.1.to_string());
        Environment::from(&find)
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        let cache = |variables| of(variables).unwrap().cache.display().to_string();
        assert_eq!(cache(&[("HOME", "/u")]), "/u/.cache/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), "/x/huggingface/hub");
        assert_eq!(cache(&[("HOME", "/u"), ("HF_HOME", "/h")]), "/h/hub");
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/o")]), "/o");
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/c")]), "/c");
        assert!(of(&[]).is_err());
    }

    /// Expected values are those of Python's `os.path.expandvars(os.path.expanduser(...))`.
    #[test]
    fn paths_are_expanded_as_python_does() {
        let find = |name: &str| match name {
            "HOME" => Some("/u/".to_string()),
            "A" => Some("/a".to_string()),
            "B_1" => Some("$A".to_string()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        for (written, expected) in [
            ("~", "/u"),
            ("~/x", "/u/x"),
            ("/x/~", "/x/~"),
            ("x~", "x~"),
            ("$A/x", "/a/x"),
            ("${A}x", "/ax"),
            ("$Ax/y", "$Ax/y"),
            ("$B_1/$A", "$A//a"),
            ("${B_1}", "$A"),
            ("$EMPTY/x", "/x"),
            ("$NONE/${NONE}/x", "$NONE/${NONE}/x"),
            ("$", "$"),
            ("$$A", "$/a"),
            ("${A", "${A"),
            ("${}", "${}"),
            ("$A-$A", "/a-/a"),
            ("~/$A", "/u//a"),
            ("é$Aé", "é/aé"),
        ] {
            assert_eq!(expand(written, &find).as_deref(), Ok(expected), "{written}");
        }
        assert_eq!(expand("~root/x", &find).unwrap(), format!("{}/x", home_of("root").unwrap()));
        assert!(expand("~no-such-user/x", &find).unwrap_err().contains("no home of ~no-such-user is known"));
        assert_eq!(
            expand("~", &|name| find(name).filter(|_| name != "HOME")).is_ok(),
            std::env::home_dir().is_some()
        );
    }

    #[test]
    fn every_path_is_expanded() {
        let cache = |variables: &[(&str, &str)]| {
            of(&[&[("HOME", "/u"), ("SCRATCH", "/s")], variables].concat())
                .unwrap()
                .cache
                .display()
                .to_string()
        };
        assert_eq!(cache(&[("HF_HOME", "~/h")]), "/u/h/hub");
        assert_eq!(cache(&[("HF_HOME", "${SCRATCH}/h")]), "/s/h/hub");
        assert_eq!(cache(&[("HF_HUB_CACHE", "$HOME/c")]), "/u/c");
        assert_eq!(cache(&[("HUGGINGFACE_HUB_CACHE", "~/o")]), "/u/o");
        assert_eq!(cache(&[("XDG_CACHE_HOME", "~/x")]), "/u/x/huggingface/hub");
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mine"), "hf_mine").unwrap();
        let home = dir.path().to_str().unwrap();
        for path in ["~/mine", "$HOME/mine", "${HOME}/mine"] {
            let found = of(&[("HOME", home), ("HF_TOKEN_PATH", path)]).unwrap();
            assert_eq!(found.token.as_deref(), Some("hf_mine"), "{path}");
        }
        let e = of(&[("HF_HOME", "~no-such-user/h")]).err().unwrap().to_string();
        assert!(e.starts_with("HF_HOME: found ~no-such-user/h, expected a path"), "{e}");
    }

    #[test]
    fn tokens_come_from_the_environment_or_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        std::fs::write(dir.path().join("other"), "hf_other").unwrap();
        let other = dir.path().join("other");
        let token = |more: &[(&str, &str)]| of(&[&[("HF_HOME", home)], more].concat()).unwrap().token;
        assert_eq!(token(&[]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN_PATH", other.to_str().unwrap())]).as_deref(), Some("hf_other"));
        assert_eq!(token(&[("HF_TOKEN", " hf_set\n")]).as_deref(), Some("hf_set"));
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        assert!(of(&[("HF_HOME", home), ("HF_TOKEN", "a\nb: c")]).is_err());
    }

    #[test]
    fn switches_and_addresses() {
        let home = ("HF_HOME", "/h");
        assert!(!of(&[home, ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        assert!(of(&[home, ("HF_HUB_OFFLINE", "true")]).unwrap().offline);
        assert!(of(&[home, ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert!(!of(&[home, ("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert!(of(&[home, ("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert_eq!(of(&[home, ("HF_ENDPOINT", "http://mirror/")]).unwrap().endpoint, "http://mirror");
        assert_eq!(of(&[home]).unwrap().endpoint, ENDPOINT);
        assert!(of(&[home, ("HF_ENDPOINT", "mirror")]).is_err());
    }
}
