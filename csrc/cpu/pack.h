// From row-major features to centred row groups [d][32] with their squared norms.
#pragma once

#include <cmath>

#include "../problem.h"
#include "microkernel.h"

namespace fastmmd::FASTMMD_VARIANT {

// Rows of a panel. 512 keeps both coefficient panels of a layer in 2 MiB and gives each gradient tile sums of 512
// terms before it touches memory.
constexpr int64_t kPanelRows = 512;
constexpr int64_t kPanelGroups = kPanelRows / kGroupRows;

template <typename T>
struct Rows {   // the pooled batch: source rows, then target rows
  const T *source, *target;
  int64_t source_stride, target_stride, n_source, n;
  const T* operator[](int64_t i) const {
    return i < n_source ? source + i * source_stride : target + (i - n_source) * target_stride;
  }
};

constexpr int64_t kMeanColumns = 64;

// sum += row - first, and its range; Count is `count` where that is known at compile time, else 0.
template <int64_t Count, typename T>
FM_INLINE void add_row(const T* row, const T* first, int64_t count, T* sum, T* low, T* high) {
  for (int64_t k = 0; k < (Count ? Count : count); ++k) {
    const T difference = row[k] - first[k];
    sum[k] += difference;
    low[k] = difference < low[k] ? difference : low[k];
    high[k] = difference > high[k] ? difference : high[k];
  }
}

// mean[k0 .. k0 + count) over all rows, as the first row plus the mean difference from it: constant features then
// centre to exactly 0. Any shift leaves a Gaussian kernel unchanged; the closed form of the mean bandwidth needs one
// near the mean, hence sums in pieces of 64 rows. Returns the largest difference from the first row.
template <typename T>
T column_means(const Rows<T>& rows, int64_t k0, int64_t count, T* mean) {
  double total[kMeanColumns] = {};
  T low[kMeanColumns] = {}, high[kMeanColumns] = {};
  const T* first = rows[0] + k0;
  const int64_t n = rows.n;
  for (int64_t i0 = 0; i0 < n; i0 += 64) {
    T piece[kMeanColumns] = {};
    const int64_t i1 = i0 + 64 < n ? i0 + 64 : n;
    for (int64_t i = i0; i < i1; ++i) {
      const T* row = rows[i] + k0;
      if (count == kMeanColumns)
        add_row<kMeanColumns>(row, first, kMeanColumns, piece, low, high);
      else
        add_row<0>(row, first, count, piece, low, high);
    }
    for (int64_t k = 0; k < count; ++k) total[k] += static_cast<double>(piece[k]);
  }
  for (int64_t k = 0; k < count; ++k)
    mean[k0 + k] = static_cast<T>(static_cast<double>(first[k]) + total[k] / static_cast<double>(n));
  T largest = 0;
  for (int64_t k = 0; k < count; ++k) {
    largest = high[k] > largest ? high[k] : largest;
    largest = -low[k] > largest ? -low[k] : largest;
  }
  return largest;
}

// A power of two that brings features of extreme size (squares overflow, or fall below the normal numbers) near 1.
template <typename T>
double feature_scale(const T* spread, int64_t count) {
  constexpr int range = sizeof(T) == 4 ? 40 : 400;
  T largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = spread[i] > largest ? spread[i] : largest;
  int exponent = 0;
  std::frexp(static_cast<double>(largest), &exponent);
  const bool ordinary =
      largest == 0 || !std::isfinite(static_cast<double>(largest)) || (-range < exponent && exponent < range);
  return ordinary ? 1.0 : std::ldexp(1.0, -exponent);
}

// The power of two next to bandwidth^-1/2: it brings distances that are told apart by a kernel near 1.
template <typename T>
double inverse_root(double bandwidth) {
  constexpr int range = sizeof(T) == 4 ? 60 : 500;   // features keep room below infinity
  int exponent = 0;
  std::frexp(bandwidth, &exponent);
  exponent = -exponent / 2;
  return std::ldexp(1.0, exponent < -range ? -range : exponent > range ? range : exponent);
}

// One row group: out [dim][32] = scale * (z - mean) transposed, zero beyond the batch. A null mean stands for zeros.
template <typename T>
void pack_group(const Rows<T>& rows, int64_t group, int64_t dim, const T* mean, T scale, T* out) {
  constexpr int n_lanes = kLanes<T>;
  for (int64_t k = 0; k < dim; k += n_lanes) {
    const int64_t count = dim - k < n_lanes ? dim - k : n_lanes;
    const Vec<T> shift = !mean ? Vec<T>{} : count == n_lanes ? load(mean + k) : load_first(mean + k, count);
    for (int r0 = 0; r0 < kGroupRows; r0 += n_lanes) {
      Vec<T> r[n_lanes];
      for (int i = 0; i < n_lanes; ++i) {
        const int64_t row = group * kGroupRows + r0 + i;
        if (row >= rows.n)
          r[i] = Vec<T>{};
        else
          r[i] = ((count == n_lanes ? load(rows[row] + k) : load_first(rows[row] + k, count)) - shift) * scale;
      }
      transpose<T>(r);
#pragma GCC unroll 16
      for (int i = 0; i < n_lanes; ++i)
        if (i < count) store(out + (k + i) * kGroupRows + r0, r[i]);
    }
  }
}

// Squared norms [32] of a packed row group, summed in the order of pair_tile, so that equal rows are at distance 0
// exactly.
template <typename T>
void group_norms(int64_t dim, const T* z, T* norms) {
  for (int c = 0; c < kGroupRows; c += kLanes<T>) {
    Vec<T> total = {};
    for (int64_t p0 = 0; p0 < dim; p0 += kDepth) {
      Vec<T> piece = {};
      const int64_t p1 = p0 + kDepth < dim ? p0 + kDepth : dim;
      for (int64_t p = p0; p < p1; ++p) {
        const Vec<T> x = load(z + p * kGroupRows + c);
        piece += x * x;
      }
      total = p0 == 0 ? piece : total + piece;
    }
    store(norms + c, total);
  }
}

}   // namespace fastmmd::FASTMMD_VARIANT
