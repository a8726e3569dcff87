// The gradients of all LoRA parts of a linear group, one launch after one that rounds the narrow operands.
//
//   dB[n, i] += sum over the slot's sequences of (sum_r dy[r, start + n] bf16(s h[r, column + i]))     dy [R, outputs] bf16, dB [part's outputs, rank] f32
//   dA[i, k] += sum over the slot's sequences of (sum_r bf16(dh[r, column + i]) x[r, k])               x [R, inputs] bf16, dA [rank, inputs] f32
//
// A sequence is one f32 accumulator from zero over its rows in order, 16 a k-step from its own first row; the accumulators are added to the gradient in the
// order of the sequences. So it does not matter what shares the step, nor where one step ends and the next begins.
//
// Bound by the bytes of dy and x, which are read once for every 64 rank columns (dA: of all parts of the group, so usually once). The wide operand's columns are the M
// of the MMA, ranks its N, rows its K: both operands lie with K across rows of shared memory and are read by transposing ldmatrix. A block takes 128 columns of
// one operand, up to 64 ranks, and all sequences of one slot; a warp takes 16 of the columns. The gradient stays in registers meanwhile.
//
// grid: x tiles of 128 columns (dA's, then each part's of dB), y chunks of 64 ranks, z slots of the step. 4 stages of asynchronous copies, 32 rows each.
// Shared memory: 4 x (32 rows x 128 columns + 32 rows x 64 ranks) bf16 + 40 = 49192 bytes, 16-byte pieces of a row swizzled by its number (no bank conflicts).
#include "plan.cuh"

struct LoraRoundParams {
    const Plan* plan;
    const SlotEntry* slots;
    const float* h;   // [R, stride]
    const float* dh;  // [R, stride]
    bf16* scaled_h;   // [R, width]
    bf16* rounded_dh; // [R, width]
    uint32_t first_part, parts;
    uint32_t stride, width;
};

constexpr int kThreads = 256;

// bf16(s h) and bf16(dh): the same values that the products y and dx take. grid: segment tiles; a thread takes 8 columns.
KERNEL(lora_round, LoraRoundParams, kThreads, 1) {
    const Plan& plan = *p.plan;
    if (blockIdx.x >= plan.segment_tile_count) return;
    const SegmentTile tile = plan.segment_tiles[blockIdx.x];
    const SlotEntry& slot = p.slots[tile.slot];
    const int rows = static_cast<int>(tile.end - tile.start);
    for (uint32_t id = p.first_part; id < p.first_part + p.parts; id++) {
        const Part part = slot.parts[id];
        const int pieces = static_cast<int>(part.rank) / 8;
        for (int i = static_cast<int>(threadIdx.x); i < rows * pieces; i += kThreads) {
            const uint64_t row = tile.start + i / pieces, column = part.column + i % pieces * 8;
            const float* h = p.h + row * p.stride + column;
            const float* dh = p.dh + row * p.stride + column;
            uint32_t a[4], b[4];
            for (int k = 0; k < 4; k++) {
                a[k] = pack_bf16(part.scale * h[2 * k], part.scale * h[2 * k + 1]);
                b[k] = pack_bf16(dh[2 * k], dh[2 * k + 1]);
            }
            store_16(p.scaled_h + row * p.width + column, make_uint4(a[0], a[1], a[2], a[3]));
            store_16(p.rounded_dh + row * p.width + column, make_uint4(b[0], b[1], b[2], b[3]));
        }
    }
}

struct LoraGradientParams {
    const Plan* plan;
    const SlotEntry* slots;
    const PartPlace* places;
    const bf16* x;           // [R, inputs]
    const bf16* dy;          // [R, outputs]
    const bf16* scaled_h;    // [R, width]
    const bf16* rounded_dh;  // [R, width]
    uint32_t first_part, parts;
    uint32_t inputs, outputs;
    uint32_t width, unused;
};

constexpr int kColumns = 128;  // of the wide operand in a block
constexpr int kRanks = 64;     // of the narrow one
constexpr int kRows = 32;      // of a stage
constexpr int kStages = 4;
constexpr int kRankPadding = 16;
constexpr int kRankBlocks = kRanks / kRankPadding;
constexpr int kWide = kRows * kColumns, kNarrow = kRows * kRanks;  // elements of a stage
static_assert(kThreads / kWarp * 16 == kColumns, "a warp has 16 columns: the M of m16n8k16");
static_assert(kRows % 16 == 0, "k-steps of 16 rows");
static_assert(kColumns % 64 == 0 && kRanks % 64 == 0, "the swizzle is of 8 pieces of 8 elements");
static_assert(kRows * kRanks / 8 <= kThreads, "a thread copies one piece of the narrow operand");

// What a block works on.
struct GradientTile {
    const bf16* wide;    // first column of the tile in row 0
    const bf16* narrow;  // first rank of the chunk in row 0
    uint64_t wide_stride, narrow_stride;
    int columns, ranks;  // that exist
};

// Element (m, n) of rank block j is blocks[j][m * m_stride + n * n_stride].
struct GradientPlace {
    float* blocks[kRankBlocks];
    uint32_t m_stride, n_stride;
};

// The rows of a slot, sequence after sequence, kRows at a time.
struct RowCursor {
    const Plan& plan;
    uint32_t next, end;  // entries of slot_sequences
    int row, row_end;    // of the sequence; none left: row == row_end

    DEVICE RowCursor(const Plan& plan, const SlotWork& work) : plan(plan), next(work.sequences_start), end(work.sequences_end) { open(); }
    DEVICE void open() {
        row = row_end = 0;
        while (row == row_end && next < end) {
            const Sequence& s = plan.sequences[plan.slot_sequences[next++]];
            row = static_cast<int>(s.start);
            row_end = static_cast<int>(s.end);
        }
    }
    DEVICE bool valid() const { return row < row_end; }
    // To the next rows; true where a sequence has ended.
    DEVICE bool advance() {
        row += kRows;
        if (row < row_end) return false;
        open();
        return true;
    }
};

// Element `column` (a multiple of 8) of a row of a stage's tile, whose 16-byte pieces are swizzled.
template <int kWidth>
DEVICE bf16* swizzled(bf16* tile, int row, int column) {
    return tile + row * kWidth + ((column / 8) ^ (row % 8)) * 8;
}

// Brings rows of a sequence into a stage; zeros beyond its end and beyond the tile's columns.
template <bool kAligned>
DEVICE void load_stage(bf16* wide, bf16* narrow, const GradientTile& tile, const RowCursor& rows) {
#pragma unroll
    for (int i = 0; i < kWide / 8 / kThreads; i++) {
        const int piece = static_cast<int>(threadIdx.x) + i * kThreads;
        const int row = piece / (kColumns / 8), column = piece % (kColumns / 8) * 8;
        const bool there = rows.row + row < rows.row_end;
        const bf16* from = tile.wide + static_cast<uint64_t>(rows.row + row) * tile.wide_stride + column;
        bf16* to = swizzled<kColumns>(wide, row, column);
        if constexpr (kAligned) {
            const bool valid = there && column < tile.columns;
            copy_async_16(to, valid ? from : tile.narrow, valid);
        } else {
            for (int k = 0; k < 8; k++) to[k] = there && column + k < tile.columns ? from[k] : bf16{0};
        }
    }
    const int row = static_cast<int>(threadIdx.x) / (kRanks / 8), column = static_cast<int>(threadIdx.x) % (kRanks / 8) * 8;
    if (row < kRows && column < tile.ranks) {
        const bool valid = rows.row + row < rows.row_end;
        const bf16* from = tile.narrow + static_cast<uint64_t>(rows.row + row) * tile.narrow_stride + column;
        copy_async_16(swizzled<kRanks>(narrow, row, column), valid ? from : tile.narrow, valid);
    }
}

template <bool kAligned>
DEVICE void lora_gradient(const LoraGradientParams& p) {
    const Plan& plan = *p.plan;
    if (blockIdx.z >= plan.slot_work_count) return;
    const SlotWork work = plan.slot_works[blockIdx.z];
    const SlotEntry& slot = p.slots[work.slot];
    const int warp = static_cast<int>(threadIdx.x) / kWarp, lane = static_cast<int>(threadIdx.x) % kWarp;
    const int g = lane / 4, t = lane % 4;

    bf16* stages = reinterpret_cast<bf16*>(shared_memory());
    // Where the gradient lies, kept out of the main loop's registers.
    GradientPlace& place = *reinterpret_cast<GradientPlace*>(stages + kStages * (kWide + kNarrow));
    GradientTile tile;
    int x = static_cast<int>(blockIdx.x), first_rank = static_cast<int>(blockIdx.y) * kRanks;
    const int tiles_a = ceil_div(static_cast<int>(p.inputs), kColumns);
    tile.narrow_stride = p.width;
    tile.ranks = 0;
    if (x < tiles_a) {
        const int first = x * kColumns;
        tile.columns = static_cast<int>(p.inputs) - first;
        tile.wide = p.x + first;
        tile.wide_stride = p.inputs;
        tile.narrow = p.rounded_dh + first_rank;
        if (threadIdx.x == 0) place.m_stride = 1, place.n_stride = p.inputs;
        for (uint32_t id = p.first_part; id < p.first_part + p.parts; id++) {
            const Part part = slot.parts[id];
            for (int j = 0; j < kRankBlocks; j++) {
                const int rank = first_rank + j * kRankPadding - static_cast<int>(part.column);
                if (rank < 0 || rank >= static_cast<int>(part.rank)) continue;
                if (threadIdx.x == 0) place.blocks[j] = slot.gradient + part.a + static_cast<uint64_t>(rank) * p.inputs + first;
                tile.ranks = (j + 1) * kRankPadding;
            }
        }
    } else {
        x -= tiles_a;
        uint32_t id = p.first_part;
        while (id < p.first_part + p.parts && x >= ceil_div(static_cast<int>(p.places[id].outputs), kColumns)) {
            x -= ceil_div(static_cast<int>(p.places[id].outputs), kColumns);
            id++;
        }
        if (id == p.first_part + p.parts) return;
        const Part part = slot.parts[id];
        const int first = x * kColumns;
        tile.columns = static_cast<int>(p.places[id].outputs) - first;
        tile.wide = p.dy + p.places[id].start + first;
        tile.wide_stride = p.outputs;
        tile.narrow = p.scaled_h + part.column + first_rank;
        tile.ranks = static_cast<int>(part.rank) - first_rank;
        if (tile.ranks > kRanks) tile.ranks = kRanks;
        if (threadIdx.x == 0) place.m_stride = part.rank, place.n_stride = 1;
        for (int j = 0; j < kRankBlocks && threadIdx.x == 0; j++) {
            place.blocks[j] = slot.gradient + part.b + static_cast<uint64_t>(first) * part.rank + first_rank + j * kRankPadding;
        }
    }
    if (tile.ranks <= 0) return;

    float total[kRankBlocks][2][4], sum[kRankBlocks][2][4] = {};
    // Each element (m, n) that this lane holds.
    const auto each = [&](auto f) {
#pragma unroll
        for (int j = 0; j < kRankBlocks; j++) {
            if (j * kRankPadding >= tile.ranks) break;
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int c = 0; c < 4; c++) {
                    const int m = warp * 16 + g + c / 2 * 8, n = half * 8 + 2 * t + c % 2;
                    if (m < tile.columns) f(place.blocks[j] + m * place.m_stride + n * place.n_stride, total[j][half][c]);
                }
            }
        }
    };
    sync_threads();
    each([](const float* at, float& value) { value = *at; });

    const auto wide = [&](int stage) { return stages + stage * (kWide + kNarrow); };
    const auto narrow = [&](int stage) { return stages + stage * (kWide + kNarrow) + kWide; };
    RowCursor loading(plan, work), computing(plan, work);
    for (int stage = 0; stage < kStages - 1; stage++) {
        if (loading.valid()) {
            load_stage<kAligned>(wide(stage), narrow(stage), tile, loading);
            loading.advance();
        }
        copy_async_commit();
    }
    int stage = 0;
    while (computing.valid()) {
        copy_async_wait<kStages - 2>();
        sync_threads();
        const int free = (stage + kStages - 1) % kStages;
        if (loading.valid()) {
            load_stage<kAligned>(wide(free), narrow(free), tile, loading);
            loading.advance();
        }
        copy_async_commit();

        // Lane l gives row l % 8 of matrix l / 8. Wide: matrices 0, 1 are the columns 0-7, 8-15 of rows 0-7, 2, 3 of rows 8-15. Narrow: 0, 1 are rows 0-7, 8-15
        // of the ranks 0-7, 2, 3 of 8-15.
        const int q = lane / 8;
#pragma unroll
        for (int k = 0; k < kRows; k += 16) {
            if (computing.row + k >= computing.row_end) break;
            uint32_t a[4];
            load_matrix_x4_transposed(a, swizzled<kColumns>(wide(stage), k + q / 2 * 8 + lane % 8, warp * 16 + q % 2 * 8));
#pragma unroll
            for (int j = 0; j < kRankBlocks; j++) {
                if (j * kRankPadding >= tile.ranks) break;
                uint32_t b[4];
                load_matrix_x4_transposed(b, swizzled<kRanks>(narrow(stage), k + q % 2 * 8 + lane % 8, j * kRankPadding + q / 2 * 8));
                const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
                mma_bf16(sum[j][0], a, b0);
                mma_bf16(sum[j][1], a, b1);
            }
        }
        if (computing.advance()) {
#pragma unroll
            for (int j = 0; j < kRankBlocks; j++) {
                for (int half = 0; half < 2; half++) {
                    for (int c = 0; c < 4; c++) {
                        total[j][half][c] += sum[j][half][c];
                        sum[j][half][c] = 0;
                    }
                }
            }
        }
        stage = (stage + 1) % kStages;
    }
    each([](float* at, float& value) { *at = value; });
}

KERNEL(lora_gradient, LoraGradientParams, kThreads, 2) { lora_gradient<true>(p); }
// For parts whose outputs do not lie on multiples of 8.
KERNEL(lora_gradient_unaligned, LoraGradientParams, kThreads, 2) { lora_gradient<false>(p); }
