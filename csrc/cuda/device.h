// The machine as the CUDA kernels see it. The same kernel source compiles under nvcc, and under a plain C++ compiler
// for tests, where every CUDA thread is a fiber (tests/csrc/cuda_on_host). Only this file knows which of the two it is:
// the types and functions that it declares have the same meaning on both sides.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#if !defined(__CUDACC__)

#include "cuda_on_host.h"

#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace fastmmd {

// The thread block's dynamic shared memory; one array, whatever T is.
template <typename T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ __align__(128) unsigned char fastmmd_dynamic_shared[];
  return reinterpret_cast<T*>(fastmmd_dynamic_shared);
}

// When a kernel begins: behind everything that was queued before it, or while the kernel queued last ends
// (programmatic dependent launch). The latter must be code for compute capability 9.0 or above that calls
// `wait_for_last_launch` before it reads what that kernel writes, and writes anything.
enum class Begin { after_last_launch, during_last_launch };

template <typename... P, typename... A>
cudaError_t launch(Begin begin, void (*kernel)(P...), dim3 grid, dim3 thread_block, size_t shared_bytes,
                   cudaStream_t stream, A&&... args) {
  cudaError_t status = cudaSuccess;
  if (shared_bytes > 0)   // a thread block has more than 48 KiB, its static memory included, only on request
    status = cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  static_cast<int>(shared_bytes));
  if (status == cudaSuccess) {
    cudaLaunchConfig_t config{};
    config.gridDim = grid;
    config.blockDim = thread_block;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    cudaLaunchAttribute overlap{};
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = begin == Begin::during_last_launch ? 1 : 0;
    status = cudaLaunchKernelEx(&config, kernel, static_cast<P>(std::forward<A>(args))...);
  }
  if (status != cudaSuccess) cudaGetLastError();   // forgets it, or a later call of another library would return it
  return status;
}

template <typename... P, typename... A>
cudaError_t launch(void (*kernel)(P...), dim3 grid, dim3 thread_block, size_t shared_bytes, cudaStream_t stream,
                   A&&... args) {
  return launch(Begin::after_last_launch, kernel, grid, thread_block, shared_bytes, stream, std::forward<A>(args)...);
}

// The next kernel may begin once all thread blocks of this one have called it, and no later than it would anyway.
__device__ __forceinline__ void let_next_launch_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// Until the kernel queued before this one has ended and all that it wrote can be seen.
__device__ __forceinline__ void wait_for_last_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Whether the driver can run a kernel here.
template <typename... P>
cudaError_t loadable(void (*kernel)(P...)) {
  cudaFuncAttributes attributes;
  const cudaError_t status = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  if (status != cudaSuccess) cudaGetLastError();
  return status;
}

using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ __forceinline__ float widen(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float widen(f16 x) { return __half2float(x); }
__device__ __forceinline__ bf16 to_bf16(float x) { return __float2bfloat16_rn(x); }

// Two neighbours, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float first, float second) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(first, second);
  return static_cast<uint32_t>(__bfloat16_as_ushort(both.y)) << 16 | __bfloat16_as_ushort(both.x);
}

// 2^x in one instruction, right to about two units in the last place; what would be subnormal is 0.
__device__ __forceinline__ float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// x, or 0 where it is negative; NaN stays NaN.
__device__ __forceinline__ float clamp_to_zero(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
  return x < 0 ? 0 : x;
#else
  float y;
  asm("max.NaN.f32 %0, %1, 0f00000000;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// c += a b with a [16, k], b [k, 8]: the tensor cores' products, operands and sums spread over the warp as the PTX
// manual says. k = 8 for tf32, 16 for bf16.
__device__ __forceinline__ void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_bf16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// A place in shared memory, counted in bytes: 32 bits of arithmetic where a pointer takes 64.
using SharedAddress = uint32_t;
__device__ __forceinline__ SharedAddress shared_address(const void* shared) {
  return static_cast<SharedAddress>(__cvta_generic_to_shared(shared));
}

// Four 8 x 8 matrices of 16-bit elements from shared memory. `row`: the address of 8 elements, aligned to 16 bytes;
// lane 8 i + j brings row j of matrix i. Lane L gets in r[i] the elements (L / 4, 2 (L % 4)) and the next one in the
// row; transposed: those of the transposed matrix.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}

// 16 bytes from global to shared memory behind the thread's back. Both addresses are aligned to 16 bytes. The bytes are
// there for this thread after copy_async_wait, for others after a barrier that follows it.
__device__ __forceinline__ void copy_async(SharedAddress shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
               :
               : "r"(shared), "l"(__cvta_generic_to_global(global))
               : "memory");
}
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until at most the N groups committed last are under way.
template <int N>
__device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

}   // namespace fastmmd

#endif

namespace fastmmd {

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ double clamp_to_zero(double x) { return x < 0 ? 0 : x; }

// To nearest, ties to even; NaN stays NaN. A double goes to float or stays: on the way to bf16 it would be rounded
// twice.
template <typename To, typename From>
__device__ __forceinline__ To narrow(From x) {
  constexpr bool from_float = std::is_same_v<From, float>;
  static_assert(from_float || std::is_same_v<From, double>);
  if constexpr (std::is_same_v<To, bf16>) {
    static_assert(from_float);
    return to_bf16(x);
  } else {
    static_assert(std::is_same_v<To, float> || std::is_same_v<To, From>);
    return static_cast<To>(x);
  }
}

// x to the digits that remain when one gives up log2(split) of them, to nearest but for numbers just below a power of
// two, which may be a unit off (Veltkamp's splitting; two instructions). split: a power of two, or 0 for x itself. NaN
// stays NaN, and infinities become it.
__device__ __forceinline__ float upper_digits(float x, float split) { return __fmul_rn(split + 1, x) - split * x; }
constexpr float kTf32Split = 8192;

// To 11 bits of mantissa, ties away from zero, as a float whose low 13 bits are zero. NaN and infinities stay. The
// instruction cvt.rna.tf32.f32 compiles to as many integer instructions, but makes an infinity of some NaNs, and PTX
// promises nothing of the low bits.
__device__ __forceinline__ float round_to_tf32(float x) {
  return __uint_as_float(x != x ? 0x7fffe000u : (__float_as_uint(x) + 0x1000u) & 0xffffe000u);
}

}   // namespace fastmmd
