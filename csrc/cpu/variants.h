// The CPU backend's entry points and the choice among its instruction-set variants.
#pragma once

#include "../problem.h"

namespace fastmmd {

struct CpuKernel {
  int64_t (*workspace_bytes)(const Problem&, bool with_gradient, bool with_kw);
  void (*run)(const Problem&, const Buffers&, bool with_gradient, int num_threads);
  int64_t (*median_workspace_bytes)(const Samples&, int num_threads);
  double (*median)(const Samples&, void* workspace, int num_threads);   // lower median of the pooled squared distances
};

struct CpuVariant {
  const char* name;
  CpuKernel f32, f64;
};

// Compiled variants that this CPU can run, best first; the last entry is null.
const CpuVariant* const* cpu_variants();

}   // namespace fastmmd
