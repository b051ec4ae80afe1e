// The CUDA kernels on the host without Python, for the sanitizers: odd shapes in memory of the exact size, all routes,
// dtypes and formats, in several orders of the threads, against plain loops in double.
//
//     kernels_test           every case in three orders
//     kernels_test sample    a few cases in one order each, for slow sanitizers
#include <cstdio>
#include <cstring>
#include <stdexcept>

#include "case.h"

namespace kernels_test {

namespace {

void expect(bool good, const char* what) {
  if (!good) std::printf("BAD  %s\n", what);
  all_good = all_good && good;
}

void test_refusals() {
  Problem three = make_problem({2, 2, {1, 1, 1}}, false), many = three, rows = three;
  for (int l = 0; l < 3; ++l) many.layer[l].num_gaussians = 43;
  rows.n_source = kCudaMaxRows;
  const auto refuses = [](const Problem& p) {
    try {
      cuda::gemm_pass(p, {}, true, {0, nullptr});
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  expect(refuses(many), "129 Gaussians are not refused");
  expect(refuses(rows), "over 2^30 rows are not refused");
  const auto fused_refuses = [](const Problem& p, int64_t width, cuda::Format format = cuda::Format::tf32) {
    cuda::FusedBuffers io{};
    for (int l = 0; l < p.num_layers; ++l) io.width[l] = width;
    return cuda::fused(p, io, format, {1, 1}, {0, nullptr}) != 0;
  };
  expect(fused_refuses(three, 16), "three fused layers are not refused");
  const Problem wide = make_problem({2, 2, {330}}, false), narrow = make_problem({2, 2, {20}}, false);
  expect(fused_refuses(wide, kCudaFusedMaxWidth + kCudaFeatureGroup), "a fused layer that is too wide is not refused");
  expect(fused_refuses(narrow, 32, cuda::Format::ieee), "a fused format without tensor cores is not refused");
  expect(fused_refuses(narrow, 20), "a width that is no multiple of 16 is not refused");
  expect(fused_refuses(narrow, 16), "a width below the number of features is not refused");
  const auto pack_refuses = [&](int64_t width, int64_t pitch) {
    constexpr cuda::Dtype dtype = cuda::Dtype::f32;
    cuda::PackedRows io{};
    io.ones = true;
    io.width[0] = width;
    io.pitch[0] = pitch;
    return cuda::pack(make_problem({2, 2, {16}}, false), {}, &dtype, false, cuda::Format::tf32, io, {0, nullptr}) != 0;
  };
  expect(pack_refuses(16, 32), "packed rows without room for ones are not refused");
  expect(pack_refuses(20, 32), "a width of packed rows that is no multiple of 16 is not refused");
  expect(pack_refuses(32, 16), "packed rows that overlap are not refused");
}

}   // namespace

}   // namespace kernels_test

int main(int count, char** arguments) {
  using namespace kernels_test;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  only_sample = count > 1 && std::strcmp(arguments[1], "sample") == 0;
  if (count > 1 && !only_sample) {
    std::puts("expected no argument, or sample");
    return 2;
  }
  test_refusals();
  test_small();
  test_packed();
  test_fused();
  test_gemm_pass();
  std::printf("%u cases, %u of them bad\n", cases_run, cases_bad);
  std::puts(all_good ? "the CUDA kernels agree with the definitions" : "THE CUDA KERNELS ARE WRONG");
  return all_good ? 0 : 1;
}
