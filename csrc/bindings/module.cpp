// The module fastmmd._C: how it was built, the limits of limits.h, and what the other files bind.
#include "../limits.h"
#include "bindings.h"

namespace fastmmd::bindings {

namespace {

void bind_build(py::module_& m) {
  m.attr("ABI") = kAbi;
  m.attr("COMPILER") = FASTMMD_COMPILER;
  m.attr("OPENMP") = FASTMMD_OPENMP != 0;
  m.attr("CUDA") = FASTMMD_WITH_CUDA != 0;
  m.attr("CUDA_ABSENT") = FASTMMD_CUDA_ABSENT;     // why there are no CUDA kernels
  m.attr("CUDA_VERSION") = FASTMMD_CUDA_VERSION;   // the compiler's
  m.attr("CUDA_ARCHS") = FASTMMD_CUDA_ARCHS;       // such as "80 90 120 120+PTX"
#if defined(FASTMMD_CUDA_ON_HOST)
  m.attr("CUDA_ON_HOST") = true;   // kernels run on the CPU, for tests
#else
  m.attr("CUDA_ON_HOST") = false;
#endif
}

void bind_limits(py::module_& m) {
  m.attr("MAX_LAYERS") = kMaxLayers;
  m.attr("MAX_GAUSSIANS") = kMaxGaussians;
  m.attr("CUDA_MAX_GAUSSIANS") = kCudaMaxGaussians;
  m.attr("CUDA_MAX_ROWS") = kCudaMaxRows;
  m.attr("CUDA_FEATURE_GROUP") = kCudaFeatureGroup;
  m.attr("CUDA_TILE_ROWS") = kCudaTileRows;
  m.attr("CUDA_FUSED_MAX_LAYERS") = kCudaFusedMaxLayers;
  m.attr("CUDA_FUSED_MAX_WIDTH") = kCudaFusedMaxWidth;
}

}   // namespace

}   // namespace fastmmd::bindings

PYBIND11_MODULE(_C, m) {
  using namespace fastmmd::bindings;
  bind_build(m);
  bind_limits(m);
  bind_problem(m);
  bind_cpu(m);
#if FASTMMD_WITH_CUDA
  bind_cuda(m);
#endif
}
