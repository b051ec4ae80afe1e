// From row-major features to centred blocks [d][32] with their squared norms.
#pragma once

#include "../problem.h"
#include "microkernel.h"

namespace fastmmd::FASTMMD_VARIANT {

template <typename T>
struct Rows {   // the pooled batch: source rows, then target rows
  const T *source, *target;
  int64_t source_stride, target_stride, n_source;
  const T* operator[](int64_t i) const {
    return i < n_source ? source + i * source_stride : target + (i - n_source) * target_stride;
  }
};

constexpr int64_t kMeanColumns = 64;

// mean[k0 .. k0 + count) over all rows, as the first row plus the mean difference from it: constant features then
// centre to exactly 0. Any shift leaves a Gaussian kernel unchanged; the closed form of the mean bandwidth needs one
// near the mean, hence sums in pieces of 64 rows.
template <typename T>
void column_means(const Rows<T>& rows, int64_t n, int64_t k0, int64_t count, T* mean) {
  double total[kMeanColumns] = {};
  const T* first = rows[0] + k0;
  for (int64_t i0 = 0; i0 < n; i0 += 64) {
    T piece[kMeanColumns] = {};
    const int64_t i1 = i0 + 64 < n ? i0 + 64 : n;
    for (int64_t i = i0; i < i1; ++i) {
      const T* row = rows[i] + k0;
      if (count == kMeanColumns)
        for (int64_t k = 0; k < kMeanColumns; ++k) piece[k] += row[k] - first[k];
      else
        for (int64_t k = 0; k < count; ++k) piece[k] += row[k] - first[k];
    }
    for (int64_t k = 0; k < count; ++k) total[k] += static_cast<double>(piece[k]);
  }
  for (int64_t k = 0; k < count; ++k)
    mean[k0 + k] = static_cast<T>(static_cast<double>(first[k]) + total[k] / static_cast<double>(n));
}

// One block: out [dim][32] = (z - mean) transposed, zero beyond the batch; norms [32], summed in the order in which
// gram_tile sums, so that equal rows are at distance 0 exactly.
template <typename T>
void pack_block(const Rows<T>& rows, int64_t n, int64_t block, int64_t dim, const T* mean, T* out, T* norms) {
  constexpr int n_lanes = kLanes<T>;
  for (int64_t k = 0; k < dim; k += n_lanes) {
    const int64_t count = dim - k < n_lanes ? dim - k : n_lanes;
    const Vec<T> shift = count == n_lanes ? load(mean + k) : load_first(mean + k, count);
    for (int r0 = 0; r0 < kBlock; r0 += n_lanes) {
      Vec<T> r[n_lanes];
      for (int i = 0; i < n_lanes; ++i) {
        const int64_t row = block * kBlock + r0 + i;
        if (row >= n)
          r[i] = Vec<T>{};
        else
          r[i] = (count == n_lanes ? load(rows[row] + k) : load_first(rows[row] + k, count)) - shift;
      }
      transpose<T>(r);
#pragma GCC unroll 16
      for (int i = 0; i < n_lanes; ++i)
        if (i < count) store(out + (k + i) * kBlock + r0, r[i]);
    }
  }
  for (int c = 0; c < kBlock; c += n_lanes) {
    Vec<T> total = {};
    for (int64_t p0 = 0; p0 < dim; p0 += kDepth) {
      Vec<T> piece = {};
      const int64_t p1 = p0 + kDepth < dim ? p0 + kDepth : dim;
      for (int64_t p = p0; p < p1; ++p) {
        const Vec<T> x = load(out + p * kBlock + c);
        piece += x * x;
      }
      total = p0 == 0 ? piece : total + piece;
    }
    store(norms + c, total);
  }
}

}   // namespace fastmmd::FASTMMD_VARIANT
