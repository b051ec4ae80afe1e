// The first launch of route "small": squared distances of every pair of row panels, over a part of a layer's features.
#pragma once

#include "small_problem.cuh"

namespace fastmmd::cuda {

constexpr int kDistanceThreads = 128;
constexpr int kFeatures = 32;   // that are in shared memory at a time

// Grid (panel pair i <= j, part).
template <typename T>
__global__ void __launch_bounds__(kDistanceThreads) small_distances(const __grid_constant__ SmallProblem p) {
  constexpr int kRows = kSmallPanelRows / (kDistanceThreads / kWarp);   // of each panel that a warp loads
  // Padded: rows start in different banks.
  __shared__ Four<T> x[kSmallPanelRows][kFeatures / 4 + 1], y[kSmallPanelRows][kFeatures / 4 + 1];
  __shared__ double warp_sum[kDistanceThreads / kWarp];
  let_next_launch_begin();
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int panels = p.panels(), part = blockIdx.y, l = layer_of(p.first_part, part);
  int i = 0, j = blockIdx.x;
  while (j >= panels - i) j -= panels - i++;
  j += i;
  const int begin = (part - p.first_part[l]) * p.part_features;
  const int end = min(p.dim[l], begin + p.part_features);
  if (blockIdx.x == 0 && part == 0 && thread == 0) *p.arrived = 0;

  const int row = thread / 8, column = thread % 8;   // this thread's pairs: rows + {0, 16}, columns + {0, 8, 16, 24}
  T sum[2][4] = {};
  for (int k0 = begin; k0 < end; k0 += kFeatures) {
    const bool present = k0 + lane < end;
    T u[kRows], v[kRows];
    with_dtype(p.dtype[l], [&](auto input) {
      using In = typename decltype(input)::type;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int panel_row = warp + r * (kDistanceThreads / kWarp), k = min(k0 + lane, end - 1);
        u[r] = feature<In, T>(p, l, min(i * kSmallPanelRows + panel_row, p.plan.n() - 1), k);
        v[r] = feature<In, T>(p, l, min(j * kSmallPanelRows + panel_row, p.plan.n() - 1), k);
      }
    });
    if (k0 > begin) __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int panel_row = warp + r * (kDistanceThreads / kWarp);
      x[panel_row][lane / 4].v[lane % 4] = present && i * kSmallPanelRows + panel_row < p.plan.n() ? u[r] : T{0};
      y[panel_row][lane / 4].v[lane % 4] = present && j * kSmallPanelRows + panel_row < p.plan.n() ? v[r] : T{0};
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kFeatures / 4; ++k) {
      Four<T> a[2], b[4];
#pragma unroll
      for (int r = 0; r < 2; ++r) a[r] = x[row + 16 * r][k];
#pragma unroll
      for (int c = 0; c < 4; ++c) b[c] = y[column + 8 * c][k];
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const T difference = a[r].v[e] - b[c].v[e];
            sum[r][c] += difference * difference;
          }
    }
  }

  T* const out =
      static_cast<T*>(p.distance) + static_cast<int64_t>(part) * panels * panels * kSmallPanelRows * kSmallPanelRows;
  T* const tile = out + (i * panels + j) * kSmallPanelRows * kSmallPanelRows;
  T* const mirror = out + (j * panels + i) * kSmallPanelRows * kSmallPanelRows;
  double total = 0;
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int u = row + 16 * r, v = column + 8 * c;
      const bool present = i * kSmallPanelRows + u < p.plan.n() && j * kSmallPanelRows + v < p.plan.n();
      tile[u * kSmallPanelRows + v] = sum[r][c];
      if (i != j) mirror[v * kSmallPanelRows + u] = sum[r][c];
      total += present ? static_cast<double>(sum[r][c]) : 0.0;
    }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) total += __shfl_down_sync(~0u, total, step);
  if (lane == 0) warp_sum[warp] = total;
  __syncthreads();
  if (thread == 0) {
    total = 0;
    for (int w = 0; w < kDistanceThreads / kWarp; ++w) total += warp_sum[w];
    p.distance_sum[part * p.panel_pairs() + static_cast<int>(blockIdx.x)] = i == j ? total : 2 * total;
  }
}

}   // namespace fastmmd::cuda
