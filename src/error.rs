//! One error type for the whole crate: what failed, where, what was found, what was expected.

use std::path::{Path, PathBuf};

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error a user can act on. `Display` is one line that names the file and the field where there is one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused: missing file, no permission, full disk.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// Something the user gave us is wrong: `place` names file and field, `problem` what was found and expected.
    #[error("{}: {problem}", place.text())]
    Input {
        /// File, line and field, as far as known.
        place: Place,
        /// What was found and what was expected.
        problem: String,
    },
    /// A text that is longer than the model's context can hold, refused before it is tokenized.
    #[error("{}: {problem}", place.text())]
    TooLong {
        /// File, line and field, as far as known.
        place: Place,
        /// How long it is and what was expected.
        problem: String,
    },
    /// The command line itself is wrong (exit code 2).
    #[error("{0}")]
    Usage(String),
    /// Something this build or device cannot do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// A plan that does not fit into the memory it may use.
    #[error("memory: {0}")]
    Memory(String),
    /// A device that failed at its work.
    #[error("device: {0}")]
    Device(String),
    /// A loss, gradient or logit that is not finite.
    #[error("not a finite number: {0}")]
    NotFinite(String),
    /// A signal asked the program to stop; what was complete is kept.
    #[error("stopped by {}", signal_name(*.0))]
    Interrupted(i32),
    /// A broken promise between our own modules; never the user's fault.
    #[error("internal error (please report): {0}")]
    Internal(String),
}

/// Where something wrong stands, as far as it is known. Whatever can be shown is a place: its text is the subject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What it is of, outermost first: an arm, a record, an option, a tensor.
    pub subject: Vec<String>,
    /// The file.
    pub file: Option<String>,
    /// The line of the file, from 1.
    pub line: Option<usize>,
    /// The dotted path of a key of the configuration.
    pub key: Option<String>,
}

impl Place {
    /// A file, by its path or name.
    pub fn file(file: impl ToString) -> Self {
        Self { file: Some(file.to_string()), ..Self::default() }
    }

    /// A key of the configuration.
    pub fn key(key: impl ToString) -> Self {
        Self { key: Some(key.to_string()), ..Self::default() }
    }

    /// For a person: `arm a: run.toml:3: debate.rounds`.
    pub fn text(&self) -> String {
        let file = self.file.as_ref().map(|file| match self.line {
            Some(line) => format!("{file}:{line}"),
            None => file.clone(),
        });
        self.subject.iter().chain(&file).chain(&self.key).cloned().collect::<Vec<_>>().join(": ")
    }
}

// Of everything that can be shown, which a place itself therefore cannot be.
impl<T: std::fmt::Display> From<T> for Place {
    fn from(subject: T) -> Self {
        Self { subject: vec![subject.to_string()], ..Self::default() }
    }
}

fn signal_name(signal: i32) -> &'static str {
    match signal {
        2 => "SIGINT",
        15 => "SIGTERM",
        _ => "a signal",
    }
}

impl Error {
    /// An [`Error::Input`] at `place`.
    pub fn input(place: impl Into<Place>, problem: impl ToString) -> Self {
        Error::Input { place: place.into(), problem: problem.to_string() }
    }

    /// An [`Error::Input`] about a file.
    pub fn file(path: &Path, problem: impl ToString) -> Self {
        Error::input(Place::file(path.display()), problem)
    }

    /// The same, known to be of `subject`, which stands before where it was known to be.
    pub fn at(mut self, subject: impl ToString) -> Self {
        if let Error::Input { place, .. } | Error::TooLong { place, .. } = &mut self {
            place.subject.insert(0, subject.to_string());
        }
        self
    }

    /// An [`Error::Io`] for `path`, to be used with `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + '_ {
        move |source| Error::Io { path: path.to_path_buf(), source }
    }

    /// The process exit code: 2 for wrong usage, 1 for everything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 2,
            // As shells report a process that a signal ended.
            Error::Interrupted(signal) => 128u8.wrapping_add(*signal as u8),
            _ => 1,
        }
    }
    /// The error in one line, whatever a cause wrote and whatever names stand in a file: control characters, which
    /// a terminal would obey, are shown.
    pub fn one_line(&self) -> String {
        let line = self.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        if line.contains(char::is_control) { line.chars().map(shown).collect() } else { line }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_one_line_that_no_terminal_obeys() {
        let e = Error::input("a\u{1b}[2J\nb", "found \u{7}\u{9b}x\t é");
        assert_eq!(e.one_line(), "a\\u{1b}[2J b: found \\u{7}\\u{9b}x é");
    }
}
