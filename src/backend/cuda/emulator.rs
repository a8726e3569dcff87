//! The emulator's device: host memory of its own, kernels compiled from the same sources by the C++ compiler (`kernels/emulator/`).
//!
//! It defers everything to [`Driver::synchronize`], freezes a graph's parameters at capture, fills new memory with NaN, keeps guard bytes around every
//! allocation, and checks the bounds of every copy.

use std::alloc::Layout;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_ulong, c_void};

use super::driver::*;
use crate::backend::{Ceilings, OpTimes};
use crate::error::{Error, Result};

unsafe extern "C" {
    fn colloquy_emulator_kernel(name: *const c_char, params: *mut c_ulong, threads: *mut c_int) -> bool;
    fn colloquy_emulator_launch(
        name: *const c_char,
        grid: *const c_uint,
        shared_bytes: c_uint,
        params: *const c_void,
        seed: u64,
        error: *mut c_char,
        error_bytes: usize,
    ) -> c_int;
}

/// Bytes before and after each allocation that nobody may touch.
const GUARD: usize = 256;
const GUARD_BYTE: u8 = 0xa5;

/// An allocation: guard, bytes, guard.
struct Block {
    base: *mut u8,
    layout: Layout,
    bytes: usize,
    what: String,
}

impl Block {
    fn guards(&self) -> [&[u8]; 2] {
        // SAFETY: the block was allocated as GUARD + bytes + GUARD bytes and lives as long as `self`.
        unsafe {
            [
                std::slice::from_raw_parts(self.base, GUARD),
                std::slice::from_raw_parts(self.base.add(GUARD + self.bytes), GUARD),
            ]
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout in `alloc`.
        unsafe { std::alloc::dealloc(self.base, self.layout) }
    }
}

/// Deferred work.
enum Command {
    Upload(DevicePtr, Vec<u8>),
    Copy(DevicePtr, DevicePtr, usize),
    Fill(DevicePtr, u8, usize),
    Launch(Launch),
    Replay(GraphId),
    Free(DevicePtr),
}

/// The emulator as a device.
pub struct Emulator {
    blocks: BTreeMap<u64, Block>,
    queue: Vec<Command>,
    graphs: Vec<Option<Vec<Launch>>>,
    seed: u64,
    launches: u64,
}

impl Emulator {
    /// A device whose order of warps, lanes and blocks follows from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { blocks: BTreeMap::new(), queue: Vec::new(), graphs: Vec::new(), seed, launches: 0 }
    }

    /// A pointer to `bytes` bytes of one allocation.
    fn range(&self, at: DevicePtr, bytes: usize) -> Result<*mut u8> {
        let block = self.blocks.range(..=at.0).next_back().map(|(start, block)| (at.0 - start, block));
        match block {
            Some((offset, block)) if offset as usize + bytes <= block.bytes => {
                // SAFETY: inside the block.
                Ok(unsafe { block.base.add(GUARD + offset as usize) })
            }
            Some((offset, block)) => Err(Error::Internal(format!(
                "emulator: {bytes} bytes at {offset} of \"{}\", which has {}",
                block.what, block.bytes
            ))),
            None => Err(Error::Internal(format!("emulator: {:#x} is not device memory", at.0))),
        }
    }

    fn run(&mut self, launch: &Launch) -> Result<()> {
        self.launches += 1;
        let name = CString::new(launch.kernel.name).map_err(|e| Error::Internal(e.to_string()))?;
        let mut error = [0 as c_char; 1024];
        // SAFETY: the kernel exists and takes this many bytes of parameters (checked by `check`); the addresses in them are the backend's
        // responsibility, as on a GPU, and the guards find writes beside them.
        let failed = unsafe {
            colloquy_emulator_launch(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.shared,
                launch.params.as_ptr().cast(),
                self.seed ^ self.launches.wrapping_mul(0x9e37_79b9_7f4a_7c15),
                error.as_mut_ptr(),
                error.len(),
            )
        };
        if failed != 0 {
            // SAFETY: the launch wrote a NUL-terminated text.
            let text = unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy();
            return Err(Error::Internal(format!("emulator: {text}")));
        }
        for block in self.blocks.values() {
            if block.guards().iter().any(|&g| g != [GUARD_BYTE; GUARD]) {
                return Err(Error::Internal(format!(
                    "emulator: {} {:?} wrote beside \"{}\" ({} bytes)",
                    launch.kernel.name, launch.grid, block.what, block.bytes
                )));
            }
        }
        Ok(())
    }

    /// That the kernel exists and fits the launch.
    fn check(&self, launch: &Launch) -> Result<()> {
        let name = CString::new(launch.kernel.name).map_err(|e| Error::Internal(e.to_string()))?;
        let (mut params, mut threads) = (0, 0);
        // SAFETY: plain reads of a table; the name is NUL-terminated.
        let found = unsafe { colloquy_emulator_kernel(name.as_ptr(), &mut params, &mut threads) };
        let problem = if !found {
            "does not exist".to_string()
        } else if params as usize != launch.params.len() {
            format!("takes {params} bytes of parameters, not {}", launch.params.len())
        } else if threads as u32 != launch.kernel.threads {
            format!("has blocks of {threads}, not {}", launch.kernel.threads)
        } else if launch.grid.iter().any(|&g| g == 0) || launch.grid[1].max(launch.grid[2]) > 65_535 {
            format!("cannot have a grid of {:?}", launch.grid)
        } else if launch.shared > super::MAX_SHARED {
            format!("asks for {} bytes of shared memory, more than {}", launch.shared, super::MAX_SHARED)
        } else {
            return Ok(());
        };
        Err(Error::Internal(format!("kernel {} {problem}", launch.kernel.name)))
    }

    fn execute(&mut self, command: Command) -> Result<()> {
        match command {
            Command::Upload(to, bytes) => {
                let target = self.range(to, bytes.len())?;
                // SAFETY: `target` has room for all bytes, and nothing on the host points there.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) };
            }
            Command::Copy(from, to, bytes) => {
                let (source, target) = (self.range(from, bytes)?, self.range(to, bytes)?);
                // SAFETY: both ranges are inside allocations.
                unsafe { std::ptr::copy(source, target, bytes) };
            }
            Command::Fill(to, byte, bytes) => {
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
            Command::Free(memory) => {
                self.blocks.remove(&memory.0);
            }
        }
        Ok(())
    }
}

impl Driver for Emulator {
    fn describe(&self) -> String {
        "the emulator".into()
    }

    fn arithmetic(&self) -> String {
        format!("emulator {}", std::env::consts::ARCH)
    }

    fn multiprocessors(&self) -> u32 {
        4
    }

    fn alloc(&mut self, bytes: usize, what: &str) -> Result<DevicePtr> {
        let no_memory = || Error::Memory(format!("no memory for {bytes} bytes of {what}"));
        let layout = Layout::from_size_align(bytes + 2 * GUARD, 256).map_err(|_| no_memory())?;
        // SAFETY: the layout is not empty.
        let base = unsafe { std::alloc::alloc(layout) };
        if base.is_null() {
            return Err(no_memory());
        }
        // SAFETY: all inside the new allocation.
        unsafe {
            std::ptr::write_bytes(base, GUARD_BYTE, GUARD);
            std::ptr::write_bytes(base.add(GUARD), 0xff, bytes);
            std::ptr::write_bytes(base.add(GUARD + bytes), GUARD_BYTE, GUARD);
        }
        let at = base as u64 + GUARD as u64;
        self.blocks.insert(at, Block { base, layout, bytes, what: what.into() });
        Ok(DevicePtr(at))
    }

    fn free(&mut self, memory: DevicePtr) {
        self.queue.push(Command::Free(memory));
    }

    fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        self.range(to, bytes.len())?;
        self.queue.push(Command::Upload(to, bytes.to_vec()));
        Ok(())
    }

    fn copy(&mut self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.range(from, bytes)?;
        self.range(to, bytes)?;
        self.queue.push(Command::Copy(from, to, bytes));
        Ok(())
    }

    fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        self.range(to, bytes)?;
        self.queue.push(Command::Fill(to, byte, bytes));
        Ok(())
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.check(launch)?;
        self.queue.push(Command::Launch(launch.clone()));
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
        self.queue.push(Command::Replay(graph));
        Ok(())
    }

    fn drop_graph(&mut self, graph: GraphId) {
        self.graphs[graph.0] = None;
    }

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        for command in std::mem::take(&mut self.queue) {
            self.execute(command)?;
        }
        Ok(())
    }

    fn download(&mut self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        self.synchronize()?;
        let source = self.range(from, bytes.len())?;
        // SAFETY: the range is inside an allocation that `bytes` is no part of.
        unsafe { std::ptr::copy_nonoverlapping(source, bytes.as_mut_ptr(), bytes.len()) };
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
