// The one problem every compiled backend solves, as plain data: raw pointers, int64 sizes, no framework.
//
// Layers Z_l [n, d_l], n = n_s + n_t, the first n_s rows from the source. Per layer a mixture of Gaussians
//     k_l(i, j) = sum_q weight[q] * exp(-D_l(i, j) / (multiplier[q] * B_l)),     D_l(i, j) = ||z_i - z_j||^2,
// B_l = bandwidth_scale * (the mean of D_l over pairs i != j, or a given number, or 1),
// and K = joint * prod_l k_l + sum_l marginal[l] * k_l. Computed are, for the product and for every k_l,
//     alpha * S_ss + beta * S_tt + gamma * S_st + diagonal * kappa
// (S_ss, S_tt over ordered pairs i != j, S_st over all n_s * n_t cross pairs, kappa = value at distance 0),
// their combination in K, and its gradient with respect to every row of every Z_l.
//
// Where the problem is weighted (form_columns > 0) each pair has its own weight W_i A W_j^T, W [n, form_columns]:
//     sum over ordered pairs i != j of W_i A W_j^T k(i, j) + diagonal * kappa * sum_i W_i A W_i^T,
// and the rows K W, without the diagonal of K, are computed too where they are wanted.
#pragma once

#include <cstdint>

#include "limits.h"

// Always inlined: CPU code is compiled once per instruction set, and what they share must not be a function of its own.
// Under nvcc it is also compiled for the GPU.
#if defined(__CUDACC__)
#define FM_INLINE __host__ __device__ __forceinline__
#define FM_UNROLL _Pragma("unroll")
#else
#define FM_INLINE inline __attribute__((always_inline))
#define FM_UNROLL
#endif
#define FM_HOST_INLINE inline __attribute__((always_inline))   // never for the GPU

namespace fastmmd {

constexpr int kAbi = 6;   // raised whenever the meaning of a binding changes

struct Layer {
  int64_t dim;
  int num_gaussians;
  double multiplier[kMaxGaussians];   // of B_l, ascending
  double weight[kMaxGaussians];
  double bandwidth_scale;
  bool follows_mean;   // B_l takes the mean of D_l; otherwise bandwidth[l]
};

struct Problem {
  int64_t n_source, n_target;
  int num_layers;
  Layer layer[kMaxLayers];
  double joint;
  double marginal[kMaxLayers];
  double alpha, beta, gamma, diagonal;
  bool clamp;             // a V-statistic is never negative: a value below zero is round-off and becomes zero
  int64_t form_columns;   // of W; 0: pairs have the weights alpha, beta and gamma
  FM_INLINE int64_t n() const { return n_source + n_target; }
};

// What one call reads and writes. Rows are contiguous; a stride is the distance between rows in elements.
// A null gradient is one that nobody needs; with none at all only the loss is computed.
struct Buffers {
  const void* source[kMaxLayers];   // [n_s, d_l]
  const void* target[kMaxLayers];   // [n_t, d_l]
  int64_t source_stride[kMaxLayers];
  int64_t target_stride[kMaxLayers];
  void* grad_source[kMaxLayers];   // [n_s, d_l] contiguous, or null
  void* grad_target[kMaxLayers];   // [n_t, d_l] contiguous, or null
  const double* given_bandwidth;   // [num_layers], read where a layer does not follow the mean; null stands for ones
  const void* w;                   // [n, form_columns] contiguous, the sources' rows first; null without a form
  const void* wa;                  // likewise, W A, on a CPU in double; null where only rows of K W are wanted
  void* kw;                        // [n, form_columns] contiguous; null where nobody needs them
  void* loss;                      // one value
  void* statistics;                // [1 + 2 * num_layers]: joint, marginals, bandwidths
  void* workspace;                 // workspace_bytes(problem, ...), 64-byte aligned

  FM_INLINE bool layer_needs_grad(int l) const { return grad_source[l] || grad_target[l]; }
};

// The rows of one layer: what a rule for the bandwidth sees. Strides as in Buffers.
struct Samples {
  int64_t n_source, n_target, dim;
  const void *source, *target;
  int64_t source_stride, target_stride;
  FM_INLINE int64_t n() const { return n_source + n_target; }
};

}   // namespace fastmmd
