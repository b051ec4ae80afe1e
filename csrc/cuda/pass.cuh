// The fused pass between two products of the platform's library: inner products of a block of rows with a block of
// columns become coefficients in place, layer by layer, and add to the sums. It reads and writes each element once.
#pragma once

#include "entry.h"
#include "pair.cuh"

namespace fastmmd::cuda {

constexpr int kPassThreads = 256;
constexpr int kPassColumns = 32, kPassRows = 128;   // pairs of one block of threads

struct PassProblem {
  Plan plan;
  int rows, columns, first_row, first_column;   // of the block of pairs, in the pooled batch
  void* inner[kMaxLayers];                      // [rows, columns]
  int pitch;                                    // elements from one of its rows to the next
  const void* norm[kMaxLayers];                 // [N], squared
  bool wanted[kMaxLayers];                      // whose coefficients
  bool tf32;                                    // rounded, as the product that follows sees them
  const double *bandwidth, *noise;              // [L]
  double* sums;                                 // [blocks of threads][3][1 + L], added to
};
static_assert(sizeof(PassProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

template <typename T, int Layers>
__global__ void __launch_bounds__(kPassThreads) coefficients_in_place(const __grid_constant__ PassProblem p) {
  constexpr int kWarps = kPassThreads / kWarp;
  constexpr int kPairs = kPassRows / kWarps;    // a thread's: rows warp + {0, 8, 16, ...} of one column
  constexpr int kAtOnce = Layers > 2 ? 1 : 4;   // that keep the kernels of all layers in registers
  __shared__ Mixtures<T> mixtures;
  __shared__ double scratch[kSumsScratch<Layers>];
  const Plan& plan = p.plan;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  make_mixtures<T>(plan, p.bandwidth, p.noise, &mixtures);
  __syncthreads();

  const int block_column = blockIdx.x * kPassColumns + lane, column = p.first_column + block_column;
  const bool in_columns = block_column < p.columns, column_is_source = column < plan.n_source;
  // A block on the diagonal holds both triangles; one off it stands for its mirror image too.
  const bool diagonal = p.first_row == p.first_column;
  T column_norm[Layers];
#pragma unroll
  for (int l = 0; l < Layers; ++l)
    column_norm[l] = l < plan.layers && in_columns ? static_cast<const T*>(p.norm[l])[column] : T{0};
  Sums<T, Layers> sums;
#pragma unroll 1
  for (int first = 0; first < kPairs; first += kAtOnce) {
    T distance[Layers][kAtOnce] = {}, value[Layers][kAtOnce], slope[Layers][kAtOnce];
    const int block_row = blockIdx.y * kPassRows + warp;
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      if (l >= plan.layers) break;
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) {
        const int at = block_row + (first + v) * kWarps;
        if (at >= p.rows || !in_columns) continue;
        const T inner = static_cast<const T*>(p.inner[l])[static_cast<int64_t>(at) * p.pitch + block_column];
        distance[l][v] = static_cast<const T*>(p.norm[l])[p.first_row + at] + column_norm[l] - 2 * inner;
      }
    }
    evaluate_layers<T, Layers, kAtOnce, true>(plan, mixtures, distance, value, slope);
#pragma unroll
    for (int v = 0; v < kAtOnce; ++v) {
      const int at = block_row + (first + v) * kWarps, row = p.first_row + at;
      if (at >= p.rows || !in_columns) continue;
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
                                 if (l >= plan.layers || !p.wanted[l]) return;
                                 if constexpr (std::is_same_v<T, float>) c = p.tf32 ? round_to_tf32(c) : c;
                                 static_cast<T*>(p.inner[l])[static_cast<int64_t>(at) * p.pitch + block_column] = c;
                               });
    }
  }
  const int64_t block = static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x;
  sums.reduce(plan, scratch, p.sums + block * 3 * (1 + plan.layers), true);
}

}   // namespace fastmmd::cuda
