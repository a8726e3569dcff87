//! The run folder: one run's configuration, results and journal, and the lock that keeps a second process out.
//!
//! | file | what |
//! |---|---|
//! | `manifest.json` | program, device, seeds, hashes of model, data and prompts |
//! | `config.toml` | the resolved configuration; `resume` reads it |
//! | `splits.json` | ids of the train, dev and test questions of each arm |
//! | `metrics.jsonl` | everything measured: a line with the schema's version, then one line a record |
//! | `tensorboard/LANE/` | the same as event files, a function of `metrics.jsonl` |
//! | `times.jsonl` | how long each phase took; the only file but the manifest that differs when a run is made again |
//! | `transcripts/LANE/iteration-I/NAME.jsonl` | debates and answers, in question order |
//! | `data/LANE/iteration-I/ADAPTER.jsonl` | training sets |
//! | `adapters/LANE/iteration-I/ADAPTER/` | PEFT folders |
//! | `journal/` | completed calls, for `resume` |
//!
//! A lane is `ARM/seed-S`.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_json::{Map, Value};

use super::files::write_lines;
use super::sorted::{SortedLines, for_each_line};
use super::tensorboard::write_lane;
use super::{Event, Output};
use crate::adapter::Snapshot;
use crate::error::{Error, Result};
use crate::files::{NewFolder, remove_temporaries, write_whole};
use crate::measure::record::{Line, Record, Time, is_schema, schema_line};

/// Version of the folder's layout. A reader refuses newer ones.
pub const SCHEMA: u64 = 1;

const LOCK: &str = ".lock";
const METRICS: &str = "metrics.jsonl";
const TIMES: &str = "times.jsonl";

/// An arm and a seed: what runs as one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lane {
    /// The arm's name.
    pub arm: String,
    /// The seed.
    pub seed: u64,
}

impl Lane {
    /// `ARM/seed-S`.
    pub fn name(&self) -> String {
        format!("{}/seed-{}", self.arm, self.seed)
    }

    /// From its [`Lane::name`].
    pub fn of_name(name: &str) -> Result<Self> {
        let read = || {
            let (arm, seed) = name.rsplit_once("/seed-")?;
            Some(Self { arm: arm.to_string(), seed: seed.parse().ok()? })
        };
        read().ok_or_else(|| Error::Internal(format!("`{name}` is no lane")))
    }

    /// A line of metrics.jsonl.
    pub fn line(&self, iteration: usize, record: Record) -> Line {
        Line { arm: self.arm.clone(), seed: self.seed, iteration: iteration as u64, record }
    }
}

/// A JSON file, for people too.
pub fn pretty(name: &str, value: &Value) -> Result<Vec<u8>> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("{name}: {e}")))?;
    text.push('\n');
    Ok(text.into_bytes())
}

/// A locked run folder.
pub struct RunFolder {
    path: PathBuf,
    lock: Rc<File>,
}

impl RunFolder {
    /// Makes the folder with its first files, all at once: a folder that is there has all it takes
    /// to resume, whenever its process is killed. One that exists is an error unless `force`, which
    /// replaces an earlier run (and nothing else).
    pub fn create(path: &Path, force: bool, files: &[(&str, &[u8])]) -> Result<Self> {
        Self::check_new(path, force)?;
        // Held until another takes its place: nobody else may work in it.
        let _earlier = if path.exists() { Some(lock(path)?) } else { None };
        let folder = NewFolder::create(path)?;
        for (name, bytes) in files {
            write_whole(&folder.temporary().join(name), bytes).map_err(|e| match e {
                Error::Io { source, .. } => Error::Io { path: path.join(name), source },
                other => other,
            })?;
        }
        let lock = lock(folder.temporary())?;
        folder.finish()?;
        Ok(Self { path: path.to_path_buf(), lock: lock.into() })
    }

    /// Whether [`RunFolder::create`] will refuse; to be known before anything is loaded.
    pub fn check_new(path: &Path, force: bool) -> Result<()> {
        if path.exists() && !force {
            return Err(Error::file(
                path,
                "exists already; choose another --output, or --force to replace it",
            ));
        }
        if path.exists() && !path.join("manifest.json").exists() && !is_empty(path)? {
            return Err(Error::file(path, "is not a run folder; --force replaces only runs"));
        }
        Ok(())
    }

    /// Opens the folder of a run that was interrupted or is complete, and removes what its last
    /// process left half-written.
    pub fn open(path: &Path) -> Result<Self> {
        read_manifest(path)?;
        let lock = lock(path)?;
        remove_temporaries(path)?;
        Ok(Self { path: path.to_path_buf(), lock: lock.into() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file of the folder, whole.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        write_whole(&self.path.join(name), bytes)
    }

    /// The folder of the journals.
    pub fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }
}

fn is_empty(path: &Path) -> Result<bool> {
    Ok(path.is_dir() && std::fs::read_dir(path).map_err(Error::io(path))?.next().is_none())
}

/// Takes the folder's lock. The operating system gives it back when the process ends, however it ends.
fn lock(path: &Path) -> Result<File> {
    let file_path = path.join(LOCK);
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&file_path)
        .map_err(Error::io(&file_path))?;
    match file.try_lock() {
        Ok(()) => {
            let _ = file.set_len(0);
            let _ = file.rewind();
            let _ = write!(file, "{}", std::process::id());
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Err(Error::file(path, format!("in use by process {}", holder.trim())))
        }
        Err(TryLockError::Error(e)) => Err(Error::io(&file_path)(e)),
    }
}

/// The process that works in a run folder at present, if one does.
pub fn worker(folder: &Path) -> Option<String> {
    let mut file = File::open(folder.join(LOCK)).ok()?;
    // Shared, so that two who only ask do not take one another for a worker.
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            Some(holder.trim().to_string())
        }
        _ => None,
    }
}

/// Whether a text can be the name of a lane: folders below one another, none above. (A grid's arms
/// are called `ARM@key=value,…`.)
fn is_lane(name: &str) -> bool {
    let is_part = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.@=,".contains(c))
    };
    name.split('/').all(is_part)
}

/// The manifest of a run folder.
pub fn read_manifest(folder: &Path) -> Result<Value> {
    let path = folder.join("manifest.json");
    if !folder.is_dir() {
        return Err(Error::file(folder, "no such run folder"));
    }
    if !path.exists() {
        return Err(Error::file(folder, "not a run folder: it has no manifest.json"));
    }
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path))?;
    let manifest: Value = serde_json::from_str(&text).map_err(|e| Error::file(&path, e))?;
    // Lanes name folders in this one; a manifest may come with a run from anywhere.
    if let Some(lane) =
        manifest["lanes"].as_array().into_iter().flatten().find(|l| !l.as_str().is_some_and(is_lane))
    {
        return Err(Error::input(
            format!("{}: lanes", path.display()),
            format!("found {}, expected names such as ARM/seed-0", crate::files::json::brief(lane)),
        ));
    }
    match manifest["schema"].as_u64() {
        Some(n) if n <= SCHEMA => Ok(manifest),
        Some(n) => Err(Error::input(
            format!("{}: schema", path.display()),
            format!("found {n}, expected at most {SCHEMA}: the run was made by a newer version"),
        )),
        None => Err(Error::input(format!("{}: schema", path.display()), "missing")),
    }
}

/// All lines of a run's metrics.jsonl.
pub fn read_metrics(folder: &Path) -> Result<Vec<Line>> {
    let mut all = Vec::new();
    for_each_line(&folder.join(METRICS), |_, object| {
        if !is_schema(&object)? {
            all.push(Line::read(object)?);
        }
        Ok(())
    })?;
    Ok(all)
}

/// All lines of a run's times.jsonl; none where times were not kept.
pub fn read_times(folder: &Path) -> Result<Vec<Time>> {
    read_lines(&folder.join(TIMES), Time::read)
}

/// All records of a JSON Lines file of a run folder, as `read` takes them; none if it isn't there.
pub fn read_lines<T>(path: &Path, read: impl Fn(Map<String, Value>) -> Result<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    for_each_line(path, |_, record| read(record).map(|record| all.push(record)))?;
    Ok(all)
}

/// Where results of a lane's iteration lie in a run folder.
pub(super) fn place(folder: &Path, kind: &str, lane: &str, iteration: usize, name: &str) -> PathBuf {
    folder.join(kind).join(lane).join(format!("iteration-{iteration}")).join(name)
}

/// Writes an adapter as a PEFT folder; the model knows how.
pub type AdapterWriter = Box<dyn Fn(&Path, &Snapshot) -> Result<()>>;

/// The key of a metrics record: positions of arm and seed, iteration, name.
type MetricKey = (usize, usize, Rc<str>);

/// Puts what the lanes of a run produce into its folder, and passes events on.
pub struct Recorder {
    folder: PathBuf,
    lock: Rc<File>,
    lanes: Vec<Lane>,
    metrics: RefCell<SortedLines<MetricKey>>,
    times: RefCell<SortedLines<MetricKey>>,
    /// Names of records and phases, each once.
    names: RefCell<BTreeSet<Rc<str>>>,
    write_adapter: AdapterWriter,
    events: Box<dyn Fn(Event)>,
}

impl Recorder {
    /// For these lanes, in the order in which their metrics are to stand. Metrics already in the folder are kept.
    pub fn new(
        folder: &RunFolder,
        lanes: Vec<Lane>,
        write_adapter: AdapterWriter,
        events: Box<dyn Fn(Event)>,
    ) -> Result<Self> {
        let names = RefCell::new(BTreeSet::new());
        let open = |file: &str, name: &str, head| {
            let of = |record: &Map<String, Value>| {
                let arm = record.get("arm")?.as_str()?;
                let seed = record.get("seed")?.as_u64()?;
                let position = lanes.iter().position(|l| l.arm == arm && l.seed == seed)?;
                let iteration = record.get("iteration")?.as_u64()? as usize;
                Some((position, iteration, interned(&names, record.get(name)?.as_str()?)))
            };
            let key = |record: &Map<String, Value>| Ok(if is_schema(record)? { None } else { of(record) });
            SortedLines::open(folder.path().join(file), head, key).map(RefCell::new)
        };
        Ok(Self {
            folder: folder.path().to_path_buf(),
            lock: folder.lock.clone(),
            metrics: open(METRICS, "name", Some(schema_line()))?,
            times: open(TIMES, "phase", None)?,
            names,
            lanes,
            write_adapter,
            events,
        })
    }

    /// Writing would make a deleted folder anew, with a part of the run in it.
    fn check_there(&self) -> Result<()> {
        #[cfg(unix)]
        if std::os::unix::fs::MetadataExt::nlink(&self.lock.metadata().map_err(Error::io(&self.folder))?) == 0
        {
            return Err(Error::file(&self.folder, "was deleted while the run was going on"));
        }
        Ok(())
    }

    fn position(&self, lane: &str) -> Result<usize> {
        let found = self.lanes.iter().position(|l| l.name() == lane);
        found.ok_or_else(|| Error::Internal(format!("a record of an unknown lane {lane}")))
    }

    fn place(&self, kind: &str, lane: &str, iteration: usize, name: &str) -> PathBuf {
        place(&self.folder, kind, lane, iteration, name)
    }
}

fn interned(names: &RefCell<BTreeSet<Rc<str>>>, name: &str) -> Rc<str> {
    let mut names = names.borrow_mut();
    if let Some(known) = names.get(name) {
        return known.clone();
    }
    let new: Rc<str> = name.into();
    names.insert(new.clone());
    new
}

impl Output for Recorder {
    fn metrics(&self, lane: &str, iteration: usize, record: Record) -> Result<()> {
        self.check_there()?;
        let position = self.position(lane)?;
        let key = (position, iteration, interned(&self.names, record.name()));
        let mut metrics = self.metrics.borrow_mut();
        metrics.insert(key, &self.lanes[position].line(iteration, record).text()?)?;
        let mut reader = metrics.reader()?;
        let of_lane = metrics
            .iter()
            .filter(|((p, _, _), _)| *p == position)
            .map(|((_, iteration, name), span)| (*iteration, &**name, span));
        write_lane(&self.folder, lane, of_lane, |span| {
            let line = reader.line(span)?;
            let object =
                serde_json::from_str(&line).map_err(|e| Error::file(&self.folder.join(METRICS), e))?;
            Line::read(object).map_err(|e| e.at(METRICS)).map(|line| line.record)
        })
    }

    fn transcripts(&self, lane: &str, iteration: usize, name: &str, records: &[Value]) -> Result<()> {
        self.check_there()?;
        write_lines(&self.place("transcripts", lane, iteration, &format!("{name}.jsonl")), records)
    }

    fn dataset(&self, lane: &str, iteration: usize, adapter: &str, records: &[Value]) -> Result<()> {
        self.check_there()?;
        write_lines(&self.place("data", lane, iteration, &format!("{adapter}.jsonl")), records)
    }

    fn adapter(&self, lane: &str, iteration: usize, adapter: &str, snapshot: &Snapshot) -> Result<()> {
        self.check_there()?;
        (self.write_adapter)(&self.place("adapters", lane, iteration, adapter), snapshot)
    }

    /// A phase keeps the time it took when it was first complete: a resumed run only reads it from
    /// the journal. Of one that was interrupted it is what the process that completed it took.
    fn time(&self, lane: &str, iteration: usize, phase: &str, seconds: f64) -> Result<()> {
        self.check_there()?;
        let position = self.position(lane)?;
        let Lane { arm, seed } = self.lanes[position].clone();
        let mut times = self.times.borrow_mut();
        let key = (position, iteration, interned(&self.names, phase));
        if times.contains(&key) {
            return Ok(());
        }
        let seconds = (1000.0 * seconds).round() / 1000.0;
        let time = Time { arm, seed, iteration: iteration as u64, phase: phase.into(), seconds };
        let line = serde_json::to_string(&time).map_err(|e| Error::Internal(e.to_string()))?;
        times.insert(key, &line)
    }

    fn event(&self, event: Event) {
        (self.events)(event);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::measure::record::Evaluation;

    fn recorder(folder: &RunFolder) -> Recorder {
        let lanes = ["b", "a"].map(|arm| Lane { arm: arm.into(), seed: 7 }).to_vec();
        Recorder::new(folder, lanes, Box::new(|_, _| Ok(())), Box::new(|_| ())).unwrap()
    }

    #[test]
    fn lanes_lie_in_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let read = |lane: &str| {
            let manifest = json!({"schema": 1, "lanes": ["a/seed-0", lane]});
            std::fs::write(dir.path().join("manifest.json"), manifest.to_string()).unwrap();
            read_manifest(dir.path())
        };
        for lane in ["multiagent/seed-0", "m@temperature=1.0,learning_rate=0.001/seed-17"] {
            assert!(read(lane).is_ok(), "{lane}");
        }
        for lane in ["../../x", "a/../../x", "/etc", "a//b", "", ".", "a\\b", "a\0", ".hidden/seed-0"] {
            let e = read(lane).unwrap_err().to_string();
            assert!(
                e.contains("manifest.json: lanes: found") && e.contains("expected names such as"),
                "{lane}: {e}"
            );
        }
    }

    #[test]
    fn an_existing_folder_is_refused_and_force_replaces_only_runs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let files: [(&str, &[u8]); 1] = [("manifest.json", b"{\"schema\":1}")];
        let folder = RunFolder::create(&path, false, &files).unwrap();
        folder.write("keep/me.txt", b"x").unwrap();
        assert!(
            RunFolder::create(&path, false, &files).err().unwrap().to_string().contains("exists already")
        );
        let busy = RunFolder::open(&path).err().unwrap().to_string();
        assert!(busy.contains(&format!("in use by process {}", std::process::id())), "{busy}");
        drop(folder);
        assert!(RunFolder::open(&path).is_ok());
        let again = RunFolder::create(&path, true, &files).unwrap();
        assert!(RunFolder::open(&path).err().unwrap().to_string().contains("in use"), "it is locked");
        assert!(!again.path().join("keep").exists());
        std::fs::write(dir.path().join("other.txt"), "x").unwrap();
        assert!(
            RunFolder::create(dir.path(), true, &files)
                .err()
                .unwrap()
                .to_string()
                .contains("not a run folder")
        );
    }

    #[test]
    fn newer_folders_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("manifest.json"), format!("{{\"schema\":{}}}", SCHEMA + 1)).unwrap();
        assert!(read_manifest(dir.path()).unwrap_err().to_string().contains("newer"));
        assert!(
            read_manifest(&dir.path().join("no")).unwrap_err().to_string().contains("no such run folder")
        );
    }

    #[test]
    fn a_phase_keeps_the_time_it_took_first() {
        let dir = tempfile::tempdir().unwrap();
        let folder = RunFolder::create(&dir.path().join("run"), false, &[]).unwrap();
        let times = |records: &[(&str, usize, &str, f64)]| {
            // A new recorder each time, as after an interruption.
            let recorder = recorder(&folder);
            for (lane, iteration, phase, seconds) in records {
                recorder.time(lane, *iteration, phase, *seconds).unwrap();
            }
            std::fs::read_to_string(folder.path().join("times.jsonl")).unwrap()
        };
        times(&[("a/seed-7", 1, "dev", 2.0), ("b/seed-7", 1, "finetune", 1.25)]);
        let found = times(&[("b/seed-7", 1, "finetune", 0.0), ("b/seed-7", 1, "dev", 0.123_44)]);
        let expected = [("b", "dev", 0.123), ("b", "finetune", 1.25), ("a", "dev", 2.0)];
        let found: Vec<Value> = found.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let line = |(arm, phase, seconds): (&str, &str, f64)| json!({"arm": arm, "seed": 7, "iteration": 1, "phase": phase, "seconds": seconds});
        assert_eq!(found, expected.map(line));
    }

    #[test]
    fn metrics_stand_in_key_order_whatever_came_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut texts = Vec::new();
        for order in [[0, 1, 2, 3], [3, 1, 2, 0]] {
            let path = dir.path().join(format!("{order:?}"));
            let folder = RunFolder::create(&path, false, &[]).unwrap();
            let records = [
                ("a/seed-7", 0, "dev"),
                ("b/seed-7", 1, "test"),
                ("b/seed-7", 1, "dev"),
                ("b/seed-7", 0, "test"),
            ];
            for (n, i) in order.into_iter().enumerate() {
                // A new recorder each time, as after an interruption.
                let (lane, iteration, split) = records[i];
                let recorder = recorder(&folder);
                for questions in if n == 0 { vec![7, i] } else { vec![i] } {
                    let evaluation = Evaluation { questions, ..Evaluation::default() };
                    recorder.metrics(lane, iteration, Record::Evaluation(split, evaluation.into())).unwrap();
                }
            }
            texts.push(std::fs::read_to_string(path.join("metrics.jsonl")).unwrap());
        }
        assert_eq!(texts[0], texts[1]);
        assert!(texts[0].starts_with("{\"schema\":1}\n"));
        let names: Vec<String> = texts[0]
            .lines()
            .skip(1)
            .map(|l| {
                let v: Value = serde_json::from_str(l).unwrap();
                format!("{}{}{}", v["arm"].as_str().unwrap(), v["iteration"], v["name"].as_str().unwrap())
            })
            .collect();
        assert_eq!(names, ["b0test", "b1dev", "b1test", "a0dev"]);
    }
}
