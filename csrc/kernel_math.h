// The arithmetic of one pair, written once for every value type that has + - * (a float, a SIMD vector).
#pragma once

#include "problem.h"

namespace fastmmd {

// A layer's mixture ready for evaluation: k(D) = sum_q weight[q] * exp(-rate[q] * D), slope(D) = -dk/dD.
// Rates ascend, so that exp(-2 r D) is the square of exp(-r D): squares[q] says that rate[q] = 2 * rate[q - 1].
template <typename T>
struct Mixture {
  int num_scales;
  T rate[kMaxScales];
  T weight[kMaxScales];
  T weighted_rate[kMaxScales];
  bool squares[kMaxScales];
  double at_zero;   // sum of weights

  // bandwidth <= 0 happens for constant features alone: every distance is 0, every kernel its value there.
  static Mixture make(const Layer& layer, double bandwidth) {
    Mixture m{};
    m.num_scales = layer.num_scales;
    for (int q = 0; q < layer.num_scales; ++q) {
      const int from = layer.num_scales - 1 - q;   // broadest first
      const double rate = bandwidth > 0 ? 1.0 / (layer.scale[from] * bandwidth) : (bandwidth <= 0 ? 0.0 : bandwidth);
      m.rate[q] = static_cast<T>(rate);
      m.weight[q] = static_cast<T>(layer.weight[from]);
      m.weighted_rate[q] = static_cast<T>(layer.weight[from] * rate);
      m.squares[q] = q > 0 && layer.scale[from + 1] == 2 * layer.scale[from];
      m.at_zero += layer.weight[from];
    }
    return m;
  }
};

}   // namespace fastmmd
