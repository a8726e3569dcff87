//! The emulator's device: host memory of its own, kernels compiled from the same sources by the C++ compiler
//! (`kernels/emulator/`).
//!
//! It defers everything to [`Driver::synchronize`], freezes a graph's parameters at capture, fills
//! new memory with NaN, keeps guards around every allocation, lets freed memory lie for a while and
//! looks whether anybody writes there, and checks the bounds of every copy. What a device was made
//! to do can be logged and replayed under sanitizers (`log.rs`, tools/sanitize.sh). Its tensor
//! cores round as f32 does, or truncate as those of a GPU do (`mma.rs`).

mod arena;
mod fault;
mod log;
mod mma;

use std::collections::{BTreeMap, VecDeque};
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};

use super::driver::*;
use crate::backend::{Ceilings, OpTimes};
use crate::error::{Error, Result};
use arena::{ALIGNMENT, Arena};
use fault::Fault;
use log::{Log, Record};
pub use mma::Mma;

unsafe extern "C" {
    fn colloquy_emulator_kernel(name: *const c_char, params: *mut c_ulong, threads: *mut c_int) -> bool;
    fn colloquy_emulator_launch(
        name: *const c_char,
        grid: *const c_uint,
        shared_bytes: c_uint,
        params: *const c_void,
        seed: u64,
        mma: *const Mma,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
}

/// Bytes before and (at least) after each allocation that nobody may touch.
const GUARD: usize = 256;
/// At even and at odd addresses: NaN as bf16 and as f32, but not the NaN of new memory.
const GUARD_BYTES: [u8; 2] = [0xa5, 0xff];
const NEW_BYTE: u8 = 0xff;
/// Freed memory that is kept from being used again.
const QUARANTINE: usize = 4 << 20;

const GUARD_PATTERN: [u8; 2 * GUARD + 2] = {
    let mut pattern = [0; 2 * GUARD + 2];
    let mut i = 0;
    while i < pattern.len() {
        pattern[i] = GUARD_BYTES[i % 2];
        i += 1;
    }
    pattern
};
const NEW_PATTERN: [u8; 4096] = [NEW_BYTE; 4096];

/// An allocation: guard, bytes, guard up to a multiple of the alignment.
struct Block {
    at: u64,
    bytes: usize,
    what: String,
}

impl Block {
    /// All of it with its guards: start and length.
    fn whole(&self) -> (u64, u64) {
        (self.at - GUARD as u64, ((self.bytes + 2 * GUARD) as u64).next_multiple_of(ALIGNMENT))
    }

    /// `length` bytes from `start` on, relative to the first byte, guards included.
    fn slice(&self, start: isize, length: usize) -> &[u8] {
        // SAFETY: callers stay inside the guards, which are mapped as long as the block is in the emulator's lists.
        unsafe { std::slice::from_raw_parts((self.at as *const u8).offset(start), length) }
    }

    fn fill(&self) {
        let (start, length) = self.whole();
        let after = (start + length - self.at) as usize - self.bytes;
        // SAFETY: all inside the block and its guards.
        unsafe {
            let at = self.at as *mut u8;
            at.sub(GUARD).copy_from_nonoverlapping(GUARD_PATTERN.as_ptr(), GUARD);
            at.write_bytes(NEW_BYTE, self.bytes);
            at.add(self.bytes).copy_from_nonoverlapping(GUARD_PATTERN[self.bytes % 2..].as_ptr(), after);
        }
    }

    /// Whether the guards are as they were.
    fn is_whole(&self) -> bool {
        let (start, length) = self.whole();
        let after = (start + length - self.at) as usize - self.bytes;
        self.slice(-(GUARD as isize), GUARD) == &GUARD_PATTERN[..GUARD]
            && self.slice(self.bytes as isize, after) == &GUARD_PATTERN[self.bytes % 2..][..after]
    }

    /// Whether nothing was written since it was filled.
    fn is_untouched(&self) -> bool {
        self.slice(0, self.bytes).chunks(NEW_PATTERN.len()).all(|part| part == &NEW_PATTERN[..part.len()])
    }
}

/// Bytes of parameters and threads of a block of the kernel of this name, if there is one.
fn shape_of(kernel: &str) -> Result<Option<(c_ulong, c_int)>> {
    let name = CString::new(kernel).map_err(|e| Error::Internal(e.to_string()))?;
    let (mut params, mut threads) = (0, 0);
    // SAFETY: plain reads of a table; the name is NUL-terminated.
    let found = unsafe { colloquy_emulator_kernel(name.as_ptr(), &mut params, &mut threads) };
    Ok(found.then_some((params, threads)))
}

/// Deferred work.
enum Command {
    Upload(DevicePtr, Vec<u8>),
    Copy(DevicePtr, DevicePtr, usize),
    Fill(DevicePtr, u8, usize),
    Launch(Launch),
    Replay(GraphId),
    Fetch(u64, [(DevicePtr, usize); 2]),
    Free(DevicePtr),
}

/// The emulator as a device.
pub struct Emulator {
    /// By address.
    blocks: BTreeMap<u64, Block>,
    /// Freed, oldest first.
    quarantine: VecDeque<Block>,
    arena: Arena,
    queue: VecDeque<Command>,
    /// Copies to the host that have run, by their numbers.
    landed: BTreeMap<u64, Vec<u8>>,
    fetches: u64,
    graphs: Vec<Option<Vec<Launch>>>,
    /// Bytes that it has, if it was told.
    memory: Option<usize>,
    seed: u64,
    launches: u64,
    /// Or why there is none, until somebody can be told.
    log: Result<Log>,
    fault: Fault,
    /// How its tensor cores add; or what was asked for that is no such thing, until somebody can be
    /// told.
    mma: std::result::Result<Mma, String>,
}

impl Emulator {
    /// A device whose order of warps, lanes and blocks follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            blocks: BTreeMap::new(),
            quarantine: VecDeque::new(),
            arena: Arena::default(),
            queue: VecDeque::new(),
            landed: BTreeMap::new(),
            fetches: 0,
            graphs: Vec::new(),
            memory: None,
            seed,
            launches: 0,
            log: Log::open(seed),
            fault: Fault::default(),
            mma: Mma::wanted(),
        }
    }

    /// A device with no more than this many bytes of memory.
    pub fn with_memory(mut self, bytes: usize) -> Self {
        self.memory = Some(bytes);
        self
    }

    /// A device whose tensor cores add in this way, whatever the environment asks for.
    pub fn with_mma(mut self, mma: Mma) -> Self {
        self.mma = Ok(mma);
        self
    }

    /// A device with the fault that the environment asks for (`fault.rs`), if any.
    ///
    /// # Errors
    /// What the environment asks for does not exist: a fault, or an arithmetic of the tensor cores
    /// (`mma.rs`).
    pub fn with_wanted_fault(mut self) -> Result<Self> {
        self.mma = Ok(self.mma.map_err(mma::refused)?);
        self.fault = Fault::wanted()?;
        Ok(self)
    }

    fn record(&mut self, record: Record<'_>) -> Result<()> {
        match &mut self.log {
            Ok(log) => log.write(record),
            Err(_) => {
                std::mem::replace(&mut self.log, Err(Error::Internal("the emulator has no log".into())))
                    .map(drop)
            }
        }
    }

    /// A pointer to `bytes` bytes of one allocation.
    fn range(&self, at: DevicePtr, bytes: usize) -> Result<*mut u8> {
        let block = self.blocks.range(..=at.0).next_back().map(|(start, block)| (at.0 - start, block));
        match block {
            Some((offset, block)) if offset as usize + bytes <= block.bytes => Ok(at.0 as *mut u8),
            Some((offset, block)) => Err(Error::Internal(format!(
                "emulator: {bytes} bytes at {offset} of \"{}\", which has {}",
                block.what, block.bytes
            ))),
            None => Err(Error::Internal(format!("emulator: {:#x} is not device memory", at.0))),
        }
    }

    fn run(&mut self, launch: &Launch) -> Result<()> {
        self.launches += 1;
        self.fault.meet(launch)?;
        let mma = self.mma.clone().map_err(mma::refused)?;
        let seed = self.seed ^ self.launches.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.record(Record::Launch {
            kernel: launch.kernel.name,
            grid: launch.grid,
            shared: launch.shared,
            seed,
            mma,
            params: &launch.params,
        })?;
        let name = CString::new(launch.kernel.name).map_err(|e| Error::Internal(e.to_string()))?;
        let mut error = [0 as c_char; 1024];
        // SAFETY: the kernel exists and takes this many bytes of parameters (checked by `check`); the
        // addresses in them are the backend's responsibility, as on a GPU, and the guards find writes beside
        // them.
        let failed = unsafe {
            colloquy_emulator_launch(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.shared,
                launch.params.as_ptr().cast(),
                seed,
                &mma,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        if failed != 0 {
            // SAFETY: the launch wrote a NUL-terminated text.
            let text = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
            return Err(Error::Internal(format!("emulator: {text}")));
        }
        match self.blocks.values().find(|block| !block.is_whole()) {
            None => Ok(()),
            Some(block) => Err(Error::Internal(format!(
                "emulator: {} {:?} wrote beside \"{}\" ({} bytes)",
                launch.kernel.name, launch.grid, block.what, block.bytes
            ))),
        }
    }

    /// That the kernel exists and fits the launch.
    fn check(&self, launch: &Launch) -> Result<()> {
        let found = shape_of(launch.kernel.name)?;
        let (params, threads) = found.unwrap_or_default();
        let problem = if found.is_none() {
            "does not exist".to_string()
        } else if params as usize != launch.params.len() {
            format!("takes {params} bytes of parameters, not {}", launch.params.len())
        } else if threads as u32 != launch.kernel.threads {
            format!("has blocks of {threads}, not {}", launch.kernel.threads)
        } else if launch.grid.contains(&0) || launch.grid[1].max(launch.grid[2]) > 65_535 {
            format!("cannot have a grid of {:?}", launch.grid)
        } else if launch.shared > super::MAX_SHARED {
            format!("asks for {} bytes of shared memory, more than {}", launch.shared, super::MAX_SHARED)
        } else {
            return Ok(());
        };
        Err(Error::Internal(format!("kernel {} {problem}", launch.kernel.name)))
    }

    fn execute(&mut self, command: Command) -> Result<()> {
        self.fault.check()?;
        match command {
            Command::Upload(to, bytes) => {
                self.record(Record::Upload { to: to.0, bytes: &bytes })?;
                let target = self.range(to, bytes.len())?;
                // SAFETY: `target` has room for all bytes, and nothing on the host points there.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
            }
            Command::Copy(from, to, bytes) => {
                self.record(Record::Copy { from: from.0, to: to.0, bytes: bytes as u64 })?;
                let (source, target) = (self.range(from, bytes)?, self.range(to, bytes)?);
                // SAFETY: both ranges are inside allocations.
                unsafe { std::ptr::copy(source, target, bytes) };
            }
            Command::Fill(to, byte, bytes) => {
                self.record(Record::Fill { to: to.0, byte, bytes: bytes as u64 })?;
                let target = self.range(to, bytes)?;
                // SAFETY: inside an allocation.
                unsafe { std::ptr::write_bytes(target, byte, bytes) };
            }
            Command::Launch(launch) => self.run(&launch)?,
            Command::Replay(graph) => {
                let launches = self.graphs.get(graph.0).cloned().flatten();
                let launches =
                    launches.ok_or_else(|| Error::Internal(format!("graph {} does not exist", graph.0)))?;
                for launch in &launches {
                    self.run(launch)?;
                }
            }
            Command::Fetch(copy, parts) => {
                let mut bytes = Vec::new();
                for (from, length) in parts {
                    let source = self.range(from, length)?;
                    // SAFETY: the range is inside an allocation, which the vector is no part of.
                    let part = unsafe { std::slice::from_raw_parts(source, length) };
                    self.record(Record::Download { from: from.0, bytes: part })?;
                    bytes.extend_from_slice(part);
                }
                self.landed.insert(copy, bytes);
            }
            Command::Free(memory) => self.release(memory)?,
        }
        Ok(())
    }

    fn release(&mut self, memory: DevicePtr) -> Result<()> {
        let block = self.blocks.remove(&memory.0);
        let block = block.ok_or_else(|| {
            Error::Internal(format!("emulator: {:#x} is freed and not allocated", memory.0))
        })?;
        self.record(Record::Free { at: block.at })?;
        if block.bytes <= QUARANTINE {
            block.fill();
        }
        self.quarantine.push_back(block);
        let mut kept: usize = self.quarantine.iter().map(|block| block.bytes).sum();
        while kept > QUARANTINE {
            let Some(oldest) = self.quarantine.pop_front() else { break };
            kept -= oldest.bytes;
            let (start, length) = oldest.whole();
            self.arena.release(start, length);
        }
        Ok(())
    }
}

impl Driver for Emulator {
    fn describe(&self) -> String {
        "the emulator".into()
    }

    fn arithmetic(&self) -> String {
        let mma = self.mma.as_ref().map_or("", |mma| mma.suffix());
        format!("emulator {}{mma}", std::env::consts::ARCH)
    }

    fn memory(&self) -> Option<usize> {
        self.memory
    }

    fn multiprocessors(&self) -> u32 {
        4
    }

    fn alloc(&mut self, bytes: usize, what: &str) -> Result<DevicePtr> {
        let held: usize = self.blocks.values().map(|block| block.bytes).sum();
        if let Some(memory) = self.memory.filter(|&memory| held + bytes > memory) {
            let free = memory.saturating_sub(held);
            return Err(Error::Memory(format!("{bytes} bytes for {what}; {free} bytes are free")));
        }
        let mut block = Block { at: GUARD as u64, bytes, what: what.into() };
        let found = self.arena.allocate(block.whole().1);
        let (start, region) =
            found.ok_or_else(|| Error::Memory(format!("no memory for {bytes} bytes of {what}")))?;
        let region = region.map(|region| (region.start, region.bytes));
        let at = start + GUARD as u64;
        block.at = at;
        block.fill();
        self.blocks.insert(at, block);
        if let Some((start, bytes)) = region {
            self.record(Record::Map { start, bytes })?;
        }
        self.record(Record::Alloc { at, bytes: bytes as u64, what })?;
        Ok(DevicePtr(at))
    }

    fn free(&mut self, memory: DevicePtr) {
        if memory != DevicePtr::NULL {
            self.queue.push_back(Command::Free(memory));
        }
    }

    fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        self.range(to, bytes.len())?;
        self.queue.push_back(Command::Upload(to, bytes.to_vec()));
        Ok(())
    }

    fn copy(&mut self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.range(from, bytes)?;
        self.range(to, bytes)?;
        self.queue.push_back(Command::Copy(from, to, bytes));
        Ok(())
    }

    fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        self.range(to, bytes)?;
        self.queue.push_back(Command::Fill(to, byte, bytes));
        Ok(())
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.check(launch)?;
        self.queue.push_back(Command::Launch(launch.clone()));
        Ok(())
    }

    fn capture(&mut self, launches: &[Launch]) -> Result<GraphId> {
        for launch in launches {
            self.check(launch)?;
        }
        self.graphs.push(Some(launches.to_vec()));
        Ok(GraphId(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<()> {
        self.queue.push_back(Command::Replay(graph));
        Ok(())
    }

    fn drop_graph(&mut self, graph: GraphId) {
        self.graphs[graph.0] = None;
    }

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        self.fault.check()?;
        let launches = self.launches;
        while let Some(command) = self.queue.pop_front() {
            self.execute(command)?;
        }
        if self.launches > launches
            && let Some(block) =
                self.quarantine.iter().find(|block| !block.is_untouched() || !block.is_whole())
        {
            return Err(Error::Internal(format!(
                "emulator: one of {} launches wrote to \"{}\" ({} bytes), which was freed before it ended",
                self.launches - launches,
                block.what,
                block.bytes
            )));
        }
        match &mut self.log {
            Ok(log) => log.flush(),
            Err(_) => Ok(()),
        }
    }

    fn download(&mut self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        self.synchronize()?;
        let source = self.range(from, bytes.len())?;
        // SAFETY: the range is inside an allocation that `bytes` is no part of.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
        self.record(Record::Download { from: from.0, bytes })
    }

    fn fetch(&mut self, parts: [(DevicePtr, usize); 2]) -> Result<u64> {
        for (from, bytes) in parts {
            self.range(from, bytes)?;
        }
        self.fetches += 1;
        self.queue.push_back(Command::Fetch(self.fetches, parts));
        Ok(self.fetches)
    }

    fn fetched(&mut self, copy: u64, parts: [&mut [u8]; 2]) -> Result<()> {
        self.fault.check()?;
        // What was enqueued after it has not run yet, as the host may rely on nothing else.
        while !self.landed.contains_key(&copy) {
            let Some(command) = self.queue.pop_front() else { break };
            self.execute(command)?;
        }
        let bytes = self.landed.remove(&copy);
        let bytes =
            bytes.ok_or_else(|| Error::Internal(format!("emulator: copy {copy} was never enqueued")))?;
        let [first, second] = parts;
        if bytes.len() != first.len() + second.len() {
            return Err(Error::Internal(format!("emulator: copy {copy} has {} bytes", bytes.len())));
        }
        first.copy_from_slice(&bytes[..first.len()]);
        second.copy_from_slice(&bytes[first.len()..]);
        Ok(())
    }

    fn set_profiling(&mut self, _on: bool) -> Result<()> {
        Err(Error::Unsupported("a profile on the emulator, whose times say nothing about a GPU".into()))
    }

    fn take_profile(&mut self) -> Result<Vec<OpTimes>> {
        Ok(Vec::new())
    }

    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        Ok(None)
    }
}
