//! Device memory at addresses where every sanitizer lets a program have memory, and where nothing else is, so
//! that a log of launches, whose parameters hold addresses, can be replayed by another process.

use std::collections::BTreeMap;
use std::sync::Mutex;

unsafe extern "C" {
    fn colloquy_emulator_map(wish: u64, bytes: usize) -> u64;
    fn colloquy_emulator_unmap(address: u64, bytes: usize);
    fn colloquy_emulator_discard(address: u64, bytes: usize);
}

/// Below where Linux loads programs on x86-64, and inside what ThreadSanitizer leaves to a program.
const FIRST: u64 = 0x5500_0000_0000;
const CHUNK: u64 = 64 << 20;
/// 340 GiB.
const CHUNKS: usize = 5440;
/// Of addresses and sizes; a device's.
pub const ALIGNMENT: u64 = 256;
/// Freed memory of at least this size is given back to the system.
const DISCARD: u64 = 256 << 10;

/// Which chunks are in use, by all arenas of the process.
static TAKEN: Mutex<Vec<bool>> = Mutex::new(Vec::new());

/// A run of chunks.
pub struct Region {
    /// Where it starts.
    pub start: u64,
    /// How long it is.
    pub bytes: u64,
    chunks: std::ops::Range<usize>,
}

impl Region {
    fn map(bytes: u64) -> Option<Region> {
        let count = bytes.div_ceil(CHUNK) as usize;
        let bytes = count as u64 * CHUNK;
        let mut taken = TAKEN.lock().expect("no panic while it is held");
        taken.resize(CHUNKS, false);
        let first = (0..=CHUNKS.checked_sub(count)?).find(|&i| !taken[i..i + count].contains(&true))?;
        // SAFETY: maps new memory.
        let start = unsafe { colloquy_emulator_map(FIRST + first as u64 * CHUNK, bytes as usize) };
        if start == 0 {
            return None;
        }
        taken[first..first + count].fill(true);
        Some(Region { start, bytes, chunks: first..first + count })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `map`, and nothing refers to it any more.
        unsafe { colloquy_emulator_unmap(self.start, self.bytes as usize) };
        TAKEN.lock().expect("no panic while it is held")[self.chunks.clone()].fill(false);
    }
}

/// The memory of one device.
#[derive(Default)]
pub struct Arena {
    regions: Vec<Region>,
    /// Start to length; neighbours are merged.
    free: BTreeMap<u64, u64>,
}

impl Arena {
    /// `bytes` bytes, a multiple of the alignment, with whatever is in them; and the region that was added
    /// for them, if one was.
    pub fn allocate(&mut self, bytes: u64) -> Option<(u64, Option<&Region>)> {
        debug_assert!(bytes.is_multiple_of(ALIGNMENT));
        let found =
            self.free.iter().find(|&(_, &length)| length >= bytes).map(|(&start, &length)| (start, length));
        let added = found.is_none();
        let (start, length) = match found {
            Some(range) => range,
            None => {
                let region = Region::map(bytes)?;
                let range = (region.start, region.bytes);
                self.regions.push(region);
                range
            }
        };
        self.free.remove(&start);
        if length > bytes {
            self.free.insert(start + bytes, length - bytes);
        }
        Some((start, self.regions.last().filter(|_| added)))
    }

    /// Takes memory back.
    pub fn release(&mut self, start: u64, bytes: u64) {
        if bytes >= DISCARD {
            const PAGE: u64 = 64 << 10;
            let (first, end) = (start.next_multiple_of(PAGE), (start + bytes) / PAGE * PAGE);
            // SAFETY: whole pages of freed memory.
            unsafe { colloquy_emulator_discard(first, (end - first) as usize) };
        }
        let (mut start, mut bytes) = (start, bytes);
        // Regions may be neighbours too, but are unmapped one by one only at the end.
        if let Some((&before, &length)) = self.free.range(..start).next_back()
            && before + length == start
        {
            self.free.remove(&before);
            (start, bytes) = (before, length + bytes);
        }
        if let Some(length) = self.free.remove(&(start + bytes)) {
            bytes += length;
        }
        self.free.insert(start, bytes);
    }
}
