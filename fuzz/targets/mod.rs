//! What is fuzzed: one function for each kind of file that comes from strangers, and the bounds that hold for all of them.
//!
//! The fuzzer's programs (`fuzz_targets/`) and the replay of the corpora (`tests/text/corpora.rs`) both include this file, so that an input means
//! the same to either. A target may return errors as it likes; what it must not do is panic, take longer than [`seconds`], or hold more
//! memory at once than its [`Target`] allows for an input of that length.

mod answers;
mod files;
mod records;
mod settings;
mod texts;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

/// A function that reads what a stranger wrote, and what memory that may take.
pub struct Target {
    /// Its name, that of its program and of its folders in `corpus/` and `regressions/`.
    pub name: &'static str,
    /// The function.
    pub run: fn(&[u8]),
    /// Bytes that may be held at once, whatever the input.
    base: usize,
    /// And for each byte of the input.
    per_byte: usize,
}

const MIB: usize = 1 << 20;
/// A JSON value of one or two bytes (`0,`) is 72 bytes in memory, in lists that are up to twice as long as what is in them and three times
/// while they grow; an object of one field (`{"":0},`) has a table of its own.
const JSON: usize = 512;

/// All targets.
pub const TARGETS: [Target; 10] = [
    // JSON, and a list of what it says. Tensors are widened one after the other, from two bytes a number to four.
    Target { name: "safetensors", run: files::safetensors, base: MIB, per_byte: JSON },
    // Up to 4096 layers, each with the names of seven modules, and rotary frequencies of one head.
    Target { name: "config_json", run: files::config_json, base: 16 * MIB, per_byte: JSON },
    Target { name: "shard_index", run: files::shard_index, base: MIB, per_byte: JSON },
    // Compiled patterns: three fields with up to 4096 bytes of them, of which twelve can ask for 256 KiB, in a few forms each.
    Target { name: "adapter_config", run: files::adapter_config, base: 512 * MIB, per_byte: JSON },
    // What the tokenizers crate makes of a vocabulary: maps both ways, merges, added tokens in an automaton. The base is its caches.
    Target { name: "tokenizer_json", run: texts::tokenizer_json, base: 64 * MIB, per_byte: 4096 },
    // What the meter lets a template make and keep, 16 MiB and 64 bytes for each of its input as it counts them, in values of 24 bytes;
    // a list has a value for each character of a text, and is up to twice as long while it grows.
    Target { name: "chat_template", run: texts::chat_template, base: 96 * MIB, per_byte: 1024 },
    Target { name: "jsonl_records", run: records::jsonl_records, base: 2 * MIB, per_byte: JSON },
    // Up to 64 MiB of arms' configurations as TOML, which are smaller as structures, and their tables while they are read.
    Target { name: "toml_config", run: settings::toml_config, base: 192 * MIB, per_byte: 1024 },
    // Sums of up to 400 terms, some at once, and the caches of regular expressions.
    Target { name: "answers", run: answers::answers, base: 32 * MIB, per_byte: 64 },
    // A training's order of up to 2^24 sequences is not made here; settings and records are.
    Target { name: "session_lines", run: records::session_lines, base: 2 * MIB, per_byte: JSON },
];

/// How long an input of so many bytes may take, on one core.
fn seconds(bytes: usize) -> f64 {
    // Twice as much as it should be where debug assertions and overflow checks are compiled in.
    let most = if cfg!(debug_assertions) { 2.0 } else { 1.0 };
    most + 20e-6 * bytes as f64
}

/// Runs an input through a target and checks what holds for all.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).expect("a target of this name");
    // What is made once, such as the patterns of an extraction, is made before it is counted.
    thread_local!(static WARM: Cell<bool> = const { Cell::new(false) });
    if !WARM.replace(true) {
        (target.run)(b"");
    }
    let most = target.base + target.per_byte * input.len();
    let (before, live) = (cpu_time(), measured::start());
    (target.run)(input);
    let (peak, took) = (measured::peak(live), cpu_time().saturating_sub(before).as_secs_f64());
    assert!(
        peak <= most,
        "{name}: held {peak} bytes at once, expected at most {most} for an input of {} bytes",
        input.len()
    );
    assert!(
        took <= seconds(input.len()),
        "{name}: took {took:.2} s, expected at most {:.2} s for an input of {} bytes",
        seconds(input.len()),
        input.len()
    );
}

/// What this thread has computed for, so that other programs on the machine do not count.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    match text.split(' ').next().and_then(|first| first.parse().ok()) {
        Some(nanoseconds) => Duration::from_nanos(nanoseconds),
        None => std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default(),
    }
}

/// A folder in memory, where there is such a place.
pub fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary folder")
}

/// Parts of an input, separated by zero bytes.
pub fn parts(input: &[u8]) -> Vec<&[u8]> {
    input.split(|byte| *byte == 0).collect()
}

/// The system's allocator, and for each thread how much it holds.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What a thread holds, and the most that it has held.
mod measured {
    use super::*;

    thread_local! {
        static LIVE: Cell<isize> = const { Cell::new(0) };
        static PEAK: Cell<isize> = const { Cell::new(0) };
    }

    /// A single piece beyond this is refused: the machine would not have it, and the process ends with the size of what it wanted.
    const MOST: usize = 4 << 30;

    pub fn fits(bytes: usize) -> bool {
        bytes <= MOST
    }

    pub fn add(bytes: isize) {
        let live = LIVE.get() + bytes;
        LIVE.set(live);
        PEAK.set(PEAK.get().max(live));
    }

    /// Begins; what is held now.
    pub fn start() -> isize {
        PEAK.set(LIVE.get());
        LIVE.get()
    }

    /// The most that was held beyond what was.
    pub fn peak(before: isize) -> usize {
        (PEAK.get() - before).max(0) as usize
    }
}

// SAFETY: all calls go to the system's allocator as they come; beside it only numbers of the thread change, which allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !measured::fits(layout.size()) {
            return std::ptr::null_mut();
        }
        measured::add(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if !measured::fits(layout.size()) {
            return std::ptr::null_mut();
        }
        measured::add(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        measured::add(-(layout.size() as isize));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if !measured::fits(size) {
            return std::ptr::null_mut();
        }
        // Both may be there while what is in the old piece is copied.
        measured::add(size as isize);
        measured::add(-(layout.size() as isize));
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
