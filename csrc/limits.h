// The sizes that a problem may have. Said here alone: bindings/ exports each of them under its name in capitals, so
// that Python code refuses what no kernel takes.
#pragma once

#include <cstdint>

namespace fastmmd {

constexpr int kMaxLayers = 8;
constexpr int kMaxGaussians = 64;   // in one layer's mixture

constexpr int kCudaMaxGaussians = 128;               // in the mixtures of all layers: they are kernel parameters
constexpr int64_t kCudaMaxRows = int64_t{1} << 30;   // source and target together: kernels count rows in int
constexpr int kCudaFeatureGroup = 16;                // packed rows: layers are padded to a multiple of it
constexpr int kCudaTileRows = 64;                    // and each domain to whole tiles of so many rows
constexpr int kCudaFusedMaxLayers = 2;
constexpr int kCudaFusedMaxWidth = 320;   // padded features of all layers

}   // namespace fastmmd
