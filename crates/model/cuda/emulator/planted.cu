// Kernels for the emulator's own tests: layouts and conversions as the PTX ISA says, and faults that it must find.
#include "../device.cuh"

struct CheckArgs {
    const void* from;
    void* to;
    uint32_t count;
    uint32_t padding;
};

// Each thread leaves a number and reads that of the next; without the barrier it depends on who came first.
template <bool with_barrier>
DEVICE void pass_on(const CheckArgs& args) {
    SHARED(uint32_t[64], left);
    const uint32_t thread = threadIdx.x;
    left[thread] = thread + 1;
    if (with_barrier) __syncthreads();
    static_cast<uint32_t*>(args.to)[thread] = left[(thread + 32) % 64];
}
KERNEL(planted_barrier, CheckArgs, 64) { pass_on<true>(args); }
KERNEL(planted_no_barrier, CheckArgs, 64) { pass_on<false>(args); }

// Waits for a copy, or reads what may not have come.
template <bool with_wait>
DEVICE void copy_through(const CheckArgs& args) {
    DYNAMIC_SHARED(uint4, copied);
    const uint32_t thread = threadIdx.x;
    cp_async_16(&copied[thread], static_cast<const uint4*>(args.from) + thread, thread < args.count);
    cp_async_commit();
    if (with_wait) cp_async_wait<0>();
    store_vector(static_cast<uint4*>(args.to) + thread, copied[thread]);
}
KERNEL(planted_wait, CheckArgs, 32) { copy_through<true>(args); }
KERNEL(planted_no_wait, CheckArgs, 32) { copy_through<false>(args); }

// Half of the lanes ask for a sum that all must ask for.
KERNEL(planted_lanes, CheckArgs, 32) {
    const float sum = threadIdx.x < 16 ? warp_sum(1.0f) : 0.0f;
    static_cast<float*>(args.to)[threadIdx.x] = sum;
}

// A vector load one number off.
KERNEL(planted_unaligned, CheckArgs, 32) {
    store_vector(args.to, load_vector<float4>(static_cast<const float*>(args.from) + 1));
}

// Writes one number more than there is room for.
KERNEL(planted_overrun, CheckArgs, 32) {
    if (threadIdx.x == 0) static_cast<uint32_t*>(args.to)[args.count] = 0;
}

// What is in shared memory before this block has written to it.
KERNEL(planted_stale, CheckArgs, 32) {
    SHARED(uint32_t[32], counted);
    static_cast<uint32_t*>(args.to)[32 * blockIdx.x + threadIdx.x] = counted[threadIdx.x];
    counted[threadIdx.x] = 7;
}

// Hands a number on to the next kernel like it, which reads it before the wait or behind it.
template <bool early>
DEVICE void hand_on(const CheckArgs& args) {
    auto* numbers = static_cast<uint32_t*>(args.to);
    uint32_t number = early ? numbers[0] : 0;
    wait_for_earlier();
    if (!early) number = numbers[0];
    __syncthreads();
    if (threadIdx.x == 0) numbers[0] = number + 1;
}
KERNEL_AHEAD(planted_early_read, CheckArgs, 32) { hand_on<true>(args); }
KERNEL_AHEAD(planted_late_read, CheckArgs, 32) { hand_on<false>(args); }

KERNEL_AHEAD(planted_early_write, CheckArgs, 32) {
    static_cast<uint32_t*>(args.to)[threadIdx.x] = 1;
    wait_for_earlier();
}

// All threads but one wait for earlier kernels.
KERNEL_AHEAD(planted_no_wait_for_earlier, CheckArgs, 32) {
    if (threadIdx.x == 7) return;
    wait_for_earlier();
}

template <class T>
DEVICE void convert(const CheckArgs& args) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i < args.count) static_cast<T*>(args.to)[i] = from_float<T>(static_cast<const float*>(args.from)[i]);
}
KERNEL(check_to_f16, CheckArgs, 256) { convert<f16>(args); }
KERNEL(check_to_bf16, CheckArgs, 256) { convert<bf16>(args); }

template <class T>
DEVICE void convert_back(const CheckArgs& args) {
    const uint32_t i = blockIdx.x * 256 + threadIdx.x;
    if (i < args.count) static_cast<float*>(args.to)[i] = to_float(static_cast<const T*>(args.from)[i]);
}
KERNEL(check_from_f16, CheckArgs, 256) { convert_back<f16>(args); }
KERNEL(check_from_bf16, CheckArgs, 256) { convert_back<bf16>(args); }

// d[16][8] of a[16][16] and b[16][8], all f32 in memory: each number goes to the lane and place that the PTX ISA's formulas give.
template <class T>
DEVICE void multiply(const CheckArgs& args) {
    const auto* a = static_cast<const float*>(args.from);
    const float* b = a + 16 * 16;
    auto* d = static_cast<float*>(args.to);
    const uint32_t group = threadIdx.x >> 2, in_group = threadIdx.x % 4;
    T a_parts[8], b_parts[4];
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
        const uint32_t column = in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0);
        a_parts[i] = from_float<T>(a[16 * row + column]);
    }
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t row = in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0);
        b_parts[i] = from_float<T>(b[8 * row + group]);
    }
    uint32_t a_registers[4], b_registers[2];
    memcpy(a_registers, a_parts, sizeof a_registers);
    memcpy(b_registers, b_parts, sizeof b_registers);
    float parts[4] = {};
    mma_16816<T>(parts, a_registers, b_registers);
    for (uint32_t i = 0; i < 4; i++) d[8 * (i < 2 ? group : group + 8) + in_group * 2 + (i & 1)] = parts[i];
}
KERNEL(check_mma_f16, CheckArgs, 32) { multiply<f16>(args); }
KERNEL(check_mma_bf16, CheckArgs, 32) { multiply<bf16>(args); }

// Four 8x8 matrices of 16-bit numbers, rows after rows: what each lane gets, 4 registers a lane.
template <bool transposed>
DEVICE void fragments(const CheckArgs& args) {
    SHARED(uint4[32], rows);
    rows[threadIdx.x] = load_vector<uint4>(static_cast<const uint4*>(args.from) + threadIdx.x);
    __syncwarp();
    uint32_t matrices[4];
    if (transposed) {
        ldmatrix_x4_trans(matrices, &rows[threadIdx.x]);
    } else {
        ldmatrix_x4(matrices, &rows[threadIdx.x]);
    }
    memcpy(static_cast<uint32_t*>(args.to) + 4 * threadIdx.x, matrices, sizeof matrices);
}
KERNEL(check_ldmatrix, CheckArgs, 32) { fragments<false>(args); }
KERNEL(check_ldmatrix_trans, CheckArgs, 32) { fragments<true>(args); }
