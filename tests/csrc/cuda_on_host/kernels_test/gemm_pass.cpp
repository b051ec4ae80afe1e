// Route "gemm": the pass between two matrix products, over all pairs of row panels.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "case.h"
#include "memory.h"

namespace kernels_test {

namespace {

// As fastmmd/backends/cuda/gemm.py calls it: panels I <= J of `side` rows, all pairs with the same partial sums.
void test(const Setting& s, bool f64, size_t side, unsigned needs_grad) {
  const Problem p = make_problem(s, false);
  const size_t n = s.n(), L = s.dims.size();
  const Dtype dtype = f64 ? Dtype::f64 : Dtype::f32;
  const Matrices z = make_rows(s, true, [&](size_t, double x) { return rounded(dtype, x); });
  std::vector<double> given;
  for (size_t l = 0; l < L; ++l) given.push_back(given_bandwidth(s, static_cast<int>(l)));
  const Dense exact = dense(p, z, given);

  const Memory bandwidth(L * 8), tolerances(L * 8);
  std::vector<Memory> norm;
  for (size_t l = 0; l < L; ++l) {
    double mean = 0;
    norm.emplace_back(n * size_of(dtype));
    for (size_t row = 0; row < n; ++row) {
      double sum = 0;
      for (size_t k = 0, d = s.dims[l]; k < d; ++k) sum += z[l][row * d + k] * z[l][row * d + k];
      put_as(dtype, norm[l], row, sum);
      mean += sum / static_cast<double>(n);
    }
    put(bandwidth, l, exact.bandwidth[l]);
    put(tolerances, l, 64 * (f64 ? 2.3e-16 : 1.2e-7) * 2 * mean);
  }
  char details[80];
  std::snprintf(details, sizeof details, ", f%d, panels of %zu, coefficients 0x%x", f64 ? 64 : 32, side,
                needs_grad & 0xff);
  Case check("gemm pass:", s, details);
  const double tolerance = f64 ? 1e-12 : 1e-5;
  const size_t terms = 3 * (1 + L);
  const auto panel_rows = static_cast<int64_t>(side);
  const auto programs = static_cast<size_t>(cuda::gemm_pass_programs(panel_rows, panel_rows));
  check.run([&] {
    const Memory sums(programs * terms * 8);
    for (size_t k = 0; k < programs * terms; ++k) put(sums, k, k < terms ? 1000.0 : 0.0);   // what others have added
    for (size_t i0 = 0; i0 < n; i0 += side)
      for (size_t j0 = i0; j0 < n; j0 += side) {
        const size_t rows = std::min(side, n - i0), columns = std::min(side, n - j0);
        cuda::GemmPass io{};
        io.rows = static_cast<int64_t>(rows);
        io.columns = static_cast<int64_t>(columns);
        io.first_row = static_cast<int64_t>(i0);
        io.first_column = static_cast<int64_t>(j0);
        const size_t pitch = columns + 3 * (rows % 2);   // rows side by side, and with gaps that stay as they are
        io.pitch = static_cast<int64_t>(pitch);
        std::vector<Memory> inner_products;
        Matrices before(L);
        for (size_t l = 0; l < L; ++l) {
          inner_products.emplace_back(((rows - 1) * pitch + columns) * size_of(dtype));
          for (size_t i = 0; i < rows; ++i)
            for (size_t j = 0; j < columns; ++j) {
              double sum = 0;
              for (size_t k = 0, d = s.dims[l]; k < d; ++k) sum += z[l][(i0 + i) * d + k] * z[l][(j0 + j) * d + k];
              put_as(dtype, inner_products[l], i * pitch + j, sum);
              before[l].push_back(rounded(dtype, sum));
            }
          io.inner_products[l] = inner_products[l].get();
          io.norm[l] = norm[l].get();
          io.layer_needs_grad[l] = needs_grad >> l & 1;
        }
        io.bandwidth = static_cast<const double*>(bandwidth.get());
        io.tolerance = static_cast<const double*>(tolerances.get());
        io.sums = static_cast<double*>(sums.get());
        if (const int code = cuda::gemm_pass(p, io, f64, {0, nullptr})) return code;
        for (size_t l = 0; l < L; ++l) {
          const double scale = largest(exact.coefficient[l]);
          for (size_t i = 0; i + 1 < rows; ++i)
            for (size_t j = columns; j < pitch; ++j)
              check.expect_untouched({"gap of layer", l, i0 + i, j}, get_as(dtype, inner_products[l], i * pitch + j),
                                     kNaN);
          for (size_t i = 0; i < rows; ++i)
            for (size_t j = 0; j < columns; ++j) {
              const double computed = get_as(dtype, inner_products[l], i * pitch + j);
              if (needs_grad >> l & 1)
                check.expect({"coefficient of layer", l, i0 + i, j0 + j}, computed,
                             exact.coefficient[l][(i0 + i) * n + j0 + j], scale, tolerance);
              else
                check.expect_untouched({"inner product of layer", l, i0 + i, j0 + j}, computed,
                                       before[l][i * columns + j]);
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
      {1, 1, {1}, true},
      {1, 2, {3, 1}},
      {31, 33, {31, 4}, true},
      {36, 36, {33, 2, 5}},
      {65, 64, {70}},
      {20, 110, {130, 3}},
      {40, 25, {1, 2, 3, 4, 5, 6, 7, 8}},
      {20, 13, {5, 7}, true},
  };
  settings.back().many = true;
  settings.push_back({20, 17, {6, 7, 3}});
  settings.back().zero_bandwidth = 1;
  constexpr unsigned kNeedsGrad[] = {kAll, 0, 1, 2};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const bool f64 : {false, true})
      for (const size_t side : {s.n(), (s.n() + 1) / 2, size_t{33}, size_t{70}}) {
        const size_t k = number++;
        if (side > s.n() || (only_sample && (!s.sample || k % 2))) continue;
        test(s, f64, side, kAll);
        if (!only_sample) test(s, f64, side, kNeedsGrad[1 + k % 3]);
      }
}

}   // namespace kernels_test
