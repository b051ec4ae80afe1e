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

// Two coefficients of neighbouring columns, as the second product sees them.
template <Format F>
__device__ void store_operands(Stored<F>* to, float first, float second) {
  if constexpr (F == Format::bf16)
    *reinterpret_cast<uint32_t*>(to) = pack_bf16(first, second);
  else if constexpr (F == Format::tf32)
    *reinterpret_cast<float2*>(to) = make_float2(upper_digits(first, kTf32Split), upper_digits(second, kTf32Split));
  else
    *reinterpret_cast<float2*>(to) = make_float2(first, second);
}

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

// Fragments of a row-major matrix in shared memory come by ldmatrix, whose pairs of bf16 may as well be one fp32: lane
// 4 g + t gets element (g, t) of a matrix of 8 x 4 of these.

// total[m][n] += x y^T: M * 16 rows of x and N * 8 rows of y (N even), each of `depth` elements (a multiple of 16).
template <Format F, int M, int N>
__device__ void add_inner_products(float (&total)[M][N][4], const Stored<F>* x, const Stored<F>* y, int stride,
                                   int depth) {
  constexpr int kHalf = kDepth<F> / 2;
  const int lane = threadIdx.x % 32;
  x += lane % 16 * stride + lane / 16 * kHalf;
  y += (lane % 8 + lane / 16 * 8) * stride + lane / 8 % 2 * kHalf;
#pragma unroll 2
  for (int k = 0; k < depth; k += kDepth<F>) {
    uint32_t a[M][4];
#pragma unroll
    for (int m = 0; m < M; ++m) load_matrices(a[m], x + 16 * m * stride + k);
#pragma unroll
    for (int n = 0; n < N; n += 2) {
      uint32_t b[4];
      load_matrices(b, y + 8 * n * stride + k);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < M; ++m) {
        multiply<F>(total[m][n], a[m], left);
        multiply<F>(total[m][n + 1], a[m], right);
      }
    }
  }
}

// The second product, C y, takes its terms in an order in which fp32 operands lie in different banks: of each eight
// the pair 2 t and 2 t + 1 where the instruction has t and t + 4, in both operands.

// C's fragments: M * 16 rows, Steps * kDepth<F> columns.
template <Format F, int Steps, int M>
__device__ void load_coefficients(uint32_t (&a)[Steps][M][4], const Stored<F>* c, int stride) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < Steps; ++step)
#pragma unroll
    for (int m = 0; m < M; ++m) {
      if constexpr (F == Format::bf16) {
        load_matrices(a[step][m], c + (16 * m + lane % 16) * stride + 16 * step + lane / 16 * 8);
      } else {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float2 pair =
              *reinterpret_cast<const float2*>(c + (16 * m + 8 * h + lane / 4) * stride + 8 * step + lane % 4 * 2);
          a[step][m][h] = __float_as_uint(pair.x);
          a[step][m][h + 2] = __float_as_uint(pair.y);
        }
      }
    }
}

// total[m][n] += c y: fragments of C from `load_coefficients`, as many rows of y as these have columns, 16 columns of
// y.
template <Format F, int Steps, int M>
__device__ void add_weighted_rows(float (&total)[M][2][4], const uint32_t (&a)[Steps][M][4], const Stored<F>* y,
                                  int stride) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < Steps; ++step) {
    uint32_t b[2][2];
    if constexpr (F == Format::bf16) {
      uint32_t r[4];
      load_matrices_transposed(r, y + (16 * step + lane % 16) * stride + lane / 16 * 8);
      b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    } else {
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int h = 0; h < 2; ++h)
          b[n][h] = __float_as_uint(y[(8 * step + lane % 4 * 2 + h) * stride + 8 * n + lane / 4]);
    }
#pragma unroll
    for (int m = 0; m < M; ++m)
#pragma unroll
      for (int n = 0; n < 2; ++n) multiply<F>(total[m][n], a[step][m], b[n]);
  }
}

// total[m] += the sums of the rows of one step's fragments: [0] and [1] that of row g, [2] and [3] that of row g + 8.
template <Format F, int M>
__device__ void add_row_sums(float (&total)[M][4], const uint32_t (&a)[M][4]) {
  constexpr uint32_t kOne = F == Format::bf16 ? 0x3f803f80u : 0x3f800000u;
  const uint32_t ones[2] = {kOne, kOne};
#pragma unroll
  for (int m = 0; m < M; ++m) multiply<F>(total[m], a[m], ones);
}

}   // namespace fastmmd::cuda
