//! A device that fails on purpose, for tests of what a run does then.
//!
//! The environment variable `COLLOQUY_EMULATOR_FAULT` is `KERNEL:N`: the N-th launch of that kernel, counted
//! from 1, fails as a kernel that reads outside its memory does on a GPU, and so does all that is asked of
//! the device after it.

use super::super::driver::Launch;
use super::shape_of;
use crate::error::{Error, Result};

const VARIABLE: &str = "COLLOQUY_EMULATOR_FAULT";

/// What is to fail and what has; by default nothing.
#[derive(Default)]
pub struct Fault {
    /// The kernel and how many of its launches are left.
    ahead: Option<(String, u64)>,
    /// The error of the launch that failed.
    behind: Option<String>,
}

impl Fault {
    /// What the environment asks for.
    pub fn wanted() -> Result<Fault> {
        let Some(text) = std::env::var_os(VARIABLE).filter(|text| !text.is_empty()) else {
            return Ok(Fault::default());
        };
        let text = text.to_string_lossy();
        let wrong = || Error::input(VARIABLE, format!("found {text:?}, expected KERNEL:N"));
        let (kernel, count) = text.split_once(':').ok_or_else(wrong)?;
        let count = count.parse().ok().filter(|&n| n > 0).ok_or_else(wrong)?;
        if shape_of(kernel)?.is_none() {
            return Err(Error::input(VARIABLE, format!("there is no kernel {kernel:?}")));
        }
        Ok(Fault { ahead: Some((kernel.to_string(), count)), behind: None })
    }

    /// Counts a launch, which fails if it is the one.
    pub fn meet(&mut self, launch: &Launch) -> Result<()> {
        if let Some((kernel, left)) = &mut self.ahead
            && kernel == launch.kernel.name
        {
            *left -= 1;
            if *left == 0 {
                self.ahead = None;
                self.behind =
                    Some(format!("CUDA error 700 CUDA_ERROR_ILLEGAL_ADDRESS: {launch} ({VARIABLE})"));
            }
        }
        self.check()
    }

    /// That nothing has failed.
    pub fn check(&self) -> Result<()> {
        match &self.behind {
            None => Ok(()),
            Some(error) => Err(Error::Device(error.clone())),
        }
    }
}
