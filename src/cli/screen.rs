//! The screen: progress bars on a terminal, plain lines otherwise; all of it on stderr.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::live;
use crate::error::{Error, Result};
use crate::experiment::{Said, Watch, bytes};

/// A plain line about a phase is written at most this often.
const PLAIN_EVERY: Duration = Duration::from_secs(10);

/// Colours for people, nothing for files.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// For stdout.
    pub fn stdout() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }
    /// For stderr.
    pub fn stderr() -> Self {
        Self(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
    }
    /// None.
    #[cfg(test)]
    pub fn plain() -> Self {
        Self(false)
    }
    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() }
    }
    /// Bold.
    pub fn bold(self, text: &str) -> String {
        self.with("1", text)
    }
    /// Dim.
    pub fn dim(self, text: &str) -> String {
        self.with("2", text)
    }
    /// Green.
    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }
    /// Red.
    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }
    /// The colour of an agent, counted from 0.
    pub fn agent(self, agent: usize, text: &str) -> String {
        const CODES: [&str; 6] = ["36", "35", "33", "34", "32", "31"];
        self.with(CODES[agent % CODES.len()], text)
    }
}

/// Bars or lines, one phase a key.
pub struct Screen {
    terminal: bool,
    bars: MultiProgress,
    phases: RefCell<BTreeMap<String, Phase>>,
}

struct Phase {
    name: String,
    bar: Option<ProgressBar>,
    is_bytes: bool,
    total: u64,
    done: u64,
    began: Instant,
    shown: Instant,
}

impl Phase {
    /// How much is done of how much.
    fn counted(&self) -> String {
        match self.is_bytes {
            true => format!("{}/{}", bytes(self.done as usize), bytes(self.total as usize)),
            false => format!("{}/{}", self.done, self.total),
        }
    }
}

impl Screen {
    /// The process's.
    pub fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            bars: MultiProgress::new(),
            phases: RefCell::default(),
        }
    }

    /// A line, above the bars.
    pub fn line(&self, text: &str) {
        if self.terminal {
            self.bars.suspend(|| plain_line(text));
        } else {
            plain_line(text);
        }
    }

    /// A result on stdout, above the bars.
    pub fn result(&self, text: &str) -> Result<()> {
        if self.terminal { self.bars.suspend(|| out(text)) } else { out(text) }
    }

    /// Lines below all others that show what somebody is saying, as it comes; on a terminal only.
    /// They go when it is dropped.
    pub fn speaker(&self, name: &str) -> Option<Speaker> {
        self.terminal.then(|| {
            let bar = self.bars.insert_from_back(self.phases.borrow().len(), ProgressBar::new_spinner());
            bar.set_style(style("{prefix} {msg}"));
            bar.set_prefix(name.to_string());
            bar.set_message("…");
            Speaker { bar, bars: self.bars.clone() }
        })
    }

    /// A phase begins; it replaces the phase of the same key.
    pub fn phase(&self, key: &str, name: &str, total: u64) {
        self.begin(key, name, total, false);
    }

    fn begin(&self, key: &str, name: &str, total: u64, is_bytes: bool) {
        self.end_phase(key);
        let bar = self.terminal.then(|| {
            let bar = self.bars.add(ProgressBar::new(total));
            bar.set_style(style(match is_bytes {
                false => "{prefix:20!} {msg:29!} {wide_bar} {pos:>5}/{len:<5} {elapsed:>4}",
                true => "{prefix:8!} {msg:29!} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {eta:>4}",
            }));
            bar.set_prefix(key.to_string());
            bar.set_message(name.to_string());
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        let now = Instant::now();
        let phase = Phase { name: name.to_string(), bar, is_bytes, total, done: 0, began: now, shown: now };
        self.phases.borrow_mut().insert(key.to_string(), phase);
    }

    /// More of a phase is done.
    pub fn advance(&self, key: &str, done: u64) {
        let mut phases = self.phases.borrow_mut();
        let Some(phase) = phases.get_mut(key) else { return };
        phase.done += done;
        match &phase.bar {
            Some(bar) => bar.set_position(phase.done),
            None if phase.shown.elapsed() >= PLAIN_EVERY && phase.done < phase.total => {
                phase.shown = Instant::now();
                plain_line(&format!("{}: {} {}", label(key), phase.name, phase.counted()));
            }
            None => {}
        }
    }

    /// A phase is over.
    pub fn end_phase(&self, key: &str) {
        let Some(phase) = self.phases.borrow_mut().remove(key) else { return };
        match phase.bar {
            Some(bar) => {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
            None => {
                let seconds = phase.began.elapsed().as_secs_f64();
                let of = phase.counted();
                plain_line(&format!("{}: {} {of} in {seconds:.1} s", label(key), phase.name));
            }
        }
    }

    /// All phases are over, complete or not.
    pub fn clear(&self) {
        for (_, phase) in std::mem::take(&mut *self.phases.borrow_mut()) {
            if let Some(bar) = phase.bar {
                bar.finish_and_clear();
            }
        }
    }
}

impl Watch for &Screen {
    fn hear(&mut self, said: Said) {
        match said {
            Said::Line(text) => self.line(&text),
            Said::Warning(text) => self.line(&format!("warning: {text}")),
            Said::Folder(folder) => self.line(&format!("folder   {}", folder.display())),
            Said::Phase { key, name, total, in_bytes } => self.begin(&key, &name, total, in_bytes),
            Said::Advance { key, done } => self.advance(&key, done),
            Said::PhaseEnd { key } => self.end_phase(&key),
            Said::Note { lane, text } => self.line(&live::note(&lane, &text)),
            Said::Debate { lane, transcript, right } => {
                let paint = Paint::stderr();
                let title = live::heading(&format!("the first debate, of {lane}"));
                let told = live::debate(&transcript, right.as_deref(), paint);
                self.line(&format!("{}\n{}", paint.dim(&title), told.trim_end()));
                self.line(&paint.dim(&"─".repeat(78)));
            }
            Said::LanesBegin | Said::LanesEnd => {}
        }
    }
}

/// Lines that show what somebody is saying.
pub struct Speaker {
    bar: ProgressBar,
    bars: MultiProgress,
}

impl Speaker {
    /// The last lines of what has been said so far.
    pub fn say(&self, text: &str) {
        self.bar.set_message(live::tail(text, 3).join("\n          "));
    }

    /// One that nobody sees, and its bar.
    #[cfg(test)]
    pub fn hidden() -> (Self, ProgressBar) {
        let bar = ProgressBar::hidden();
        (Self { bar: bar.clone(), bars: MultiProgress::new() }, bar)
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        self.bars.remove(&self.bar);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// A line on stderr. Nobody reading it is no reason to stop.
fn plain_line(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A result on stdout. A reader that has gone, as of `| head`, has read what it wanted.
pub fn out(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::input("stdout", e)),
        _ => Ok(()),
    }
}

fn label(key: &str) -> &str {
    if key.is_empty() { "progress" } else { key }
}

/// A path as an argument for a shell.
pub fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.+:".contains(c));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
