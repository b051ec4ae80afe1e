// The fused pass over one 32 x 32 tile: inner products of all layers become kernels, sums and coefficients.
#pragma once

#include "../kernel_math.h"
#include "microkernel.h"

namespace fastmmd::FASTMMD_VARIANT {

constexpr int kTerms = kMaxLayers + 1;   // the product, then each layer

// S_ss, S_tt, S_st of every term over one tile; a tile off the diagonal stands for its mirror image too.
struct TileSums {
  double sum[kTerms][3];
};

// What a tile needs to know of its rows and columns. Rows and columns beyond the batch carry weight 0.
template <typename T>
struct TilePlace {
  int rows, columns;   // valid ones, 1..32
  int source_rows, source_columns;
  bool diagonal;         // row block == column block
  T weight[2][kBlock];   // pair weight W_ij by the row's domain: [source row, target row][column]
};

template <typename T>
TilePlace<T> place_tile(const Problem& problem, int64_t row_block, int64_t column_block) {
  const auto clip = [](int64_t count) { return static_cast<int>(count < 0 ? 0 : count > kBlock ? kBlock : count); };
  TilePlace<T> place;
  const int64_t i0 = row_block * kBlock, j0 = column_block * kBlock;
  place.rows = clip(problem.n() - i0);
  place.columns = clip(problem.n() - j0);
  place.source_rows = clip(problem.n_source - i0);
  place.source_columns = clip(problem.n_source - j0);
  place.diagonal = row_block == column_block;
  for (int j = 0; j < kBlock; ++j) {
    const bool source = j < place.source_columns, valid = j < place.columns;
    place.weight[0][j] = static_cast<T>(!valid ? 0.0 : source ? problem.alpha : 0.5 * problem.gamma);
    place.weight[1][j] = static_cast<T>(!valid ? 0.0 : source ? 0.5 * problem.gamma : problem.beta);
  }
  return place;
}

// tile[l]: [32][32] inner products of layer l on entry, or its squared distances where the norms are null; with
// WithGradient its coefficients C^l on return,
//     C_ij^l = W_ij (joint * prod_{l' != l} k_ij^l' + marginal_l) * slope_ij^l,
// zero on the diagonal and outside the batch. norms: squared norms of the rows and columns, per layer.
template <typename T, bool WithGradient>
void fused_pass(const Problem& problem, const Mixture<T>* mixture, const TilePlace<T>& place, T* const* tile,
                const T* const* row_norms, const T* const* column_norms, TileSums* sums) {
  constexpr int U = kBlock / kLanes<T>;
  const int L = problem.num_layers;
  Vec<T> partial[2][kTerms][U] = {};   // per column lane, by the row's domain
  const IntVec<T> lane = lane_index<T>();
  for (int i = 0; i < place.rows; ++i) {
    const int domain = i >= place.source_rows;
    Vec<T> value[kMaxLayers][U], slope[kMaxLayers][U], product[U] = {};
    for (int l = 0; l < L; ++l) {
      Vec<T> distance[U];
      for (int v = 0; v < U; ++v) distance[v] = load(tile[l] + i * kBlock + v * kLanes<T>);
      if (row_norms[l]) {
        const T norm = row_norms[l][i];
        for (int v = 0; v < U; ++v) {
          const Vec<T> d = (norm + load(column_norms[l] + v * kLanes<T>)) - static_cast<T>(2) * distance[v];
          distance[v] = d < 0 ? Vec<T>{} : d;
        }
      }
      evaluate<T, U, WithGradient>(mixture[l], exp_nonpositive<T>, distance, value[l], slope[l]);
      for (int v = 0; v < U; ++v) product[v] = l == 0 ? value[l][v] : product[v] * value[l][v];
    }
    for (int v = 0; v < U; ++v) {
      Vec<T> weight = load(place.weight[domain] + v * kLanes<T>);
      if (place.diagonal) {
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
                           [&](int l, Vec<T> c) { store(tile[l] + i * kBlock + v * kLanes<T>, c); });
      }
    }
  }
  if constexpr (WithGradient)
    for (int l = 0; l < L; ++l)
      for (int i = place.rows * kBlock; i < kBlock * kBlock; ++i) tile[l][i] = 0;

  const double images = place.diagonal ? 1.0 : 2.0;
  for (int t = 0; t <= L; ++t) {
    double ss = 0, st = 0, tt = 0;
    for (int v = 0; v < U; ++v)
      for (int k = 0; k < kLanes<T>; ++k) {
        const int j = v * kLanes<T> + k;
        if (j >= place.columns) continue;
        if (j < place.source_columns) {
          ss += static_cast<double>(partial[0][t][v][k]);
        } else {
          st += static_cast<double>(partial[0][t][v][k]);
          tt += static_cast<double>(partial[1][t][v][k]);
        }
      }
    sums->sum[t][0] = images * ss;
    sums->sum[t][1] = images * tt;
    sums->sum[t][2] = st;
  }
}

template <typename T>
void transpose_tile(const T* from, T* to) {   // [32][32]
  constexpr int n = kLanes<T>;
  for (int i = 0; i < kBlock; i += n)
    for (int j = 0; j < kBlock; j += n) {
      Vec<T> r[n];
      for (int k = 0; k < n; ++k) r[k] = load(from + (i + k) * kBlock + j);
      transpose<T>(r);
      for (int k = 0; k < n; ++k) store(to + (j + k) * kBlock + i, r[k]);
    }
}

}   // namespace fastmmd::FASTMMD_VARIANT
