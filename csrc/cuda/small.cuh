// Training sizes in two launches: distances, split over pairs of row tiles and over the features so that a small
// problem fills the GPU; then the loss and all gradients, split over row tiles and chunks of features.
//
// Distances are sums of squared differences: twice the instructions of an inner product, on half the pairs, and equal
// rows are exactly 0 apart, so that no pass for means or norms comes first. In the second launch every block adds up
// the parts of its rows' distances and makes its own coefficients: that costs less here than a third launch.
#pragma once

#include "entry.h"
#include "pair.cuh"

namespace fastmmd::cuda {

constexpr int kTile = 32;       // rows
constexpr int kFeatures = 32;   // that are in shared memory at a time
constexpr int kDistanceThreads = 128;

struct SmallProblem {
  Plan plan;
  Type type[kMaxLayers];
  int dim[kMaxLayers];
  int first_part[kMaxLayers + 1];    // ranges of features of the first launch: a layer's first, and the number of all
  int first_chunk[kMaxLayers + 1];   // likewise of the second; a layer without gradient has none
  int part_features;
  const void *source[kMaxLayers], *target[kMaxLayers];
  int64_t source_stride[kMaxLayers], target_stride[kMaxLayers];
  void *grad_source[kMaxLayers], *grad_target[kMaxLayers];
  const double* bandwidth;   // [L], read where a layer does not follow the mean; null stands for ones
  void *loss, *report;

  // Workspace.
  void* distance;         // [parts][tiles][tiles][32][32]
  double* distance_sum;   // [parts][tile pairs i <= j]: over the ordered pairs of rows that they stand for
  double* sums;           // [tiles][3][1 + L]
  unsigned* arrived;

  FM_INLINE int tiles() const { return (plan.n() + kTile - 1) / kTile; }
  FM_INLINE int tile_pairs() const { return tiles() * (tiles() + 1) / 2; }
};
static_assert(sizeof(SmallProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

// Four neighbours that are read together.
template <typename T>
struct alignas(16) Four {
  T v[4];
};

__device__ inline int layer_of(const int* first, int index) {
  int l = 0;
  while (index >= first[l + 1]) ++l;
  return l;
}

template <typename In>
struct InputType {
  using type = In;
};

// `body` for the type of a layer's inputs: outside its loops, so that their loads can be under way together.
template <typename Body>
__device__ void with_type(Type type, Body body) {
  switch (type) {
    case Type::bf16:
      return body(InputType<bf16>{});
    case Type::f16:
      return body(InputType<f16>{});
    case Type::f32:
      return body(InputType<float>{});
    case Type::f64:
      return body(InputType<double>{});
  }
}

// A feature of a row of the pooled batch.
template <typename In, typename T>
__device__ T feature(const SmallProblem& p, int l, int row, int k) {
  // Selected without a branch: a load in a branch of its own would wait for the one before it.
  const bool is_source = row < p.plan.n_source;
  const void* const base = is_source ? p.source[l] : p.target[l];
  const int64_t stride = is_source ? p.source_stride[l] : p.target_stride[l];
  return static_cast<T>(widen(static_cast<const In*>(base)[(is_source ? row : row - p.plan.n_source) * stride + k]));
}

template <typename T>
__global__ void __launch_bounds__(kDistanceThreads) small_distances(const __grid_constant__ SmallProblem p) {
  constexpr int kRows = kTile / (kDistanceThreads / kWarp);   // of each tile that a warp loads
  __shared__ Four<T> x[kTile][kFeatures / 4 + 1],
      y[kTile][kFeatures / 4 + 1];   // padded: rows start in different banks
  __shared__ double warp_sum[kDistanceThreads / kWarp];
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int tiles = p.tiles(), part = blockIdx.y, l = layer_of(p.first_part, part);
  int i = 0, j = blockIdx.x;
  while (j >= tiles - i) j -= tiles - i++;
  j += i;
  const int begin = (part - p.first_part[l]) * p.part_features;
  const int end = min(p.dim[l], begin + p.part_features);
  if (blockIdx.x == 0 && part == 0 && thread == 0) *p.arrived = 0;

  const int row = thread / 8, column = thread % 8;   // this thread's pairs: rows + {0, 16}, columns + {0, 8, 16, 24}
  T sum[2][4] = {};
  for (int k0 = begin; k0 < end; k0 += kFeatures) {
    const bool present = k0 + lane < end;
    T u[kRows], v[kRows];
    with_type(p.type[l], [&](auto input) {
      using In = typename decltype(input)::type;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int at = warp + r * (kDistanceThreads / kWarp), k = min(k0 + lane, end - 1);
        u[r] = feature<In, T>(p, l, min(i * kTile + at, p.plan.n() - 1), k);
        v[r] = feature<In, T>(p, l, min(j * kTile + at, p.plan.n() - 1), k);
      }
    });
    if (k0 > begin) __syncthreads();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int at = warp + r * (kDistanceThreads / kWarp);
      x[at][lane / 4].v[lane % 4] = present && i * kTile + at < p.plan.n() ? u[r] : T{0};
      y[at][lane / 4].v[lane % 4] = present && j * kTile + at < p.plan.n() ? v[r] : T{0};
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

  T* const out = static_cast<T*>(p.distance) + static_cast<int64_t>(part) * tiles * tiles * kTile * kTile;
  T* const here = out + (i * tiles + j) * kTile * kTile;
  T* const mirror = out + (j * tiles + i) * kTile * kTile;
  double total = 0;
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      const int u = row + 16 * r, v = column + 8 * c;
      const bool present = i * kTile + u < p.plan.n() && j * kTile + v < p.plan.n();
      here[u * kTile + v] = sum[r][c];
      if (i != j) mirror[v * kTile + u] = sum[r][c];
      total += present ? static_cast<double>(sum[r][c]) : 0.0;
    }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) total += __shfl_down_sync(~0u, total, step);
  if (lane == 0) warp_sum[warp] = total;
  __syncthreads();
  if (thread == 0) {
    total = 0;
    for (int w = 0; w < kDistanceThreads / kWarp; ++w) total += warp_sum[w];
    p.distance_sum[part * p.tile_pairs() + static_cast<int>(blockIdx.x)] = i == j ? total : 2 * total;
  }
}

// The bandwidth of every layer, by a warp each.
__device__ inline void small_bandwidths(const SmallProblem& p, double* bandwidth) {
  const int lane = threadIdx.x % kWarp, pairs = p.tile_pairs();
  const double n = p.plan.n();
  for (int l = threadIdx.x / kWarp; l < p.plan.layers; l += blockDim.x / kWarp) {
    double base = p.bandwidth && !p.plan.follows_mean[l] ? p.bandwidth[l] : 1.0;
    if (p.plan.follows_mean[l]) {
      base = 0;
      for (int k = p.first_part[l] * pairs + lane; k < p.first_part[l + 1] * pairs; k += kWarp)
        base += p.distance_sum[k];
#pragma unroll
      for (int step = kWarp / 2; step > 0; step /= 2) base += __shfl_xor_sync(~0u, base, step);
      base /= n * (n - 1);
    }
    if (lane == 0) bandwidth[l] = p.plan.unit[l] * base;
  }
}

// Loss and report from the blocks' sums. Called by one block; a barrier separates it from what it reads.
template <typename T>
__device__ void small_finish(const SmallProblem& p, const double* bandwidth, double* total) {
  const Plan& plan = p.plan;
  const int terms = 1 + plan.layers, thread = threadIdx.x;
  if (thread < 3 * terms) {
    double sum = 0;
    for (int tile = 0; tile < p.tiles(); ++tile) sum += __ldcg(p.sums + tile * 3 * terms + thread);
    total[thread] = sum;
  }
  __syncthreads();
  if (thread != 0) return;
  T* const report = static_cast<T*>(p.report);
  const auto cut = [&](double value) { return static_cast<T>(plan.clamp && value < 0 ? 0.0 : value); };
  double product_at_zero = 1, loss = 0;
  for (int l = 0; l < plan.layers; ++l) product_at_zero *= plan.at_zero[l];
  for (int t = 0; t < terms; ++t) {
    const double at_zero = t == 0 ? product_at_zero : plan.at_zero[t - 1];
    const double value = plan.alpha * total[t] + plan.beta * total[terms + t] + plan.gamma * total[2 * terms + t] +
                         plan.diagonal * at_zero;
    loss += (t == 0 ? plan.joint : plan.marginal[t - 1]) * value;
    report[t] = cut(value);
  }
  for (int l = 0; l < plan.layers; ++l) report[terms + l] = static_cast<T>(bandwidth[l]);
  *static_cast<T*>(p.loss) = cut(loss);
}

// Blocks (i, chunk): the gradients of a tile of rows in a chunk of a layer's features,
//     4 sum_j C_ij (z_j - z_i),
// by 4 * Chunk threads. The blocks of chunk 0 also make the sums, and the last of them the loss.
template <typename T, int Layers, int Chunk, bool WithGradient>
__global__ void __launch_bounds__(4 * Chunk) small_loss(const __grid_constant__ SmallProblem p) {
  constexpr int kThreads = 4 * Chunk, kWarps = kThreads / kWarp;
  constexpr int kPairs = kTile / kWarps;   // of a tile that a thread turns into C
  constexpr int kAtOnce = Layers > 2   ? 1
                          : kPairs < 4 ? kPairs
                                       : 4;   // that keep the kernels of all layers in registers
  __shared__ Mixtures<T> mixtures;
  __shared__ double bandwidth[kMaxLayers];
  __shared__ double scratch[kSumsScratch<Layers>];
  __shared__ Four<T> c[WithGradient ? kTile : 1][kTile / 4 + 1];   // padded: rows start in different banks
  __shared__ Four<T> y[WithGradient ? kTile : 1][Chunk / 4];
  __shared__ bool last;
  const Plan& plan = p.plan;
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int tiles = p.tiles(), i = blockIdx.x, chunk = blockIdx.y, n = plan.n();
  const bool sums_here = chunk == 0;

  small_bandwidths(p, bandwidth);
  __syncthreads();
  make_mixtures<T>(plan, bandwidth, nullptr, &mixtures);
  __syncthreads();

  const int own = WithGradient ? layer_of(p.first_chunk, chunk) : 0;
  const int begin = WithGradient ? (chunk - p.first_chunk[own]) * Chunk : 0;
  const int load_row = thread / Chunk, load_column = thread % Chunk;   // loads rows + {0, 4, ...} of each tile
  const bool load_present = begin + load_column < p.dim[own];
  // Rows are taken relative to the first one: C's row sums meet them, and digits would be lost far from 0.
  T origin = 0;
  if (WithGradient && load_present)
    with_type(p.type[own],
              [&](auto input) { origin = feature<typename decltype(input)::type, T>(p, own, 0, begin + load_column); });
  const int out_row = thread / (Chunk / 4), out_column = thread % (Chunk / 4);   // rows + {0, 16}, 4 columns
  T weighted[2][4] = {}, row_sum[2] = {};
  Sums<T, Layers> sums;

  for (int j = 0; j < tiles; ++j) {
    if constexpr (WithGradient) {
      T found[kTile / 4];
      with_type(p.type[own], [&](auto input) {
        using In = typename decltype(input)::type;
#pragma unroll
        for (int r = 0; r < kTile / 4; ++r)
          found[r] = feature<In, T>(p, own, min(j * kTile + load_row + 4 * r, n - 1),
                                    min(begin + load_column, p.dim[own] - 1));
      });
      if (j > 0) __syncthreads();
#pragma unroll
      for (int r = 0; r < kTile / 4; ++r) {
        const int at = load_row + 4 * r;
        y[at][load_column / 4].v[load_column % 4] = load_present && j * kTile + at < n ? found[r] - origin : T{0};
      }
    }
#pragma unroll(Layers > 2 ? 1 : kPairs)
    for (int first = 0; first < kPairs; first += kAtOnce) {
      T distance[Layers][kAtOnce] = {}, value[Layers][kAtOnce], slope[Layers][kAtOnce];
      const T* const from = static_cast<const T*>(p.distance) + (i * tiles + j) * kTile * kTile + lane;
#pragma unroll
      for (int l = 0; l < Layers; ++l) {
        if (l >= plan.layers) break;
        for (int part = p.first_part[l]; part < p.first_part[l + 1]; ++part)
#pragma unroll
          for (int v = 0; v < kAtOnce; ++v)
            distance[l][v] += from[static_cast<int64_t>(part) * tiles * tiles * kTile * kTile +
                                   (warp + (first + v) * kWarps) * kTile];
      }
      evaluate_layers<T, Layers, kAtOnce, WithGradient>(plan, mixtures, distance, value, slope);
#pragma unroll
      for (int v = 0; v < kAtOnce; ++v) {
        const int at = warp + (first + v) * kWarps, row = i * kTile + at, column = j * kTile + lane;
        const bool pair = row < n && column < n && row != column;
        const bool row_is_source = row < plan.n_source, column_is_source = column < plan.n_source;
        T one[Layers];
#pragma unroll
        for (int l = 0; l < Layers; ++l) one[l] = value[l][v];
        // Every cross pair is met from both sides, and counted once.
        if (sums_here && pair && (row_is_source || !column_is_source)) {
          T terms[1 + Layers];
          terms[0] = 1;
#pragma unroll
          for (int l = 0; l < Layers; ++l) {
            terms[0] *= one[l];
            terms[1 + l] = one[l];
          }
          sums.add(row_is_source, column_is_source, terms, T{1});
        }
        if constexpr (WithGradient) {
          T mine = 0;
          const T weight = mixtures.weight_of_pair(row_is_source, column_is_source);
          coefficients<T, kAtOnce>(Layers, mixtures.joint, mixtures.marginal, weight, &value[0][v], &slope[0][v],
                                   [&](int l, T found) { mine = l == own ? found : mine; });
          c[at][lane / 4].v[lane % 4] = pair ? mine : T{0};
        }
      }
    }
    if constexpr (WithGradient) {
      __syncthreads();
      T tile_weighted[2][4] = {}, tile_sum[2] = {};   // the domains nearly cancel: sums of sums
#pragma unroll
      for (int k = 0; k < kTile / 4; ++k) {
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
    with_type(p.type[own], [&](auto input) {
      using In = typename decltype(input)::type;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int row = i * kTile + out_row + 16 * r;
        const bool is_source = row < plan.n_source;
        T* const out = static_cast<T*>(is_source ? p.grad_source[own] : p.grad_target[own]);
        if (row >= n || !out) continue;
        const int64_t place = static_cast<int64_t>(is_source ? row : row - plan.n_source) * p.dim[own];
#pragma unroll
        for (int f = 0; f < 4; ++f) {
          const int column = begin + 4 * out_column + f;
          if (column >= p.dim[own]) break;
          const T z = feature<In, T>(p, own, row, column) - feature<In, T>(p, own, 0, column);
          out[place + column] = 4 * (weighted[r][f] - row_sum[r] * z);
        }
      }
    });

  if (!sums_here) return;
  sums.reduce(plan, scratch, p.sums + i * 3 * (1 + plan.layers), false);
  // The last block adds up, in an order that does not depend on which one that is.
  __threadfence();
  __syncthreads();
  if (thread == 0) last = atomicAdd(p.arrived, 1u) == static_cast<unsigned>(tiles) - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  small_finish<T>(p, bandwidth, scratch);
}

}   // namespace fastmmd::cuda
