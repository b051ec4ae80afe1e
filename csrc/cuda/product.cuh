// Products of small matrices in shared memory by one warp, on tensor cores.
//
// A warp's result is made of 16 x 8 fragments, spread over its lanes as mma.sync does (PTX ISA, m16n8): lane 4 g + t
// holds at [e] the element of row g + 8 (e / 2) and column 2 t + e % 2.
#pragma once

#include "device.h"
#include "entry.h"

namespace fastmmd::cuda {

template <Format F>
struct Operand {   // how operands lie in memory
  using Stored = float;
};
template <>
struct Operand<Format::bf16> {
  using Stored = bf16;
};
template <Format F>
using Stored = typename Operand<F>::Stored;

// Elements between rows in shared memory: 16 bytes more than a multiple of 128, so that the rows that a warp reads
// together lie in different banks. `width`: a multiple of 16.
template <Format F>
FM_INLINE int padded_width(int width) {
  constexpr int kLine = 128 / sizeof(Stored<F>), kExtra = 16 / sizeof(Stored<F>);
  return (width + kLine - 1) / kLine * kLine + kExtra;
}

__device__ inline int fragment_row(int e) { return threadIdx.x % 32 / 4 + e / 2 * 8; }
__device__ inline int fragment_column(int e) { return threadIdx.x % 4 * 2 + e % 2; }

// total += a b on fragments of 16 x kDepth<F> and kDepth<F> x 8 elements.
template <Format F>
constexpr int kDepth = F == Format::bf16 ? 16 : 8;

template <Format F>
__device__ void multiply(float (&total)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  if constexpr (F == Format::bf16) {
    mma_bf16(total, a, b);
  } else if constexpr (F == Format::tf32) {   // rounded already
    mma_tf32(total, a, b);
  } else {   // tf32x3: the product of two numbers of two digits each, but for the lowest
    uint32_t high_a[4], low_a[4], high_b[2], low_b[2];
    const auto split = [](uint32_t bits, uint32_t* high, uint32_t* low) {
      const float x = __uint_as_float(bits), upper = upper_digits(x, kTf32Split);
      *high = __float_as_uint(upper);
      *low = __float_as_uint(upper_digits(x - upper, kTf32Split));
    };
#pragma unroll
    for (int k = 0; k < 4; ++k) split(a[k], high_a + k, low_a + k);
#pragma unroll
    for (int k = 0; k < 2; ++k) split(b[k], high_b + k, low_b + k);
    // Tensor cores cut off what they add to a sum, so the sum itself is kept outside.
    float part[4] = {};
    mma_tf32(part, low_a, high_b);
    mma_tf32(part, high_a, low_b);
    mma_tf32(part, high_a, high_b);
#pragma unroll
    for (int e = 0; e < 4; ++e) total[e] += part[e];
  }
}

// Both products have two fragments of rows and two of columns, 32 x 16 elements per warp.
//
// Fragments come by ldmatrix, whose pairs of bf16 may as well be one fp32: lane 4 g + t gets element (g, t) of a matrix
// of 8 x 4 of these. Here is where a lane's rows begin: those of a left operand, 16 x kDepth<F>, and of a right one
// whose 16 columns lie in rows.
template <Format F>
__device__ SharedAddress left_rows(const Stored<F>* rows, int stride) {
  const int lane = threadIdx.x % 32;
  return shared_address(rows + lane % 16 * stride + lane / 16 * (kDepth<F> / 2));
}
template <Format F>
__device__ SharedAddress right_rows(const Stored<F>* rows, int stride) {
  const int lane = threadIdx.x % 32;
  return shared_address(rows + (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * (kDepth<F> / 2));
}
constexpr int kStepBytes = 32;   // of a row that one step of a product takes

// total[m][n] += x y^T: 32 rows of x, from `left_rows`, and 16 of y, from `right_rows`, each of `depth` elements (a
// multiple of 16).
template <Format F>
__device__ void add_inner_products(float (&total)[2][2][4], SharedAddress x, SharedAddress y, int stride, int depth) {
  const int second = 16 * stride * static_cast<int>(sizeof(Stored<F>));
#pragma unroll(F == Format::tf32x3 ? 2 : 4)
  for (int step = 0; step < depth / kDepth<F>; ++step) {
    uint32_t a[2][4], b[4];
    load_matrices(a[0], x + step * kStepBytes);
    load_matrices(a[1], x + second + step * kStepBytes);
    load_matrices(b, y + step * kStepBytes);
    const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      multiply<F>(total[m][0], a[m], left);
      multiply<F>(total[m][1], a[m], right);
    }
  }
}

// The second product, C y, takes its terms in an order in which fp32 rows of y lie in different banks: of each eight
// the pair 2 t and 2 t + 1 where the instruction has t and t + 4. So fp32 coefficients are stored in that order.

// Two coefficients of neighbouring columns, 2 t and the next, as the second product sees them. `to`: the first of the
// eight columns that hold them.
template <Format F>
__device__ void store_operands(Stored<F>* to, float first, float second) {
  const int t = threadIdx.x % 4;
  if constexpr (F == Format::bf16) {
    *reinterpret_cast<uint32_t*>(to + 2 * t) = pack_bf16(first, second);
  } else {
    to[t] = F == Format::tf32 ? upper_digits(first, kTf32Split) : first;
    to[t + 4] = F == Format::tf32 ? upper_digits(second, kTf32Split) : second;
  }
}

// Fragments of 32 rows of C, from `left_rows`: Steps * kDepth<F> columns.
template <Format F, int Steps>
__device__ void load_coefficients(uint32_t (&a)[Steps][2][4], SharedAddress c, int stride) {
#pragma unroll
  for (int step = 0; step < Steps; ++step)
#pragma unroll
    for (int m = 0; m < 2; ++m)
      load_matrices(a[step][m], c + 16 * m * stride * static_cast<int>(sizeof(Stored<F>)) + step * kStepBytes);
}

// Where this lane's part of 16 columns of y begins, for each step.
template <Format F, int Steps>
class WeightedRows {
 public:
  __device__ WeightedRows(const Stored<F>* y, int stride) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int step = 0; step < Steps; ++step) {
      if constexpr (F == Format::bf16) {
        matrices_[step] = shared_address(y + (16 * step + lane % 16) * stride + lane / 16 * 8);
      } else {
        elements_[step][0] = y + (8 * step + lane % 4 * 2) * stride + lane / 4;
        elements_[step][1] = elements_[step][0] + stride;
      }
    }
  }

  // The fragments of the 16 columns behind `column`.
  __device__ void load(uint32_t (&b)[2][2], int step, int column) const {
    if constexpr (F == Format::bf16) {
      uint32_t r[4];
      load_matrices_transposed(r, matrices_[step] + column * static_cast<int>(sizeof(Stored<F>)));
      b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    } else {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h) b[n][h] = __float_as_uint(elements_[step][h][column + 8 * n]);
    }
  }

 private:
  SharedAddress matrices_[Steps];
  const Stored<F>* elements_[Steps][2];
};

// total[m][n] += c y: fragments of C, and the 16 columns of y behind `column`.
template <Format F, int Steps>
__device__ void add_weighted_rows(float (&total)[2][2][4], const uint32_t (&a)[Steps][2][4],
                                  const WeightedRows<F, Steps>& y, int column) {
#pragma unroll
  for (int step = 0; step < Steps; ++step) {
    uint32_t b[2][2];
    y.load(b, step, column);
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n) multiply<F>(total[m][n], a[step][m], b[n]);
  }
}

// total[m] += the sums of the rows of one step's fragments: [0] and [1] that of row g, [2] and [3] that of row g + 8.
template <Format F>
__device__ void add_row_sums(float (&total)[2][4], const uint32_t (&a)[2][4]) {
  constexpr uint32_t kOne = F == Format::bf16 ? 0x3f803f80u : 0x3f800000u;
  const uint32_t ones[2] = {kOne, kOne};
#pragma unroll
  for (int m = 0; m < 2; ++m) multiply<F>(total[m], a[m], ones);
}

}   // namespace fastmmd::cuda
