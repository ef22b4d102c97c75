// Memory of a thread that lives from call to call, so that a steady update allocates nothing.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace {

class Scratch {
  public:
    Scratch() = default;
    Scratch(const Scratch&) = delete;
    ~Scratch() { std::free(memory_); }

    // At least n floats on a cache line's border; what was there before is lost.
    float* floats(int64_t n) {
        if (n > size_) {
            std::free(memory_);
            size_ = (n + 1023) / 1024 * 1024;
            memory_ = (float*)std::aligned_alloc(64, (size_t)size_ * sizeof(float));
            if (!memory_) throw std::bad_alloc();
        }
        return memory_;
    }

  private:
    float* memory_ = nullptr;
    int64_t size_ = 0;
};

// Which of a thread's memories: features of a block, the same transposed, and results.
thread_local Scratch tile_scratch, flip_scratch, sum_scratch;

}  // namespace
