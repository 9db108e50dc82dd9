// Runs kernels: one fiber a thread of a block, in a chosen order, between the places where threads wait for each other.
//
// A warp runs until all of its lanes wait for the block or have ended, then the next warp does. So without a barrier that is
// needed, a warp sees nothing of what the later ones write, and in the other order everything.
//
// In the descending order a launch begins early, as if no kernel since the host's last command had ended: until all threads of a
// block wait for earlier kernels, what those wrote is poisoned, and nothing can be written.
#include "scheduler.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdio>
#include <memory>
#include <stdexcept>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "shim.h"

Index threadIdx, blockIdx, blockDim, gridDim;

void wait_for_earlier() { emulator::wait_for_earlier(); }

namespace emulator {
namespace {

constexpr size_t STACK_BYTES = 256 << 10;
constexpr size_t ARENA_BYTES = size_t{4} << 30;
// What a block may have at compute capability 9.0.
constexpr size_t MAX_SHARED_BYTES = 227 << 10;
// Between allocations, and behind the dynamic shared memory: bytes that must stay poisoned.
constexpr size_t GAP = 256;
constexpr unsigned char POISON = 0xFF;

enum class State { Ready, AtWarp, AtBlock, AtEarlier, Ended };

struct Copy {
    void* to;
    const void* from;
    bool there;
    uint32_t group;
};

struct Thread {
    ucontext_t context;
    jmp_buf point;
    std::unique_ptr<unsigned char[]> stack;
    bool started = false;
    State state = State::Ready;
    const char* operation = "";
    bool waited = false;
    uint32_t exchanges = 0;
    uint32_t groups = 0;
    std::vector<Copy> copies;
};

struct Warp {
    // Lanes are at most one exchange apart, so two sets of parts are enough.
    alignas(16) unsigned char parts[2][32 * PART];
};

const Kernel* kernels = nullptr;
const SharedArray* shared_arrays = nullptr;
std::vector<Thread> threads;
std::vector<Warp> warps;
jmp_buf scheduler_point;
Thread* current = nullptr;
const Kernel* running = nullptr;
const void* running_args = nullptr;
bool descending = false;
std::string place_of_failure;
alignas(128) unsigned char dynamic[MAX_SHARED_BYTES + GAP];
size_t dynamic_bytes = 0;

unsigned char* arena = nullptr;
size_t arena_used = 0;
std::vector<size_t> gaps;

struct Range {
    size_t start, size;
};
// Global memory as it was when the host was last here, and what kernels have changed of it since.
std::vector<unsigned char> settled;
bool is_settled = true;
std::vector<Range> unsettled;

// setjmp and longjmp change stacks without the system call that swapcontext makes.
void yield(State state) {
    current->state = state;
    if (_setjmp(current->point) == 0) _longjmp(scheduler_point, 1);
}

void fiber() {
    for (;;) {
        running->run(running_args);
        yield(State::Ended);
    }
}

void resume(uint32_t index) {
    current = &threads[index];
    threadIdx = {index, 0, 0};
    if (_setjmp(scheduler_point) != 0) return;
    if (current->started) _longjmp(current->point, 1);
    current->started = true;
    setcontext(&current->context);
}

void make_threads(uint32_t count) {
    if (threads.size() == count) return;
    threads.clear();
    threads.resize(count);
    warps.resize(count / 32);
    for (Thread& thread : threads) {
        thread.stack.reset(new unsigned char[STACK_BYTES]);
        getcontext(&thread.context);
        thread.context.uc_stack.ss_sp = thread.stack.get();
        thread.context.uc_stack.ss_size = STACK_BYTES;
        thread.context.uc_link = nullptr;
        makecontext(&thread.context, fiber, 0);
    }
}

// Runs a warp until its lanes wait for the block or have ended. Whether anything ran.
bool run_warp(uint32_t warp) {
    bool ran = false;
    for (;;) {
        uint32_t at_warp = 0;
        for (uint32_t i = 0; i < 32; i++) {
            const uint32_t index = 32 * warp + (descending ? 31 - i : i);
            if (threads[index].state == State::Ready) {
                resume(index);
                ran = true;
            }
            at_warp += threads[index].state == State::AtWarp;
        }
        if (at_warp == 0) return ran;
        if (at_warp != 32) fail("some lanes of a warp wait for others that do not come: they wait for the block or have ended");
        const Thread* lanes = &threads[32 * warp];
        for (uint32_t i = 0; i < 32; i++) {
            if (strcmp(lanes[i].operation, lanes[0].operation) != 0) fail("the lanes of a warp wait in different operations");
            threads[32 * warp + i].state = State::Ready;
        }
    }
}

void refuse_write(int) { fail("a write to global memory before the wait for earlier kernels, or to no memory at all"); }

void protect(bool protects) {
    if (mprotect(arena, arena_used, protects ? PROT_READ : PROT_READ | PROT_WRITE) != 0) fail("mprotect");
}

// Runs the block up to where it waits for earlier kernels.
void run_early() {
    std::vector<unsigned char> kept;
    for (const Range& range : unsettled) {
        kept.insert(kept.end(), arena + range.start, arena + range.start + range.size);
        memset(arena + range.start, POISON, range.size);
    }
    protect(true);
    for (uint32_t i = threads.size() / 32; i > 0; i--) run_warp(i - 1);
    protect(false);
    const unsigned char* from = kept.data();
    for (const Range& range : unsettled) {
        memcpy(arena + range.start, from, range.size);
        from += range.size;
    }
    for (Thread& thread : threads) {
        if (thread.state != State::AtEarlier) fail("a thread waits for its block before it waits for earlier kernels");
        thread.state = State::Ready;
    }
}

void run_block() {
    for (const SharedArray* array = shared_arrays; array; array = array->next) memset(array->start, POISON, array->size);
    memset(dynamic, POISON, dynamic_bytes + GAP);
    for (Thread& thread : threads) {
        thread.state = State::Ready;
        thread.groups = 0;
        thread.copies.clear();
    }
    if (descending) run_early();
    const uint32_t num_warps = threads.size() / 32;
    for (bool ran = true; ran;) {
        ran = false;
        for (uint32_t i = 0; i < num_warps; i++) ran |= run_warp(descending ? num_warps - 1 - i : i);
        for (Thread& thread : threads) {
            if (thread.state == State::AtBlock) thread.state = State::Ready;
        }
    }
    for (size_t i = 0; i < GAP; i++) {
        if (dynamic[dynamic_bytes + i] != POISON) fail("a write behind the dynamic shared memory");
    }
}

void run_grid(const Launch& launch) {
    const uint32_t *grid = launch.grid, blocks = grid[0] * grid[1] * grid[2];
    for (uint32_t i = 0; i < blocks; i++) {
        const uint32_t block = descending ? blocks - 1 - i : i;
        blockIdx = {block % grid[0], block / grid[0] % grid[1], block / grid[0] / grid[1]};
        run_block();
    }
    for (size_t gap : gaps) {
        for (size_t i = 0; i < GAP; i++) {
            if (arena[gap + i] != POISON) throw std::runtime_error(launch.kernel + ": a write behind a buffer");
        }
    }
}

const Kernel& find(const Launch& launch) {
    const Kernel* kernel = kernels;
    while (kernel && launch.kernel != kernel->name) kernel = kernel->next;
    if (!kernel) throw std::runtime_error("no kernel `" + launch.kernel + "`");
    const auto differs = [&](const char* what, size_t found, size_t expected) {
        if (found == expected) return;
        throw std::runtime_error(launch.kernel + ": " + what + " " + std::to_string(found) + ", expected " + std::to_string(expected));
    };
    differs("bytes of arguments", launch.args.size(), kernel->args_size);
    differs("threads", launch.block, kernel->threads);
    differs("threads beyond whole warps", kernel->threads % 32, 0);
    if (launch.shared_bytes > MAX_SHARED_BYTES) throw std::runtime_error(launch.kernel + ": too much shared memory");
    return *kernel;
}

}  // namespace

Kernel::Kernel(const char* name, size_t args_size, uint32_t threads, Run run)
    : name(name), args_size(args_size), threads(threads), run(run), next(kernels) {
    kernels = this;
}

SharedArray::SharedArray(void* start, size_t size)
    : start(static_cast<unsigned char*>(start)), size(size), next(shared_arrays) {
    shared_arrays = this;
    memset(start, POISON, size);
}

void fail(const char* what) {
    const Index& block = blockIdx;
    answer_failure(std::string(running->name) + ": " + what + " (block " + std::to_string(block.x) + " " + std::to_string(block.y) +
                   " " + std::to_string(block.z) + ", thread " + std::to_string(threadIdx.x) +
                   (descending ? ", descending)" : ", ascending)"));
}

void block_barrier() { yield(State::AtBlock); }

void begin_ahead() { current->waited = false; }

void end_ahead() {
    if (!current->waited) fail("a thread ends without having waited for earlier kernels");
}

void wait_for_earlier() {
    if (current->waited) return;
    current->waited = true;
    if (descending) yield(State::AtEarlier);
}

bool begins_early() { return descending; }

const unsigned char* exchange(const char* operation, const void* part, size_t size) {
    unsigned char* parts = warps[threadIdx.x / 32].parts[current->exchanges++ % 2];
    if (size > 0) memcpy(parts + PART * lane(), part, size);
    current->operation = operation;
    yield(State::AtWarp);
    return parts;
}

unsigned char* dynamic_shared() { return dynamic; }

bool is_shared(const void* place, size_t size) {
    const auto* start = static_cast<const unsigned char*>(place);
    for (const SharedArray* array = shared_arrays; array; array = array->next) {
        if (start >= array->start && start + size <= array->start + array->size) return true;
    }
    return start >= dynamic && start + size <= dynamic + dynamic_bytes;
}

bool is_global(const void* place, size_t size) {
    const auto* start = static_cast<const unsigned char*>(place);
    return start >= arena && start + size <= arena + arena_used;
}

static void copy(const Copy& copy) {
    if (copy.there) {
        memcpy(copy.to, copy.from, 16);
    } else {
        memset(copy.to, 0, 16);
    }
}

void async_copy(void* to, const void* from, bool there) {
    const Copy asked{to, from, there, current->groups};
    if (descending) {
        copy(asked);
    } else {
        current->copies.push_back(asked);
    }
}

void async_commit() { current->groups++; }

void async_wait(uint32_t pending) {
    std::vector<Copy> later;
    for (const Copy& asked : current->copies) {
        if (asked.group + pending < current->groups) {
            copy(asked);
        } else {
            later.push_back(asked);
        }
    }
    current->copies.swap(later);
}

uint64_t allocate(size_t num_bytes) {
    if (!arena) {
        void* mapped = mmap(nullptr, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (mapped == MAP_FAILED) throw std::runtime_error("no memory for the arena");
        arena = static_cast<unsigned char*>(mapped);
    }
    const size_t start = arena_used, with_gap = (num_bytes + GAP - 1) / GAP * GAP + GAP;
    if (num_bytes > ARENA_BYTES || start + with_gap > ARENA_BYTES) throw std::runtime_error("the arena is full");
    // The gap begins with the first byte that is not asked for.
    memset(arena + start, POISON, with_gap);
    gaps.push_back(start + num_bytes);
    arena_used += with_gap;
    return reinterpret_cast<uint64_t>(arena + start);
}

void* checked(uint64_t address, size_t num_bytes) {
    void* place = reinterpret_cast<void*>(address);
    if (!is_global(place, num_bytes)) throw std::runtime_error("a place outside global memory");
    return place;
}

void settle() { is_settled = true; }

// Finds what kernels have changed since the host was last here.
static void find_unsettled() {
    unsettled.clear();
    if (is_settled) {
        settled.assign(arena, arena + arena_used);
        is_settled = false;
    }
    for (size_t i = 0; i < arena_used; i++) {
        if (arena[i] == settled[i]) continue;
        if (!unsettled.empty() && unsettled.back().start + unsettled.back().size == i) {
            unsettled.back().size++;
        } else {
            unsettled.push_back({i, 1});
        }
    }
}

void launch(const Launch& launch) {
    const Kernel& kernel = find(launch);
    make_threads(launch.block);
    running = &kernel;
    // Aligned for any structure of arguments.
    std::vector<uint64_t> args((launch.args.size() + 7) / 8);
    memcpy(args.data(), launch.args.data(), launch.args.size());
    running_args = args.data();
    dynamic_bytes = launch.shared_bytes;
    gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
    blockDim = {launch.block, 1, 1};

    std::signal(SIGSEGV, refuse_write);
    find_unsettled();
    // Kept, so that a launch does not begin with fresh pages.
    static std::vector<unsigned char> before, other;
    before.assign(arena, arena + arena_used);
    descending = true;
    run_grid(launch);
    other.assign(arena, arena + arena_used);
    memcpy(arena, before.data(), arena_used);
    descending = false;
    run_grid(launch);
    if (memcmp(arena, other.data(), arena_used) == 0) return;
    const size_t byte = std::mismatch(arena, arena + arena_used, other.begin()).first - arena;
    throw std::runtime_error(launch.kernel + ": the order of threads decides what is at byte " + std::to_string(byte) +
                             " of global memory; a barrier is missing, two threads write one place, or one reads before it waits for earlier kernels");
}

}  // namespace emulator
