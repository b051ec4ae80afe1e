// The arithmetic of one pair, written once for every value type that has + - * (a float, a SIMD vector).
#pragma once

#include <cmath>

#include "problem.h"

namespace fastmmd {

// Every squaring doubles the relative error, so a chain of them is cut: four turn one ulp into sixteen.
constexpr int kMaxSquarings = 4;
constexpr double kLargestRate = 1e37;   // below the largest float

// A layer's mixture ready for evaluation: k(D) = sum_q weight[q] * exp(-rate[q] * D), slope(D) = -dk/dD.
// Rates ascend, and exp(-2 r D) is the square of exp(-r D): squares[q] says to take that way from rate[q - 1].
template <typename T>
struct Mixture {
  int num_scales;
  T rate[kMaxScales];
  T weight[kMaxScales];
  T weighted_rate[kMaxScales];
  bool squares[kMaxScales];
  double at_zero;   // sum of weights

  // Inlined always: a copy of its own, compiled for one instruction set, could be called by the code of another.
  static inline __attribute__((always_inline)) Mixture make(const Layer& layer, double bandwidth) {
    Mixture m{};
    m.num_scales = layer.num_scales;
    int chain = 0;
    for (int q = 0; q < layer.num_scales; ++q) {
      const int from = layer.num_scales - 1 - q;   // broadest first
      const double rate = bandwidth < 0 ? std::nan("") : 1.0 / (layer.scale[from] * bandwidth);
      // Bandwidth 0 stands for its limit: 1 at distance 0, 0 beyond, slope 0. A negative one gives NaN.
      const bool limit = rate > kLargestRate;
      m.rate[q] = static_cast<T>(limit ? kLargestRate : rate);
      m.weight[q] = static_cast<T>(layer.weight[from]);
      m.weighted_rate[q] = static_cast<T>(limit ? 0.0 : layer.weight[from] * rate);
      m.squares[q] = q > 0 && layer.scale[from + 1] == 2 * layer.scale[from] && chain < kMaxSquarings;
      chain = m.squares[q] ? chain + 1 : 0;
      m.at_zero += layer.weight[from];
    }
    return m;
  }
};

}   // namespace fastmmd
