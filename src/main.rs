//! The `colloquy` binary: parse the command line, run the command, turn its result into an exit code.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;

/// The system's allocator; but memory that cannot be had ends the program with one line and exit
/// code 1, as any other error, not with an abort.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: everything is left to the system's allocator; what it returns is returned, unless it is null.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        had(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        had(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promise.
        had(unsafe { System.realloc(at, layout, size) }, size)
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

fn had(at: *mut u8, size: usize) -> *mut u8 {
    if at.is_null() {
        no_memory(size);
    }
    at
}

/// Nothing is lost: what a run has completed is in its journal. Neither formatting to stderr, which
/// has no buffer, nor ending the process allocates.
#[cold]
fn no_memory(size: usize) -> ! {
    let _ = writeln!(
        std::io::stderr(),
        "error: memory: the system refused {size} bytes; --memory limits what is planned. \
         What a run has completed is kept: colloquy resume RUN"
    );
    // SAFETY: ends the process without running anything of it, as memory may be needed for that.
    unsafe { libc::_exit(1) }
}

fn main() -> std::process::ExitCode {
    colloquy::cli::main()
}
