// Training sizes in two launches: distances (small_distances.cuh), split over pairs of row panels and over parts of the
// features so that a small problem fills the GPU; then the loss and all gradients (small_loss.cuh), split over row
// panels and chunks of features.
//
// Distances are sums of squared differences: twice the instructions of an inner product, on half the pairs, and equal
// rows are exactly 0 apart, so that no pass for means or norms comes first. In the second launch every thread block
// adds up the parts of its rows' distances and computes its own coefficients: that costs less here than a third launch.
#pragma once

#include "inputs.cuh"
#include "pair.cuh"

namespace fastmmd::cuda {

constexpr int kSmallPanelRows = 32;     // a tile is the pairs of two panels
constexpr int kSmallFormColumns = 32;   // of W A that are in shared memory at a time

struct SmallProblem {
  Plan plan;
  Dtype dtype[kMaxLayers];
  int dim[kMaxLayers];
  int first_part[kMaxLayers + 1];    // a layer's first part of the features in the first launch, and the number of all
  int first_chunk[kMaxLayers + 1];   // likewise its chunks in the second; a layer without gradient has none
  int part_features;
  const void *source[kMaxLayers], *target[kMaxLayers];   // [n_s, d_l], [n_t, d_l]
  int64_t source_stride[kMaxLayers], target_stride[kMaxLayers];
  void *grad_source[kMaxLayers], *grad_target[kMaxLayers];   // [n_s, d_l], [n_t, d_l], or null
  const double* given_bandwidth;   // [L], read where a layer does not follow the mean; null stands for ones
  void *loss, *statistics;         // one value, [1 + 2 L]

  // Workspace.
  void* distance;         // [parts, panels, panels, 32, 32]
  double* distance_sum;   // [parts, panel pairs i <= j]: over the ordered pairs of rows that they stand for
  double* sums;           // [panels, 3, 1 + L]; of a form [panels, 2 + L]: the trace of the weights, then sums
  unsigned* arrived;      // thread blocks whose sums are there

  // Of a form, as in Buffers; form_columns 0: none.
  const void *w, *wa;
  void* kw;
  int form_columns;
  int columns_per_chunk;   // of K W, that a thread block of the second launch makes

  FM_INLINE int panels() const { return (plan.n() + kSmallPanelRows - 1) / kSmallPanelRows; }
  FM_INLINE int panel_pairs() const { return panels() * (panels() + 1) / 2; }
};
static_assert(sizeof(SmallProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

// Feature k of a row of the pooled batch.
template <typename In, typename T>
__device__ T feature(const SmallProblem& p, int l, int row, int k) {
  // Selected without a branch: a load in a branch of its own would wait for the one before it.
  const bool is_source = row < p.plan.n_source;
  const void* const base = is_source ? p.source[l] : p.target[l];
  const int64_t stride = is_source ? p.source_stride[l] : p.target_stride[l];
  return static_cast<T>(widen(static_cast<const In*>(base)[(is_source ? row : row - p.plan.n_source) * stride + k]));
}

}   // namespace fastmmd::cuda
