//! The journal on disk: completed calls of one lane, appended line by line, and the adapters that
//! training calls left behind.
//!
//! A line is `{"sum":"0123456789abcdef","call":"…","entry":{…}}`; the sum is over the rest of the
//! line, so that a line a crash tore is recognised. The first bad line and all after it are
//! forgotten: their calls are made again and give the same results. Lines survive the process as
//! soon as they are written; they are synced to the disk about once a second and before every
//! checkpoint.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};

use super::checkpoint;
use crate::adapter::Snapshot;
use crate::engine::{Entry, Journal, Kept};
use crate::error::{Error, Result};
use crate::files::{Disk, DiskFile, RealDisk};

const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The journal of one lane.
pub struct FileJournal {
    path: PathBuf,
    lane: String,
    checkpoints: PathBuf,
    disk: Rc<dyn Disk>,
    file: RefCell<Box<dyn DiskFile>>,
    /// Where each call's line starts; names and entries are read when they are asked for, since a
    /// long run makes many calls.
    lines: RefCell<HashMap<Digest, u64>>,
    end: Cell<u64>,
    synced: Cell<Instant>,
    replayed: Cell<u64>,
    /// Training calls in the order of their lines, and how many of the latest keep their checkpoints; 0 is all.
    trainings: RefCell<Vec<String>>,
    keep: usize,
    /// The checkpoint of the training call before was pruned, so the adapters are not as it left them.
    stale: Cell<bool>,
    warn: Box<dyn Fn(String)>,
    /// Set by a failed write: whatever is on disk is whole, and nothing more is added to it.
    broken: Cell<bool>,
}

/// What a call is found by.
type Digest = [u8; 16];

#[derive(serde::Serialize, serde::Deserialize)]
struct Line<'a> {
    call: std::borrow::Cow<'a, str>,
    entry: std::borrow::Cow<'a, Entry>,
}

impl FileJournal {
    /// Opens or starts the journal `folder/LANE.jsonl`. The second value is a warning, if lines had to be forgotten.
    pub fn open(folder: &Path, lane: &str) -> Result<(Self, Option<String>)> {
        Self::open_on(Rc::new(RealDisk), folder, lane)
    }

    /// The same on any disk. Checkpoints are on the real one.
    fn open_on(disk: Rc<dyn Disk>, folder: &Path, lane: &str) -> Result<(Self, Option<String>)> {
        let checkpoints = folder.join(lane);
        disk.make_folder(&checkpoints).map_err(Error::io(&checkpoints))?;
        let path = folder.join(format!("{lane}.jsonl"));
        let file = disk.append(&path).map_err(Error::io(&path))?;
        let (journal, lost) = Self::with(disk, path, checkpoints, lane, file)?;
        if lost == 0 {
            return Ok((journal, None));
        }
        let path = &journal.path;
        journal.file.borrow().truncate(journal.end.get()).map_err(Error::io(path))?;
        let warning = format!(
            "{}: {lost} incomplete line{} at the end ignored; the work is done again",
            path.display(),
            if lost == 1 { "" } else { "s" }
        );
        Ok((journal, Some(warning)))
    }

    /// Opens the journal to read it, and nothing more: recording fails. The second value is how
    /// many lines cannot be used: the first bad one and all after it.
    pub fn read(folder: &Path, lane: &str) -> Result<(Self, usize)> {
        let path = folder.join(format!("{lane}.jsonl"));
        let file = RealDisk.read(&path).map_err(Error::io(&path))?;
        let (journal, lost) = Self::with(Rc::new(RealDisk), path, folder.join(lane), lane, file)?;
        journal.broken.set(true);
        Ok((journal, lost))
    }

    fn with(
        disk: Rc<dyn Disk>,
        path: PathBuf,
        checkpoints: PathBuf,
        lane: &str,
        mut file: Box<dyn DiskFile>,
    ) -> Result<(Self, usize)> {
        let mut lines = HashMap::new();
        let mut trainings = Vec::new();
        let good = each_call(&mut *file, &path, |start, line| {
            let known = lines.insert(digest(&line.call), start);
            if matches!(*line.entry, Entry::Trained(_)) && known.is_none() {
                trainings.push(line.call.into_owned());
            }
        })?;
        file.seek(SeekFrom::Start(good)).map_err(Error::io(&path))?;
        let mut lost = 0;
        for line in BufReader::new(&mut file).split(b'\n') {
            line.map_err(Error::io(&path))?;
            lost += 1;
        }
        let journal = Self {
            path,
            lane: lane.to_string(),
            checkpoints,
            disk,
            file: RefCell::new(file),
            lines: RefCell::new(lines),
            end: Cell::new(good),
            synced: Cell::new(Instant::now()),
            replayed: Cell::new(0),
            trainings: RefCell::new(trainings),
            keep: 0,
            stale: Cell::new(false),
            warn: Box::new(|_| ()),
            broken: Cell::new(false),
        };
        Ok((journal, lost))
    }

    /// Keeps the checkpoints of so many training calls, the latest; 0 keeps all. At least two, so
    /// that the last one can be made again from the one before.
    pub fn keeping(mut self, checkpoints: usize) -> Self {
        self.keep = if checkpoints == 0 { 0 } else { checkpoints.max(2) };
        self
    }

    /// Where warnings go.
    pub fn warning(mut self, warn: impl Fn(String) + 'static) -> Self {
        self.warn = Box::new(warn);
        self
    }

    /// Removes checkpoints that are no longer kept. One that cannot be removed costs its space and nothing else.
    fn prune(&self) {
        let trainings = self.trainings.borrow();
        if self.keep > 0 && trainings.len() > self.keep {
            for call in &trainings[..trainings.len() - self.keep] {
                let _ = self.disk.remove(&self.checkpoint_path(call));
            }
        }
    }

    /// Whether a call's checkpoint is one that may have been pruned.
    fn may_be_pruned(&self, call: &str) -> bool {
        let trainings = self.trainings.borrow();
        let after = trainings.iter().rev().take_while(|c| *c != call).count();
        after >= 2 && after < trainings.len()
    }

    /// The calls that are kept, sorted.
    pub fn calls(&self) -> Result<Vec<String>> {
        let mut calls = Vec::with_capacity(self.len());
        each_call(&mut **self.file.borrow_mut(), &self.path, |_, line| calls.push(line.call.into_owned()))?;
        calls.sort_unstable();
        calls.dedup();
        Ok(calls)
    }

    /// Calls that are kept.
    pub fn len(&self) -> usize {
        self.lines.borrow().len()
    }

    /// Nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls answered from the journal since it was opened.
    pub fn replayed(&self) -> u64 {
        self.replayed.get()
    }

    /// Whatever has been recorded is on the disk.
    fn sync(&self) -> Result<()> {
        self.file.borrow().sync().map_err(Error::io(&self.path))?;
        self.synced.set(Instant::now());
        Ok(())
    }

    /// Somebody who deletes the folder under a run is told at once: what is written to a deleted
    /// file is lost when the process ends.
    fn check_there(&self) -> Result<()> {
        match self.file.borrow().has_name().map_err(Error::io(&self.path))? {
            true => Ok(()),
            false => Err(Error::file(&self.path, "was deleted while the run was going on")),
        }
    }

    fn checkpoint_path(&self, call: &str) -> PathBuf {
        // Calls are paths such as `arm/seed-0/iteration-1/finetune#0`; the lane is this journal's own.
        let inside = call.strip_prefix(&self.lane).map_or(call, |rest| rest.trim_start_matches('/'));
        let name: String = inside
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '_' })
            .collect();
        let tail = name.len().saturating_sub(120);
        let hash = &super::sha256(call.as_bytes())[..8];
        self.checkpoints.join(format!("{}-{hash}.safetensors", &name[tail..]))
    }
}

impl Journal for FileJournal {
    fn replay(&self, call: &str) -> Result<Option<Entry>> {
        let Some(&start) = self.lines.borrow().get(&digest(call)) else { return Ok(None) };
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(start)).map_err(Error::io(&self.path))?;
        let mut line = Vec::new();
        BufReader::new(&mut *file).read_until(b'\n', &mut line).map_err(Error::io(&self.path))?;
        let entry = parse(&line).filter(|l| l.call == call).map(|l| l.entry.into_owned());
        let entry =
            entry.ok_or_else(|| Error::file(&self.path, format!("call {call}: the line changed on disk")))?;
        self.replayed.set(self.replayed.get() + 1);
        Ok(Some(entry))
    }

    fn record(&self, call: &str, entry: &Entry) -> Result<()> {
        if self.broken.get() {
            return Err(Error::file(&self.path, "an earlier write failed, or it is open to be read alone"));
        }
        self.check_there()?;
        let line = Line { call: call.into(), entry: std::borrow::Cow::Borrowed(entry) };
        let body = serde_json::to_string(&line)
            .map_err(|e| Error::Internal(format!("journal entry of {call}: {e}")))?;
        let line = format!("{{\"sum\":\"{:016x}\",{}\n", sum(body.as_bytes()), &body[1..]);
        let mut file = self.file.borrow_mut();
        let written = file.write_all(line.as_bytes()).and_then(|()| {
            if self.synced.get().elapsed() >= SYNC_EVERY {
                file.sync()?;
                self.synced.set(Instant::now());
            }
            Ok(())
        });
        if let Err(e) = written {
            self.broken.set(true);
            let _ = file.truncate(self.end.get());
            return Err(Error::io(&self.path)(e));
        }
        let start = self.end.get();
        let known = self.lines.borrow_mut().insert(digest(call), start);
        self.end.set(start + line.len() as u64);
        if let (Entry::Trained(_), None) = (entry, known) {
            self.trainings.borrow_mut().push(call.to_string());
            drop(file);
            // The line must be on the disk before what it follows is given up.
            self.sync()?;
            self.prune();
        }
        Ok(())
    }

    fn save_adapters(&self, call: &str, adapters: &[Snapshot]) -> Result<()> {
        self.check_there()?;
        checkpoint::save(&self.checkpoint_path(call), adapters)?;
        self.stale.set(false);
        self.sync()
    }

    fn load_adapters(&self, call: &str) -> Result<Kept> {
        let path = self.checkpoint_path(call);
        let problem = match checkpoint::load(&path) {
            Ok(snapshots) => {
                self.stale.set(false);
                return Ok(Kept::Whole(snapshots));
            }
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                if self.may_be_pruned(call) {
                    self.stale.set(true);
                    return Ok(Kept::Pruned);
                }
                format!("{}: missing", path.display())
            }
            Err(e @ Error::Input { .. }) => e.to_string(),
            Err(e) => return Err(e),
        };
        if self.stale.get() {
            return Err(Error::input(
                path.display(),
                format!(
                    "{problem}; the checkpoint before it was pruned, so the training cannot be made again"
                ),
            ));
        }
        (self.warn)(format!("{problem}; the training is done again"));
        Ok(Kept::Torn)
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        let _ = self.sync();
    }
}

fn digest(call: &str) -> Digest {
    let mut digest = Digest::default();
    digest.copy_from_slice(&Sha256::digest(call)[..16]);
    digest
}

/// Reads a journal from its beginning up to the first bad line, one line at a time, each with its
/// start; where the good ones end.
fn each_call(file: &mut dyn DiskFile, path: &Path, mut see: impl FnMut(u64, Line<'static>)) -> Result<u64> {
    file.seek(SeekFrom::Start(0)).map_err(Error::io(path))?;
    let mut file = BufReader::new(file);
    let (mut good, mut line) = (0, Vec::new());
    loop {
        line.clear();
        file.read_until(b'\n', &mut line).map_err(Error::io(path))?;
        let Some(parsed) = parse(&line) else { return Ok(good) };
        see(good, parsed);
        good += line.len() as u64;
    }
}

/// FNV-1a, 64 bits: finds torn lines, not forgeries.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// A whole line with the right sum.
fn parse(line: &[u8]) -> Option<Line<'static>> {
    let line = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let rest = line.strip_prefix("{\"sum\":\"")?;
    let (expected, rest) = rest.split_at_checked(16)?;
    let body = format!("{{{}", rest.strip_prefix("\",")?);
    if format!("{:016x}", sum(body.as_bytes())) != expected {
        return None;
    }
    let mut deserializer = serde_json::Deserializer::from_str(&body);
    serde::Deserialize::deserialize(&mut deserializer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{LoraMatrix, PartId, PartSpec, SlotSpec};
    use crate::engine::{Finish, Sample};
    use crate::files::SimulatedDisk;

    fn entry(n: u32) -> Entry {
        Entry::Samples(vec![Sample {
            tokens: vec![n, 7],
            logprobs: vec![-0.1 * n as f32, -1.234_567_9e-8],
            finish: Finish::Stop,
        }])
    }

    #[test]
    fn entries_come_back_after_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, warning) = FileJournal::open(dir.path(), "arm/seed-0").unwrap();
        assert!(warning.is_none());
        for n in 0..5 {
            journal.record(&format!("arm/seed-0/q#{n}"), &entry(n)).unwrap();
        }
        assert_eq!(journal.replay("arm/seed-0/q#3").unwrap(), Some(entry(3)));
        journal.record("arm/seed-0/q#5", &entry(5)).unwrap();
        drop(journal);
        let path = dir.path().join("arm/seed-0.jsonl");
        let whole = std::fs::read(&path).unwrap();
        // Cut at every byte: what is whole is kept, the rest is forgotten, and recording goes on.
        let first_lines: Vec<usize> =
            whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        for cut in (0..whole.len()).step_by(37).chain([whole.len()]) {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (journal, warning) = FileJournal::open(dir.path(), "arm/seed-0").unwrap();
            let kept = first_lines.iter().filter(|&&end| end <= cut).count();
            assert_eq!(journal.len(), kept, "cut at {cut}");
            assert_eq!(warning.is_some(), cut != 0 && !first_lines.contains(&cut));
            for n in 0..6 {
                let found = journal.replay(&format!("arm/seed-0/q#{n}")).unwrap();
                assert_eq!(found, ((n as usize) < kept).then(|| entry(n)));
            }
            journal.record("again#0", &entry(9)).unwrap();
            drop(journal);
            let (journal, warning) = FileJournal::open(dir.path(), "arm/seed-0").unwrap();
            assert!(warning.is_none());
            assert_eq!(journal.replay("again#0").unwrap(), Some(entry(9)));
        }
        // A flipped bit is noticed.
        let mut flipped = whole.clone();
        flipped[first_lines[1] + 60] ^= 1;
        std::fs::write(&path, &flipped).unwrap();
        assert_eq!(FileJournal::open(dir.path(), "arm/seed-0").unwrap().0.len(), 2);
    }

    #[test]
    fn what_was_not_synced_may_be_lost_at_any_byte() {
        let (folder, lane) = (Path::new("run"), "lane");
        let path = folder.join("lane.jsonl");
        let disk = SimulatedDisk::with_room(usize::MAX);
        let open = |disk: &SimulatedDisk| FileJournal::open_on(Rc::new(disk.clone()), folder, lane).unwrap();
        let (journal, _) = open(&disk);
        journal.record("a", &entry(0)).unwrap();
        journal.sync().unwrap();
        let synced = disk.bytes(&path).0.len();
        journal.record("b", &entry(1)).unwrap();
        let first = disk.bytes(&path).0.len();
        journal.record("c", &entry(2)).unwrap();
        // A slow machine syncs by itself after a second.
        let (whole, by_itself) = disk.bytes(&path);
        assert!(by_itself >= synced);
        drop(journal);
        for kept in 0..=whole.len() - synced {
            let disk = SimulatedDisk::with_room(usize::MAX);
            let mut file = disk.append(&path).unwrap();
            file.write_all(&whole[..synced]).unwrap();
            file.sync().unwrap();
            file.write_all(&whole[synced..]).unwrap();
            disk.crash(kept);
            let at = synced + kept;
            let (journal, warning) = open(&disk);
            let calls = 1 + usize::from(at >= first) + usize::from(at == whole.len());
            assert_eq!(journal.len(), calls, "{kept} bytes kept");
            assert_eq!(warning.is_some(), ![synced, first, whole.len()].contains(&at), "{kept}");
            // The work is done again, and stands behind what was whole.
            for (call, n) in [("b", 1), ("c", 2)] {
                if journal.replay(call).unwrap().is_none() {
                    journal.record(call, &entry(n)).unwrap();
                }
            }
            drop(journal);
            assert_eq!(disk.bytes(&path), (whole.clone(), whole.len()), "{kept} bytes kept");
        }
    }

    #[test]
    fn a_disk_that_is_full_at_any_byte_leaves_whole_lines() {
        let (folder, lane) = (Path::new("run"), "lane");
        let path = folder.join("lane.jsonl");
        for room in 0..400 {
            let disk = SimulatedDisk::with_room(room);
            let (journal, _) = FileJournal::open_on(Rc::new(disk.clone()), folder, lane).unwrap();
            let recorded = (0..9).take_while(|n| journal.record(&n.to_string(), &entry(*n)).is_ok()).count();
            assert!(recorded < 9, "the disk is full before");
            assert!(disk.bytes(&path).0.iter().filter(|b| **b == b'\n').count() == recorded);
            assert!(journal.record("x", &entry(1)).unwrap_err().to_string().contains("earlier write failed"));
            drop(journal);
            disk.set_room(usize::MAX);
            let (journal, warning) = FileJournal::open_on(Rc::new(disk), folder, lane).unwrap();
            assert!(warning.is_none(), "{warning:?}");
            assert_eq!(journal.len(), recorded);
            journal.record("x", &entry(1)).unwrap();
        }
    }

    #[test]
    fn adapters_come_back_bit_for_bit() {
        let dir = tempfile::tempdir().unwrap();
        let (journal, _) = FileJournal::open(dir.path(), "lane").unwrap();
        let spec = SlotSpec { parts: vec![None, Some(PartSpec { rank: 2, scale: 1.25 })], dropout: 0.0 };
        let weights = vec![
            (PartId(1), LoraMatrix::A, vec![0.1, -0.0, f32::MIN_POSITIVE, 3e38]),
            (PartId(1), LoraMatrix::B, vec![1.0; 6]),
        ];
        let moments = crate::adapter::Moments { steps: 9, first: weights.clone(), second: weights.clone() };
        let snapshots = vec![
            Snapshot { spec: spec.clone(), weights: weights.clone(), moments: Some(moments) },
            Snapshot { spec, weights, moments: None },
        ];
        journal.save_adapters("lane/train#0", &snapshots).unwrap();
        let loaded = journal.load_adapters("lane/train#0").unwrap();
        assert_eq!(loaded, Kept::Whole(snapshots));
        let Kept::Whole(loaded) = loaded else { unreachable!() };
        assert!(loaded[0].weights[0].2[1].is_sign_negative());
        assert_eq!(journal.load_adapters("lane/train#1").unwrap(), Kept::Torn);
        // Any byte of the file that changes is noticed.
        let path = journal.checkpoint_path("lane/train#0");
        let whole = std::fs::read(&path).unwrap();
        for place in 0..whole.len() {
            let mut altered = whole.clone();
            altered[place] ^= 4;
            std::fs::write(&path, &altered).unwrap();
            assert_eq!(journal.load_adapters("lane/train#0").unwrap(), Kept::Torn, "byte {place}");
        }
        for length in (0..whole.len()).step_by(11) {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(journal.load_adapters("lane/train#0").unwrap(), Kept::Torn, "cut at {length}");
        }
    }
}
