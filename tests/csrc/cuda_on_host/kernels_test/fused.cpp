// Route "fused": all formats, splits and stages, from rows that are packed here as in fastmmd/backends/cuda/fused.py.
#include <cmath>
#include <cstdio>
#include <vector>

#include "case.h"
#include "memory.h"

namespace kernels_test {

using cuda::Format;

namespace {

int64_t padded_width(size_t dim) {
  constexpr size_t kGroup = kCudaFeatureGroup;
  return static_cast<int64_t>((dim + kGroup - 1) / kGroup * kGroup);
}

double in_format(Format format, double x) {
  const float single = static_cast<float>(x);
  if (format == Format::bf16) return rounded(Dtype::bf16, x);
  return static_cast<double>(format == Format::tf32 ? round_to_tf32(single) : single);
}

void test(const Setting& s, Format format, cuda::FusedLaunch launch, unsigned needs_grad) {
  constexpr size_t kPanelRows = kCudaTileRows;
  const Problem p = make_problem(s, false);
  const size_t L = s.dims.size(), splits = static_cast<size_t>(launch.splits);
  const Matrices z = make_rows(s, true, [&](size_t, double x) { return in_format(format, x); });
  std::vector<double> given;
  for (size_t l = 0; l < L; ++l) given.push_back(given_bandwidth(s, static_cast<int>(l)));
  const Dense exact = dense(p, z, given);

  const size_t source_panels = (s.n_source + kPanelRows - 1) / kPanelRows,
               target_panels = (s.n_target + kPanelRows - 1) / kPanelRows;
  const size_t packed_rows = (source_panels + target_panels) * kPanelRows;
  const size_t programs = splits * (source_panels + target_panels);
  const auto packed = [&](size_t row) {
    return row < s.n_source ? row : row - s.n_source + source_panels * kPanelRows;
  };
  std::vector<size_t> start = {0};   // a layer's first column
  cuda::FusedBuffers io{};
  for (size_t l = 0; l < L; ++l) {
    io.width[l] = padded_width(s.dims[l]);
    io.layer_needs_grad[l] = needs_grad >> l & 1;
    start.push_back(start[l] + static_cast<size_t>(io.width[l]));
  }
  const size_t width = start[L];
  const Dtype stored = format == Format::bf16 ? Dtype::bf16 : Dtype::f32;
  const Memory rows(packed_rows * width * size_of(stored)), norm(L * packed_rows * 4), bandwidth(L * 8);
  const Memory tolerances(L * 8);
  for (size_t k = 0; k < packed_rows * width; ++k) put_as(stored, rows, k, 0);
  for (size_t k = 0; k < L * packed_rows; ++k) put(norm, k, 0.0f);
  for (size_t l = 0; l < L; ++l) {
    double mean = 0;
    for (size_t row = 0; row < s.n(); ++row) {
      double sum = 0;
      for (size_t k = 0, d = s.dims[l]; k < d; ++k) {
        const double x = z[l][row * d + k];
        sum += x * x;
        put_as(stored, rows, packed(row) * width + start[l] + k, x);
      }
      put(norm, l * packed_rows + packed(row), static_cast<float>(sum));
      mean += sum / static_cast<double>(s.n());
    }
    put(bandwidth, l, exact.bandwidth[l]);
    put(tolerances, l, 64 * 1.2e-7 * 2 * mean);
  }
  io.rows = rows.get();
  io.norm = static_cast<const float*>(norm.get());
  io.bandwidth = static_cast<const double*>(bandwidth.get());
  io.tolerance = static_cast<const double*>(tolerances.get());

  char details[100];
  std::snprintf(details, sizeof details, ", %s, %d splits, %d stages, gradients 0x%x",
                cuda::kFormats[static_cast<size_t>(format)], launch.splits, launch.stages, needs_grad & 0xff);
  Case check("fused:", s, details);
  // Rows are rounded before, so that distances and sums are as exact as fp32; of the coefficients that multiply rows,
  // each has the format's digits.
  const double tolerance = format == Format::bf16 ? 2e-2 : format == Format::tf32 ? 2e-3 : 1e-5;
  check.run([&] {
    const Memory gradient(needs_grad ? splits * packed_rows * width * 4 : 0), sums(programs * 3 * (1 + L) * 8);
    io.gradient = static_cast<float*>(gradient.get());
    io.sums = static_cast<double*>(sums.get());
    if (const int code = cuda::fused(p, io, format, launch, {0, nullptr})) return code;
    std::vector<double> total(3 * (1 + L));
    for (size_t k = 0; k < programs * total.size(); ++k) total[k % total.size()] += get<double>(sums, k);
    expect_sums(&check, exact, total, 1e-5);
    for (size_t l = 0; l < L && needs_grad; ++l) {
      const double scale = largest(exact.gradient[l]);
      for (size_t row = 0; row < s.n(); ++row)
        for (size_t k = 0, d = s.dims[l]; k < d; ++k) {
          double computed = 0;
          for (size_t split = 0; split < splits; ++split) {
            const double part =
                static_cast<double>(get<float>(gradient, (split * packed_rows + packed(row)) * width + start[l] + k));
            computed += part;
            if (!(needs_grad >> l & 1))
              check.expect_untouched({"gradient that nobody needs of layer", l, row, k}, part, kNaN);
          }
          if (needs_grad >> l & 1)
            check.expect({"gradient of layer", l, row, k}, computed, exact.gradient[l][row * d + k], scale, tolerance);
        }
    }
    return 0;
  });
}

}   // namespace

void test_fused() {
  std::vector<Setting> settings = {
      {1, 1, {1}, true},    {1, 2, {33, 1}},           {65, 64, {31}, true}, {36, 36, {70, 20}},
      {30, 70, {130}},      {70, 60, {17, 150}, true},   // more columns than a warp's fewest registers hold
      {64, 64, {160, 160}},                              // the widest, and no row of padding
      {2, 65, {33, 4}},     {1010, 70, {2}},             // enough tiles for sums to be flushed within a split
  };
  settings.push_back({40, 70, {6, 7}});
  settings.back().many = true;
  settings.push_back({20, 17, {6, 7}});
  settings.back().zero_bandwidth = 1;
  for (const Setting& s : usual_mixtures()) settings.push_back(s);
  constexpr cuda::FusedLaunch kLaunches[] = {{1, 1}, {1, 2}, {2, 2}, {3, 1}, {3, 2}, {2, 1}};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const Format format : {Format::tf32x3, Format::tf32, Format::bf16}) {
      const bool many_tiles = s.n() > 500;
      for (size_t variant = 0; variant < (many_tiles ? 1u : 2u); ++variant) {
        const size_t k = number++;
        if (many_tiles && format != Format::tf32x3) continue;
        if (only_sample && (!s.sample || (k + k / 10) % 3 == 0)) continue;
        const bool one_layer = s.dims.size() == 1;
        const cuda::FusedLaunch launch = many_tiles ? kLaunches[0] : kLaunches[(k + k / 10) % 6];
        const unsigned needs_grad = variant == 0 ? kAll : k / 2 % 3 == 0 || one_layer ? 0 : k / 2 % 3 == 1 ? 1 : 2;
        int64_t width = 0;
        for (const size_t d : s.dims) width += padded_width(d);
        const int layers = static_cast<int>(s.dims.size());
        const int64_t bytes = cuda::fused_shared_bytes(format, width, layers, needs_grad != 0, launch);
        const bool fits = bytes <= static_cast<int64_t>(cuda_on_host::options().shared_limit);
        test(s, format, fits ? launch : cuda::FusedLaunch{launch.splits, 1}, needs_grad);
      }
    }
}

}   // namespace kernels_test
