// Global memory of the emulated device, and launches on it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace emulator {

struct Launch {
    std::string kernel;
    uint32_t grid[3];
    uint32_t block;
    uint32_t shared_bytes;
    std::string args;
};

// What does not work out throws a std::runtime_error; `fail` inside a kernel ends the program.
uint64_t allocate(size_t num_bytes);
void* checked(uint64_t address, size_t num_bytes);
// The host reads or writes: all kernels before have ended, and none after may begin before that is done.
void settle();
// Runs all blocks twice on the same memory: blocks, warps and lanes ascending, and descending. Both must leave the same bytes.
void launch(const Launch& launch);
// Answers with the failure and ends the program.
[[noreturn]] void answer_failure(const std::string& what);

}  // namespace emulator
