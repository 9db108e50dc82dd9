// A device on stdin and stdout. A request is a line of words, and bytes where it says how many; so is the answer.
//
//     alloc BYTES                                                 -> ok 8, the address
//     write ADDRESS BYTES, bytes                                  -> ok 0
//     read ADDRESS BYTES                                          -> ok BYTES, bytes
//     clear ADDRESS BYTES                                         -> ok 0
//     launch KERNEL X Y Z THREADS SHARED_BYTES BYTES, arguments   -> ok 0
//
// Numbers are decimal; the address comes as 8 bytes, least first. What fails is answered by `error BYTES` and a text.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "scheduler.h"

namespace {

void answer(const char* word, const void* bytes, size_t num_bytes) {
    std::cout << word << ' ' << num_bytes << '\n';
    std::cout.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(num_bytes));
    std::cout.flush();
}

template <class T>
T next(std::istringstream& words) {
    T value;
    if (!(words >> value)) throw std::runtime_error("the request is not understood");
    return value;
}

std::string payload(size_t num_bytes) {
    std::string bytes(num_bytes, '\0');
    if (!std::cin.read(bytes.data(), static_cast<std::streamsize>(num_bytes))) std::exit(1);
    return bytes;
}

void run_launch(std::istringstream& words) {
    emulator::Launch launch;
    launch.kernel = next<std::string>(words);
    for (uint32_t& count : launch.grid) count = next<uint32_t>(words);
    launch.block = next<uint32_t>(words);
    launch.shared_bytes = next<uint32_t>(words);
    launch.args = payload(next<size_t>(words));
    emulator::launch(launch);
    answer("ok", nullptr, 0);
}

void serve(const std::string& line) {
    std::istringstream words(line);
    const auto command = next<std::string>(words);
    if (command == "launch") return run_launch(words);
    emulator::settle();
    if (command == "alloc") {
        const uint64_t address = emulator::allocate(next<size_t>(words));
        return answer("ok", &address, sizeof address);
    }
    const auto address = next<uint64_t>(words);
    const auto num_bytes = next<size_t>(words);
    // Read before anything is refused, so that the next line is a request.
    const std::string bytes = command == "write" ? payload(num_bytes) : "";
    void* place = emulator::checked(address, num_bytes);
    if (command == "read") return answer("ok", place, num_bytes);
    if (command == "write") {
        memcpy(place, bytes.data(), num_bytes);
    } else if (command == "clear") {
        memset(place, 0, num_bytes);
    } else {
        throw std::runtime_error("no command `" + command + "`");
    }
    answer("ok", nullptr, 0);
}

}  // namespace

void emulator::answer_failure(const std::string& what) {
    answer("error", what.data(), what.size());
    std::exit(1);
}

int main() {
    std::ios::sync_with_stdio(false);
    for (std::string line; std::getline(std::cin, line);) {
        try {
            serve(line);
        } catch (const std::runtime_error& error) {
            answer("error", error.what(), strlen(error.what()));
        }
    }
}
