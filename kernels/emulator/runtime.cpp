// The emulator: runs a kernel's blocks one after another, one fibre a thread, on the calling thread.
//
// Blocks, warps and lanes run in an order drawn from the launch's seed. A fibre runs until it needs the others: at a warp operation the lanes deposit
// their operands, and the last to arrive carries it out for all 32; at a barrier a thread waits until every thread of the block is there.
//
// Under the sanitizers (tools/sanitize.sh) it tells them what runs where and what orders what: sanitizers.h.

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "device.h"
#include "fibre.h"
#include "mma.h"
#include "sanitizers.h"

#if defined(__x86_64__)
FIBRE_SWAP_DEFINITION
#endif

namespace emulator {

constinit thread_local Thread* current = nullptr;

namespace {

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;
constexpr int kWarps = kMaxThreads / kLanes;
constexpr int kSets = sanitizers::kSets;
constexpr size_t kStackBytes = 512 * 1024;
// Stacks a power of two apart would all live in the same few lines of the processor's caches.
constexpr size_t kStackShift = 25 * 64, kStackShifts = 40;
constexpr size_t kStacksBytes = kStackBytes * kMaxThreads * kSets;
// Groups of asynchronous copies that have landed and are still in the lists.
constexpr size_t kForget = 32;
// Around shared memory; as bf16 and as f32 it is NaN, but not the NaN of fresh memory. AddressSanitizer has red zones of its own.
constexpr size_t kGuard = sanitizers::kAddress ? 0 : 128;
constexpr unsigned char kGuardBytes[2] = {0xa5, 0xff};

struct Kernel {
    const char* file;
    unsigned long params;
    int threads;
    void (*run)(const void*);
};

std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> table;
    return table;
}

// SplitMix64 (Steele, Lea, Flood 2014).
struct Random {
    uint64_t state;
    uint32_t next() {
        uint64_t z = (state += 0x9e3779b97f4a7c15ull);
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
    }
    uint32_t below(uint32_t n) { return static_cast<uint32_t>((static_cast<uint64_t>(next()) * n) >> 32); }
};

struct Copy {
    void* shared;
    const void* global;  // null: zeros
    void* pc;
};

enum class State : char { Ready, AtWarp, AtBarrier, Done };

struct Fiber : Thread {
    fibre::Context contexts[kSets];
    State state;
    Operation operation;
    void* operand;
    const char* file;
    int line;
    // Asynchronous copies, oldest first: `landed` have, and group g, not yet waited for, ends before copy `groups[g]`.
    std::vector<Copy> copies;
    std::vector<size_t> groups;
    size_t landed, finished;  // copies; groups
};

struct Warp {
    uint32_t ready;    // lanes that can run
    uint32_t waiting;  // lanes at a warp operation
    uint32_t syncs;    // sync_warp so far
    sanitizers::Order orders[2];
};

struct Machine {
    std::vector<Fiber> fibers{kMaxThreads};
    unsigned char* stacks = nullptr;
    Warp warps[kWarps];
    fibre::Context scheduler;
    Random random{0};
    const Kernel* kernel = nullptr;
    const char* name = nullptr;
    const void* params = nullptr;
    MmaArithmetic mma{};
    int threads = 0, at_barrier = 0, done = 0, set = 0, turn = 0;
    uint32_t barriers = 0;
    std::string error;
    // What comes before all threads of a launch, after them, after a block of a set (by turns, so that no thread waits for one of its own block), and at
    // a barrier (likewise).
    sanitizers::Order before, after, of_set[kSets][2], of_barrier[kSets][2];

    ~Machine() {
        if (stacks) munmap(stacks, kStacksBytes);
    }
};

// Of this operating system thread, from its first launch on.
thread_local std::unique_ptr<Machine> owner;
constinit thread_local Machine* running = nullptr;

const char* name_of(Operation o) {
    switch (o) {
        case Operation::Barrier: return "a barrier";
        case Operation::SyncWarp: return "sync_warp";
        case Operation::Exchange: return "a shuffle";
        case Operation::Ballot: return "a ballot";
        case Operation::LoadMatrix: return "load_matrix";
        case Operation::Mma: return "mma";
    }
    return "?";
}

Fiber* self() { return static_cast<Fiber*>(current); }
int index_of(const Fiber* f) { return static_cast<int>(f->thread.x); }
fibre::Context& context_of(Fiber* f) { return f->contexts[kSets == 1 ? 0 : running->set]; }

void describe(std::string& out, const Fiber& f) {
    char text[512];
    const int i = index_of(&f);
    switch (f.state) {
        case State::Done: snprintf(text, sizeof text, "thread %d has ended", i); break;
        case State::Ready: snprintf(text, sizeof text, "thread %d runs", i); break;
        default: snprintf(text, sizeof text, "thread %d at %s, %s:%d", i, name_of(f.operation), f.file, f.line);
    }
    out += text;
}

// Two threads of `first ..+ count` that are not at the same place, for a report.
std::string divergence(int first, int count) {
    std::string out;
    const Fiber& a = running->fibers[first];
    describe(out, a);
    for (int i = first + 1; i < first + count; i++) {
        const Fiber& b = running->fibers[i];
        if (b.state != a.state || (b.state != State::Done && (b.operation != a.operation || b.line != a.line))) {
            out += "; ";
            describe(out, b);
            break;
        }
    }
    return out;
}

void set_error(const std::string& what) {
    if (!running->error.empty()) return;
    const Dim b = current ? current->block : Dim{};
    char where[256];
    snprintf(where, sizeof where, "%s, block (%u, %u, %u): ", running->name, b.x, b.y, b.z);
    running->error = where + what;
}

void to_scheduler() { fibre::swap(context_of(self()), running->scheduler); }

// The next lane of a warp, at random; none: -1.
int pick(Warp& w, int warp) {
    if (w.ready == 0) return -1;
    const int turn = static_cast<int>(running->random.next() % kLanes);
    const uint32_t rotated = std::rotr(w.ready, turn);
    return warp * kLanes + (std::countr_zero(rotated) + turn) % kLanes;
}

// This fibre cannot go on: the next lane of its warp does, or the scheduler chooses.
void yield() {
    Fiber* f = self();
    const int warp = index_of(f) / kLanes;
    const int next = pick(running->warps[warp], warp);
    if (next < 0) return to_scheduler();
    Fiber* to = &running->fibers[next];
    current = to;
    fibre::swap(context_of(f), context_of(to));
}

void perform(Operation operation, Fiber* lanes) {
    switch (operation) {
        case Operation::SyncWarp: break;
        case Operation::Exchange:
            for (int l = 0; l < kLanes; l++) {
                auto* e = static_cast<Exchange*>(lanes[l].operand);
                e->out = static_cast<Exchange*>(lanes[e->source].operand)->in;
            }
            break;
        case Operation::Ballot: {
            uint32_t out = 0;
            for (int l = 0; l < kLanes; l++) out |= static_cast<uint32_t>(static_cast<Ballot*>(lanes[l].operand)->in) << l;
            for (int l = 0; l < kLanes; l++) static_cast<Ballot*>(lanes[l].operand)->out = out;
            break;
        }
        case Operation::LoadMatrix: {
            uint16_t m[4][8][8];
            for (int l = 0; l < kLanes; l++) {
                std::memcpy(m[l / 8][l % 8], static_cast<LoadMatrix*>(lanes[l].operand)->row, 16);
            }
            for (int l = 0; l < kLanes; l++) {
                auto* o = static_cast<LoadMatrix*>(lanes[l].operand);
                const int g = l / 4, t = l % 4;
                for (int i = 0; i < o->count; i++) {
                    const uint16_t low = o->transposed ? m[i][2 * t][g] : m[i][g][2 * t];
                    const uint16_t high = o->transposed ? m[i][2 * t + 1][g] : m[i][g][2 * t + 1];
                    o->out[i] = static_cast<uint32_t>(low) | static_cast<uint32_t>(high) << 16;
                }
            }
            break;
        }
        case Operation::Mma: {
            float a[kM][kK], b[kK][kN], c[kM][kN];
            for (int l = 0; l < kLanes; l++) {
                const auto* o = static_cast<const Mma*>(lanes[l].operand);
                const int g = l / 4, t = l % 4;
                for (int i = 0; i < 4; i++) {
                    const int row = g + i % 2 * 8, column = 2 * t + i / 2 * 8;
                    a[row][column] = bits_float(o->a[i] << 16);
                    a[row][column + 1] = bits_float(o->a[i] & 0xffff0000u);
                    c[g + i / 2 * 8][2 * t + i % 2] = o->c[i];
                }
                for (int i = 0; i < 2; i++) {
                    b[2 * t + i * 8][g] = bits_float(o->b[i] << 16);
                    b[2 * t + i * 8 + 1][g] = bits_float(o->b[i] & 0xffff0000u);
                }
            }
            multiply_add(running->mma, a, b, c);
            for (int l = 0; l < kLanes; l++) {
                const auto* o = static_cast<const Mma*>(lanes[l].operand);
                const int g = l / 4, t = l % 4;
                for (int i = 0; i < 4; i++) o->c[i] = c[g + i / 2 * 8][2 * t + i % 2];
            }
            break;
        }
        case Operation::Barrier: break;
    }
}

// The blocks of other sets use the same lists.
template <class T>
void append(std::vector<T>& list, T x) {
    if (list.size() == list.capacity()) {
        const sanitizers::Unseen unseen;
        list.reserve(std::max<size_t>(16, 2 * list.size()));
    }
    list.push_back(x);
}

void land(const Copy& c) {
    if (c.global) {
        sanitizers::reads_16(c.global, c.pc);
        std::memcpy(c.shared, c.global, 16);
    } else {
        std::memset(c.shared, 0, 16);
    }
    sanitizers::writes_16(c.shared, c.pc);
}

void fiber_main() {
    Machine& m = *running;
    Fiber* f = self();
    sanitizers::Order *const set = m.of_set[m.set], &mine = set[m.turn % 2], &last = set[(m.turn + 1) % 2];
    sanitizers::arrive(context_of(f));
    m.before.acquire();
    last.acquire();
    m.kernel->run(m.params);
    if (f->landed != f->copies.size()) {
        fail("a thread ended before it waited for its asynchronous copies", m.kernel->file, 0);
    }
    mine.release();
    m.after.release();
    f->state = State::Done;
    m.done++;
    m.warps[index_of(f) / kLanes].ready &= ~(1u << (index_of(f) % kLanes));
    yield();
    abort();  // a thread that is done is never resumed
}

// Lets the threads of a block begin.
void start_block(Dim block, Dim grid, unsigned char* shared) {
    Machine& m = *running;
    for (int w = 0; w < m.threads / kLanes; w++) {
        m.warps[w].ready = ~0u;
        m.warps[w].waiting = m.warps[w].syncs = 0;
    }
    m.at_barrier = m.done = 0;
    m.barriers = 0;
    for (int i = 0; i < m.threads; i++) {
        Fiber& f = m.fibers[i];
        static_cast<Thread&>(f) = Thread{{static_cast<unsigned>(i), 0, 0}, block, {static_cast<unsigned>(m.threads), 1, 1}, grid, shared};
        f.state = State::Ready;
        f.copies.clear();
        f.groups.clear();
        f.landed = f.finished = 0;
        unsigned char* stack = m.stacks + kStackBytes * (static_cast<size_t>(m.set) * kMaxThreads + i);
        const size_t bytes = kStackBytes - i % kStackShifts * kStackShift;
        sanitizers::stack(context_of(&f), stack, bytes, i, m.set);
        fibre::make(context_of(&f), stack, bytes, fiber_main);
    }
}

// Runs the block that was started; false after an error.
bool run_block() {
    Machine& m = *running;
    const int warps = m.threads / kLanes;
    while (m.done < m.threads) {
        int runnable[kWarps], count = 0;
        for (int w = 0; w < warps; w++) {
            if (m.warps[w].ready != 0) runnable[count++] = w;
        }
        if (count != 0) {
            const int w = runnable[m.random.below(static_cast<uint32_t>(count))];
            current = &m.fibers[pick(m.warps[w], w)];
            fibre::swap(m.scheduler, context_of(self()));
            if (!m.error.empty()) return false;
            continue;
        }
        if (m.at_barrier == m.threads) {
            for (int i = 0; i < m.threads; i++) {
                if (m.fibers[i].line != m.fibers[0].line || m.fibers[i].file != m.fibers[0].file) {
                    set_error("threads wait at different barriers: " + divergence(0, m.threads));
                    return false;
                }
            }
            m.at_barrier = 0;
            m.barriers++;
            for (int i = 0; i < m.threads; i++) m.fibers[i].state = State::Ready;
            for (int w = 0; w < warps; w++) m.warps[w].ready = ~0u;
            continue;
        }
        // Nobody can go on. A warp that is split says most.
        for (int w = 0; w < warps; w++) {
            if (m.warps[w].waiting != 0) {
                set_error("lanes of a warp are at different places: " + divergence(w * kLanes, kLanes));
                return false;
            }
        }
        set_error("not all threads reach a barrier: " + divergence(0, m.threads));
        return false;
    }
    return true;
}

// Shared memory of `bytes` bytes between guards.
struct Shared {
    unsigned char* base = nullptr;
    size_t bytes = 0;

    explicit Shared(size_t size) : bytes(size) {
        void* p = nullptr;
        if (posix_memalign(&p, 128, std::max<size_t>(2 * kGuard + size, 1)) == 0) base = static_cast<unsigned char*>(p);
    }
    ~Shared() { std::free(base); }
    Shared(Shared&& s) noexcept : base(std::exchange(s.base, nullptr)), bytes(s.bytes) {}

    unsigned char* start() const { return base + kGuard; }

    // NaN as f32 and as bf16.
    void poison() {
        const sanitizers::Unseen unseen;
        std::memset(start(), 0xff, bytes);
        for (size_t i = 0; i < kGuard; i++) base[i] = base[kGuard + bytes + i] = kGuardBytes[i % 2];
    }

    // What was written beside it, if anything.
    const char* damage() const {
        for (size_t i = 0; i < kGuard; i++) {
            if (base[i] != kGuardBytes[i % 2]) return "before the start";
            if (base[kGuard + bytes + i] != kGuardBytes[i % 2]) return "past the end";
        }
        return nullptr;
    }
};

}  // namespace

Registration::Registration(const char* name, const char* file, unsigned long params, int threads, void (*run)(const void*)) {
    kernels()[name] = Kernel{file, params, threads, run};
}

void fail(const char* what, const char* file, int line) {
    char text[512];
    snprintf(text, sizeof text, "%s, thread %d, %s:%d", what, current ? index_of(self()) : -1, file, line);
    set_error(text);
    to_scheduler();
    abort();  // a launch that failed is not resumed
}

void collective(Operation operation, void* operand, const char* file, int line) {
    Fiber* f = self();
    const int i = index_of(f), warp = i / kLanes;
    Warp& w = running->warps[warp];
    f->operation = operation;
    f->operand = operand;
    f->file = file;
    f->line = line;
    sanitizers::Order& order = w.orders[w.syncs % 2];
    if (operation == Operation::SyncWarp) order.release();
    w.waiting |= 1u << (i % kLanes);
    if (w.waiting != ~0u) {
        f->state = State::AtWarp;
        w.ready &= ~(1u << (i % kLanes));
        yield();
    } else {
        Fiber* lanes = &running->fibers[warp * kLanes];
        for (int l = 0; l < kLanes; l++) {
            if (lanes[l].operation != operation || lanes[l].line != line || lanes[l].file != file) {
                f->state = State::AtWarp;
                set_error("lanes of a warp are at different operations: " + divergence(warp * kLanes, kLanes));
                return to_scheduler();
            }
        }
        perform(operation, lanes);
        w.waiting = 0;
        w.ready = ~0u;
        for (int l = 0; l < kLanes; l++) lanes[l].state = State::Ready;
        if (operation == Operation::SyncWarp) w.syncs++;
    }
    if (operation == Operation::SyncWarp) order.acquire();
}

void barrier(const char* file, int line) {
    Fiber* f = self();
    const int i = index_of(f);
    f->operation = Operation::Barrier;
    f->file = file;
    f->line = line;
    f->state = State::AtBarrier;
    running->at_barrier++;
    running->warps[i / kLanes].ready &= ~(1u << (i % kLanes));
    sanitizers::Order& order = running->of_barrier[running->set][running->barriers % 2];
    order.release();
    yield();
    order.acquire();
}

void copy_async(void* shared, const void* global, bool valid, const char* file, int line) {
    aligned(shared, 16, file, line);
    aligned(global, 16, file, line);
    void* pc = __builtin_return_address(0);
    std::memset(shared, 0xff, 16);
    sanitizers::writes_16(shared, pc);
    append(self()->copies, {shared, valid ? global : nullptr, pc});
}

void commit_copies() {
    Fiber* f = self();
    append(f->groups, f->copies.size());
}

void wait_copies(int pending) {
    Fiber* f = self();
    while (f->groups.size() - f->finished > static_cast<size_t>(pending)) {
        for (const size_t end = f->groups[f->finished++]; f->landed < end; f->landed++) land(f->copies[f->landed]);
    }
    // A loop that always has copies under way must not make the lists longer and longer. Groups hold positions among the copies.
    if (f->finished == f->groups.size() || f->finished >= kForget) {
        const sanitizers::Unseen unseen;
        f->copies.erase(f->copies.begin(), f->copies.begin() + f->landed);
        f->groups.erase(f->groups.begin(), f->groups.begin() + f->finished);
        for (size_t& end : f->groups) end -= f->landed;
        f->landed = f->finished = 0;
    }
}

}  // namespace emulator

using namespace emulator;

#if !defined(__SANITIZE_ADDRESS__) && !defined(EMULATOR_TSAN)
// What a kernel calls that was compiled with -fsanitize=alignment -fno-sanitize-recover=alignment: a load or store through a pointer to float4 or the like,
// which this processor forgives and a GPU does not. `data` begins with the place in the source. (The sanitizers' own libraries have their own.)
struct SourceLocation {
    const char* file;
    unsigned line, column;
};
extern "C" [[noreturn]] void __ubsan_handle_type_mismatch_v1_abort(const SourceLocation* data, uintptr_t) {
    fail("misaligned access", data->file, static_cast<int>(data->line));
}
#endif

extern "C" {

// The size of a kernel's parameters and its threads a block; false where there is no such kernel.
bool colloquy_emulator_kernel(const char* name, unsigned long* params, int* threads) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) return false;
    *params = found->second.params;
    *threads = found->second.threads;
    return true;
}

// Runs `count` blocks of a launch from the `first` on, in the order that follows from the seed, with
// this arithmetic of the tensor core. Returns non-zero and writes a text to `error` where a kernel
// did something it must not.
int colloquy_emulator_launch_blocks(const char* name, const unsigned* grid, unsigned shared_bytes, const void* params, uint64_t seed,
                                    const MmaArithmetic* mma, size_t first, size_t count, char* error, size_t error_bytes) {
    if (!owner) {
        owner = std::make_unique<Machine>();
        running = owner.get();
    }
    Machine& m = *running;
    m.error.clear();
    m.name = name;
    m.kernel = &kernels().at(name);
    m.threads = m.kernel->threads;
    m.params = params;
    m.mma = *mma;
    m.random.state = seed;
    if (!m.stacks) {
        void* stacks = mmap(nullptr, kStacksBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) {
            snprintf(error, error_bytes, "no memory for the stacks of the emulator");
            return 1;
        }
        m.stacks = static_cast<unsigned char*>(stacks);
    }
    sanitizers::caller(m.scheduler);
    std::vector<Shared> shared;
    for (int s = 0; s < kSets; s++) {
        shared.emplace_back(shared_bytes);
        if (!shared.back().base) {
            snprintf(error, error_bytes, "no memory for %u bytes of shared memory", shared_bytes);
            return 1;
        }
    }
    const Dim dims{grid[0], grid[1], grid[2]};
    std::vector<uint32_t> order(static_cast<size_t>(dims.x) * dims.y * dims.z);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[m.random.below(static_cast<uint32_t>(i))]);
    m.before.release();
    for (size_t i = first; count > 0 && i < order.size() && m.error.empty(); i++, count--) {
        const uint32_t block = order[i];
        // A block's own order does not depend on which blocks ran before it.
        m.random.state = seed ^ (block + 1) * 0xd1342543de82ef95ull;
        m.set = static_cast<int>(i % kSets);
        m.turn = static_cast<int>(i / kSets % 2);
        shared[m.set].poison();
        start_block({block % dims.x, block / dims.x % dims.y, block / dims.x / dims.y}, dims, shared[m.set].start());
        if (!run_block()) break;
        if (const char* where = shared[m.set].damage()) {
            set_error("a write " + std::string(where) + " of the " + std::to_string(shared_bytes) + " bytes of shared memory");
        }
    }
    m.after.acquire();
    current = nullptr;
    if (m.error.empty()) return 0;
    sanitizers::forget(m.stacks, kStacksBytes);
    snprintf(error, error_bytes, "%s", m.error.c_str());
    return 1;
}

// Runs all blocks.
int colloquy_emulator_launch(const char* name, const unsigned* grid, unsigned shared_bytes, const void* params, uint64_t seed,
                             const MmaArithmetic* mma, char* error, size_t error_bytes) {
    return colloquy_emulator_launch_blocks(name, grid, shared_bytes, params, seed, mma, 0, SIZE_MAX, error, error_bytes);
}

// Memory for the device, at `wish` if there is room; 0: none.
uint64_t colloquy_emulator_map(uint64_t wish, size_t bytes) {
    void* p = mmap(reinterpret_cast<void*>(wish), bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? 0 : reinterpret_cast<uint64_t>(p);
}

void colloquy_emulator_unmap(uint64_t address, size_t bytes) { munmap(reinterpret_cast<void*>(address), bytes); }

// Gives pages back to the system; the memory stays mapped.
void colloquy_emulator_discard(uint64_t address, size_t bytes) { madvise(reinterpret_cast<void*>(address), bytes, MADV_DONTNEED); }
}
