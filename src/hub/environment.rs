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
    /// Reads the process's: HF_HUB_CACHE, HF_HOME, HF_TOKEN, HF_TOKEN_PATH, HF_HUB_DISABLE_IMPLICIT_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE,
    /// with the older names of some of them.
    pub fn read() -> Result<Self> {
        Self::from(&|name| std::env::var(name).ok().filter(|v| !v.is_empty()))
    }

    fn from(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let path = |name: &str| variable(name).map(PathBuf::from);
        let is_on = |name: &str| {
            variable(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()))
        };
        let home = path("HF_HOME").or_else(|| {
            let folder = path("XDG_CACHE_HOME").or_else(|| Some(path("HOME")?.join(".cache")));
            folder.map(|folder| folder.join("huggingface"))
        });
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE"));
        let cache = cache.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or_else(|| {
            Error::input(
                "HF_HOME",
                "found neither it nor HF_HUB_CACHE nor HOME, expected a folder for models of the hub",
            )
        })?;
        // Links in the cache are relative, which only whole paths can be.
        let cache = std::path::absolute(&cache).map_err(Error::io(&cache))?;
        let token_file = || {
            let file = path("HF_TOKEN_PATH").or_else(|| Some(home.as_ref()?.join("token")))?;
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
        let offline = is_on("HF_HUB_OFFLINE") || is_on("TRANSFORMERS_OFFLINE");
        Ok(Self { cache, endpoint, token, offline })
    }
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
        assert_eq!(of(&[home, ("HF_ENDPOINT", "http://mirror/")]).unwrap().endpoint, "http://mirror");
        assert_eq!(of(&[home]).unwrap().endpoint, ENDPOINT);
        assert!(of(&[home, ("HF_ENDPOINT", "mirror")]).is_err());
    }
}
