// The plan of one step on the device: what src/backend/cuda/plan.rs uploads, and the table of slots of src/backend/cuda/slots.rs. Everything that changes from step
// to step is read from here, so that a captured graph can be replayed. Field for field as there.
#pragma once

#include "device.cuh"

// Rows start .. end belong to `slot`.
struct Segment {
    uint32_t slot, start, end;
};

// Rows start .. end are consecutive tokens of one sequence, from `first_position` on.
struct Sequence {
    uint32_t start, end, first_position, pages_start, pages_end;
};

struct PageCopy {
    uint32_t from, to, tokens;
};

struct Label {
    uint32_t token;
    float coefficient;
};

struct Draw {
    uint64_t key;
    uint32_t rows_start, rows_end, position, top_k;
    float temperature, top_p, min_p;
    uint32_t unused;
};

struct DrawRow {
    uint32_t logit_row;
    float weight;
};

// The dropout of a sequence on what adapters read: elements are zeroed with probability `rate`, the others multiplied by `scale`.
struct Dropout {
    uint64_t key;
    float rate, scale;
};

// A tile of rows of one segment: at most kSegmentTile.
struct SegmentTile {
    uint32_t slot, start, end;
};
constexpr int kSegmentTile = 32;

// Rows of one sequence that attention takes together: rows `row .. row + rows` of the batch. Where a tile stands for one split of the positions: which, and where
// the first row's state lies in the workspace, in states of a row.
struct AttentionTile {
    uint32_t sequence, row, rows, split, partial;
};

// The sequences of one slot, in the slot's own order: entries of Plan::slot_sequences.
struct SlotWork {
    uint32_t slot, sequences_start, sequences_end;
};

// Rows of a group for which group_segments holds the first segment.
constexpr int kRowGroup = 8;

struct Plan {
    uint32_t rows, segment_count, sequence_count, logit_row_count;
    uint32_t draw_count, page_copy_count, segment_tile_count, slot_work_count;
    uint32_t packed_tile_count, paged_tile_count, wide_tile_count, unused;
    const uint32_t* tokens;          // [rows]
    const uint32_t* positions;       // [rows]
    const uint32_t* rope_rows;       // [rows]: of the rotary table, and from its end on of rope_extra
    const float* rope_extra;         // rows of half cosines and half sines
    const uint32_t* row_sequence;    // [rows]
    const Segment* segments;         // [segment_count], ascending
    const uint32_t* group_segments;  // [rows / kRowGroup, rounded up]: the segment of the group's first row
    const Sequence* sequences;       // [sequence_count]
    const uint32_t* page_table;
    const PageCopy* page_copies;     // [page_copy_count]
    const uint32_t* logit_rows;      // [logit_row_count], ascending
    const Label* labels;             // [logit_row_count] or absent
    const Draw* draws;               // [draw_count]
    const DrawRow* draw_rows;
    const SegmentTile* segment_tiles;     // [segment_tile_count]
    const SlotWork* slot_works;           // [slot_work_count]
    const uint32_t* slot_sequences;
    const AttentionTile* packed_tiles;    // [packed_tile_count]
    const AttentionTile* paged_tiles;     // [paged_tile_count]: few rows each, by split
    const AttentionTile* wide_tiles;      // [wide_tile_count]: of sequences over pages with more rows
    const Dropout* dropout;               // [sequence_count] or absent
};

// One LoRA part of one slot. Ranks are padded to a multiple of 16 with zeros.
struct Part {
    uint32_t rank;    // padded; 0: the slot leaves this part alone
    uint32_t column;  // where its h lies in a row of its group's shrink
    float scale;      // s
    uint32_t unused;
    uint64_t a;       // first element of A [rank, inputs] in the slot's buffers
    uint64_t b;       // first element of B [outputs, rank]
};

// One adapter. All its buffers have the same layout, `elements` long.
struct SlotEntry {
    const bf16* weights;  // what the model reads
    float* master;        // what the optimizer keeps
    float* gradient;      // null without optimizer state, as the moments
    float* moment1;
    float* moment2;
    uint64_t elements;
    uint64_t unused;
    const Part* parts;    // by PartId; slot 0: all of rank 0
};

// Where a part lies in its group: outputs start .. start + outputs. By PartId, the same for all slots.
struct PartPlace {
    uint32_t start, outputs, inputs, unused;
};

// The segment of row `row` of the plan.
DEVICE int segment_of(const Plan& plan, int row) {
    int s = static_cast<int>(plan.group_segments[row / kRowGroup]);
    while (static_cast<int>(plan.segments[s].end) <= row) s++;
    return s;
}

// The dropout of the elements of a row of a group's input.
struct RowDropout {
    uint64_t seed;
    float rate, scale;
    DEVICE float factor(uint32_t column) const { return uniform(seed, column) < rate ? 0.0f : scale; }
};
DEVICE RowDropout row_dropout(const Plan& plan, uint32_t group, int row) {
    const Dropout d = plan.dropout[plan.row_sequence[row]];
    const uint64_t key = mix(d.key ^ (static_cast<uint64_t>(group) + 1) * 0xd1b54a32d192ed03ull);
    return {uniform_seed(key, plan.positions[row]), d.rate, d.scale};
}
