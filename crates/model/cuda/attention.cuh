// What the attention kernels share: which query heads a block computes together, where keys and values lie, and attention over
// one chunk of positions for any shape.
#pragma once

#include "args.cuh"
#include "device.cuh"

constexpr uint32_t ATTENTION_WARPS = 4;
constexpr uint32_t ATTENTION_THREADS = ATTENTION_WARPS * WARP_SIZE;
// Query heads that a kernel computes together at most, and the largest head; src/gpu/launch/attention.rs has the same numbers.
constexpr uint32_t MAX_SET = 8;
constexpr uint32_t MAX_HEAD_DIM = 256;
using f32 = float;

constexpr float LOG2_E = 1.4426950408889634f;

// 2^x to 2 units in the last place; 0 for -inf and for results below the normal numbers.
DEVICE float exp2_approx(float x) {
#ifdef __CUDACC__
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
#else
    return x < -126.0f ? 0.0f : exp2f(x);
#endif
}

// What is made of q k^T before the softmax.
DEVICE float score_scale(const HeadCounts& heads) { return 1.0f / sqrtf(static_cast<float>(heads.head_dim)); }

// Query heads of one key and value head that a block computes together: keys and values are read once for all of them.
struct HeadSet {
    uint32_t kv_head;
    uint32_t first_head;
    uint32_t num_heads;
};

// Sets of at most `size` heads that a group is cut into.
DEVICE uint32_t sets_per_group(const HeadCounts& heads, uint32_t size) {
    return (heads.num_heads / heads.num_kv_heads + size - 1) / size;
}

// Set `idx` of all groups' sets.
DEVICE HeadSet head_set(const HeadCounts& heads, uint32_t idx, uint32_t size) {
    const uint32_t group = heads.num_heads / heads.num_kv_heads;
    const uint32_t sets = sets_per_group(heads, size);
    const uint32_t kv_head = idx / sets;
    const uint32_t skipped = idx % sets * size;
    const uint32_t rest = group - skipped;
    return {kv_head, kv_head * group + skipped, rest < size ? rest : size};
}

// Where the cache rows of one sequence and one key and value head lie.
struct CachePlaces {
    const uint32_t* block_table;
    uint32_t num_kv_heads;
    uint32_t kv_head;
    uint32_t block_size;
};

// The row of a pool, in rows of head_dim numbers, that holds a position.
DEVICE uint32_t place_of(const CachePlaces& cache, uint32_t position) {
    const uint32_t block = cache.block_table[position / cache.block_size];
    return (block * cache.num_kv_heads + cache.kv_head) * cache.block_size + position % cache.block_size;
}

DEVICE CachePlaces cache_places(const AttentionArgs& args, uint32_t row, uint32_t kv_head) {
    const StepHeader& step = *args.step;
    const uint32_t* table = step.block_tables + static_cast<size_t>(step.seqs[row]) * step.max_blocks;
    return {table, args.heads.num_kv_heads, kv_head, args.heads.block_size};
}

// Makes `exp(score - largest)` of the scores of a chunk, and leaves each head's largest score and its sum. Warps take heads; a
// head's sum is that of its lanes (positions lane, lane + 32, ..), so that its order depends on the positions alone.
template <uint32_t G>
DEVICE void exponentiate(float (&scores)[DECODE_CHUNK][G], uint32_t num_heads, uint32_t len, float* largest, float* sums) {
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    for (uint32_t head = threadIdx.x / WARP_SIZE; head < num_heads; head += ATTENTION_WARPS) {
        float most = -INFINITY;
        for (uint32_t i = lane; i < len; i += WARP_SIZE) most = fmaxf(most, scores[i][head]);
        most = warp_max(most);
        float sum = 0.0f;
        for (uint32_t i = lane; i < len; i += WARP_SIZE) {
            const float share = exp2_approx((scores[i][head] - most) * LOG2_E);
            scores[i][head] = share;
            sum += share;
        }
        sum = warp_sum(sum);
        if (lane == 0) {
            largest[head] = most;
            sums[head] = sum;
        }
    }
}

// Attention of one row over one chunk, in shared memory.
struct ChunkSpace {
    float q[MAX_SET][MAX_HEAD_DIM];
    float scores[DECODE_CHUNK][MAX_SET];
    uint32_t places[DECODE_CHUNK];
    float largest[MAX_SET];
    float sums[MAX_SET];
    // Sums of `exp(score - largest) * v`.
    float out[MAX_SET][MAX_HEAD_DIM];
};

// Any head size up to MAX_HEAD_DIM, any cache type, no alignment; right, not fast. A warp takes a position's key with its lanes
// along the head; a thread takes a number of the head along the values. Everybody sees `space` afterwards.
template <class C>
DEVICE void attend_chunk(const AttentionArgs& args, const HeadSet& set, uint32_t row, uint32_t first, uint32_t len,
                         ChunkSpace& space) {
    const uint32_t dim = args.heads.head_dim;
    const uint32_t lane = threadIdx.x % WARP_SIZE;
    const float* q = args.q + static_cast<size_t>(row) * args.q_stride + static_cast<size_t>(set.first_head) * dim;
    const float scale = score_scale(args.heads);
    const CachePlaces cache = cache_places(args, row, set.kv_head);
    __syncthreads();
    for (uint32_t i = threadIdx.x; i < set.num_heads * dim; i += ATTENTION_THREADS) space.q[i / dim][i % dim] = q[i] * scale;
    for (uint32_t i = threadIdx.x; i < len; i += ATTENTION_THREADS) space.places[i] = place_of(cache, first + i);
    __syncthreads();
    for (uint32_t i = threadIdx.x / WARP_SIZE; i < len; i += ATTENTION_WARPS) {
        const C* k = static_cast<const C*>(args.k_pool) + static_cast<size_t>(space.places[i]) * dim;
        for (uint32_t head = 0; head < set.num_heads; head++) {
            float score = 0.0f;
            for (uint32_t d = lane; d < dim; d += WARP_SIZE) score = fmaf(space.q[head][d], to_float(k[d]), score);
            score = warp_sum(score);
            if (lane == 0) space.scores[i][head] = score;
        }
    }
    __syncthreads();
    exponentiate(space.scores, set.num_heads, len, space.largest, space.sums);
    __syncthreads();
    for (uint32_t d = threadIdx.x; d < dim; d += ATTENTION_THREADS) {
        float out[MAX_SET] = {};
        for (uint32_t i = 0; i < len; i++) {
            const float v = to_float(static_cast<const C*>(args.v_pool)[static_cast<size_t>(space.places[i]) * dim + d]);
#pragma unroll
            for (uint32_t head = 0; head < MAX_SET; head++) {
                if (head < set.num_heads) out[head] = fmaf(space.scores[i][head], v, out[head]);
            }
        }
#pragma unroll
        for (uint32_t head = 0; head < MAX_SET; head++) space.out[head][d] = out[head];
    }
    __syncthreads();
}
