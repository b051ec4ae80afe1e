// The fused pass over one 32 x 32 tile: inner products of all layers become kernels, sums and coefficients.
#pragma once

#include "../kernel_math.h"
#include "microkernel.h"

namespace fastmmd::FASTMMD_VARIANT {

constexpr int kTerms = kMaxLayers + 1;   // the product, then each layer

// S_ss, S_tt, S_st of every term over one tile; a tile off the diagonal stands for its mirror image, too.
struct TileSums {
  double sum[kTerms][3];
};

// Where a tile lies in the pooled batch. Rows and columns beyond the batch carry weight 0.
template <typename T>
struct TileBounds {
  int rows, columns;   // valid ones, 1..32
  int source_rows, source_columns;
  bool diagonal;             // its rows are its columns
  T weight[2][kGroupRows];   // pair weight W_ij by the row's domain: [source row, target row][column]
};

template <typename T>
TileBounds<T> tile_bounds(const Problem& problem, int64_t row_group, int64_t column_group) {
  const auto clip = [](int64_t count) {
    return static_cast<int>(count < 0 ? 0 : count > kGroupRows ? kGroupRows : count);
  };
  TileBounds<T> bounds;
  const int64_t i0 = row_group * kGroupRows, j0 = column_group * kGroupRows;
  bounds.rows = clip(problem.n() - i0);
  bounds.columns = clip(problem.n() - j0);
  bounds.source_rows = clip(problem.n_source - i0);
  bounds.source_columns = clip(problem.n_source - j0);
  bounds.diagonal = row_group == column_group;
  for (int j = 0; j < kGroupRows; ++j) {
    const bool source = j < bounds.source_columns, valid = j < bounds.columns;
    bounds.weight[0][j] = static_cast<T>(!valid ? 0.0 : source ? problem.alpha : 0.5 * problem.gamma);
    bounds.weight[1][j] = static_cast<T>(!valid ? 0.0 : source ? 0.5 * problem.gamma : problem.beta);
  }
  return bounds;
}

// Rows of tiles [32][32] that are outside the batch become zero.
template <typename T>
FM_INLINE void clear_rows(int rows, int tiles, T* const* tile) {
  for (int l = 0; l < tiles; ++l)
    for (int i = rows * kGroupRows; i < kGroupRows * kGroupRows; ++i) tile[l][i] = 0;
}

// The kernels of all layers, their slopes and the product of the kernels, for row i of a tile against all of its
// columns. tile[l]: [32][32] inner products of layer l, or its squared distances where the norms are null. norms:
// squared norms of the rows and columns, per layer.
template <typename T, bool WithSlope, int U>
FM_INLINE void tile_row(int layers, const Mixture<T>* mixture, int i, T* const* tile, const T* const* row_norms,
                        const T* const* column_norms, Vec<T> (*value)[U], Vec<T> (*slope)[U], Vec<T>* product) {
  for (int l = 0; l < layers; ++l) {
    Vec<T> distance[U];
    for (int v = 0; v < U; ++v) distance[v] = load(tile[l] + i * kGroupRows + v * kLanes<T>);
    if (row_norms[l]) {
      const T norm = row_norms[l][i];
      for (int v = 0; v < U; ++v) {
        const Vec<T> d = (norm + load(column_norms[l] + v * kLanes<T>)) - static_cast<T>(2) * distance[v];
        distance[v] = d < 0 ? Vec<T>{} : d;
      }
    }
    evaluate<T, U, WithSlope>(mixture[l], exp_nonpositive<T>, distance, value[l], slope[l]);
    for (int v = 0; v < U; ++v) product[v] = l == 0 ? value[l][v] : product[v] * value[l][v];
  }
}

// With WithGradient tile[l] holds on return the coefficients C^l,
//     C_ij^l = W_ij (joint * prod_{l' != l} k_ij^l' + marginal_l) * slope_ij^l,
// zero on the diagonal and outside the batch. tile and norms as those of tile_row.
template <typename T, bool WithGradient>
void tile_pass(const Problem& problem, const Mixture<T>* mixture, const TileBounds<T>& bounds, T* const* tile,
               const T* const* row_norms, const T* const* column_norms, TileSums* sums) {
  constexpr int U = kGroupRows / kLanes<T>;
  const int L = problem.num_layers;
  Vec<T> partial[2][kTerms][U] = {};   // per column lane, by the row's domain
  const IntVec<T> lane = lane_index<T>();
  for (int i = 0; i < bounds.rows; ++i) {
    const int domain = i >= bounds.source_rows;
    Vec<T> value[kMaxLayers][U], slope[kMaxLayers][U], product[U] = {};
    tile_row<T, WithGradient, U>(L, mixture, i, tile, row_norms, column_norms, value, slope, product);
    for (int v = 0; v < U; ++v) {
      Vec<T> weight = load(bounds.weight[domain] + v * kLanes<T>);
      if (bounds.diagonal) {
        const IntVec<T> off = lane + static_cast<typename SimdTypes<T>::Int>(v * kLanes<T> - i);
        weight = off == 0 ? Vec<T>{} : weight;
        partial[domain][0][v] += off == 0 ? Vec<T>{} : product[v];
        for (int l = 0; l < L; ++l) partial[domain][1 + l][v] += off == 0 ? Vec<T>{} : value[l][v];
      } else {
        partial[domain][0][v] += product[v];
        for (int l = 0; l < L; ++l) partial[domain][1 + l][v] += value[l][v];
      }
      if constexpr (WithGradient) {
        coefficients<T, U>(L, static_cast<T>(problem.joint), problem.marginal, weight, &value[0][v], &slope[0][v],
                           [&](int l, Vec<T> c) { store(tile[l] + i * kGroupRows + v * kLanes<T>, c); });
      }
    }
  }
  if constexpr (WithGradient) clear_rows(bounds.rows, L, tile);

  const double multiplicity = bounds.diagonal ? 1.0 : 2.0;
  for (int t = 0; t <= L; ++t) {
    double ss = 0, st = 0, tt = 0;
    for (int v = 0; v < U; ++v)
      for (int k = 0; k < kLanes<T>; ++k) {
        const int j = v * kLanes<T> + k;
        if (j >= bounds.columns) continue;
        if (j < bounds.source_columns) {
          ss += static_cast<double>(partial[0][t][v][k]);
        } else {
          st += static_cast<double>(partial[0][t][v][k]);
          tt += static_cast<double>(partial[1][t][v][k]);
        }
      }
    sums->sum[t][0] = multiplicity * ss;
    sums->sum[t][1] = multiplicity * tt;
    sums->sum[t][2] = st;   // once: source rows come first, so a tile's mirror image has no further cross pairs
  }
}

// The same where pairs have weights of their own, zero outside the batch: pair_weight [32][32], or null where only
// kernels are wanted. kernel: the loss's kernel, zero on the diagonal, or null. Sums go where those over ss go, and are
// taken in double: products of equal weights and equal kernels would all be rounded alike.
template <typename T, bool WithGradient>
void form_tile_pass(const Problem& problem, const Mixture<T>* mixture, const TileBounds<T>& bounds, double* pair_weight,
                    T* kernel, T* const* tile, const T* const* row_norms, const T* const* column_norms,
                    TileSums* sums) {
  constexpr int U = kGroupRows / kLanes<T>;
  const int L = problem.num_layers, first_term = L > 1 ? 0 : 1;   // the product of one layer is that layer
  alignas(64) double partial[kTerms][kGroupRows] = {};            // per column
  const IntVec<T> lane = lane_index<T>();
  if (pair_weight && bounds.diagonal)
    for (int i = 0; i < kGroupRows; ++i) pair_weight[i * (kGroupRows + 1)] = 0;
  for (int i = 0; i < bounds.rows; ++i) {
    Vec<T> value[kMaxLayers][U], slope[kMaxLayers][U], product[U] = {};
    tile_row<T, WithGradient, U>(L, mixture, i, tile, row_norms, column_norms, value, slope, product);
    if (kernel)
      for (int v = 0; v < U; ++v) {
        Vec<T> sum = static_cast<T>(problem.joint) * product[v];
        for (int l = 0; l < L; ++l) sum += static_cast<T>(problem.marginal[l]) * value[l][v];
        const IntVec<T> off = lane + static_cast<typename SimdTypes<T>::Int>(v * kLanes<T> - i);
        if (bounds.diagonal) sum = off == 0 ? Vec<T>{} : sum;
        store(kernel + i * kGroupRows + v * kLanes<T>, sum);
      }
    if (!pair_weight) continue;
    const double* weights = pair_weight + i * kGroupRows;
    alignas(64) T row[kGroupRows];
    for (int t = first_term; t <= L; ++t) {
      for (int v = 0; v < U; ++v) store(row + v * kLanes<T>, t == 0 ? product[v] : value[t - 1][v]);
      for (int j = 0; j < kGroupRows; ++j) partial[t][j] += weights[j] * static_cast<double>(row[j]);
    }
    if constexpr (WithGradient) {
      for (int j = 0; j < kGroupRows; ++j) row[j] = static_cast<T>(weights[j]);
      for (int v = 0; v < U; ++v)
        coefficients<T, U>(L, static_cast<T>(problem.joint), problem.marginal, load(row + v * kLanes<T>), &value[0][v],
                           &slope[0][v], [&](int l, Vec<T> c) { store(tile[l] + i * kGroupRows + v * kLanes<T>, c); });
    }
  }
  if constexpr (WithGradient) clear_rows(bounds.rows, L, tile);
  if (kernel) clear_rows(bounds.rows, 1, &kernel);

  const double multiplicity = bounds.diagonal ? 1.0 : 2.0;
  for (int t = 0; t <= L; ++t) {
    double sum = 0;
    for (int j = 0; j < kGroupRows; ++j) sum += partial[t > first_term ? t : first_term][j];
    sums->sum[t][0] = multiplicity * sum;
    sums->sum[t][1] = sums->sum[t][2] = 0;
  }
}

template <typename T>
void transpose_tile(const T* from, T* to) {   // [32][32]
  constexpr int n = kLanes<T>;
  for (int i = 0; i < kGroupRows; i += n)
    for (int j = 0; j < kGroupRows; j += n) {
      Vec<T> r[n];
      for (int k = 0; k < n; ++k) r[k] = load(from + (i + k) * kGroupRows + j);
      transpose<T>(r);
      for (int k = 0; k < n; ++k) store(to + (j + k) * kGroupRows + i, r[k]);
    }
}

}   // namespace fastmmd::FASTMMD_VARIANT
