//! SIGINT and SIGTERM during a run: the step under way is completed, everything recorded is on the disk, and the program ends. A second signal ends it
//! at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, Result};

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
