// Switching between stacks: by hand on x86-64, by ucontext elsewhere.
#pragma once

#include <cstddef>
#include <cstdint>

#include "sanitizers.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace fibre {

#if defined(__x86_64__)

struct Context : sanitizers::Fibre {
    void* stack_pointer;
};

// Saves the callee-saved registers (System V ABI) and the stack pointer in `from`, and goes on in `to`.
extern "C" void colloquy_fibre_swap(void** from, void* to);
#define FIBRE_SWAP_DEFINITION                 \
    asm(".text\n"                             \
        ".globl colloquy_fibre_swap\n"        \
        ".type colloquy_fibre_swap,@function\n" \
        "colloquy_fibre_swap:\n"              \
        "  pushq %rbp\n"                      \
        "  pushq %rbx\n"                      \
        "  pushq %r12\n"                      \
        "  pushq %r13\n"                      \
        "  pushq %r14\n"                      \
        "  pushq %r15\n"                      \
        "  movq %rsp, (%rdi)\n"               \
        "  movq %rsi, %rsp\n"                 \
        "  popq %r15\n"                       \
        "  popq %r14\n"                       \
        "  popq %r13\n"                       \
        "  popq %r12\n"                       \
        "  popq %rbx\n"                       \
        "  popq %rbp\n"                       \
        "  ret\n"                             \
        ".size colloquy_fibre_swap,.-colloquy_fibre_swap\n");

inline void switch_stacks(Context& from, Context& to) { colloquy_fibre_swap(&from.stack_pointer, to.stack_pointer); }

// A context that starts `entry` on the stack `base .. base + bytes`; `entry` must not return.
inline void make(Context& c, unsigned char* base, size_t bytes, void (*entry)()) {
    auto* top = reinterpret_cast<uintptr_t*>((reinterpret_cast<uintptr_t>(base) + bytes) & ~uintptr_t{15});
    *--top = 0;  // where entry would return to: at its first instruction the stack is 8 off a multiple of 16
    *--top = reinterpret_cast<uintptr_t>(entry);
    for (int i = 0; i < 6; i++) *--top = 0;
    c.stack_pointer = top;
}

#else

struct Context : sanitizers::Fibre {
    ucontext_t context;
};

inline void switch_stacks(Context& from, Context& to) { swapcontext(&from.context, &to.context); }

inline void make(Context& c, unsigned char* base, size_t bytes, void (*entry)()) {
    getcontext(&c.context);
    c.context.uc_stack.ss_sp = base;
    c.context.uc_stack.ss_size = bytes;
    c.context.uc_link = nullptr;
    makecontext(&c.context, entry, 0);
}

#endif

// Saves where this one is in `from`, and goes on in `to`. The first thing that `entry` calls is `sanitizers::arrive`.
inline void swap(Context& from, Context& to) {
    sanitizers::leave(from, to);
    switch_stacks(from, to);
    sanitizers::arrive(from);
}

}  // namespace fibre
