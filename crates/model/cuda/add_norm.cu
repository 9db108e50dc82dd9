// Residual sum with steering, captures and the live probe's sample, then RMS norm: a block a row, the row in registers.
//
// What waits for what, at one row: the header, the row's plan, its slot, the vector; beside them the norm's weight, x and h. A
// kernel that begins early has all but x and h while the one before is still at work. An added vector costs no barrier: what is measured of it is
// summed with the norm's squares. Sums have a fixed order: a thread's numbers, the lanes of a warp pair by pair, the warps in
// order. It depends on `hidden` alone.
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

// A row's vector in this layer, and what is done with it.
struct Steering {
    // None where the row is left alone.
    const float* vector;
    float strength;
    uint32_t op;
};

// What the step asks of this block's row. It came with the step, so it is read ahead.
struct Asked {
    Steering steering;
    // Whether the live probe looks at the row.
    bool is_sampled;
    bool captures_before, captures_after;
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

DEVICE Asked find_asked(const StepHeader& step, const AddNormArgs& args) {
    const bool captures = step.num_captures > 0, after = step.captures_after != 0;
    return {find_steering(step, args), step.sample_rows[place_of(step, args)] == blockIdx.x, captures && !after, captures && after};
}

// Changes the row by its plan (arXiv 2410.01174, Eq. 2; arXiv 2406.11717), and returns the vector's factor.
template <class Row>
DEVICE float steer(Row& h, const Row& v, const Steering& steering) {
    SHARED(float[3][WARPS], shared);
    SHARED(float[1][WARPS], shared_after);
    float factor = steering.strength, before = 0.0f;
    if (steering.op != OPERATOR_ADD) {
        float sums[3] = {h.dot(h), v.dot(v), h.dot(v)};
        block_sums(sums, shared);
        before = sqrtf(sums[0]);
        // A vector of zeros has no direction: nothing lies along it.
        if (steering.op == OPERATOR_PROJECT_OUT) factor = -factor * sums[2] / fmaxf(sums[1], FLT_MIN);
    }
    h.change(v, [&](float h, float v) { return fmaf(factor, v, h); });
    if (steering.op == OPERATOR_ADD_NORM_RESTORED) {
        float after[1] = {h.dot(h)};
        block_sums(after, shared_after);
        const float restore = before / fmaxf(sqrtf(after[0]), FLT_MIN);
        h.change(h, [&](float h, float) { return h * restore; });
    }
    return factor;
}

// Copies the row to wherever captures want it.
template <class Row>
DEVICE void capture(const AddNormArgs& args, const Row& at_hook) {
    const StepHeader& step = *args.step;
    for (uint32_t capture = 0; capture < step.num_captures; capture++) {
        const uint32_t start = step.capture_starts[static_cast<size_t>(capture) * 2 * step.num_layers + place_of(step, args)];
        const uint32_t row = step.capture_rows[static_cast<size_t>(capture) * args.rows + blockIdx.x];
        if (start == NONE || row == NONE) continue;
        at_hook.store(step.captured + (static_cast<size_t>(start) + row) * args.hidden, args.hidden);
    }
}

// Makes x the residual stream that goes on. `evidence`: a thread's part of h.h before steering and of v.v, and the factor.
template <class Row>
DEVICE void add(const AddNormArgs& args, const Asked& asked, const Row& v, Row& x, Row& h, float (&evidence)[3]) {
    const uint32_t hidden = args.hidden;
    const bool at_attn_out = args.site == SITE_ATTN_OUT;
    if (!at_attn_out) h.change(x, [](float h, float x) { return x + h; });
    float* samples = nullptr;
    if (asked.is_sampled) {
        samples = args.step->samples + place_of(*args.step, args) * SAMPLE_ROWS * hidden;
        h.store(samples, hidden);
        if (!at_attn_out) x.change(x, [](float, float) { return 0.0f; });
        x.store(samples + hidden, hidden);
        const float* vector = asked.steering.vector;
#pragma unroll 1
        for (uint32_t i = threadIdx.x; i < hidden; i += THREADS) {
            samples[3 * static_cast<size_t>(hidden) + i] = vector != nullptr ? vector[i] : 0.0f;
        }
    }
    if (asked.captures_before) capture(args, h);
    if (asked.steering.vector != nullptr) {
        evidence[0] = h.dot(h), evidence[1] = v.dot(v);
        evidence[2] = steer(h, v, asked.steering);
    }
    if (asked.captures_after) capture(args, h);
    if (at_attn_out) {
        x.change(h, [](float x, float h) { return x + h; });
    } else {
        x = h;
    }
    if (asked.is_sampled) x.store(samples + 2 * static_cast<size_t>(hidden), hidden);
}

// x.x over the block. A steered row's evidence is summed beside it: its largest `||delta|| / ||h||` so far, `largest`, may grow.
DEVICE float sum_squares(const AddNormArgs& args, float square, bool steers, const float (&evidence)[3], float largest) {
    SHARED(float[3][WARPS], shared);
    SHARED(float[1][WARPS], shared_alone);
    if (!steers) {
        float sums[1] = {square};
        block_sums(sums, shared_alone);
        return sums[0];
    }
    float sums[3] = {square, evidence[0], evidence[1]};
    block_sums(sums, shared);
    if (threadIdx.x == 0) {
        const float relative_norm = fabsf(evidence[2]) * sqrtf(sums[2]) / fmaxf(sqrtf(sums[1]), FLT_MIN);
        args.step->relative_norms[blockIdx.x] = fmaxf(largest, relative_norm);
    }
    return sums[0];
}

// Grid: rows.
template <class T, uint32_t width, uint32_t count>
DEVICE void add_norm(const AddNormArgs& args, bool begins_early) {
    const uint32_t hidden = args.hidden;
    const size_t start = static_cast<size_t>(blockIdx.x) * hidden;
    // Registers for weight and vector beside x and h, as long as there are enough: they are here when the sum is.
    constexpr bool holds_all = width * count <= 32;
    Part<width, count> x, h, weight, v;
    Asked asked{};
    const auto find = [&] {
        if (args.h != nullptr) asked = find_asked(*args.step, args);
        if constexpr (holds_all) {
            weight.load(args.weight, hidden);
            if (asked.steering.vector != nullptr) v.load(asked.steering.vector, hidden);
        }
    };
    if (begins_early) find();
    wait_for_earlier();
    x.load(args.x + start, hidden);
    if (args.h != nullptr) h.load(args.h + start, hidden);
    if (!begins_early) find();
    const bool steers = asked.steering.vector != nullptr;
    float evidence[3] = {}, largest = 0.0f;
    if (args.h != nullptr) {
        if (steers) largest = args.step->relative_norms[blockIdx.x];
        if (!holds_all && steers) v.load(asked.steering.vector, hidden);
        add(args, asked, v, x, h, evidence);
        x.store(args.x + start, hidden);
    }
    if constexpr (!holds_all) weight.load(args.weight, hidden);
    const float sum = sum_squares(args, x.dot(x), steers, evidence, largest);
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(hidden) + args.eps);
    x.change(weight, [&](float x, float weight) { return x * scale * weight; });
    x.store(static_cast<T*>(args.normed) + start, hidden);
}

// The number is of numbers a thread: `hidden` is at most THREADS of that. `any` has 32, for one that is no multiple of 4.
#define ADD_NORM(T, name)                                                             \
    KERNEL_AHEAD(add_norm_##name##_4, AddNormArgs, THREADS) { add_norm<T, 4, 1>(args, begins_early); }    \
    KERNEL_AHEAD(add_norm_##name##_8, AddNormArgs, THREADS) { add_norm<T, 4, 2>(args, begins_early); }    \
    KERNEL_AHEAD(add_norm_##name##_16, AddNormArgs, THREADS) { add_norm<T, 4, 4>(args, begins_early); }   \
    KERNEL_AHEAD(add_norm_##name##_32, AddNormArgs, THREADS) { add_norm<T, 4, 8>(args, begins_early); }   \
    KERNEL_AHEAD(add_norm_##name##_64, AddNormArgs, THREADS) { add_norm<T, 4, 16>(args, begins_early); }  \
    KERNEL_AHEAD(add_norm_##name##_any, AddNormArgs, THREADS) { add_norm<T, 1, 32>(args, begins_early); }
ADD_NORM(float, f32)
ADD_NORM(f16, f16)
ADD_NORM(bf16, bf16)
