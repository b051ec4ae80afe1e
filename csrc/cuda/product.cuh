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

// A coefficient as the second product sees it.
template <Format F>
__device__ Stored<F> to_operand(float x) {
  if constexpr (F == Format::tf32)
    return round_to_tf32(x);
  else
    return narrow<Stored<F>>(x);
}

// total += a b on 16 x 8 x 8 elements that are fp32 in registers.
template <Format F>
__device__ void multiply_tf32(float (&total)[4], const float (&a)[4], const float (&b)[2]) {
  if constexpr (F == Format::tf32) {   // rounded already
    const uint32_t x[4] = {__float_as_uint(a[0]), __float_as_uint(a[1]), __float_as_uint(a[2]), __float_as_uint(a[3])};
    const uint32_t y[2] = {__float_as_uint(b[0]), __float_as_uint(b[1])};
    mma_tf32(total, x, y);
  } else {   // tf32x3: the product of two numbers of two digits each, but for the lowest
    uint32_t high_a[4], low_a[4], high_b[2], low_b[2];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const float high = round_to_tf32(a[k]);
      high_a[k] = __float_as_uint(high);
      low_a[k] = __float_as_uint(round_to_tf32(a[k] - high));
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      const float high = round_to_tf32(b[k]);
      high_b[k] = __float_as_uint(high);
      low_b[k] = __float_as_uint(round_to_tf32(b[k] - high));
    }
    // Tensor cores cut off what they add to a sum, so the sum itself is kept outside.
    float part[4] = {};
    mma_tf32(part, low_a, high_b);
    mma_tf32(part, high_a, low_b);
    mma_tf32(part, high_a, high_b);
#pragma unroll
    for (int e = 0; e < 4; ++e) total[e] += part[e];
  }
}

// total[m][n] += x y^T: M * 16 rows of x and N * 8 rows of y (N even), each of `depth` elements (a multiple of 16).
template <Format F, int M, int N>
__device__ void add_inner_products(float (&total)[M][N][4], const Stored<F>* x, const Stored<F>* y, int stride,
                                   int depth) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if constexpr (F != Format::bf16) {
#pragma unroll 2
    for (int k = 0; k < depth; k += 8) {
      float a[M][4], b[N][2];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) a[m][e] = x[(16 * m + 8 * (e % 2) + g) * stride + k + t + 4 * (e / 2)];
#pragma unroll
      for (int n = 0; n < N; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) b[n][e] = y[(8 * n + g) * stride + k + t + 4 * e];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int n = 0; n < N; ++n) multiply_tf32<F>(total[m][n], a[m], b[n]);
    }
  } else {
    for (int k = 0; k < depth; k += 16) {
      uint32_t a[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m) load_matrices(a[m], x + (16 * m + lane % 16) * stride + k + lane / 16 * 8);
#pragma unroll
      for (int n = 0; n < N; n += 2) {
        uint32_t b[4];
        load_matrices(b, y + (8 * n + lane % 8 + lane / 16 * 8) * stride + k + lane / 8 % 2 * 8);
        const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
        for (int m = 0; m < M; ++m) {
          mma_bf16(total[m][n], a[m], left);
          mma_bf16(total[m][n + 1], a[m], right);
        }
      }
    }
  }
}

// total[m][n] += c y: M * 16 rows of c, 16 columns of y, `depth` rows of y (a multiple of 16).
template <Format F, int M>
__device__ void add_weighted_rows(float (&total)[M][2][4], const Stored<F>* c, int c_stride, const Stored<F>* y,
                                  int stride, int depth) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if constexpr (F != Format::bf16) {
    for (int k = 0; k < depth; k += 8) {
      float a[M][4];
#pragma unroll
      for (int m = 0; m < M; ++m)
#pragma unroll
        for (int e = 0; e < 4; ++e) a[m][e] = c[(16 * m + 8 * (e % 2) + g) * c_stride + k + t + 4 * (e / 2)];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const float b[2] = {y[(k + t) * stride + 8 * n + g], y[(k + t + 4) * stride + 8 * n + g]};
#pragma unroll
        for (int m = 0; m < M; ++m) multiply_tf32<F>(total[m][n], a[m], b);
      }
    }
  } else {
    for (int k = 0; k < depth; k += 16) {
      uint32_t b[4];
      load_matrices_transposed(b, y + (k + lane % 16) * stride + lane / 16 * 8);
      const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
      for (int m = 0; m < M; ++m) {
        uint32_t a[4];
        load_matrices(a, c + (16 * m + lane % 16) * c_stride + k + lane / 16 * 8);
        mma_bf16(total[m][0], a, left);
        mma_bf16(total[m][1], a, right);
      }
    }
  }
}

}   // namespace fastmmd::cuda
