// Residual sum with steering, captures and the live probe's sample, then RMS norm: a block a row, the row in registers.
//
// What waits for what, at one row: x, h and the norm's weight at once; the header, the row's plan, its slot, the vector. Sums
// have a fixed order: a thread's numbers, the lanes of a warp pair by pair, the warps in order. It depends on `hidden` alone.
#include <cfloat>

#include "args.cuh"
#include "device.cuh"

constexpr uint32_t THREADS = 256;
constexpr uint32_t WARPS = THREADS / WARP_SIZE;

// A thread's part of a row: `count` pieces of `width` adjacent numbers, pieces of a block side by side; zeros past the end.
template <uint32_t width, uint32_t count>
struct Part {
    float at[count][width];

    static DEVICE_MEMBER uint32_t place(uint32_t piece) { return (piece * THREADS + threadIdx.x) * width; }

    DEVICE_MEMBER void load(const float* row, uint32_t hidden) {
#pragma unroll
        for (uint32_t piece = 0; piece < count; piece++) {
            const uint32_t i = place(piece);
            if constexpr (width == 4) {
                const float4 four = i < hidden ? load4(row + i) : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
                at[piece][0] = four.x, at[piece][1] = four.y, at[piece][2] = four.z, at[piece][3] = four.w;
            } else {
                at[piece][0] = i < hidden ? row[i] : 0.0f;
            }
        }
    }

    template <class T>
    DEVICE_MEMBER void store(T* row, uint32_t hidden) const {
#pragma unroll
        for (uint32_t piece = 0; piece < count; piece++) {
            const uint32_t i = place(piece);
            if (i >= hidden) continue;
            if constexpr (width == 4) {
                store4(row + i, make_float4(at[piece][0], at[piece][1], at[piece][2], at[piece][3]));
            } else {
                row[i] = from_float<T>(at[piece][0]);
            }
        }
    }

    // Puts `change(own number, other's number)` in the place of each own number.
    template <class F>
    DEVICE_MEMBER void change(const Part& other, F change) {
#pragma unroll
        for (uint32_t piece = 0; piece < count; piece++) {
#pragma unroll
            for (uint32_t n = 0; n < width; n++) at[piece][n] = change(at[piece][n], other.at[piece][n]);
        }
    }

    DEVICE_MEMBER float dot(const Part& other) const {
        float sum = 0.0f;
#pragma unroll
        for (uint32_t piece = 0; piece < count; piece++) {
#pragma unroll
            for (uint32_t n = 0; n < width; n++) sum = fmaf(at[piece][n], other.at[piece][n], sum);
        }
        return sum;
    }
};

// Sums over the block, in every thread. `shared` is not used for other sums of the launch, which saves a barrier.
template <uint32_t count>
DEVICE void block_sums(float (&sums)[count], float (&shared)[count][WARPS]) {
#pragma unroll
    for (uint32_t i = 0; i < count; i++) {
        sums[i] = warp_sum(sums[i]);
        if (threadIdx.x % WARP_SIZE == 0) shared[i][threadIdx.x / WARP_SIZE] = sums[i];
    }
    __syncthreads();
#pragma unroll
    for (uint32_t i = 0; i < count; i++) {
        sums[i] = 0.0f;
#pragma unroll
        for (uint32_t warp = 0; warp < WARPS; warp++) sums[i] += shared[i][warp];
    }
}

struct Steering {
    // None where the row is left alone.
    const float* vector;
    float strength;
    uint32_t op;
};

// Index of the site and layer where there is one thing a site and layer.
DEVICE size_t place_of(const StepHeader& step, const AddNormArgs& args) {
    return static_cast<size_t>(args.site) * step.num_layers + args.layer;
}

DEVICE Steering find_steering(const StepHeader& step, const AddNormArgs& args) {
    const uint32_t index = step.row_plans[blockIdx.x];
    if (index == NONE) return {};
    const PlanHeader plan = step.plans[index];
    const uint32_t slot = step.plan_slots[static_cast<size_t>(index) * step.num_layers + args.layer];
    if (plan.site != args.site || slot == 0) return {};
    const float* vector = step.table + (place_of(step, args) * step.num_slots + slot) * args.hidden;
    return {vector, plan.strength, plan.op};
}

// Changes the row by its plan (arXiv 2410.01174, Eq. 2; arXiv 2406.11717) and returns `||delta|| / ||h||`.
template <class Row>
DEVICE float steer(Row& h, const Steering& steering, uint32_t hidden) {
    SHARED(float[3][WARPS], shared);
    SHARED(float[1][WARPS], shared_after);
    Row v;
    v.load(steering.vector, hidden);
    float sums[3] = {h.dot(h), v.dot(v), h.dot(v)};
    block_sums(sums, shared);
    const float h_norm = sqrtf(sums[0]);
    float factor = steering.strength;
    // A vector of zeros has no direction: nothing lies along it.
    if (steering.op == OPERATOR_PROJECT_OUT) factor = -factor * sums[2] / fmaxf(sums[1], FLT_MIN);
    h.change(v, [&](float h, float v) { return fmaf(factor, v, h); });
    if (steering.op == OPERATOR_ADD_NORM_RESTORED) {
        float after[1] = {h.dot(h)};
        block_sums(after, shared_after);
        const float restore = h_norm / fmaxf(sqrtf(after[0]), FLT_MIN);
        h.change(h, [&](float h, float) { return h * restore; });
    }
    return fabsf(factor) * sqrtf(sums[1]) / fmaxf(h_norm, FLT_MIN);
}

// Copies the row to wherever captures want it.
template <class Row>
DEVICE void capture(const StepHeader& step, const AddNormArgs& args, const Row& at_hook) {
    for (uint32_t capture = 0; capture < step.num_captures; capture++) {
        const uint32_t start = step.capture_starts[static_cast<size_t>(capture) * 2 * step.num_layers + place_of(step, args)];
        const uint32_t row = step.capture_rows[static_cast<size_t>(capture) * args.rows + blockIdx.x];
        if (start == NONE || row == NONE) continue;
        at_hook.store(step.captured + (static_cast<size_t>(start) + row) * args.hidden, args.hidden);
    }
}

// Makes x the residual stream that goes on.
template <class Row>
DEVICE void add(const AddNormArgs& args, Row& x, Row& h) {
    const StepHeader& step = *args.step;
    const uint32_t hidden = args.hidden;
    const bool at_attn_out = args.site == SITE_ATTN_OUT;
    const Steering steering = find_steering(step, args);
    const auto sum = [](float x, float h) { return x + h; };
    if (!at_attn_out) h.change(x, [](float h, float x) { return x + h; });

    float* samples = nullptr;
    if (step.sample_rows[place_of(step, args)] == blockIdx.x) {
        samples = step.samples + place_of(step, args) * SAMPLE_ROWS * hidden;
        h.store(samples, hidden);
        if (!at_attn_out) x.change(x, [](float, float) { return 0.0f; });
        x.store(samples + hidden, hidden);
        Row v{};
        if (steering.vector != nullptr) v.load(steering.vector, hidden);
        v.store(samples + 3 * static_cast<size_t>(hidden), hidden);
    }
    if (!step.captures_after) capture(step, args, h);
    if (steering.vector != nullptr) {
        const float relative_norm = steer(h, steering, hidden);
        float* largest = step.relative_norms + blockIdx.x;
        if (threadIdx.x == 0) *largest = fmaxf(*largest, relative_norm);
    }
    if (step.captures_after) capture(step, args, h);
    if (at_attn_out) {
        x.change(h, sum);
    } else {
        x = h;
    }
    if (samples != nullptr) x.store(samples + 2 * static_cast<size_t>(hidden), hidden);
}

// Grid: rows.
template <class T, uint32_t width, uint32_t count>
DEVICE void add_norm(const AddNormArgs& args) {
    SHARED(float[1][WARPS], shared);
    const uint32_t hidden = args.hidden;
    const size_t start = static_cast<size_t>(blockIdx.x) * hidden;
    // Registers for the weight too, as long as there are enough: then it is here when the sum is.
    constexpr bool early = width * count <= 32;
    Part<width, count> x, weight;
    x.load(args.x + start, hidden);
    if constexpr (early) weight.load(args.weight, hidden);
    if (args.h != nullptr) {
        Part<width, count> h;
        h.load(args.h + start, hidden);
        add(args, x, h);
        x.store(args.x + start, hidden);
    }
    if constexpr (!early) weight.load(args.weight, hidden);
    float square[1] = {x.dot(x)};
    block_sums(square, shared);
    const float scale = 1.0f / sqrtf(square[0] / static_cast<float>(hidden) + args.eps);
    x.change(weight, [&](float x, float weight) { return x * scale * weight; });
    x.store(static_cast<T*>(args.normed) + start, hidden);
}

// The number is of numbers a thread: `hidden` is at most THREADS of that. `any` has 32, for one that is no multiple of 4.
#define ADD_NORM(T, name)                                                             \
    KERNEL(add_norm_##name##_4, AddNormArgs, THREADS) { add_norm<T, 4, 1>(args); }    \
    KERNEL(add_norm_##name##_8, AddNormArgs, THREADS) { add_norm<T, 4, 2>(args); }    \
    KERNEL(add_norm_##name##_16, AddNormArgs, THREADS) { add_norm<T, 4, 4>(args); }   \
    KERNEL(add_norm_##name##_32, AddNormArgs, THREADS) { add_norm<T, 4, 8>(args); }   \
    KERNEL(add_norm_##name##_64, AddNormArgs, THREADS) { add_norm<T, 4, 16>(args); }  \
    KERNEL(add_norm_##name##_any, AddNormArgs, THREADS) { add_norm<T, 1, 32>(args); }
ADD_NORM(float, f32)
ADD_NORM(f16, f16)
ADD_NORM(bf16, bf16)
