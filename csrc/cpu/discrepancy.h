// The whole computation: centre and pack, then for each pair of row panels (I <= J) two parallel phases,
//   1. coefficients: 32 x 32 tiles of the Gram matrices, fused pass, C and its mirror image into a bounded panel;
//   2. gradients:    panel times features, added to the rows of J and of I.
// Each Gram tile is computed once (N^2 d flop), each product twice as symmetry asks (2 N^2 d). A layer whose features
// are far larger than its bandwidth takes differences of rows instead of products, in both phases. A tile and a
// gradient tile belong to one thread and are summed in a fixed order, so results do not depend on the number of
// threads.
#pragma once

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "arena.h"
#include "pack.h"
#include "tile.h"

namespace fastmmd::FASTMMD_VARIANT {

constexpr int64_t kGradientColumns = 96;   // features of one gradient task: its slice of a panel stays in L2

// Largest squared norm, over the sharpest Gaussian's scale * B, for which distances come from inner products: these are
// right to an ulp of the norms, so six bits are lost. Beyond it they are sums of squared differences, twice the
// instructions.
constexpr double kLargestRatio = 64;

// The same where the largest squared norm is so many times the mean one, and above the sharpest width: far rows move
// the centre away from all others, whose differences a product then loses, however large a mean bandwidth is.
constexpr double kFarRow = 16;

// Kernels underflow in bulk far from the diagonal; subnormals would cost a trap each on some CPUs.
struct FlushSubnormals {
#if defined(__SSE__)
  unsigned saved = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(saved | 0x8040); }
  ~FlushSubnormals() { _mm_setcsr(saved); }
#endif
};

template <typename T>
class Workspace {
 public:
  T* z[kMaxLayers];          // [blocks][d_l][32]
  T* norms[kMaxLayers];      // [blocks * 32]
  T* mean[kMaxLayers];       // [d_l]
  T* spread[kMaxLayers];     // [d_l / 64, rounded up]: largest difference from the first row
  T* panel[kMaxLayers][2];   // coefficients for the rows of J and of I: [blocks][rows][32]
  T* c_sum[kMaxLayers][2];   // their sums over rows: [blocks * 32]
  TileSums* sums;            // one a tile
  int64_t blocks, panel_rows;

  Workspace(const Problem& problem, bool with_gradient, void* base) : arena_(base) {
    blocks = (problem.n() + kBlock - 1) / kBlock;
    panel_rows = (blocks < kPanelBlocks ? blocks : kPanelBlocks) * kBlock;
    const bool two_panels = blocks > kPanelBlocks;
    for (int l = 0; l < problem.num_layers; ++l) {
      z[l] = take<T>(blocks * kBlock * problem.layer[l].dim);
      norms[l] = take<T>(blocks * kBlock);
      mean[l] = take<T>(problem.layer[l].dim);
      spread[l] = take<T>((problem.layer[l].dim + kMeanColumns - 1) / kMeanColumns);
      panel[l][0] = take<T>(with_gradient ? panel_rows * panel_rows : 0);
      c_sum[l][0] = take<T>(with_gradient ? panel_rows : 0);
      c_sum[l][1] = take<T>(with_gradient ? panel_rows : 0);
      panel[l][1] = two_panels ? take<T>(with_gradient ? panel_rows * panel_rows : 0) : panel[l][0];
    }
    sums = take<TileSums>((panel_rows / kBlock) * (panel_rows / kBlock));
    take<T>(kRegRows * kBlock);   // gradient_tile reads this far beyond the last block
  }
  int64_t bytes() const { return arena_.bytes(); }

 private:
  template <typename X>
  X* take(int64_t count) {
    return arena_.template take<X>(count);
  }
  Arena arena_;
};

struct Totals {
  double sum[kTerms][3] = {};
  void add(const TileSums& tile, int terms) {
    for (int t = 0; t < terms; ++t)
      for (int c = 0; c < 3; ++c) sum[t][c] += tile.sum[t][c];
  }
};

template <typename T>
class Discrepancy {
 public:
  Discrepancy(const Problem& problem, const Buffers& io, bool with_gradient)
      : problem_(problem), io_(io), with_gradient_(with_gradient), work_(problem, with_gradient, io.workspace) {
    for (int l = 0; l < problem.num_layers; ++l)
      rows_[l] = {static_cast<const T*>(io.source[l]),
                  static_cast<const T*>(io.target[l]),
                  io.source_stride[l],
                  io.target_stride[l],
                  problem.n_source,
                  problem.n()};
  }

  void run(int num_threads) {
    const int64_t panels = (work_.blocks + kPanelBlocks - 1) / kPanelBlocks;
#pragma omp parallel num_threads(num_threads)
    {
      [[maybe_unused]] const FlushSubnormals flush;
      pack();
      for (int64_t I = 0; I < panels; ++I)
        for (int64_t J = I; J < panels; ++J) {
          coefficients(I, J);
          if (with_gradient_) coefficient_sums(I, J);
#pragma omp single
          add_totals(I, J);
          if (with_gradient_) gradients(I, J);
        }
    }
    report();
  }

 private:
  void pack() {
    for (int l = 0; l < problem_.num_layers; ++l) {
      const int64_t dim = problem_.layer[l].dim;
#pragma omp for schedule(static) nowait
      for (int64_t k = 0; k < dim; k += kMeanColumns)
        work_.spread[l][k / kMeanColumns] =
            column_means(rows_[l], k, dim - k < kMeanColumns ? dim - k : kMeanColumns, work_.mean[l]);
    }
#pragma omp barrier
    double scale[kMaxLayers];
    for (int l = 0; l < problem_.num_layers; ++l) {
      const int64_t dim = problem_.layer[l].dim;
      scale[l] = feature_scale(work_.spread[l], (dim + kMeanColumns - 1) / kMeanColumns);
#pragma omp for schedule(static) nowait
      for (int64_t b = 0; b < work_.blocks; ++b) {
        T* z = work_.z[l] + b * kBlock * dim;
        pack_block(rows_[l], b, dim, work_.mean[l], static_cast<T>(scale[l]), z);
        block_norms(dim, z, work_.norms[l] + b * kBlock);
      }
    }
#pragma omp barrier
#pragma omp single
    for (int l = 0; l < problem_.num_layers; ++l) prepare(l, scale[l]);
    for (int l = 0; l < problem_.num_layers; ++l) {
      if (!by_differences_[l]) continue;
      const int64_t dim = problem_.layer[l].dim;
#pragma omp for schedule(static)
      for (int64_t b = 0; b < work_.blocks; ++b)
        pack_block<T>(rows_[l], b, dim, nullptr, scale_[l], work_.z[l] + b * kBlock * dim);
    }
  }

  // From the norms of centred rows times `scale`: the bandwidth, and whether products are precise enough for it.
  void prepare(int l, double scale) {
    const Layer& layer = problem_.layer[l];
    double total = 0, largest = 0;
    for (int64_t i = 0; i < problem_.n(); ++i) {
      const double norm = static_cast<double>(work_.norms[l][i]);
      total += norm;
      largest = norm > largest ? norm : largest;
    }
    // sum_ij ||z_i - z_j||^2 / (N^2 - N) = 2 sum_i ||z_i||^2 / (N - 1) for centred rows.
    const double mean = 2.0 * total / static_cast<double>(problem_.n() - 1) / (scale * scale);
    bandwidth_[l] = layer.unit * (layer.follows_mean ? mean : io_.bandwidth ? io_.bandwidth[l] : 1.0);
    const double sharpest = layer.scale[0] * bandwidth_[l];
    const double n = static_cast<double>(problem_.n());
    const double far =
        kFarRow < 0.75 * (n - 1) ? kFarRow : 0.75 * (n - 1);   // one far row has n - 1 times the mean norm
    const double width = sharpest * scale * scale;             // of the sharpest Gaussian, as norms are scaled
    by_differences_[l] =
        std::isfinite(total) && (largest > kLargestRatio * width || (largest > width && largest * n > far * total));
    if (by_differences_[l] && sharpest > 0) scale = inverse_root<T>(sharpest);
    scale_[l] = static_cast<T>(scale);
    mixture_[l] = Mixture<T>::make(layer, bandwidth_[l] * scale * scale);
  }

  int64_t blocks_in(int64_t panel) const {
    const int64_t left = work_.blocks - panel * kPanelBlocks;
    return left < kPanelBlocks ? left : kPanelBlocks;
  }

  void coefficients(int64_t I, int64_t J) {
    const int64_t rows = blocks_in(I), columns = blocks_in(J), tiles = rows * columns;
#pragma omp for schedule(dynamic, 1)
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t i = t % rows, j = t / rows;   // one column block against all row blocks: it stays in cache
      if (I == J && i > j) continue;              // mirrored from (j, i)
      with_gradient_ ? tile<true>(I, J, i, j, &work_.sums[t]) : tile<false>(I, J, i, j, &work_.sums[t]);
    }
  }

  void add_totals(int64_t I, int64_t J) {
    const int64_t rows = blocks_in(I), tiles = rows * blocks_in(J);
    for (int64_t t = 0; t < tiles; ++t)
      if (I != J || t % rows <= t / rows) totals_.add(work_.sums[t], problem_.num_layers + 1);
  }

  template <bool WithGradient>
  void tile(int64_t I, int64_t J, int64_t i, int64_t j, TileSums* sums) {
    alignas(64) T local[WithGradient ? 1 : kMaxLayers][kBlock * kBlock];
    const int64_t row_block = I * kPanelBlocks + i, column_block = J * kPanelBlocks + j;
    const int64_t height = blocks_in(I) * kBlock, width = blocks_in(J) * kBlock;
    T* out[kMaxLayers] = {};
    const T *row_norms[kMaxLayers] = {}, *column_norms[kMaxLayers] = {};
    for (int l = 0; l < problem_.num_layers; ++l) {
      const int64_t dim = problem_.layer[l].dim;
      if constexpr (WithGradient)
        out[l] = work_.panel[l][0] + (j * height + i * kBlock) * kBlock;
      else
        out[l] = local[l];
      const T *rows = work_.z[l] + row_block * kBlock * dim, *columns = work_.z[l] + column_block * kBlock * dim;
      if (by_differences_[l]) {
        pair_tile<SquaredDifference>(dim, rows, columns, out[l]);
      } else {
        pair_tile<Product>(dim, rows, columns, out[l]);
        row_norms[l] = work_.norms[l] + row_block * kBlock;
        column_norms[l] = work_.norms[l] + column_block * kBlock;
      }
    }
    fused_pass<T, WithGradient>(problem_, mixture_, place_tile<T>(problem_, row_block, column_block), out, row_norms,
                                column_norms, sums);
    if constexpr (WithGradient)
      if (row_block != column_block)
        for (int l = 0; l < problem_.num_layers; ++l)
          if (wants(l)) transpose_tile(out[l], work_.panel[l][I != J] + (i * width + j * kBlock) * kBlock);
  }

  bool wants(int l) const { return io_.grad_source[l] || io_.grad_target[l]; }

  // The two directions in which a panel pair acts: on the rows of J by sums over I, and on those of I by sums over J.
  struct Side {
    int64_t of, from;
  };
  static Side side(int index, int64_t I, int64_t J) { return index == 0 ? Side{J, I} : Side{I, J}; }

  // In double: these sums meet the features themselves, where the products meet differences that average out. In fp32
  // they were most of the gradient's error.
  void coefficient_sums(int64_t I, int64_t J) {
    for (int index = 0; index < (I == J ? 1 : 2); ++index) {
      const Side s = side(index, I, J);
      const int64_t height = blocks_in(s.from) * kBlock, terms = rows_in(s.from);
      for (int l = 0; l < problem_.num_layers; ++l) {
        if (!wants(l) || by_differences_[l]) continue;
#pragma omp for schedule(static) nowait
        for (int64_t b = 0; b < blocks_in(s.of); ++b) {
          const T* c = work_.panel[l][index] + b * height * kBlock;
          double total[kBlock] = {};
          for (int64_t i = 0; i < terms; ++i)
            for (int v = 0; v < kBlock; ++v) total[v] += static_cast<double>(c[i * kBlock + v]);
          for (int v = 0; v < kBlock; ++v) work_.c_sum[l][index][b * kBlock + v] = static_cast<T>(total[v]);
        }
      }
    }
  }

  void gradients(int64_t I, int64_t J) {
    for (int index = 0; index < (I == J ? 1 : 2); ++index) {
      const Side s = side(index, I, J);
      const int64_t blocks = blocks_in(s.of);
      const bool accumulate = I > 0 || index == 1;
      for (int l = 0; l < problem_.num_layers; ++l) {
        if (!wants(l)) continue;
        const int64_t dim = problem_.layer[l].dim, slices = (dim + kGradientColumns - 1) / kGradientColumns;
#pragma omp for schedule(dynamic, 1) nowait
        for (int64_t t = 0; t < blocks * slices; ++t) {
          const int64_t b = t % blocks, k0 = t / blocks * kGradientColumns;
          const int64_t k1 = k0 + kGradientColumns < dim ? k0 + kGradientColumns : dim;
          by_differences_[l] ? gradient_slice<true>(l, index, s, b, k0, k1, accumulate)
                             : gradient_slice<false>(l, index, s, b, k0, k1, accumulate);
        }
      }
    }
#pragma omp barrier
  }

  int64_t rows_in(int64_t panel) const {
    const int64_t left = problem_.n() - panel * kPanel;
    return left < kPanel ? left : kPanel;
  }

  // Features [k0, k1) of the gradient of one block of panel s.of, whose rows may lie in both domains.
  template <bool ByDifferences>
  void gradient_slice(int l, int index, Side s, int64_t b, int64_t k0, int64_t k1, bool accumulate) {
    const int64_t dim = problem_.layer[l].dim, row0 = s.of * kPanel + b * kBlock, terms = rows_in(s.from);
    const T* z = work_.z[l] + s.from * kPanel * dim;
    const T* own = work_.z[l] + row0 * dim;
    const T* c = work_.panel[l][index] + b * blocks_in(s.from) * kBlock * kBlock;
    const T* c_sum = work_.c_sum[l][index] + b * kBlock;
    for (int col = 0; col < kBlock; col += kRegCols<T>) {
      T* out[kRegCols<T>];
      bool any = false;
      for (int r = 0; r < kRegCols<T>; ++r) {
        out[r] = gradient_row(l, row0 + col + r);
        any = any || out[r];
      }
      if (!any) continue;
      for (int64_t k = k0; k < k1; k += kTransposed<T>) {
        const int64_t count = k1 - k < kTransposed<T> ? k1 - k : kTransposed<T>;
        alignas(64) T tile[kTransposed<T>][kRegCols<T>] = {};
        for (int64_t f = 0; f < count; f += kRegRows)
          gradient_tile<ByDifferences>(terms, dim, z + (k + f) * kBlock, c + col, own + (k + f) * kBlock + col,
                                       c_sum + col, 4 * scale_[l], tile[f]);
        for (int64_t f = 0; f < count; f += kLanes<T>)
          store_transposed(tile[f], k + f, count - f < kLanes<T> ? count - f : kLanes<T>, out, accumulate);
      }
    }
  }

  T* gradient_row(int l, int64_t row) const {   // null: outside the batch or not wanted
    if (row >= problem_.n()) return nullptr;
    const bool source = row < problem_.n_source;
    T* base = static_cast<T*>(source ? io_.grad_source[l] : io_.grad_target[l]);
    return base ? base + (source ? row : row - problem_.n_source) * problem_.layer[l].dim : nullptr;
  }

  void report() const {
    T* out = static_cast<T*>(io_.report);
    double loss = 0, kappa = 1;
    for (int l = 0; l < problem_.num_layers; ++l) {
      kappa *= mixture_[l].at_zero;
      const double value = combine(1 + l, mixture_[l].at_zero);
      loss += problem_.marginal[l] * value;
      out[1 + l] = cut(value);
      out[1 + problem_.num_layers + l] = static_cast<T>(bandwidth_[l]);
    }
    const double product = combine(0, kappa);
    out[0] = cut(product);
    *static_cast<T*>(io_.loss) = cut(loss + problem_.joint * product);
  }
  double combine(int term, double at_zero) const {
    const double* s = totals_.sum[term];
    return problem_.alpha * s[0] + problem_.beta * s[1] + problem_.gamma * s[2] + problem_.diagonal * at_zero;
  }
  T cut(double value) const { return static_cast<T>(problem_.clamp && value < 0 ? 0.0 : value); }

  const Problem& problem_;
  const Buffers& io_;
  const bool with_gradient_;
  Workspace<T> work_;
  Rows<T> rows_[kMaxLayers];
  double bandwidth_[kMaxLayers];
  Mixture<T> mixture_[kMaxLayers];
  T scale_[kMaxLayers];   // of the packed features
  bool by_differences_[kMaxLayers];
  Totals totals_;
};

}   // namespace fastmmd::FASTMMD_VARIANT
