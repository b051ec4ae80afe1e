// What every route ends with: loss and statistics from sums over pairs; and for the routes of many rows the gradients,
// without the padding of the packed rows.
#pragma once

#include "inputs.cuh"
#include "pair.cuh"

namespace fastmmd::cuda {

// Loss and statistics from `total` [3, 1 + L], the sums over ss, tt and st of the product and of each layer's kernel.
// Weighted: from [2 + L], the trace of the weights and the sums over pairs times their weights. One thread calls it.
template <bool Weighted, typename T>
__device__ void store_loss_and_statistics(const Plan& plan, const double* total, const double* bandwidth, T* loss,
                                          T* statistics) {
  const int terms = 1 + plan.layers;
  const auto clamped = [&](double value) { return static_cast<T>(plan.clamp && value < 0 ? 0.0 : value); };
  double product_at_zero = 1, weighted = 0;
  for (int l = 0; l < plan.layers; ++l) product_at_zero *= plan.at_zero[l];
  for (int t = 0; t < terms; ++t) {
    const double at_zero = t == 0 ? product_at_zero : plan.at_zero[t - 1];
    const double value = Weighted ? total[1 + t] + plan.diagonal * total[0] * at_zero
                                  : plan.alpha * total[t] + plan.beta * total[terms + t] +
                                        plan.gamma * total[2 * terms + t] + plan.diagonal * at_zero;
    weighted += (t == 0 ? plan.joint : plan.marginal[t - 1]) * value;
    statistics[t] = clamped(value);
  }
  for (int l = 0; l < plan.layers; ++l) statistics[terms + l] = static_cast<T>(bandwidth[l]);
  *loss = clamped(weighted);
}

constexpr int kFinishThreads = 256;
constexpr int kFinishRows = kFinishThreads / kWarp;   // one warp per row, four features per lane

struct FinishProblem {
  Plan plan;
  int dim[kMaxLayers];
  int source_rows;   // of the packed rows: where the target's begin
  const double *sums, *bandwidth;
  int sum_rows;
  const void *weighted[kMaxLayers], *rows[kMaxLayers];   // as PackedSums has them
  int64_t pitch[kMaxLayers];
  int parts;
  int64_t part_pitch;
  void *grad_source[kMaxLayers], *grad_target[kMaxLayers];   // [n_s, d_l], [n_t, d_l], or null
  bool aligned[kMaxLayers];                                  // their rows are of aligned pieces of four features
  void *loss, *statistics;                                   // one value, [1 + 2 L]
};
static_assert(sizeof(FinishProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

// Grid (1 + packed rows / kFinishRows, layer), or one thread block for the loss alone, which thread block (0, 0) makes.
// S: of packed rows.
template <typename T, typename S>
__global__ void __launch_bounds__(kFinishThreads) finish_loss_and_gradients(const __grid_constant__ FinishProblem p) {
  __shared__ double total[3 * (1 + kMaxLayers)];
  const int l = blockIdx.y, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  if (blockIdx.x == 0) {
    if (l != 0) return;
    const int numbers = 3 * (1 + p.plan.layers);
    for (int k = warp; k < numbers; k += kFinishThreads / kWarp) {
      double sum = 0;
#pragma unroll 8
      for (int row = lane; row < p.sum_rows; row += kWarp) sum += p.sums[static_cast<int64_t>(row) * numbers + k];
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (lane == 0) total[k] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0)
      store_loss_and_statistics<false>(p.plan, total, p.bandwidth, static_cast<T*>(p.loss),
                                       static_cast<T*>(p.statistics));
    return;
  }
  const int packed_row = (blockIdx.x - 1) * kFinishRows + warp;
  const bool is_source = packed_row < p.source_rows;
  const int row = is_source ? packed_row : packed_row - p.source_rows, dim = p.dim[l];
  T* const gradient = static_cast<T*>(is_source ? p.grad_source[l] : p.grad_target[l]);
  if (!gradient || row >= (is_source ? p.plan.n_source : p.plan.n_target)) return;
  T* const out = gradient + static_cast<int64_t>(row) * dim;
  const T* const weighted = static_cast<const T*>(p.weighted[l]) + packed_row * p.pitch[l];
  const S* const z = p.rows[l] ? static_cast<const S*>(p.rows[l]) + packed_row * p.pitch[l] : nullptr;
  const T row_sum = z ? weighted[dim] : T{0};
#pragma unroll 2
  for (int k = 4 * lane; k < dim; k += 4 * kWarp) {
    Four<T> g = *reinterpret_cast<const Four<T>*>(weighted + k);
    for (int part = 1; part < p.parts; ++part) {
      const Four<T> more = *reinterpret_cast<const Four<T>*>(weighted + part * p.part_pitch + k);
#pragma unroll
      for (int e = 0; e < 4; ++e) g.v[e] += more.v[e];
    }
    if (z) {
      const Four<S> x = *reinterpret_cast<const Four<S>*>(z + k);
#pragma unroll
      for (int e = 0; e < 4; ++e) g.v[e] = 4 * (g.v[e] - row_sum * static_cast<T>(widen(x.v[e])));
    }
    if (p.aligned[l]) {
      *reinterpret_cast<Four<T>*>(out + k) = g;
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        if (k + e < dim) out[k + e] = g.v[e];
    }
  }
}

}   // namespace fastmmd::cuda
