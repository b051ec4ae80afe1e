// What a thread block does with pairs of rows, however it has computed their distances.
#pragma once

#include "device.h"
#include "plan.h"

namespace fastmmd::cuda {

constexpr int kWarp = 32;

// Which of S_ss, S_tt and S_st a pair belongs to.
__device__ inline int region(bool row_is_source, bool column_is_source) {
  return row_is_source != column_is_source ? 2 : row_is_source ? 0 : 1;
}

// The mixtures of all layers and the weights, in shared memory.
template <typename T>
struct Mixtures {
  T rate[kCudaMaxGaussians], weight[kCudaMaxGaussians], weighted_rate[kCudaMaxGaussians];
  bool squares[kCudaMaxGaussians];
  T tolerance[kMaxLayers];   // distances up to here count as 0 where the bandwidth is 0, -1 elsewhere
  T joint, marginal[kMaxLayers], pair_weight[3];   // of the plan; weights of ss, tt and st

  __device__ T weight_of_pair(bool row_is_source, bool column_is_source) const {
    return pair_weight[region(row_is_source, column_is_source)];
  }
};

// One layer's part of it, as `evaluate` expects a mixture.
template <typename T>
struct MixtureView {
  int num_gaussians;
  const T *rate, *weight, *weighted_rate;
  const bool* squares;
};

template <typename T>
__device__ MixtureView<T> layer_mixture(const Plan& plan, const Mixtures<T>& all, int l) {
  const int q = plan.first_gaussian[l];
  return {plan.first_gaussian[l + 1] - q, all.rate + q, all.weight + q, all.weighted_rate + q, all.squares + q};
}

// All threads of the thread block call it; a barrier must follow. `bandwidth`: [L]; `tolerance`: round-off of each
// layer's distances [L], or null where equal rows are exactly 0 apart.
template <typename T>
__device__ void make_mixtures(const Plan& plan, const double* bandwidth, const double* tolerance, Mixtures<T>* all) {
  for (int q = threadIdx.x; q < plan.first_gaussian[plan.layers]; q += blockDim.x) {
    int l = 0;
    while (q >= plan.first_gaussian[l + 1]) ++l;
    const Rate<T> gaussian = rate_at<T>(plan.multiplier[q], plan.weight[q], bandwidth[l]);
    all->rate[q] = gaussian.rate;
    all->weighted_rate[q] = gaussian.weighted;
    all->weight[q] = static_cast<T>(plan.weight[q]);
    all->squares[q] = plan.squares[q];
  }
  for (int l = threadIdx.x; l < kMaxLayers; l += blockDim.x) {
    const bool limit = l < plan.layers && bandwidth[l] == 0 && tolerance;
    all->tolerance[l] = limit ? static_cast<T>(tolerance[l]) : static_cast<T>(-1);
    all->marginal[l] = static_cast<T>(plan.marginal[l]);
  }
  if (threadIdx.x == 0) {
    all->joint = static_cast<T>(plan.joint);
    all->pair_weight[0] = static_cast<T>(plan.alpha);
    all->pair_weight[1] = static_cast<T>(plan.beta);
    all->pair_weight[2] = static_cast<T>(0.5 * plan.gamma);
  }
}

struct Exp {
  __device__ float operator()(float x) const { return expf(x); }
  __device__ double operator()(double x) const { return exp(x); }
};

// Kernel and slope of every layer at `Count` pairs. Layers that a problem does not have leave 1 and 0, so that products
// over `Layers` are right.
template <typename T, int Layers, int Count, bool WithSlope>
__device__ void evaluate_layers(const Plan& plan, const Mixtures<T>& all, T (&distance)[Layers][Count],
                                T (&value)[Layers][Count], T (&slope)[Layers][Count]) {
#pragma unroll
  for (int l = 0; l < Layers; ++l) {
    if (l < plan.layers) {
#pragma unroll
      for (int v = 0; v < Count; ++v) {
        // A distance that is NaN stays so.
        T& d = distance[l][v];
        d = d < 0 || d <= all.tolerance[l] ? static_cast<T>(0) : d;
      }
      evaluate<T, Count, WithSlope>(layer_mixture(plan, all, l), Exp{}, distance[l], value[l], slope[l]);
    } else {
#pragma unroll
      for (int v = 0; v < Count; ++v) {
        value[l][v] = 1;
        slope[l][v] = 0;
      }
    }
  }
}

// A thread's part of S_ss, S_tt and S_st of the product and of each layer.
template <typename T, int Layers>
struct Sums {
  T part[3][1 + Layers] = {};

  __device__ void add(bool row_is_source, bool column_is_source, const T (&value)[1 + Layers], T multiplicity) {
    const int pair_region = region(row_is_source, column_is_source);
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
      for (int t = 0; t <= Layers; ++t) part[r][t] += r == pair_region ? multiplicity * value[t] : static_cast<T>(0);
  }

  // Adds the other's sums, and empties it.
  template <typename U>
  __device__ void take(Sums<U, Layers>* other) {
#pragma unroll
    for (int r = 0; r < 3; ++r)
#pragma unroll
      for (int t = 0; t <= Layers; ++t) {
        part[r][t] += static_cast<T>(other->part[r][t]);
        other->part[r][t] = 0;
      }
  }

  // The thread block's sums go to `out` [3, 1 + L], in fixed order. All threads call it; scratch:
  // [warps][3 * (1 + Layers)].
  __device__ void reduce(const Plan& plan, double* scratch, double* out, bool accumulate) const {
    constexpr int kTerms = 3 * (1 + Layers);
    const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
#pragma unroll
    for (int k = 0; k < kTerms; ++k) {
      double sum = static_cast<double>(part[k / (1 + Layers)][k % (1 + Layers)]);
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
      if (lane == 0) scratch[warp * kTerms + k] = sum;
    }
    __syncthreads();
    const int terms = 1 + plan.layers, k = threadIdx.x;
    if (k < 3 * terms) {
      double sum = 0;
      for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; ++w)
        sum += scratch[w * kTerms + k / terms * (1 + Layers) + k % terms];
      out[k] = accumulate ? out[k] + sum : sum;
    }
  }
};

template <int Layers>
constexpr int kSumsScratch = 3 * (1 + Layers) * 8;   // doubles, for 8 warps at most

}   // namespace fastmmd::cuda
