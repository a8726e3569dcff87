//! What the backend needs of a device: memory, one stream of work, graphs. Two things offer it: a GPU through
//! the CUDA driver ([`super::device`]) and the emulator ([`super::emulator`]), so all other host code is the
//! same for both and runs in the tests of every machine.

use crate::backend::{Ceilings, OpTimes};
use crate::error::Result;

/// An address in device memory; the host never reads through it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// No memory.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// The address `bytes` further.
    pub fn offset(self, bytes: usize) -> DevicePtr {
        DevicePtr(self.0 + bytes as u64)
    }
}

/// An entry point of a file of `kernels/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kernel {
    /// The file's stem.
    pub file: &'static str,
    /// The name in `KERNEL(name, ..)`.
    pub name: &'static str,
    /// Threads of a block.
    pub threads: u32,
}

impl Kernel {
    /// `name` of `kernels/file.cu`.
    pub const fn new(file: &'static str, name: &'static str, threads: u32) -> Self {
        Self { file, name, threads }
    }
}

/// One launch: all that is frozen when a graph is captured.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// What runs.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
    /// The parameter struct.
    pub params: Vec<u8>,
}

impl Launch {
    /// What and how large it is.
    pub fn shape(&self) -> LaunchShape {
        LaunchShape { kernel: self.kernel, grid: self.grid, shared: self.shared }
    }
}

/// As errors name it.
impl std::fmt::Display for Launch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.shape().fmt(f)
    }
}

/// A launch without its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// What runs.
    pub kernel: Kernel,
    /// Blocks.
    pub grid: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared: u32,
}

/// As errors name it.
impl std::fmt::Display for LaunchShape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Kernel { name, threads, .. } = self.kernel;
        write!(
            f,
            "kernel {name} with grid {:?}, {threads} threads, {} bytes of shared memory",
            self.grid, self.shared
        )
    }
}

/// A captured sequence of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub usize);

/// A device. Work is enqueued on one stream and runs in order; only [`Driver::download`], [`Driver::fetched`]
/// and [`Driver::synchronize`] wait.
pub trait Driver {
    /// For a person: `"NVIDIA H100 80GB HBM3, driver 580.82"`.
    fn describe(&self) -> String;
    /// What results depend on, e.g. `"sm_90"`.
    fn arithmetic(&self) -> String;
    /// Streaming multiprocessors: how many blocks a grid of fixed size should have.
    fn multiprocessors(&self) -> u32;
    /// Bytes of device memory for this program, where there is a limit.
    fn memory(&self) -> Option<usize>;
    /// Memory of `bytes` bytes, 256-byte aligned. Its contents are unspecified (the emulator's are NaN).
    /// `what` is for the error message.
    fn alloc(&mut self, bytes: usize, what: &str) -> Result<DevicePtr>;
    /// Gives memory back, once all work enqueued before has run.
    fn free(&mut self, memory: DevicePtr);
    /// Enqueues a copy from the host; `bytes` may be changed afterwards.
    fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()>;
    /// Enqueues a copy on the device; the ranges must not overlap.
    fn copy(&mut self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()>;
    /// Enqueues filling with a byte.
    fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()>;
    /// Enqueues a kernel.
    fn launch(&mut self, launch: &Launch) -> Result<()>;
    /// Captures launches into a graph, without running them.
    fn capture(&mut self, launches: &[Launch]) -> Result<GraphId>;
    /// Enqueues a captured graph.
    fn replay(&mut self, graph: GraphId) -> Result<()>;
    /// Frees a graph.
    fn drop_graph(&mut self, graph: GraphId);
    /// Lets enqueued work begin.
    fn submit(&mut self) -> Result<()>;
    /// Waits for all enqueued work and reports its errors.
    fn synchronize(&mut self) -> Result<()>;
    /// Waits for all enqueued work and copies to the host.
    fn download(&mut self, from: DevicePtr, bytes: &mut [u8]) -> Result<()>;
    /// Enqueues two copies to the host, side by side, into memory that is known by the number returned until
    /// [`Driver::fetched`].
    fn fetch(&mut self, parts: [(DevicePtr, usize); 2]) -> Result<u64>;
    /// Waits for the copies of this number, but not for what was enqueued after them, and gives their bytes.
    fn fetched(&mut self, copy: u64, parts: [&mut [u8]; 2]) -> Result<()>;
    /// Starts or stops measuring the time of each launch; an error where there is no clock.
    fn set_profiling(&mut self, on: bool) -> Result<()>;
    /// The times since the last call, by kernel.
    fn take_profile(&mut self) -> Result<Vec<OpTimes>>;
    /// See [`Backend::ceilings`](crate::backend::Backend::ceilings).
    fn ceilings(&mut self) -> Result<Option<Ceilings>>;
}
