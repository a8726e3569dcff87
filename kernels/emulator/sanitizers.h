// What AddressSanitizer and ThreadSanitizer have to be told about fibres (tools/sanitize.sh); an ordinary build tells nobody.
//
// AddressSanitizer: which stack runs. ThreadSanitizer: every CUDA thread is a thread to it, and only what orders CUDA threads orders these: the launch,
// barriers, and sync_warp. Shuffles, ballots, ldmatrix and mma order no memory accesses, on a GPU neither. The emulator's own state is no
// part of the program that is examined, so its source is compiled without -fsanitize=thread and with -DEMULATOR_TSAN.
#pragma once

#include <cstddef>
#include <cstdio>

#if defined(__SANITIZE_ADDRESS__)
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#elif defined(EMULATOR_TSAN)
#include <sanitizer/tsan_interface.h>
extern "C" {
void __tsan_read16_pc(void* address, void* pc);
void __tsan_write16_pc(void* address, void* pc);
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace sanitizers {

#if defined(EMULATOR_TSAN)
// Blocks of a launch that may race with each other: each set has its own fibres and stacks. Blocks of the same set run in order.
constexpr int kSets = 4;
#else
constexpr int kSets = 1;
#endif

#if defined(__SANITIZE_ADDRESS__)
constexpr bool kAddress = true;
#else
constexpr bool kAddress = false;
#endif

// What the sanitizers know of a stack.
struct Fibre {
#if defined(__SANITIZE_ADDRESS__)
    const void* stack = nullptr;
    size_t bytes = 0;
    void* fake = nullptr;
#elif defined(EMULATOR_TSAN)
    void* thread = nullptr;
#endif
};

// The stack on which the launch was called.
inline void caller([[maybe_unused]] Fibre& f) {
#if defined(__SANITIZE_ADDRESS__)
    pthread_attr_t attributes;
    void* stack = nullptr;
    pthread_getattr_np(pthread_self(), &attributes);
    pthread_attr_getstack(&attributes, &stack, &f.bytes);
    pthread_attr_destroy(&attributes);
    f.stack = stack;
#elif defined(EMULATOR_TSAN)
    f.thread = __tsan_get_current_fiber();
#endif
}

// The stack that thread `thread` of a block of a set begins on; `f` is kept from block to block.
inline void stack([[maybe_unused]] Fibre& f, [[maybe_unused]] void* base, [[maybe_unused]] size_t bytes, [[maybe_unused]] int thread,
                  [[maybe_unused]] int set) {
#if defined(__SANITIZE_ADDRESS__)
    f = {base, bytes, nullptr};
    // The frame of the thread before never returned.
    constexpr size_t kTop = 4096;
    __asan_unpoison_memory_region(static_cast<char*>(base) + bytes - kTop, kTop);
#elif defined(EMULATOR_TSAN)
    if (!f.thread) {
        f.thread = __tsan_create_fiber(0);
        // Blocks of a set run in order, so threads of different sets that race are of different blocks.
        char name[64];
        snprintf(name, sizeof name, "CUDA thread %d, block set %d", thread, set);
        __tsan_set_fiber_name(f.thread, name);
    }
#endif
}

inline void leave([[maybe_unused]] Fibre& from, [[maybe_unused]] const Fibre& to) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&from.fake, to.stack, to.bytes);
#elif defined(EMULATOR_TSAN)
    __tsan_switch_to_fiber(to.thread, __tsan_switch_to_fiber_no_sync);
#endif
}

// What runs on a stack after a switch to it; `f.fake` is null the first time.
inline void arrive([[maybe_unused]] Fibre& f) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(f.fake, nullptr, nullptr);
#endif
}

// The stacks of a launch that was given up.
inline void forget([[maybe_unused]] void* stacks, [[maybe_unused]] size_t bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(stacks, bytes);
#endif
}

// Something that orders threads: what a thread did before `release` comes before what another does after `acquire`.
struct Order {
    alignas(8) char at[8];
    void release() {
#if defined(EMULATOR_TSAN)
        __tsan_release(at);
#endif
    }
    void acquire() {
#if defined(EMULATOR_TSAN)
        __tsan_acquire(at);
#endif
    }
};

// Accesses of 16 bytes that the emulator makes for the code at `pc`.
inline void reads_16([[maybe_unused]] const void* p, [[maybe_unused]] void* pc) {
#if defined(EMULATOR_TSAN)
    __tsan_read16_pc(const_cast<void*>(p), pc);
#endif
}
inline void writes_16([[maybe_unused]] void* p, [[maybe_unused]] void* pc) {
#if defined(EMULATOR_TSAN)
    __tsan_write16_pc(p, pc);
#endif
}

// While one lives, what this thread touches is none of ThreadSanitizer's business.
struct Unseen {
    Unseen() {
#if defined(EMULATOR_TSAN)
        AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
        AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
#endif
    }
    ~Unseen() {
#if defined(EMULATOR_TSAN)
        AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
        AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
#endif
    }
    Unseen(const Unseen&) = delete;
    Unseen& operator=(const Unseen&) = delete;
};

}  // namespace sanitizers
