// The plan's page copies: the first `tokens` tokens of page `from` to page `to`, K and V of all layers.
//
// keys, values bf16 [layers, pages, page_tokens, width], width a multiple of 8. What is copied of a page and layer is contiguous. Grid: copies x layers x (K, V);
// a block copies 16 bytes a thread until it is done. No page is both source and target, nor target twice (checked by the host). No shared memory.
#include "plan.cuh"

struct PagesParams {
    const Plan* plan;
    bf16* keys;
    bf16* values;
    uint32_t pages, page_tokens, width, unused;
};

constexpr int kThreads = 256;

KERNEL(copy_pages, PagesParams, kThreads, 1) {
    if (blockIdx.x >= p.plan->page_copy_count) return;
    const PageCopy copy = p.plan->page_copies[blockIdx.x];
    if (copy.from == copy.to) return;
    bf16* data = blockIdx.z == 0 ? p.keys : p.values;
    const uint64_t page = static_cast<uint64_t>(p.page_tokens) * p.width, first = static_cast<uint64_t>(blockIdx.y) * p.pages;
    const bf16* from = data + (first + copy.from) * page;
    bf16* to = data + (first + copy.to) * page;
    const uint32_t count = copy.tokens * p.width;
    for (uint32_t i = threadIdx.x * 8; i < count; i += kThreads * 8) store_16(to + i, load_16_coherent(from + i));
}
