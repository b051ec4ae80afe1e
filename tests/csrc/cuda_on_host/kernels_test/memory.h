// Memory as long as the kernels may touch, and numbers of every dtype in it.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>

#include "../../../../csrc/cuda/device.h"
#include "../../../../csrc/cuda/entry.h"

namespace kernels_test {

using namespace fastmmd;
using cuda::Dtype;

// Exactly as long as asked for, so that ASan sees what lies beyond; all bytes 0xff, which is NaN in every type.
class Memory {
 public:
  explicit Memory(size_t bytes = 0) {
    void* memory = nullptr;
    if (bytes && posix_memalign(&memory, 64, bytes)) std::abort();
    if (bytes) std::memset(memory, 0xff, bytes);
    bytes_.reset(static_cast<unsigned char*>(memory));
  }
  unsigned char* at(size_t byte) const { return bytes_.get() + byte; }
  void* get() const { return bytes_.get(); }

 private:
  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  std::unique_ptr<unsigned char, Free> bytes_;
};

template <typename T>
void put(const Memory& memory, size_t index, T x) {
  std::memcpy(memory.at(index * sizeof(T)), &x, sizeof x);
}
template <typename T>
T get(const Memory& memory, size_t index) {
  T x;
  std::memcpy(&x, memory.at(index * sizeof(T)), sizeof x);
  return x;
}

inline void put_as(Dtype dtype, const Memory& memory, size_t index, double x) {
  if (dtype == Dtype::bf16) put(memory, index, narrow<bf16>(static_cast<float>(x)));
  if (dtype == Dtype::f16) put(memory, index, to_f16(static_cast<float>(x)));
  if (dtype == Dtype::f32) put(memory, index, static_cast<float>(x));
  if (dtype == Dtype::f64) put(memory, index, x);
}
inline double get_as(Dtype dtype, const Memory& memory, size_t index) {
  if (dtype == Dtype::bf16) return static_cast<double>(widen(get<bf16>(memory, index)));
  if (dtype == Dtype::f16) return static_cast<double>(widen(get<f16>(memory, index)));
  return dtype == Dtype::f32 ? static_cast<double>(get<float>(memory, index)) : get<double>(memory, index);
}
inline size_t size_of(Dtype dtype) { return dtype == Dtype::f64 ? 8 : dtype == Dtype::f32 ? 4 : 2; }

inline double rounded(Dtype dtype, double x) {
  if (dtype == Dtype::bf16) return static_cast<double>(widen(narrow<bf16>(static_cast<float>(x))));
  if (dtype == Dtype::f16) return static_cast<double>(widen(to_f16(static_cast<float>(x))));
  return dtype == Dtype::f32 ? static_cast<double>(static_cast<float>(x)) : x;
}

}   // namespace kernels_test
