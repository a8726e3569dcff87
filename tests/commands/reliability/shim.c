// A file layer that fails on demand, loaded before the C library (LD_PRELOAD) into the real program: the tests of failing machines.
//
//   FAULT        the call that fails: write, fdatasync, fsync, rename, open, mkdir, ftruncate or read
//   FAULT_AT     from which such call on (counted from 1) all of them fail, as on a disk that has filled up or gone away
//   FAULT_ERRNO  what they fail with
//   FAULT_UNDER  only files whose path contains this text
//   FAULT_SHORT  the first write that fails writes half of its bytes before
//   CLOCK_BACK   each look at the clock finds it an hour earlier
//
// `read` stands for pread and mapped files are not covered: what the program maps is checked when it is opened.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static atomic_long calls, looks;

static int fails(const char* call, const char* path) {
    const char* wanted = getenv("FAULT");
    if (!wanted || strcmp(wanted, call) != 0) return 0;
    const char* under = getenv("FAULT_UNDER");
    if (under && !strstr(path, under)) return 0;
    const long at = atol(getenv("FAULT_AT")), now = atomic_fetch_add(&calls, 1) + 1;
    if (now < at) return 0;
    errno = atoi(getenv("FAULT_ERRNO"));
    return now == at ? 1 : 2;
}

static int fails_fd(const char* call, int fd) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    const ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(call, path);
}

// `real`: the next function of this name.
#define REAL(name)                    \
    static __typeof__(&name) real;    \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);

ssize_t write(int fd, const void* bytes, size_t count) {
    REAL(write)
    const int failed = fails_fd("write", fd);
    if (failed == 1 && getenv("FAULT_SHORT") && count > 1) return real(fd, bytes, count / 2);
    return failed ? -1 : real(fd, bytes, count);
}

ssize_t read(int fd, void* bytes, size_t count) {
    REAL(read)
    return fails_fd("read", fd) ? -1 : real(fd, bytes, count);
}

int fsync(int fd) {
    REAL(fsync)
    return fails_fd("fsync", fd) ? -1 : real(fd);
}

int fdatasync(int fd) {
    REAL(fdatasync)
    return fails_fd("fdatasync", fd) ? -1 : real(fd);
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64)
    return fails_fd("ftruncate", fd) ? -1 : real(fd, length);
}

int rename(const char* from, const char* to) {
    REAL(rename)
    return fails("rename", to) ? -1 : real(from, to);
}

int mkdir(const char* path, mode_t mode) {
    REAL(mkdir)
    return fails("mkdir", path) ? -1 : real(path, mode);
}

int open64(const char* path, int flags, ...) {
    REAL(open64)
    va_list rest;
    va_start(rest, flags);
    const int mode = va_arg(rest, int);
    va_end(rest);
    // Only what is opened to be written: a disk that is full can be read.
    if ((flags & O_ACCMODE) != O_RDONLY && fails("open", path)) return -1;
    return real(path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec* now) {
    REAL(clock_gettime)
    const int result = real(clock, now);
    if (clock == CLOCK_REALTIME && getenv("CLOCK_BACK")) now->tv_sec -= 3600 * (atomic_fetch_add(&looks, 1) + 1);
    return result;
}
