// How launches run; to be changed between them.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <stdexcept>
#include <string>

namespace cuda_on_host {

enum class Order { kForward, kReverse, kShuffled };   // of the threads in a thread block, and of the thread blocks

// For programs that do not choose one, such as tests in Python.
inline Order order_from_environment() {
  const char* const name = std::getenv("FASTMMD_THREAD_ORDER");
  const std::string order = name ? name : "forward";
  if (order == "forward") return Order::kForward;
  if (order == "reverse") return Order::kReverse;
  if (order == "shuffled") return Order::kShuffled;
  throw std::invalid_argument("FASTMMD_THREAD_ORDER: expected forward, reverse or shuffled, got '" + order + "'");
}

struct Options {
  Order order = order_from_environment();
  unsigned seed = 0;                  // of kShuffled
  size_t shared_limit = 227 * 1024;   // bytes of dynamic shared memory a thread block may have
};

inline Options& options() {
  static Options value;
  return value;
}

}   // namespace cuda_on_host
