#include "variants.h"

namespace fastmmd {

#define DECLARE(name)              \
  namespace name {                 \
  extern const CpuVariant variant; \
  }
#if defined(FASTMMD_X86_VARIANTS)
DECLARE(avx512)
DECLARE(avx2)
#endif
DECLARE(baseline)
#undef DECLARE

const CpuVariant* const* cpu_variants() {
  struct List {
    const CpuVariant* item[4] = {};
    List() {
      int count = 0;
#if defined(FASTMMD_X86_VARIANTS)
      const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
      const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                              __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
      if (has_avx512) item[count++] = &avx512::variant;
      if (has_avx2) item[count++] = &avx2::variant;
#endif
      item[count] = &baseline::variant;
    }
  };
  static const List list;
  return list.item;
}

}   // namespace fastmmd
