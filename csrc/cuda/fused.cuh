// Many rows, few features: Gram tiles that never leave the multiprocessor, as in flash attention. A thread block keeps
// the 64 rows of one panel, loads those of one other panel after another, turns the inner products of each pair into
// coefficients and multiplies these by the other panel's features. Products are the tensor cores' (product.cuh),
// kernels and coefficients fp32, sums over tiles fp64.
//
// Rows come packed (pack.cuh): centred, rounded to the format, each domain padded with zeros to
// whole panels, so that a panel has one domain; the layers side by side, each padded to a multiple of 16 features.
//
// Needs what compute capability 8.0 brought, cp.async and mma.sync of every format: code for earlier GPUs traps.
#pragma once

#include "fused_problem.cuh"

namespace fastmmd::cuda {

constexpr int kFlush = 16;   // tiles whose sums are added up in fp32

// Groups: feature groups of the second product that a warp keeps in registers; 0 for the loss alone.
template <int Groups>
constexpr int kMostWidth = Groups == 0 ? kCudaFusedMaxWidth : Groups * kColumnWarps * kFeatureGroup;

// Steps of the second product whose coefficients a warp holds, in 32 registers; tf32x3 has both parts of operands
// beside them.
template <Format F>
constexpr int kHeldSteps = F == Format::tf32x3 ? 2 : 4;

// Thread blocks that share a multiprocessor: two, held to 128 registers per thread, where their shared memory lets
// them. Of fp32 operands three panels of 128 features take 121 KB or more, so one thread block fits. The loss alone has
// no coefficients there; but tf32x3 would spill.
template <Format F, int Groups>
constexpr int kFusedThreadBlocks = F != Format::tf32x3 && Groups <= (F == Format::bf16 ? 2 : 0) ? 2 : 1;

// Grid (panel, split). The loss alone takes each pair of panels once. Chain: see Pairs.
template <Format F, int Layers, int Chain, int Groups>
__global__ void __launch_bounds__(kFusedThreads, kFusedThreadBlocks<F, Groups>)
    fused_loss(const __grid_constant__ FusedProblem p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();
#else
  using S = Stored<F>;
  constexpr bool kWithGradient = Groups > 0;
  constexpr int kAtOnce = 4;   // pairs whose kernels of all layers are in registers: those of one fragment
  __shared__ FusedShared<Layers, Chain> shared;
  const Plan& plan = p.plan;
  const int stride = padded_width<F>(p.width), c_stride = padded_width<F>(kTileRows), panels = p.panels();
  S* const x = dynamic_shared<S>();
  S* const y = x + kTileRows * stride;
  S* const c = y + p.stages * kTileRows * stride;

  const int i = blockIdx.x, lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int warp_row = warp / kColumnWarps * 32, warp_column = warp % kColumnWarps;
  const TileRows rows = tile_rows(plan, i);
  const int first = (kWithGradient ? 0 : i) + static_cast<int>(blockIdx.y);
  using Copy = PanelCopy<F, Layers, kMostWidth<Groups> >;
  Copy(p, i, 0, x, nullptr)(0);
  Copy copy_next(p, first, p.splits, y, shared.column_norm);
  if (first < panels) copy_next(0);
  copy_async_commit();
  make_mixtures(plan, p.bandwidth, p.tolerance, &shared.mixtures);
  for (int k = threadIdx.x; k < kFusedWarps * 2 * (1 + Layers); k += kFusedThreads) (&shared.sums[0][0][0])[k] = 0;
  for (int k = threadIdx.x; k < kColumnWarps * Layers * kTileRows; k += kFusedThreads)
    (&shared.row_sums[0][0][0])[k] = 0;
  __syncthreads();

  float row_norm[Layers][2][2];   // of rows 16 m + 8 h of this thread's fragments
#pragma unroll
  for (int l = 0; l < Layers; ++l)
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int h = 0; h < 2; ++h)
        row_norm[l][m][h] =
            p.norm[(static_cast<int64_t>(l) * panels + i) * kTileRows + warp_row + 16 * m + fragment_row(2 * h)] -
            distance_tolerance(shared.mixtures, l);

  float weighted[kWithGradient ? Groups : 1][2][2][4] = {};
  float recent[1 + Layers] = {}, recent_rows[Layers][2][2] = {};   // since the last flush
  const auto flush = [&](bool same_domain) {
#pragma unroll
    for (int t = 0; t <= Layers; ++t) {
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) recent[t] += __shfl_down_sync(~0u, recent[t], step);
      if (lane == 0) shared.sums[warp][same_domain ? 0 : 1][t] += static_cast<double>(recent[t]);
      recent[t] = 0;
    }
#pragma unroll
    for (int l = 0; l < Layers; ++l)
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          if (kWithGradient && lane % 4 == 0)
            shared.row_sums[warp_column][l][warp_row + 16 * m + fragment_row(2 * h)] +=
                static_cast<double>(recent_rows[l][m][h]);
          recent_rows[l][m][h] = 0;
        }
  };

  for (int j = first, step = 0; j < panels; j += p.splits, ++step) {
    const int stage = p.stages == 2 ? step % 2 : 0;
    const S* const others = y + stage * kTileRows * stride;
    if (p.stages == 2) {
      if (j + p.splits < panels) copy_next(1 - stage);
      copy_async_commit();
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();

    float inner_products[Layers][2][2][4] = {};
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      const int begin = p.first_group[l] * kFeatureGroup, depth = p.first_group[l + 1] * kFeatureGroup - begin;
      add_inner_products<F>(inner_products[l], left_rows<F>(x + warp_row * stride + begin, stride),
                            right_rows<F>(others + warp_column * 16 * stride + begin, stride), stride, depth);
    }
    const TileRows columns = tile_rows(plan, j);
    const bool same_domain = rows.is_source == columns.is_source;
    const Pairs<float, Layers, Chain> pairs(plan, shared.mixtures, rows.is_source, columns.is_source);
    float terms[1 + Layers] = {};
    const auto compute = [&](auto masked) {
      constexpr bool kMasked = decltype(masked)::value;
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int first_column = warp_column * 16 + 8 * n, column = first_column + fragment_column(0);
        float2 column_norm[Layers];
#pragma unroll
        for (int l = 0; l < Layers; ++l)
          column_norm[l] = *reinterpret_cast<const float2*>(&shared.column_norm[stage][l][column]);
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          float distance[Layers][kAtOnce], value[Layers][kAtOnce], slope[Layers][kAtOnce];
#pragma unroll
          for (int l = 0; l < Layers; ++l)
#pragma unroll
            for (int e = 0; e < kAtOnce; ++e)
              distance[l][e] = squared_distance(row_norm[l][m][e / 2], e % 2 ? column_norm[l].y : column_norm[l].x,
                                                inner_products[l][m][n][e]);
          pairs.template evaluate<kWithGradient>(distance, value, slope);
          [[maybe_unused]] float coefficient[Layers][kAtOnce];
#pragma unroll
          for (int e = 0; e < kAtOnce; ++e) {
            if constexpr (kMasked) {
              const int row = warp_row + 16 * m + fragment_row(e);
              const bool pair = row < rows.count && column + e % 2 < columns.count && (i != j || row != column + e % 2);
#pragma unroll
              for (int l = 0; l < Layers; ++l) {
                value[l][e] = pair ? value[l][e] : 0.0f;
                if constexpr (kWithGradient) slope[l][e] = pair ? slope[l][e] : 0.0f;
              }
            }
            float product = 1;
#pragma unroll
            for (int l = 0; l < Layers; ++l) {
              product *= value[l][e];
              terms[1 + l] += value[l][e];
            }
            terms[0] += product;
            if constexpr (kWithGradient)
              pairs.coefficients(value, slope, e, [&](int l, float c_l) { coefficient[l][e] = c_l; });
          }
          if constexpr (kWithGradient) {
#pragma unroll
            for (int l = 0; l < Layers; ++l)
#pragma unroll
              for (int h = 0; h < 2; ++h)
                store_operands<F>(
                    c + (l * kTileRows + warp_row + 16 * m + fragment_row(2 * h)) * c_stride + first_column,
                    coefficient[l][2 * h], coefficient[l][2 * h + 1]);
          }
        }
      }
    };
    if (Chain > 0 && rows.count == kTileRows && columns.count == kTileRows && i != j)
      compute(std::false_type{});
    else
      compute(std::true_type{});
    // With gradients every cross pair comes up from both sides, and is counted once.
    if (same_domain || rows.is_source || !kWithGradient) {
      const float multiplicity = kWithGradient || i == j || !same_domain ? 1.0f : 2.0f;
#pragma unroll
      for (int t = 0; t <= Layers; ++t) recent[t] += multiplicity * terms[t];
    }

    __syncthreads();
    if constexpr (kWithGradient) {
      constexpr int kHeld = kHeldSteps<F> * kDepth<F>;   // columns of C
#pragma unroll
      for (int l = 0; l < Layers; ++l) {
        if (!p.layer_needs_grad[l]) continue;
        const SharedAddress from = left_rows<F>(c + (l * kTileRows + warp_row) * c_stride, c_stride);
        float sum[2][4] = {};
#pragma unroll
        for (int k = 0; k < kTileRows; k += kColumnWarps * kDepth<F>) {   // each warp has its share of C's columns
          uint32_t a[1][2][4];
          load_coefficients<F>(a, from + (k / kDepth<F> + warp_column) * kStepBytes, c_stride);
          add_row_sums<F>(sum, a[0]);
        }
#pragma unroll(F == Format::tf32x3 ? 1 : 2)
        for (int k = 0; k < kTileRows; k += kHeld) {
          uint32_t a[kHeldSteps<F>][2][4];
          load_coefficients<F>(a, from + k / kDepth<F> * kStepBytes, c_stride);
          const WeightedRows<F, kHeldSteps<F> > right(others + k * stride + warp_column * kFeatureGroup, stride);
#pragma unroll
          for (int u = 0; u < Groups; ++u) {
            const int group = warp_column + u * kColumnWarps;
            if (group >= p.first_group[l] && group < p.first_group[l + 1])
              add_weighted_rows<F>(weighted[u], a, right, u * kColumnWarps * kFeatureGroup);
          }
        }
#pragma unroll
        for (int m = 0; m < 2; ++m)
#pragma unroll
          for (int h = 0; h < 2; ++h) recent_rows[l][m][h] += sum[m][2 * h];
      }
      __syncthreads();
    }
    if (p.stages == 1 && j + p.splits < panels) {
      copy_next(0);
      copy_async_commit();
    }
    const bool next_is_source = j + p.splits < plan.source_tiles();
    if (step % kFlush == kFlush - 1 || next_is_source != columns.is_source || j + p.splits >= panels)
      flush(same_domain);
  }

  copy_async_wait<0>();   // a split may have had no tile
  __syncthreads();
  const int64_t program = static_cast<int64_t>(blockIdx.y) * panels + i;
  if (threadIdx.x < 3 * (1 + Layers)) {
    const int sum_region = threadIdx.x / (1 + Layers), term = threadIdx.x % (1 + Layers);
    double sum = 0;
    if (sum_region == 2 || sum_region == (rows.is_source ? 0 : 1))
      for (int w = 0; w < kFusedWarps; ++w) sum += shared.sums[w][sum_region == 2 ? 1 : 0][term];
    p.sums[program * 3 * (1 + Layers) + threadIdx.x] = unit_of_term<Chain>(plan, term) * sum;
  }
  if constexpr (kWithGradient) {
    float* const out = p.gradient + program * kTileRows * p.width;
#pragma unroll
    for (int u = 0; u < Groups; ++u) {
      const int group = warp_column + u * kColumnWarps;
      if (group >= p.first_group[Layers]) break;
      const int l = Layers > 1 && group >= p.first_group[1] ? 1 : 0;
      if (!p.layer_needs_grad[l]) continue;
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = warp_row + 16 * m + fragment_row(2 * h);
          double row_sum = 0;
          for (int w = 0; w < kColumnWarps; ++w) row_sum += shared.row_sums[w][l][row];
#pragma unroll
          for (int n = 0; n < 2; ++n) {
            const int column = group * kFeatureGroup + 8 * n + fragment_column(0);
            const auto difference = [&](int e) {
              return weighted[u][m][n][2 * h + e] - static_cast<float>(row_sum) * widen(x[row * stride + column + e]);
            };
            *reinterpret_cast<float2*>(out + row * p.width + column) =
                make_float2(4 * difference(0), 4 * difference(1));
          }
        }
    }
  }
#endif
}

}   // namespace fastmmd::cuda
