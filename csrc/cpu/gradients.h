// The second phase of a pair of row panels: coefficients times features, added to the gradients of the rows of J (by
// sums over the rows of I) and of I (by sums over J). A form's K W is the same sum of kernels times W.
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
      const Panels panels = {direction == 0 ? J : I, direction == 0 ? I : J, I > 0 || direction == 1};
      for (int l = 0; l < problem_.num_layers; ++l) {
        if (!io_.layer_needs_grad(l)) continue;
        const Sum sum = {problem_.layer[l].dim,
                         work_.z[l],
                         work_.panel[l][direction],
                         work_.c_sum[l][direction],
                         4 * layers_.scale[l],
                         static_cast<T*>(io_.grad_source[l]),
                         static_cast<T*>(io_.grad_target[l]),
                         problem_.n_source};
        layers_.by_differences[l] ? add_slices<Weighted::differences>(panels, sum)
                                  : add_slices<Weighted::products>(panels, sum);
      }
      if (io_.kw)
        add_slices<Weighted::plain>(panels, {problem_.form_columns, work_.w, work_.kernel_panel[direction], nullptr, 1,
                                             static_cast<T*>(io_.kw), nullptr, problem_.n()});
    }
#pragma omp barrier
  }

 private:
  struct Panels {
    int64_t updated, summed;   // whose rows get sums, and over whose rows
    bool accumulate;           // to what earlier pairs of panels have stored
  };

  struct Sum {
    int64_t dim;
    const T* z;       // [groups][dim][32]
    const T* panel;   // coefficients: [groups of updated][rows of summed][32]
    const T* c_sum;   // over the rows of summed; null where z is plain
    T factor;
    T *source, *target;   // row-major rows that are added to, of the first n_source rows and of the others; or null
    int64_t n_source;
    T* row(int64_t i) const { return i < n_source ? row_of(source, i) : row_of(target, i - n_source); }
    T* row_of(T* first, int64_t i) const { return first ? first + i * dim : nullptr; }
  };

  // Tasks: features [k, k + kGradientColumns) of one row group.
  template <Weighted How>
  void add_slices(const Panels& panels, const Sum& sum) const {
    const int64_t groups = work_.groups_in(panels.updated);
    const int64_t slices = (sum.dim + kGradientColumns - 1) / kGradientColumns;
#pragma omp for schedule(dynamic, 1) nowait
    for (int64_t t = 0; t < groups * slices; ++t) {
      const int64_t k0 = t / groups * kGradientColumns;
      add_slice<How>(panels, sum, t % groups, k0, k0 + kGradientColumns < sum.dim ? k0 + kGradientColumns : sum.dim);
    }
  }

  // The rows of the group may lie in both domains.
  template <Weighted How>
  void add_slice(const Panels& panels, const Sum& sum, int64_t group, int64_t k0, int64_t k1) const {
    const int64_t dim = sum.dim, row0 = panels.updated * kPanelRows + group * kGroupRows;
    const int64_t terms = work_.rows_in(panels.summed);
    const T* z = sum.z + panels.summed * kPanelRows * dim;
    const T* x = sum.z + row0 * dim;
    const T* c = sum.panel + group * work_.groups_in(panels.summed) * kGroupRows * kGroupRows;
    for (int col = 0; col < kGroupRows; col += kRegCols<T>) {
      T* out[kRegCols<T>];
      bool any = false;
      for (int r = 0; r < kRegCols<T>; ++r) {
        const int64_t row = row0 + col + r;
        out[r] = row < problem_.n() ? sum.row(row) : nullptr;   // null: outside the batch, or nobody needs it
        any = any || out[r];
      }
      if (!any) continue;
      const T* c_sum = How == Weighted::products ? sum.c_sum + group * kGroupRows + col : nullptr;
      for (int64_t k = k0; k < k1; k += kTransposed<T>) {
        const int64_t count = k1 - k < kTransposed<T> ? k1 - k : kTransposed<T>;
        alignas(64) T tile[kTransposed<T>][kRegCols<T>] = {};
        for (int64_t f = 0; f < count; f += kRegRows)
          gradient_tile<How>(terms, dim, z + (k + f) * kGroupRows, c + col, x + (k + f) * kGroupRows + col, c_sum,
                             sum.factor, tile[f]);
        for (int64_t f = 0; f < count; f += kLanes<T>)
          store_transposed(tile[f], k + f, count - f < kLanes<T> ? count - f : kLanes<T>, out, panels.accumulate);
      }
    }
  }

  const Problem& problem_;
  const Buffers& io_;
  const Layers<T>& layers_;
  const Workspace<T>& work_;
};

}   // namespace fastmmd::FASTMMD_VARIANT
