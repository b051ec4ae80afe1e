// CUDA on the host against the CUDA and PTX manuals: sound kernels, whose numbers are known, in every order of threads.
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "../../../csrc/cuda/device.h"

using namespace fastmmd;
using cuda_on_host::Order;

namespace {

bool all_good = true;

void expect(bool good, const char* what, const char* detail = "") {
  if (!good) std::printf("BAD  %s %s\n", what, detail);
  all_good = all_good && good;
}

constexpr unsigned kAll = 0xffffffffu;

// ---- indices, barriers, shared memory

__global__ void count_visits(int* visits) {
  const unsigned thread_block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  visits[thread_block * blockDim.x * blockDim.y * blockDim.z + thread] += static_cast<int>(1 + thread);
}

void test_indices() {
  const dim3 grid(3, 2, 4), threads(5, 7, 2);
  std::vector<int> visits(24 * 70);
  launch(count_visits, grid, threads, 0, nullptr, visits.data());
  bool good = true;
  for (size_t i = 0; i < visits.size(); ++i) good = good && visits[i] == static_cast<int>(1 + i % 70);
  expect(good, "every thread of every thread block runs once");
}

__global__ void scan(const double* in, double* out) {   // inclusive, by doubling
  double* x = dynamic_shared<double>();
  const unsigned i = threadIdx.x;
  x[i] = in[blockIdx.x * blockDim.x + i];
  __syncthreads();
  for (unsigned step = 1; step < blockDim.x; step *= 2) {
    const double before = i >= step ? x[i - step] : 0;
    __syncthreads();
    x[i] += before;
    __syncthreads();
  }
  out[blockIdx.x * blockDim.x + i] = x[i];
}

__global__ void leave_early(int* out) {   // a barrier does not wait for threads that have returned
  __shared__ int x[96];
  const unsigned i = threadIdx.x;
  if (i % 3 == 0) return;
  x[i] = static_cast<int>(i);
  __syncthreads();
  if (i % 3 == 1) return;
  __syncthreads();
  out[i] = x[i - 1];
}

void test_barriers() {
  const unsigned n = 200, blocks = 7;
  std::vector<double> in(n * blocks), out(n * blocks);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<double>(i * i % 17);
  launch(scan, blocks, n, n * sizeof(double), nullptr, in.data(), out.data());
  bool good = true;
  double sum = 0;
  for (size_t i = 0; i < in.size(); ++i) good = good && out[i] == (sum = (i % n ? sum : 0) + in[i]);
  expect(good, "scan");

  std::vector<int> left(96, -1);
  launch(leave_early, 1, 96, 0, nullptr, left.data());
  good = true;
  for (int i = 0; i < 96; ++i) good = good && left[static_cast<size_t>(i)] == (i % 3 == 2 ? i - 1 : -1);
  expect(good, "barriers after threads have returned");
}

// ---- collectives of a warp

template <typename T>
__global__ void shuffles(T* out, int width, int by) {   // out [4][blockDim.x]
  const unsigned i = threadIdx.x, n = blockDim.x;
  const T value = static_cast<T>(i) + T(0.5);
  out[i] = __shfl_sync(kAll, value, by, width);
  out[n + i] = __shfl_xor_sync(kAll, value, by, width);
  out[2 * n + i] = __shfl_up_sync(kAll, value, static_cast<unsigned>(by), width);
  out[3 * n + i] = __shfl_down_sync(kAll, value, static_cast<unsigned>(by), width);
}

template <typename T>
void test_shuffles() {
  const int n = 64;
  bool good = true;
  for (int width = 2; width <= 32; width *= 2)
    for (int by = 0; by < width; ++by) {
      std::vector<T> out(4 * n);
      launch(shuffles<T>, 1, n, 0, nullptr, out.data(), width, by);
      for (int i = 0; i < n; ++i) {
        const int first = i / width * width, last = first + width - 1;   // of the group
        const int from[4] = {first + by, i ^ by, i - by < first ? i : i - by, i + by > last ? i : i + by};
        for (int way = 0; way < 4; ++way) good = good && out[static_cast<size_t>(way * n + i)] == from[way] + T(0.5);
      }
    }
  expect(good, "shuffles of", sizeof(T) == 4 ? "4 bytes" : "8 bytes");
}

__global__ void votes(unsigned* out) {   // out [6][48]: a warp and a half
  const unsigned i = threadIdx.x, lane = i % 32;
  out[i] = __ballot_sync(kAll, lane % 3 == 0);
  out[48 + i] = static_cast<unsigned>(__any_sync(kAll, i == 40));
  out[96 + i] = static_cast<unsigned>(__all_sync(kAll, i != 40));
  const unsigned half = lane < 8 ? 0xffu : kAll << 8;   // two meetings at a time
  out[144 + i] = __ballot_sync(half, lane % 2);
  unsigned sum = i;
  sum = __shfl_xor_sync(kAll, sum, 1);
  if (lane < 2)   // a fast pair must not disturb those that are still to leave
    for (int round = 0; round < 3; ++round) sum += __shfl_xor_sync(3u, sum, 1);
  __syncwarp();
  out[192 + i] = sum;
}

void test_votes() {
  std::vector<unsigned> out(5 * 48);
  launch(votes, 1, 48, 0, nullptr, out.data());
  bool good = true;
  for (unsigned i = 0; i < 48; ++i) {
    const unsigned warp = i / 32, lane = i % 32, exist = warp ? 0xffffu : kAll, half = lane < 8 ? 0xffu : kAll << 8;
    good = good && out[i] == (0x49249249u & exist) && out[48 + i] == warp && out[96 + i] == 1 - warp;
    good = good && out[144 + i] == (0xaaaaaaaau & half & exist);
    unsigned a = i ^ 1, b = i;   // what the lane and its neighbour hold
    for (int round = 0; round < 3 && lane < 2; ++round) {
      const unsigned sum = a + b;
      a = b = sum;
    }
    good = good && out[192 + i] == a;
  }
  expect(good, "votes and meetings of some lanes");
}

// ---- atomics

struct Totals {
  int i;
  unsigned u, turns, ticket;
  unsigned long long l;
  float f;
  double d, last;
};

__global__ void count(Totals* t, double* parts) {
  __shared__ bool last;
  atomicAdd(&t->i, -1);
  atomicAdd(&t->u, 2u);
  atomicAdd(&t->l, 1ull << 33);
  atomicAdd(&t->f, 0.5f);
  atomicAdd(&t->d, 0.25);
  atomicInc(&t->turns, 6u);
  if (threadIdx.x == 3) parts[blockIdx.x] = blockIdx.x;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(&t->ticket, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last || threadIdx.x != 5) return;
  __threadfence();
  for (unsigned b = 0; b < gridDim.x; ++b) t->last += __ldcg(parts + b);
}

void test_atomics() {
  Totals t{};
  const unsigned blocks = 9, threads = 33, n = blocks * threads;
  std::vector<double> parts(blocks);
  launch(count, blocks, threads, 0, nullptr, &t, parts.data());
  expect(t.i == -static_cast<int>(n) && t.u == 2 * n && t.l == static_cast<unsigned long long>(n) << 33, "atomics");
  expect(t.f == 0.5f * n && t.d == 0.25 * n && t.turns == n % 7, "atomics of floating point, atomicInc");
  expect(t.last == 36, "the last thread block reads what all wrote");
}

// ---- matrix instructions: random registers in, every element of the matrices looked up in them

enum class Format { kTf32, kBf16 };

__global__ void multiply(Format format, const uint32_t* a, const uint32_t* b, float* c) {
  const unsigned lane = threadIdx.x;
  uint32_t mine_a[4], mine_b[2];
  float mine_c[4];
  for (unsigned i = 0; i < 4; ++i) mine_a[i] = a[4 * lane + i];
  for (unsigned i = 0; i < 2; ++i) mine_b[i] = b[2 * lane + i];
  for (unsigned i = 0; i < 4; ++i) mine_c[i] = c[4 * lane + i];
  if (format == Format::kTf32) mma_tf32(mine_c, mine_a, mine_b);
  if (format == Format::kBf16) mma_bf16(mine_c, mine_a, mine_b);
  for (unsigned i = 0; i < 4; ++i) c[4 * lane + i] = mine_c[i];
}

double number(Format format, uint32_t bits, size_t half) {
  if (format == Format::kTf32) return __uint_as_float(bits >> 13 << 13);
  return widen(bf16{static_cast<uint16_t>(bits >> 16 * half)});
}

void test_mma(Format format, const char* name) {
  const size_t K = format == Format::kTf32 ? 8 : 16;
  std::mt19937 random(3);
  const auto element = [&]() -> uint32_t {   // of size 1/2 to 2, all mantissa bits in use
    const float x = std::ldexp(static_cast<float>(random()), -32) * 1.5f + 0.5f, y = random() % 2 ? x : -x;
    if (format == Format::kTf32) return __float_as_uint(y);
    return narrow<bf16>(y).bits;
  };
  std::vector<uint32_t> a(128), b(64);
  std::vector<float> c(128);
  for (uint32_t& x : a) x = format == Format::kTf32 ? element() : element() | element() << 16;
  for (uint32_t& x : b) x = format == Format::kTf32 ? element() : element() | element() << 16;
  for (float& x : c) x = __uint_as_float(random() >> 9 | 0x3f800000u);
  const std::vector<float> before = c;
  launch(multiply, 1, 32, 0, nullptr, format, a.data(), b.data(), c.data());
  double worst = 0;
  for (size_t row = 0; row < 16; ++row)
    for (size_t column = 0; column < 8; ++column) {
      const size_t at = 4 * (row % 8 * 4 + column / 2) + row / 8 * 2 + column % 2;
      double sum = before[at];
      for (size_t k = 0; k < K; ++k) {
        const size_t pack = K / 8, lane_k = k % (K / 2) / pack, half = k % pack;
        const uint32_t in_a = a[4 * (row % 8 * 4 + lane_k) + row / 8 + k / (K / 2) * 2];
        const uint32_t in_b = b[2 * (column * 4 + lane_k) + k / (K / 2)];
        sum += number(format, in_a, half) * number(format, in_b, half);
      }
      worst = std::fmax(worst, std::abs(sum - c[at]));
    }
  expect(worst < 1e-5, "fragments of mma", name);
}

__global__ void fragments(uint32_t* out) {   // out [2][32][4]
  uint16_t* x = dynamic_shared<uint16_t>();
  const unsigned lane = threadIdx.x, stride = 24;   // rows of 8 elements, matrices one below the other
  for (unsigned k = 0; k < 8; ++k) x[lane * stride + k] = static_cast<uint16_t>(lane * 8 + k);
  __syncwarp();
  uint32_t r[4];
  load_matrices(r, shared_address(x + lane * stride));
  for (unsigned i = 0; i < 4; ++i) out[4 * lane + i] = r[i];
  load_matrices_transposed(r, shared_address(x + lane * stride));
  for (unsigned i = 0; i < 4; ++i) out[128 + 4 * lane + i] = r[i];
}

// c [16, 8] = a [16, 16] b [16, 8], all row-major: loads and product must fit together.
__global__ void small_product(const bf16* a, const bf16* b, float* c) {
  bf16* shared_a = dynamic_shared<bf16>();
  bf16* shared_b = shared_a + 256;
  const unsigned lane = threadIdx.x;
  for (unsigned i = lane; i < 256; i += 32) shared_a[i] = a[i];
  for (unsigned i = lane; i < 256; i += 32) shared_b[i] = b[i / 16 * 8 + i % 8];   // two copies side by side
  __syncwarp();
  uint32_t ra[4], rb[4];
  // Lanes 0-7, 8-15, 16-23, 24-31: upper left, lower left, upper right, lower right quarter.
  load_matrices(ra, shared_address(shared_a + lane % 16 * 16 + lane / 16 * 8));
  load_matrices_transposed(rb, shared_address(shared_b + lane % 16 * 16 + lane / 16 * 8));
  float sum[4] = {};
  mma_bf16(sum, ra, {rb[0], rb[1]});
  for (unsigned i = 0; i < 4; ++i) c[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sum[i];
}

void test_loads() {
  std::vector<uint32_t> out(256);
  launch(fragments, 1, 32, 32 * 24 * 2, nullptr, out.data());
  bool good = true;
  for (uint32_t matrix = 0; matrix < 4; ++matrix)
    for (uint32_t row = 0; row < 8; ++row)
      for (uint32_t column = 0; column < 8; ++column) {
        const uint32_t value = matrix * 64 + row * 8 + column;
        const uint32_t straight = out[4 * (row * 4 + column / 2) + matrix];
        const uint32_t transposed = out[128 + 4 * (column * 4 + row / 2) + matrix];
        good = good && (straight >> 16 * (column % 2) & 0xffff) == value;
        good = good && (transposed >> 16 * (row % 2) & 0xffff) == value;
      }
  expect(good, "load_matrices");

  std::vector<bf16> a(256), b(128);
  std::vector<float> c(128);
  for (size_t i = 0; i < 256; ++i) a[i] = narrow<bf16>(static_cast<float>(i * 7 % 31) - 15);
  for (size_t i = 0; i < 128; ++i) b[i] = narrow<bf16>(static_cast<float>(i * 5 % 23) - 11);
  launch(small_product, 1, 32, 1024, nullptr, a.data(), b.data(), c.data());
  good = true;
  for (size_t i = 0; i < 128; ++i) {
    double sum = 0;
    for (size_t k = 0; k < 16; ++k) sum += double{widen(a[i / 8 * 16 + k])} * widen(b[k * 8 + i % 8]);
    good = good && c[i] == sum;   // small integers: exact
  }
  expect(good, "load_matrices and mma_bf16");
}

// ---- copies

__global__ void copies(float* global, unsigned* out) {   // out [5][8]
  float* x = dynamic_shared<float>();
  const auto look = [&](unsigned at) {
    for (unsigned i = 0; i < 8; ++i) out[8 * at + i] = __float_as_uint(x[i]);
  };
  copy_async(shared_address(x), global);
  copy_async_commit();
  copy_async(shared_address(x + 4), global + 4);
  look(0);
  copy_async_wait<0>();   // the second belongs to no group yet
  look(1);
  copy_async_commit();
  copy_async(shared_address(x), global + 4);
  copy_async_commit();
  copy_async_wait<1>();
  look(2);
  global[4] = 9;
  copy_async_wait<0>();
  look(3);
}

void test_copies() {
  std::vector<unsigned> out(32);
  alignas(16) float global[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  launch(copies, 1, 1, 32, nullptr, global, out.data());
  const float nan = __uint_as_float(kAll);
  const float expected[4][8] = {{nan, nan, nan, nan, nan, nan, nan, nan},
                                {1, 2, 3, 4, nan, nan, nan, nan},
                                {nan, nan, nan, nan, 5, 6, 7, 8},
                                {9, 6, 7, 8, 5, 6, 7, 8}};
  bool good = true;
  for (size_t i = 0; i < 32; ++i) good = good && out[i] == __float_as_uint(expected[i / 8][i % 8]);
  expect(good, "copy_async");
}

// ---- launches that cannot be, and life after an error

__global__ void nothing() {}
__global__ void fail(int) { throw cuda_on_host::Error("planted"); }

template <typename F>
void expect_error(F launch_it, const char* what) {
  try {
    launch_it();
    expect(false, "no error for", what);
  } catch (const cuda_on_host::Error& error) {
    expect(std::string(error.what()).find(what) != std::string::npos, error.what());
  }
}

void test_launches() {
  expect(launch(nothing, 1, 1024, 227 * 1024, nullptr) == cudaSuccess, "largest launch");
  expect_error([] { launch(nothing, 1, 1025, 0, nullptr); }, "over 1024");
  expect_error([] { launch(nothing, dim3(1, 0), 32, 0, nullptr); }, "grid");
  expect_error([] { launch(nothing, 1, 32, 228 * 1024, nullptr); }, "shared memory");
  expect_error([] { launch(fail, 3, 64, 0, nullptr, 1); }, "planted");
}

}   // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  for (const Order order : {Order::kForward, Order::kReverse, Order::kShuffled})
    for (unsigned seed = 0; seed < (order == Order::kShuffled ? 3u : 1u); ++seed) {
      cuda_on_host::options().order = order;
      cuda_on_host::options().seed = seed;
      test_indices();
      test_barriers();
      test_shuffles<float>();
      test_shuffles<double>();
      test_votes();
      test_atomics();
      test_mma(Format::kTf32, "tf32");
      test_mma(Format::kBf16, "bf16");
      test_loads();
      test_copies();
      test_launches();
    }
  std::puts(all_good ? "CUDA on the host does what the manuals say" : "CUDA ON THE HOST IS WRONG");
  return all_good ? 0 : 1;
}
