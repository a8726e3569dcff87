//! A GPU through the CUDA driver, whose library is found at run time. All `unsafe` calls into cudarc are in this file.
//!
//! What is missing is an error of its own: kernels in this build, the driver, a driver that is new enough,
//! the device, its architecture. cudarc panics when it is asked for anything, even the text of an error,
//! without the driver's library, so its presence is checked first.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ffi::{CString, c_int, c_void};

use cudarc::driver::{result, sys};

use super::driver::*;
use super::{ceiling, images, noise};
use crate::backend::{Ceilings, Noise, OpTimes};
use crate::error::{Error, Result};

/// The first driver that loads what the nvcc of these images makes: the first of its major version ("CUDA
/// minor version compatibility"), as `cuDriverGetVersion` counts.
fn oldest_driver() -> c_int {
    let major =
        images::BUILT_WITH.and_then(|nvcc| nvcc.split([' ', '.']).nth(1)).and_then(|m| m.parse().ok());
    major.unwrap_or(13) * 1000
}

/// Pinned memory that uploads go through: pieces of this many bytes, used in turn.
const PIECE: usize = 1 << 20;
const PIECES: usize = 8;

/// A piece of pinned memory and the event after which it may be written again.
struct Piece {
    memory: *mut c_void,
    event: sys::CUevent,
}

/// CUDA errors from this number on come from what kernels did (`CUDA_ERROR_ILLEGAL_ADDRESS` and behind it).
const FIRST_OF_KERNELS: u32 = 700;

/// Least bytes of pinned memory that a copy to the host lands in.
const LEAST_LANDING: usize = 64 << 10;

/// Pinned memory that a copy to the host lands in.
struct Landing {
    memory: *mut c_void,
    capacity: usize,
    /// Happens when the copy has landed.
    event: sys::CUevent,
    /// The number of the copy under way, and how many kernels and graphs had been enqueued before
    /// it.
    copy: Option<(u64, u64)>,
}

/// A GPU.
pub struct Gpu {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    functions: HashMap<Kernel, sys::CUfunction>,
    modules: HashMap<&'static str, sys::CUmodule>,
    graphs: Vec<Option<sys::CUgraphExec>>,
    memory: HashSet<DevicePtr>,
    pieces: Vec<Piece>,
    next_piece: usize,
    landings: Vec<Landing>,
    fetches: u64,
    name: String,
    capability: (c_int, c_int),
    driver: c_int,
    multiprocessors: u32,
    /// Bytes of device memory that were free when it was opened, less a little for the driver.
    free_at_start: usize,
    /// What was enqueued and is not known to be good: an error of it shows only later.
    running: Running,
    /// Wait after each launch, to find the kernel that fails.
    wait: bool,
    profile: Option<Profile>,
}

/// A kernel or a graph that was enqueued.
#[derive(Clone, Copy)]
enum Work {
    Launch(LaunchShape),
    Graph(GraphId),
}

/// As errors name it.
impl std::fmt::Display for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Work::Launch(shape) => shape.fmt(f),
            Work::Graph(graph) => write!(f, "graph {}", graph.0),
        }
    }
}

/// How many of the latest kernels and graphs an error names.
const NAMED: usize = 3;

/// Kernels and graphs by their numbers, counted from the first one of the device.
#[derive(Default)]
struct Running {
    /// Enqueued ever.
    enqueued: u64,
    /// The first so many have run without an error.
    good: u64,
    /// The latest, oldest first.
    latest: VecDeque<Work>,
}

impl Running {
    fn push(&mut self, work: Work) {
        self.enqueued += 1;
        if self.latest.len() == NAMED {
            self.latest.pop_front();
        }
        self.latest.push_back(work);
    }

    /// The first `count` have run without an error.
    fn passed(&mut self, count: u64) {
        self.good = self.good.max(count);
    }

    /// How many may still fail, and the latest of them, newest first.
    fn suspects(&self) -> (u64, impl Iterator<Item = &Work>) {
        let count = self.enqueued - self.good;
        (count, self.latest.iter().rev().take(count.min(NAMED as u64) as usize))
    }
}

/// Times of launches.
#[derive(Default)]
struct Profile {
    /// Launches whose end was not waited for yet, with the events around them.
    open: Vec<(&'static str, sys::CUevent, sys::CUevent)>,
    /// Seconds by kernel.
    times: BTreeMap<&'static str, Vec<f64>>,
}

/// What a driver call failed at, in words, with the driver's number and name of the error.
fn failed(what: impl std::fmt::Display, e: result::DriverError) -> Error {
    let name = e.error_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let text = format!("CUDA error {} {name}: {what}", e.0 as u32);
    match e.0 {
        sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Memory(text),
        _ => Error::Device(text),
    }
}

/// Why a GPU cannot be used.
fn unusable(ordinal: usize, why: impl std::fmt::Display) -> Error {
    Error::Unsupported(format!("cuda:{ordinal}: {why}"))
}

impl Gpu {
    /// How many GPUs there are that could be asked for: 0 without kernels or driver.
    pub fn count() -> usize {
        if images::IMAGES.is_empty() || !has_driver() || result::init().is_err() {
            return 0;
        }
        result::device::get_count().map_or(0, |n| n as usize)
    }

    /// Opens GPU `ordinal`.
    pub fn open(ordinal: usize) -> Result<Self> {
        if images::IMAGES.is_empty() {
            return Err(unusable(
                ordinal,
                "this program was built without CUDA kernels, because there was no nvcc \
                 (tools/cuda_toolchain.sh installs one; then build again)",
            ));
        }
        if !has_driver() {
            return Err(unusable(ordinal, "no NVIDIA driver on this machine (libcuda.so.1 is not found)"));
        }
        result::init().map_err(|e| failed("starting the driver", e))?;
        let mut driver: c_int = 0;
        // SAFETY: writes one integer.
        unsafe { sys::cuDriverGetVersion(&mut driver) }
            .result()
            .map_err(|e| failed("asking for the driver's version", e))?;
        let version = |v: c_int| format!("{}.{}", v / 1000, v % 1000 / 10);
        if driver < oldest_driver() {
            return Err(unusable(
                ordinal,
                format!(
                    "the NVIDIA driver supports CUDA {}, {} or newer is needed",
                    version(driver),
                    version(oldest_driver())
                ),
            ));
        }
        let count = result::device::get_count().map_err(|e| failed("counting devices", e))?;
        if ordinal >= count as usize {
            return Err(unusable(ordinal, format!("there is no such device; {count} found")));
        }
        let device = result::device::get(ordinal as c_int).map_err(|e| failed("opening the device", e))?;
        let attribute = |a: sys::CUdevice_attribute| {
            // SAFETY: the device is one that the driver gave.
            unsafe { result::device::get_attribute(device, a) }
                .map_err(|e| failed("asking for a device attribute", e))
        };
        use sys::CUdevice_attribute as A;
        let capability = (
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        );
        let name = result::device::get_name(device).map_err(|e| failed("asking for the device's name", e))?;
        if images::code_for(capability.0 as u32, capability.1 as u32).is_none() {
            return Err(unusable(
                ordinal,
                format!(
                    "{name} has compute capability {}.{}; this build has kernels for {}",
                    capability.0,
                    capability.1,
                    images::ARCHITECTURES.join(", ")
                ),
            ));
        }
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32;
        // SAFETY: the device is valid; the context stays current on this thread, which is the only one that
        // uses this value (it is not Send).
        let (context, stream) = unsafe {
            let context = result::primary_ctx::retain(device).map_err(|e| failed("making a context", e))?;
            result::ctx::set_current(context).map_err(|e| failed("using the context", e))?;
            let stream = result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(|e| failed("making a stream", e))?;
            (context, stream)
        };
        let mut gpu = Self {
            device,
            context,
            stream,
            functions: HashMap::new(),
            modules: HashMap::new(),
            graphs: Vec::new(),
            memory: HashSet::new(),
            pieces: Vec::new(),
            next_piece: 0,
            landings: Vec::new(),
            fetches: 0,
            name,
            capability,
            driver,
            multiprocessors,
            free_at_start: result::mem_get_info()
                .map_err(|e| failed("asking for the free memory", e))
                .map(|(free, _)| free - free / 32)?,
            running: Running::default(),
            wait: std::env::var_os("COLLOQUY_CUDA_WAIT").is_some(),
            profile: None,
        };
        for _ in 0..PIECES {
            // SAFETY: a context is current.
            let memory = unsafe { result::malloc_host(PIECE, 0) }
                .map_err(|e| failed(format!("{PIECE} bytes of pinned host memory"), e))?;
            let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
                .map_err(|e| failed("making an event", e))?;
            gpu.pieces.push(Piece { memory, event });
        }
        Ok(gpu)
    }

    /// Makes this GPU the one that calls of this thread go to; another one may have been used since.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained until this value is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| failed("using the context", e))
    }

    /// A kernel's handle, its image loaded when first asked for.
    fn function(&mut self, kernel: &Kernel) -> Result<sys::CUfunction> {
        if let Some(&function) = self.functions.get(kernel) {
            return Ok(function);
        }
        let module = match self.modules.get(kernel.file) {
            Some(&module) => module,
            None => {
                let image = images::image(kernel.file).ok_or_else(|| {
                    Error::Internal(format!("there is no image of kernels/{}.cu", kernel.file))
                })?;
                // SAFETY: a fatbin made by nvcc, embedded whole.
                let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
                    .map_err(|e| failed(format!("loading kernels/{}.cu", kernel.file), e))?;
                self.modules.insert(kernel.file, module);
                module
            }
        };
        let name = CString::new(kernel.name).map_err(|e| Error::Internal(e.to_string()))?;
        // SAFETY: the module is loaded and never unloaded before the device is dropped.
        let function = unsafe { result::module::get_function(module, name) }
            .map_err(|e| failed(format!("finding {} in kernels/{}.cu", kernel.name, kernel.file), e))?;
        use sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES as SHARED;
        // SAFETY: the function is valid.
        unsafe { result::function::set_function_attribute(function, SHARED, super::MAX_SHARED as c_int) }
            .map_err(|e| failed(format!("shared memory for {}", kernel.name), e))?;
        self.functions.insert(*kernel, function);
        Ok(function)
    }

    fn enqueue(&mut self, launch: &Launch) -> Result<()> {
        let function = self.function(&launch.kernel)?;
        let grid = (launch.grid[0], launch.grid[1], launch.grid[2]);
        // The driver reads the one parameter through this pointer before the call returns.
        let mut params = [launch.params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel takes one struct of this size (the emulator checks sizes by name); the addresses
        // in it are the backend's.
        unsafe {
            result::launch_kernel(
                function,
                grid,
                (launch.kernel.threads, 1, 1),
                launch.shared,
                self.stream,
                &mut params,
            )
        }
        .map_err(|e| self.late(launch, e))
    }

    fn wait_for_all(&mut self) -> Result<()> {
        // SAFETY: the stream is ours.
        match unsafe { result::stream::synchronize(self.stream) } {
            Ok(()) => {
                self.running.passed(self.running.enqueued);
                self.close_profile()
            }
            Err(e) => Err(self.one_failed(e)),
        }
    }

    /// An error that waiting for work shows.
    fn one_failed(&self, e: result::DriverError) -> Error {
        self.late("waiting for the device", e)
    }

    /// An error of `what`, or of a kernel that was enqueued before it: the driver reports those with
    /// whatever comes next.
    fn late(&self, what: impl std::fmt::Display, e: result::DriverError) -> Error {
        let (count, latest) = self.running.suspects();
        if count == 0 || (e.0 as u32) < FIRST_OF_KERNELS {
            return failed(what, e);
        }
        let latest = latest.map(Work::to_string).collect::<Vec<_>>().join("; ");
        let suspects = match count {
            1 => latest,
            _ => format!("one of {count} launches, the last of them {latest}"),
        };
        let hint = if count == 1 { "" } else { " (COLLOQUY_CUDA_WAIT=1 says which)" };
        failed(format!("{suspects}, found at {what}{hint}"), e)
    }

    /// A place for `bytes` bytes that nothing is on its way to; its index.
    fn landing(&mut self, bytes: usize) -> Result<usize> {
        if let Some(i) = self.landings.iter().position(|l| l.copy.is_none() && l.capacity >= bytes) {
            return Ok(i);
        }
        let capacity = bytes.next_power_of_two().max(LEAST_LANDING);
        // SAFETY: a context is current.
        let memory = unsafe { result::malloc_host(capacity, 0) }
            .map_err(|e| failed(format!("{capacity} bytes of pinned host memory"), e))?;
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)
            .map_err(|e| failed("making an event", e))?;
        self.landings.push(Landing { memory, capacity, event, copy: None });
        Ok(self.landings.len() - 1)
    }

    /// Reads the events of launches that have run.
    fn close_profile(&mut self) -> Result<()> {
        let Some(profile) = &mut self.profile else { return Ok(()) };
        for (name, start, end) in profile.open.drain(..) {
            // SAFETY: both events are ours and have happened; nobody else has them.
            let milliseconds = unsafe {
                let elapsed = result::event::elapsed(start, end);
                let _ = result::event::destroy(start);
                let _ = result::event::destroy(end);
                elapsed.map_err(|e| failed(format!("the time of {name}"), e))?
            };
            profile.times.entry(name).or_default().push(f64::from(milliseconds) / 1e3);
        }
        Ok(())
    }

    /// An event that is recorded now.
    fn event(&self) -> Result<sys::CUevent> {
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let event = event.map_err(|e| failed("making an event", e))?;
        // SAFETY: the event and the stream are ours.
        unsafe { result::event::record(event, self.stream) }.map_err(|e| failed("recording an event", e))?;
        Ok(event)
    }

    fn after_launch(&mut self, work: Work) -> Result<()> {
        self.running.push(work);
        if self.wait { self.wait_for_all() } else { Ok(()) }
    }
}

fn has_driver() -> bool {
    // SAFETY: tries to open a library of the system.
    unsafe { sys::is_culib_present() }
}

impl Driver for Gpu {
    fn describe(&self) -> String {
        format!("{} (CUDA driver {}.{})", self.name, self.driver / 1000, self.driver % 1000 / 10)
    }

    fn arithmetic(&self) -> String {
        let code = images::code_for(self.capability.0 as u32, self.capability.1 as u32).unwrap_or("?");
        format!("cuda {}.{} {code}", self.capability.0, self.capability.1)
    }

    fn memory(&self) -> Option<usize> {
        Some(self.free_at_start)
    }

    fn multiprocessors(&self) -> u32 {
        self.multiprocessors
    }

    fn alloc(&mut self, bytes: usize, what: &str) -> Result<DevicePtr> {
        self.enter()?;
        // SAFETY: a context is current. The driver refuses 0 bytes.
        let memory = unsafe { result::malloc_sync(bytes.max(256)) }.map(DevicePtr).map_err(|e| {
            let free = result::mem_get_info().map_or(0, |(free, _)| free);
            failed(format!("{bytes} bytes for {what}; {free} bytes are free"), e)
        })?;
        self.memory.insert(memory);
        Ok(memory)
    }

    fn free(&mut self, memory: DevicePtr) {
        if !self.memory.remove(&memory) || self.enter().is_err() {
            return;
        }
        // What is enqueued may still use it. An error of that work comes with the next call that can fail.
        // SAFETY: the stream and the memory are ours, and the caller gives the memory up.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            let _ = result::free_sync(memory.0);
        }
    }

    fn upload(&mut self, to: DevicePtr, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        for (i, chunk) in bytes.chunks(PIECE).enumerate() {
            let piece = &self.pieces[self.next_piece];
            self.next_piece = (self.next_piece + 1) % PIECES;
            let to = to.offset(i * PIECE);
            // SAFETY: the piece has room for a chunk, and the event says that the device has read what it held.
            unsafe {
                result::event::synchronize(piece.event)
                    .and_then(|()| {
                        std::ptr::copy_nonoverlapping(chunk.as_ptr(), piece.memory.cast(), chunk.len());
                        let pinned = std::slice::from_raw_parts(piece.memory.cast::<u8>(), chunk.len());
                        result::memcpy_htod_async(to.0, pinned, self.stream)
                    })
                    .and_then(|()| result::event::record(piece.event, self.stream))
            }
            .map_err(|e| self.late(format!("a copy of {} bytes to the device", chunk.len()), e))?;
        }
        Ok(())
    }

    fn copy(&mut self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: ranges of the backend's own allocations.
        unsafe { result::memcpy_dtod_async(to.0, from.0, bytes, self.stream) }
            .map_err(|e| self.late(format!("a copy of {bytes} bytes on the device"), e))
    }

    fn fill(&mut self, to: DevicePtr, byte: u8, bytes: usize) -> Result<()> {
        self.enter()?;
        // SAFETY: a range of one of the backend's own allocations.
        unsafe { result::memset_d8_async(to.0, byte, bytes, self.stream) }
            .map_err(|e| self.late(format!("filling {bytes} bytes"), e))
    }

    fn launch(&mut self, launch: &Launch) -> Result<()> {
        self.enter()?;
        if self.profile.is_some() {
            // The image is loaded before the clock runs.
            self.function(&launch.kernel)?;
            let start = self.event()?;
            self.enqueue(launch)?;
            let end = self.event()?;
            if let Some(profile) = &mut self.profile {
                profile.open.push((launch.kernel.name, start, end));
            }
            return self.after_launch(Work::Launch(launch.shape()));
        }
        self.enqueue(launch)?;
        self.after_launch(Work::Launch(launch.shape()))
    }

    fn capture(&mut self, launches: &[Launch]) -> Result<GraphId> {
        self.enter()?;
        for launch in launches {
            // Loading an image is not allowed inside a capture.
            self.function(&launch.kernel)?;
        }
        let what = || format!("a graph of {} launches", launches.len());
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is ours and captures nothing else.
        unsafe { result::stream::begin_capture(self.stream, mode) }.map_err(|e| failed(what(), e))?;
        let enqueued = launches.iter().try_for_each(|launch| self.enqueue(launch));
        // The capture must end whatever happened in it.
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        if let (Err(_), Ok(graph)) = (&enqueued, &graph) {
            // SAFETY: the graph that just ended.
            let _ = unsafe { result::graph::destroy(*graph) };
        }
        enqueued?;
        let graph = graph.map_err(|e| failed(what(), e))?;
        // SAFETY: the graph that just ended; an executable graph does not need it any more.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable.map_err(|e| failed(what(), e))?
        };
        self.graphs.push(Some(executable));
        Ok(GraphId(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: GraphId) -> Result<()> {
        self.enter()?;
        let executable = self.graphs.get(graph.0).copied().flatten();
        let executable =
            executable.ok_or_else(|| Error::Internal(format!("graph {} does not exist", graph.0)))?;
        // SAFETY: an executable graph of ours, on our stream.
        unsafe { result::graph::launch(executable, self.stream) }
            .map_err(|e| self.late(format!("replaying graph {}", graph.0), e))?;
        self.after_launch(Work::Graph(graph))
    }

    fn drop_graph(&mut self, graph: GraphId) {
        if let Some(executable) = self.graphs.get_mut(graph.0).and_then(Option::take) {
            // A failure shows at the next call that can fail.
            let _ = self.enter();
            // SAFETY: it may still run, so wait first; then nobody has its handle.
            unsafe {
                let _ = result::stream::synchronize(self.stream);
                let _ = result::graph::exec_destroy(executable);
            }
        }
    }

    fn submit(&mut self) -> Result<()> {
        Ok(())
    }

    fn synchronize(&mut self) -> Result<()> {
        self.enter()?;
        self.wait_for_all()
    }

    fn download(&mut self, from: DevicePtr, bytes: &mut [u8]) -> Result<()> {
        self.enter()?;
        // SAFETY: a range of one of the backend's own allocations; the slice lives until the wait below.
        unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream) }
            .map_err(|e| self.late(format!("a copy of {} bytes to the host", bytes.len()), e))?;
        self.wait_for_all()
    }

    fn fetch(&mut self, parts: [(DevicePtr, usize); 2]) -> Result<u64> {
        self.enter()?;
        let bytes = parts[0].1 + parts[1].1;
        let index = self.landing(bytes)?;
        self.fetches += 1;
        self.landings[index].copy = Some((self.fetches, self.running.enqueued));
        let landing = &self.landings[index];
        let mut at = 0;
        for (from, length) in parts {
            // SAFETY: the landing has room for both parts and nobody reads it before its event; the source is
            // of the backend's own allocations.
            unsafe {
                let to = std::slice::from_raw_parts_mut(landing.memory.cast::<u8>().add(at), length);
                result::memcpy_dtoh_async(to, from.0, self.stream)
            }
            .map_err(|e| self.late(format!("a copy of {length} bytes to the host"), e))?;
            at += length;
        }
        // SAFETY: the event and the stream are ours.
        unsafe { result::event::record(landing.event, self.stream) }
            .map_err(|e| failed("recording an event", e))?;
        Ok(self.fetches)
    }

    fn fetched(&mut self, copy: u64, parts: [&mut [u8]; 2]) -> Result<()> {
        self.enter()?;
        let found = self.landings.iter().position(|l| l.copy.is_some_and(|c| c.0 == copy));
        let index = found.ok_or_else(|| Error::Internal(format!("copy {copy} was never enqueued")))?;
        let landing = &mut self.landings[index];
        let before = landing.copy.take().map_or(0, |c| c.1);
        // SAFETY: the event is ours and was recorded.
        let waited = unsafe { result::event::synchronize(landing.event) };
        waited.map_err(|e| self.one_failed(e))?;
        let mut at = 0;
        for part in parts {
            // SAFETY: the copy has landed, and its parts had these lengths.
            unsafe {
                let from = self.landings[index].memory.cast::<u8>().add(at);
                std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), part.len());
            }
            at += part.len();
        }
        // What was enqueued before the copy has run without an error.
        self.running.passed(before);
        Ok(())
    }

    fn set_profiling(&mut self, on: bool) -> Result<()> {
        self.enter()?;
        self.wait_for_all()?;
        self.profile = on.then(Profile::default);
        Ok(())
    }

    fn take_profile(&mut self) -> Result<Vec<OpTimes>> {
        self.enter()?;
        self.wait_for_all()?;
        let times = self.profile.as_mut().map(|p| std::mem::take(&mut p.times)).unwrap_or_default();
        Ok(times.into_iter().map(|(name, seconds)| OpTimes { name: name.into(), seconds }).collect())
    }

    fn ceilings(&mut self) -> Result<Option<Ceilings>> {
        self.enter()?;
        let memory = self.alloc(ceiling::bytes(), "measuring the device's ceilings")?;
        // Numbers of ordinary size: zeros would take less power, and so be faster, than what it stands for.
        let noise = Noise { seed: 1, scale: 1.0 };
        let measured = noise::fill(self, memory, ceiling::bytes() / 2, noise).and_then(|()| {
            // SAFETY: the stream is ours, its context current, and the memory was just taken for this.
            unsafe { ceiling::measure(self.stream, memory) }
        });
        self.free(memory);
        measured.map(Some)
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // SAFETY: all handles are ours and used no more. Errors of work that failed were reported where it
        // was waited for.
        unsafe {
            let _ = result::ctx::set_current(self.context);
            let _ = result::stream::synchronize(self.stream);
            for executable in self.graphs.drain(..).flatten() {
                let _ = result::graph::exec_destroy(executable);
            }
            for piece in self.pieces.drain(..) {
                let _ = result::event::destroy(piece.event);
                let _ = result::free_host(piece.memory);
            }
            for landing in self.landings.drain(..) {
                let _ = result::event::destroy(landing.event);
                let _ = result::free_host(landing.memory);
            }
            for memory in self.memory.drain() {
                let _ = result::free_sync(memory.0);
            }
            for (_, module) in self.modules.drain() {
                let _ = result::module::unload(module);
            }
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}
