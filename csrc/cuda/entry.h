// The CUDA backend's entry points. Each queues its kernels on the caller's stream and returns an error code of the CUDA
// runtime (0: success); none allocates, waits or keeps anything. All memory is the caller's.
#pragma once

#include "../problem.h"

namespace fastmmd::cuda {

struct Device {
  int index;   // must be the framework's current device
  void* stream;
};

enum class Type { bf16, f16, f32, f64 };               // of inputs
enum class Format { ieee, tf32x3, tf32, bf16, f16 };   // of products' operands

constexpr const char* kFormats[] = {"ieee", "tf32x3", "tf32", "bf16", "f16"};

// What the launch table chooses.
struct SmallLaunch {
  int part_features;   // of one block of the first launch
  int chunk;           // features of one block of the second: 32 or 64
};
struct TilesLaunch {
  int splits;    // blocks that share a tile of rows
  int buffers;   // 1 or 2
};

// Training sizes: everything in two launches. Statistics and gradients are fp32, or fp64 if `f64`.
int64_t small_workspace_bytes(const Problem&, bool f64, SmallLaunch);
int small(const Problem&, const Buffers&, const Type* types, bool f64, SmallLaunch, Device);

// A block of inner products [rows, columns] of every layer, fp32 or fp64, to coefficients in place.
struct Pass {
  int64_t rows, columns, first_row, first_column;   // in the pooled batch
  void* inner[kMaxLayers];
  int64_t pitch;                     // elements from row to row of inner products, at least `columns`
  const void* norm[kMaxLayers];      // [N]
  bool wanted[kMaxLayers];           // layers whose coefficients are written
  bool tf32;                         // rounded to it
  const double *bandwidth, *noise;   // [L]
  double* sums;                      // [pass_blocks(rows, columns)][3][1 + L], added to
};
int64_t pass_blocks(int64_t rows, int64_t columns);
int pass(const Problem&, const Pass&, bool f64, Device);

// Many rows and few features: loss, sums and gradients from packed rows in one launch. See tiles.cuh. Not for devices
// of a compute capability below 8.0.
struct Tiles {
  int64_t units[kMaxLayers];   // of 16 features
  bool wanted[kMaxLayers];     // layers whose gradients are written
  const void* rows;
  const float* norm;
  const double *bandwidth, *noise;
  float* gradient;   // [splits][rows][width], or null
  double* sums;      // [splits * tiles][3][1 + L]
};
constexpr int64_t kTilesRows = 64;   // the packed rows of each domain are a multiple of it
constexpr int kTilesMaxLayers = 2, kTilesMaxUnits = 20;
// Of a block, static and dynamic.
int64_t tiles_shared_bytes(Format, int64_t units, int layers, bool with_gradient, TilesLaunch);
int tiles(const Problem&, const Tiles&, Format, TilesLaunch, Device);

// Whether the device and its driver can run the kernels.
int probe(Device);
const char* error_message(int code);

}   // namespace fastmmd::cuda
