//! Models and adapters of the Hugging Face hub: from `OWNER/NAME[@REVISION]` to a folder with the
//! files that one consists of.
//!
//! The folder is a snapshot in the cache that Python's huggingface_hub keeps:
//! `models--OWNER--NAME/snapshots/COMMIT/FILE` links to `blobs/ETAG`, `refs/REVISION` holds a
//! commit, an empty `.no_exist/COMMIT/FILE` says that the commit has no such file. What either
//! program has downloaded, the other finds. A revision is resolved to its commit once, and every
//! file is asked for by that commit, so that files of two commits never make one model.
//!
//! Downloads are checked, resumed and have time limits (`transfer.rs`).

mod cache;
mod environment;
mod transfer;

use std::collections::BTreeSet;
use std::path::PathBuf;

use self::cache::Cached;
use self::environment::Environment;
use self::transfer::{Client, Failure, Listing};
use crate::adapter::{ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapters_in, holding, sort_naturally};
use crate::error::{Error, Result};
use crate::model::{
    ADAPTER_IS_NO_MODEL, CONFIG, INDEX, SINGLE, TEXTS, is_other_weights, no_weights, shard_names,
};

/// The revision of a name that gives none.
const MAIN: &str = "main";

/// `OWNER/NAME[@REVISION]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubName {
    /// `OWNER/NAME`.
    pub repository: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl HubName {
    /// The name in `text`, if it is one.
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, MAIN));
        let (owner, name) = repository.split_once('/')?;
        let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let is_part = |part: &str| {
            (1..=96).contains(&part.len())
                && part.chars().all(inside)
                && !part.starts_with(['.', '-'])
                && !part.ends_with(['.', '-'])
                && !part.contains("--")
                && !part.contains("..")
        };
        // A branch may have slashes in its name.
        let is_revision = !revision.is_empty()
            && revision.split('/').all(|p| !p.is_empty() && !p.starts_with('.') && p.chars().all(inside));
        (is_part(owner) && is_part(name) && is_revision)
            .then(|| Self { repository: repository.into(), revision: revision.into() })
    }

    /// Whether the revision is a whole commit, which never changes.
    fn is_pinned(&self) -> bool {
        self.revision.len() == 40 && self.revision.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// The same repository at one commit.
    pub fn at(&self, commit: &str) -> Self {
        Self { repository: self.repository.clone(), revision: commit.into() }
    }

    /// An error about one of its files, or about the whole.
    fn error(&self, file: Option<&str>, problem: impl ToString) -> Error {
        let file = file.map_or(String::new(), |f| format!(", {f}"));
        Error::input(format!("{self}{file}"), problem)
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.repository),
            revision => write!(f, "{}@{revision}", self.repository),
        }
    }
}

/// What `path` names once its revision was resolved to `commit`; a folder, which has no commit, is named as before.
pub fn pinned(path: &str, commit: Option<&str>) -> String {
    match (HubName::parse(path), commit) {
        (Some(name), Some(commit)) => name.at(commit).to_string(),
        _ => path.to_string(),
    }
}

/// Who is told how downloads go.
pub trait Watch {
    /// Something a person should know.
    fn note(&self, text: &str);
    /// A file of so many bytes comes, so many of which are there already.
    fn begin(&self, file: &str, bytes: u64, there: u64);
    /// So many bytes more.
    fn advance(&self, bytes: u64);
    /// The file is there, or has failed.
    fn end(&self);
}

/// What a repository is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A model in transformers' format.
    Model,
    /// A PEFT adapter.
    Adapter,
}

impl Kind {
    /// The file that must be there.
    fn config(self) -> &'static str {
        match self {
            Kind::Model => CONFIG,
            Kind::Adapter => ADAPTER_CONFIG,
        }
    }

    /// The files beside the weights that are read, where there are any.
    fn texts(self) -> &'static [&'static str] {
        match self {
            Kind::Model => &TEXTS,
            Kind::Adapter => &[ADAPTER_CONFIG],
        }
    }

    /// What a folder of it is called.
    fn folder(self) -> &'static str {
        match self {
            Kind::Model => "a model folder",
            Kind::Adapter => "an adapter folder",
        }
    }
}

/// Files of a model or adapter in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The folder of the model or adapter.
    pub folder: PathBuf,
    /// The commit that it is of.
    pub commit: String,
}

/// What the hub has, as far as a listing of it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// A folder with the model's texts; its weights may lack.
    pub folder: PathBuf,
    /// The commit.
    pub commit: String,
    /// Files of weights and their bytes, none where they are not known without the network.
    pub weights: Vec<(String, u64)>,
    /// Whether the weights are in the cache too.
    pub is_complete: bool,
}

/// Downloads what the cache lacks of a model or adapter, and gives its folder.
pub fn fetch(name: &HubName, kind: Kind, watch: &dyn Watch) -> Result<Snapshot> {
    let session = Session::open(name, kind, watch)?;
    let Source { cached, listing } = session.source()?;
    if let Some((client, files)) = listing {
        for file in session.text_files(&cached, &files)? {
            session.ensure(&client, &cached, file)?;
        }
        for file in session.weight_files(&client, &cached, &files)? {
            session.ensure(&client, &cached, &file)?;
        }
        session.remember(&cached)?;
    }
    Ok(Snapshot { folder: cached.folder(), commit: cached.commit().into() })
}

/// The same of a model without weights, of which only sizes are asked for; nothing if the
/// repository is an adapter's.
pub fn look(name: &HubName, watch: &dyn Watch) -> Result<Option<Overview>> {
    let session = Session::open(name, Kind::Model, watch)?;
    let known = Cached::find(&session.environment.cache, name);
    if known.is_some_and(|c| c.has(ADAPTER_CONFIG) && !c.has(CONFIG)) {
        return Ok(None);
    }
    let Source { cached, listing } = session.source()?;
    if listing.as_ref().is_some_and(|(_, files)| files.contains(ADAPTER_CONFIG)) {
        return Ok(None);
    }
    let mut weights = Vec::new();
    if let Some((client, files)) = listing {
        for file in session.text_files(&cached, &files)? {
            session.ensure(&client, &cached, file)?;
        }
        for file in session.weight_files(&client, &cached, &files)? {
            let bytes = match cached.bytes(&file) {
                Some(bytes) => bytes,
                None => {
                    client.size(name, cached.commit(), &file).map_err(|e| session.explain(e, Some(&file)))?
                }
            };
            weights.push((file, bytes));
        }
        session.remember(&cached)?;
    } else {
        let files = cached.weight_files(Kind::Model)?;
        weights.extend(files.into_iter().filter_map(|file| Some((file.clone(), cached.bytes(&file)?))));
    }
    let is_complete = cached.missing(Kind::Model).is_empty();
    Ok(Some(Overview { folder: cached.folder(), commit: cached.commit().into(), weights, is_complete }))
}

/// A name, where it is looked for, and who is told.
struct Session<'a> {
    name: &'a HubName,
    kind: Kind,
    environment: Environment,
    watch: &'a dyn Watch,
}

/// What a revision is: a commit's place in the cache, and, where it was asked for, the files that the hub lists for it.
struct Source {
    cached: Cached,
    listing: Option<(Client, BTreeSet<String>)>,
}

impl<'a> Session<'a> {
    fn open(name: &'a HubName, kind: Kind, watch: &'a dyn Watch) -> Result<Self> {
        Ok(Self { name, kind, environment: Environment::read()?, watch })
    }

    /// Resolves the revision: without the network where that is asked for, or where it is a commit
    /// of which the cache has everything.
    fn source(&self) -> Result<Source> {
        let cache = &self.environment.cache;
        let here = |cached: Cached| Ok(Source { cached, listing: None });
        let known = Cached::find(cache, self.name);
        if self.environment.offline {
            return self.offline(known, "HF_HUB_OFFLINE is set").and_then(here);
        }
        let is_whole = |c: &&Cached| c.is_settled(self.kind) && c.missing(self.kind).is_empty();
        if let Some(cached) = known.as_ref().filter(|_| self.name.is_pinned()).filter(is_whole) {
            return here(cached.clone());
        }
        let client = Client::new(&self.environment);
        match client.info(self.name) {
            Ok(Listing { sha, siblings }) => {
                if !self.name.at(&sha).is_pinned() || (self.name.is_pinned() && sha != self.name.revision) {
                    let problem =
                        format!("found commit {sha:?} at {}, expected one of 40 digits", client.endpoint());
                    return Err(self.name.error(None, problem));
                }
                let files = siblings.into_iter().map(|s| s.rfilename).collect();
                let cached = Cached::new(cache, self.name, &sha);
                Ok(Source { cached, listing: Some((client, files)) })
            }
            Err(failure) if failure.is_temporary() => {
                let why = failure.describe();
                let cached = self.offline(known, &why)?;
                let commit = cached.commit();
                self.watch
                    .note(&format!("hub      {why}; using commit {commit} of {} from the cache", self.name));
                here(cached)
            }
            Err(failure) => Err(self.explain(failure, None)),
        }
    }

    /// What the cache has, if that is all; `why` the hub is not asked.
    fn offline(&self, known: Option<Cached>, why: &str) -> Result<Cached> {
        let folder = self.environment.cache.display();
        match known {
            None => Err(self.name.error(
                None,
                format!(
                    "{why}, and found nothing of it in the cache {folder}; \
                     download it where there is a network, or give {}",
                    self.kind.folder()
                ),
            )),
            Some(cached) => match cached.missing(self.kind).first() {
                None => Ok(cached),
                Some(file) if file == ADAPTER_CONFIG && !adapters_in(&cached.folder()).is_empty() => {
                    Err(self.inside(&adapters_in(&cached.folder())))
                }
                Some(file) => Err(self.name.error(
                    Some(file),
                    format!(
                        "{why}, and found no such file of commit {} in the cache {folder}; \
                         download it where there is a network",
                        cached.commit()
                    ),
                )),
            },
        }
    }

    /// The texts that there are. Those that lack are written down, so that a commit is known to be
    /// complete without the network.
    fn text_files(&self, cached: &Cached, files: &BTreeSet<String>) -> Result<Vec<&'static str>> {
        let is_adapter = files.contains(ADAPTER_CONFIG);
        match self.kind {
            // transformers would load the adapter's base, and the adapter.
            Kind::Model if is_adapter => {
                return Err(self.name.error(Some(ADAPTER_CONFIG), ADAPTER_IS_NO_MODEL));
            }
            Kind::Model if !files.contains(CONFIG) => {
                let problem = format!("found no {CONFIG}, expected a model in transformers' format");
                return Err(self.name.error(None, problem));
            }
            Kind::Adapter if !is_adapter => {
                let ending = format!("/{ADAPTER_CONFIG}");
                let mut inside: Vec<String> =
                    files.iter().filter_map(|f| f.strip_suffix(&ending)).map(String::from).collect();
                sort_naturally(&mut inside);
                return Err(self.inside(&inside));
            }
            _ => {}
        }
        let (there, lacking): (Vec<&str>, Vec<&str>) =
            self.kind.texts().iter().partition(|t| files.contains(**t));
        for file in lacking {
            cached.write_absent(file)?;
        }
        Ok(there)
    }

    /// The error of a repository that is no adapter itself; `adapters` are in its folders.
    fn inside(&self, adapters: &[String]) -> Error {
        let found = format!("found no {ADAPTER_CONFIG}, expected a PEFT adapter");
        match adapters {
            [] => self.name.error(None, found),
            some => self.name.error(None, format!("{found}; {}, downloaded", holding(some))),
        }
    }

    fn no_adapter_weights(&self, files: &BTreeSet<String>) -> Error {
        const OTHER: &str = "adapter_model.bin";
        let found = if files.contains(OTHER) { OTHER } else { "no weights" };
        self.name.error(None, format!("found {found}, expected {ADAPTER_WEIGHTS}"))
    }

    /// The files of weights: one, or those of the index.
    fn weight_files(
        &self,
        client: &Client,
        cached: &Cached,
        files: &BTreeSet<String>,
    ) -> Result<Vec<String>> {
        if self.kind == Kind::Adapter {
            return match files.contains(ADAPTER_WEIGHTS) {
                true => Ok(vec![ADAPTER_WEIGHTS.into()]),
                false => Err(self.no_adapter_weights(files)),
            };
        }
        if files.contains(SINGLE) {
            return Ok(vec![SINGLE.into()]);
        }
        if !files.contains(INDEX) {
            let others: Vec<String> = files.iter().filter(|name| is_other_weights(name)).cloned().collect();
            return Err(self.name.error(None, no_weights(&others)));
        }
        self.ensure(client, cached, INDEX)?;
        let shards = shard_names(&cached.folder().join(INDEX))?;
        match shards.iter().find(|s| !files.contains(*s)) {
            Some(shard) => Err(self
                .name
                .error(Some(INDEX), format!("names {shard}, which the repository does not have"))),
            None => Ok(shards.into_iter().collect()),
        }
    }

    /// Downloads a file unless it is there.
    fn ensure(&self, client: &Client, cached: &Cached, file: &str) -> Result<()> {
        if cached.has(file) {
            return Ok(());
        }
        client.download(self.name, cached, file, self.watch).map_err(|e| self.explain(e, Some(file)))
    }

    /// Writes down what the revision was, so that it is known without the network.
    fn remember(&self, cached: &Cached) -> Result<()> {
        if self.name.is_pinned() { Ok(()) } else { cached.write_ref(&self.name.revision) }
    }

    /// What failed, and what to do.
    fn explain(&self, failure: Failure, file: Option<&str>) -> Error {
        let Failure::Status { status, code, is_hub, .. } = &failure else {
            return match failure {
                Failure::Local(e) => e,
                other => self.name.error(file, other.describe()),
            };
        };
        let found = failure.describe();
        let page = format!("{}/{}", self.environment.endpoint, self.name.repository);
        let has_token = self.environment.token.is_some();
        let repository = &self.name.repository;
        let advice = match (*status, code.as_str()) {
            // Where large files are, nobody is asked who they are: the address was good for some time only.
            _ if !is_hub => "try again later".into(),
            (403, _) | (_, "GatedRepo") if has_token => {
                format!(
                    "the account of the token that is set has no access; ask for it at {page}, \
                     or set HF_TOKEN to another token"
                )
            }
            (403, _) | (_, "GatedRepo") => {
                format!(
                    "its owner grants access: ask for it at {page}, then set HF_TOKEN to a token of that account"
                )
            }
            (401, _) if has_token => {
                format!(
                    "either there is no {repository} or the token that is set may not read it; \
                     check the name, and HF_TOKEN"
                )
            }
            (401, _) => format!(
                "either there is no {repository} or it is not public; \
                 check the name, or set HF_TOKEN to a token that may read it"
            ),
            (404, "RevisionNotFound") => {
                format!("{repository} has no revision {}; check what follows the @", self.name.revision)
            }
            (404, _) if file.is_some() => "it is listed but not there; try again later".into(),
            (404, _) if self.name.revision == MAIN => {
                format!(
                    "there is no {repository}; check the name ({} of this name is not here either)",
                    self.kind.folder()
                )
            }
            (404, _) => format!("there is no {repository}, or it has no revision {}", self.name.revision),
            _ => "try again later".into(),
        };
        self.name.error(file, format!("{found}: {advice}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let parse = |text: &str| HubName::parse(text).map(|n| (n.repository, n.revision));
        let name = |repository: &str, revision: &str| Some((repository.to_string(), revision.to_string()));
        assert_eq!(parse("meta-llama/Llama-3.2-1B"), name("meta-llama/Llama-3.2-1B", "main"));
        assert_eq!(parse("a/b_c.d@v1.0"), name("a/b_c.d", "v1.0"));
        assert_eq!(parse("a/b@refs/pr/3"), name("a/b", "refs/pr/3"));
        for path in [
            "embedded", "a", "/a/b", "./a", "../a", "a/b/c", "a/b@", "a/b@../c", "a/b@x//y", "a b/c", "a/.b",
            "a--b/c", "a/b@x y",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn a_commit_is_forty_digits() {
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let name = HubName::parse("a/b").unwrap();
        assert!(!name.is_pinned() && name.at(commit).is_pinned() && !name.at(&commit[1..]).is_pinned());
        assert_eq!(pinned("a/b@v1", Some(commit)), format!("a/b@{commit}"));
        assert_eq!((pinned("a/b@v1", None), pinned("/a", Some(commit))), ("a/b@v1".into(), "/a".into()));
        assert_eq!((name.to_string(), name.at("v1").to_string()), ("a/b".into(), "a/b@v1".into()));
    }
}
