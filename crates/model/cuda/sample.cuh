// What the kernels that choose tokens share: weights to the bits of the CPU's, a row's largest logit, and the walk of a draw.
#pragma once

#include "args.cuh"
#include "device.cuh"

// Weights whose sum is made on its own, as in src/sampling/draw.rs.
constexpr uint32_t CHUNK = 64;

constexpr float INFINITE = __builtin_huge_valf();

DEVICE uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
DEVICE float float_of(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

// Where `exp_rn` is held below.
constexpr float LEAST_EXPONENT = -87.0f;

// e^x to the bits of `exp` in src/kernels/lanes.rs (Cephes `expf`), held at the ends outside -87..=88. Every operation here and
// below is one that nvcc leaves as it stands: it would join a product and a sum into one rounding of its own accord.
DEVICE float exp_rn(float x) {
    constexpr float ROUND = 12582912.0f;
    constexpr float LOG2_E = 1.44269504088896340736f;
    constexpr float LN2_HIGH = 355.0f / 512.0f;
    constexpr float LN2_LOW = -2.1219444e-4f;
    x = x < LEAST_EXPONENT ? LEAST_EXPONENT : x > 88.0f ? 88.0f : x;
    const float shifted = __fmaf_rn(x, LOG2_E, ROUND);
    const float n = __fadd_rn(shifted, -ROUND);
    const float r = __fmaf_rn(n, -LN2_LOW, __fmaf_rn(n, -LN2_HIGH, x));
    float poly = 1.9875691e-4f;
    poly = __fmaf_rn(poly, r, 1.3981999e-3f);
    poly = __fmaf_rn(poly, r, 8.333452e-3f);
    poly = __fmaf_rn(poly, r, 4.1665796e-2f);
    poly = __fmaf_rn(poly, r, 1.6666665e-1f);
    poly = __fmaf_rn(poly, r, 0.5f);
    const float power_of_two = float_of((bits_of(shifted) + 127) << 23);
    return __fmul_rn(__fadd_rn(__fmaf_rn(poly, __fmul_rn(r, r), r), 1.0f), power_of_two);
}

DEVICE bool is_finite(float x) { return fabsf(x) < INFINITE; }

// Minus infinity before anything was looked at.
DEVICE LargestLogit nothing() { return {-INFINITE, NONE, 1}; }

// Of equal logits the lower id; what is not a number is never the largest.
DEVICE LargestLogit larger(const LargestLogit& a, const LargestLogit& b) {
    const bool takes_b = b.logit > a.logit || (b.logit == a.logit && b.token_id < a.token_id);
    LargestLogit found = takes_b ? b : a;
    found.is_finite = a.is_finite & b.is_finite;
    return found;
}

// Over the lanes of a warp, in every lane.
DEVICE LargestLogit warp_largest(LargestLogit found) {
    for (int distance = WARP_SIZE / 2; distance > 0; distance /= 2) {
        const LargestLogit other = {__shfl_xor_sync(ALL_LANES, found.logit, distance),
                                    __shfl_xor_sync(ALL_LANES, found.token_id, distance),
                                    __shfl_xor_sync(ALL_LANES, found.is_finite, distance)};
        found = larger(found, other);
    }
    return found;
}

// The row's largest logit from its parts, in every thread of the block.
DEVICE LargestLogit row_largest(const SampleArgs& args, uint32_t row) {
    static_assert(SAMPLE_PARTS == WARP_SIZE, "a part a lane");
    SHARED(LargestLogit, shared);
    if (threadIdx.x < WARP_SIZE) {
        const LargestLogit found = warp_largest(args.largest[row * SAMPLE_PARTS + threadIdx.x]);
        if (threadIdx.x == 0) shared = found;
    }
    __syncthreads();
    return shared;
}

// The logarithm of a weight, which is not held at the end.
DEVICE float scaled(float logit, float largest, float scale) { return __fmul_rn(__fadd_rn(logit, -largest), scale); }

// As `weights` in src/kernels/logits.rs.
DEVICE float weight_of(float logit, float largest, float scale) {
    const float weight = exp_rn(scaled(logit, largest, scale));
    return logit == -INFINITE ? 0.0f : weight;
}

DEVICE uint32_t num_chunks(const SampleArgs& args) { return (args.vocab_size + CHUNK - 1) / CHUNK; }

// Weights above 0 are counted in bins by their upper bits, 32 bins an octave: what is heavier never lies in a lower bin.
constexpr uint32_t BIN_BITS = 18;

DEVICE uint32_t bin_of(float weight) { return min(bits_of(weight) >> BIN_BITS, SAMPLE_BINS - 1); }

// The chunk in which the draw falls; `rest` is lessened by what lies before it.
DEVICE uint32_t walk(const double* sums, uint32_t count, double& rest) {
    constexpr uint32_t AHEAD = 8;
    uint32_t chunk = 0;
    bool goes_on = true;
    while (goes_on && chunk + AHEAD < count) {
        // Made before any is looked at, so that a difference waits for nothing but the one before.
        double left[AHEAD + 1] = {rest};
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; ++i) left[i + 1] = __dadd_rn(left[i], -sums[chunk + i]);
        uint32_t taken = 0;
#pragma unroll
        for (uint32_t i = 0; i < AHEAD; ++i) {
            goes_on = goes_on && left[i] >= sums[chunk + i];
            if (goes_on) {
                rest = left[i + 1];
                taken = i + 1;
            }
        }
        chunk += taken;
    }
    while (goes_on && chunk + 1 < count && rest >= sums[chunk]) rest = __dadd_rn(rest, -sums[chunk++]);
    return chunk;
}
