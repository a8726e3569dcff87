//! The C library's allocator, told what a long run needs of it. glibc alone; elsewhere these do nothing.

/// Before anything else runs: large buffers come from the system and go back to it. Left to itself
/// glibc raises the threshold with every large buffer that is freed, and what a long run gives back
/// stays with the process in pieces.
pub fn settle() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets a number.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

/// Gives pages back that hold nothing. An iteration makes and frees some megabytes of small
/// buffers, and what outlives it comes to lie between them: without this a run of 300 iterations
/// held a sixth more than after the tenth, of which it used nothing (tools/soak.sh long).
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: takes what is free alone.
    unsafe {
        libc::malloc_trim(0);
    }
}
