//! What an experiment says while it is prepared, run and verified, and who hears it.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

use serde_json::Value;

use crate::error::Result;
use crate::hub;
use crate::run::Event;

/// What is said.
#[derive(Clone, Debug, PartialEq)]
pub enum Said {
    /// Something worth reading: what is opened, what is planned, an iteration's accuracies.
    Line(String),
    /// Something that may not be as the user thinks.
    Warning(String),
    /// Results go to this folder. All that is complete is kept there, however the run ends.
    Folder(PathBuf),
    /// A phase begins. It replaces the phase of the same key.
    Phase {
        /// The lane, or what else has phases.
        key: String,
        /// E.g. `iteration 1: debate`.
        name: String,
        /// Units that the phase has: questions, optimizer steps, bytes.
        total: u64,
        /// Whether the units are bytes.
        in_bytes: bool,
    },
    /// More of the phase is complete.
    Advance {
        /// The phase's key.
        key: String,
        /// Units.
        done: u64,
    },
    /// The phase is over.
    PhaseEnd {
        /// The phase's key.
        key: String,
    },
    /// A note about a lane.
    Note {
        /// The lane.
        lane: String,
        /// The note.
        text: String,
    },
    /// The first debate of a run, whole.
    Debate {
        /// The lane.
        lane: String,
        /// The transcript record, as stored.
        transcript: Value,
        /// The reference answer, if it is known.
        right: Option<String>,
    },
    /// Lanes begin to compute. From now on [`Watch::go_on`] is asked.
    LanesBegin,
    /// Lanes compute no more.
    LanesEnd,
}

/// Who hears how an experiment goes, and decides whether it goes on.
pub trait Watch {
    /// Hears it.
    fn hear(&mut self, said: Said);

    /// Asked before each step of the engine. An error ends the run, with all that was complete
    /// kept; [`crate::error::Error::Interrupted`] is the usual one.
    fn go_on(&mut self) -> Result<()> {
        Ok(())
    }
}

impl dyn Watch + '_ {
    /// Says a line.
    pub fn line(&mut self, text: impl Into<String>) {
        self.hear(Said::Line(text.into()));
    }

    /// Says a warning.
    pub fn warn(&mut self, text: impl Into<String>) {
        self.hear(Said::Warning(text.into()));
    }
}

/// Hears nothing.
pub struct Silent;

impl Watch for Silent {
    fn hear(&mut self, _: Said) {}
}

/// Remembers everything.
#[derive(Default)]
pub struct Remembered(pub Vec<Said>);

impl Watch for Remembered {
    fn hear(&mut self, said: Said) {
        self.0.push(said);
    }
}

/// What lanes say, kept until the engine has finished its step: lanes outlive the borrow of a watch.
#[derive(Clone, Default)]
pub(super) struct Queue(Rc<RefCell<Vec<Said>>>);

impl Queue {
    /// Keeps it.
    pub fn say(&self, said: Said) {
        self.0.borrow_mut().push(said);
    }

    /// Runs lanes. Between the engine's steps `watch` hears what they have said, and is asked whether they go on.
    pub fn drive(
        &self,
        watch: &mut dyn Watch,
        run: impl FnOnce(&dyn Fn() -> Result<()>) -> Result<()>,
    ) -> Result<()> {
        watch.hear(Said::LanesBegin);
        let shared = RefCell::new(&mut *watch);
        let result = run(&|| {
            let mut watch = shared.borrow_mut();
            self.tell(&mut **watch);
            watch.go_on()
        });
        self.tell(watch);
        watch.hear(Said::LanesEnd);
        result
    }

    fn tell(&self, watch: &mut dyn Watch) {
        self.0.take().into_iter().for_each(|said| watch.hear(said));
    }
}

impl From<Event> for Said {
    fn from(event: Event) -> Self {
        match event {
            Event::Phase { lane, name, total } => Said::Phase { key: lane, name, total, in_bytes: false },
            Event::Advance { lane, done } => Said::Advance { key: lane, done },
            Event::Note { lane, text } => Said::Note { lane, text },
            Event::Debate { lane, transcript } => Said::Debate { lane, transcript, right: None },
        }
    }
}

/// Downloads as phases.
pub struct Downloads<'a>(RefCell<&'a mut dyn Watch>);

/// The one phase of downloads: they come one after another.
const KEY: &str = "download";

impl<'a> Downloads<'a> {
    /// Told to this watch.
    pub fn new(watch: &'a mut dyn Watch) -> Self {
        Self(RefCell::new(watch))
    }

    fn say(&self, said: Said) {
        self.0.borrow_mut().hear(said);
    }
}

impl hub::Watch for Downloads<'_> {
    fn note(&self, text: &str) {
        self.say(Said::Line(text.into()));
    }

    fn begin(&self, file: &str, bytes: u64, there: u64) {
        self.say(Said::Phase { key: KEY.into(), name: file.into(), total: bytes, in_bytes: true });
        self.advance(there);
    }

    fn advance(&self, bytes: u64) {
        self.say(Said::Advance { key: KEY.into(), done: bytes });
    }

    fn end(&self) {
        self.say(Said::PhaseEnd { key: KEY.into() });
    }
}
