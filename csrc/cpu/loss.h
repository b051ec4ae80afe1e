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

#include "coefficients.h"
#include "gradients.h"

namespace fastmmd::FASTMMD_VARIANT {

// Kernels underflow in bulk far from the diagonal; subnormals would cost a trap each on some CPUs.
struct FlushSubnormals {
#if defined(__SSE__)
  unsigned saved = _mm_getcsr();
  FlushSubnormals() { _mm_setcsr(saved | 0x8040); }   // FTZ: results, DAZ: operands
  ~FlushSubnormals() { _mm_setcsr(saved); }
#endif
};

template <typename T>
class Loss {
 public:
  Loss(const Problem& problem, const Buffers& io, bool with_gradient)
      : problem_(problem),
        io_(io),
        with_gradient_(with_gradient),
        work_(problem, with_gradient, io.kw != nullptr, io.workspace),
        layers_(problem, io, work_),
        coefficients_(problem, io, layers_, work_),
        gradients_(problem, io, layers_, work_) {}

  void run(int num_threads) {
    const int64_t panels = work_.panels();
#pragma omp parallel num_threads(num_threads)
    {
      [[maybe_unused]] const FlushSubnormals flush;
      layers_.pack();
      for (int64_t I = 0; I < panels; ++I)
        for (int64_t J = I; J < panels; ++J) {
          with_gradient_ ? coefficients_.template compute<true>(I, J) : coefficients_.template compute<false>(I, J);
          if (with_gradient_) coefficients_.sum_over_rows(I, J);
// Its barrier is the one that sum_over_rows has not, before the gradients read what that wrote.
#pragma omp single
          add_sums(I, J);
          if (with_gradient_ || io_.kw) gradients_.add(I, J);
        }
    }
    if (problem_.form_columns == 0) {
      write_statistics([this](int term, double at_zero) { return value_of(term, at_zero); });
    } else {
      const double trace = io_.wa ? weights_of_diagonal() : 0.0;
      write_statistics([this, trace](int term, double at_zero) {
        return total_.sum[term][0] + problem_.diagonal * at_zero * trace;
      });
    }
  }

 private:
  void add_sums(int64_t I, int64_t J) {
    const int64_t rows = work_.groups_in(I), tiles = rows * work_.groups_in(J);
    for (int64_t tile = 0; tile < tiles; ++tile)
      if (I != J || tile % rows <= tile / rows)
        for (int t = 0; t <= problem_.num_layers; ++t)
          for (int r = 0; r < 3; ++r) total_.sum[t][r] += work_.sums[tile].sum[t][r];
  }

  template <typename ValueOf>
  void write_statistics(ValueOf value_of) const {
    T* out = static_cast<T*>(io_.statistics);
    double loss = 0, product_at_zero = 1;
    for (int l = 0; l < problem_.num_layers; ++l) {
      const double at_zero = layers_.mixture[l].at_zero;
      product_at_zero *= at_zero;
      const double marginal = value_of(1 + l, at_zero);
      loss += problem_.marginal[l] * marginal;
      out[1 + l] = clamped(marginal);
      out[1 + problem_.num_layers + l] = static_cast<T>(layers_.bandwidth[l]);
    }
    const double joint = value_of(0, product_at_zero);
    out[0] = clamped(joint);
    *static_cast<T*>(io_.loss) = clamped(loss + problem_.joint * joint);
  }
  double value_of(int term, double at_zero) const {
    const double* s = total_.sum[term];
    return problem_.alpha * s[0] + problem_.beta * s[1] + problem_.gamma * s[2] + problem_.diagonal * at_zero;
  }
  // The sum of the weights of pairs i = j.
  double weights_of_diagonal() const {
    const T* w = static_cast<const T*>(io_.w);
    const double* wa = static_cast<const double*>(io_.wa);
    double trace = 0;
    for (int64_t k = 0; k < problem_.n() * problem_.form_columns; ++k) trace += static_cast<double>(w[k]) * wa[k];
    return trace;
  }
  T clamped(double value) const { return static_cast<T>(problem_.clamp && value < 0 ? 0.0 : value); }

  const Problem& problem_;
  const Buffers& io_;
  const bool with_gradient_;
  const Workspace<T> work_;
  Layers<T> layers_;
  const Coefficients<T> coefficients_;
  const Gradients<T> gradients_;
  TileSums total_ = {};
};

}   // namespace fastmmd::FASTMMD_VARIANT
