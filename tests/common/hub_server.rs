//! A small hub: the addresses, headers and redirects of the real one, on this machine, with a list of what was asked.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::json;
use sha2::{Digest, Sha256};

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Files are for those whom the owner lets in.
    Gated,
    /// Nobody who is unknown is told whether there is such a repository.
    Hidden,
    /// The server has no time.
    Busy,
    /// The bodies of this file end after so many bytes, counted from its beginning.
    CutAt(&'static str, usize),
    /// One byte of this file is another.
    Damaged(&'static str),
    /// More bytes of this file come than were announced.
    Longer(&'static str),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET /path`.
    pub line: String,
    /// The Host header.
    pub host: String,
    /// The token that came with it.
    pub token: Option<String>,
    /// The Range header.
    pub range: Option<String>,
}

/// A repository `test/model`, and what it is asked.
pub struct Hub {
    port: u16,
    state: Arc<Mutex<State>>,
}

struct State {
    fault: Fault,
    /// Branches and tags.
    refs: BTreeMap<String, String>,
    /// Files by commit.
    commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    requests: Vec<Request>,
}

pub const REPOSITORY: &str = "test/model";

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Large files are those of weights: their etag is a SHA-256, and they lie elsewhere.
fn is_large(file: &str) -> bool {
    file.ends_with(".safetensors") || file.ends_with(".bin")
}

/// As the hub names contents.
pub fn etag(file: &str, bytes: &[u8]) -> String {
    let hex = hex(bytes);
    if is_large(file) { hex } else { hex[..40].to_string() }
}

impl Hub {
    /// Starts it, with nothing in it.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State {
            fault: Fault::None,
            refs: BTreeMap::new(),
            commits: BTreeMap::new(),
            requests: Vec::new(),
        };
        let state = Arc::new(Mutex::new(state));
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || answer(stream, port, &shared));
            }
        });
        Self { port, state }
    }

    /// HF_ENDPOINT.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Puts files into a new commit of `branch`; the commit.
    pub fn commit(&self, branch: &str, files: BTreeMap<String, Vec<u8>>) -> String {
        let mut all = Vec::new();
        files.iter().for_each(|(name, bytes)| all.extend([name.as_bytes(), bytes].concat()));
        let commit = hex(&[all.as_slice(), branch.as_bytes()].concat())[..40].to_string();
        let mut state = self.state.lock().unwrap();
        state.refs.insert(branch.into(), commit.clone());
        state.commits.insert(commit.clone(), files);
        commit
    }

    pub fn set_fault(&self, fault: Fault) {
        self.state.lock().unwrap().fault = fault;
    }

    /// What was asked since this was last called.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.lock().unwrap().requests)
    }

    /// The request lines, sorted.
    pub fn lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.requests().into_iter().map(|r| r.line).collect();
        lines.sort();
        lines
    }
}

/// The files of a folder.
pub fn files_of(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap());
    let files = entries.filter(|e| e.file_type().unwrap().is_file());
    files.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

fn answer(stream: TcpStream, port: u16, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            text => head.push(text.to_string()),
        }
    }
    let header = |name: &str| {
        head[1..].iter().find_map(|l| {
            let (key, value) = l.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then(|| value.to_string())
        })
    };
    let mut words = head[0].split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let request = Request {
        line: format!("{method} {path}"),
        host: header("host").unwrap_or_default(),
        token: header("authorization").and_then(|v| v.strip_prefix("Bearer ").map(String::from)),
        range: header("range"),
    };
    assert_eq!(header("accept-encoding").as_deref(), Some("identity"), "sizes must be those of the files");
    let mut state = state.lock().unwrap();
    state.requests.push(request.clone());
    let reply = reply(&state, path, &request, port);
    drop(state);
    let body = if method == "HEAD" { &[][..] } else { &reply.body };
    let mut text = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    let mut stream = stream;
    let _ = stream.write_all(text.as_bytes()).and_then(|()| stream.write_all(b"\r\n"));
    let _ = stream.write_all(body);
}

struct Reply {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

fn status(status: u16, code: &str, message: &str) -> Reply {
    let headers = [("X-Error-Code", code), ("X-Error-Message", message)];
    let headers = headers.iter().filter(|h| !h.1.is_empty()).map(|h| (h.0, h.1.to_string()));
    Reply { status, headers: headers.chain([("Content-Length", "0".to_string())]).collect(), body: vec![] }
}

fn reply(state: &State, path: &str, request: &Request, port: u16) -> Reply {
    match state.fault {
        Fault::Busy => return status(503, "", ""),
        Fault::Hidden => return status(401, "", "Invalid username or password."),
        _ => {}
    }
    let commit_of = |revision: &str| {
        let revision = revision.replace("%2F", "/");
        let known = state.refs.get(&revision).cloned();
        known.or_else(|| state.commits.contains_key(&revision).then_some(revision))
    };
    if let Some(revision) = path.strip_prefix(&format!("/api/models/{REPOSITORY}/revision/")) {
        let Some(commit) = commit_of(revision) else {
            return status(404, "RevisionNotFound", "Invalid rev id");
        };
        let siblings: Vec<_> =
            state.commits[&commit].keys().map(|f| json!({"rfilename": f, "unknown": 1})).collect();
        let body = json!({"id": REPOSITORY, "sha": commit, "siblings": siblings}).to_string().into_bytes();
        return Reply { status: 200, headers: vec![("Content-Length", body.len().to_string())], body };
    }
    let large = path.strip_prefix("/large/");
    let Some(rest) = large.or_else(|| path.strip_prefix(&format!("/{REPOSITORY}/resolve/"))) else {
        return status(404, "RepoNotFound", "Repository not found");
    };
    // Where large files are, the address itself is the permission.
    if state.fault == Fault::Gated && large.is_none() && request.token.as_deref() != Some("hf_member") {
        return status(if request.token.is_some() { 403 } else { 401 }, "GatedRepo", "Access is restricted");
    }
    let (revision, file) = rest.split_once('/').unwrap();
    let commit = commit_of(revision).expect("a commit that was listed");
    let bytes = &state.commits[&commit][file];
    let mut headers = vec![("X-Repo-Commit", commit.clone())];
    if is_large(file) && large.is_none() {
        // To another host.
        headers.push(("Location", format!("http://localhost:{port}/large/{commit}/{file}")));
        headers.push(("X-Linked-Etag", format!("\"{}\"", etag(file, bytes))));
        headers.push(("X-Linked-Size", bytes.len().to_string()));
        headers.push(("ETag", "\"of-the-redirect\"".into()));
        headers.push(("Content-Length", "5".into()));
        return Reply { status: 302, headers, body: b"Found".to_vec() };
    }
    let etag = if large.is_some() { "of-the-store".into() } else { etag(file, bytes) };
    headers.push(("ETag", format!("\"{etag}\"")));
    let from: usize = request
        .range
        .as_ref()
        .map_or(0, |r| r.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap());
    let mut body = bytes[from..].to_vec();
    headers.push(("Content-Length", body.len().to_string()));
    if request.range.is_some() {
        headers.push(("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())));
    }
    match state.fault {
        Fault::CutAt(which, at) if which == file => body.truncate(at.saturating_sub(from)),
        Fault::Damaged(which) if which == file => *body.last_mut().unwrap() ^= 1,
        Fault::Longer(which) if which == file => {
            body.extend(b"more");
            headers.retain(|h| h.0 != "Content-Length");
            headers.push(("Content-Length", body.len().to_string()));
        }
        _ => {}
    }
    Reply { status: if request.range.is_some() { 206 } else { 200 }, headers, body }
}
