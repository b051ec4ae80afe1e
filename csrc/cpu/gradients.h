// The second phase of a pair of row panels: coefficients times features, added to the gradients of the rows of J (by
// sums over the rows of I) and of I (by sums over J).
#pragma once

#include "layers.h"

namespace fastmmd::FASTMMD_VARIANT {

constexpr int64_t kGradientColumns = 96;   // features of one gradient task: its slice of a panel stays in L2

template <typename T>
class Gradients {
 public:
  Gradients(const Problem& problem, const Buffers& io, const Layers<T>& layers, const Workspace<T>& work)
      : problem_(problem), io_(io), layers_(layers), work_(work) {}

  // All threads of the team call it.
  void add(int64_t I, int64_t J) const {
    for (int direction = 0; direction < (I == J ? 1 : 2); ++direction) {
      const int64_t updated = direction == 0 ? J : I, summed = direction == 0 ? I : J;
      const int64_t groups = work_.groups_in(updated);
      const bool accumulate = I > 0 || direction == 1;
      for (int l = 0; l < problem_.num_layers; ++l) {
        if (!io_.layer_needs_grad(l)) continue;
        const int64_t dim = problem_.layer[l].dim, slices = (dim + kGradientColumns - 1) / kGradientColumns;
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t t = 0; t < groups * slices; ++t) {
          const int64_t k0 = t / groups * kGradientColumns;
          const int64_t k1 = k0 + kGradientColumns < dim ? k0 + kGradientColumns : dim;
          const Slice slice = {direction, updated, summed, accumulate, t % groups, k0, k1};
          layers_.by_differences[l] ? add_slice<true>(l, slice) : add_slice<false>(l, slice);
        }
      }
    }
#pragma omp barrier
  }

 private:
  // One task: features [k0, k1) of the gradients of one row group.
  struct Slice {
    int direction;             // of the coefficients: Workspace's panel[l][direction]
    int64_t updated, summed;   // panels: whose gradients, and over whose rows
    bool accumulate;           // to what earlier pairs of panels have stored
    int64_t group, k0, k1;     // group: in the updated panel
  };

  // The rows of the group may lie in both domains.
  template <bool ByDifferences>
  void add_slice(int l, const Slice& s) const {
    const int64_t dim = problem_.layer[l].dim, row0 = s.updated * kPanelRows + s.group * kGroupRows;
    const int64_t terms = work_.rows_in(s.summed);
    const T* z = work_.z[l] + s.summed * kPanelRows * dim;
    const T* x = work_.z[l] + row0 * dim;
    const T* c = work_.panel[l][s.direction] + s.group * work_.groups_in(s.summed) * kGroupRows * kGroupRows;
    const T* c_sum = work_.c_sum[l][s.direction] + s.group * kGroupRows;
    for (int col = 0; col < kGroupRows; col += kRegCols<T>) {
      T* out[kRegCols<T>];
      bool any = false;
      for (int r = 0; r < kRegCols<T>; ++r) {
        out[r] = gradient_row(l, row0 + col + r);
        any = any || out[r];
      }
      if (!any) continue;
      for (int64_t k = s.k0; k < s.k1; k += kTransposed<T>) {
        const int64_t count = s.k1 - k < kTransposed<T> ? s.k1 - k : kTransposed<T>;
        alignas(64) T tile[kTransposed<T>][kRegCols<T>] = {};
        for (int64_t f = 0; f < count; f += kRegRows)
          gradient_tile<ByDifferences>(terms, dim, z + (k + f) * kGroupRows, c + col, x + (k + f) * kGroupRows + col,
                                       c_sum + col, 4 * layers_.scale[l], tile[f]);
        for (int64_t f = 0; f < count; f += kLanes<T>)
          store_transposed(tile[f], k + f, count - f < kLanes<T> ? count - f : kLanes<T>, out, s.accumulate);
      }
    }
  }

  T* gradient_row(int l, int64_t row) const {   // null: outside the batch, or nobody needs it
    if (row >= problem_.n()) return nullptr;
    const bool source = row < problem_.n_source;
    T* gradient = static_cast<T*>(source ? io_.grad_source[l] : io_.grad_target[l]);
    return gradient ? gradient + (source ? row : row - problem_.n_source) * problem_.layer[l].dim : nullptr;
  }

  const Problem& problem_;
  const Buffers& io_;
  const Layers<T>& layers_;
  const Workspace<T>& work_;
};

}   // namespace fastmmd::FASTMMD_VARIANT
