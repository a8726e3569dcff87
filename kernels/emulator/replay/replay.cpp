// Replays what src/backend/cuda/emulator/log.rs wrote (the format is there), with kernels compiled with a sanitizer: tools/sanitize.sh.
//
//   replay PLAIN.so LAUNCHES BLOCKS SEED LOG...
//
// This program holds the kernels with the sanitizer, PLAIN.so the same without, which are a hundred times faster. Of the launches that are alike (kernel,
// grid, shared memory, and parameters but for addresses), over all logs, the first, second, fourth, eighth, and so on run here, until there were LAUNCHES;
// of each of these the first BLOCKS blocks, in the order of its seed. All else runs in PLAIN.so. Downloads must give what they gave when the log was written,
// also where SEED, which is added to the seeds, is not 0: then blocks, warps and lanes run in another order.
//
// Status 0: nothing found. 1: a replay that differs, or a kernel that did what the emulator forbids. A sanitizer ends the program with its own.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "../mma.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

using LaunchBlocks = int (*)(const char*, const unsigned*, unsigned, const void*, uint64_t, const emulator::MmaArithmetic*, size_t, size_t, char*, size_t);

extern "C" {
int colloquy_emulator_launch_blocks(const char*, const unsigned*, unsigned, const void*, uint64_t, const emulator::MmaArithmetic*, size_t, size_t, char*,
                                    size_t);
bool colloquy_emulator_kernel(const char* name, unsigned long* params, int* threads);
}

namespace {

// What runs, for a report.
char now[512] = "nothing";

[[noreturn]] void fail(const std::string& what) {
    fprintf(stderr, "replay: %s: %s\n", now, what.c_str());
    // Without destructors: threads of a block may still be in the middle of something.
    fflush(nullptr);
    _exit(1);
}

// Bytes outside of live allocations are out of bounds.
void forbid([[maybe_unused]] uint64_t at, [[maybe_unused]] uint64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region(reinterpret_cast<void*>(at), bytes);
#endif
}
void allow([[maybe_unused]] uint64_t at, [[maybe_unused]] uint64_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(reinterpret_cast<void*>(at), bytes);
#endif
}

struct Range {
    uint64_t at, bytes;
};

// A log in memory, read from front to back.
class Reader {
public:
    explicit Reader(const char* path) {
        const int file = open(path, O_RDONLY);
        struct stat status;
        if (file < 0 || fstat(file, &status) != 0) fail("cannot open it");
        size_ = static_cast<size_t>(status.st_size);
        void* p = mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
        if (p == MAP_FAILED) fail("cannot read it");
        data_ = static_cast<const unsigned char*>(p);
        close(file);
    }
    ~Reader() { munmap(const_cast<unsigned char*>(data_), size_); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    bool done() const { return at_ == size_; }
    const unsigned char* take(uint64_t bytes) {
        if (bytes > size_ - at_) fail("the log ends in the middle of a record");
        at_ += bytes;
        return data_ + at_ - bytes;
    }
    uint64_t number() {
        uint64_t x;
        std::memcpy(&x, take(8), 8);
        return x;
    }
    std::string text() {
        const uint64_t bytes = number();
        return {reinterpret_cast<const char*>(take(bytes)), bytes};
    }

private:
    const unsigned char* data_;
    size_t size_, at_ = 0;
};

struct Replay {
    LaunchBlocks plain;
    uint64_t most_launches, most_blocks, seed;
    // Launches of a kind so far, over all logs.
    std::map<std::string, uint64_t> seen;
    uint64_t launches = 0, launches_here = 0, blocks_here = 0, downloads = 0;

    // Of this log.
    std::vector<Range> regions;
    std::map<uint64_t, uint64_t> blocks;  // allocations

    void log(const char* path);
    void launch(Reader& r, const char* path);
    void check(uint64_t at, uint64_t bytes) const;
};

void* pointer(uint64_t at) { return reinterpret_cast<void*>(at); }

void Replay::check(uint64_t at, uint64_t bytes) const {
    auto found = blocks.upper_bound(at);
    if (found == blocks.begin() || at + bytes > std::prev(found)->first + std::prev(found)->second) fail("a copy outside of an allocation");
}

void Replay::launch(Reader& r, const char* path) {
    const std::string kernel = r.text();
    unsigned grid[3];
    for (unsigned& g : grid) g = static_cast<unsigned>(r.number());
    const auto shared = static_cast<unsigned>(r.number());
    const uint64_t launch_seed = r.number() + seed;
    emulator::MmaArithmetic mma;
    for (int32_t* field : {&mma.products, &mma.extra_bits, &mma.least_exponent}) *field = static_cast<int32_t>(r.number());
    const std::string logged = r.text();
    std::vector<uint64_t> params((logged.size() + 7) / 8);
    std::memcpy(params.data(), logged.data(), logged.size());
    snprintf(now, sizeof now, "%s, launch %s (%u, %u, %u), %u bytes of shared memory", path, kernel.c_str(), grid[0], grid[1], grid[2], shared);
    unsigned long bytes = 0;
    int threads = 0;
    if (!colloquy_emulator_kernel(kernel.c_str(), &bytes, &threads) || bytes != logged.size()) {
        fail("this program and the log are of different kernels");
    }

    std::string kind = kernel;
    const auto add = [&kind](uint64_t x) { kind.append(reinterpret_cast<const char*>(&x), 8); };
    for (unsigned g : grid) add(g);
    add(shared);
    for (uint64_t x : params) {
        bool address = false;
        for (const Range& region : regions) address |= x >= region.at && x - region.at < region.bytes;
        add(address ? 1 : x);
    }
    const uint64_t count = ++seen[kind];
    const bool here = std::has_single_bit(count) && static_cast<uint64_t>(std::countr_zero(count)) < most_launches;
    const uint64_t all = static_cast<uint64_t>(grid[0]) * grid[1] * grid[2];
    const uint64_t blocks_of_this = here ? std::min(all, most_blocks) : 0;
    launches++;
    launches_here += here;
    blocks_here += blocks_of_this;
    char error[1024] = "";
    if (blocks_of_this > 0 &&
        colloquy_emulator_launch_blocks(kernel.c_str(), grid, shared, params.data(), launch_seed, &mma, 0, blocks_of_this, error, sizeof error) != 0) {
        fail(error);
    }
    if (blocks_of_this < all &&
        plain(kernel.c_str(), grid, shared, params.data(), launch_seed, &mma, blocks_of_this, all - blocks_of_this, error, sizeof error) != 0) {
        fail(error);
    }
}

void Replay::log(const char* path) {
    snprintf(now, sizeof now, "%s", path);
    Reader r(path);
    const char magic[] = "colloquy emulator log 2\n";
    if (std::memcmp(r.take(sizeof magic - 1), magic, sizeof magic - 1) != 0) fail("not a log of this version");
    while (!r.done()) {
        const uint64_t tag = r.number();
        if (tag != 7) snprintf(now, sizeof now, "%s, record %d", path, static_cast<int>(tag));
        switch (tag) {
            case 1: {
                const uint64_t at = r.number(), bytes = r.number();
                void* p = mmap(pointer(at), bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
                if (p != pointer(at)) fail("something else is where the device's memory must be");
                forbid(at, bytes);
                regions.push_back({at, bytes});
                break;
            }
            case 2: {
                const uint64_t at = r.number(), bytes = r.number();
                r.text();
                allow(at, bytes);
                std::memset(pointer(at), 0xff, bytes);
                blocks[at] = bytes;
                break;
            }
            case 3: {
                const uint64_t at = r.number();
                check(at, 0);
                forbid(at, blocks[at]);
                blocks.erase(at);
                break;
            }
            case 4: {
                const uint64_t to = r.number(), bytes = r.number();
                check(to, bytes);
                std::memcpy(pointer(to), r.take(bytes), bytes);
                break;
            }
            case 5: {
                const uint64_t from = r.number(), to = r.number(), bytes = r.number();
                check(from, bytes);
                check(to, bytes);
                std::memmove(pointer(to), pointer(from), bytes);
                break;
            }
            case 6: {
                const uint64_t to = r.number(), byte = r.number(), bytes = r.number();
                check(to, bytes);
                std::memset(pointer(to), static_cast<int>(byte), bytes);
                break;
            }
            case 7: launch(r, path); break;
            case 8: {
                const uint64_t from = r.number(), bytes = r.number(), expected = r.number();
                check(from, bytes);
                uint64_t hash = 0xcbf29ce484222325ull;
                for (uint64_t i = 0; i < bytes; i++) hash = (hash ^ static_cast<unsigned char*>(pointer(from))[i]) * 0x100000001b3ull;
                if (hash != expected) fail("a download differs from that of the run that was logged");
                downloads++;
                break;
            }
            default: fail("no such record");
        }
    }
    for (const Range& region : regions) {
        allow(region.at, region.bytes);
        munmap(pointer(region.at), region.bytes);
    }
    regions.clear();
    blocks.clear();
}

}  // namespace

// Called by the sanitizers, after and before a report.
extern "C" void __tsan_on_report(void*) { fprintf(stderr, "replay: the report above is of %s\n", now); }
extern "C" void __asan_on_error() { fprintf(stderr, "replay: the report below is of %s\n", now); }

int main(int count, char** arguments) {
    if (count < 6) {
        fprintf(stderr, "usage: replay PLAIN.so LAUNCHES BLOCKS SEED LOG...\n");
        return 2;
    }
    void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) fail(dlerror());
    Replay replay;
    replay.plain = reinterpret_cast<LaunchBlocks>(dlsym(library, "colloquy_emulator_launch_blocks"));
    if (!replay.plain) fail(dlerror());
    replay.most_launches = std::strtoull(arguments[2], nullptr, 10);
    replay.most_blocks = std::strtoull(arguments[3], nullptr, 10);
    replay.seed = std::strtoull(arguments[4], nullptr, 10);
    for (int i = 5; i < count; i++) replay.log(arguments[i]);
    printf("%d logs: %llu launches, %llu of them (%llu blocks) examined, %zu kinds; %llu downloads as before\n", count - 5,
           static_cast<unsigned long long>(replay.launches), static_cast<unsigned long long>(replay.launches_here),
           static_cast<unsigned long long>(replay.blocks_here), replay.seen.size(), static_cast<unsigned long long>(replay.downloads));
    return 0;
}
