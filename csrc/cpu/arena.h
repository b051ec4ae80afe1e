// Arrays taken from one piece of memory, each on a cache line of its own. Without memory it only counts the bytes.
#pragma once

#include <cstdint>

namespace fastmmd::FASTMMD_VARIANT {

class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}
  int64_t bytes() const { return used_; }

  template <typename X>
  X* take(int64_t count) {
    X* start = base_ ? reinterpret_cast<X*>(base_ + used_) : nullptr;
    used_ += (count * static_cast<int64_t>(sizeof(X)) + 63) / 64 * 64;
    return start;
  }

 private:
  char* base_;
  int64_t used_ = 0;
};

}   // namespace fastmmd::FASTMMD_VARIANT
