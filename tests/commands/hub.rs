//! Models of the hub, from a small server on this machine: what is asked for and what is not, the cache that Python shares, errors.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::hub_server::*;
use crate::common::shell::*;
use serde_json::{Value, json};

/// A folder for the program to run in, with a cache of its own, and the hub.
struct Desk {
    dir: tempfile::TempDir,
    hub: Hub,
}

impl Desk {
    /// With this model as the hub's main branch.
    fn with(files: BTreeMap<String, Vec<u8>>) -> (Self, String) {
        let desk = Self { dir: tempfile::tempdir().unwrap(), hub: Hub::start() };
        std::fs::write(desk.path().join("in.jsonl"), "{\"tokens\": [1, 5, 9, 12]}\n").unwrap();
        let commit = desk.hub.commit("main", files);
        (desk, commit)
    }

    fn tiny() -> (Self, String) {
        Self::with(tiny())
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = colloquy(self.path(), args);
        for (name, _) in std::env::vars() {
            let upper = name.to_uppercase();
            if upper.starts_with("HF_") || upper.ends_with("_PROXY") || upper.ends_with("_OFFLINE") {
                command.env_remove(name);
            }
        }
        command.env("HF_HOME", self.path().join("home")).env("HF_ENDPOINT", self.hub.endpoint());
        command
    }

    /// Scores a record with a model, which takes its weights; stdout.
    fn score(&self, model: &str) -> String {
        let output = self.try_score(model, &[]);
        assert!(output.status.success(), "{model}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn try_score(&self, model: &str, environment: &[(&str, &str)]) -> Output {
        let args = ["score", "--model", model, "--input", "in.jsonl", "--output", "-", "--device", "cpu"];
        self.command(&args).envs(environment.iter().copied()).output().unwrap()
    }

    /// Its error, one line, which holds all of `expected`.
    fn error(&self, model: &str, environment: &[(&str, &str)], expected: &[&str]) -> String {
        let e = one_error(&self.try_score(model, environment), &["score", model], 1);
        for part in expected {
            assert!(e.contains(part), "`{part}` is not in: {e}");
        }
        e
    }

    /// The repository in the cache.
    fn cache(&self) -> PathBuf {
        self.path().join("home/hub/models--test--model")
    }

    /// Names of what the cache counts as whole.
    fn blobs(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.cache().join("blobs")).into_iter().flatten();
        entries.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|n| !n.contains('.')).collect()
    }
}

/// The smallest model, and files of a repository that are not needed.
fn tiny() -> BTreeMap<String, Vec<u8>> {
    let mut files = files_of(&fixture("llama"));
    files.retain(|name, _| name.starts_with("config") || name.starts_with("model"));
    let more = ["README.md", "pytorch_model.bin", "training_args.bin", "onnx/model.onnx", ".gitattributes"];
    files.extend(more.map(|name| (name.to_string(), b"not needed".to_vec())));
    files
}

/// Another model of the same shape.
fn other() -> BTreeMap<String, Vec<u8>> {
    let mut files = tiny();
    let weights = files.get_mut("model.safetensors").unwrap();
    let mut tensors = weights.split_off(weights.len() / 2);
    tensors.chunks_exact_mut(4).for_each(|x| x[0] ^= 0x55);
    weights.extend(tensors);
    files
}

const MODEL: &str = "model.safetensors";
const CUT: usize = 10_000;

#[test]
fn what_is_needed_is_asked_for_once() {
    let (desk, commit) = Desk::tiny();
    let local = desk.score(&fixture_str("llama"));
    assert_eq!(desk.hub.lines(), [""; 0], "a folder needs no network");
    assert_eq!(desk.score(REPOSITORY), local);
    let info = "GET /api/models/test/model/revision/main".to_string();
    let file = |name: &str| format!("GET /test/model/resolve/{commit}/{name}");
    assert_eq!(
        desk.hub.lines(),
        [info.clone(), format!("GET /large/{commit}/{MODEL}"), file("config.json"), file(MODEL)]
    );
    assert_eq!(desk.score(REPOSITORY), local);
    assert_eq!(desk.hub.lines(), [info], "what a branch is, is asked again; files are not");
    assert_eq!(desk.score(&format!("{REPOSITORY}@{commit}")), local);
    assert_eq!(desk.hub.lines(), [""; 0], "a commit is what it is");
}

#[test]
fn the_cache_is_laid_out_as_pythons() {
    let (desk, commit) = Desk::tiny();
    desk.score(REPOSITORY);
    let cache = desk.cache();
    assert_eq!(std::fs::read_to_string(cache.join("refs/main")).unwrap(), commit);
    let files = tiny();
    for name in ["config.json", MODEL] {
        let link = cache.join("snapshots").join(&commit).join(name);
        let blob = Path::new("../../blobs").join(etag(name, &files[name]));
        assert_eq!(std::fs::read_link(&link).unwrap(), blob, "{name}");
        assert_eq!(std::fs::read(&link).unwrap(), files[name], "{name}");
    }
    let absent = cache.join(".no_exist").join(&commit).join("tokenizer.json");
    assert_eq!(std::fs::metadata(absent).unwrap().len(), 0);
    let mut all: Vec<String> = tree(&cache.join("blobs"), &|_| false).into_keys().collect();
    all.sort();
    let mut expected = vec![etag("config.json", &files["config.json"]), etag(MODEL, &files[MODEL])];
    expected.sort();
    assert_eq!(all, expected, "nothing else is left");
}

#[test]
fn what_python_downloaded_is_used() {
    let (desk, commit) = Desk::tiny();
    let expected = desk.score(&fixture_str("llama"));
    // As huggingface_hub leaves it, in a cache of another place.
    let cache = desk.path().join("elsewhere");
    let repository = cache.join("models--test--model");
    let snapshot = repository.join("snapshots").join(&commit);
    for folder in [&repository.join("blobs"), &repository.join("refs"), &snapshot] {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(repository.join("refs/main"), &commit).unwrap();
    for name in ["config.json", MODEL] {
        let bytes = &tiny()[name];
        std::fs::write(repository.join("blobs").join(etag(name, bytes)), bytes).unwrap();
        std::os::unix::fs::symlink(Path::new("../../blobs").join(etag(name, bytes)), snapshot.join(name))
            .unwrap();
    }
    let cache = cache.to_str().unwrap();
    for offline in ["1", "0"] {
        let output = desk.try_score(REPOSITORY, &[("HF_HUB_CACHE", cache), ("HF_HUB_OFFLINE", offline)]);
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", stderr(&output));
    }
    assert_eq!(desk.hub.lines(), ["GET /api/models/test/model/revision/main"]);
    assert!(!desk.path().join("home").exists(), "HF_HUB_CACHE is where the cache is");
}

#[test]
fn a_revision_is_honoured() {
    let (desk, _) = Desk::tiny();
    let commit = desk.hub.commit("pr/1", other());
    let (first, second) = (desk.score(REPOSITORY), desk.score(&format!("{REPOSITORY}@pr/1")));
    assert_ne!(first, second);
    let lines = desk.hub.lines();
    assert!(lines.contains(&"GET /api/models/test/model/revision/pr%2F1".to_string()), "{lines:?}");
    assert_eq!(desk.score(&format!("{REPOSITORY}@{commit}")), second);
    assert_eq!(std::fs::read_to_string(desk.cache().join("refs/pr/1")).unwrap(), commit);
    // A branch that moved is downloaded again, but for what is the same.
    let moved = desk.hub.commit("main", other());
    desk.hub.requests();
    assert_eq!(desk.score(REPOSITORY), second);
    let lines = desk.hub.lines();
    assert!(lines.contains(&format!("GET /test/model/resolve/{moved}/{MODEL}")), "{lines:?}");
    assert!(!lines.iter().any(|l| l.contains("/large/")), "its bytes are there: {lines:?}");
}

#[test]
fn a_folder_of_that_name_wins() {
    let (desk, _) = Desk::tiny();
    copy(&fixture("llama"), &desk.path().join(REPOSITORY));
    desk.score(REPOSITORY);
    assert_eq!(desk.hub.lines(), [""; 0]);
}

#[test]
fn the_token_is_for_the_hub_alone() {
    let (desk, _) = Desk::tiny();
    desk.hub.set_fault(Fault::Gated);
    std::fs::create_dir(desk.path().join("home")).unwrap();
    std::fs::write(desk.path().join("home/token"), "hf_member\n").unwrap();
    let expected = ["test/model, config.json: ", "status 403 (Access is restricted)", "HF_TOKEN"];
    let e = desk.error(REPOSITORY, &[("HF_TOKEN", "hf_guest")], &expected);
    assert!(!e.contains("hf_guest"), "{e}");
    desk.hub.requests();
    desk.score(REPOSITORY);
    let requests = desk.hub.requests();
    assert_eq!(requests.len(), 4);
    for request in requests {
        let is_hub = request.host.starts_with("127.0.0.1");
        assert_eq!(is_hub, !request.line.contains("/large/"), "{request:?}");
        assert_eq!(request.token.as_deref(), is_hub.then_some("hf_member"), "{request:?}");
    }
}

#[test]
fn what_the_hub_does_not_give() {
    let (desk, _) = Desk::tiny();
    let endpoint = desk.hub.endpoint();
    desk.hub.set_fault(Fault::Gated);
    let page = format!("ask for it at {endpoint}/test/model");
    desk.error(REPOSITORY, &[], &["test/model, config.json: ", "status 401", &page, "set HF_TOKEN"]);
    desk.hub.set_fault(Fault::Hidden);
    desk.error(REPOSITORY, &[], &["test/model: ", "status 401", "no test/model", "set HF_TOKEN"]);
    desk.error(REPOSITORY, &[("HF_TOKEN", "hf_x")], &["status 401", "the token that is set may not read it"]);
    desk.hub.set_fault(Fault::None);
    desk.error("test/nothing", &[], &["test/nothing: ", "status 404", "there is no test/nothing"]);
    desk.error("test/model@v9", &[], &["test/model@v9: ", "status 404", "no revision v9"]);
    desk.hub.set_fault(Fault::Busy);
    desk.error(REPOSITORY, &[], &["test/model: ", "status 503", "nothing of it in the cache"]);
    desk.error("neither/a/name", &[], &["neither/a/name: found no folder", "OWNER/NAME"]);
    assert_eq!(desk.blobs(), [""; 0]);
}

#[test]
fn without_a_network_there_is_the_cache() {
    let (desk, commit) = Desk::tiny();
    let offline = ("HF_HUB_OFFLINE", "1");
    // A port that nobody listens on.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoint = format!("http://{closed}");
    let gone = ("HF_ENDPOINT", endpoint.as_str());
    desk.error(
        REPOSITORY,
        &[offline],
        &["test/model: HF_HUB_OFFLINE is set", "home/hub", "where there is a network"],
    );
    desk.error(REPOSITORY, &[gone], &["test/model: ", &closed.to_string(), "cannot be reached", "home/hub"]);
    assert_eq!(desk.hub.lines(), [""; 0]);
    let expected = desk.score(REPOSITORY);
    desk.hub.requests();
    for environment in [offline, gone] {
        for model in [REPOSITORY.to_string(), format!("{REPOSITORY}@{commit}")] {
            let output = desk.try_score(&model, &[environment]);
            assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", stderr(&output));
            let says_so =
                stderr(&output).contains(&format!("using commit {commit} of test/model from the cache"));
            assert_eq!(says_so, environment == gone && model == REPOSITORY, "{}", stderr(&output));
        }
    }
    desk.error("test/model@v9", &[offline], &["test/model@v9: HF_HUB_OFFLINE is set"]);
    // A file that somebody removed.
    std::fs::remove_file(desk.cache().join("snapshots").join(&commit).join(MODEL)).unwrap();
    for environment in [offline, gone] {
        desk.error(REPOSITORY, &[environment], &["test/model, model.safetensors: ", "no such file", &commit]);
    }
    assert_eq!(desk.hub.lines(), [""; 0], "offline is offline");
}

#[test]
fn half_a_download_is_no_download() {
    let (desk, _) = Desk::tiny();
    let files = tiny();
    let expected = desk.score(&fixture_str("llama"));
    let size = files[MODEL].len();
    desk.hub.set_fault(Fault::CutAt(MODEL, CUT));
    let sizes = [format!("found {CUT} bytes"), format!("expected {size} as announced")];
    desk.error(
        REPOSITORY,
        &[],
        &["test/model, model.safetensors: ", &sizes[0], &sizes[1], "goes on from there"],
    );
    assert_eq!(desk.blobs(), [etag("config.json", &files["config.json"])]);
    desk.error(REPOSITORY, &[("HF_HUB_OFFLINE", "1")], &["test/model"]);
    desk.hub.requests();
    desk.hub.set_fault(Fault::None);
    assert_eq!(desk.score(REPOSITORY), expected);
    let ranges: Vec<_> = desk.hub.requests().into_iter().filter(|r| r.line.contains("/large/")).collect();
    assert_eq!(ranges.len(), 1);
    assert_eq!(ranges[0].range.as_deref(), Some(&*format!("bytes={CUT}-")), "it goes on where it broke off");
    assert!(!desk.cache().join("blobs").join(format!("{}.incomplete", etag(MODEL, &files[MODEL]))).exists());
}

#[test]
fn a_small_file_that_breaks_off_leaves_nothing() {
    let (desk, _) = Desk::tiny();
    desk.hub.set_fault(Fault::CutAt("config.json", 100));
    desk.error(REPOSITORY, &[], &["test/model, config.json: found 100 bytes", "nothing of it is kept"]);
    assert_eq!(tree(&desk.cache().join("blobs"), &|_| false).len(), 0);
    desk.hub.set_fault(Fault::None);
    desk.score(REPOSITORY);
}

#[test]
fn bytes_that_are_not_the_announced_ones_are_not_kept() {
    for (fault, expected) in
        [(Fault::Damaged(MODEL), "contents of SHA-256"), (Fault::Longer(MODEL), "more bytes than the")]
    {
        let (desk, _) = Desk::tiny();
        desk.hub.set_fault(fault);
        desk.error(REPOSITORY, &[], &["test/model, model.safetensors: ", expected]);
        let left: Vec<String> = tree(&desk.cache().join("blobs"), &|_| false).into_keys().collect();
        assert_eq!(left, [etag("config.json", &tiny()["config.json"])]);
        desk.hub.set_fault(Fault::None);
        desk.score(REPOSITORY);
    }
}

#[test]
fn only_the_shards_of_the_index() {
    let mut files = tiny();
    let whole = files.remove(MODEL).unwrap();
    let tensors = safetensors::SafeTensors::deserialize(&whole).unwrap();
    let mut map = BTreeMap::new();
    for (i, which) in
        ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"].iter().enumerate()
    {
        let part: Vec<_> = tensors.iter().enumerate().filter(|(n, _)| n % 2 == i).map(|(_, t)| t).collect();
        part.iter().for_each(|(name, _)| drop(map.insert(name.to_string(), which.to_string())));
        files.insert(which.to_string(), safetensors::serialize(part, None).unwrap());
    }
    files.insert("consolidated.safetensors".into(), whole.clone());
    let mut broken = map.clone();
    files.insert("model.safetensors.index.json".into(), json!({"weight_map": map}).to_string().into_bytes());
    let (desk, commit) = Desk::with(files.clone());
    assert_eq!(desk.score(REPOSITORY), desk.score(&fixture_str("llama")));
    let lines = desk.hub.lines();
    assert_eq!(lines.len(), 7, "{lines:?}");
    assert!(!lines.iter().any(|l| l.contains("consolidated")), "{lines:?}");
    assert_eq!(desk.score(&format!("{REPOSITORY}@{commit}")), desk.score(REPOSITORY));
    desk.hub.requests();

    broken.values_mut().next().unwrap().push('x');
    files.insert(
        "model.safetensors.index.json".into(),
        json!({"weight_map": broken}).to_string().into_bytes(),
    );
    desk.hub.commit("broken", files);
    desk.error("test/model@broken", &[], &["model.safetensors.index.json: names", "does not have"]);
}

#[test]
fn what_is_no_model_is_not_downloaded() {
    for (lacks, expected) in [(MODEL, "found no weights"), ("config.json", "found no config.json")] {
        let mut files = tiny();
        files.remove(lacks);
        let (desk, _) = Desk::with(files);
        desk.error(REPOSITORY, &[], &["test/model: ", expected]);
        let lines = desk.hub.lines();
        assert!(!lines.iter().any(|l| l.contains(".bin") || l.contains("/large/")), "{lines:?}");
    }
}

/// A configuration small enough for a test, on the embedded model's files.
const RUN: &str = "[model]\npath = \"test/model\"\n[task]\ntrain_questions = 2\ndev_questions = 2\n[debate]\nagents = 2\nmin_agreement = 1\n\
                   [sampling]\nmax_tokens = 60\nsummary_max_tokens = 30\n[run]\niterations = 1\ndevice = \"cpu\"\n[eval]\nmethods = [\"debate\"]\n\
                   diversity = 0\n[[arm]]\nname = \"multiagent\"\nrecipe = \"multiagent\"\n";

#[test]
fn a_run_goes_on_at_the_commit_it_began_with() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/model");
    let mut files = files_of(&folder);
    let (desk, commit) = Desk::with(files.clone());
    std::fs::write(desk.path().join("run.toml"), RUN).unwrap();
    let go = |args: &[&str], environment: &[(&str, &str)]| {
        let output = desk.command(args).envs(environment.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    go(&["run", "run.toml", "--output", "out"], &[]);
    let json = |path: &str| -> Value {
        serde_json::from_slice(&std::fs::read(desk.path().join(path)).unwrap()).unwrap()
    };
    let manifest = json("out/manifest.json");
    assert_eq!(
        (&manifest["model"]["path"], &manifest["model"]["commit"]),
        (&json!("test/model"), &json!(commit))
    );
    let config = std::fs::read_to_string(desk.path().join("out/config.toml")).unwrap();
    assert!(config.contains("path = \"test/model\""), "{config}");
    let adapter = json("out/adapters/multiagent/seed-0/iteration-1/generator-0/adapter_config.json");
    assert_eq!(adapter["base_model_name_or_path"], "test/model");
    assert_eq!(adapter["revision"], json!(commit));

    // The branch moves on. What was begun, and what was trained, stays with its commit.
    let weights = files.get_mut(MODEL).unwrap();
    *weights.last_mut().unwrap() ^= 1;
    desk.hub.commit("main", files);
    let before = tree(&desk.path().join("out/transcripts"), &|_| false);
    for part in ["journal", "metrics.jsonl", "transcripts"] {
        let path = desk.path().join("out").join(part);
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
    }
    desk.hub.requests();
    go(&["resume", "out"], &[]);
    assert_eq!(tree(&desk.path().join("out/transcripts"), &|_| false), before);
    assert_eq!(desk.hub.lines(), [""; 0], "a commit that is there needs no network");
    go(&["resume", "out"], &[("HF_HUB_OFFLINE", "1")]);
    let debate = ["debate", "3+4", "--society", "out", "--output", "debate.jsonl", "--device", "cpu"];
    go(&debate, &[("HF_HUB_OFFLINE", "1")]);

    // A new run is of the new commit, and says so.
    let plan = desk.command(&["run", "run.toml", "--output", "new", "--dry-run"]).output().unwrap();
    assert!(
        !stderr(&plan).contains(&commit) && stderr(&plan).contains("test/model is commit"),
        "{}",
        stderr(&plan)
    );
}

#[test]
fn adapters_name_repository_and_commit() {
    let (desk, commit) = Desk::tiny();
    let model = format!("{REPOSITORY}@{commit}");
    let args =
        ["train", "--model", &model, "--adapter", "a=new:rank=2", "--data", "a=in.jsonl", "--output", "o"];
    let output = desk.command(&args).args(["--device", "cpu"]).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let config = std::fs::read(desk.path().join("o/a/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(
        (&config["base_model_name_or_path"], &config["revision"]),
        (&json!(REPOSITORY), &json!(commit))
    );
}
