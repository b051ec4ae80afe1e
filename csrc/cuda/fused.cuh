// Many rows, few features: Gram tiles that never leave the multiprocessor, as in flash attention. A thread block keeps
// the 64 rows of one panel, loads those of one other panel after another, turns the inner products of each pair into
// coefficients and multiplies these by the other panel's features. Products are the tensor cores'
// (product.cuh), kernels and coefficients fp32, sums over tiles fp64.
//
// Rows come packed (fastmmd/backends/cuda/fused.py): centred, rounded to the format, each domain padded with zeros to
// whole panels, so that a panel has one domain; the layers side by side, each padded to a multiple of 16 features.
//
// Needs what compute capability 8.0 brought, cp.async and mma.sync of every format: code for earlier GPUs traps.
#pragma once

#include "entry.h"
#include "pair.cuh"
#include "product.cuh"

namespace fastmmd::cuda {

constexpr int kFusedThreads = 256;
constexpr int kPanelRows = kCudaFusedPanelRows;    // a tile is the pairs of two panels
constexpr int kFeatureGroup = kCudaFeatureGroup;   // features that a warp multiplies at a time in the second product
constexpr int kColumnWarps = 4;                    // 2 x 4 warps share a tile
constexpr int kFlush = 16;                         // tiles whose sums are added up in fp32

struct FusedProblem {
  Plan plan;
  int source_panels, target_panels;
  int splits;                        // thread blocks that share the tiles of one panel
  int stages;                        // of the other panel's rows: 2 = double buffering, 1 takes less memory
  int width;                         // padded features of all layers
  int first_group[kMaxLayers + 1];   // a layer's first feature group, and the number of all
  bool layer_needs_grad[kMaxLayers];
  const void* rows;                      // [panels * 64, width] in the format
  const float* norm;                     // [L, panels * 64], squared
  const double *bandwidth, *tolerance;   // [L]
  float* gradient;                       // [splits, panels * 64, width], or null for the loss alone
  double* sums;                          // [splits * panels, 3, 1 + L]

  FM_INLINE int panels() const { return source_panels + target_panels; }
};
static_assert(sizeof(FusedProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

template <int Layers>
struct FusedShared {
  Mixtures<float> mixtures;
  double scratch[kSumsScratch<Layers>];
  float row_sum[Layers][kPanelRows];
};

// Dynamic shared memory: the panel's rows, the other panel's rows, coefficients.
template <Format F>
int64_t shared_bytes(int width, int layers, int stages, bool with_gradient) {
  const int rows = (1 + stages) * kPanelRows * padded_width<F>(width);
  const int coefficients = with_gradient ? layers * kPanelRows * padded_width<F>(kPanelRows) : 0;
  return (rows + coefficients) * sizeof(Stored<F>);
}

// Rows of a panel that are not padding.
__device__ inline int rows_in(const FusedProblem& p, int panel) {
  const int left = panel < p.source_panels ? p.plan.n_source - panel * kPanelRows
                                           : p.plan.n_target - (panel - p.source_panels) * kPanelRows;
  return min(left, kPanelRows);
}

template <Format F>
__device__ void load_panel(const FusedProblem& p, int panel, Stored<F>* to) {
  constexpr int kStep = 16 / sizeof(Stored<F>);
  const int stride = padded_width<F>(p.width), steps = p.width / kStep;
  const Stored<F>* from = static_cast<const Stored<F>*>(p.rows) + static_cast<int64_t>(panel) * kPanelRows * p.width;
  for (int k = threadIdx.x; k < kPanelRows * steps; k += kFusedThreads) {
    const int row = k / steps, column = k % steps * kStep;
    copy_async(to + row * stride + column, from + row * p.width + column);
  }
}

// Thread blocks that share a multiprocessor: two, held to 128 registers per thread, where their shared memory lets
// them. Of fp32 operands three panels of 128 features take 121 KB or more, so one thread block fits, and tf32 may take
// the 157 registers (on sm_90) that it needs to spill none.
template <Format F, int Groups>
constexpr int kFusedThreadBlocks = Groups == 0 || (Groups <= 2 && sizeof(Stored<F>) == 2) ? 2 : 1;

// Grid (panel, split). Groups: feature groups of the second product that a warp keeps in registers,
// 4 * 16 * Groups >= width; 0 for the loss alone, which takes each pair of panels once.
template <Format F, int Layers, int Groups>
__global__ void __launch_bounds__(kFusedThreads, kFusedThreadBlocks<F, Groups>)
    fused_loss(const __grid_constant__ FusedProblem p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();
#else
  using S = Stored<F>;
  constexpr bool kWithGradient = Groups > 0;
  constexpr int kAtOnce = 4;   // pairs whose kernels of all layers are in registers: those of one fragment
  __shared__ FusedShared<Layers> shared;
  Mixtures<float>& mixtures = shared.mixtures;
  const Plan& plan = p.plan;
  const int stride = padded_width<F>(p.width), c_stride = padded_width<F>(kPanelRows), panels = p.panels();
  S* const x = dynamic_shared<S>();
  S* const y = x + kPanelRows * stride;
  S* const c = y + p.stages * kPanelRows * stride;

  const int i = blockIdx.x, warp = threadIdx.x / kWarp;
  const int warp_row = warp / kColumnWarps * 32, warp_column = warp % kColumnWarps;
  const bool row_is_source = i < p.source_panels;
  const int rows = rows_in(p, i);
  const int first = (kWithGradient ? 0 : i) + static_cast<int>(blockIdx.y);
  load_panel<F>(p, i, x);
  if (first < panels) load_panel<F>(p, first, y);
  copy_async_commit();
  make_mixtures<float>(plan, p.bandwidth, p.tolerance, &mixtures);

  float weighted[kWithGradient ? Groups : 1][2][2][4] = {};
  double c_sum[Layers] = {};   // over a quarter of row threadIdx.x / 4
  Sums<float, Layers> recent;
  Sums<double, Layers> sums;

  for (int j = first, step = 0; j < panels; j += p.splits, ++step) {
    const S* const others = y + step % p.stages * kPanelRows * stride;
    if (p.stages == 2) {
      if (j + p.splits < panels) load_panel<F>(p, j + p.splits, y + (step + 1) % 2 * kPanelRows * stride);
      copy_async_commit();
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();

    float inner_products[Layers][2][2][4] = {};
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      if (l >= plan.layers) break;
      const int begin = p.first_group[l] * kFeatureGroup, depth = p.first_group[l + 1] * kFeatureGroup - begin;
      add_inner_products<F, 2, 2>(inner_products[l], x + warp_row * stride + begin,
                                  others + warp_column * 16 * stride + begin, stride, depth);
    }
    const bool column_is_source = j < p.source_panels;
    const int columns = rows_in(p, j);
    const float weight = mixtures.weight_of_pair(row_is_source, column_is_source);
    float terms[1 + Layers] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float distance[Layers][kAtOnce] = {}, value[Layers][kAtOnce], slope[Layers][kAtOnce];
#pragma unroll
        for (int l = 0; l < Layers; ++l) {
          if (l >= plan.layers) break;
          const float* const norm = p.norm + static_cast<int64_t>(l) * panels * kPanelRows;
#pragma unroll
          for (int e = 0; e < kAtOnce; ++e) {
            const int row = warp_row + 16 * m + fragment_row(e);
            const int column = warp_column * 16 + 8 * n + fragment_column(e);
            distance[l][e] =
                norm[i * kPanelRows + row] + norm[j * kPanelRows + column] - 2 * inner_products[l][m][n][e];
          }
        }
        evaluate_layers<float, Layers, kAtOnce, kWithGradient>(plan, mixtures, distance, value, slope);
#pragma unroll
        for (int e = 0; e < kAtOnce; ++e) {
          const int row = warp_row + 16 * m + fragment_row(e);
          const int column = warp_column * 16 + 8 * n + fragment_column(e);
          const bool pair = row < rows && column < columns && (i != j || row != column);
          float product = 1;
#pragma unroll
          for (int l = 0; l < Layers; ++l) {
            product *= value[l][e];
            terms[1 + l] += pair ? value[l][e] : 0.0f;
          }
          terms[0] += pair ? product : 0.0f;
          if constexpr (kWithGradient)
            coefficients<float, kAtOnce>(Layers, mixtures.joint, mixtures.marginal, weight, &value[0][e], &slope[0][e],
                                         [&](int l, float coefficient) {
                                           if (l < plan.layers)
                                             c[(l * kPanelRows + row) * c_stride + column] =
                                                 to_operand<F>(pair ? coefficient : 0.0f);
                                         });
        }
      }
    // With gradients every cross pair comes up from both sides, and is counted once.
    const bool same = row_is_source == column_is_source;
    if (same || row_is_source || !kWithGradient)
      recent.add(row_is_source, column_is_source, terms, kWithGradient || i == j || !same ? 1.0f : 2.0f);
    if (step % kFlush == kFlush - 1) sums.take(&recent);

    __syncthreads();
    if constexpr (kWithGradient) {
#pragma unroll
      for (int l = 0; l < Layers; ++l) {
        if (l >= plan.layers) break;
        const S* const from = c + (l * kPanelRows + threadIdx.x / 4) * c_stride + threadIdx.x % 4;
        float sum = 0;
#pragma unroll
        for (int k = 0; k < kPanelRows; k += 4) sum += widen(from[k]);
        c_sum[l] += static_cast<double>(sum);
      }
#pragma unroll
      for (int u = 0; u < Groups; ++u) {
        const int group = warp_column + u * kColumnWarps;
        if (group >= p.first_group[plan.layers]) break;
        int l = 0;
        while (group >= p.first_group[l + 1]) ++l;
        if (p.layer_needs_grad[l])
          add_weighted_rows<F, 2>(weighted[u], c + (l * kPanelRows + warp_row) * c_stride, c_stride,
                                  others + group * kFeatureGroup, stride, kPanelRows);
      }
      __syncthreads();
    }
    if (p.stages == 1 && j + p.splits < panels) {
      load_panel<F>(p, j + p.splits, y);
      copy_async_commit();
    }
  }

  sums.take(&recent);
  const int64_t program = static_cast<int64_t>(blockIdx.y) * panels + i;
  sums.reduce(plan, shared.scratch, p.sums + program * 3 * (1 + plan.layers), false);
  if constexpr (kWithGradient) {
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      double sum = c_sum[l];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (threadIdx.x % 4 == 0) shared.row_sum[l][threadIdx.x / 4] = static_cast<float>(sum);
    }
    copy_async_wait<0>();   // a split may have had no tile
    __syncthreads();
    float* const out = p.gradient + program * kPanelRows * p.width;
#pragma unroll
    for (int u = 0; u < Groups; ++u) {
      const int group = warp_column + u * kColumnWarps;
      if (group >= p.first_group[plan.layers]) break;
      int l = 0;
      while (group >= p.first_group[l + 1]) ++l;
      if (!p.layer_needs_grad[l]) continue;
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int row = warp_row + 16 * m + fragment_row(e);
            const int column = group * kFeatureGroup + 8 * n + fragment_column(e);
            const float difference = weighted[u][m][n][e] - shared.row_sum[l][row] * widen(x[row * stride + column]);
            out[row * p.width + column] = 4 * difference;
          }
    }
  }
#endif
}

}   // namespace fastmmd::cuda
