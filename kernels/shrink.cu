// The shrinks of a linear group: the narrow side of LoRA, all parts of the group in one launch.
//
//   shrink_forward    h[r, column + i]  = sum_k x[r, k] A[i, k]                       x [R, inputs] bf16, A [rank, inputs] bf16
//   shrink_backward   dh[r, column + i] = s sum_n dy[r, start + n] B[n, i]            dy [R, outputs] bf16, B [part's outputs, rank] bf16
//
// h and dh are f32 [R, stride]; a part's columns begin at Part::column. h is not scaled; dh is, after the sum. Columns that a slot does not use are not written.
//
// A product with few columns (16 to some hundred rank rows on the MMA's M) over a long k, bound by the bytes of x and A. So each operand is read once, 16 bytes a
// lane (B: 4 bytes, a row of 16 ranks being one sector), straight into MMA fragments: the k-index of an MMA is free as long as both operands agree, so lane t of a
// quad takes elements 8t .. 8t + 7 of 32, the first half in one MMA and the second in the next, and no shared memory or transposition is needed. B, stored with the
// rank contiguous, is turned by byte permutations: row g of an MMA is rank 2g of its 16, row g + 8 rank 2g + 1.
//
// The order of a sum is fixed by its length alone: k-steps of 32 in kGroups contiguous groups of kStreams contiguous streams. A stream is one MMA accumulator from
// zero, ascending; a group is the sum of its streams in order, the result the sum of the groups in order. Two schedules give this same order:
//   whole   a block takes a tile and a chunk of rank rows, warp w group w;
//   split   for few tiles: block z takes group z, warp w stream w, and shrink_merge_* adds the groups up.
//
// grid: x segment tiles (32 rows at most, of one segment), y chunks of up to 64 rank rows (forward: of the group's columns; backward: part by part), z groups.
// Shared memory: 8 warps' sums, f32 [32][16 blocks + 4]: 69632 bytes at most; the padding of 4 keeps the accumulators' stores free of bank conflicts.
#include "plan.cuh"

struct ShrinkParams {
    const Plan* plan;
    const SlotEntry* slots;
    const PartPlace* places;
    const bf16* x;  // x or dy
    float* out;     // whole: [R, stride]; split: [kGroups, rows, stride]
    uint32_t first_part, parts;
    uint32_t width;   // of a row of x
    uint32_t stride;  // of a row of out
    uint32_t blocks;  // 16-row blocks of ranks in a chunk, at most kRankBlocks
    uint32_t chunks;  // backward: chunks of a part
    uint32_t split;   // 1: blockIdx.z is a group
    uint32_t rows;    // split: rows of a group's sums
};

constexpr int kGroups = 8;
constexpr int kStreams = 8;
constexpr int kWarps = 8;
static_assert(kGroups == kWarps && kStreams == kWarps, "a warp takes a group or a stream");
constexpr int kThreads = kWarps * kWarp;
constexpr int kStep = 32;  // elements of k
constexpr int kRowBlocks = kSegmentTile / 8;
constexpr int kRankBlocks = 4;
constexpr int kRankPadding = 16;
static_assert(kSegmentTile % 8 == 0, "rows are the N of m16n8k16");

// What a warp multiplies.
struct Operands {
    const bf16* a[kRankBlocks];  // forward: row g of the block's ranks, at 8t; backward: rank 2g of row 8t of B
    const bf16* x;               // row g of the tile, at 8t
    uint64_t a_stride;           // forward: of 8 ranks; backward: of a row of B
    uint64_t x_stride;           // of 8 rows
    int rank_blocks, row_blocks;
    int rows;                    // of the tile, less g
    int length;                  // of k, less 8t
};

// The operands of one k-step.
struct Step {
    uint32_t a[kRankBlocks][8];
    uint4 x[kRowBlocks];
};

// 8 elements at `from`, those from `count` on being zero. Aligned: all or none of the 8 are there, on 16 bytes.
template <bool kAligned>
DEVICE uint4 load_elements(const bf16* from, int count) {
    if constexpr (kAligned) {
        return count > 0 ? load_16(from) : make_uint4(0, 0, 0, 0);
    } else {
        uint32_t words[4];
        for (int i = 0; i < 4; i++) {
            const uint32_t low = 2 * i < count ? from[2 * i].bits : 0;
            const uint32_t high = 2 * i + 1 < count ? from[2 * i + 1].bits : 0;
            words[i] = low | high << 16;
        }
        return make_uint4(words[0], words[1], words[2], words[3]);
    }
}

template <bool kBackward, bool kAligned>
DEVICE void load_step(Step& s, const Operands& o, int step) {
    const int k = step * kStep;
    const int left = o.length - k;
#pragma unroll
    for (int j = 0; j < kRowBlocks; j++) {
        if (j < o.row_blocks) s.x[j] = load_elements<kAligned>(o.x + j * o.x_stride + k, j * 8 < o.rows ? left : 0);
    }
#pragma unroll
    for (int i = 0; i < kRankBlocks; i++) {
        if (i >= o.rank_blocks) break;
        if (kBackward) {
            const bf16* row = o.a[i] + k * o.a_stride;
#pragma unroll
            for (int n = 0; n < 8; n++) s.a[i][n] = n < left ? *reinterpret_cast<const uint32_t*>(row + n * o.a_stride) : 0;
        } else {
            const uint4 low = load_elements<true>(o.a[i] + k, left);
            const uint4 high = load_elements<true>(o.a[i] + k + o.a_stride, left);
            s.a[i][0] = low.x, s.a[i][1] = high.x, s.a[i][2] = low.y, s.a[i][3] = high.y;
            s.a[i][4] = low.z, s.a[i][5] = high.z, s.a[i][6] = low.w, s.a[i][7] = high.w;
        }
    }
}

// The A fragment of half a k-step.
template <bool kBackward>
DEVICE void fragment(uint32_t (&a)[4], const uint32_t* s) {
    if (kBackward) {
        // Two rows of B, two ranks each: rank 2g of both, rank 2g + 1 of both.
        a[0] = (s[0] & 0xffffu) | s[1] << 16;
        a[1] = s[0] >> 16 | (s[1] & 0xffff0000u);
        a[2] = (s[2] & 0xffffu) | s[3] << 16;
        a[3] = s[2] >> 16 | (s[3] & 0xffff0000u);
    } else {
        for (int i = 0; i < 4; i++) a[i] = s[i];
    }
}

template <bool kBackward>
DEVICE void multiply(float (&sum)[kRankBlocks][kRowBlocks][4], const Step& s, const Operands& o) {
#pragma unroll
    for (int i = 0; i < kRankBlocks; i++) {
        if (i >= o.rank_blocks) break;
        uint32_t first[4], second[4];
        fragment<kBackward>(first, s.a[i]);
        fragment<kBackward>(second, s.a[i] + 4);
#pragma unroll
        for (int j = 0; j < kRowBlocks; j++) {
            if (j >= o.row_blocks) break;
            const uint32_t x0[2] = {s.x[j].x, s.x[j].y};
            const uint32_t x1[2] = {s.x[j].z, s.x[j].w};
            mma_bf16(sum[i][j], first, x0);
            mma_bf16(sum[i][j], second, x1);
        }
    }
}

// Adds the accumulators to the warp's sums and empties them.
DEVICE void end_stream(float (&sum)[kRankBlocks][kRowBlocks][4], float* sums, int pitch, const Operands& o) {
    const int g = static_cast<int>(threadIdx.x) % kWarp / 4, t = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int i = 0; i < kRankBlocks; i++) {
        if (i >= o.rank_blocks) break;
#pragma unroll
        for (int j = 0; j < kRowBlocks; j++) {
            if (j >= o.row_blocks) break;
            for (int c = 0; c < 4; c++) {
                sums[(j * 8 + 2 * t + c % 2) * pitch + i * kRankPadding + g + c / 2 * 8] += sum[i][j][c];
                sum[i][j][c] = 0;
            }
        }
    }
}

// Where group or stream i of n begins, of `steps`.
DEVICE int begin_of(int steps, int i, int n) { return static_cast<int>(static_cast<int64_t>(steps) * i / n); }

template <bool kBackward, bool kAligned>
DEVICE void shrink(const ShrinkParams& p) {
    const Plan& plan = *p.plan;
    if (blockIdx.x >= plan.segment_tile_count) return;
    const SegmentTile tile = plan.segment_tiles[blockIdx.x];
    const SlotEntry& slot = p.slots[tile.slot];
    const int thread = static_cast<int>(threadIdx.x), warp = thread / kWarp, g = thread % kWarp / 4, t = thread % 4;

    // The chunk: its first column of h, and where its ranks lie.
    Operands o;
    o.rank_blocks = 0;
    int first_column = 0;
    float scale = 1;
    const bf16* x = p.x;
    o.length = static_cast<int>(p.width);
    if (kBackward) {
        const uint32_t id = p.first_part + blockIdx.y / p.chunks;
        const Part part = slot.parts[id];
        const PartPlace place = p.places[id];
        const int first = static_cast<int>(blockIdx.y % p.chunks * p.blocks) * kRankPadding;
        const int ranks = static_cast<int>(part.rank) - first;
        if (ranks <= 0) return;
        o.rank_blocks = ranks / kRankPadding < static_cast<int>(p.blocks) ? ranks / kRankPadding : static_cast<int>(p.blocks);
        o.a_stride = part.rank;
        for (int i = 0; i < kRankBlocks; i++) {
            o.a[i] = slot.weights + part.b + static_cast<uint64_t>(8 * t) * part.rank + first + i * kRankPadding + 2 * g;
        }
        first_column = static_cast<int>(part.column) + first;
        scale = part.scale;
        x += place.start;
        o.length = static_cast<int>(place.outputs);
    } else {
        first_column = static_cast<int>(blockIdx.y * p.blocks) * kRankPadding;
        o.a_stride = static_cast<uint64_t>(8) * p.width;
        for (int i = 0; i < kRankBlocks; i++) o.a[i] = nullptr;
        for (uint32_t id = p.first_part; id < p.first_part + p.parts; id++) {
            const Part part = slot.parts[id];
#pragma unroll
            for (int i = 0; i < kRankBlocks; i++) {
                const int rank = first_column + i * kRankPadding - static_cast<int>(part.column);
                if (i >= static_cast<int>(p.blocks) || rank < 0 || rank >= static_cast<int>(part.rank)) continue;
                o.a[i] = slot.weights + part.a + static_cast<uint64_t>(rank + g) * p.width + 8 * t;
                o.rank_blocks = i + 1;
            }
        }
        if (o.rank_blocks == 0) return;
    }
    const int steps = ceil_div(o.length, kStep);
    o.rows = static_cast<int>(tile.end - tile.start);
    o.row_blocks = ceil_div(o.rows, 8);
    o.rows -= g;
    o.x = x + static_cast<uint64_t>(tile.start + static_cast<uint32_t>(g)) * p.width + 8 * t;
    o.x_stride = static_cast<uint64_t>(8) * p.width;
    o.length -= 8 * t;

    // The streams of this warp.
    const int group = p.split ? static_cast<int>(blockIdx.z) : warp;
    const int begin = begin_of(steps, group, kGroups), group_steps = begin_of(steps, group + 1, kGroups) - begin;
    int stream = p.split ? warp : 0;
    const int streams_end = p.split ? warp + 1 : kStreams;
    int step = begin + begin_of(group_steps, stream, kStreams);
    const int end = begin + begin_of(group_steps, streams_end, kStreams);
    const auto stream_end = [&] { return begin + begin_of(group_steps, stream + 1, kStreams); };

    const int columns = o.rank_blocks * kRankPadding;
    const int pitch = static_cast<int>(p.blocks) * kRankPadding + 4;
    float* sums = reinterpret_cast<float*>(shared_memory()) + warp * kSegmentTile * pitch;
    for (int i = thread % kWarp; i < o.row_blocks * 8 * pitch; i += kWarp) sums[i] = 0;
    sync_warp();

    float sum[kRankBlocks][kRowBlocks][4] = {};
    int next_end = stream_end();
    // Ends the stream whose last step was the one before `step`; some streams are empty.
    const auto done = [&](int step) {
        if (step < next_end) return;
        end_stream(sum, sums, pitch, o);
        while (next_end <= step && stream + 1 < streams_end) stream++, next_end = stream_end();
    };
    while (next_end <= step && stream + 1 < streams_end) stream++, next_end = stream_end();
    Step even, odd;
    if (step < end) load_step<kBackward, kAligned>(even, o, step);
    for (; step < end; step += 2) {
        if (step + 1 < end) load_step<kBackward, kAligned>(odd, o, step + 1);
        multiply<kBackward>(sum, even, o);
        done(step + 1);
        if (step + 1 >= end) break;
        if (step + 2 < end) load_step<kBackward, kAligned>(even, o, step + 2);
        multiply<kBackward>(sum, odd, o);
        done(step + 2);
    }
    sync_threads();

    const float* all = reinterpret_cast<const float*>(shared_memory());
    const int rows = static_cast<int>(tile.end - tile.start);
    float* out = p.out + (p.split ? static_cast<uint64_t>(blockIdx.z) * p.rows * p.stride : 0);
    for (int i = thread; i < rows * columns; i += kThreads) {
        const int row = i / columns, column = i % columns;
        // Backward: ranks 2g and 2g + 1 are rows g and g + 8 of an MMA.
        const int at = kBackward ? column / kRankPadding * kRankPadding + column % 2 * 8 + column % kRankPadding / 2 : column;
        float total = all[row * pitch + at];
        for (int w = 1; w < kWarps; w++) total += all[(w * kSegmentTile + row) * pitch + at];
        if (kBackward && !p.split) total *= scale;
        out[static_cast<uint64_t>(tile.start + row) * p.stride + first_column + column] = total;
    }
}

KERNEL(shrink_forward, ShrinkParams, kThreads, 1) { shrink<false, true>(p); }
KERNEL(shrink_backward, ShrinkParams, kThreads, 1) { shrink<true, true>(p); }
// For parts whose outputs do not lie on multiples of 8.
KERNEL(shrink_backward_unaligned, ShrinkParams, kThreads, 1) { shrink<true, false>(p); }

// h, or dh with `scaled`, from the sums of the groups. grid: segment tiles.
struct ShrinkMergeParams {
    const Plan* plan;
    const SlotEntry* slots;
    const float* sums;  // [kGroups, rows, width]
    float* out;         // [R, stride]
    uint32_t first_part, parts;
    uint32_t rows, width, stride, scaled;
};

KERNEL(shrink_merge, ShrinkMergeParams, kThreads, 1) {
    const Plan& plan = *p.plan;
    if (blockIdx.x >= plan.segment_tile_count) return;
    const SegmentTile tile = plan.segment_tiles[blockIdx.x];
    const SlotEntry& slot = p.slots[tile.slot];
    const int rows = static_cast<int>(tile.end - tile.start);
    for (uint32_t id = p.first_part; id < p.first_part + p.parts; id++) {
        const Part part = slot.parts[id];
        const int ranks = static_cast<int>(part.rank);
        for (int i = static_cast<int>(threadIdx.x); i < rows * ranks; i += kThreads) {
            const uint64_t row = tile.start + i / ranks, column = part.column + i % ranks;
            float total = p.sums[row * p.width + column];
            for (int group = 1; group < kGroups; group++) total += p.sums[(static_cast<uint64_t>(group) * p.rows + row) * p.width + column];
            p.out[row * p.stride + column] = p.scaled ? total * part.scale : total;
        }
    }
}
