//! Requests to the hub, and downloads that are whole or not there.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use ureq::http::{HeaderMap, Uri};
use ureq::{Agent, Body};

use super::cache::Cached;
use super::environment::Environment;
use super::{HubName, Watch};
use crate::error::{Error, Result};

/// A server that does not answer for this long is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// Neither is one that stops in the middle.
const SILENCE: Duration = Duration::from_secs(30);
/// Redirects followed: a renamed repository, then where large files are.
const REDIRECTS: usize = 5;
/// Times a download goes on after it broke off, as long as each brings something.
const ATTEMPTS: usize = 5;
/// Bytes of a listing, at most.
const LISTING: u64 = 64 << 20;

/// Why something was not had.
pub enum Failure {
    /// The server answered, with this status, error code (`GatedRepo`, ...) and message.
    Status {
        /// HTTP status.
        status: u16,
        /// `X-Error-Code`, or empty.
        code: String,
        /// `X-Error-Message`, or empty.
        message: String,
        /// The server's host.
        host: String,
        /// Whether that is the hub, not where it keeps large files.
        is_hub: bool,
    },
    /// There was no answer.
    Unreachable {
        /// Whom.
        host: String,
        /// What the network said.
        why: String,
    },
    /// The answer ended too early: what was found, and what is kept of it.
    BrokeOff(String),
    /// The answer makes no sense, or is not what was announced.
    Wrong(String),
    /// This machine refused.
    Local(Error),
}

impl Failure {
    /// Whether asking later, or the cache, may help.
    pub fn is_temporary(&self) -> bool {
        match self {
            Failure::Status { status, .. } => *status >= 500 || *status == 429,
            Failure::Unreachable { .. } | Failure::BrokeOff(_) => true,
            Failure::Wrong(_) | Failure::Local(_) => false,
        }
    }

    /// What was found.
    pub fn describe(&self) -> String {
        match self {
            Failure::Status { status, message, host, .. } => {
                let message: String = message.chars().take(200).filter(|c| !c.is_control()).collect();
                let message = if message.is_empty() { message } else { format!(" ({message})") };
                format!("{host} answered with status {status}{message}")
            }
            Failure::Unreachable { host, why } => format!("{host} cannot be reached ({why})"),
            Failure::BrokeOff(problem) | Failure::Wrong(problem) => problem.clone(),
            Failure::Local(e) => e.to_string(),
        }
    }
}

impl From<Error> for Failure {
    fn from(e: Error) -> Self {
        Failure::Local(e)
    }
}

/// A connection to the hub.
pub struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// What the hub answers when asked for a revision: its commit and the files there.
#[derive(Deserialize)]
pub struct Listing {
    /// The commit.
    pub sha: String,
    /// The files.
    pub siblings: Vec<Sibling>,
}

/// A file of a [`Listing`].
#[derive(Deserialize)]
pub struct Sibling {
    /// Its path in the repository.
    pub rfilename: String,
}

/// What a server says of a file before its bytes.
#[derive(Default)]
struct Announced {
    etag: Option<String>,
    size: Option<u64>,
}

impl Announced {
    /// Adds what these headers say. Those of the hub itself come first and count: the server behind
    /// a redirect has an etag of its own. A redirect inside the hub (of a renamed repository) has
    /// none of the file's, unless as a linked one.
    fn add(&mut self, headers: &HeaderMap) {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
        let location = text("location");
        let etag = text("etag").filter(|_| location.is_none_or(|l| !l.starts_with('/')));
        let etag = text("x-linked-etag").or(etag);
        let etag = etag.map(|e| e.trim_start_matches("W/").trim_matches('"').to_string());
        self.etag = self.etag.take().or(etag);
        let total = text("content-range").and_then(|r| r.rsplit_once('/')).map(|(_, total)| total);
        let length = text("content-length").filter(|_| location.is_none());
        let size = text("x-linked-size").or(total).or(length).and_then(|s| s.parse().ok());
        self.size = self.size.or(size);
    }

    /// Etag and size, which every file has.
    fn complete(&self) -> Result<(String, u64), Failure> {
        let is_name = |e: &&String| {
            !e.is_empty()
                && !e.starts_with('.')
                && e.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        match (self.etag.as_ref().filter(is_name), self.size) {
            (Some(etag), Some(size)) => Ok((etag.clone(), size)),
            (None, _) => {
                Err(Failure::Wrong(format!("found the etag {:?}, expected a name for the cache", self.etag)))
            }
            (_, None) => Err(Failure::Wrong(
                "found no size in the answer, expected one to check the download by".into(),
            )),
        }
    }
}

impl Client {
    /// To the hub of the environment. Proxies are those of the environment too.
    pub fn new(environment: &Environment) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // Followed here, because the hub says what a file is in the redirect itself.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            // Sizes are those of the files.
            .accept_encoding("identity")
            .user_agent(concat!("colloquy/", env!("CARGO_PKG_VERSION")));
        Self {
            agent: config.build().into(),
            endpoint: environment.endpoint.clone(),
            token: environment.token.clone(),
        }
    }

    /// Where the hub is.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The commit and the files of a revision.
    pub fn info(&self, name: &HubName) -> Result<Listing, Failure> {
        let revision = name.revision.replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{revision}", self.endpoint, name.repository);
        let (Some(response), _) = self.follow(&url, |_| Ok(Some(0)))? else { return announced_nothing() };
        let mut text = String::new();
        let read = response.into_body().into_reader().take(LISTING).read_to_string(&mut text);
        read.map_err(|e| Failure::Unreachable { host: host(&url), why: e.to_string() })?;
        serde_json::from_str(&text).map_err(|e| {
            Failure::Wrong(format!("found no listing of a repository at {url} ({e}); check HF_ENDPOINT"))
        })
    }

    /// A file's bytes, of which none are asked for.
    pub fn size(&self, name: &HubName, commit: &str, file: &str) -> Result<u64, Failure> {
        let mut url = self.file_url(name, commit, file);
        for _ in 0..REDIRECTS {
            let response = self.request(self.agent.head(&url), &url, 0)?;
            let mut announced = Announced::default();
            announced.add(response.headers());
            if let Some(size) = announced.size {
                return Ok(size);
            }
            match location(&url, response.headers())? {
                Some(next) => url = next,
                None => break,
            }
        }
        announced_nothing()
    }

    fn file_url(&self, name: &HubName, commit: &str, file: &str) -> String {
        format!("{}/{}/resolve/{commit}/{file}", self.endpoint, name.repository)
    }

    /// One request. The token goes to the hub and nobody else.
    fn request(
        &self,
        request: ureq::RequestBuilder<ureq::typestate::WithoutBody>,
        url: &str,
        from: u64,
    ) -> Result<ureq::http::Response<Body>, Failure> {
        let mut request = request;
        if let Some(token) = self.token.as_ref().filter(|_| origin(url) == origin(&self.endpoint)) {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        let unreachable = |e: ureq::Error| Failure::Unreachable { host: host(url), why: e.to_string() };
        let response = request.call().map_err(unreachable)?;
        let status = response.status();
        if status.is_success() || status.is_redirection() {
            return Ok(response);
        }
        let text = |name: &str| {
            response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_string()
        };
        Err(Failure::Status {
            status: status.as_u16(),
            code: text("x-error-code"),
            message: text("x-error-message"),
            host: host(url),
            is_hub: origin(url) == origin(&self.endpoint),
        })
    }

    /// Asks and follows redirects. Before each request, `from` says from which byte on by what was
    /// announced so far, or that no more is needed.
    fn follow(
        &self,
        url: &str,
        mut from: impl FnMut(&Announced) -> Result<Option<u64>, Failure>,
    ) -> Result<(Option<ureq::http::Response<Body>>, Announced), Failure> {
        let mut url = url.to_string();
        let mut announced = Announced::default();
        for _ in 0..REDIRECTS {
            let Some(start) = from(&announced)? else { return Ok((None, announced)) };
            let response = self.request(self.agent.get(&url), &url, start)?;
            announced.add(response.headers());
            match location(&url, response.headers())? {
                Some(next) if response.status().is_redirection() => url = next,
                _ if response.status().is_redirection() => {
                    return Err(Failure::Wrong(format!("found a redirect of {url} without a location")));
                }
                _ => return Ok((Some(response), announced)),
            }
        }
        Err(Failure::Wrong(format!("found more than {REDIRECTS} redirects, the last to {url}")))
    }

    /// Brings a file into the cache, unless its bytes are there under another name.
    pub fn download(
        &self,
        name: &HubName,
        cached: &Cached,
        file: &str,
        watch: &dyn Watch,
    ) -> Result<(), Failure> {
        let url = self.file_url(name, cached.commit(), file);
        let mut part: Option<Part> = None;
        let mut attempts = 0;
        loop {
            let had = part.as_ref().map_or(0, |p| p.bytes);
            let answer = self.follow(&url, |announced| {
                // The hub itself redirects to large files only; those are worth going on with.
                if part.is_none() && announced.etag.is_some() && announced.size.is_some() {
                    let (etag, size) = announced.complete()?;
                    part = Some(Part::open(cached, etag, size, watch)?);
                }
                Ok(part.as_ref().map_or(Some(0), |p| (!p.is_complete()).then_some(p.bytes)))
            });
            let result = match answer {
                Ok((None, _)) => Ok(()),
                Ok((Some(response), announced)) => {
                    let (etag, size) = announced.complete()?;
                    if part.is_none() {
                        part = Some(Part::open(cached, etag, size, watch)?);
                    }
                    let part = part.as_mut().expect("opened");
                    part.receive(response, file, watch)
                }
                Err(failure) => Err(failure),
            };
            match (result, part.as_ref().map_or(0, |p| p.bytes)) {
                (Ok(()), _) => break,
                // Goes on where it broke off.
                (Err(failure), now) if failure.is_temporary() && now > had && attempts < ATTEMPTS => {
                    attempts += 1;
                    watch.note(&format!("hub      {file}: {}; going on from byte {now}", failure.describe()));
                    std::thread::sleep(Duration::from_secs(1));
                }
                (Err(failure), _) => return Err(failure),
            }
        }
        let Some(part) = part else { return announced_nothing() };
        let etag = part.etag.clone();
        part.finish(file)?;
        Ok(cached.link(file, &etag)?)
    }
}

/// A blob under way: `ETAG.incomplete` beside its place, as huggingface_hub has it, which takes its
/// name only when it is whole.
struct Part {
    etag: String,
    size: u64,
    path: std::path::PathBuf,
    blob: std::path::PathBuf,
    file: File,
    /// Bytes there.
    bytes: u64,
    /// The blob itself is there already.
    is_known: bool,
    _lock: File,
}

impl Part {
    fn open(cached: &Cached, etag: String, size: u64, watch: &dyn Watch) -> Result<Self> {
        let blob = cached.blob(&etag)?;
        let lock = cached.lock(&etag, watch)?;
        let is_known = std::fs::metadata(&blob).is_ok_and(|m| m.len() == size);
        let path = blob.with_file_name(format!("{etag}.incomplete"));
        // What can be checked when it is whole is worth going on with; the rest is small.
        let goes_on = sha256_of(&etag).is_some() && std::fs::metadata(&path).is_ok_and(|m| m.len() <= size);
        let file = File::options()
            .append(true)
            .create(true)
            .open(&path)
            .and_then(|file| {
                if !goes_on {
                    file.set_len(0)?;
                }
                Ok(file)
            })
            .map_err(Error::io(&path))?;
        let bytes = if is_known { size } else { file.metadata().map_err(Error::io(&path))?.len() };
        Ok(Self { etag, size, path, blob, file, bytes, is_known, _lock: lock })
    }

    fn is_complete(&self) -> bool {
        self.bytes == self.size
    }

    /// Adds the bytes of an answer.
    fn receive(
        &mut self,
        response: ureq::http::Response<Body>,
        file: &str,
        watch: &dyn Watch,
    ) -> Result<(), Failure> {
        if self.is_complete() {
            return Ok(());
        }
        let range = response.headers().get("content-range").and_then(|v| v.to_str().ok());
        match (response.status().as_u16(), range) {
            (206, Some(range)) if range.starts_with(&format!("bytes {}-", self.bytes)) => {}
            (206, range) => {
                let range = range.unwrap_or("none");
                return Err(Failure::Wrong(format!(
                    "found the range {range}, expected bytes from {}",
                    self.bytes
                )));
            }
            // All of it, whatever was asked for.
            _ => {
                self.file.set_len(0).map_err(Error::io(&self.path))?;
                self.bytes = 0;
            }
        }
        watch.begin(file, self.size, self.bytes);
        let result = self.copy(response, watch);
        watch.end();
        result
    }

    fn copy(&mut self, response: ureq::http::Response<Body>, watch: &dyn Watch) -> Result<(), Failure> {
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 18];
        loop {
            let n = match body.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.broke_off(&e.to_string())),
            };
            if n == 0 {
                break;
            }
            if self.bytes + n as u64 > self.size {
                let _ = std::fs::remove_file(&self.path);
                return Err(Failure::Wrong(format!(
                    "found more bytes than the {} that were announced; nothing of it is kept",
                    self.size
                )));
            }
            self.file.write_all(&buffer[..n]).map_err(Error::io(&self.path))?;
            self.bytes += n as u64;
            watch.advance(n as u64);
        }
        if self.bytes < self.size { Err(self.broke_off("the connection ended")) } else { Ok(()) }
    }

    fn broke_off(&self, why: &str) -> Failure {
        let kept = match sha256_of(&self.etag) {
            Some(_) => "the next try goes on from there",
            None => "nothing of it is kept",
        };
        let (found, expected) = (self.bytes, self.size);
        Failure::BrokeOff(format!("found {found} bytes, expected {expected} as announced ({why}); {kept}"))
    }

    /// Checks what can be checked, and gives the blob its name.
    fn finish(self, file: &str) -> Result<(), Failure> {
        if self.is_known {
            let _ = std::fs::remove_file(&self.path);
            return Ok(());
        }
        if let Some(expected) = sha256_of(&self.etag) {
            let found = sha256(&self.path)?;
            if found != expected {
                std::fs::remove_file(&self.path).map_err(Error::io(&self.path))?;
                return Err(Failure::Wrong(format!(
                    "found contents of SHA-256 {found}, expected {expected}; nothing of {file} is kept, so try again"
                )));
            }
        }
        self.file.sync_all().map_err(Error::io(&self.path))?;
        Ok(std::fs::rename(&self.path, &self.blob).map_err(Error::io(&self.blob))?)
    }
}

impl Drop for Part {
    /// What the next try cannot go on with.
    fn drop(&mut self) {
        if sha256_of(&self.etag).is_none() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The etag of a large file is the SHA-256 of its contents.
fn sha256_of(etag: &str) -> Option<&str> {
    (etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit())).then_some(etag)
}

fn sha256(path: &Path) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let mut hash = Sha256::new();
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path))?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

fn announced_nothing<T>() -> Result<T, Failure> {
    Err(Failure::Wrong("found no size in the answer, expected one to check the download by".into()))
}

/// Scheme, host and port.
fn origin(url: &str) -> Option<String> {
    let uri: Uri = url.parse().ok()?;
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

/// The host, for a person.
fn host(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    uri.and_then(|u| u.authority().map(|a| a.to_string())).unwrap_or_else(|| url.to_string())
}

/// Where a redirect leads.
fn location(url: &str, headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(location) = headers.get("location") else { return Ok(None) };
    let text =
        location.to_str().map_err(|_| Failure::Wrong(format!("found a redirect of {url} to no address")))?;
    match text.starts_with('/') && !text.starts_with("//") {
        true => Ok(origin(url).map(|origin| format!("{origin}{text}"))),
        false => Ok(Some(text.to_string())),
    }
}
