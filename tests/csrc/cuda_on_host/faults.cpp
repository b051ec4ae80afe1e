// Small kernels, each with one planted fault that can be left out. check_shim runs them under every checker:
//     faults sound            all kernels without their faults, in every order of threads
//     faults NAME ORDER       one with its fault; order 0, 1 or 2
// Prints "right numbers", "wrong numbers" or the error that the launch threw; a sanitizer prints what it prints.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "../../../csrc/cuda/device.h"

using namespace fastmmd;

namespace {

constexpr unsigned kAll = 0xffffffffu;
constexpr unsigned kThreads = 64, kBlocks = 4;

using Vector = std::vector<float>;   // memory of exactly its size

template <typename... P, typename... A>
void run(void (*kernel)(P...), unsigned blocks, unsigned threads, size_t shared_bytes, A... args) {
  launch(kernel, blocks, threads, shared_bytes, nullptr, args...);
}

Vector numbers(size_t n) {
  Vector x(n);
  for (size_t i = 0; i < n; ++i) x[i] = static_cast<float>(i * 7 % 64);
  return x;
}

__global__ void reverse(bool fault, const float* in, float* out) {
  __shared__ float x[kThreads];
  x[threadIdx.x] = in[threadIdx.x];
  if (!fault) __syncthreads();
  out[threadIdx.x] = x[kThreads - 1 - threadIdx.x];
}
bool missing_barrier(bool fault) {
  const Vector in = numbers(kThreads);
  Vector out(kThreads);
  run(reverse, 1, kThreads, 0, fault, in.data(), out.data());
  bool good = true;
  for (size_t i = 0; i < kThreads; ++i) good = good && out[i] == in[kThreads - 1 - i];
  return good;
}

__global__ void rotate_twice(bool fault, const float* in, float* out) {
  float* x = dynamic_shared<float>();
  float value = in[threadIdx.x];
  for (int round = 0; round < 2; ++round) {
    x[threadIdx.x] = value;
    __syncthreads();
    value = x[(threadIdx.x + 1) % kThreads];
    if (!fault) __syncthreads();   // or a fast thread overwrites what a slow one has yet to read
  }
  out[threadIdx.x] = value;
}
bool early_overwrite(bool fault) {
  const Vector in = numbers(kThreads);
  Vector out(kThreads);
  run(rotate_twice, 1, kThreads, kThreads * sizeof(float), fault, in.data(), out.data());
  bool good = true;
  for (size_t i = 0; i < kThreads; ++i) good = good && out[i] == in[(i + 2) % kThreads];
  return good;
}

__global__ void reverse_in_warp(bool fault, const float* in, float* out) {
  __shared__ float x[32];
  x[threadIdx.x] = in[threadIdx.x];
  if (!fault) __syncwarp();
  __ballot_sync(kAll, 1);   // a meeting, but it orders no memory
  out[threadIdx.x] = x[31 - threadIdx.x];
}
bool missing_syncwarp(bool fault) {
  const Vector in = numbers(32);
  Vector out(32);
  run(reverse_in_warp, 1, 32, 0, fault, in.data(), out.data());
  bool good = true;
  for (size_t i = 0; i < 32; ++i) good = good && out[i] == in[31 - i];
  return good;
}

__global__ void count_thread_blocks(bool fault, float* total) {
  if (threadIdx.x) return;
  if (fault)
    *total += 1;
  else
    atomicAdd(total, 1.0f);
}
bool racing_sum(bool fault) {
  Vector total(1);
  run(count_thread_blocks, 20, 32, 0, fault, total.data());
  return total[0] == 20;
}

__global__ void last_thread_block_adds(bool fault, float* parts, unsigned* ticket, float* total) {
  if (threadIdx.x) return;
  parts[blockIdx.x] = 1;
  if (!fault) __threadfence();
  if (atomicAdd(ticket, 1u) != gridDim.x - 1) return;
  __threadfence();
  for (unsigned b = 0; b < gridDim.x; ++b) *total += parts[b];
}
bool missing_fence(bool fault) {
  Vector parts(8), total(1);
  unsigned ticket = 0;
  run(last_thread_block_adds, 8, 32, 0, fault, parts.data(), &ticket, total.data());
  return total[0] == 8;
}

__global__ void twice(const float* in, float* out, unsigned n) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = 2 * in[i];
}
bool past_end(bool fault) {
  const unsigned n = kBlocks * kThreads - 5;
  const Vector in = numbers(n);
  Vector out(n);
  run(twice, kBlocks, kThreads, 0, in.data(), out.data(), fault ? n + 1 : n);
  return out[n - 1] == 2 * in[n - 1];
}

__global__ void next(bool fault, const float* in, float* out) {
  __shared__ float x[kThreads];
  x[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const unsigned at = threadIdx.x + 1;
  out[threadIdx.x] = fault || at < kThreads ? x[at] : 0;
}
bool shared_index(bool fault) {
  const Vector in = numbers(kThreads);
  Vector out(kThreads);
  run(next, 1, kThreads, 0, fault, in.data(), out.data());
  return out[0] == in[1];
}

__global__ void fill_dynamic(unsigned count) {
  float* x = dynamic_shared<float>();
  for (unsigned i = threadIdx.x; i < count; i += blockDim.x) x[i] = 1;
}
bool past_dynamic_shared(bool fault) {
  run(fill_dynamic, 1, kThreads, 100 * sizeof(float), fault ? 101u : 100u);
  return true;
}

__global__ void sum_dynamic(bool fault, float* out) {
  float* x = dynamic_shared<float>();
  if (threadIdx.x || !fault) x[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0)
    for (unsigned i = 0; i < blockDim.x; ++i) *out += x[i];
}
bool unwritten_dynamic(bool fault) {
  Vector out(1);
  run(sum_dynamic, 1, kThreads, kThreads * sizeof(float), fault, out.data());
  return out[0] == kThreads;
}

template <typename T>
__global__ void sum_static(bool fault, T* out) {   // a template, whose variables other objects could share
  __shared__ T x[kThreads];
  if (threadIdx.x || !fault) x[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0)
    for (unsigned i = 0; i < blockDim.x; ++i) *out += x[i];
}
bool unwritten_static(bool fault) {
  Vector out(1);
  run(sum_static<float>, 1, kThreads, 0, fault, out.data());
  return out[0] == kThreads;
}

__global__ void sum_lanes(unsigned lanes, unsigned mask, float* out) {
  float sum = 1;
  if (threadIdx.x < lanes)
    for (int step = 16; step; step /= 2) sum += __shfl_xor_sync(mask, sum, step);
  if (threadIdx.x == 0) *out = sum;
}
bool lane_missing(bool fault) {
  Vector out(1);
  run(sum_lanes, 1, kThreads, 0, fault ? 63u : 64u, kAll, out.data());
  return out[0] == 32;
}
bool lane_outside(bool fault) {   // half a warp shuffles from the other half
  Vector out(1);
  run(sum_lanes, 1, 32, 0, fault ? 16u : 32u, fault ? 0xffffu : kAll, out.data());
  return out[0] == 32;
}

__global__ void two_ways(bool fault, unsigned* out) {
  const unsigned way = fault && threadIdx.x % 2 ? __ballot_sync(kAll, 1) : __shfl_sync(kAll, threadIdx.x, 3);
  out[threadIdx.x] = way;
}
bool different_collectives(bool fault) {
  std::vector<unsigned> out(32);
  run(two_ways, 1, 32, 0, fault, out.data());
  return out[0] == 3;
}

__global__ void two_masks(bool fault, unsigned* out) {
  const unsigned mask = fault && threadIdx.x >= 16 ? 0xffffff00u : kAll;
  out[threadIdx.x] = __shfl_sync(mask, threadIdx.x, 31);
}
bool different_masks(bool fault) {
  std::vector<unsigned> out(32);
  run(two_masks, 1, 32, 0, fault, out.data());
  return out[20] == 31;
}

__global__ void barrier_for_some(bool fault) {
  if (!fault || threadIdx.x < 40) __syncthreads();
  __syncwarp();
}
bool barrier_and_syncwarp(bool fault) {   // lanes wait for others that are in another barrier
  run(barrier_for_some, 1, kThreads, 0, fault);
  return true;
}

__global__ void copy_through(bool no_wait, bool no_barrier, const float* in, float* out) {
  float* x = dynamic_shared<float>();
  copy_async(shared_address(x + 4 * threadIdx.x), in + 4 * threadIdx.x);
  copy_async_commit();
  if (!no_wait) copy_async_wait<0>();
  if (!no_barrier) __syncthreads();
  for (unsigned i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = x[4 * blockDim.x - 1 - 4 * threadIdx.x - i];
}
bool copies(bool no_wait, bool no_barrier) {
  const size_t n = 4 * kThreads;
  const Vector in = numbers(n);
  Vector out(n);
  run(copy_through, 1, kThreads, n * sizeof(float), no_wait, no_barrier, in.data(), out.data());
  bool good = true;
  for (size_t i = 0; i < n; ++i) good = good && out[i] == in[n - 1 - i];
  return good;
}
bool copy_without_wait(bool fault) { return copies(fault, false); }
bool copy_without_barrier(bool fault) { return copies(false, fault); }

__global__ void copy_to(unsigned shift, const float* in, float* out) {
  float* x = dynamic_shared<float>();
  copy_async(shared_address(x + shift), in);
  copy_async_commit();
  copy_async_wait<0>();
  for (unsigned i = 0; i < 4; ++i) out[i] = x[shift + i];
}
bool misaligned_copy(bool fault) {
  const Vector in = numbers(4);
  Vector out(4);
  run(copy_to, 1, 1, 64, fault ? 1u : 4u, in.data(), out.data());
  return out[3] == in[3];
}

__global__ void load_and_overwrite(bool fault, float* out) {
  uint32_t* x = dynamic_shared<uint32_t>();
  for (unsigned i = 0; i < 4; ++i) x[4 * threadIdx.x + i] = threadIdx.x;
  __syncwarp();
  uint32_t r[4];
  load_matrices(r, shared_address(x + 4 * threadIdx.x + (fault && threadIdx.x == 7 ? 1 : 0)));
  out[threadIdx.x] = static_cast<float>(r[3]);
}
bool misaligned_load(bool fault) {
  Vector out(32);
  run(load_and_overwrite, 1, 32, 32 * 16 + 16, fault, out.data());
  return out[5] == 25;
}

struct Case {
  const char* name;
  bool (*run)(bool fault);
};
#define CASE(name) {#name, name}
constexpr Case kCases[] = {
    CASE(missing_barrier),       CASE(early_overwrite),  CASE(missing_syncwarp),     CASE(racing_sum),
    CASE(missing_fence),         CASE(past_end),         CASE(shared_index),         CASE(past_dynamic_shared),
    CASE(unwritten_dynamic),     CASE(unwritten_static), CASE(lane_missing),         CASE(lane_outside),
    CASE(different_collectives), CASE(different_masks),  CASE(barrier_and_syncwarp), CASE(copy_without_wait),
    CASE(copy_without_barrier),  CASE(misaligned_copy),  CASE(misaligned_load)};

bool show(const Case& c, bool fault, int order) {
  cuda_on_host::options().order = static_cast<cuda_on_host::Order>(order);
  try {
    const bool good = c.run(fault);
    std::printf("%s: %s\n", c.name, good ? "right numbers" : "wrong numbers");
    return good;
  } catch (const cuda_on_host::Error& error) {
    std::printf("%s: error: %s\n", c.name, error.what());
    return false;
  }
}

}   // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);   // a sanitizer may end the process
  bool good = true;
  if (argc == 2 && std::strcmp(argv[1], "sound") == 0) {
    for (const Case& c : kCases)
      for (int order = 0; order < 3; ++order) good = show(c, false, order) && good;
    return good ? 0 : 1;
  }
  for (const Case& c : kCases)
    if (argc == 3 && std::strcmp(argv[1], c.name) == 0) return show(c, true, std::atoi(argv[2])) ? 0 : 1;
  std::puts("usage: faults sound, or faults NAME ORDER");
  return 2;
}
