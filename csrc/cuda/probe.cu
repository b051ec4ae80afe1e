// Whether the kernels can run, and what an error code means.
#include "device.h"
#include "entry.h"

namespace fastmmd::cuda {

namespace {

// Compiled as all others are: where the driver can load it, it can load them.
__global__ void nothing() {}

}   // namespace

int probe(Device device) {
  if (const cudaError_t error = cudaSetDevice(device.index); error != cudaSuccess) return error;
  return loadable(nothing);
}

const char* error_message(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}   // namespace fastmmd::cuda
