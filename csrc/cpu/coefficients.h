// The first phase of a pair of row panels: 32 x 32 tiles of the Gram matrices become kernels, sums and coefficients.
#pragma once

#include "layers.h"

namespace fastmmd::FASTMMD_VARIANT {

template <typename T>
class Coefficients {
 public:
  Coefficients(const Problem& problem, const Buffers& io, const Layers<T>& layers, const Workspace<T>& work)
      : problem_(problem), io_(io), layers_(layers), work_(work) {}

  // Coefficients for the rows of J, and their mirror image for those of I, into the workspace's panels. All threads of
  // the team call it.
  template <bool WithGradient>
  void compute(int64_t I, int64_t J) const {
    const int64_t rows = work_.groups_in(I), columns = work_.groups_in(J), tiles = rows * columns;
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t i = t % rows, j = t / rows;   // one group of columns against all of rows: it stays in cache
      if (I == J && i > j) continue;              // mirrored from (j, i)
      tile<WithGradient>(I, J, i, j, &work_.sums[t]);
    }
  }

  // In double: these sums meet the features themselves, where the products meet differences that average out. In fp32
  // they were most of the gradient's error. All threads of the team call it.
  void sum_over_rows(int64_t I, int64_t J) const {
    for (int direction = 0; direction < (I == J ? 1 : 2); ++direction) {
      const int64_t updated = direction == 0 ? J : I, summed = direction == 0 ? I : J;
      const int64_t height = work_.groups_in(summed) * kGroupRows, terms = work_.rows_in(summed);
      for (int l = 0; l < problem_.num_layers; ++l) {
        if (!io_.layer_needs_grad(l) || layers_.by_differences[l]) continue;
#pragma omp for schedule(static) nowait
        for (int64_t g = 0; g < work_.groups_in(updated); ++g) {
          const T* c = work_.panel[l][direction] + g * height * kGroupRows;
          double total[kGroupRows] = {};
          for (int64_t i = 0; i < terms; ++i)
            for (int v = 0; v < kGroupRows; ++v) total[v] += static_cast<double>(c[i * kGroupRows + v]);
          for (int v = 0; v < kGroupRows; ++v) work_.c_sum[l][direction][g * kGroupRows + v] = static_cast<T>(total[v]);
        }
      }
    }
  }

 private:
  template <bool WithGradient>
  void tile(int64_t I, int64_t J, int64_t i, int64_t j, TileSums* sums) const {
    alignas(64) T local[WithGradient ? 1 : kMaxLayers][kGroupRows * kGroupRows];
    const int64_t row_group = I * kPanelGroups + i, column_group = J * kPanelGroups + j;
    const int64_t height = work_.groups_in(I) * kGroupRows, width = work_.groups_in(J) * kGroupRows;
    const int64_t tile_in_panel = (j * height + i * kGroupRows) * kGroupRows;
    const int64_t mirrored = (i * width + j * kGroupRows) * kGroupRows;
    T* out[kMaxLayers] = {};
    const T *row_norms[kMaxLayers] = {}, *column_norms[kMaxLayers] = {};
    for (int l = 0; l < problem_.num_layers; ++l) {
      const int64_t dim = problem_.layer[l].dim;
      if constexpr (WithGradient)
        out[l] = work_.panel[l][0] + tile_in_panel;
      else
        out[l] = local[l];
      const T* rows = work_.z[l] + row_group * kGroupRows * dim;
      const T* columns = work_.z[l] + column_group * kGroupRows * dim;
      if (layers_.by_differences[l]) {
        pair_tile<SquaredDifference>(dim, rows, columns, out[l]);
      } else {
        pair_tile<Product>(dim, rows, columns, out[l]);
        row_norms[l] = work_.norms[l] + row_group * kGroupRows;
        column_norms[l] = work_.norms[l] + column_group * kGroupRows;
      }
    }
    const TileBounds<T> bounds = tile_bounds<T>(problem_, row_group, column_group);
    if (problem_.form_columns > 0) {
      const int64_t columns_of_w = problem_.form_columns;
      alignas(64) double pair_weight[kGroupRows * kGroupRows];
      if (io_.wa)
        pair_tile<Product>(columns_of_w, work_.w + row_group * kGroupRows * columns_of_w,
                           work_.wa + column_group * kGroupRows * columns_of_w, pair_weight);
      T* const kernel = io_.kw ? work_.kernel_panel[0] + tile_in_panel : nullptr;
      form_tile_pass<T, WithGradient>(problem_, layers_.mixture, bounds, io_.wa ? pair_weight : nullptr, kernel, out,
                                      row_norms, column_norms, sums);
      if (kernel && row_group != column_group) transpose_tile(kernel, work_.kernel_panel[I != J] + mirrored);
    } else {
      tile_pass<T, WithGradient>(problem_, layers_.mixture, bounds, out, row_norms, column_norms, sums);
    }
    if constexpr (WithGradient)
      if (row_group != column_group)
        for (int l = 0; l < problem_.num_layers; ++l)
          if (io_.layer_needs_grad(l)) transpose_tile(out[l], work_.panel[l][I != J] + mirrored);
  }

  const Problem& problem_;
  const Buffers& io_;
  const Layers<T>& layers_;
  const Workspace<T>& work_;
};

}   // namespace fastmmd::FASTMMD_VARIANT
