// The emulator: runs a kernel's blocks one after another, one fibre a thread, on the calling thread.
//
// Blocks, warps and lanes run in an order drawn from the launch's seed. A fibre runs until it needs the others: at a warp operation the lanes deposit
// their operands, and the last to arrive carries it out for all 32; at a barrier a thread waits until every thread of the block is there.

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "device.h"
#include "fibre.h"

#if defined(__x86_64__)
FIBRE_SWAP_DEFINITION
#endif

namespace emulator {

thread_local Thread* current = nullptr;

namespace {

constexpr int kLanes = 32;
constexpr int kMaxThreads = 1024;
constexpr size_t kStackBytes = 256 * 1024;

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
    const void* global;
    bool valid;
};

enum class State : char { Ready, AtWarp, AtBarrier, Done };

struct Fiber : Thread {
    fibre::Context context;
    State state;
    Operation operation;
    void* operand;
    const char* file;
    int line;
    // Asynchronous copies not yet landed: `open` is not committed, `groups` are, oldest first.
    std::vector<Copy> open;
    std::vector<std::vector<Copy>> groups;
};

struct Warp {
    uint32_t ready;    // lanes that can run
    uint32_t waiting;  // lanes at a warp operation
};

struct Machine {
    std::vector<Fiber> fibers{kMaxThreads};
    unsigned char* stacks = nullptr;
    std::vector<Warp> warps;
    fibre::Context scheduler;
    Random random{0};
    const Kernel* kernel = nullptr;
    const char* name = nullptr;
    const void* params = nullptr;
    int threads = 0, at_barrier = 0, done = 0, last_warp = 0;
    std::string error;

    ~Machine() {
        if (stacks) munmap(stacks, kStackBytes * kMaxThreads);
    }
};

thread_local Machine machine;

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
int index_of(const Fiber* f) { return static_cast<int>(f - machine.fibers.data()); }

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
    const Fiber& a = machine.fibers[first];
    describe(out, a);
    for (int i = first + 1; i < first + count; i++) {
        const Fiber& b = machine.fibers[i];
        if (b.state != a.state || (b.state != State::Done && (b.operation != a.operation || b.line != a.line))) {
            out += "; ";
            describe(out, b);
            break;
        }
    }
    return out;
}

void set_error(const std::string& what) {
    if (!machine.error.empty()) return;
    const Dim b = current ? current->block : Dim{};
    char where[256];
    snprintf(where, sizeof where, "%s, block (%u, %u, %u): ", machine.name, b.x, b.y, b.z);
    machine.error = where + what;
}

void to_scheduler() { fibre::swap(self()->context, machine.scheduler); }

// The next lane of a warp, at random; none: -1.
int pick(Warp& w, int warp) {
    if (w.ready == 0) return -1;
    const int turn = static_cast<int>(machine.random.next() % kLanes);
    const uint32_t rotated = std::rotr(w.ready, turn);
    return warp * kLanes + (std::countr_zero(rotated) + turn) % kLanes;
}

// This fibre cannot go on: the next lane of its warp does, or the scheduler chooses.
void yield() {
    Fiber* f = self();
    const int warp = index_of(f) / kLanes;
    const int next = pick(machine.warps[warp], warp);
    if (next < 0) return to_scheduler();
    Fiber* to = &machine.fibers[next];
    current = to;
    fibre::swap(f->context, to->context);
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
            float a[16][16], b[16][8], c[16][8];
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
            // A product of two bf16 is exact in f32, so a fused multiply-add would give the same.
            for (int i = 0; i < 16; i++) {
                for (int k = 0; k < 16; k++) {
                    for (int j = 0; j < 8; j++) c[i][j] += a[i][k] * b[k][j];
                }
            }
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

void land(std::vector<Copy>& group) {
    for (const Copy& c : group) {
        if (c.valid) {
            std::memcpy(c.shared, c.global, 16);
        } else {
            std::memset(c.shared, 0, 16);
        }
    }
    group.clear();
}

void fiber_main() {
    Machine& m = machine;
    m.kernel->run(m.params);
    Fiber* f = self();
    if (!f->open.empty() || std::any_of(f->groups.begin(), f->groups.end(), [](auto& g) { return !g.empty(); })) {
        fail("a thread ended before it waited for its asynchronous copies", m.kernel->file, 0);
    }
    f->state = State::Done;
    m.done++;
    m.warps[index_of(f) / kLanes].ready &= ~(1u << (index_of(f) % kLanes));
    yield();
    abort();  // a thread that is done is never resumed
}

// Runs one block; false after an error.
bool run_block() {
    Machine& m = machine;
    const int warps = m.threads / kLanes;
    m.warps.assign(warps, Warp{~0u, 0});
    m.at_barrier = m.done = 0;
    for (int i = 0; i < m.threads; i++) {
        Fiber& f = m.fibers[i];
        f.state = State::Ready;
        f.open.clear();
        f.groups.clear();
        fibre::make(f.context, m.stacks + kStackBytes * i, kStackBytes, fiber_main);
    }
    while (m.done < m.threads) {
        std::vector<int> runnable;
        for (int w = 0; w < warps; w++) {
            if (m.warps[w].ready != 0) runnable.push_back(w);
        }
        if (!runnable.empty()) {
            const int w = runnable[m.random.below(static_cast<uint32_t>(runnable.size()))];
            current = &m.fibers[pick(m.warps[w], w)];
            fibre::swap(m.scheduler, self()->context);
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
            for (int i = 0; i < m.threads; i++) m.fibers[i].state = State::Ready;
            for (Warp& w : m.warps) w.ready = ~0u;
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
    Warp& w = machine.warps[warp];
    f->operation = operation;
    f->operand = operand;
    f->file = file;
    f->line = line;
    w.waiting |= 1u << (i % kLanes);
    if (w.waiting != ~0u) {
        f->state = State::AtWarp;
        w.ready &= ~(1u << (i % kLanes));
        return yield();
    }
    Fiber* lanes = &machine.fibers[warp * kLanes];
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
}

void barrier(const char* file, int line) {
    Fiber* f = self();
    const int i = index_of(f);
    f->operation = Operation::Barrier;
    f->file = file;
    f->line = line;
    f->state = State::AtBarrier;
    machine.at_barrier++;
    machine.warps[i / kLanes].ready &= ~(1u << (i % kLanes));
    yield();
}

void copy_async(void* shared, const void* global, bool valid, const char* file, int line) {
    aligned(shared, 16, file, line);
    aligned(global, 16, file, line);
    std::memset(shared, 0xff, 16);
    self()->open.push_back({shared, global, valid});
}

void commit_copies() {
    Fiber* f = self();
    f->groups.push_back(std::move(f->open));
    f->open.clear();
}

void wait_copies(int pending) {
    Fiber* f = self();
    const int finished = static_cast<int>(f->groups.size()) - pending;
    if (finished <= 0) return;
    for (int i = 0; i < finished; i++) land(f->groups[i]);
    f->groups.erase(f->groups.begin(), f->groups.begin() + finished);
}

}  // namespace emulator

using namespace emulator;

extern "C" {

// The size of a kernel's parameters and its threads a block; false where there is no such kernel.
bool colloquy_emulator_kernel(const char* name, unsigned long* params, int* threads) {
    const auto found = kernels().find(name);
    if (found == kernels().end()) return false;
    *params = found->second.params;
    *threads = found->second.threads;
    return true;
}

// Runs a kernel to its end. Non-zero, with a text in `error`, where it did something it must not.
int colloquy_emulator_launch(const char* name, const unsigned* grid, unsigned shared_bytes, const void* params, uint64_t seed,
                             char* error, size_t error_bytes) {
    Machine& m = machine;
    m.error.clear();
    m.name = name;
    m.kernel = &kernels().at(name);
    m.threads = m.kernel->threads;
    m.params = params;
    m.random.state = seed;
    if (!m.stacks) {
        void* stacks = mmap(nullptr, kStackBytes * kMaxThreads, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) {
            snprintf(error, error_bytes, "no memory for the stacks of the emulator");
            return 1;
        }
        m.stacks = static_cast<unsigned char*>(stacks);
    }
    const size_t shared_size = (static_cast<size_t>(shared_bytes) + 127) / 128 * 128;
    auto* shared = static_cast<unsigned char*>(std::aligned_alloc(128, std::max<size_t>(shared_size, 128) + 128));
    const Dim dims{grid[0], grid[1], grid[2]};
    std::vector<uint32_t> order(static_cast<size_t>(dims.x) * dims.y * dims.z);
    std::iota(order.begin(), order.end(), 0u);
    for (size_t i = order.size(); i > 1; i--) std::swap(order[i - 1], order[m.random.below(static_cast<uint32_t>(i))]);
    bool good = true;
    for (const uint32_t block : order) {
        // NaN as f32 and as bf16; what follows the end must stay.
        std::memset(shared, 0xff, shared_bytes);
        std::memset(shared + shared_bytes, 0xa5, shared_size - shared_bytes + 128);
        const Dim b{block % dims.x, block / dims.x % dims.y, block / dims.x / dims.y};
        for (int i = 0; i < m.threads; i++) {
            static_cast<Thread&>(m.fibers[i]) = Thread{{static_cast<unsigned>(i), 0, 0}, b, {static_cast<unsigned>(m.threads), 1, 1}, dims, shared};
        }
        good = run_block();
        if (good) {
            for (size_t i = shared_bytes; i < shared_size + 128; i++) {
                if (shared[i] != 0xa5) {
                    set_error("a write past the end of the " + std::to_string(shared_bytes) + " bytes of shared memory");
                    good = false;
                    break;
                }
            }
        }
        if (!good) break;
    }
    current = nullptr;
    std::free(shared);
    if (!good) snprintf(error, error_bytes, "%s", m.error.c_str());
    return good ? 0 : 1;
}
}
