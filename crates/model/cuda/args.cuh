// What each kernel is told: the structures of src/gpu/args.rs, which documents them, field for field.
#pragma once

#include <cstddef>
#include <cstdint>

// Where an index may be missing: there is none.
constexpr uint32_t NONE = 0xFFFFFFFFu;
// Positions of one decode item.
constexpr uint32_t DECODE_CHUNK = 256;
// Rows of one prefill item at most.
constexpr uint32_t PREFILL_ROWS = 16;
// Rows that `samples` keeps of each place.
constexpr uint32_t SAMPLE_ROWS = 4;

// Parts of a row in which its largest logit is looked for.
constexpr uint32_t SAMPLE_PARTS = 32;
// Bins in which a row's weights are counted.
constexpr uint32_t SAMPLE_BINS = 4096;

constexpr uint32_t SITE_ATTN_OUT = 0;
constexpr uint32_t SITE_RESID_POST = 1;

constexpr uint32_t OPERATOR_ADD = 0;
constexpr uint32_t OPERATOR_ADD_NORM_RESTORED = 1;
constexpr uint32_t OPERATOR_PROJECT_OUT = 2;

constexpr uint32_t ELEMENT_F32 = 0;
constexpr uint32_t ELEMENT_F16 = 1;

constexpr uint32_t ASK_LOGITS = 0;
constexpr uint32_t ASK_GREEDY = 1;
constexpr uint32_t ASK_DRAW = 2;
constexpr uint32_t ASK_FILTERED = 3;

struct PlanHeader {
    uint32_t site;
    uint32_t op;
    float strength;
    uint32_t padding;
};

struct StepHeader {
    const uint32_t* token_ids;
    const uint32_t* positions;
    const uint32_t* cache_rows;
    const uint32_t* seqs;
    const uint32_t* block_tables;
    const uint32_t* decode_items;
    const uint32_t* row_items;
    const uint32_t* prefill_items;
    const uint32_t* logit_rows;
    const uint32_t* row_plans;
    const PlanHeader* plans;
    const uint32_t* plan_slots;
    const float* table;
    const uint32_t* capture_starts;
    const uint32_t* capture_rows;
    float* captured;
    const uint32_t* sample_rows;
    float* samples;
    float* relative_norms;
    uint32_t max_blocks;
    uint32_t num_decode_items;
    uint32_t num_prefill_items;
    uint32_t num_layers;
    uint32_t num_slots;
    uint32_t num_captures;
    uint32_t captures_after;
    uint32_t padding;
};

struct EmbedArgs {
    const StepHeader* step;
    const void* table;
    float* x;
    uint32_t rows;
    uint32_t hidden;
};

struct AddNormArgs {
    const StepHeader* step;
    const float* h;
    float* x;
    const float* weight;
    void* normed;
    uint32_t rows;
    uint32_t hidden;
    uint32_t site;
    uint32_t layer;
    float eps;
    uint32_t padding;
};

struct HeadCounts {
    uint32_t num_heads;
    uint32_t num_kv_heads;
    uint32_t head_dim;
    uint32_t block_size;
};

struct RopeCacheArgs {
    const StepHeader* step;
    float* q;
    const float* k;
    const float* v;
    const float* angles;
    void* k_pool;
    void* v_pool;
    HeadCounts heads;
    uint32_t rows;
    uint32_t q_stride;
    uint32_t kv_stride;
    uint32_t padding;
};

struct AttentionArgs {
    const StepHeader* step;
    const float* q;
    const void* k_pool;
    const void* v_pool;
    float* partials;
    uint32_t* arrivals;
    void* z;
    HeadCounts heads;
    uint32_t rows;
    uint32_t q_stride;
    uint32_t max_decode_items;
    uint32_t num_prefill_items;
    uint32_t z_element;
    uint32_t padding;
};

struct SwigluArgs {
    const float* gate;
    const float* up;
    void* activated;
    uint32_t rows;
    uint32_t width;
    uint32_t stride;
    uint32_t padding;
};

struct GatherArgs {
    const StepHeader* step;
    const void* from;
    void* to;
    uint32_t logit_rows;
    uint32_t hidden;
};

struct MatmulArgs {
    const void* x;
    const void* weight;
    const float* bias;
    float* out;
    uint32_t rows;
    uint32_t in_features;
    uint32_t out_features;
    uint32_t out_stride;
};

struct AskHeader {
    uint32_t kind;
    float temperature;
    double unit;
    uint32_t top_k;
    float top_p;
    float min_p;
    uint32_t padding;
};

struct LargestLogit {
    float logit;
    uint32_t token_id;
    uint32_t is_finite;
};

struct ChosenToken {
    uint32_t id;
    uint32_t is_finite;
    uint32_t is_decided;
};

struct SampleArgs {
    const AskHeader* asks;
    const float* logits;
    LargestLogit* largest;
    double* sums;
    uint32_t* counts;
    ChosenToken* tokens;
    uint32_t rows;
    uint32_t vocab_size;
};

// The same numbers stand in the tests of src/gpu/launch.rs.
static_assert(sizeof(PlanHeader) == 16, "PlanHeader");
static_assert(sizeof(StepHeader) == 184 && offsetof(StepHeader, max_blocks) == 152, "StepHeader");
static_assert(sizeof(EmbedArgs) == 32 && offsetof(EmbedArgs, rows) == 24, "EmbedArgs");
static_assert(sizeof(AddNormArgs) == 64 && offsetof(AddNormArgs, eps) == 56, "AddNormArgs");
static_assert(sizeof(HeadCounts) == 16, "HeadCounts");
static_assert(sizeof(RopeCacheArgs) == 88 && offsetof(RopeCacheArgs, heads) == 56, "RopeCacheArgs");
static_assert(sizeof(AttentionArgs) == 96 && offsetof(AttentionArgs, heads) == 56, "AttentionArgs");
static_assert(sizeof(SwigluArgs) == 40 && offsetof(SwigluArgs, rows) == 24, "SwigluArgs");
static_assert(sizeof(GatherArgs) == 32 && offsetof(GatherArgs, logit_rows) == 24, "GatherArgs");
static_assert(sizeof(MatmulArgs) == 48 && offsetof(MatmulArgs, rows) == 32, "MatmulArgs");
static_assert(sizeof(AskHeader) == 32 && offsetof(AskHeader, unit) == 8, "AskHeader");
static_assert(sizeof(LargestLogit) == 12, "LargestLogit");
static_assert(sizeof(ChosenToken) == 12, "ChosenToken");
static_assert(sizeof(SampleArgs) == 56 && offsetof(SampleArgs, rows) == 48, "SampleArgs");
