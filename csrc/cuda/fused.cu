#include "fused.cuh"

namespace fastmmd::cuda {

namespace {

template <Format F, int Layers, int Chain>
auto kernel_for(const FusedProblem& p) {
  if (!p.gradient) return fused_loss<F, Layers, Chain, 0>;
  if constexpr (F == Format::bf16)   // few features leave a multiprocessor to two thread blocks
    if (p.width <= kMostWidth<2>) return fused_loss<F, Layers, Chain, 2>;
  return fused_loss<F, Layers, Chain, 5>;
}
static_assert(kMostWidth<5> == kCudaFusedMaxWidth);

template <Format F>
int run(const FusedProblem& p, cudaStream_t stream) {
  constexpr bool kUsualMixtures = F != Format::tf32x3;   // where products are the most work, loops over Gaussians do
  const int chain = kUsualMixtures ? p.plan.chain : 0;
  auto kernel = p.plan.layers == 1 ? kernel_for<F, 1, 0>(p) : kernel_for<F, 2, 0>(p);
  if constexpr (kUsualMixtures) {
    if (chain == 1) kernel = kernel_for<F, 1, 1>(p);
    if (chain == 5) kernel = p.plan.layers == 1 ? kernel_for<F, 1, 5>(p) : kernel_for<F, 2, 5>(p);
  }
  const int64_t bytes = shared_bytes<F>(p.width, p.plan.layers, p.stages, p.gradient != nullptr);
  return launch(kernel, dim3(p.panels(), p.splits), dim3(kFusedThreads), static_cast<size_t>(bytes), stream, p);
}

}   // namespace

int64_t fused_shared_bytes(Format format, int64_t width, int layers, bool with_gradient, FusedLaunch config) {
  constexpr int64_t kStatic = sizeof(FusedShared<kCudaFusedMaxLayers, 0>);
  const int features = static_cast<int>(width);
  return kStatic + (format == Format::bf16
                        ? shared_bytes<Format::bf16>(features, layers, config.stages, with_gradient)
                        : shared_bytes<Format::tf32>(features, layers, config.stages, with_gradient));
}

int fused(const Problem& problem, const FusedBuffers& io, Format format, FusedLaunch config, Device device) {
  FusedProblem p{};
  p.plan = make_plan(problem);
  p.target_tiles = static_cast<int>((problem.n_target + kTileRows - 1) / kTileRows);
  p.splits = config.splits;
  p.stages = config.stages;
  for (int l = 0; l < problem.num_layers; ++l) {
    const int64_t width = io.width[l];
    if (width % kFeatureGroup != 0 || width < problem.layer[l].dim || width > kCudaFusedMaxWidth)
      return cudaErrorInvalidValue;
    p.first_group[l + 1] = p.first_group[l] + static_cast<int>(width / kFeatureGroup);
    p.layer_needs_grad[l] = io.layer_needs_grad[l];
  }
  p.width = p.first_group[problem.num_layers] * kFeatureGroup;
  if (problem.num_layers > kCudaFusedMaxLayers || p.width > kCudaFusedMaxWidth || config.splits < 1 ||
      (config.stages != 1 && config.stages != 2))
    return cudaErrorInvalidValue;
  p.rows = io.rows;
  p.norm = io.norm;
  p.bandwidth = io.bandwidth;
  p.tolerance = io.tolerance;
  p.gradient = io.gradient;
  p.sums = io.sums;
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  const auto stream = static_cast<cudaStream_t>(device.stream);
  switch (format) {
    case Format::tf32x3:
      return run<Format::tf32x3>(p, stream);
    case Format::tf32:
      return run<Format::tf32>(p, stream);
    case Format::bf16:
      return run<Format::bf16>(p, stream);
    case Format::ieee:
      break;
  }
  return cudaErrorInvalidValue;
}

}   // namespace fastmmd::cuda
