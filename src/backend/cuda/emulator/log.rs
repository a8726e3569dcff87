//! A log of all that an emulated device was made to do, for `kernels/emulator/replay/replay.cpp`, which does
//! it again under sanitizers.
//!
//! The environment variable `COLLOQUY_EMULATOR_LOG` names a folder, which must exist; every
//! [`super::Emulator`] writes one file there, called `THREAD.N.seedS.log`: the name of the thread that made
//! it (in a test: the test's), how many that thread made before, and the seed.
//!
//! A file is `MAGIC` and then records, in the order in which they took effect. A record is its tag and its
//! fields, all u64, little-endian; a field *bytes* is a length and that many bytes.
//!
//! | tag | record | fields |
//! |---|---|---|
//! | 1 | map | address, bytes: memory to take allocations from |
//! | 2 | alloc | address, bytes, name (bytes): its contents are all 0xff |
//! | 3 | free | address |
//! | 4 | upload | to, *bytes* |
//! | 5 | copy | from, to, bytes |
//! | 6 | fill | to, byte, bytes |
//! | 7 | launch | kernel (*bytes*), grid (3), shared bytes, seed, three numbers of [`Mma`], parameters (*bytes*) |
//! | 8 | download | from, bytes, FNV-1a hash of what was there |

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;

use super::Mma;
use crate::error::{Error, Result};

const MAGIC: &[u8] = b"colloquy emulator log 2\n";

/// One file; or none, then nothing is written.
pub struct Log {
    file: Option<(PathBuf, BufWriter<File>)>,
}

/// A record; see the module.
pub enum Record<'a> {
    Map { start: u64, bytes: u64 },
    Alloc { at: u64, bytes: u64, what: &'a str },
    Free { at: u64 },
    Upload { to: u64, bytes: &'a [u8] },
    Copy { from: u64, to: u64, bytes: u64 },
    Fill { to: u64, byte: u8, bytes: u64 },
    Launch { kernel: &'a str, grid: [u32; 3], shared: u32, seed: u64, mma: Mma, params: &'a [u8] },
    Download { from: u64, bytes: &'a [u8] },
}

impl Log {
    /// The log of a new device, if one is asked for.
    pub fn open(seed: u64) -> Result<Log> {
        thread_local! {
            static MADE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
        }
        let Some(folder) = std::env::var_os("COLLOQUY_EMULATOR_LOG").filter(|folder| !folder.is_empty())
        else {
            return Ok(Log { file: None });
        };
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed").replace("::", "-").replace('/', "-");
        let name = format!("{thread}.{}.seed{seed}.log", MADE.replace(MADE.get() + 1));
        let path = PathBuf::from(folder).join(name);
        let mut file = BufWriter::new(File::create(&path).map_err(Error::io(&path))?);
        file.write_all(MAGIC).map_err(Error::io(&path))?;
        Ok(Log { file: Some((path, file)) })
    }

    /// Writes a record.
    pub fn write(&mut self, record: Record<'_>) -> Result<()> {
        match &mut self.file {
            None => Ok(()),
            Some((path, file)) => record.write(file).map_err(Error::io(path)),
        }
    }

    /// Lets another process see what was written, should this one end early.
    pub fn flush(&mut self) -> Result<()> {
        match &mut self.file {
            None => Ok(()),
            Some((path, file)) => file.flush().map_err(Error::io(path)),
        }
    }
}

impl Record<'_> {
    fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        let mut numbers = |values: &[u64]| values.iter().try_for_each(|v| to.write_all(&v.to_le_bytes()));
        match *self {
            Record::Map { start, bytes } => numbers(&[1, start, bytes]),
            Record::Alloc { at, bytes, what } => {
                numbers(&[2, at, bytes, what.len() as u64])?;
                to.write_all(what.as_bytes())
            }
            Record::Free { at } => numbers(&[3, at]),
            Record::Upload { to: at, bytes } => {
                numbers(&[4, at, bytes.len() as u64])?;
                to.write_all(bytes)
            }
            Record::Copy { from, to, bytes } => numbers(&[5, from, to, bytes]),
            Record::Fill { to, byte, bytes } => numbers(&[6, to, byte.into(), bytes]),
            Record::Launch { kernel, grid, shared, seed, mma, params } => {
                numbers(&[7, kernel.len() as u64])?;
                to.write_all(kernel.as_bytes())?;
                let [x, y, z] = grid.map(u64::from);
                let mut numbers =
                    |values: &[u64]| values.iter().try_for_each(|v| to.write_all(&v.to_le_bytes()));
                numbers(&[x, y, z, shared.into(), seed])?;
                numbers(&mma.numbers().map(|n| i64::from(n) as u64))?;
                numbers(&[params.len() as u64])?;
                to.write_all(params)
            }
            Record::Download { from, bytes } => numbers(&[8, from, bytes.len() as u64, hash(bytes)]),
        }
    }
}

/// FNV-1a, 64 bits.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3))
}
