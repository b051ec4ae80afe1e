// The arithmetic of one pair, written once: for a float, a double or a SIMD vector of them, on CPUs and GPUs.
#pragma once

#include <cmath>

#include "problem.h"

namespace fastmmd {

// Every squaring doubles the relative error, so chains of them end: four turn one ulp into sixteen.
constexpr int kMaxSquarings = 4;
constexpr double kLargestRate = 1e37;   // below the largest float

// One Gaussian weight * exp(-rate * D) of a mixture, and the factor of its slope.
template <typename T>
struct Rate {
  T rate, weighted;
};

// Bandwidth 0 stands for its limit: 1 at distance 0, 0 beyond, slope 0. A negative one gives NaN.
template <typename T>
FM_INLINE Rate<T> rate_at(double multiplier, double weight, double bandwidth) {
  const double rate = bandwidth < 0 ? std::nan("") : 1.0 / (multiplier * bandwidth);
  const bool limit = rate > kLargestRate;
  return {static_cast<T>(limit ? kLargestRate : rate), static_cast<T>(limit ? 0.0 : weight * rate)};
}

// Rates ascend, and exp(-2 r D) is the square of exp(-r D): squares[q] says that Gaussian q is the square of Gaussian
// q - 1. `multiplier(q)`: broadest first.
template <typename Multiplier>
FM_HOST_INLINE void mark_squares(int count, Multiplier multiplier, int max_squarings, bool* squares) {
  int chain = 0;
  for (int q = 0; q < count; ++q) {
    squares[q] = q > 0 && multiplier(q - 1) == 2 * multiplier(q) && chain < max_squarings;
    chain = squares[q] ? chain + 1 : 0;
  }
}

// A layer's mixture ready for evaluation, broadest Gaussian first.
template <typename T>
struct Mixture {
  int num_gaussians;
  T rate[kMaxGaussians];
  T weight[kMaxGaussians];
  T weighted_rate[kMaxGaussians];
  bool squares[kMaxGaussians];
  double at_zero;   // sum of weights

  // Inlined always: a copy of its own, compiled for one instruction set, could be called by the code of another.
  static FM_HOST_INLINE Mixture make(const Layer& layer, double bandwidth) {
    Mixture m{};
    m.num_gaussians = layer.num_gaussians;
    const int last = layer.num_gaussians - 1;
    for (int q = 0; q < layer.num_gaussians; ++q) {
      const Rate<T> gaussian = rate_at<T>(layer.multiplier[last - q], layer.weight[last - q], bandwidth);
      m.rate[q] = gaussian.rate;
      m.weight[q] = static_cast<T>(layer.weight[last - q]);
      m.weighted_rate[q] = gaussian.weighted;
      m.at_zero += layer.weight[last - q];
    }
    mark_squares(layer.num_gaussians, [&](int q) { return layer.multiplier[last - q]; }, kMaxSquarings, m.squares);
    return m;
  }
};

// k(D) = sum_q weight[q] * exp(-rate[q] * D) and slope(D) = -dk/dD at `Count` squared distances. `V` is T or a vector
// of them, `exp_of` its exponential for arguments <= 0.
template <typename T, int Count, bool WithSlope, typename V, typename AnyMixture, typename Exp>
FM_INLINE void evaluate(const AnyMixture& mixture, Exp exp_of, const V* distance, V* value, V* slope) {
  V x[Count] = {};
  FM_UNROLL
  for (int v = 0; v < Count; ++v) value[v] = V{};
  if constexpr (WithSlope) {
    FM_UNROLL
    for (int v = 0; v < Count; ++v) slope[v] = V{};
  }
  for (int q = 0; q < mixture.num_gaussians; ++q) {
    const T weight = mixture.weight[q];
    if (mixture.squares[q]) {
      FM_UNROLL
      for (int v = 0; v < Count; ++v) x[v] = x[v] * x[v];
    } else {
      const T rate = -mixture.rate[q];
      FM_UNROLL
      for (int v = 0; v < Count; ++v) x[v] = exp_of(distance[v] * rate);
    }
    FM_UNROLL
    for (int v = 0; v < Count; ++v) value[v] += weight * x[v];
    if constexpr (WithSlope) {
      const T weighted = mixture.weighted_rate[q];
      FM_UNROLL
      for (int v = 0; v < Count; ++v) slope[v] += weighted * x[v];
    }
  }
}

// At one pair, the coefficients of all layers, handed to `store(l, C)`:
//     C^l = pair_weight * (joint * prod_{l' != l} k^l' + marginal[l]) * slope^l.
// Kernel and slope of layer l are at value[l * Stride] and slope[l * Stride].
template <typename T, int Stride, typename M, typename V, typename Store>
FM_INLINE void coefficients(int layers, T joint, const M* marginal, V pair_weight, const V* value, const V* slope,
                            Store store) {
  // before[l] = joint * prod_{l' < l} k, after = prod_{l' > l} k: no division, exact where a kernel is 0.
  V before[kMaxLayers], after = V{} + 1;
  before[0] = V{} + joint;
  FM_UNROLL
  for (int l = 1; l < layers; ++l) before[l] = before[l - 1] * value[(l - 1) * Stride];
  FM_UNROLL
  for (int l = layers - 1; l >= 0; --l) {
    const V factor = before[l] * after + static_cast<T>(marginal[l]);
    store(l, pair_weight * factor * slope[l * Stride]);
    after = after * value[l * Stride];
  }
}

}   // namespace fastmmd
