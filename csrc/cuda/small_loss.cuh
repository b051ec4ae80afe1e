// The second launch of route "small": bandwidths, coefficients, sums, loss and gradients.
#pragma once

#include "finish.cuh"
#include "small_form.cuh"
#include "small_problem.cuh"

namespace fastmmd::cuda {

// The bandwidth of every layer, one warp per layer.
__device__ inline void small_bandwidths(const SmallProblem& p, double* bandwidth) {
  const int lane = threadIdx.x % kWarp, pairs = p.panel_pairs();
  const double n = p.plan.n();
  for (int l = threadIdx.x / kWarp; l < p.plan.layers; l += blockDim.x / kWarp) {
    double base = p.given_bandwidth && !p.plan.follows_mean[l] ? p.given_bandwidth[l] : 1.0;
    if (p.plan.follows_mean[l]) {
      base = 0;
      for (int k = p.first_part[l] * pairs + lane; k < p.first_part[l + 1] * pairs; k += kWarp)
        base += p.distance_sum[k];
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) base += __shfl_xor_sync(~0u, base, step);
      base /= n * (n - 1);
    }
    if (lane == 0) bandwidth[l] = p.plan.bandwidth_scale[l] * base;
  }
}

// The product of all layers' kernels, then each of them.
template <typename T, int Layers, int Terms>
__device__ void terms_of(const T (&kernel)[Layers], T (&terms)[Terms]) {
  static_assert(Terms == 1 + Layers);
  terms[0] = 1;
#pragma unroll
  for (int l = 0; l < Layers; ++l) {
    terms[0] *= kernel[l];
    terms[1 + l] = kernel[l];
  }
}

// Grid (panel i, chunk): the gradients of a panel's rows in a chunk of a layer's features,
//     4 sum_j C_ij (z_j - z_i),
// by 4 * Chunk threads. The thread blocks of chunk 0 also compute the sums, and the last of them the loss.
// Weighted: pairs have the weights of a form, and every chunk has columns of the rows K W, where they are wanted.
template <typename T, int Layers, int Chunk, bool WithGradient, bool Weighted>
__global__ void __launch_bounds__(4 * Chunk) small_loss(const __grid_constant__ SmallProblem p) {
  constexpr int kThreads = 4 * Chunk, kWarps = kThreads / kWarp;
  constexpr int kPairs = kSmallPanelRows / kWarps;   // of a tile that a thread turns into C
  // Pairs whose kernels of all layers are in registers.
  constexpr int kAtOnce = Layers > 2 ? 1 : kPairs < 4 ? kPairs : 4;
  __shared__ Mixtures<T> mixtures;
  __shared__ double bandwidth[kMaxLayers];
  __shared__ double scratch[kSumsScratch<Layers>];
  // Padded: rows start in different banks.
  __shared__ Four<T> c[WithGradient || Weighted ? kSmallPanelRows : 1][kSmallPanelRows / 4 + 1];
  __shared__ Four<T> y[WithGradient ? kSmallPanelRows : 1][Chunk / 4];
  __shared__ T wa[Weighted ? kSmallPanelRows : 1][kSmallFormColumns + 1];
  __shared__ T kernels[Weighted ? kSmallPanelRows : 1][kWarp + 1];   // of the loss, without the diagonal
  __shared__ bool last;
  const Plan& plan = p.plan;
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int panels = p.panels(), i = blockIdx.x, chunk = blockIdx.y, n = plan.n();
  const bool sums_here = chunk == 0;
  const int first_column = Weighted ? chunk * p.columns_per_chunk : 0;   // of K W
  const int last_column = Weighted ? min(p.form_columns, first_column + p.columns_per_chunk) : 0;
  const bool rows_here = Weighted && p.kw && first_column < last_column;

  const int layer = WithGradient ? layer_of(p.first_chunk, chunk) : 0;
  const int begin = WithGradient ? (chunk - p.first_chunk[layer]) * Chunk : 0;
  const int load_row = thread / Chunk, load_column = thread % Chunk;   // loads rows + {0, 4, ...} of each panel
  const bool load_present = begin + load_column < p.dim[layer];
  // Rows are taken relative to the first one: C's row sums meet them, and digits would be lost far from 0.
  T origin = 0;
  if (WithGradient && load_present)
    with_dtype(p.dtype[layer], [&](auto input) {
      origin = feature<typename decltype(input)::type, T>(p, layer, 0, begin + load_column);
    });

  wait_for_last_launch();   // all before depends on the inputs alone
  small_bandwidths(p, bandwidth);
  __syncthreads();
  make_mixtures(plan, bandwidth, nullptr, &mixtures);
  __syncthreads();

  const int out_row = thread / (Chunk / 4), out_column = thread % (Chunk / 4);   // rows + {0, 16}, 4 columns
  T weighted[2][4] = {}, row_sum[2] = {};
  std::conditional_t<Weighted, WeightedSums<T, Layers>, Sums<T, Layers>> sums;

  for (int j = 0; j < panels; ++j) {
    if constexpr (WithGradient) {
      T loaded[kSmallPanelRows / 4];
      with_dtype(p.dtype[layer], [&](auto input) {
        using In = typename decltype(input)::type;
#pragma unroll
        for (int r = 0; r < kSmallPanelRows / 4; ++r)
          loaded[r] = feature<In, T>(p, layer, min(j * kSmallPanelRows + load_row + 4 * r, n - 1),
                                     min(begin + load_column, p.dim[layer] - 1));
      });
      if (j > 0) __syncthreads();
#pragma unroll
      for (int r = 0; r < kSmallPanelRows / 4; ++r) {
        const int panel_row = load_row + 4 * r;
        y[panel_row][load_column / 4].v[load_column % 4] =
            load_present && j * kSmallPanelRows + panel_row < n ? loaded[r] - origin : T{0};
      }
    } else if constexpr (Weighted) {
      if (j > 0) __syncthreads();
    }
    if constexpr (Weighted) {
      // Each thread keeps its pairs' weights where their coefficients will stand.
      T weight[kPairs] = {};
      if (p.wa) pair_weights(p, i, j, wa, weight);
#pragma unroll
      for (int v = 0; v < kPairs; ++v) c[warp + v * kWarps][lane / 4].v[lane % 4] = weight[v];
    }
#pragma unroll(Layers > 2 ? 1 : kPairs)
    for (int first = 0; first < kPairs; first += kAtOnce) {
      T distance[Layers][kAtOnce] = {}, value[Layers][kAtOnce], slope[Layers][kAtOnce];
      const T* const tile =
          static_cast<const T*>(p.distance) + (i * panels + j) * kSmallPanelRows * kSmallPanelRows + lane;
#pragma unroll
      for (int l = 0; l < Layers; ++l) {
        if (l >= plan.layers) break;
        for (int part = p.first_part[l]; part < p.first_part[l + 1]; ++part)
#pragma unroll
          for (int v = 0; v < kAtOnce; ++v)
            distance[l][v] += tile[static_cast<int64_t>(part) * panels * panels * kSmallPanelRows * kSmallPanelRows +
                                   (warp + (first + v) * kWarps) * kSmallPanelRows];
      }
      evaluate_any<WithGradient>(plan, mixtures, distance, value, slope);
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) {
        const int panel_row = warp + (first + v) * kWarps, row = i * kSmallPanelRows + panel_row,
                  column = j * kSmallPanelRows + lane;
        const bool pair = row < n && column < n && row != column;
        const bool row_is_source = row < plan.n_source, column_is_source = column < plan.n_source;
        T kernel[Layers];
#pragma unroll
        for (int l = 0; l < Layers; ++l) kernel[l] = value[l][v];
        [[maybe_unused]] T pair_weight = 0;
        if constexpr (Weighted) {
          T terms[1 + Layers];
          terms_of(kernel, terms);
          pair_weight = c[panel_row][lane / 4].v[lane % 4];
          if (sums_here && pair) sums.add(pair_weight, terms);
          if (rows_here) kernels[panel_row][lane] = pair ? combined(mixtures, terms) : T{0};
        } else if (sums_here && pair && (row_is_source || !column_is_source)) {
          // Every cross pair comes up from both sides, and is counted once.
          T terms[1 + Layers];
          terms_of(kernel, terms);
          sums.add(row_is_source, column_is_source, terms);
        }
        if constexpr (WithGradient) {
          T coefficient = 0;
          const T weight = Weighted ? pair_weight : mixtures.pair_weight[region(row_is_source, column_is_source)];
          coefficients<T, kAtOnce>(Layers, mixtures.joint, mixtures.marginal, weight, &value[0][v], &slope[0][v],
                                   [&](int l, T c_l) { coefficient = l == layer ? c_l : coefficient; });
          c[panel_row][lane / 4].v[lane % 4] = pair ? coefficient : T{0};
        }
      }
    }
    if constexpr (WithGradient || Weighted) __syncthreads();
    if constexpr (Weighted)
      if (rows_here) add_form_rows(p, i, j, kernels, first_column, last_column);
    if constexpr (WithGradient) {
      T tile_weighted[2][4] = {}, tile_sum[2] = {};   // the domains nearly cancel, so sums of sums
#pragma unroll
      for (int k = 0; k < kSmallPanelRows / 4; ++k) {
        Four<T> a[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) a[r] = c[out_row + 16 * r][k];
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const Four<T> b = y[4 * k + e][out_column];
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            tile_sum[r] += a[r].v[e];
#pragma unroll
            for (int f = 0; f < 4; ++f) tile_weighted[r][f] += a[r].v[e] * b.v[f];
          }
        }
      }
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        row_sum[r] += tile_sum[r];
#pragma unroll
        for (int f = 0; f < 4; ++f) weighted[r][f] += tile_weighted[r][f];
      }
    }
  }

  if constexpr (WithGradient)
    with_dtype(p.dtype[layer], [&](auto input) {
      using In = typename decltype(input)::type;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = i * kSmallPanelRows + out_row + 16 * r;
        const bool is_source = row < plan.n_source;
        T* const out = static_cast<T*>(is_source ? p.grad_source[layer] : p.grad_target[layer]);
        if (row >= n || !out) continue;
        const int64_t start = static_cast<int64_t>(is_source ? row : row - plan.n_source) * p.dim[layer];
#pragma unroll
        for (int f = 0; f < 4; ++f) {
          const int column = begin + 4 * out_column + f;
          if (column >= p.dim[layer]) break;
          const T z = feature<In, T>(p, layer, row, column) - feature<In, T>(p, layer, 0, column);
          out[start + column] = 4 * (weighted[r][f] - row_sum[r] * z);
        }
      }
    });

  if (!sums_here) return;
  if constexpr (Weighted)
    sums.reduce(plan, p.wa ? panel_trace<T>(p, i) : 0.0, scratch, p.sums + i * (2 + plan.layers));
  else
    sums.reduce(plan, scratch, p.sums + i * 3 * (1 + plan.layers));
  // The last thread block adds up, in an order that does not depend on which one that is.
  __threadfence();
  __syncthreads();
  if (thread == 0) last = atomicAdd(p.arrived, 1u) == static_cast<unsigned>(panels) - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  const int terms = Weighted ? 2 + plan.layers : 3 * (1 + plan.layers);
  if (thread < terms) {
    double sum = 0;
    for (int k = 0; k < panels; ++k) sum += __ldcg(p.sums + k * terms + thread);
    scratch[thread] = sum;
  }
  __syncthreads();
  if (thread == 0)
    store_loss_and_statistics<Weighted>(plan, scratch, bandwidth, static_cast<T*>(p.loss),
                                        static_cast<T*>(p.statistics));
}

}   // namespace fastmmd::cuda
