// From the inputs to packed layers: centred rows with their norms, bandwidths, and how each layer's distances are
// taken.
#pragma once

#include "workspace.h"

namespace fastmmd::FASTMMD_VARIANT {

// Largest squared norm, over the sharpest Gaussian's multiplier * B, for which distances come from inner products:
// these are right to an ulp of the norms, so six bits are lost. Beyond it they are sums of squared differences, twice
// the instructions.
constexpr double kLargestRatio = 64;

// The same where the largest squared norm is so many times the mean one, and above the sharpest width: far rows move
// the centre away from all others, whose differences a product then loses, however large a mean bandwidth is.
constexpr double kFarRow = 16;

template <typename T>
class Layers {
 public:
  double bandwidth[kMaxLayers];
  Mixture<T> mixture[kMaxLayers];
  T scale[kMaxLayers];   // of the packed features
  bool by_differences[kMaxLayers];

  Layers(const Problem& problem, const Buffers& io, const Workspace<T>& work)
      : problem_(problem), io_(io), work_(work) {
    w_ = form_rows<T>(io.w);
    wa_ = form_rows<double>(io.wa);
    for (int l = 0; l < problem.num_layers; ++l)
      rows_[l] = {static_cast<const T*>(io.source[l]),
                  static_cast<const T*>(io.target[l]),
                  io.source_stride[l],
                  io.target_stride[l],
                  problem.n_source,
                  problem.n()};
  }

  // All threads of the team call it.
  void pack() {
    pack_form(w_, work_.w);
    pack_form(wa_, work_.wa);
    for (int l = 0; l < problem_.num_layers; ++l) {
      const int64_t dim = problem_.layer[l].dim;
#pragma omp for schedule(static) nowait
      for (int64_t k = 0; k < dim; k += kMeanColumns)
        work_.spread[l][k / kMeanColumns] =
            column_means(rows_[l], k, dim - k < kMeanColumns ? dim - k : kMeanColumns, work_.mean[l]);
    }
#pragma omp barrier
    double centred_scale[kMaxLayers];
    for (int l = 0; l < problem_.num_layers; ++l) {
      const int64_t dim = problem_.layer[l].dim;
      centred_scale[l] = feature_scale(work_.spread[l], (dim + kMeanColumns - 1) / kMeanColumns);
#pragma omp for schedule(static) nowait
      for (int64_t g = 0; g < work_.groups(); ++g) {
        T* z = work_.z[l] + g * kGroupRows * dim;
        pack_group(rows_[l], g, dim, work_.mean[l], static_cast<T>(centred_scale[l]), z);
        group_norms(dim, z, work_.norms[l] + g * kGroupRows);
      }
    }
#pragma omp barrier
#pragma omp single
    for (int l = 0; l < problem_.num_layers; ++l) decide(l, centred_scale[l]);
    for (int l = 0; l < problem_.num_layers; ++l) {
      if (!by_differences[l]) continue;
      const int64_t dim = problem_.layer[l].dim;
#pragma omp for schedule(static)
      for (int64_t g = 0; g < work_.groups(); ++g)
        pack_group<T>(rows_[l], g, dim, nullptr, scale[l], work_.z[l] + g * kGroupRows * dim);
    }
  }

 private:
  template <typename X>
  Rows<X> form_rows(const void* rows) const {
    return {static_cast<const X*>(rows), nullptr, problem_.form_columns, 0, problem_.n(), problem_.n()};
  }
  template <typename X>
  void pack_form(const Rows<X>& rows, X* out) const {
    if (!rows.source) return;
    const int64_t columns = problem_.form_columns;
#pragma omp for schedule(static) nowait
    for (int64_t g = 0; g < work_.groups(); ++g)
      pack_group<X>(rows, g, columns, nullptr, 1, out + g * kGroupRows * columns);
  }

  // From the norms of centred rows times `features_scale`: the bandwidth, and whether products are precise enough for
  // it.
  void decide(int l, double features_scale) {
    const Layer& layer = problem_.layer[l];
    double total = 0, largest = 0;
    for (int64_t i = 0; i < problem_.n(); ++i) {
      const double norm = static_cast<double>(work_.norms[l][i]);
      total += norm;
      largest = norm > largest ? norm : largest;
    }
    // sum_ij ||z_i - z_j||^2 / (N^2 - N) = 2 sum_i ||z_i||^2 / (N - 1) for centred rows.
    const double mean = 2.0 * total / static_cast<double>(problem_.n() - 1) / (features_scale * features_scale);
    bandwidth[l] = layer.bandwidth_scale * (layer.follows_mean    ? mean
                                            : io_.given_bandwidth ? io_.given_bandwidth[l]
                                                                  : 1.0);
    const double sharpest = layer.multiplier[0] * bandwidth[l];
    const double n = static_cast<double>(problem_.n());
    const double far =
        kFarRow < 0.75 * (n - 1) ? kFarRow : 0.75 * (n - 1);           // one far row has n - 1 times the mean norm
    const double width = sharpest * features_scale * features_scale;   // of the sharpest Gaussian, as norms are scaled
    by_differences[l] =
        std::isfinite(total) && (largest > kLargestRatio * width || (largest > width && largest * n > far * total));
    if (by_differences[l] && sharpest > 0) features_scale = inverse_root<T>(sharpest);
    scale[l] = static_cast<T>(features_scale);
    mixture[l] = Mixture<T>::make(layer, bandwidth[l] * features_scale * features_scale);
  }

  const Problem& problem_;
  const Buffers& io_;
  const Workspace<T>& work_;
  Rows<T> rows_[kMaxLayers];
  Rows<T> w_;   // without rows where there are none
  Rows<double> wa_;
};

}   // namespace fastmmd::FASTMMD_VARIANT
