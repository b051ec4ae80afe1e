// Many rows, few features: Gram tiles that never leave the multiprocessor, as in flash attention. A block of threads
// keeps 64 rows, meets 64 others at a time, turns their inner products into coefficients and multiplies these by the
// others' features. Products are fp32 or tensor cores' (product.cuh), statistics fp32, sums over tiles fp64.
//
// Rows come packed (fastmmd/backends/cuda.py): centred, rounded to the format, each domain padded with zeros to whole
// tiles, so that a tile has one domain; the layers side by side, each padded to a multiple of 16 features.
//
// Takes what compute capability 8.0 brought, cp.async and mma.sync of every format: code for earlier GPUs traps.
#pragma once

#include "entry.h"
#include "pair.cuh"
#include "product.cuh"

namespace fastmmd::cuda {

constexpr int kTilesThreads = 256;
constexpr int kTilesSide = kTilesRows;
constexpr int kUnit = 16;         // features of one unit of the second product
constexpr int kColumnWarps = 4;   // 2 x 4 warps share a tile
constexpr int kFlush = 16;        // tiles whose sums are added up in fp32

struct TilesProblem {
  Plan plan;
  int source_tiles, target_tiles;
  int splits;    // blocks that share the tiles that a tile of rows meets
  int buffers;   // of the others' rows: 2 hide the way from memory, 1 takes less
  int width;     // features of all layers, padded
  int first_unit[kMaxLayers + 1];
  bool wanted[kMaxLayers];           // whose gradients
  const void* rows;                  // [tiles * 64, width] in the format
  const float* norm;                 // [L, tiles * 64]
  const double *bandwidth, *noise;   // [L]
  float* gradient;                   // [splits][tiles * 64][width], or null for the loss alone
  double* sums;                      // [splits * tiles][3][1 + L]

  FM_INLINE int tiles() const { return source_tiles + target_tiles; }
};
static_assert(sizeof(TilesProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

template <int Layers>
struct TilesShared {
  Mixtures<float> mixtures;
  double scratch[kSumsScratch<Layers>];
  float row_sum[Layers][kTilesSide];
  float scale[kMaxLayers];   // of coefficients
};

// Dynamic shared memory: rows, the others' rows, coefficients.
template <Format F>
int64_t shared_bytes(int width, int layers, int buffers, bool with_gradient) {
  const int rows = (1 + buffers) * kTilesSide * padded_width<F>(width);
  const int coefficients = with_gradient ? layers * kTilesSide * padded_width<F>(kTilesSide) : 0;
  return (rows + coefficients) * sizeof(Stored<F>);
}

// Valid rows of a tile.
__device__ inline int rows_in(const TilesProblem& p, int tile) {
  const int left = tile < p.source_tiles ? p.plan.n_source - tile * kTilesSide
                                         : p.plan.n_target - (tile - p.source_tiles) * kTilesSide;
  return min(left, kTilesSide);
}

template <Format F>
__device__ void load_tile(const TilesProblem& p, int tile, Stored<F>* to) {
  constexpr int kStep = 16 / sizeof(Stored<F>);
  const int stride = padded_width<F>(p.width), steps = p.width / kStep;
  const Stored<F>* from = static_cast<const Stored<F>*>(p.rows) + static_cast<int64_t>(tile) * kTilesSide * p.width;
  for (int k = threadIdx.x; k < kTilesSide * steps; k += kTilesThreads) {
    const int row = k / steps, column = k % steps * kStep;
    copy_async(to + row * stride + column, from + row * p.width + column);
  }
}

// fp16 has no digits left for coefficients of 1 / N^2: a power of two brings the largest possible one near 2^15.
template <typename T>
__device__ float coefficient_scale(const Plan& plan, const Mixtures<T>& all, int l) {
  double others = fabs(plan.joint), slope = 0;
  for (int k = 0; k < plan.layers; ++k)
    if (k != l) others *= plan.at_zero[k];
  for (int q = plan.first[l]; q < plan.first[l + 1]; ++q) slope += static_cast<double>(all.weighted_rate[q]);
  const double weight = fmax(fmax(fabs(plan.alpha), fabs(plan.beta)), fabs(0.5 * plan.gamma));
  const double bound = weight * (others + fabs(plan.marginal[l])) * slope;
  if (!(bound > 0 && bound < INFINITY)) return 1;   // nothing to save
  return static_cast<float>(exp2(fmin(fmax(floor(15 - log2(bound)), -100.0), 100.0)));
}

// Blocks that share a multiprocessor: two, held to 128 registers a thread, where their shared memory lets them. Of fp32
// operands three tiles of 128 features take 121 KB or more, so one block fits, and tf32 may take the 157 registers (on
// sm_90) that it needs to spill none.
template <Format F, int Units>
constexpr int kTilesBlocks = Units == 0 || (Units <= 2 && sizeof(Stored<F>) == 2) ? 2 : 1;

// Blocks (tile of rows, split). Units: of the second product that a warp keeps in registers, 4 * 16 * Units >= width;
// 0 for the loss alone, which meets each pair of tiles once.
template <Format F, int Layers, int Units>
__global__ void __launch_bounds__(kTilesThreads, kTilesBlocks<F, Units>)
    tiles_loss(const __grid_constant__ TilesProblem p) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  __trap();
#else
  using S = Stored<F>;
  constexpr bool kWithGradient = Units > 0;
  constexpr int kAtOnce = 4;   // pairs whose kernels are in registers: those of one fragment
  __shared__ TilesShared<Layers> shared;
  Mixtures<float>& mixtures = shared.mixtures;
  const Plan& plan = p.plan;
  const int stride = padded_width<F>(p.width), c_stride = padded_width<F>(kTilesSide), tiles = p.tiles();
  S* const x = dynamic_shared<S>();
  S* const y = x + kTilesSide * stride;
  S* const c = y + p.buffers * kTilesSide * stride;

  const int i = blockIdx.x, warp = threadIdx.x / kWarp;
  const int warp_row = warp / kColumnWarps * 32, warp_column = warp % kColumnWarps;
  const bool row_is_source = i < p.source_tiles;
  const int rows = rows_in(p, i);
  const int first = (kWithGradient ? 0 : i) + static_cast<int>(blockIdx.y);
  load_tile<F>(p, i, x);
  if (first < tiles) load_tile<F>(p, first, y);
  copy_async_commit();
  make_mixtures<float>(plan, p.bandwidth, p.noise, &mixtures);
  __syncthreads();
  for (int l = threadIdx.x; l < plan.layers; l += kTilesThreads)
    shared.scale[l] = F == Format::f16 ? coefficient_scale(plan, mixtures, l) : 1.0f;

  float weighted[kWithGradient ? Units : 1][2][2][4] = {};
  double c_sum[Layers] = {};   // of a quarter of row threadIdx.x / 4
  Sums<float, Layers> recent;
  Sums<double, Layers> sums;

  for (int j = first, step = 0; j < tiles; j += p.splits, ++step) {
    const S* const others = y + step % p.buffers * kTilesSide * stride;
    if (p.buffers == 2) {
      if (j + p.splits < tiles) load_tile<F>(p, j + p.splits, y + (step + 1) % 2 * kTilesSide * stride);
      copy_async_commit();
      copy_async_wait<1>();
    } else {
      copy_async_wait<0>();
    }
    __syncthreads();

    float distance[Layers][2][2][4] = {};   // first inner products
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      if (l >= plan.layers) break;
      const int begin = p.first_unit[l] * kUnit, depth = p.first_unit[l + 1] * kUnit - begin;
      add_inner_products<F, 2, 2>(distance[l], x + warp_row * stride + begin,
                                  others + warp_column * 16 * stride + begin, stride, depth);
    }
    const bool column_is_source = j < p.source_tiles;
    const int columns = rows_in(p, j);
    const float weight = mixtures.weight_of_pair(row_is_source, column_is_source);
    float terms[1 + Layers] = {};
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        float squared[Layers][kAtOnce] = {}, value[Layers][kAtOnce], slope[Layers][kAtOnce];
#pragma unroll
        for (int l = 0; l < Layers; ++l) {
          if (l >= plan.layers) break;
          const float* const norm = p.norm + static_cast<int64_t>(l) * tiles * kTilesSide;
#pragma unroll
          for (int e = 0; e < kAtOnce; ++e) {
            const int row = warp_row + 16 * m + fragment_row(e);
            const int column = warp_column * 16 + 8 * n + fragment_column(e);
            squared[l][e] = norm[i * kTilesSide + row] + norm[j * kTilesSide + column] - 2 * distance[l][m][n][e];
          }
        }
        evaluate_layers<float, Layers, kAtOnce, kWithGradient>(plan, mixtures, squared, value, slope);
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
                                         [&](int l, float found) {
                                           if (l < plan.layers)
                                             c[(l * kTilesSide + row) * c_stride + column] =
                                                 to_operand<F>(pair ? shared.scale[l] * found : 0.0f);
                                         });
        }
      }
    // With gradients every cross pair is met from both sides, and counted once.
    const bool same = row_is_source == column_is_source;
    if (same || row_is_source || !kWithGradient)
      recent.add(row_is_source, column_is_source, terms, kWithGradient || i == j || !same ? 1.0f : 2.0f);
    if (step % kFlush == kFlush - 1) sums.take(&recent);

    __syncthreads();
    if constexpr (kWithGradient) {
#pragma unroll
      for (int l = 0; l < Layers; ++l) {
        if (l >= plan.layers) break;
        const S* const from = c + (l * kTilesSide + threadIdx.x / 4) * c_stride + threadIdx.x % 4;
        float sum = 0;
#pragma unroll
        for (int k = 0; k < kTilesSide; k += 4) sum += widen(from[k]);
        c_sum[l] += static_cast<double>(sum);
      }
#pragma unroll
      for (int u = 0; u < Units; ++u) {
        const int unit = warp_column + u * kColumnWarps;
        if (unit >= p.first_unit[plan.layers]) break;
        int l = 0;
        while (unit >= p.first_unit[l + 1]) ++l;
        if (p.wanted[l])
          add_weighted_rows<F, 2>(weighted[u], c + (l * kTilesSide + warp_row) * c_stride, c_stride,
                                  others + unit * kUnit, stride, kTilesSide);
      }
      __syncthreads();
    }
    if (p.buffers == 1 && j + p.splits < tiles) {
      load_tile<F>(p, j + p.splits, y);
      copy_async_commit();
    }
  }

  sums.take(&recent);
  const int64_t block = static_cast<int64_t>(blockIdx.y) * tiles + i;
  sums.reduce(plan, shared.scratch, p.sums + block * 3 * (1 + plan.layers), false);
  if constexpr (kWithGradient) {
#pragma unroll
    for (int l = 0; l < Layers; ++l) {
      double sum = c_sum[l];
      sum += __shfl_xor_sync(~0u, sum, 1);
      sum += __shfl_xor_sync(~0u, sum, 2);
      if (threadIdx.x % 4 == 0) shared.row_sum[l][threadIdx.x / 4] = static_cast<float>(sum);
    }
    copy_async_wait<0>();   // a split may have had no tile to meet
    __syncthreads();
    float* const out = p.gradient + block * kTilesSide * p.width;
#pragma unroll
    for (int u = 0; u < Units; ++u) {
      const int unit = warp_column + u * kColumnWarps;
      if (unit >= p.first_unit[plan.layers]) break;
      int l = 0;
      while (unit >= p.first_unit[l + 1]) ++l;
      if (!p.wanted[l]) continue;
#pragma unroll
      for (int m = 0; m < 2; ++m)
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int row = warp_row + 16 * m + fragment_row(e);
            const int column = unit * kUnit + 8 * n + fragment_column(e);
            const float found = weighted[u][m][n][e] - shared.row_sum[l][row] * widen(x[row * stride + column]);
            out[row * p.width + column] = 4 / shared.scale[l] * found;
          }
    }
  }
#endif
}

}   // namespace fastmmd::cuda
