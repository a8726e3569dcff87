// Placeholder of this branch only: a block takes a row, a thread a column of h.
#include "plan.cuh"

struct ShrinkParams {
    const Plan* plan;
    const SlotEntry* slots;
    const PartPlace* places;
    const bf16* x;
    float* h;
    uint32_t width, stride, first_part, part_count, backward, unused;
};

KERNEL(naive_shrink, ShrinkParams, 128, 1) {
    const int row = static_cast<int>(blockIdx.x);
    if (row >= static_cast<int>(p.plan->rows)) return;
    const SlotEntry slot = p.slots[p.plan->segments[segment_of(*p.plan, row)].slot];
    const bf16* x = p.x + static_cast<uint64_t>(row) * p.width;
    for (uint32_t j = 0; j < p.part_count; j++) {
        const Part part = slot.parts[p.first_part + j];
        const PartPlace place = p.places[j];
        for (uint32_t i = threadIdx.x; i < part.rank; i += 128) {
            float sum = 0;
            if (p.backward) {
                for (uint32_t n = 0; n < place.outputs; n++) sum += to_float(x[place.start + n]) * to_float(slot.weights[part.b + n * part.rank + i]);
                sum *= part.scale;
            } else {
                for (uint32_t k = 0; k < place.inputs; k++) sum += to_float(x[k]) * to_float(slot.weights[part.a + i * place.inputs + k]);
            }
            p.h[static_cast<uint64_t>(row) * p.stride + part.column + i] = sum;
        }
    }
}
