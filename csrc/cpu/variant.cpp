// Compiled once per instruction set (see CMakeLists.txt); everything here lives in that variant's own namespace.
#include "loss.h"
#include "median.h"
#include "variants.h"

namespace fastmmd::FASTMMD_VARIANT {

template <typename T>
static int64_t workspace_bytes(const Problem& problem, bool with_gradient, bool with_kw) {
  return Workspace<T>(problem, with_gradient, with_kw, nullptr).bytes();
}

template <typename T>
static void run(const Problem& problem, const Buffers& io, bool with_gradient, int num_threads) {
  Loss<T>(problem, io, with_gradient).run(num_threads);
}

template <typename T>
static int64_t median_workspace_bytes(const Samples& samples, int num_threads) {
  return Median<T>(samples, num_threads, nullptr).bytes();
}

template <typename T>
static double median(const Samples& samples, void* workspace, int num_threads) {
  return static_cast<double>(Median<T>(samples, num_threads, workspace).run());
}

template <typename T>
static constexpr CpuKernel kernel = {workspace_bytes<T>, run<T>, median_workspace_bytes<T>, median<T>};

extern const CpuVariant variant;
const CpuVariant variant = {FASTMMD_VARIANT_NAME, kernel<float>, kernel<double>};

}   // namespace fastmmd::FASTMMD_VARIANT
