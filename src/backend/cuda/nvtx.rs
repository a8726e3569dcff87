//! NVTX ranges: what the program is at, for a profiler's time line.
//!
//! NVTX 3 has no library to link or load. A profiler (`nsys profile`, `ncu --nvtx`) starts the program with
//! `NVTX_INJECTION64_PATH` naming a library of its own; whoever has ranges to tell loads it, calls its
//! `InitializeInjectionNvtx2` with a function that hands out tables, and the profiler writes the functions
//! that it wants to be called into them (nvtx3/nvtxDetail/nvtxInit.h and nvtxTypes.h of CUDA 13, NVTX 3.2).
//! That is all there is, so it is done here, without C headers. Without the variable nothing is loaded and no
//! range costs anything.

use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

use crate::error::{Error, Result};

/// Where a profiler leaves the path of its library.
const VARIABLE: &str = "NVTX_INJECTION64_PATH";
const ENTRY: &[u8] = b"InitializeInjectionNvtx2\0";
/// `NVTX_VERSION`.
const VERSION: u32 = 3;
/// `NVTX_ETID_CALLBACKS` and `NVTX_ETID_VERSIONINFO`.
const TABLE_CALLBACKS: u32 = 1;
const TABLE_VERSION: u32 = 3;
/// `NVTX_CB_MODULE_CORE`, and in it `NVTX_CBID_CORE_RangePushA` and `NVTX_CBID_CORE_RangePop`.
const MODULE_CORE: usize = 1;
const RANGE_PUSH: usize = 9;
const RANGE_POP: usize = 11;
/// Entries of the tables of modules 1 to 6, entry 0 of each unused: core, cuda, opencl, cudart, core2, sync.
const ENTRIES: [usize; 6] = [16, 9, 15, 7, 16, 7];

/// Where a profiler writes a function.
type Entry = AtomicPtr<c_void>;
/// A module's table: the addresses of its entries, the first and the one after the last null.
type Module = Vec<*mut Entry>;

/// `NvtxExportTableCallbacks`.
#[repr(C)]
struct Callbacks {
    struct_size: usize,
    module: unsafe extern "C" fn(c_int, *mut *const *mut Entry, *mut c_uint) -> c_int,
}

/// `NvtxExportTableVersionInfo`.
#[repr(C)]
struct VersionInfo {
    struct_size: usize,
    version: u32,
    reserved: u32,
    set_injection_version: extern "C" fn(u32),
}

static CALLBACKS: Callbacks = Callbacks { struct_size: size_of::<Callbacks>(), module };
static VERSION_INFO: VersionInfo = VersionInfo {
    struct_size: size_of::<VersionInfo>(),
    version: VERSION,
    reserved: 0,
    set_injection_version: ignore_version,
};

/// The tables, made once and kept for ever, since the profiler keeps their addresses.
struct Tables(Vec<Module>);

// SAFETY: the addresses are of leaked atomics and are never changed.
unsafe impl Send for Tables {}
// SAFETY: as above.
unsafe impl Sync for Tables {}

fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| {
        let module = |&entries: &usize| -> Module {
            let entry = || Box::into_raw(Box::new(Entry::new(null_mut())));
            let filled = (1..entries).map(|_| entry());
            std::iter::once(null_mut()).chain(filled).chain(std::iter::once(null_mut())).collect()
        };
        Tables(ENTRIES.iter().map(module).collect())
    })
}

/// `GetModuleFunctionTable`: the table of a module and the number of its entries.
unsafe extern "C" fn module(module: c_int, table: *mut *const *mut Entry, size: *mut c_uint) -> c_int {
    let found = usize::try_from(module).ok().and_then(|m| m.checked_sub(MODULE_CORE));
    let Some(entries) = found.and_then(|m| tables().0.get(m)) else { return 0 };
    // SAFETY: the profiler gives addresses that can be written, or null for what it does not want.
    unsafe {
        if !table.is_null() {
            *table = entries.as_ptr();
        }
        if !size.is_null() {
            *size = entries.len() as c_uint - 1;
        }
    }
    1
}

extern "C" fn ignore_version(_: u32) {}

/// `NvtxGetExportTableFunc_t`.
extern "C" fn export_table(id: u32) -> *const c_void {
    match id {
        TABLE_CALLBACKS => (&raw const CALLBACKS).cast(),
        TABLE_VERSION => (&raw const VERSION_INFO).cast(),
        _ => null(),
    }
}

/// What a profiler wants to be called with.
#[derive(Clone, Copy)]
pub struct Ranges {
    push: unsafe extern "C" fn(*const c_char) -> c_int,
    pop: unsafe extern "C" fn() -> c_int,
}

impl Ranges {
    /// The profiler that started this program, if one did and wants ranges. Its library is loaded once a process.
    pub fn of_the_profiler() -> Result<Option<Ranges>> {
        static ATTACHED: OnceLock<std::result::Result<Option<Ranges>, String>> = OnceLock::new();
        let Some(path) = std::env::var_os(VARIABLE) else { return Ok(None) };
        ATTACHED
            .get_or_init(|| attach(&PathBuf::from(&path)))
            .clone()
            .map_err(|problem| Error::input(format!("environment variable {VARIABLE}"), problem))
    }

    /// Begins a range inside those that are open.
    pub fn push(&self, name: &str) {
        // A name of ours has no NUL in it.
        let name = CString::new(name).unwrap_or_default();
        // SAFETY: a function of the profiler with this signature; it copies the text.
        unsafe { (self.push)(name.as_ptr()) };
    }

    /// Ends the latest.
    pub fn pop(&self) {
        // SAFETY: a function of the profiler with this signature.
        unsafe { (self.pop)() };
    }
}

/// The handshake.
fn attach(path: &std::path::Path) -> std::result::Result<Option<Ranges>, String> {
    let expected = "expected the NVTX library of a profiler (nsys and ncu set it)";
    // SAFETY: a library that a profiler made to be loaded here.
    let library = unsafe { libloading::Library::new(path) }
        .map_err(|e| format!("{} cannot be loaded ({e}), {expected}", path.display()))?;
    type Initialize = unsafe extern "C" fn(extern "C" fn(u32) -> *const c_void) -> c_int;
    // SAFETY: the entry point has this signature in every NVTX 3.
    let accepted = unsafe {
        let initialize = library
            .get::<Initialize>(ENTRY)
            .map_err(|_| format!("{} has no InitializeInjectionNvtx2, {expected}", path.display()))?;
        initialize(export_table)
    };
    if accepted == 0 {
        return Err(format!("{} refused to be attached", path.display()));
    }
    // It stays loaded: its functions are called until the end.
    std::mem::forget(library);
    let function = |entry: usize| {
        // SAFETY: an entry of the core module, leaked.
        unsafe { &*tables().0[0][entry] }.load(Ordering::Acquire)
    };
    let (push, pop) = (function(RANGE_PUSH), function(RANGE_POP));
    if push.is_null() || pop.is_null() {
        return Ok(None);
    }
    // SAFETY: nvtxRangePushA and nvtxRangePop have these signatures.
    Ok(Some(unsafe {
        Ranges {
            push: std::mem::transmute::<*mut c_void, unsafe extern "C" fn(*const c_char) -> c_int>(push),
            pop: std::mem::transmute::<*mut c_void, unsafe extern "C" fn() -> c_int>(pop),
        }
    }))
}
