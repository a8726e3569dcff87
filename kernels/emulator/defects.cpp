// Kernels that are wrong, each in one way, for tests/ops/emulator/defects.rs and `tools/sanitize.sh --self-test`, which show that the emulator or a sanitizer notices.
// They are in the emulator only: no image is made of them.
#include "../device.cuh"

namespace {

struct DefectParams {
    float* out;
    const float* in;
    uint32_t count, unused;
};

constexpr int kThreads = 64;

DEVICE int thread() { return static_cast<int>(threadIdx.x); }
DEVICE float* shared_floats() { return reinterpret_cast<float*>(shared_memory()); }

// out[i] = sum over tiles t of in[t][(i + t) % kThreads], with two buffers of kThreads floats.
template <bool BARRIER>
DEVICE void sum_tiles(const DefectParams& p) {
    const int tiles = static_cast<int>(p.count) / kThreads;
    const auto copy = [&](int tile) {
        if (thread() < kThreads / 4) {
            copy_async_16(shared_floats() + tile % 2 * kThreads + thread() * 4, p.in + tile * kThreads + thread() * 4);
        }
        copy_async_commit();
    };
    float sum = 0;
    copy(0);
    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles) {
            copy(t + 1);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        sync_threads();
        sum += shared_floats()[t % 2 * kThreads + (thread() + t) % kThreads];
        // Without it the next copy lands where others still read.
        if (BARRIER) sync_threads();
    }
    p.out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// Nothing wrong, with everything that orders threads.
KERNEL(no_defect, DefectParams, kThreads, 1) {
    sum_tiles<true>(p);
    float* warp = shared_floats() + thread() / kWarp * kWarp;
    sync_threads();
    warp[thread() % kWarp] = p.in[thread()];
    sync_warp();
    const float x = warp[(thread() + 1) % kWarp];
    sync_warp();
    warp[thread() % kWarp] = warp_sum(x);
    sync_threads();
    if (thread() < kWarp) p.out[blockIdx.x * kThreads + threadIdx.x] += shared_floats()[kWarp + thread()];
}

KERNEL(overwritten_buffer, DefectParams, kThreads, 1) { sum_tiles<false>(p); }

KERNEL(missing_barrier, DefectParams, kThreads, 1) {
    shared_floats()[thread()] = p.in[thread()];
    p.out[thread()] = shared_floats()[(thread() + kWarp) % kThreads];
}

KERNEL(missing_sync_warp, DefectParams, kWarp, 1) {
    shared_floats()[thread()] = p.in[thread()];
    p.out[thread()] = shared_floats()[thread() ^ 1];
}

KERNEL(blocks_race, DefectParams, kThreads, 1) {
    if (thread() == 0) p.out[0] = static_cast<float>(blockIdx.x);
}

KERNEL(early_read, DefectParams, kWarp, 1) {
    copy_async_16(shared_floats() + thread() * 4, p.in + thread() * 4);
    copy_async_commit();
    p.out[thread()] = shared_floats()[thread() * 4];
    copy_async_wait<0>();
}

KERNEL(copy_never_waited_for, DefectParams, kWarp, 1) {
    copy_async_16(shared_floats() + thread() * 4, p.in + thread() * 4);
    copy_async_commit();
}

KERNEL(write_past_the_end, DefectParams, kWarp, 1) {
    if (thread() == 0) p.out[p.count] = 1;
}

KERNEL(read_past_the_end, DefectParams, kWarp, 1) {
    if (thread() == 0) p.out[0] = p.in[p.count];
}

KERNEL(write_past_shared, DefectParams, kWarp, 1) { shared_floats()[p.count + threadIdx.x] = 1; }

KERNEL(read_past_shared, DefectParams, kWarp, 1) { p.out[thread()] = shared_floats()[p.count + threadIdx.x]; }

KERNEL(different_warp_operations, DefectParams, kWarp, 1) {
    if (thread() < 16) {
        p.out[thread()] = shuffle(1.0f, 0);
    } else {
        p.out[thread()] = warp_ballot(true) != 0 ? 1.0f : 0.0f;
    }
}

KERNEL(missing_lane, DefectParams, kWarp, 1) {
    if (thread() != 31) p.out[thread()] = warp_sum(1.0f);
}

KERNEL(missed_barrier, DefectParams, kThreads, 1) {
    if (thread() < kWarp) sync_threads();
}

KERNEL(different_barriers, DefectParams, kThreads, 1) {
    if (thread() < kWarp) {
        sync_threads();
    } else {
        sync_threads();
    }
}

KERNEL(misaligned, DefectParams, kWarp, 1) { store_16(p.out, load_16(p.in + 1)); }

// `in` was freed.
KERNEL(use_of_freed, DefectParams, kWarp, 1) { const_cast<float*>(p.in)[thread()] = 1; }

KERNEL(read_of_freed, DefectParams, kWarp, 1) { p.out[thread()] = p.in[thread()]; }

}  // namespace
