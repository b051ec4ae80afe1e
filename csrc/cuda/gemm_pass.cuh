// The pass between two products of the platform's library: the inner products of a pair of row panels become
// coefficients in place, layer by layer, and add to the sums. It reads and writes each element once.
#pragma once

#include "entry.h"
#include "pair.cuh"

namespace fastmmd::cuda {

constexpr int kGemmPassThreads = 256;
constexpr int kGemmPassColumns = 32, kGemmPassRows = 128;   // pairs of one thread block

struct GemmPassProblem {
  Plan plan;
  int rows, columns, first_row, first_column;   // the row panels, in the pooled batch
  void* inner_products[kMaxLayers];             // [rows, columns]
  int pitch;                                    // elements from one of its rows to the next
  const void* norm[kMaxLayers];                 // [N], squared
  bool layer_needs_grad[kMaxLayers];            // whose coefficients are written
  bool tf32;                                    // rounded, as the product that follows sees them
  const double *bandwidth, *tolerance;          // [L]
  double* sums;                                 // [thread blocks, 3, 1 + L], added to
};
static_assert(sizeof(GemmPassProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

template <typename T>
__device__ T& inner_product(const GemmPassProblem& p, int l, int row, int column) {
  return static_cast<T*>(p.inner_products[l])[static_cast<int64_t>(row) * p.pitch + column];
}

template <typename T, int Layers>
__global__ void __launch_bounds__(kGemmPassThreads) gemm_coefficients(const __grid_constant__ GemmPassProblem p) {
  constexpr int kWarps = kGemmPassThreads / kWarp;
  constexpr int kPairs = kGemmPassRows / kWarps;   // a thread's: rows warp + {0, 8, 16, ...} of one column
  constexpr int kAtOnce = Layers > 2 ? 1 : 4;      // pairs whose kernels of all layers are in registers
  __shared__ Mixtures<T> mixtures;
  __shared__ double scratch[kSumsScratch<Layers>];
  const Plan& plan = p.plan;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  make_mixtures<T>(plan, p.bandwidth, p.tolerance, &mixtures);
  __syncthreads();

  const int panel_column = blockIdx.x * kGemmPassColumns + lane, column = p.first_column + panel_column;
  const bool in_columns = panel_column < p.columns, column_is_source = column < plan.n_source;
  // A panel paired with itself holds both triangles; other pairs stand for their mirror image, too.
  const bool diagonal = p.first_row == p.first_column;
  T column_norm[Layers];
#pragma unroll
  for (int l = 0; l < Layers; ++l)
    column_norm[l] = l < plan.layers && in_columns ? static_cast<const T*>(p.norm[l])[column] : T{0};
  Sums<T, Layers> sums;
#pragma unroll 1
  for (int first = 0; first < kPairs; first += kAtOnce) {
    T distance[Layers][kAtOnce] = {}, value[Layers][kAtOnce], slope[Layers][kAtOnce];
    const int first_panel_row = blockIdx.y * kGemmPassRows + warp;
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      if (l >= plan.layers) break;
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) {
        const int panel_row = first_panel_row + (first + v) * kWarps;
        if (panel_row >= p.rows || !in_columns) continue;
        const T product = inner_product<T>(p, l, panel_row, panel_column);
        distance[l][v] = static_cast<const T*>(p.norm[l])[p.first_row + panel_row] + column_norm[l] - 2 * product;
      }
    }
    evaluate_layers<T, Layers, kAtOnce, true>(plan, mixtures, distance, value, slope);
#pragma unroll
    for (int v = 0; v < kAtOnce; ++v) {
      const int panel_row = first_panel_row + (first + v) * kWarps, row = p.first_row + panel_row;
      if (panel_row >= p.rows || !in_columns) continue;
      const bool row_is_source = row < plan.n_source, same = row_is_source == column_is_source;
      if (row != column && (!diagonal || same || row_is_source)) {
        T terms[1 + Layers];
        terms[0] = 1;
#pragma unroll
        for (int l = 0; l < Layers; ++l) {
          terms[0] *= value[l][v];
          terms[1 + l] = value[l][v];
        }
        sums.add(row_is_source, column_is_source, terms, static_cast<T>(same && !diagonal ? 2 : 1));
      }
      const T weight = row == column ? T{0} : mixtures.weight_of_pair(row_is_source, column_is_source);
      coefficients<T, kAtOnce>(Layers, mixtures.joint, mixtures.marginal, weight, &value[0][v], &slope[0][v],
                               [&](int l, T c) {
                                 if (l >= plan.layers || !p.layer_needs_grad[l]) return;
                                 if constexpr (std::is_same_v<T, float>) c = p.tf32 ? round_to_tf32(c) : c;
                                 inner_product<T>(p, l, panel_row, panel_column) = c;
                               });
    }
  }
  const int64_t program = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  sums.reduce(plan, scratch, p.sums + program * 3 * (1 + plan.layers), true);
}

}   // namespace fastmmd::cuda
