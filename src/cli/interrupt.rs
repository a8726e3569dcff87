//! SIGINT and SIGTERM. During a run, the step under way is completed, everything recorded is on the
//! disk, and the program ends; a second signal ends it at once. Other commands end at once, and
//! leave nothing that is half written.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::screen::Screen;
use crate::error::{Error, Result};
use crate::experiment::{Said, Watch};

/// Whether [`Signals`] decide when the program ends.
static WATCHED: AtomicBool = AtomicBool::new(false);

/// Watches for signals until it is dropped; from then on they do again what they do by default.
pub struct Signals {
    /// The signal that came; 0 is none.
    came: Arc<AtomicUsize>,
    /// Signals do what they do by default.
    default: Arc<AtomicBool>,
}

impl Signals {
    /// Watches from now on.
    pub fn watch() -> Result<Self> {
        let (came, default) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        WATCHED.store(true, Ordering::Relaxed);
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // Actions run in the order in which they are registered.
            signal_hook::flag::register_conditional_default(signal, default.clone())
                .and_then(|_| signal_hook::flag::register_usize(signal, came.clone(), signal as usize))
                .map_err(|e| Error::Internal(format!("cannot watch for signal {signal}: {e}")))?;
        }
        Ok(Self { came, default })
    }

    /// An error once a signal has come.
    pub fn check(&self) -> Result<()> {
        match self.came.load(Ordering::Relaxed) {
            0 => Ok(()),
            signal => {
                self.default.store(true, Ordering::Relaxed);
                Err(Error::Interrupted(signal as i32))
            }
        }
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        self.default.store(true, Ordering::Relaxed);
    }
}

/// The screen of a run that signals end while its lanes compute.
pub struct Interruptible<'a> {
    screen: &'a Screen,
    signals: Option<Result<Signals>>,
    /// Where what is complete is kept, once there is such a folder.
    pub folder: Option<PathBuf>,
}

impl<'a> Interruptible<'a> {
    /// Nothing is watched for yet.
    pub fn new(screen: &'a Screen) -> Self {
        Self { screen, signals: None, folder: None }
    }
}

impl Watch for Interruptible<'_> {
    fn hear(&mut self, said: Said) {
        if let Said::Folder(folder) = &said {
            self.folder = Some(folder.clone());
        }
        match said {
            Said::LanesBegin => self.signals = Some(Signals::watch()),
            Said::LanesEnd => self.signals = None,
            said => self.screen.hear(said),
        }
    }

    fn go_on(&mut self) -> Result<()> {
        match self.signals.take_if(|signals| signals.is_err()) {
            Some(failed) => failed.map(drop),
            None => self.signals.iter().flatten().try_for_each(Signals::check),
        }
    }
}

/// From now on a signal that ends the program first removes what is half written, unless
/// [`Signals`] watch. Signals that the program was started to pass over, as of `nohup`, stay passed
/// over.
#[cfg(unix)]
pub fn leave_nothing_behind() -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::low_level::{emulate_default_handler, pipe};
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    let (mut wakes, waker) = UnixStream::pair()?;
    let came = Arc::new(AtomicUsize::new(0));
    let again = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        if is_passed_over(signal) {
            continue;
        }
        // A second signal does not wait for what a first one has begun.
        signal_hook::flag::register_conditional_default(signal, again.clone())?;
        signal_hook::flag::register_usize(signal, came.clone(), signal as usize)?;
        pipe::register(signal, waker.try_clone()?)?;
    }
    let wait = move || {
        while wakes.read_exact(&mut [0]).is_ok() {
            let signal = came.load(Ordering::Relaxed) as i32;
            // A run's own watch says when it ends, but for a terminal that has gone.
            if WATCHED.load(Ordering::Relaxed) && signal != SIGHUP {
                continue;
            }
            again.store(true, Ordering::Relaxed);
            let _nothing_new = crate::files::remove_under_way();
            let _ = emulate_default_handler(signal);
        }
    };
    std::thread::Builder::new().name("signals".into()).stack_size(64 << 10).spawn(wait)?;
    Ok(())
}

#[cfg(unix)]
fn is_passed_over(signal: i32) -> bool {
    // SAFETY: `sigaction` is plain data, for which zero is a value.
    let mut now: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: without a new action it only writes the present one to `now`, which lives as long as the call.
    let found = unsafe { libc::sigaction(signal, std::ptr::null(), &mut now) };
    found == 0 && now.sa_sigaction == libc::SIG_IGN
}
