// Small matrix products on groups of 32 rows.
//
// Every layer is held as row groups [d][32]: 32 consecutive rows of Z, features outermost. Both products of the loss
// read this one layout without repacking: the Gram tile broadcasts rows of one group against the 32 rows of another,
// and the gradient broadcasts features against 32 columns of the coefficient matrix.
#pragma once

#include <numeric>

#include "simd.h"

namespace fastmmd::FASTMMD_VARIANT {

constexpr int kGroupRows = 32;   // of a row group

// Register tile: kRegRows broadcast operands against two vectors. 8 x 2 accumulators of the 32 AVX-512 registers reach
// 239 GFLOP/s per core on Zen 5, as larger tiles do; 6 x 2 of the 16 AVX2 registers hide the FMA latency, 4 x 2 do not.
constexpr int kRegRows = FASTMMD_VECTOR_BYTES >= 64 ? 8 : FASTMMD_VECTOR_BYTES >= 32 ? 6 : 4;
constexpr int kRegVecs = 2;
template <typename T>
constexpr int kRegCols = kRegVecs * kLanes<T>;

// Long sums are taken in pieces of kDepth terms that are added up: shorter error chains, and one operand stays in L1.
constexpr int64_t kDepth = 256;

constexpr int64_t kChain = 64;   // the same for the sums of the gradient

// acc[r][v] += sum_p term(r, v, a[r * RowStep + p * TermStep], b[p * 32 + v * lanes ...])
template <typename T, int Rows, int64_t RowStep, int64_t TermStep, typename A, typename Term>
FM_INLINE void accumulate_terms(int64_t terms, const A* a, const T* b, Vec<T> (&acc)[Rows][kRegVecs], Term term) {
  for (int64_t p = 0; p < terms; ++p) {
    Vec<T> x[kRegVecs];
#pragma GCC unroll 4
    for (int v = 0; v < kRegVecs; ++v) x[v] = load(b + p * kGroupRows + v * kLanes<T>);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const T y = a[r * RowStep + p * TermStep];
#pragma GCC unroll 4
      for (int v = 0; v < kRegVecs; ++v) acc[r][v] += term(r, v, y, x[v]);
    }
  }
}

// The terms of a tile of pairs. A product is one instruction; a squared difference is two, and right however far the
// rows lie from the origin.
template <typename T>
struct Product {
  FM_INLINE Vec<T> operator()(int, int, T y, Vec<T> x) const { return y * x; }
};
template <typename T>
struct SquaredDifference {
  FM_INLINE Vec<T> operator()(int, int, T y, Vec<T> x) const { return (y - x) * (y - x); }
};

template <template <typename> typename Term, typename T, int Rows, typename A>
FM_INLINE void pair_rows(int64_t terms, const A* a, const T* b, T* out, bool accumulate) {
  Vec<T> acc[Rows][kRegVecs] = {};
  accumulate_terms<T, Rows, 1, kGroupRows>(terms, a, b, acc, Term<T>{});
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kRegVecs; ++v) {
      T* to = out + r * kGroupRows + v * kLanes<T>;
      store(to, accumulate ? load(to) + acc[r][v] : acc[r][v]);
    }
}

// out[32][32] for two row groups a, b [dim][32]: inner products (Product) or squared distances (SquaredDifference) of
// all pairs of their rows, computed as b and out are.
template <template <typename> typename Term, typename A, typename T>
void pair_tile(int64_t dim, const A* a, const T* b, T* out) {
  for (int64_t p = 0; p < dim; p += kDepth) {
    const int64_t terms = dim - p < kDepth ? dim - p : kDepth;
    for (int c = 0; c < kGroupRows; c += kRegCols<T>) {
      int r = 0;
      for (; r + kRegRows <= kGroupRows; r += kRegRows)
        pair_rows<Term, T, kRegRows>(terms, a + p * kGroupRows + r, b + p * kGroupRows + c, out + r * kGroupRows + c,
                                     p > 0);
      if constexpr (kGroupRows % kRegRows != 0)
        pair_rows<Term, T, kGroupRows % kRegRows>(terms, a + p * kGroupRows + r, b + p * kGroupRows + c,
                                                  out + r * kGroupRows + c, p > 0);
    }
  }
}

// How rows are weighted and added up: as differences from the updated row, term by term or in half the instructions
// (sum_i c_i z_i - x sum_i c_i), or as they are.
enum class Weighted { differences, products, plain };

// kRegRows features of kRegCols rows of one row group's gradient, features outermost:
//     out[f][row] = factor * sum_i c[i][row] * (z_i[f] - x[f][row]),
// x the rows themselves, the sum over `terms` rows z_i in consecutive row groups of `dim` features; without x where
// they are plain. z and x point at the first feature, c, x and c_sum at the first row. Features beyond the layer's last
// one come out as garbage: what is read there is the workspace.
template <Weighted How, typename T>
FM_INLINE void gradient_tile(int64_t terms, int64_t dim, const T* z, const T* c, const T* x, const T* c_sum, T factor,
                             T* out) {
  const auto term = [x](int f, int v, T feature, Vec<T> coefficient) {
    if constexpr (How == Weighted::differences)
      return (feature - load(x + f * kGroupRows + v * kLanes<T>)) * coefficient;
    else
      return feature * coefficient;
  };
  // Within-domain coefficients are positive, cross-domain ones negative: the running sum is far larger than the result,
  // so it is taken in pieces of kChain terms.
  Vec<T> acc[kRegRows][kRegVecs] = {};
  for (int64_t i0 = 0; i0 < terms; i0 += kChain) {
    Vec<T> piece[kRegRows][kRegVecs] = {};
    const int64_t i2 = i0 + kChain < terms ? i0 + kChain : terms;
    for (int64_t i1 = i0; i1 < i2; i1 += kGroupRows)
      accumulate_terms<T, kRegRows, kGroupRows, 1>(i2 - i1 < kGroupRows ? i2 - i1 : kGroupRows, z + i1 * dim,
                                                   c + i1 * kGroupRows, piece, term);
    for (int f = 0; f < kRegRows; ++f)
      for (int v = 0; v < kRegVecs; ++v) acc[f][v] += piece[f][v];
  }
  for (int f = 0; f < kRegRows; ++f)
    for (int v = 0; v < kRegVecs; ++v) {
      Vec<T> sum = acc[f][v];
      if constexpr (How == Weighted::products)
        sum -= load(c_sum + v * kLanes<T>) * load(x + f * kGroupRows + v * kLanes<T>);
      store(out + f * kRegCols<T> + v * kLanes<T>, factor * sum);
    }
}

template <typename T>
constexpr int64_t kTransposed = std::lcm(kLanes<T>, kRegRows);   // features stored at once

// Features [k, k + count), count <= kLanes, of kRegCols rows from tile[feature][row] into row-major rows: rows[r] is
// the start of row r, or null.
template <typename T>
FM_INLINE void store_transposed(const T* tile, int64_t k, int64_t count, T* const* rows, bool accumulate) {
  for (int v = 0; v < kRegVecs; ++v) {
    Vec<T> r[kLanes<T>];
    for (int f = 0; f < kLanes<T>; ++f) r[f] = load(tile + f * kRegCols<T> + v * kLanes<T>);
    transpose<T>(r);
    for (int i = 0; i < kLanes<T>; ++i) {
      T* row = rows[v * kLanes<T> + i];
      if (!row) continue;
      if (count == kLanes<T>)
        store(row + k, accumulate ? load(row + k) + r[i] : r[i]);
      else
        store_first(row + k, accumulate ? load_first(row + k, count) + r[i] : r[i], count);
    }
  }
}

}   // namespace fastmmd::FASTMMD_VARIANT
