// The memory of one call: packed layers, coefficients of a pair of row panels, sums of its tiles.
#pragma once

#include "arena.h"
#include "pack.h"
#include "tile.h"

namespace fastmmd::FASTMMD_VARIANT {

template <typename T>
class Workspace {
 public:
  T* z[kMaxLayers];        // [groups][d_l][32]
  T* norms[kMaxLayers];    // [groups * 32]
  T* mean[kMaxLayers];     // [d_l]
  T* spread[kMaxLayers];   // [d_l / 64, rounded up]: largest difference from the first row
  T* panel[kMaxLayers]
          [2];   // coefficients for the rows of J and, if there are several panels, of I: [groups][rows][32]
  T* c_sum[kMaxLayers][2];   // their sums over rows: [groups * 32]
  T* w;                      // of a form: [groups][form_columns][32]
  double* wa;                // likewise
  T* kernel_panel[2];        // the loss's kernel, laid out as `panel`
  TileSums* sums;            // one per tile of a pair of panels

  // Without memory it only counts the bytes.
  Workspace(const Problem& problem, bool with_gradient, bool with_kw, void* memory)
      : arena_(memory), n_(problem.n()), groups_((n_ + kGroupRows - 1) / kGroupRows) {
    const int64_t panel_groups = groups_ < kPanelGroups ? groups_ : kPanelGroups;
    const int64_t panel_rows = panel_groups * kGroupRows;
    for (int l = 0; l < problem.num_layers; ++l) {
      z[l] = take<T>(groups_ * kGroupRows * problem.layer[l].dim);
      norms[l] = take<T>(groups_ * kGroupRows);
      mean[l] = take<T>(problem.layer[l].dim);
      spread[l] = take<T>((problem.layer[l].dim + kMeanColumns - 1) / kMeanColumns);
      panel[l][0] = take<T>(with_gradient ? panel_rows * panel_rows : 0);
      c_sum[l][0] = take<T>(with_gradient ? panel_rows : 0);
      c_sum[l][1] = take<T>(with_gradient ? panel_rows : 0);
      panel[l][1] = panels() > 1 ? take<T>(with_gradient ? panel_rows * panel_rows : 0) : nullptr;
    }
    w = take<T>(groups_ * kGroupRows * problem.form_columns);
    wa = take<double>(groups_ * kGroupRows * problem.form_columns);
    kernel_panel[0] = take<T>(with_kw ? panel_rows * panel_rows : 0);
    kernel_panel[1] = take<T>(with_kw && panels() > 1 ? panel_rows * panel_rows : 0);
    sums = take<TileSums>(panel_groups * panel_groups);
    take<T>(kRegRows * kGroupRows);   // gradient_tile reads this far beyond the last row group
  }
  int64_t bytes() const { return arena_.bytes(); }

  int64_t groups() const { return groups_; }
  int64_t panels() const { return (groups_ + kPanelGroups - 1) / kPanelGroups; }
  int64_t groups_in(int64_t panel) const {
    const int64_t left = groups_ - panel * kPanelGroups;
    return left < kPanelGroups ? left : kPanelGroups;
  }
  int64_t rows_in(int64_t panel) const {   // of the batch
    const int64_t left = n_ - panel * kPanelRows;
    return left < kPanelRows ? left : kPanelRows;
  }

 private:
  template <typename X>
  X* take(int64_t count) {
    return arena_.template take<X>(count);
  }
  Arena arena_;
  const int64_t n_, groups_;
};

}   // namespace fastmmd::FASTMMD_VARIANT
