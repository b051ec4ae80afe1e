// Compiled once per instruction set (see CMakeLists.txt); everything here lives in that variant's own namespace.
#include "discrepancy.h"
#include "variants.h"

namespace fastmmd::FASTMMD_VARIANT {

template <typename T>
static int64_t workspace_bytes(const Problem& problem, bool with_gradient) {
  return Workspace<T>(problem, with_gradient, nullptr).bytes();
}

template <typename T>
static void run(const Problem& problem, const Buffers& io, bool with_gradient, int num_threads) {
  Discrepancy<T>(problem, io, with_gradient).run(num_threads);
}

extern const CpuVariant variant;
const CpuVariant variant = {
    FASTMMD_VARIANT_NAME, {workspace_bytes<float>, run<float>}, {workspace_bytes<double>, run<double>}};

}   // namespace fastmmd::FASTMMD_VARIANT
