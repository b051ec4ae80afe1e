// What the routes of many rows begin and end with: packed rows with norms, bandwidths and tolerances; loss, statistics
// and gradients from sums.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <string>
#include <vector>

#include "case.h"
#include "memory.h"

namespace kernels_test {

using cuda::Format;

namespace {

constexpr size_t kPanelRows = kCudaTileRows, kGroup = kCudaFeatureGroup;

size_t up_to(size_t number, size_t multiple) { return (number + multiple - 1) / multiple * multiple; }

double in_format(Format format, bool f64, double x) {
  if (f64) return x;
  const float single = static_cast<float>(x);
  if (format == Format::bf16) return rounded(Dtype::bf16, x);
  return static_cast<double>(format == Format::tf32 ? round_to_tf32(single) : single);
}

struct PackCase {
  Setting setting;
  std::vector<Dtype> dtypes;
  bool f64;
  Format format;
  bool gemm;            // one matrix per layer, with ones; in tf32 its transpose, too
  size_t gap, offset;   // elements between rows, and before the first
  double far = 0;       // of the first row from the others
  double bad = 0;       // a value of the last row
};

double lower_median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return x[(x.size() - 1) / 2];
}

// Around what a layer's rows are taken, by definition.
std::vector<double> centre_of(const std::vector<double>& z, size_t n, size_t d, bool follows_mean) {
  const size_t groups = follows_mean ? 1 : std::min(n, size_t{9});
  std::vector<double> centre;
  for (size_t k = 0; k < d; ++k) {
    std::vector<double> means(groups), counts(groups);
    for (size_t i = 0; i < n; ++i) {
      means[i % groups] += z[i * d + k];
      counts[i % groups] += 1;
    }
    for (size_t g = 0; g < groups; ++g) means[g] /= counts[g];
    centre.push_back(lower_median(means));
  }
  return centre;
}

void test(const PackCase& c) {
  const Setting& s = c.setting;
  const Problem p = make_problem(s, false);
  const size_t L = s.dims.size(), n = s.n();
  Matrices z = make_rows(s, false, [&](size_t l, double x) { return rounded(c.dtypes[l], x); });
  const Dtype computed = c.f64 ? Dtype::f64 : Dtype::f32;
  const Dtype stored = c.f64 ? Dtype::f64 : c.format == Format::bf16 ? Dtype::bf16 : Dtype::f32;
  const size_t source_rows = up_to(s.n_source, kPanelRows), packed_rows = source_rows + up_to(s.n_target, kPanelRows);
  const Memory given(L * 8);
  std::vector<Memory> source, target;
  Buffers io{};
  for (size_t l = 0; l < L; ++l) {
    const size_t d = s.dims[l], stride = d + c.gap, size = size_of(c.dtypes[l]);
    for (size_t k = 0; k < d; ++k) z[l][k] = rounded(c.dtypes[l], z[l][k] + c.far);
    if (c.bad != 0) z[l][n * d - 1] = c.bad;
    source.emplace_back((c.offset + (s.n_source - 1) * stride + d) * size);
    target.emplace_back((c.offset + (s.n_target - 1) * stride + d) * size);
    for (size_t row = 0; row < n; ++row)
      for (size_t k = 0; k < d; ++k) {
        const bool is_source = row < s.n_source;
        const size_t at = c.offset + (is_source ? row : row - s.n_source) * stride + k;
        put_as(c.dtypes[l], is_source ? source[l] : target[l], at, z[l][row * d + k]);
      }
    io.source[l] = source[l].at(c.offset * size);
    io.target[l] = target[l].at(c.offset * size);
    io.source_stride[l] = io.target_stride[l] = static_cast<int64_t>(stride);
    if (!p.layer[l].follows_mean) put(given, l, given_bandwidth(s, static_cast<int>(l)));   // others are not read
  }
  io.given_bandwidth = static_cast<const double*>(given.get());

  std::string details = c.f64 ? ", f64, " : ", f32, ";
  details += cuda::kFormats[static_cast<size_t>(c.format)];
  for (const Dtype dtype : c.dtypes) details += std::string(" ") + cuda::kDtypes[static_cast<size_t>(dtype)];
  char numbers[80];
  std::snprintf(numbers, sizeof numbers, "%s, gap %zu, offset %zu, far %g, bad %g", c.gemm ? ", gemm" : "", c.gap,
                c.offset, c.far, c.bad);
  Case check("pack:", s, details + numbers);
  const double eps = c.f64 ? 0x1p-52 : 0x1p-23;
  const double digits = c.format == Format::bf16 ? 0x1p-8 : c.format == Format::tf32 ? 0x1p-11 : 0;
  check.run([&] {
    cuda::PackedRows packed{};
    packed.ones = c.gemm;
    std::vector<Memory> rows, transposed;
    size_t width = 0;
    std::vector<size_t> first;   // a layer's first column
    for (size_t l = 0; l < L; ++l) {
      packed.width[l] = static_cast<int64_t>(up_to(s.dims[l] + c.gemm, kGroup));
      first.push_back(c.gemm ? 0 : width);
      width += static_cast<size_t>(packed.width[l]);
    }
    for (size_t l = 0; l < L; ++l) {
      packed.pitch[l] = c.gemm ? packed.width[l] : static_cast<int64_t>(width);
      if (c.gemm || l == 0) rows.emplace_back(packed_rows * static_cast<size_t>(packed.pitch[l]) * size_of(stored));
      packed.rows[l] = rows.back().at(first[l] * size_of(stored));
      if (!c.gemm || c.format != Format::tf32) continue;
      transposed.emplace_back(packed_rows * static_cast<size_t>(packed.width[l]) * size_of(stored));
      packed.transposed[l] = transposed[l].get();
    }
    const Memory norm(L * packed_rows * size_of(computed)), bandwidth(L * 8), tolerance(L * 8);
    const Memory workspace(static_cast<size_t>(cuda::pack_workspace_bytes(p, c.f64)));
    packed.norm = norm.get();
    packed.bandwidth = static_cast<double*>(bandwidth.get());
    packed.tolerance = static_cast<double*>(tolerance.get());
    io.workspace = workspace.get();
    if (const int code = cuda::pack(p, io, c.dtypes.data(), c.f64, c.format, packed, {0, nullptr})) return code;
    for (size_t l = 0; l < L; ++l) {
      const size_t d = s.dims[l], layer_width = static_cast<size_t>(packed.width[l]);
      const Memory& matrix = c.gemm ? rows[l] : rows[0];
      const auto pitch = static_cast<size_t>(packed.pitch[l]);
      const bool follows_mean = p.layer[l].follows_mean;
      const std::vector<double> centre = centre_of(z[l], n, d, follows_mean);
      const double size = std::abs(s.shift) + (follows_mean ? std::abs(c.far) : 0) + 4;
      double norm_sum = 0;
      for (size_t row = 0; row < packed_rows; ++row) {
        const bool is_source = row < source_rows;
        const size_t pooled = is_source ? row : row - source_rows + s.n_source;
        const bool present = pooled < (is_source ? s.n_source : n);
        double exact_norm = 0;
        for (size_t k = 0; k < layer_width; ++k) {
          const double value = get_as(stored, matrix, row * pitch + first[l] + k);
          if (c.format == Format::tf32 && c.gemm)
            check.expect_untouched({"transposed row of layer", l, row, k},
                                   get_as(stored, transposed[l], k * packed_rows + row), value);
          if (!present || k >= d) {
            check.expect({"padding of layer", l, row, k}, value, c.gemm && present && k == d ? 1 : 0, 1, 0);
            continue;
          }
          exact_norm += value * value;
          if (c.bad != 0) continue;
          const double exact = z[l][pooled * d + k] - centre[k];
          check.expect({"row of layer", l, row, k}, value, exact, 1, (digits + eps) * std::abs(exact) + 8 * eps * size);
          check.expect({"digits of layer", l, row, k}, in_format(c.format, c.f64, value), value, 1, 0);
        }
        const double computed_norm = get_as(computed, norm, l * packed_rows + row);
        norm_sum += computed_norm;
        if (c.bad == 0) check.expect({"norm of layer", l, row}, computed_norm, exact_norm, exact_norm, 8 * eps);
      }
      const double mean = 2 * norm_sum / static_cast<double>(n - 1);
      const double base = follows_mean ? mean : given_bandwidth(s, static_cast<int>(l));
      const double scale = p.layer[l].bandwidth_scale;
      if (c.bad != 0) {
        const double last = get_as(computed, norm, l * packed_rows + source_rows + s.n_target - 1);
        check.expect({"a norm that is a number in layer", l}, std::isnan(last) ? 0 : 1, 0, 1, 0);
        if (follows_mean)
          check.expect({"a bandwidth that is a number in layer", l}, std::isnan(get<double>(bandwidth, l)) ? 0 : 1, 0,
                       1, 0);
        continue;
      }
      check.expect({"bandwidth of layer", l}, get<double>(bandwidth, l), scale * base, scale * base, 1e-14);
      check.expect({"tolerance of layer", l}, get<double>(tolerance, l), 64 * eps * mean, mean * eps, 1e-12);
    }
    return 0;
  });
}

void test_pack() {
  std::vector<Setting> settings = {
      {1, 1, {1, 15}},           {2, 31, {16, 17}, true}, {33, 1, {15, 33}},
      {64, 65, {64, 130}, true}, {257, 31, {31, 40, 5}},  {70, 60, {1, 2, 3, 4, 5, 6, 7, 8}},
      {5, 3, {272, 300}},        {1300, 1200, {3, 20}},   // several slices of a group
  };
  settings.push_back({33, 40, {20, 12}});
  settings.back().shift = 1e4;
  struct Way {
    bool f64;
    Format format;
    bool gemm;
  };
  constexpr Way kWays[] = {{false, Format::tf32x3, false}, {false, Format::tf32, false}, {false, Format::bf16, false},
                           {false, Format::ieee, true},    {false, Format::tf32, true},  {false, Format::bf16, true},
                           {true, Format::ieee, true}};
  constexpr size_t kLayouts[][2] = {{0, 0}, {4, 4}, {3, 1}, {8, 8}};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const Way& way : kWays)
      for (size_t variant = 0; variant < 2; ++variant) {
        const size_t k = number++;
        if (only_sample && (!s.sample || k % 3)) continue;
        if (s.n() > 1000 && k % 2) continue;
        PackCase c{s, {}, way.f64, way.format, way.gemm, kLayouts[k % 4][0], kLayouts[k % 4][1]};
        for (size_t l = 0; l < s.dims.size(); ++l)
          c.dtypes.push_back(s.shift != 0 ? Dtype::f32 : static_cast<Dtype>((k / 4 + l) % (way.f64 ? 4 : 3)));
        test(c);
        if (variant != 0 || s.n() > 500 || s.n() < 18 || only_sample) continue;
        for (Dtype& dtype : c.dtypes) dtype = Dtype::f32;
        c.far = 1e6;
        test(c);
        c.far = 0;
        constexpr double kInfinity = std::numeric_limits<double>::infinity();
        for (const double bad : {kNaN, kInfinity, -kInfinity}) {
          c.bad = bad;
          test(c);
        }
      }
}

struct FinishCase {
  Setting setting;
  bool f64;
  Format format;
  bool ones;
  size_t parts, sum_rows;
  bool clamp;
  unsigned source_needs_grad, target_needs_grad;   // a bit for each layer
};

void test(const FinishCase& c) {
  const Setting& s = c.setting;
  const Problem p = make_problem(s, c.clamp);
  const size_t L = s.dims.size(), terms = 1 + L, source_rows = up_to(s.n_source, kPanelRows),
               packed_rows = source_rows + up_to(s.n_target, kPanelRows);
  const Dtype dtype = c.f64 ? Dtype::f64 : Dtype::f32;
  const Dtype stored = c.f64 ? Dtype::f64 : c.format == Format::bf16 ? Dtype::bf16 : Dtype::f32;
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  const Memory sums(c.sum_rows * 3 * terms * 8), bandwidth(L * 8);
  std::vector<double> total(3 * terms), sizes(3 * terms);
  for (size_t k = 0; k < c.sum_rows * total.size(); ++k) {
    const double x = normal(random);
    put(sums, k, x);
    total[k % total.size()] += x;
    sizes[k % total.size()] += std::abs(x);
  }
  std::vector<Memory> weighted, rows, grad_source, grad_target;
  cuda::PackedSums packed{};
  packed.sums = static_cast<const double*>(sums.get());
  packed.sum_rows = static_cast<int64_t>(c.sum_rows);
  packed.bandwidth = static_cast<const double*>(bandwidth.get());
  packed.parts = static_cast<int64_t>(c.parts);
  size_t pitch = 0;   // of all layers
  for (const size_t d : s.dims) pitch = std::max(pitch, up_to(d + 1, kGroup));
  packed.part_pitch = static_cast<int64_t>(packed_rows * pitch);
  for (size_t l = 0; l < L; ++l) {
    put(bandwidth, l, 1.25 + static_cast<double>(l));
    packed.pitch[l] = static_cast<int64_t>(pitch);
    const bool needed = (c.source_needs_grad | c.target_needs_grad) >> l & 1;
    weighted.emplace_back(needed ? c.parts * packed_rows * pitch * size_of(dtype) : 0);
    rows.emplace_back(needed && c.ones ? packed_rows * pitch * size_of(stored) : 0);
    packed.weighted[l] = weighted[l].get();
    packed.rows[l] = rows[l].get();
    for (size_t row = 0; row < packed_rows && needed; ++row)
      for (size_t k = 0; k <= s.dims[l]; ++k) {
        for (size_t part = 0; part < c.parts; ++part)
          put_as(dtype, weighted[l], (part * packed_rows + row) * pitch + k, normal(random));
        if (c.ones) put_as(stored, rows[l], row * pitch + k, normal(random));
      }
  }
  char details[120];
  std::snprintf(details, sizeof details, ", f%d %s, %zu parts, %zu sums%s, gradients 0x%x 0x%x", c.f64 ? 64 : 32,
                cuda::kFormats[static_cast<size_t>(c.format)], c.parts, c.sum_rows, c.ones ? ", ones" : "",
                c.source_needs_grad & 0xff, c.target_needs_grad & 0xff);
  Case check("finish:", s, details);
  const double tolerance = c.f64 ? 1e-13 : 1e-6;
  check.run([&] {
    Buffers io{};
    grad_source.clear();
    grad_target.clear();
    for (size_t l = 0; l < L; ++l) {
      grad_source.emplace_back(c.source_needs_grad >> l & 1 ? s.n_source * s.dims[l] * size_of(dtype) : 0);
      grad_target.emplace_back(c.target_needs_grad >> l & 1 ? s.n_target * s.dims[l] * size_of(dtype) : 0);
      io.grad_source[l] = grad_source[l].get();
      io.grad_target[l] = grad_target[l].get();
    }
    const Memory loss(size_of(dtype)), statistics((1 + 2 * L) * size_of(dtype));
    io.loss = loss.get();
    io.statistics = statistics.get();
    if (const int code = cuda::finish(p, io, c.f64, c.format, packed, {0, nullptr})) return code;
    double exact_loss = 0, loss_size = 0, product_at_zero = 1;
    for (size_t l = 0; l < L; ++l) {
      double at_zero = 0;
      for (int q = 0; q < p.layer[l].num_gaussians; ++q) at_zero += p.layer[l].weight[q];
      product_at_zero *= at_zero;
    }
    const auto clamped = [&](double value) { return c.clamp ? std::fmax(value, 0) : value; };
    for (size_t t = 0; t < terms; ++t) {
      double at_zero = t == 0 ? product_at_zero : 0;
      for (int q = 0; t > 0 && q < p.layer[t - 1].num_gaussians; ++q) at_zero += p.layer[t - 1].weight[q];
      const double factors[] = {p.alpha, p.beta, p.gamma}, mixed = t == 0 ? p.joint : p.marginal[t - 1];
      double value = p.diagonal * at_zero, size = std::abs(value);
      for (size_t r = 0; r < 3; ++r) {
        value += factors[r] * total[r * terms + t];
        size += std::abs(factors[r]) * sizes[r * terms + t];
      }
      check.expect({"value of term", t}, get_as(dtype, statistics, t), clamped(value), size, tolerance);
      exact_loss += mixed * value;
      loss_size += std::abs(mixed) * size;
    }
    check.expect({"loss", 0}, get_as(dtype, loss, 0), clamped(exact_loss), loss_size, tolerance);
    for (size_t l = 0; l < L; ++l) {
      check.expect({"bandwidth of layer", l}, get_as(dtype, statistics, terms + l), get<double>(bandwidth, l), 1,
                   tolerance);
      for (size_t row = 0; row < s.n(); ++row) {
        const bool is_source = row < s.n_source;
        if (!((is_source ? c.source_needs_grad : c.target_needs_grad) >> l & 1)) continue;
        const size_t out_row = is_source ? row : row - s.n_source, from = is_source ? row : source_rows + out_row;
        for (size_t k = 0, d = s.dims[l]; k < d; ++k) {
          double exact = 0, row_sum = 0;
          for (size_t part = 0; part < c.parts; ++part) {
            exact += get_as(dtype, weighted[l], (part * packed_rows + from) * pitch + k);
            row_sum += get_as(dtype, weighted[l], (part * packed_rows + from) * pitch + d);
          }
          if (c.ones) exact = 4 * (exact - row_sum * get_as(stored, rows[l], from * pitch + k));
          const double computed = get_as(dtype, is_source ? grad_source[l] : grad_target[l], out_row * d + k);
          check.expect({"gradient of layer", l, row, k}, computed, exact, 16, tolerance);
        }
      }
    }
    return 0;
  });
}

void test_finish() {
  const std::vector<Setting> settings = {{1, 1, {1, 15}},
                                         {2, 31, {16, 17}, true},
                                         {33, 64, {15, 33}},
                                         {70, 5, {1, 2, 3, 4, 5, 6, 7, 8}},
                                         {20, 257, {300}}};
  constexpr unsigned kNeedsGrad[][2] = {{kAll, kAll}, {kAll, 0}, {0, 0}, {0, kAll}, {2, 5}};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const auto& needs_grad : kNeedsGrad)
      for (size_t way = 0; way < 4; ++way) {
        const size_t k = number++;
        if (only_sample && (!s.sample || k % 3)) continue;
        const bool ones = way > 0;
        const Format format = way == 0 ? Format::tf32x3 : way == 1 ? Format::bf16 : Format::ieee;
        test({s, way == 3, format, ones, ones ? 1 : 1 + k % 3, size_t{k % 2 ? 3u : 200u}, k % 5 == 0, needs_grad[0],
              needs_grad[1]});
      }
}

}   // namespace

void test_packed() {
  test_pack();
  test_finish();
}

}   // namespace kernels_test
