// The lower median of all pooled squared distances, exact, in O(N d) memory.
//
// Radix selection: a non-negative float orders as its bit pattern does, so each pass over all distances counts, for
// every value of one digit, the candidates that share the digits known so far. Distances are sums of squared
// differences: a far row or two far domains cost the others no digits, and equal rows are 0 apart. Counts are integers,
// so results do not depend on the number of threads.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif

#include <cmath>

#include "arena.h"
#include "pack.h"

namespace fastmmd::FASTMMD_VARIANT {

template <typename T>
class Median {
 public:
  Median(const Samples& samples, int num_threads, void* base)
      : arena_(base),
        rows_{static_cast<const T*>(samples.source),
              static_cast<const T*>(samples.target),
              samples.source_stride,
              samples.target_stride,
              samples.n_source,
              samples.n()},
        dim_(samples.dim),
        groups_((samples.n() + kGroupRows - 1) / kGroupRows),
        num_threads_(num_threads),
        keep_(groups_ <= kKeptGroups),
        digit_bits_(keep_ ? kFewBits : kManyBits),
        rank_((rows_.n * (rows_.n - 1) / 2 - 1) / 2) {
    z_ = arena_.template take<T>(groups_ * kGroupRows * dim_);
    kept_ = arena_.template take<T>(keep_ ? groups_ * (groups_ + 1) / 2 * kGroupRows * kGroupRows : 0);
    counts_ = arena_.template take<int64_t>(static_cast<int64_t>(num_threads) << digit_bits_);
  }
  int64_t bytes() const { return arena_.bytes(); }

  T run() {
#pragma omp parallel num_threads(num_threads_)
    {
#pragma omp for schedule(static)
      for (int64_t g = 0; g < groups_; ++g) pack_group<T>(rows_, g, dim_, nullptr, 1, z_ + g * kGroupRows * dim_);
      for (int high = kKeyBits; high > 0; high -= digit_bits_) {
        const int low = high > digit_bits_ ? high - digit_bits_ : 0;
        count(low, high);
#pragma omp single
        choose(low, high);
      }
    }
    if (nan_) return static_cast<T>(std::nan(""));
    T median;
    std::memcpy(&median, &prefix_, sizeof(T));
    return median;
  }

 private:
  using Key = typename SimdTypes<T>::Int;
  static constexpr int kKeyBits = 8 * sizeof(T) - 1;   // all but the sign
  // Up to so many row groups the distances of the first pass are kept: further passes are then cheaper than wide
  // digits.
  static constexpr int64_t kKeptGroups = 16;
  static constexpr int kFewBits = 12, kManyBits = 16;   // at least 12: NaN differs from infinity in the first digit

  // Counts digit [low, high) of the distances whose bits from `high` on are those of prefix_.
  void count(int low, int high) {
    int64_t* counts = counts_ + (static_cast<int64_t>(this_thread()) << digit_bits_);
    std::memset(counts, 0, sizeof(int64_t) << digit_bits_);
    for (int64_t I = 0; I < groups_; I += kPanelGroups)
      for (int64_t J = I; J < groups_; J += kPanelGroups) {
        const int64_t rows = groups_ - I < kPanelGroups ? groups_ - I : kPanelGroups;
        const int64_t columns = groups_ - J < kPanelGroups ? groups_ - J : kPanelGroups;
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t t = 0; t < rows * columns; ++t)   // one group of columns against all of rows: it stays in cache
          if (I + t % rows <= J + t / rows) count_tile(I + t % rows, J + t / rows, low, high, counts);
      }
#pragma omp barrier
  }

  void count_tile(int64_t row_group, int64_t column_group, int low, int high, int64_t* counts) {
    alignas(64) T local[kGroupRows * kGroupRows];
    T* tile = keep_ ? kept_ + (column_group * (column_group + 1) / 2 + row_group) * kGroupRows * kGroupRows : local;
    if (!keep_ || high == kKeyBits)
      pair_tile<SquaredDifference>(dim_, z_ + row_group * kGroupRows * dim_, z_ + column_group * kGroupRows * dim_,
                                   tile);
    const int64_t height = valid_rows(row_group), width = valid_rows(column_group);
    const Key above = prefix_ >> high, mask = (Key{1} << (high - low)) - 1;
    for (int64_t i = 0; i < height; ++i)
      for (int64_t j = row_group == column_group ? i + 1 : 0; j < width; ++j) {
        Key key;
        std::memcpy(&key, tile + i * kGroupRows + j, sizeof(T));
        key &= ~(Key{1} << kKeyBits);   // NaN may have either sign
        if (key >> high == above) ++counts[(key >> low) & mask];
      }
  }

  int64_t valid_rows(int64_t group) const {
    const int64_t left = rows_.n - group * kGroupRows;
    return left < kGroupRows ? left : kGroupRows;
  }

#if defined(_OPENMP)
  static int this_thread() { return omp_get_thread_num(); }
  static int team() { return omp_get_num_threads(); }   // may be fewer threads than were asked for
#else
  static int this_thread() { return 0; }
  static int team() { return 1; }
#endif

  void choose(int low, int high) {
    const int threads = team();
    const auto total = [&](Key digit) {
      int64_t sum = 0;
      for (int thread = 0; thread < threads; ++thread)
        sum += counts_[(static_cast<int64_t>(thread) << digit_bits_) + digit];
      return sum;
    };
    if (high == kKeyBits) {
      const T infinity = static_cast<T>(INFINITY);
      Key key;
      std::memcpy(&key, &infinity, sizeof(T));
      for (Key digit = (key >> low) + 1; digit < Key{1} << digit_bits_; ++digit) nan_ = nan_ || total(digit) > 0;
    }
    Key digit = 0;
    for (int64_t count = total(0); count <= rank_; count = total(++digit)) rank_ -= count;
    prefix_ |= digit << low;
  }

  Arena arena_;
  const Rows<T> rows_;
  const int64_t dim_, groups_;
  const int num_threads_;
  const bool keep_;
  const int digit_bits_;
  int64_t rank_;     // of the median among the candidates, from 0
  Key prefix_ = 0;   // its digits so far
  bool nan_ = false;
  T *z_, *kept_;
  int64_t* counts_;   // [thread][digit]
};

}   // namespace fastmmd::FASTMMD_VARIANT
