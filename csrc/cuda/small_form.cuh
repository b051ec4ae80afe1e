// What the second launch of route "small" does for a form: weights of pairs, their sums, and rows of K W.
#pragma once

#include "small_problem.cuh"

namespace fastmmd::cuda {

// Weights W_i (W A)_j of the pairs of panels i and j that a thread evaluates: rows warp + {0, warps, ...}, column lane.
// All threads call it; `staged` may be written again after a barrier.
template <typename T, int Pairs>
__device__ void pair_weights(const SmallProblem& p, int i, int j, T (&staged)[kSmallPanelRows][kSmallFormColumns + 1],
                             T (&weight)[Pairs]) {
  static_assert(kSmallFormColumns == kWarp, "a warp loads a row of W A");
  constexpr int kWarps = kSmallPanelRows / Pairs;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, last_row = p.plan.n() - 1;
  const T* const wa = static_cast<const T*>(p.wa);
  const T* w[Pairs];
#pragma unroll
  for (int v = 0; v < Pairs; ++v) {
    const int row = min(i * kSmallPanelRows + warp + v * kWarps, last_row);
    w[v] = static_cast<const T*>(p.w) + static_cast<int64_t>(row) * p.form_columns;
    weight[v] = 0;
  }
  for (int first = 0; first < p.form_columns; first += kSmallFormColumns) {
    const int count = min(kSmallFormColumns, p.form_columns - first);
    if (first > 0) __syncthreads();
#pragma unroll
    for (int v = 0; v < Pairs; ++v) {
      const int panel_row = warp + v * kWarps, row = min(j * kSmallPanelRows + panel_row, last_row);
      if (lane < count) staged[panel_row][lane] = wa[static_cast<int64_t>(row) * p.form_columns + first + lane];
    }
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < count; ++k) {
      const T other = staged[lane][k];
#pragma unroll
      for (int v = 0; v < Pairs; ++v) weight[v] += w[v][first + k] * other;
    }
  }
}

// A thread's part of sum_i W_i (W A)_i over the rows of panel i.
template <typename T>
__device__ double panel_trace(const SmallProblem& p, int i) {
  const int64_t begin = static_cast<int64_t>(i) * kSmallPanelRows * p.form_columns;
  const int count = min(kSmallPanelRows, p.plan.n() - i * kSmallPanelRows) * p.form_columns;
  const T *const w = static_cast<const T*>(p.w) + begin, *const wa = static_cast<const T*>(p.wa) + begin;
  double sum = 0;
  for (int k = threadIdx.x; k < count; k += blockDim.x) sum += static_cast<double>(w[k]) * static_cast<double>(wa[k]);
  return sum;
}

// The kernel of the loss, joint and marginal terms together.
template <typename T, int Terms>
__device__ T combined(const Mixtures<T>& mixtures, const T (&terms)[Terms]) {
  T sum = mixtures.joint * terms[0];
#pragma unroll
  for (int l = 0; l + 1 < Terms; ++l) sum += mixtures.marginal[l] * terms[1 + l];
  return sum;
}

// Adds K W over the columns j of a tile of K to the rows of panel i, in columns [begin, end) of W; j = 0 comes first.
// Every element is one thread's own, so tiles are added in order.
template <typename T>
__device__ void add_form_rows(const SmallProblem& p, int i, int j, const T (&kernel)[kSmallPanelRows][kWarp + 1],
                              int begin, int end) {
  const int n = p.plan.n(), rows = min(kSmallPanelRows, n - i * kSmallPanelRows);
  const int columns = min(kSmallPanelRows, n - j * kSmallPanelRows), width = end - begin;
  for (int k = threadIdx.x; k < rows * width; k += blockDim.x) {
    const int row = k / width, column = begin + k % width;
    const T* const w = static_cast<const T*>(p.w) + static_cast<int64_t>(j) * kSmallPanelRows * p.form_columns + column;
    T sum = 0;
#pragma unroll 4
    for (int c = 0; c < columns; ++c) sum += kernel[row][c] * w[static_cast<int64_t>(c) * p.form_columns];
    T* const out = static_cast<T*>(p.kw) + static_cast<int64_t>(i * kSmallPanelRows + row) * p.form_columns + column;
    *out = j == 0 ? sum : *out + sum;
  }
}

// A thread's part of the sums over pairs, each times its weight, of the product and of each layer.
template <typename T, int Layers>
struct WeightedSums {
  T part[1 + Layers] = {};

  __device__ void add(T weight, const T (&value)[1 + Layers]) {
#pragma unroll
    for (int t = 0; t <= Layers; ++t) part[t] += weight * value[t];
  }

  // The thread block's trace and sums go to `out` [2 + L], in fixed order. All threads call it; scratch:
  // [warps][2 + Layers].
  __device__ void reduce(const Plan& plan, double trace, double* scratch, double* out) const {
    double all[2 + Layers];
    all[0] = trace;
#pragma unroll
    for (int t = 0; t <= Layers; ++t) all[1 + t] = static_cast<double>(part[t]);
    const double sum = block_sum(all, scratch);
    if (static_cast<int>(threadIdx.x) < 2 + plan.layers) out[threadIdx.x] = sum;
  }
};

}   // namespace fastmmd::cuda
