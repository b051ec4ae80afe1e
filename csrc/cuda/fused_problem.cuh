// What the thread blocks of route "fused" share: the problem, their shared memory, and how panels of rows come there.
#pragma once

#include "entry.h"
#include "pair.cuh"
#include "product.cuh"

namespace fastmmd::cuda {

constexpr int kFusedThreads = 256;
constexpr int kFeatureGroup = kCudaFeatureGroup;   // features that a warp multiplies at a time in the second product
constexpr int kColumnWarps = 4;                    // 2 x 4 warps share a tile
constexpr int kFusedWarps = kFusedThreads / kWarp;

struct FusedProblem {
  Plan plan;
  int target_tiles;
  int splits;                        // thread blocks that share the tiles of one panel
  int stages;                        // of the other panel's rows: 2 = double buffering, 1 takes less memory
  int width;                         // padded features of all layers
  int first_group[kMaxLayers + 1];   // a layer's first feature group, and the number of all
  bool layer_needs_grad[kMaxLayers];
  const void* rows;                      // [panels * 64, width] in the format
  const float* norm;                     // [L, panels * 64], squared
  const double *bandwidth, *tolerance;   // [L]
  float* gradient;                       // [splits, panels * 64, width], or null for the loss alone
  double* sums;                          // [splits * panels, 3, 1 + L]

  FM_INLINE int panels() const { return plan.source_tiles() + target_tiles; }
};
static_assert(sizeof(FusedProblem) <= 4000, "kernel parameters of more than 4 KiB make a launch slower");

template <int Layers, int Chain>
struct alignas(16) FusedShared {
  float column_norm[2][Layers][kTileRows];   // of the other panel, per stage; first, as it is copied by 16 bytes
  MixturesOf<float, Layers, Chain> mixtures;
  double sums[kFusedWarps][2][1 + Layers];            // over pairs of the same and of different domains
  double row_sums[kColumnWarps][Layers][kTileRows];   // of coefficients
};

// Dynamic shared memory: the panel's rows, the other panel's rows, coefficients.
template <Format F>
int64_t shared_bytes(int width, int layers, int stages, bool with_gradient) {
  const int rows = (1 + stages) * kTileRows * padded_width<F>(width);
  const int coefficients = with_gradient ? layers * kTileRows * padded_width<F>(kTileRows) : 0;
  return (rows + coefficients) * sizeof(Stored<F>);
}

// Copies panels of rows with their norms: eight threads per row, 128 bytes at a time, at addresses that differ by
// constants. Width: as much as p.width can be.
template <Format F, int Layers, int Width>
class PanelCopy {
 public:
  // `to`: where the first stage's rows begin, the other stage's follow. `panels`: from one panel to the next.
  __device__ PanelCopy(const FusedProblem& p, int panel, int panels, Stored<F>* to, float (*norms)[Layers][kTileRows])
      : width_(p.width),
        row_step_(kRows * p.width),
        panel_step_(panels * kTileRows * p.width),
        norm_step_(panels * kTileRows) {
    const int row = threadIdx.x / kThreads, stride = padded_width<F>(p.width);
    first_ = threadIdx.x % kThreads * kPiece;
    from_ = static_cast<const Stored<F>*>(p.rows) + (static_cast<int64_t>(panel) * kTileRows + row) * p.width + first_;
    to_ = shared_address(to + row * stride + first_);
    shared_row_step_ = kRows * stride * kSize;
    const int l = threadIdx.x / (kTileRows / 4), norm_row = threadIdx.x % (kTileRows / 4) * 4;
    copies_norm_ = norms && l < Layers;
    if (copies_norm_) {
      norm_ = p.norm + (static_cast<int64_t>(l) * p.panels() + panel) * kTileRows + norm_row;
      norm_to_ = shared_address(&norms[0][l][norm_row]);
    }
  }

  // The next panel goes to a stage.
  __device__ void operator()(int stage) {
    const Stored<F>* from = from_;
    SharedAddress to = to_ + stage * (kTileRows / kRows) * shared_row_step_;
#pragma unroll
    for (int r = 0; r < kTileRows; r += kRows, from += row_step_, to += shared_row_step_)
#pragma unroll
      for (int k = 0; k < Width; k += kThreads * kPiece)
        if (first_ + k < width_) copy_async(to + k * kSize, from + k);
    if (copies_norm_) copy_async(norm_to_ + stage * Layers * kTileRows * 4, norm_);
    from_ += panel_step_;
    norm_ += norm_step_;
  }

 private:
  static constexpr int kThreads = 8, kSize = sizeof(Stored<F>), kPiece = 16 / kSize, kRows = kFusedThreads / kThreads;
  int width_, row_step_, panel_step_, norm_step_, first_, shared_row_step_;
  const Stored<F>* from_;
  SharedAddress to_, norm_to_{};
  const float* norm_ = nullptr;
  bool copies_norm_;
};

}   // namespace fastmmd::cuda
