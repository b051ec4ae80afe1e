// The CUDA backend's entry points. Each queues its kernels on the caller's stream and returns an error code of the CUDA
// runtime (0: success); none allocates, waits or keeps anything. All memory is the caller's.
#pragma once

#include "../problem.h"

namespace fastmmd::cuda {

struct Device {
  int index;   // must be the framework's current device
  void* stream;
};

enum class Dtype { bf16, f16, f32, f64 };         // of inputs
enum class Format { ieee, tf32x3, tf32, bf16 };   // of products' operands

constexpr const char* kDtypes[] = {"bf16", "f16", "f32", "f64"};
constexpr const char* kFormats[] = {"ieee", "tf32x3", "tf32", "bf16"};

// Route "small", training sizes: everything in two launches. Statistics and gradients are fp32, or fp64 if `f64`.
struct SmallLaunch {
  int part_features;   // of one thread block of the first launch
  int chunk;           // features of one thread block of the second: 32 or 64
  bool overlap;        // the second begins while the first ends: if the code is for compute capability 9.0 or above
};
int64_t small_workspace_bytes(const Problem&, bool f64, SmallLaunch);
int small(const Problem&, const Buffers&, const Dtype* dtypes, bool f64, SmallLaunch, Device);

// The routes of many rows compute on a copy of the rows, centred, rounded as products see it, each domain padded with
// zeros to whole panels: R rows in all. They begin with `pack` (pack.cuh), and end with `finish` (finish.cuh).
struct PackedRows {
  void* rows[kMaxLayers];         // [R, width], `pitch` elements apart, in the format; past the features: 0
  void* transposed[kMaxLayers];   // [width, R], or null
  int64_t width[kMaxLayers], pitch[kMaxLayers];   // multiples of kCudaFeatureGroup
  bool ones;                                      // a column of ones follows the features
  void* norm;                                     // [L, R], squared
  double *bandwidth, *tolerance;                  // [L]
};
struct PackedSums {     // what a route has added up
  const double* sums;   // [sum_rows, 3, 1 + L]
  int64_t sum_rows;
  const double* bandwidth;            // [L]
  const void* weighted[kMaxLayers];   // [parts, R, width], `pitch` and `part_pitch` apart: gradients, or, if there are
  const void* rows[kMaxLayers];       // packed rows z with their ones here, C [z, 1]
  int64_t pitch[kMaxLayers];          // of both
  int64_t parts, part_pitch;
};
int64_t pack_workspace_bytes(const Problem&, bool f64);
int pack(const Problem&, const Buffers&, const Dtype* dtypes, bool f64, Format, const PackedRows&, Device);
int finish(const Problem&, const Buffers&, bool f64, Format, const PackedSums&, Device);

// Route "fused", many rows and few features: sums and gradients from packed rows in one launch. See fused.cuh. Not for
// devices of a compute capability below 8.0, and not in "ieee".
struct FusedLaunch {
  int splits;   // thread blocks that share the tiles of one row panel
  int stages;   // of the other rows in shared memory: 1, or 2 = double buffering
};
struct FusedBuffers {          // R: rows of both domains, each padded to whole panels; W: width of all layers
  int64_t width[kMaxLayers];   // padded features
  bool layer_needs_grad[kMaxLayers];
  const void* rows;          // [R, W] in the format
  const float* norm;         // [L, R], squared
  const double* bandwidth;   // [L]
  const double* tolerance;   // [L]
  float* gradient;           // [splits, R, W], or null for the loss alone
  double* sums;              // [splits * R / kCudaTileRows, 3, 1 + L]
};
// Shared memory of one thread block, static and dynamic. `width`: of all layers.
int64_t fused_shared_bytes(Format, int64_t width, int layers, bool with_gradient, FusedLaunch);
int fused(const Problem&, const FusedBuffers&, Format, FusedLaunch, Device);

// Route "gemm": what lies between two products of the platform's library. The inner products of a pair of row panels,
// fp32 or fp64, become coefficients that are rounded to the format of the product that follows.
//
// Rows are packed: the source's, then the target's, each domain padded to whole tiles of kCudaTileRows rows; the
// coefficients of padding are 0. Panels are whole tiles, and pitches are multiples of the tile's side.
struct GemmPass {
  const void* inner_products[kMaxLayers];   // [rows, columns]
  void* coefficients[kMaxLayers];           // [rows, columns], bf16 for the format bf16, else as inner products and
                                            // perhaps in their place; null where nobody needs the layer's gradient
  void* transposed[kMaxLayers];             // [columns, rows], the same coefficients; null where nobody needs them
  int64_t pitch;                            // elements from one row of inner products and of coefficients to the next
  int64_t transposed_pitch;                 // likewise of the transposed ones
  Format format;                            // ieee, tf32 or bf16
  const void* norm[kMaxLayers];             // [packed rows], squared
  const double* bandwidth;                  // [L]
  const double* tolerance;                  // [L]
  double* sums;                             // [gemm_pass_programs(rows, columns), 3, 1 + L], added to
  int64_t rows, columns, first_row, first_column;   // of the panels, among packed rows
};
int64_t gemm_pass_programs(int64_t rows, int64_t columns);   // thread blocks
int gemm_pass(const Problem&, const GemmPass&, bool f64, Device);

// Whether the device and its driver can run the kernels.
int probe(Device);
const char* error_message(int code);

}   // namespace fastmmd::cuda
