// A profiler of NVTX for tests/commands/nvtx.rs: writes `push NAME` and `pop` to the file that NVTX_TEST_LOG names. Its types are those that every NVTX 3 tool has
// in common with the programs that it is loaded into (nvtx3/nvtxDetail/nvtxTypes.h), written down a second time here.
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef void (*Function)(void);
typedef struct {
    size_t struct_size;
    int (*GetModuleFunctionTable)(int module, Function*** table, unsigned* size);
} Callbacks;
typedef struct {
    size_t struct_size;
    uint32_t version, reserved;
    void (*SetInjectionNvtxVersion)(uint32_t version);
} VersionInfo;

enum { ETID_CALLBACKS = 1, ETID_VERSIONINFO = 3, MODULES = 6, CORE = 1, RANGE_PUSH_A = 9, RANGE_POP = 11 };
static const unsigned kEntries[MODULES + 1] = {0, 16, 9, 15, 7, 16, 7};

static FILE* out;
static int depth;

static int push(const char* name) {
    fprintf(out, "push %s\n", name);
    fflush(out);
    return depth++;
}
static int pop(void) {
    fprintf(out, "pop\n");
    fflush(out);
    return --depth;
}

__attribute__((visibility("default"))) int InitializeInjectionNvtx2(const void* (*export_table)(uint32_t)) {
    const char* path = getenv("NVTX_TEST_LOG");
    const VersionInfo* info = export_table(ETID_VERSIONINFO);
    const Callbacks* callbacks = export_table(ETID_CALLBACKS);
    if (!path || !info || info->struct_size < sizeof *info || info->version != 3) return 0;
    if (!callbacks || callbacks->struct_size < sizeof *callbacks || export_table(99)) return 0;
    info->SetInjectionNvtxVersion(3);
    // What tools do: every table, and a look at every entry.
    for (int module = 1; module <= MODULES; module++) {
        Function** table = NULL;
        unsigned size = 0;
        if (!callbacks->GetModuleFunctionTable(module, &table, &size) || size != kEntries[module]) return 0;
        if (table[0] || table[size]) return 0;
        for (unsigned i = 1; i < size; i++) {
            if (!table[i]) return 0;
        }
        if (module == CORE) {
            *table[RANGE_PUSH_A] = (Function)push;
            *table[RANGE_POP] = (Function)pop;
        }
    }
    if (callbacks->GetModuleFunctionTable(MODULES + 1, NULL, NULL)) return 0;
    return (out = fopen(path, "w")) != NULL;
}
