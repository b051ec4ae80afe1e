// Route "gemm": the pass between two matrix products, over all pairs of row panels.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "case.h"
#include "memory.h"

namespace kernels_test {

namespace {

using cuda::Format;
constexpr size_t kTile = kCudaTileRows;

struct Options {
  bool f64;
  Format format;
  size_t panel_tiles;    // of one row panel
  unsigned needs_grad;   // a bit for each layer
  bool in_place;         // coefficients where the inner products were
};

double rounded_coefficient(Format format, double x) {
  if (format == Format::bf16) return rounded(Dtype::bf16, x);
  return format == Format::tf32 ? static_cast<double>(upper_digits(static_cast<float>(x), kTf32Split)) : x;
}

// As fastmmd/backends/cuda/gemm.py calls it: panels I <= J of packed rows, all pairs with the same partial sums.
void test(const Setting& s, const Options& options) {
  const Problem p = make_problem(s, false);
  const size_t L = s.dims.size();
  const Dtype dtype = options.f64 ? Dtype::f64 : Dtype::f32,
              stored = options.format == Format::bf16 ? Dtype::bf16 : dtype;
  const Matrices z = make_rows(s, true, [&](size_t, double x) { return rounded(dtype, x); });
  std::vector<double> given;
  for (size_t l = 0; l < L; ++l) given.push_back(given_bandwidth(s, static_cast<int>(l)));
  const Dense exact = dense(p, z, given);

  const size_t source_rows = (s.n_source + kTile - 1) / kTile * kTile;
  const size_t n = source_rows + (s.n_target + kTile - 1) / kTile * kTile;   // packed rows
  const auto original = [&](size_t row) -> size_t {                          // SIZE_MAX for padding
    if (row < source_rows) return row < s.n_source ? row : SIZE_MAX;
    return row - source_rows < s.n_target ? row - source_rows + s.n_source : SIZE_MAX;
  };
  const Memory bandwidth(L * 8), tolerances(L * 8);
  std::vector<Memory> norm;
  for (size_t l = 0; l < L; ++l) {
    double mean = 0;
    norm.emplace_back(n * size_of(dtype));
    for (size_t row = 0; row < n; ++row) {
      double sum = 0;
      for (size_t k = 0, d = s.dims[l]; k < d && original(row) != SIZE_MAX; ++k)
        sum += z[l][original(row) * d + k] * z[l][original(row) * d + k];
      put_as(dtype, norm[l], row, sum);
      mean += sum / static_cast<double>(s.n());
    }
    put(bandwidth, l, exact.bandwidth[l]);
    put(tolerances, l, 64 * (options.f64 ? 2.3e-16 : 1.2e-7) * 2 * mean);
  }
  char details[100];
  std::snprintf(details, sizeof details, ", f%d, %s, panels of %zu tiles, coefficients 0x%x%s", options.f64 ? 64 : 32,
                cuda::kFormats[static_cast<size_t>(options.format)], options.panel_tiles, options.needs_grad & 0xff,
                options.in_place ? " in place" : "");
  Case check("gemm pass:", s, details);
  const double tolerance = options.f64 ? 1e-12 : 1e-5;
  const double of_coefficients = options.format == Format::bf16   ? 4e-3
                                 : options.format == Format::tf32 ? 5e-4
                                                                  : tolerance;
  const size_t terms = 3 * (1 + L), side = options.panel_tiles * kTile;
  const auto panel_rows = static_cast<int64_t>(side);
  const auto programs = static_cast<size_t>(cuda::gemm_pass_programs(panel_rows, panel_rows));
  check.run([&] {
    const Memory sums(programs * terms * 8);
    for (size_t k = 0; k < programs * terms; ++k) put(sums, k, k < terms ? 1000.0 : 0.0);   // what others have added
    for (size_t i0 = 0; i0 < n; i0 += side)
      for (size_t j0 = i0; j0 < n; j0 += side) {
        const size_t rows = std::min(side, n - i0), columns = std::min(side, n - j0);
        const size_t pitch = columns + kTile * (i0 / side % 2);   // rows side by side, and with gaps
        const bool transposes = options.format == Format::tf32 && i0 != j0;
        cuda::GemmPass io{};
        io.rows = static_cast<int64_t>(rows);
        io.columns = static_cast<int64_t>(columns);
        io.first_row = static_cast<int64_t>(i0);
        io.first_column = static_cast<int64_t>(j0);
        io.pitch = static_cast<int64_t>(pitch);
        io.transposed_pitch = panel_rows;
        io.format = options.format;
        std::vector<Memory> inner_products, coefficients, transposed;
        Matrices before(L);
        for (size_t l = 0; l < L; ++l) {
          const bool needed = options.needs_grad >> l & 1, own = !options.in_place && needed;
          const size_t elements = (rows - 1) * pitch + columns;
          inner_products.emplace_back(elements * size_of(dtype));
          coefficients.emplace_back(own ? elements * size_of(stored) : 0);
          transposed.emplace_back(transposes && needed ? ((columns - 1) * side + rows) * size_of(stored) : 0);
          for (size_t i = 0; i < rows; ++i)
            for (size_t j = 0; j < columns; ++j) {
              const size_t u = original(i0 + i), v = original(j0 + j), d = s.dims[l];
              double sum = 0;
              for (size_t k = 0; k < d && u != SIZE_MAX && v != SIZE_MAX; ++k) sum += z[l][u * d + k] * z[l][v * d + k];
              put_as(dtype, inner_products[l], i * pitch + j, sum);
              before[l].push_back(rounded(dtype, sum));
            }
          io.inner_products[l] = inner_products[l].get();
          io.coefficients[l] = own ? coefficients[l].get() : needed ? inner_products[l].get() : nullptr;
          io.transposed[l] = transposed[l].get();
          io.norm[l] = norm[l].get();
        }
        io.bandwidth = static_cast<const double*>(bandwidth.get());
        io.tolerance = static_cast<const double*>(tolerances.get());
        io.sums = static_cast<double*>(sums.get());
        if (const int code = cuda::gemm_pass(p, io, options.f64, {0, nullptr})) return code;
        for (size_t l = 0; l < L; ++l) {
          const bool needed = options.needs_grad >> l & 1, in_place = options.in_place && needed;
          const Memory& written = in_place ? inner_products[l] : coefficients[l];
          const double scale = largest(exact.coefficient[l]);
          for (size_t i = 0; i + 1 < rows && needed; ++i)
            for (size_t j = columns; j < pitch; ++j)
              check.expect_untouched({"gap of layer", l, i0 + i, j}, get_as(stored, written, i * pitch + j), kNaN);
          for (size_t i = 0; i < rows; ++i)
            for (size_t j = 0; j < columns; ++j) {
              const size_t u = original(i0 + i), v = original(j0 + j);
              if (!in_place)
                check.expect_untouched({"inner product of layer", l, i0 + i, j0 + j},
                                       get_as(dtype, inner_products[l], i * pitch + j), before[l][i * columns + j]);
              if (!needed) continue;
              const bool padding = u == SIZE_MAX || v == SIZE_MAX;
              const double c = get_as(stored, written, i * pitch + j);
              if (padding)
                check.expect({"coefficient of padding of layer", l, i0 + i, j0 + j}, c, 0, 1, 0);
              else
                check.expect({"coefficient of layer", l, i0 + i, j0 + j}, c, exact.coefficient[l][u * s.n() + v], scale,
                             of_coefficients);
              check.expect({"digits of the coefficient of layer", l, i0 + i, j0 + j}, c,
                           rounded_coefficient(options.format, c), 1, 0);
              if (transposes)
                check.expect_untouched({"transposed coefficient of layer", l, j0 + j, i0 + i},
                                       get_as(stored, transposed[l], j * side + i), c);
            }
        }
      }
    std::vector<double> total(terms);
    for (size_t k = 0; k < programs * terms; ++k) total[k % terms] += get<double>(sums, k) - (k < terms ? 1000 : 0);
    expect_sums(&check, exact, total, tolerance);
    return 0;
  });
}

}   // namespace

void test_gemm_pass() {
  std::vector<Setting> settings = {
      {1, 1, {1}, true},      {1, 2, {3, 1}},      {31, 70, {31, 4}, true},
      {36, 36, {33, 2, 5}},   {65, 64, {70}},   // a tile of one row, and one without padding
      {128, 64, {9, 3}},      {20, 110, {130, 3}}, {40, 25, {1, 2, 3, 4, 5, 6, 7, 8}},
      {20, 13, {5, 7}, true},
  };
  settings.back().many = true;
  settings.push_back({20, 17, {6, 7, 3}});
  settings.back().zero_bandwidth = 1;
  for (const Setting& s : usual_mixtures()) settings.push_back(s);
  constexpr unsigned kNeedsGrad[] = {0, 1, 2};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const Format format : {Format::ieee, Format::tf32, Format::bf16})
      for (const bool f64 : {false, true})
        for (const size_t panel_tiles : {size_t{1}, size_t{2}, size_t{4}}) {
          if (f64 && format != Format::ieee) continue;
          const size_t k = number++;
          if (only_sample && (!s.sample || k % 2)) continue;
          test(s, {f64, format, panel_tiles, kAll, format != Format::bf16 && k % 2 == 0});
          if (!only_sample) test(s, {f64, format, panel_tiles, kNeedsGrad[k % 3], false});
        }
}

}   // namespace kernels_test
