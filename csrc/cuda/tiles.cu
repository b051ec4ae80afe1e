#include "tiles.cuh"

namespace fastmmd::cuda {

namespace {

template <Format F, int Units>
int run(const TilesProblem& p, cudaStream_t stream) {
  const int64_t bytes = shared_bytes<F>(p.width, p.plan.layers, p.buffers, Units > 0);
  return launch(tiles_loss<F, kTilesMaxLayers, Units>, dim3(p.tiles(), p.splits), dim3(kTilesThreads),
                static_cast<size_t>(bytes), stream, p);
}

template <Format F>
int run(const TilesProblem& p, cudaStream_t stream) {
  if (!p.gradient) return run<F, 0>(p, stream);
  return p.width <= 2 * kColumnWarps * kUnit ? run<F, 2>(p, stream) : run<F, 5>(p, stream);
}
static_assert(5 * kColumnWarps == kTilesMaxUnits);

}   // namespace

int64_t tiles_shared_bytes(Format format, int64_t units, int layers, bool with_gradient, TilesLaunch config) {
  const int width = static_cast<int>(units) * kUnit;
  constexpr int64_t kStatic = sizeof(TilesShared<kTilesMaxLayers>);
  switch (format) {
    case Format::bf16:
      return kStatic + shared_bytes<Format::bf16>(width, layers, config.buffers, with_gradient);
    case Format::f16:
      return kStatic + shared_bytes<Format::f16>(width, layers, config.buffers, with_gradient);
    default:
      return kStatic + shared_bytes<Format::ieee>(width, layers, config.buffers, with_gradient);
  }
}

int tiles(const Problem& problem, const Tiles& io, Format format, TilesLaunch config, Device device) {
  TilesProblem p{};
  p.plan = make_plan(problem);
  p.source_tiles = static_cast<int>((problem.n_source + kTilesSide - 1) / kTilesSide);
  p.target_tiles = static_cast<int>((problem.n_target + kTilesSide - 1) / kTilesSide);
  p.splits = config.splits;
  p.buffers = config.buffers;
  for (int l = 0; l < problem.num_layers; ++l) {
    p.first_unit[l + 1] = p.first_unit[l] + static_cast<int>(io.units[l]);
    p.wanted[l] = io.wanted[l];
  }
  p.width = p.first_unit[problem.num_layers] * kUnit;
  if (problem.num_layers > kTilesMaxLayers || p.width > kTilesMaxUnits * kUnit || config.splits < 1 ||
      (config.buffers != 1 && config.buffers != 2))
    return cudaErrorInvalidValue;
  p.rows = io.rows;
  p.norm = io.norm;
  p.bandwidth = io.bandwidth;
  p.noise = io.noise;
  p.gradient = io.gradient;
  p.sums = io.sums;
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  const auto stream = static_cast<cudaStream_t>(device.stream);
  switch (format) {
    case Format::ieee:
      return run<Format::ieee>(p, stream);
    case Format::tf32x3:
      return run<Format::tf32x3>(p, stream);
    case Format::tf32:
      return run<Format::tf32>(p, stream);
    case Format::bf16:
      return run<Format::bf16>(p, stream);
    case Format::f16:
      return run<Format::f16>(p, stream);
  }
  return cudaErrorInvalidValue;
}

}   // namespace fastmmd::cuda
