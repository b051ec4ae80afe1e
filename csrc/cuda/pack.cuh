// What the routes of many rows begin with: a copy of the pooled rows, centred and rounded as their products see it,
// with squared norms, bandwidths and tolerances. Three launches: sums of columns, centres, rows.
//
// A Gaussian does not see a shift of all rows, but |x|^2 + |y|^2 - 2 x y loses digits with it. Where the bandwidth is
// the mean distance, rows are centred on their mean, beside which no norm counts. Any other bandwidth may be small
// beside one far row, so the centre is the median, per feature, of the means of nine groups of rows: a few far rows do
// not move it (fastmmd/centring.py). Both are sums of differences from a value that occurs, so constant features become
// exactly 0.
#pragma once

#include "inputs.cuh"
#include "pair.cuh"

namespace fastmmd::cuda {

constexpr int kPackThreads = 256;
constexpr int kPackThreadBlocks = 4;   // per multiprocessor: 64 registers per thread, and loads enough under way
constexpr int kRowGroups = 9;          // up to four of them may hold rows that are far from all others
constexpr int kMaxSlices = 8;          // of a group, each summed by one thread block
constexpr int kSumFeatures = 64;       // of a thread block that sums, four per thread
constexpr int kSumRows = kPackThreads / (kSumFeatures / 4);   // at a time
constexpr int kWarpFeatures = 4 * kWarp;          // a warp takes one row of the copy, four features per lane
constexpr int kPackRows = kPackThreads / kWarp;   // rows of the copy that a thread block makes

struct PackProblem {
  Plan plan;
  Dtype dtype[kMaxLayers];
  bool aligned[kMaxLayers];   // four features of a row lie in one aligned piece, and rows are of such pieces
  int dim[kMaxLayers];
  int first_chunk[kMaxLayers + 1];   // a layer's first kSumFeatures features, and the number of such chunks in all
  const void *source[kMaxLayers], *target[kMaxLayers];   // [n_s, d_l], [n_t, d_l]
  int64_t source_stride[kMaxLayers], target_stride[kMaxLayers];
  const double* given_bandwidth;   // [L], read where a layer does not follow the mean; null stands for ones
  int groups, slices;              // row i is in group i % groups
  int source_rows, packed_rows;    // of the copy: where the target's begin, and all

  // The copy, as PackedRows has it.
  void *rows[kMaxLayers], *transposed[kMaxLayers];
  int width[kMaxLayers];
  int64_t pitch[kMaxLayers];
  bool ones, tf32;
  void* norm;                      // [L, packed rows]
  double *bandwidth, *tolerance;   // [L]

  // Workspace, of the computing dtype unless it says otherwise.
  void* sums;          // [slices, groups, chunks, kSumFeatures]: of differences from the origin
  void* centre;        // [chunks, kSumFeatures]
  double* norm_sum;    // [L, thread blocks]
  unsigned* arrived;   // thread blocks whose norms are there

  FM_INLINE int chunks() const { return first_chunk[plan.layers]; }
};
static_assert(sizeof(PackProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

// `body` for a layer's dtype and alignment: outside its loops, so that their loads can be under way together.
template <typename Body>
__device__ void with_input(const PackProblem& p, int l, Body body) {
  with_dtype(p.dtype[l], [&](auto input) {
    if (p.aligned[l])
      body(input, std::true_type{});
    else
      body(input, std::false_type{});
  });
}

template <typename In>
__device__ const In* input_row(const PackProblem& p, int l, int row) {
  const bool is_source = row < p.plan.n_source;
  const void* const base = is_source ? p.source[l] : p.target[l];
  const int64_t stride = is_source ? p.source_stride[l] : p.target_stride[l];
  return static_cast<const In*>(base) + (is_source ? row : row - p.plan.n_source) * stride;
}

// Features k to k + 3 of a row. In place of those that it does not have: any that it has.
template <bool Aligned, typename In>
__device__ Four<In> load_four(const In* row, int k, int dim) {
  Four<In> x;
  if constexpr (Aligned) {
    x = *reinterpret_cast<const Four<In>*>(row + min(k, dim - 4));
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) x.v[e] = row[min(k + e, dim - 1)];
  }
  return x;
}

// The lower median of the first `count` values.
template <typename T>
__device__ T middle(const T (&x)[kRowGroups], int count) {
  T median = x[0];
#pragma unroll
  for (int i = 0; i < kRowGroups; ++i) {
    int rank = 0;
#pragma unroll
    for (int j = 0; j < kRowGroups; ++j) rank += j < count && (x[j] < x[i] || (x[j] == x[i] && j < i)) ? 1 : 0;
    median = i < count && rank == (count - 1) / 2 ? x[i] : median;
  }
  return median;
}

// A value near which feature k is in most rows: the first row's, or the median of a few rows.
template <typename T>
__device__ T origin_of(const PackProblem& p, int l, int k) {
  const int n = p.plan.n(), step = (n + p.groups - 1) / p.groups;
  T sample[kRowGroups];
  with_dtype(p.dtype[l], [&](auto input) {
#pragma unroll
    for (int g = 0; g < kRowGroups; ++g)
      sample[g] = static_cast<T>(widen(input_row<typename decltype(input)::type>(p, l, min(g * step, n - 1))[k]));
  });
  return p.plan.follows_mean[l] ? sample[0] : middle(sample, (n + step - 1) / step);
}

// Grid (chunk, group and slice).
template <typename T>
__global__ void __launch_bounds__(kPackThreads, kPackThreadBlocks) column_sums(const __grid_constant__ PackProblem p) {
  __shared__ T origin[kSumFeatures];
  __shared__ T sum[kSumRows][kSumFeatures];
  const int thread = threadIdx.x, row_lane = thread / (kSumFeatures / 4), column = thread % (kSumFeatures / 4) * 4;
  const int chunk = blockIdx.x, l = layer_of(p.first_chunk, chunk), dim = p.dim[l];
  const int begin = (chunk - p.first_chunk[l]) * kSumFeatures;
  const int group = blockIdx.y % p.groups, slice = blockIdx.y / p.groups;
  if (blockIdx.x == 0 && blockIdx.y == 0 && thread == 0) *p.arrived = 0;
  if (thread < kSumFeatures) origin[thread] = origin_of<T>(p, l, min(begin + thread, dim - 1));
  __syncthreads();
  T from[4], total[4] = {};
#pragma unroll
  for (int e = 0; e < 4; ++e) from[e] = origin[column + e];
  with_input(p, l, [&](auto input, auto aligned) {
    using In = typename decltype(input)::type;
#pragma unroll 4
    for (int row = group + p.groups * (slice * kSumRows + row_lane); row < p.plan.n();
         row += p.groups * p.slices * kSumRows) {
      const Four<In> x = load_four<decltype(aligned)::value>(input_row<In>(p, l, row), begin + column, dim);
#pragma unroll
      for (int e = 0; e < 4; ++e) total[e] += static_cast<T>(widen(x.v[e])) - from[e];
    }
  });
#pragma unroll
  for (int e = 0; e < 4; ++e) sum[row_lane][column + e] = total[e];
  __syncthreads();
  if (thread >= kSumFeatures) return;
  T all = 0;
#pragma unroll
  for (int r = 0; r < kSumRows; ++r) all += sum[r][thread];
  static_cast<T*>(p.sums)[(static_cast<int64_t>(blockIdx.y) * p.chunks() + chunk) * kSumFeatures + thread] = all;
}

// Grid (chunk). A value that is not finite makes its feature NaN.
template <typename T>
__global__ void __launch_bounds__(kSumFeatures) column_centres(const __grid_constant__ PackProblem p) {
  const int chunk = blockIdx.x, l = layer_of(p.first_chunk, chunk), n = p.plan.n();
  const int column = chunk * kSumFeatures + threadIdx.x;
  const int k = min((chunk - p.first_chunk[l]) * kSumFeatures + static_cast<int>(threadIdx.x), p.dim[l] - 1);
  T mean[kRowGroups], total = 0;
#pragma unroll
  for (int g = 0; g < kRowGroups; ++g) {
    T sum = 0;
    for (int slice = 0; slice < p.slices && g < p.groups; ++slice)
      sum += static_cast<const T*>(
          p.sums)[static_cast<int64_t>(slice * p.groups + g) * p.chunks() * kSumFeatures + column];
    mean[g] = sum / static_cast<T>(max((n - g + p.groups - 1) / p.groups, 1));
    total += sum;
  }
  static_cast<T*>(p.centre)[column] =
      origin_of<T>(p, l, k) + (p.plan.follows_mean[l] ? total / static_cast<T>(n) : middle(mean, p.groups) + 0 * total);
}

// Bandwidths, and the round-off of distances that come from products. A thread block calls it, one warp per layer.
template <typename T>
__device__ void find_bandwidths(const PackProblem& p) {
  constexpr double kEpsilon = std::is_same_v<T, double> ? 0x1p-52 : 0x1p-23;
  const int lane = threadIdx.x % kWarp, l = threadIdx.x / kWarp, blocks = p.packed_rows / kPackRows;
  if (l >= p.plan.layers) return;
  double sum = 0;
#pragma unroll 8
  for (int k = lane; k < blocks; k += kWarp) sum += __ldcg(p.norm_sum + static_cast<int64_t>(l) * blocks + k);
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane != 0) return;
  const double mean = 2 * sum / (p.plan.n() - 1);   // of |z_i - z_j|^2 over i != j, if rows are around their mean
  const double given = p.given_bandwidth ? p.given_bandwidth[l] : 1.0;
  p.bandwidth[l] = p.plan.bandwidth_scale[l] * (p.plan.follows_mean[l] ? mean : given);
  p.tolerance[l] = 64 * kEpsilon * mean;
}
static_assert(kPackThreads / kWarp >= kMaxLayers);

// Grid (kPackRows rows of the copy, layer). T computes, S is stored.
template <typename T, typename S>
__global__ void __launch_bounds__(kPackThreads, kPackThreadBlocks) centred_rows(const __grid_constant__ PackProblem p) {
  __shared__ Four<S> tile[kPackRows][kWarpFeatures / 4 + 1];   // padded: columns of four rows are in different banks
  __shared__ double norms[kPackRows];
  __shared__ bool last;
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp, l = blockIdx.y;
  const int first_row = blockIdx.x * kPackRows, packed_row = first_row + warp;
  const bool is_source = packed_row < p.source_rows;
  const int row = is_source ? packed_row : packed_row - p.source_rows + p.plan.n_source;
  const bool present = row < (is_source ? p.plan.n_source : p.plan.n());
  const int dim = p.dim[l], width = p.width[l];
  const T* const centre = static_cast<const T*>(p.centre) + static_cast<int64_t>(p.first_chunk[l]) * kSumFeatures;
  S* const out = static_cast<S*>(p.rows[l]) + packed_row * p.pitch[l];
  S* const out_columns = static_cast<S*>(p.transposed[l]);
  T norm = 0;
  for (int begin = 0; begin < width; begin += kWarpFeatures) {
    const int k = begin + 4 * lane;
    T x[4];
    with_input(p, l, [&](auto input, auto aligned) {
      using In = typename decltype(input)::type;
      const Four<In> loaded = load_four<decltype(aligned)::value>(input_row<In>(p, l, present ? row : 0), k, dim);
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] = static_cast<T>(widen(loaded.v[e]));
    });
    const Four<T> origin = *reinterpret_cast<const Four<T>*>(centre + min(k, (dim - 1) / 4 * 4));
    Four<S> z;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      T value = present && k + e < dim ? x[e] - origin.v[e] : T{0};
      if constexpr (std::is_same_v<S, float>) value = p.tf32 ? round_to_tf32(value) : value;
      z.v[e] = narrow<S>(value);
      const T seen = static_cast<T>(widen(z.v[e]));   // by the products
      norm += seen * seen;
      if (p.ones && present && k + e == dim) z.v[e] = narrow<S>(T{1});
    }
    if (k < width) *reinterpret_cast<Four<S>*>(out + k) = z;
    if (!out_columns) continue;
    __syncthreads();
    tile[warp][lane] = z;
    __syncthreads();
    const int column = thread / (kPackRows / 4), rows = thread % (kPackRows / 4) * 4;
    if (begin + column >= width) continue;
    Four<S> feature;
#pragma unroll
    for (int e = 0; e < 4; ++e) feature.v[e] = tile[rows + e][column / 4].v[column % 4];
    *reinterpret_cast<Four<S>*>(out_columns + static_cast<int64_t>(begin + column) * p.packed_rows + first_row + rows) =
        feature;
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) norm += __shfl_xor_sync(~0u, norm, step);
  if (lane == 0) {
    static_cast<T*>(p.norm)[static_cast<int64_t>(l) * p.packed_rows + packed_row] = norm;
    norms[warp] = static_cast<double>(norm);
  }
  __syncthreads();
  if (thread == 0) {
    double sum = 0;
    for (int r = 0; r < kPackRows; ++r) sum += norms[r];
    p.norm_sum[static_cast<int64_t>(l) * gridDim.x + blockIdx.x] = sum;
    __threadfence();
    last = atomicAdd(p.arrived, 1u) == gridDim.x * gridDim.y - 1;
  }
  __syncthreads();
  if (!last) return;
  // The last thread block adds up, in an order that does not depend on which one that is.
  __threadfence();
  find_bandwidths<T>(p);
}

}   // namespace fastmmd::cuda
