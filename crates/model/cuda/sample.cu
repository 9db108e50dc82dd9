// The next token of each row of logits, chosen as `decide` in src/sampling/ask.rs chooses: equal logits give the equal token.
// So the weights are rounded as on the CPU, and every sum has its order: 64 weights one after the other, then their sums.
//
// Four launches: `sample_largest` finds each row's largest logit in 32 parts; `sample_sums` weighs the rows of which a token is
// drawn, adds up each chunk, and counts the weights where some are left out; `sample_choose` puts the parts together and walks
// the chunks; `sample_filter` (sample_filter.cu) draws where some are left out. A row costs only what it asks for.
//
// Arithmetic, not measured, for a vocabulary of 128256: a row is 513 kB, read once (greedy) or twice (drawn), mostly from the L2
// cache where the product left it: 128 rows are 66 MB or 131 MB, 15 or 31 us at 4.3 TB/s. The walk is 2004 + at most 2004
// dependent additions of f64; at 8 cycles each and 1.7 GHz, 9 to 19 us, all rows at once.

#include "sample.cuh"

constexpr uint32_t THREADS = 256;
// Chunks of one block of `sample_sums`.
constexpr uint32_t BLOCK_CHUNKS = 64;

// Grid: parts, rows. The parts of a row clear its bins between them.
KERNEL(sample_largest, SampleArgs, THREADS) {
    constexpr uint32_t OWN_BINS = SAMPLE_BINS / SAMPLE_PARTS;
    static_assert(OWN_BINS <= THREADS, "a bin a thread");
    const uint32_t part = blockIdx.x, row = blockIdx.y, kind = args.asks[row].kind;
    if (kind == ASK_LOGITS) return;
    if (kind == ASK_FILTERED && threadIdx.x < OWN_BINS) {
        args.counts[row * SAMPLE_BINS + part * OWN_BINS + threadIdx.x] = 0;
    }
    const float* logits = args.logits + static_cast<size_t>(row) * args.vocab_size;
    const uint32_t size = (args.vocab_size + SAMPLE_PARTS - 1) / SAMPLE_PARTS;
    const uint32_t end = min((part + 1) * size, args.vocab_size);
    LargestLogit found = nothing();
#pragma unroll 4
    for (uint32_t id = part * size + threadIdx.x; id < end; id += THREADS) {
        const float logit = logits[id];
        found = larger(found, {logit, id, is_finite(logit) ? 1u : 0u});
    }
    SHARED(LargestLogit[THREADS / WARP_SIZE], of_warps);
    found = warp_largest(found);
    if (threadIdx.x % WARP_SIZE == 0) of_warps[threadIdx.x / WARP_SIZE] = found;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (uint32_t warp = 1; warp < THREADS / WARP_SIZE; ++warp) found = larger(found, of_warps[warp]);
    args.largest[row * SAMPLE_PARTS + part] = found;
}

// Counts the block's weights above 0 in the row's bins. `weights` lie as in `sample_sums`.
DEVICE void count_weights(const float* weights, uint32_t size, uint32_t* counts) {
    SHARED(uint32_t[SAMPLE_BINS], counted);
    for (uint32_t bin = threadIdx.x; bin < SAMPLE_BINS; bin += THREADS) counted[bin] = 0;
    __syncthreads();
    // At low temperatures most weights are the least, and would all wait for one place.
    const uint32_t least = bin_of(exp_rn(LEAST_EXPONENT));
    uint32_t num_least = 0;
    for (uint32_t i = threadIdx.x; i < size; i += THREADS) {
        const float weight = weights[i / CHUNK * (CHUNK + 1) + i % CHUNK];
        if (!(weight > 0.0f)) continue;
        const uint32_t bin = bin_of(weight);
        if (bin == least) {
            ++num_least;
        } else {
            atomicAdd(&counted[bin], 1u);
        }
    }
    if (num_least > 0) atomicAdd(&counted[least], num_least);
    __syncthreads();
    for (uint32_t bin = threadIdx.x; bin < SAMPLE_BINS; bin += THREADS) {
        if (counted[bin] > 0) atomicAdd(&counts[bin], counted[bin]);
    }
}

// Grid: chunks in parts of BLOCK_CHUNKS, rows.
KERNEL(sample_sums, SampleArgs, THREADS) {
    // One more a chunk, so that threads with a chunk each read from different banks.
    SHARED(float[BLOCK_CHUNKS * (CHUNK + 1)], weights);
    const uint32_t row = blockIdx.y;
    const AskHeader ask = args.asks[row];
    if (ask.kind < ASK_DRAW) return;
    const LargestLogit largest = row_largest(args, row);
    const float scale = __fdiv_rn(1.0f, ask.temperature);
    const float* logits = args.logits + static_cast<size_t>(row) * args.vocab_size;
    const uint32_t first_chunk = blockIdx.x * BLOCK_CHUNKS, first = first_chunk * CHUNK;
    const uint32_t size = min(BLOCK_CHUNKS * CHUNK, args.vocab_size - first);
#pragma unroll 4
    for (uint32_t i = threadIdx.x; i < size; i += THREADS) {
        weights[i / CHUNK * (CHUNK + 1) + i % CHUNK] =
            weight_of(logits[first + i], largest.logit, scale);
    }
    __syncthreads();
    if (ask.kind == ASK_FILTERED) count_weights(weights, size, args.counts + row * SAMPLE_BINS);
    const uint32_t chunk = threadIdx.x;
    if (chunk * CHUNK >= size) return;
    const float* own = weights + chunk * (CHUNK + 1);
    const uint32_t length = min(CHUNK, size - chunk * CHUNK);
    double sum = 0.0;
    for (uint32_t i = 0; i < length; ++i) sum = __dadd_rn(sum, own[i]);
    args.sums[static_cast<size_t>(row) * num_chunks(args) + first_chunk + chunk] = sum;
}

// The token that the row's number draws; only thread 0 knows it. `sums` has room for all chunks of the row.
DEVICE uint32_t draw(const SampleArgs& args, uint32_t row, const LargestLogit& largest, double* sums) {
    SHARED(uint32_t, drawn_chunk);
    SHARED(float[CHUNK], weights);
    const AskHeader ask = args.asks[row];
    const float scale = __fdiv_rn(1.0f, ask.temperature);
    const float* logits = args.logits + static_cast<size_t>(row) * args.vocab_size;
    const uint32_t count = num_chunks(args);
    for (uint32_t chunk = threadIdx.x; chunk < count; chunk += THREADS) {
        sums[chunk] = args.sums[static_cast<size_t>(row) * count + chunk];
    }
    __syncthreads();
    double rest = 0.0;
    if (threadIdx.x == 0) {
        double total = 0.0;
#pragma unroll 8
        for (uint32_t chunk = 0; chunk < count; ++chunk) total = __dadd_rn(total, sums[chunk]);
        rest = __dmul_rn(ask.unit, total);
        drawn_chunk = walk(sums, count, rest);
    }
    __syncthreads();
    const uint32_t first = drawn_chunk * CHUNK, length = min(CHUNK, args.vocab_size - first);
    if (threadIdx.x < length) {
        weights[threadIdx.x] = weight_of(logits[first + threadIdx.x], largest.logit, scale);
    }
    __syncthreads();
    if (threadIdx.x > 0) return NONE;
    for (uint32_t i = 0; i < length; ++i) {
        rest = __dadd_rn(rest, -static_cast<double>(weights[i]));
        if (rest < 0.0) return first + i;
    }
    // Rounding may leave a crumb behind the last one that weighs anything.
    for (uint32_t id = first + length; id-- > 0;) {
        if (weight_of(logits[id], largest.logit, scale) > 0.0f) return id;
    }
    return largest.token_id;
}

// Grid: rows. Shared memory: 8 bytes a chunk.
KERNEL(sample_choose, SampleArgs, THREADS) {
    DYNAMIC_SHARED(double, sums);
    const uint32_t row = blockIdx.x, kind = args.asks[row].kind;
    if (kind != ASK_GREEDY && kind != ASK_DRAW) return;
    const LargestLogit largest = row_largest(args, row);
    uint32_t id = largest.token_id;
    if (!largest.is_finite) {
        id = 0;
    } else if (kind == ASK_DRAW) {
        id = draw(args, row, largest, sums);
    }
    if (threadIdx.x == 0) args.tokens[row] = {id, largest.is_finite, 1};
}
