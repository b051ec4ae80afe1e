// How kernels read layers of any dtype.
#pragma once

#include "device.h"
#include "entry.h"

namespace fastmmd::cuda {

__device__ inline int layer_of(const int* first, int index) {
  int l = 0;
  while (index >= first[l + 1]) ++l;
  return l;
}

template <typename In>
struct InputType {
  using type = In;
};

// `body` for the dtype of a layer's inputs: outside its loops, so that their loads can be under way together.
template <typename Body>
__device__ void with_dtype(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::bf16:
      return body(InputType<bf16>{});
    case Dtype::f16:
      return body(InputType<f16>{});
    case Dtype::f32:
      return body(InputType<float>{});
    case Dtype::f64:
      return body(InputType<double>{});
  }
}

}   // namespace fastmmd::cuda
