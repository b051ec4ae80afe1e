// A launch: the thread blocks of a grid, shared out among threads of the operating system.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "thread_block.h"

namespace cuda_on_host {

inline std::atomic<int> launches{0};   // so far

class Launch {
 public:
  Launch(dim3 grid, dim3 shape, size_t shared_bytes, std::function<void()> kernel)
      : grid_(grid), shape_(shape), shared_bytes_(shared_bytes), kernel_(std::move(kernel)) {
    const size_t threads = size_t{1} * shape.x * shape.y * shape.z, blocks = size_t{1} * grid.x * grid.y * grid.z;
    if (!threads || threads > 1024 || shape.z > 64)
      throw Error("launch of a thread block with 0, or over 1024, threads");
    if (!blocks || grid.x >= 1u << 31 || grid.y > 65535 || grid.z > 65535) throw Error("launch of an impossible grid");
    if (shared_bytes > options().shared_limit)
      throw Error("launch with more shared memory than a thread block may have");
    turn_.resize(blocks);
    std::iota(turn_.begin(), turn_.end(), size_t{0});
    if (options().order == Order::kReverse) std::reverse(turn_.begin(), turn_.end());
    if (options().order == Order::kShuffled) std::shuffle(turn_.begin(), turn_.end(), std::mt19937(options().seed));
  }

  CUDA_ON_HOST_RUNTIME void run() {
    ++launches;
#if CUDA_ON_HOST_TSAN
    run_unordered();
#else
#pragma omp parallel if (turn_.size() > 1)
    work();
#endif
    if (failed_) throw Error(error_);
  }

 private:
  void work() {   // thread blocks until none is left
    try {
      ThreadBlock block(grid_, shape_, shared_bytes_, kernel_, kept_stacks, options().seed);
      for (size_t i; !failed_ && (i = next_++) < turn_.size();) block.run(index(turn_[i]));
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }

#if CUDA_ON_HOST_TSAN
  // A thread of its own for every thread block, so that TSan takes no two of them for ordered. Waiting for one before
  // the next starts would order them, too: it is done in the name of another fiber.
  CUDA_ON_HOST_RUNTIME void run_unordered() {
    void* const self = __tsan_get_current_fiber();
    void* const waiting = __tsan_create_fiber(0);
    constexpr size_t at_a_time = 4;
    for (size_t first = 0; first < turn_.size(); first += at_a_time) {
      const size_t count = std::min(at_a_time, turn_.size() - first);
      std::thread threads[at_a_time];
      for (size_t i = 0; i < count; ++i) threads[i] = std::thread(&Launch::run_one, this, first + i);
      __tsan_switch_to_fiber(waiting, 1);
      for (size_t i = 0; i < count; ++i) threads[i].join();
      __tsan_switch_to_fiber(self, 1);
    }
    __tsan_switch_to_fiber(waiting, 1);
    __tsan_release(&end_);
    __tsan_switch_to_fiber(self, 1);
    __tsan_acquire(&end_);
    __tsan_destroy_fiber(waiting);
    tsan_fibers.launch_is_over();
  }

  void run_one(size_t i) {
    try {
      Stacks stacks;
      ThreadBlock(grid_, shape_, shared_bytes_, kernel_, stacks, options().seed + static_cast<unsigned>(i))
          .run(index(turn_[i]));
    } catch (const std::exception& error) {
      fail(error.what());
    }
  }

  char end_ = 0;
#endif

  uint3 index(size_t block) const {
    const size_t rows = block / grid_.x;
    return {static_cast<unsigned>(block % grid_.x), static_cast<unsigned>(rows % grid_.y),
            static_cast<unsigned>(rows / grid_.y)};
  }

  void fail(const char* what) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!failed_) error_ = what;
    failed_ = true;
  }

  static inline thread_local Stacks kept_stacks;
  dim3 grid_, shape_;
  size_t shared_bytes_;
  std::function<void()> kernel_;
  std::vector<size_t> turn_;
  std::atomic<size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::string error_;
};

}   // namespace cuda_on_host

namespace fastmmd {

template <typename T>
T* dynamic_shared() {
  return static_cast<T*>(cuda_on_host::ThreadBlock::current->shared());
}

enum class Begin { after_last_launch, during_last_launch };

// Runs the kernel to its end. What goes wrong in it is thrown as cuda_on_host::Error.
template <typename... P, typename... A>
cudaError_t launch(Begin, void (*kernel)(P...), dim3 grid, dim3 thread_block, size_t shared_bytes, cudaStream_t,
                   A&&... args) {
  const std::tuple<std::decay_t<P>...> values(static_cast<P>(std::forward<A>(args))...);
  cuda_on_host::Launch(grid, thread_block, shared_bytes, [&] { std::apply(kernel, values); }).run();
  return cudaSuccess;
}

template <typename... P, typename... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 thread_block, size_t shared_bytes, cudaStream_t stream,
                   A&&... args) {
  return launch(Begin::after_last_launch, kernel, grid, thread_block, shared_bytes, stream, std::forward<A>(args)...);
}

// The kernels of a launch have ended before the next begins.
inline void let_next_launch_begin() {}
inline void wait_for_last_launch() {}

template <typename... P>
cudaError_t loadable(void (*)(P...)) {
  return cudaSuccess;
}

}   // namespace fastmmd
