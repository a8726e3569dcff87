// A driver for tests/commands/gpu_errors.rs, whose GPU is what FAKE_CUDA_* say: version (13000), devices, capability (90), after how many
// launches a kernel is refused, after how many one breaks what comes later. It holds memory and does nothing with it.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int number(const char* name, int otherwise) {
    const char* text = getenv(name);
    return text ? atoi(text) : otherwise;
}
static int launches;

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { return *version = number("FAKE_CUDA_VERSION", 13000), 0; }
int cuDeviceGetCount(int* count) { return *count = number("FAKE_CUDA_DEVICES", 1), 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDeviceGetName(char* name, int length, int device) { return snprintf(name, length, "Fake GPU"), 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    const int capability = number("FAKE_CUDA_CAPABILITY", 90);
    // CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, .._MINOR, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT.
    *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? 4 : 0;
    return 0;
}
int cuGetErrorName(int error, const char** text) { return *text = error == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "?", 0; }
int cuGetErrorString(int error, const char** text) { return *text = "an error", 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &launches, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuCtxSetCurrent(void* context) { return 0; }
int cuStreamCreate(void** stream, unsigned flags) { return *stream = &launches, 0; }
int cuStreamDestroy_v2(void* stream) { return 0; }
static int broken(void) { return launches > number("FAKE_CUDA_RUNS", 1 << 30) ? 700 : 0; }
int cuStreamSynchronize(void* stream) { return broken(); }
int cuMemGetInfo_v2(size_t* available, size_t* all) { return *available = *all = (size_t)number("FAKE_CUDA_MIB", 4096) << 20, 0; }
int cuMemHostAlloc(void** memory, size_t bytes, unsigned flags) { return *memory = malloc(bytes), 0; }
int cuMemFreeHost(void* memory) { return free(memory), 0; }
int cuMemAlloc_v2(uint64_t* memory, size_t bytes) { return *memory = (uint64_t)calloc(1, bytes), 0; }
int cuMemFree_v2(uint64_t memory) { return free((void*)memory), 0; }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) { return memcpy((void*)to, from, bytes), 0; }
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) { return memcpy(to, (void*)from, bytes), 0; }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) { return memcpy((void*)to, (void*)from, bytes), 0; }
int cuMemsetD8Async(uint64_t to, unsigned char byte, size_t bytes, void* stream) { return memset((void*)to, byte, bytes), 0; }
int cuEventCreate(void** event, unsigned flags) { return *event = &launches, 0; }
int cuEventRecord(void* event, void* stream) { return 0; }
int cuEventSynchronize(void* event) { return broken(); }
int cuEventDestroy_v2(void* event) { return 0; }
int cuStreamBeginCapture_v2(void* stream, int mode) { return 0; }
int cuStreamEndCapture(void* stream, void** graph) { return *graph = &launches, 0; }
int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) { return *executable = &launches, 0; }
int cuGraphLaunch(void* executable, void* stream) { return launches++, 0; }
int cuGraphDestroy(void* graph) { return 0; }
int cuGraphExecDestroy(void* executable) { return 0; }
int cuModuleLoadData(void** module, const void* image) { return *module = &launches, 0; }
int cuModuleUnload(void* module) { return 0; }
int cuModuleGetFunction(void** function, void* module, const char* name) { return *function = &launches, 0; }
int cuFuncSetAttribute(void* function, int attribute, int value) { return 0; }
int cuLaunchKernel(void* function, unsigned x, unsigned y, unsigned z, unsigned a, unsigned b, unsigned c, unsigned shared, void* stream, void** params,
                   void** extra) {
    return launches++ == number("FAKE_CUDA_LAUNCHES", 1 << 30) ? 700 : 0;
}
