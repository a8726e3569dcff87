// The linear group: base product and every adapter's LoRA in the same accumulators; forward and the gradient of the input.
//
//   forward      Y[r][m] = (residual[r][m]) + bias[m] + sum_k X[r][k] W[m][k]       W [M, K] as stored
//                first of all, for each part of the row's slot whose outputs m belongs to:  sum_i bf16(s h[r][i]) B[m][i]
//   transposed   Y[r][m] = sum_k X[r][k] W[k][m]                                     W [K, M] as stored: dx = dy W
//                first of all, for all parts of the row's slot in order:                sum_i bf16(h[r][i]) A[i][m], times the factor of (r, m) with kDropout
//
// X [R, K] and Y [R, M] bf16 (Y f32 for logits), W, A, B bf16, h f32 (transposed: dh, which has the factor s already). One rounding, at the store.
//
// Outputs are the M of the tensor-core product and rows of the batch its N, so that 8 rows are enough to fill it. An accumulator starts at zero, runs the
// k-steps (16 each) of its LoRA parts, then those of the base in ascending k, over depths padded to kDepthStep with zeros: the same sequence in every
// configuration below, so a row's bits depend neither on the configuration nor on the rows beside it.
//
// A block owns kOut outputs of kRows rows. Its work is a list of items that go through one ring of kStages buffers, filled by asynchronous copies:
//   LoRA items   16 ranks of one part of one segment that meets the tile, up to kDepth / 16 of these: the part's weights for the tile's outputs, and h of
//                the segment's rows. A table of the parts, built by all threads at once, hides the chain plan -> segment -> slot -> part, which
//                many short segments would repeat. The product goes to a copy of the accumulator and is selected for the segment's rows and
//                the part's outputs only: what an adapter holds, NaN included, cannot reach a row of another.
//   base items   kDepth columns of the tiles of W and X.
// So 64 adapters of one row each add only their own weights to the stream; the base product is the same as for one adapter.
//
// Shared memory: 16-byte chunks are permuted within a row by the row's number, so that ldmatrix and the copies hit all banks. The result goes through shared
// memory as f32 [row][output] (pitch + 4: no conflicts), where bias and residual join, and leaves in 16-byte stores.
//
// Configurations (kOut x kRows x kDepth, stages, warps): see the end of the file. `large` has warp tiles of 64 x 64, which read shared memory least for each
// product; two blocks share a multiprocessor. The others are for few rows, where W streams through once: what counts are bytes in flight and blocks.
// The grid is one-dimensional; tiles of kRowTilesTogether row tiles come together, so that a wave of blocks shares both W and X in the L2 cache. Blocks
// beyond the exact number of rows end at once.
#include "plan.cuh"

struct LinearParams {
    const Plan* plan;
    const SlotEntry* slots;
    const PartPlace* places;  // of the group's parts
    const bf16* w;
    const float* bias;      // [M] or null
    const bf16* x;
    const float* h;         // [R, h_stride]
    const bf16* residual;   // [R, M] or null; may be y
    void* y;
    uint32_t outputs, depth;          // M, K
    uint32_t x_stride, h_stride;      // elements; h's a multiple of 4
    uint32_t first_part, part_count;  // part_count 0: no LoRA
    uint32_t offset, capacity;        // with kLogitRows: rows are the logit rows offset .. offset + capacity, as far as there are any
    uint32_t flags, group;            // group: with kDropout
};

constexpr uint32_t kLogitRows = 1;  // instead of all rows of the plan
constexpr uint32_t kFloatY = 2;     // Y is f32
constexpr uint32_t kWideY = 4;      // rows of Y (and of the residual) start on 16 bytes
constexpr uint32_t kWideX = 8;      // rows of X start on 16 bytes and K is a multiple of 8

constexpr uint32_t kDropout = 16;   // transposed: the LoRA sum is multiplied by the factors of the group's dropout

constexpr int kStep = 16;       // k of one tensor-core product; ranks are padded to it
constexpr int kDepthStep = 64;  // K is padded to it
constexpr int kRowTilesTogether = 8;
constexpr int kMaxParts = 4;

// One part of one segment of the tile.
struct Entry {
    const bf16* weights;  // of the tile's first output and the first rank
    float scale;           // of h
    uint16_t rank, column;                           // rank 0: nothing to do
    uint8_t row_begin, row_end, out_begin, out_end;  // in the tile
};

template <int OUT, int ROWS, int DEPTH, int STAGES, int WARPS_OUT, int WARPS_ROWS, bool TRANSPOSED>
struct Tiling {
    static constexpr int kOut = OUT, kRows = ROWS, kDepth = DEPTH, kStages = STAGES;
    static constexpr bool kTransposed = TRANSPOSED;
    static constexpr int kWarpsRows = WARPS_ROWS, kThreads = WARPS_OUT * WARPS_ROWS * kWarp;
    static constexpr int kWarpOut = OUT / WARPS_OUT, kWarpRows = ROWS / WARPS_ROWS;
    static constexpr int kM = kWarpOut / 16, kN = kWarpRows / 8;  // fragments of a warp
    static constexpr int kWeightBytes = OUT * DEPTH * 2, kStageBytes = kWeightBytes + ROWS * DEPTH * 2;
    static constexpr int kSteps = DEPTH / kStep, kShrinks = DEPTH * 2 / (kStep * 4);  // of a LoRA item: weights, and h of one row
    static constexpr int kEntries = (ROWS + 1) * kMaxParts;
    static constexpr int kPitch = OUT + 4;
    static_assert(kM * 16 * WARPS_OUT == OUT && kN * 8 * WARPS_ROWS == ROWS, "whole fragments");
    static_assert(kN == 1 || kN % 2 == 0, "fragments of X are loaded in pairs");
    static_assert(OUT <= 128 && ROWS <= 128 && ROWS % kRowGroup == 0, "Entry");
    static_assert(kDepthStep % DEPTH == 0 && DEPTH % kStep == 0, "the same k-steps in every configuration");
    static_assert(OUT * DEPTH / 8 % kThreads == 0 && ROWS * DEPTH / 8 % kThreads == 0, "whole passes of copies");
    static_assert(DEPTH * 2 % (kStep * 4) == 0, "h of a LoRA item lies in the place of X");
    static_assert(kStages * kStageBytes + kEntries * sizeof(Entry) <= 99 * 1024, "shared memory");
    static_assert(ROWS * kPitch * 4 <= kStages * kStageBytes + kEntries * static_cast<int>(sizeof(Entry)), "the epilogue fits");
};

// Where chunk `chunk` (16 bytes) of row `row` lies in a tile of CHUNKS chunks a row, in bytes: eight consecutive rows of one chunk lie in different banks.
template <int CHUNKS>
DEVICE int place(int row, int chunk) {
    constexpr int kRowsALine = CHUNKS >= 8 ? 1 : 8 / CHUNKS;
    constexpr int kMask = CHUNKS >= 8 ? 7 : CHUNKS - 1;
    return row * CHUNKS * 16 + ((chunk ^ (row / kRowsALine & kMask)) * 16);
}

// A fragment of 16 outputs from `out` and 16 k from `k` on of a tile of weights.
template <class T>
DEVICE void load_weights(uint32_t (&a)[4], const unsigned char* tile, int out, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    if constexpr (T::kTransposed) {
        load_matrix_x4_transposed(a, tile + place<T::kOut / 8>(k + lane / 16 * 8 + lane % 8, out / 8 + lane / 8 % 2));
    } else {
        load_matrix_x4(a, tile + place<T::kDepth / 8>(out + lane % 16, k / 8 + lane / 16));
    }
}

// All fragments of a warp for 16 k.
template <class T>
DEVICE void load_fragments(uint32_t (&a)[T::kM][4], uint32_t (&b)[T::kN][2], const unsigned char* stage, int warp_out, int warp_row, int k) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
    for (int m = 0; m < T::kM; m++) load_weights<T>(a[m], stage, warp_out + m * 16, k);
    const unsigned char* x = stage + T::kWeightBytes;
    if constexpr (T::kN == 1) {
        load_matrix_x2(b[0], x + place<T::kDepth / 8>(warp_row + lane % 8, k / 8 + lane / 8 % 2));
    } else {
#pragma unroll
        for (int n = 0; n < T::kN; n += 2) {
            uint32_t r[4];
            load_matrix_x4(r, x + place<T::kDepth / 8>(warp_row + n * 8 + lane / 16 * 8 + lane % 8, k / 8 + lane / 8 % 2));
            b[n][0] = r[0];
            b[n][1] = r[1];
            b[n + 1][0] = r[2];
            b[n + 1][1] = r[3];
        }
    }
}

// A place in the list of LoRA steps: 16 ranks of an entry.
struct Cursor {
    int entry, k;
    // To the next step that exists, or to the end of the table.
    DEVICE void settle(const Entry* table, int entries) {
        while (entry < entries && k >= table[entry].rank) {
            entry++;
            k = 0;
        }
    }
    // Calls `step(entry, k, weights, shrink)` for the steps of one item: as many as there is room for, `weights` counting all of them and `shrink` those in
    // a row of one segment. (Different segments have different rows.)
    template <class T, class Step>
    DEVICE void take(const Entry* table, int entries, const Step& step) {
        int shrink = 0;
        for (int weights = 0; weights < T::kSteps && shrink < T::kShrinks && entry < entries; weights++) {
            const int segment = table[entry].row_begin;
            step(table[entry], k, weights, shrink);
            k += kStep;
            settle(table, entries);
            if (entry < entries) shrink = table[entry].row_begin == segment ? shrink + 1 : 0;
        }
    }
};

template <class T>
DEVICE void fill_table(const LinearParams& p, Entry* table, int entries, int first_segment, int first_row, int first_out) {
    for (int i = static_cast<int>(threadIdx.x); i < entries; i += T::kThreads) {
        const int j = i % static_cast<int>(p.part_count);
        const Segment segment = p.plan->segments[first_segment + i / static_cast<int>(p.part_count)];
        const SlotEntry& slot = p.slots[segment.slot];
        const Part part = slot.parts[p.first_part + j];
        const int begin = static_cast<int>(segment.start) - first_row, end = static_cast<int>(segment.end) - first_row;
        int out_begin = 0, out_end = static_cast<int>(p.outputs) - first_out;
        Entry e = {};
        if constexpr (T::kTransposed) {
            e.weights = slot.weights + part.a + first_out;
            e.scale = 1.0f;
        } else {
            const PartPlace place = p.places[j];
            out_begin = static_cast<int>(place.start) - first_out;
            out_end = out_begin + static_cast<int>(place.outputs);
            e.weights = slot.weights + part.b - static_cast<int64_t>(out_begin) * part.rank;
            e.scale = part.scale;
        }
        e.column = static_cast<uint16_t>(part.column);
        e.row_begin = static_cast<uint8_t>(begin < 0 ? 0 : begin > T::kRows ? T::kRows : begin);
        e.row_end = static_cast<uint8_t>(end > T::kRows ? T::kRows : end);
        e.out_begin = static_cast<uint8_t>(out_begin < 0 ? 0 : out_begin > T::kOut ? T::kOut : out_begin);
        e.out_end = static_cast<uint8_t>(out_end < 0 ? 0 : out_end > T::kOut ? T::kOut : out_end);
        e.rank = static_cast<uint16_t>(e.row_begin < e.row_end && e.out_begin < e.out_end ? part.rank : 0);
        table[i] = e;
    }
}

template <class T>
DEVICE void copy_lora(const LinearParams& p, const Entry& e, int k, unsigned char* stage, int weights, int shrink, int first_row) {
    const int thread = static_cast<int>(threadIdx.x);
    if constexpr (T::kTransposed) {
        constexpr int kChunks = T::kOut / 8;
        const bf16* a = e.weights + static_cast<uint64_t>(k) * p.outputs;
        for (int i = thread; i < kStep * kChunks; i += T::kThreads) {
            const int row = i / kChunks, chunk = i % kChunks;
            if (chunk * 8 < e.out_end) {
                copy_async_16(stage + place<kChunks>(weights * kStep + row, chunk), a + static_cast<uint64_t>(row) * p.outputs + chunk * 8);
            }
        }
    } else {
        for (int i = thread; i < T::kOut * 2; i += T::kThreads) {
            const int row = i / 2, chunk = i % 2;
            if (row >= e.out_begin && row < e.out_end) {
                copy_async_16(stage + place<T::kDepth / 8>(row, weights * 2 + chunk), e.weights + static_cast<int64_t>(row) * e.rank + k + chunk * 8);
            }
        }
    }
    const float* h = p.h + static_cast<uint64_t>(first_row) * p.h_stride + e.column + k;
    for (int i = e.row_begin * 4 + thread; i < e.row_end * 4; i += T::kThreads) {
        const int row = i / 4, chunk = i % 4;
        copy_async_16(stage + T::kWeightBytes + place<T::kDepth / 8>(row, shrink * 4 + chunk), h + static_cast<uint64_t>(row) * p.h_stride + chunk * 4);
    }
}

// Columns that no chunk lies wholly in, or rows that do not start on 16 bytes: element by element.
DEVICE uint4 load_piece(const bf16* x, int count) {
    uint32_t r[4];
    for (int i = 0; i < 4; i++) {
        const uint32_t low = 2 * i < count ? x[2 * i].bits : 0, high = 2 * i + 1 < count ? x[2 * i + 1].bits : 0;
        r[i] = low | high << 16;
    }
    return make_uint4(r[0], r[1], r[2], r[3]);
}

// What a thread copies of the tiles of W and X: one chunk of every so many rows. Offsets, which do not change from tile to tile, are those of a
// row that exists where the row does not.
template <class T>
struct BaseCopy {
    static constexpr int kXChunks = T::kDepth / 8, kWChunks = T::kTransposed ? T::kOut / 8 : T::kDepth / 8;
    static constexpr int kXCopies = T::kRows * kXChunks / T::kThreads, kWCopies = (T::kTransposed ? T::kDepth : T::kOut) * kWChunks / T::kThreads;
    static constexpr int kXStep = T::kThreads / kXChunks, kWStep = T::kThreads / kWChunks;  // rows from one copy to the next
    static_assert(T::kThreads % kXChunks == 0 && T::kThreads % kWChunks == 0, "one chunk");
    static_assert(kXStep % 8 == 0 && kWStep % 8 == 0, "the same permutation in all rows");

    const bf16 *w, *x;
    uint32_t w_offset[kWCopies], x_offset[kXCopies];
    uint32_t w_rows, x_rows;  // bit i: the row of copy i exists

    DEVICE BaseCopy(const LinearParams& p, int first_out, int first_row, int rows) {
        const int thread = static_cast<int>(threadIdx.x), outputs = static_cast<int>(p.outputs);
        w_rows = x_rows = 0;
        if constexpr (T::kTransposed) {
            const int out = first_out + thread % kWChunks * 8;
            w = out < outputs ? p.w + out : p.w;
            w_rows = out < outputs;  // all or none
#pragma unroll
            for (int i = 0; i < kWCopies; i++) w_offset[i] = static_cast<uint32_t>(thread / kWChunks + i * kWStep) * p.outputs;
        } else {
            w = p.w + static_cast<uint64_t>(first_out) * p.depth;
#pragma unroll
            for (int i = 0; i < kWCopies; i++) {
                const int row = thread / kWChunks + i * kWStep;
                const bool exists = first_out + row < outputs;
                w_rows |= static_cast<uint32_t>(exists) << i;
                w_offset[i] = exists ? static_cast<uint32_t>(row) * p.depth : 0;
            }
        }
        x = p.x + static_cast<uint64_t>(first_row) * p.x_stride;
#pragma unroll
        for (int i = 0; i < kXCopies; i++) {
            const int row = thread / kXChunks + i * kXStep;
            const bool exists = first_row + row < rows;
            x_rows |= static_cast<uint32_t>(exists) << i;
            x_offset[i] = exists ? static_cast<uint32_t>(row) * p.x_stride : 0;
        }
    }

    // The tiles from column (of X) `k` on, zeros beyond their ends.
    DEVICE void copy(const LinearParams& p, int k, unsigned char* stage) const {
        const int thread = static_cast<int>(threadIdx.x), depth = static_cast<int>(p.depth);
        const int x_k = k + thread % kXChunks * 8;
        if constexpr (T::kTransposed) {
            unsigned char* to = stage + place<kWChunks>(thread / kWChunks, thread % kWChunks);
            const bf16* from = w + static_cast<uint64_t>(k) * p.outputs;
            const int last = w_rows ? depth - k - thread / kWChunks : 0;  // rows from this thread's first to the end
#pragma unroll
            for (int i = 0; i < kWCopies; i++) {
                const bool valid = i * kWStep < last;
                copy_async_16(to + i * kWStep * kWChunks * 16, valid ? from + w_offset[i] : p.w, valid);
            }
        } else {
            unsigned char* to = stage + place<kWChunks>(thread / kWChunks, thread % kWChunks);
            const bf16* from = w + (x_k < depth ? x_k : 0);
            const uint32_t valid = x_k < depth ? w_rows : 0;
#pragma unroll
            for (int i = 0; i < kWCopies; i++) copy_async_16(to + i * kWStep * kWChunks * 16, from + w_offset[i], valid >> i & 1);
        }
        unsigned char* to = stage + T::kWeightBytes + place<kXChunks>(thread / kXChunks, thread % kXChunks);
        const bf16* from = x + (x_k < depth ? x_k : 0);
        const uint32_t valid = x_k < depth ? x_rows : 0;
        if (T::kTransposed && !(p.flags & kWideX)) {
            for (int i = 0; i < kXCopies; i++) {
                const uint4 piece = valid >> i & 1 ? load_piece(from + x_offset[i], depth - x_k) : make_uint4(0, 0, 0, 0);
                *reinterpret_cast<uint4*>(to + i * kXStep * kXChunks * 16) = piece;
            }
        } else {
#pragma unroll
            for (int i = 0; i < kXCopies; i++) copy_async_16(to + i * kXStep * kXChunks * 16, from + x_offset[i], valid >> i & 1);
        }
    }
};

// acc += 16 ranks of an entry, for the segment's rows and the part's outputs.
template <class T>
DEVICE void add_lora(float (&acc)[T::kM][T::kN][4], const Entry& e, const unsigned char* stage, int weights, int shrink, int warp_out, int warp_row) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
    const int row_begin = e.row_begin - warp_row, row_end = e.row_end - warp_row;
    const int out_begin = e.out_begin - warp_out, out_end = e.out_end - warp_out;
    if (row_begin >= T::kWarpRows || row_end <= 0 || out_begin >= T::kWarpOut || out_end <= 0) return;
    const float scale = e.scale;
    uint32_t a[T::kM][4];
#pragma unroll
    for (int m = 0; m < T::kM; m++) load_weights<T>(a[m], stage, warp_out + m * 16, weights * kStep);
    // s h as the tensor cores take it, rounded once. Rows of others hold anything here; their columns of the product are not selected.
    const auto load_shrink = [&](uint32_t(&b)[2], int n) {
        const unsigned char* h = stage + T::kWeightBytes;
        const int row = warp_row + n * 8 + g;
        const float2 low = *reinterpret_cast<const float2*>(h + place<T::kDepth / 8>(row, shrink * 4 + t / 2) + t % 2 * 8);
        const float2 high = *reinterpret_cast<const float2*>(h + place<T::kDepth / 8>(row, shrink * 4 + 2 + t / 2) + t % 2 * 8);
        b[0] = pack_bf16(scale * low.x, scale * low.y);
        b[1] = pack_bf16(scale * high.x, scale * high.y);
    };
    if (row_begin <= 0 && row_end >= T::kWarpRows && out_begin <= 0 && out_end >= T::kWarpOut) {
#pragma unroll
        for (int n = 0; n < T::kN; n++) {
            uint32_t b[2];
            load_shrink(b, n);
#pragma unroll
            for (int m = 0; m < T::kM; m++) mma_bf16(acc[m][n], a[m], b);
        }
        return;
    }
#pragma unroll
    for (int n = 0; n < T::kN; n++) {
        if (row_begin >= n * 8 + 8 || row_end <= n * 8) continue;
        uint32_t b[2];
        load_shrink(b, n);
        const int row = n * 8 + 2 * t;
        const bool in[2] = {row >= row_begin && row < row_end, row + 1 >= row_begin && row + 1 < row_end};
#pragma unroll
        for (int m = 0; m < T::kM; m++) {
            if (out_begin >= m * 16 + 16 || out_end <= m * 16) continue;
            const int out = m * 16 + g;
            const bool in_part[2] = {out >= out_begin && out < out_end, out + 8 >= out_begin && out + 8 < out_end};
            float sum[4] = {acc[m][n][0], acc[m][n][1], acc[m][n][2], acc[m][n][3]};
            mma_bf16(sum, a[m], b);
#pragma unroll
            for (int i = 0; i < 4; i++) acc[m][n][i] = in[i % 2] && in_part[i / 2] ? sum[i] : acc[m][n][i];
        }
    }
}

// What LoRA has added so far, times the factors of its dropout. Unrolled, as accumulators are registers; the counter-based numbers are made where they
// are needed.
template <class T>
DEVICE void drop(float (&acc)[T::kM][T::kN][4], const LinearParams& p, int first_out, int first_row, int rows) {
    const int lane = static_cast<int>(threadIdx.x) % kWarp, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < T::kN; n++) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = first_row + n * 8 + 2 * t + i;
            if (row >= rows) continue;
            const RowDropout dropout = row_dropout(*p.plan, p.group, row);
            if (dropout.rate == 0.0f) continue;
#pragma unroll
            for (int m = 0; m < T::kM; m++) {
                const uint32_t out = static_cast<uint32_t>(first_out + m * 16 + g);
                acc[m][n][i] *= dropout.factor(out);
                acc[m][n][2 + i] *= dropout.factor(out + 8);
            }
        }
    }
}

// acc += the item; the next fragments are on their way while the tensor cores work on these.
template <class T>
DEVICE void add_base(float (&acc)[T::kM][T::kN][4], const unsigned char* stage, int warp_out, int warp_row) {
    uint32_t a[2][T::kM][4], b[2][T::kN][2];
    load_fragments<T>(a[0], b[0], stage, warp_out, warp_row, 0);
#pragma unroll
    for (int s = 0; s < T::kDepth / kStep; s++) {
        if (s + 1 < T::kDepth / kStep) load_fragments<T>(a[(s + 1) % 2], b[(s + 1) % 2], stage, warp_out, warp_row, (s + 1) * kStep);
#pragma unroll
        for (int m = 0; m < T::kM; m++) {
#pragma unroll
            for (int n = 0; n < T::kN; n++) mma_bf16(acc[m][n], a[s % 2][m], b[s % 2][n]);
        }
    }
}

// Bias, residual, rounding, and the stores.
template <class T>
DEVICE void finish(const LinearParams& p, const float (&acc)[T::kM][T::kN][4], int first_out, int first_row, int rows, int warp_out, int warp_row) {
    float* tile = reinterpret_cast<float*>(shared_memory());
    const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, g = lane / 4, t = lane % 4;
    const int outputs = static_cast<int>(p.outputs);
#pragma unroll
    for (int m = 0; m < T::kM; m++) {
        const int out = warp_out + m * 16 + g;
        const float bias[2] = {p.bias && first_out + out < outputs ? p.bias[first_out + out] : 0.0f,
                               p.bias && first_out + out + 8 < outputs ? p.bias[first_out + out + 8] : 0.0f};
#pragma unroll
        for (int n = 0; n < T::kN; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float value = p.bias ? acc[m][n][i] + bias[i / 2] : acc[m][n][i];
                tile[(warp_row + n * 8 + 2 * t + i % 2) * T::kPitch + out + i / 2 * 8] = value;
            }
        }
    }
    sync_threads();
    constexpr int kChunks = T::kOut / 8;
    for (int i = thread; i < T::kRows * kChunks; i += T::kThreads) {
        const int row = i / kChunks, out = i % kChunks * 8;
        const int count = outputs - first_out - out;
        if (first_row + row >= rows || count <= 0) continue;
        const float4* from = reinterpret_cast<const float4*>(tile + row * T::kPitch + out);
        const float4 low = from[0], high = from[1];
        float v[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        const uint64_t at = static_cast<uint64_t>(first_row + row) * p.outputs + first_out + out;
        const bool wide = count >= 8 && (p.flags & kWideY);
        if (p.flags & kFloatY) {
            float* y = static_cast<float*>(p.y) + at;
            if (wide) {
                store_16(y, make_uint4(float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])));
                store_16(y + 4, make_uint4(float_bits(v[4]), float_bits(v[5]), float_bits(v[6]), float_bits(v[7])));
            } else {
#pragma unroll
                for (int j = 0; j < 8; j++) {
                    if (j < count) y[j] = v[j];
                }
            }
            continue;
        }
        bf16* y = static_cast<bf16*>(p.y) + at;
        if (wide) {
            if (p.residual) {
                const uint4 r = load_16_coherent(p.residual + at);
                const uint32_t word[4] = {r.x, r.y, r.z, r.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    v[2 * j] += low_bf16(word[j]);
                    v[2 * j + 1] += high_bf16(word[j]);
                }
            }
            store_16(y, make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7])));
        } else {
#pragma unroll
            for (int j = 0; j < 8; j++) {
                if (j < count) y[j] = to_bf16(p.residual ? v[j] + to_float(p.residual[at + j]) : v[j]);
            }
        }
    }
}

template <class T>
DEVICE void linear(const LinearParams& p) {
    int rows = static_cast<int>(p.plan->rows);
    if (p.flags & kLogitRows) {
        rows = static_cast<int>(p.plan->logit_row_count) - static_cast<int>(p.offset);
        rows = rows > static_cast<int>(p.capacity) ? static_cast<int>(p.capacity) : rows;
    }
    const int out_tiles = ceil_div(static_cast<int>(p.outputs), T::kOut), row_tiles = rows <= 0 ? 0 : ceil_div(rows, T::kRows);
    const int tile = static_cast<int>(blockIdx.x);
    if (tile >= out_tiles * row_tiles) return;
    const int together = tile / (kRowTilesTogether * out_tiles) * kRowTilesTogether;
    const int here = row_tiles - together < kRowTilesTogether ? row_tiles - together : kRowTilesTogether;
    const int first_row = (together + (tile - together * out_tiles) % here) * T::kRows;
    const int first_out = (tile - together * out_tiles) / here * T::kOut;
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const int warp_out = warp / T::kWarpsRows * T::kWarpOut, warp_row = warp % T::kWarpsRows * T::kWarpRows;

    unsigned char* shared = shared_memory();
    Entry* table = reinterpret_cast<Entry*>(shared + T::kStages * T::kStageBytes);
    int entries = 0;
    if (p.part_count > 0) {
        const int end = first_row + T::kRows;
        const int first = static_cast<int>(p.plan->group_segments[first_row / kRowGroup]);
        const int last = end < rows ? static_cast<int>(p.plan->group_segments[end / kRowGroup]) : static_cast<int>(p.plan->segment_count) - 1;
        entries = (last - first + 1) * static_cast<int>(p.part_count);
        fill_table<T>(p, table, entries, first, first_row, first_out);
        sync_threads();
    }

    // Items in order: what is to be copied next, and what is to be added next.
    Cursor ahead = {0, 0};
    ahead.settle(table, entries);
    const int depth = ceil_div(static_cast<int>(p.depth), kDepthStep) * kDepthStep;
    int k_ahead = 0, slot_ahead = 0, slot = 0;
    const BaseCopy<T> base(p, first_out, first_row, rows);
    const auto copy_next_base = [&] {
        if (k_ahead < depth) base.copy(p, k_ahead, shared + slot_ahead * T::kStageBytes);
        k_ahead += T::kDepth;
        copy_async_commit();
        slot_ahead = slot_ahead + 1 == T::kStages ? 0 : slot_ahead + 1;
    };
    const auto copy_next = [&] {
        if (ahead.entry == entries) return copy_next_base();
        unsigned char* stage = shared + slot_ahead * T::kStageBytes;
        ahead.take<T>(table, entries, [&](const Entry& e, int k, int weights, int shrink) { copy_lora<T>(p, e, k, stage, weights, shrink, first_row); });
        copy_async_commit();
        slot_ahead = slot_ahead + 1 == T::kStages ? 0 : slot_ahead + 1;
    };
    // The oldest item has landed for all threads, and all have left the one before it, whose place is free now.
    const auto next_stage = [&] {
        copy_async_wait<T::kStages - 2>();
        sync_threads();
        const unsigned char* stage = shared + slot * T::kStageBytes;
        slot = slot + 1 == T::kStages ? 0 : slot + 1;
        return stage;
    };

    float acc[T::kM][T::kN][4] = {};
    for (int i = 0; i < T::kStages - 1; i++) copy_next();
    Cursor now = {0, 0};
    now.settle(table, entries);
    while (now.entry < entries) {
        const unsigned char* stage = next_stage();
        copy_next();
        now.take<T>(table, entries, [&](const Entry& e, int, int weights, int shrink) { add_lora<T>(acc, e, stage, weights, shrink, warp_out, warp_row); });
    }
    if constexpr (T::kTransposed) {
        if (p.flags & kDropout && entries > 0) drop<T>(acc, p, first_out + warp_out, first_row + warp_row, rows);
    }
    for (int k = 0; k < depth; k += T::kDepth) {
        const unsigned char* stage = next_stage();
        copy_next_base();
        add_base<T>(acc, stage, warp_out, warp_row);
    }
    copy_async_wait<0>();
    sync_threads();
    finish<T>(p, acc, first_out, first_row, rows, warp_out, warp_row);
}

// Few outputs and rows: all of a narrow W is in flight at once, on as many multiprocessors as there are 16 outputs.
template <bool TRANSPOSED>
using Tiny = Tiling<16, 32, 64, 12, 1, 4, TRANSPOSED>;
// Up to 64 rows of a wider W, 24 KB of it in flight a block. With a fifth stage a multiprocessor
// of an A100 would have room for one block instead of two.
template <bool TRANSPOSED>
using Small = Tiling<64, 64, 64, 4, 2, 2, TRANSPOSED>;
// A very wide W with few rows; many rows where `large` has too few blocks for the device.
template <bool TRANSPOSED>
using Medium = Tiling<128, 64, 64, 3, 4, 2, TRANSPOSED>;
template <bool TRANSPOSED>
using Large = Tiling<128, 128, 32, 4, 2, 2, TRANSPOSED>;

KERNEL(linear_tiny, LinearParams, Tiny<false>::kThreads, 2) { linear<Tiny<false>>(p); }
KERNEL(linear_tiny_transposed, LinearParams, Tiny<true>::kThreads, 2) { linear<Tiny<true>>(p); }
KERNEL(linear_small, LinearParams, Small<false>::kThreads, 2) { linear<Small<false>>(p); }
KERNEL(linear_small_transposed, LinearParams, Small<true>::kThreads, 2) { linear<Small<true>>(p); }
KERNEL(linear_medium, LinearParams, Medium<false>::kThreads, 2) { linear<Medium<false>>(p); }
KERNEL(linear_medium_transposed, LinearParams, Medium<true>::kThreads, 2) { linear<Medium<true>>(p); }
KERNEL(linear_large, LinearParams, Large<false>::kThreads, 2) { linear<Large<false>>(p); }
KERNEL(linear_large_transposed, LinearParams, Large<true>::kThreads, 2) { linear<Large<true>>(p); }
