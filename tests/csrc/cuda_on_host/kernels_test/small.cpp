// Route "small": all dtypes, chunks and parts of features, gradients of some layers and sides, weights of pairs.
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "case.h"
#include "memory.h"

namespace kernels_test {

namespace {

struct SmallCase {
  Setting setting;
  std::vector<Dtype> dtypes;
  bool f64;
  cuda::SmallLaunch launch;
  unsigned source_needs_grad, target_needs_grad;   // a bit for each layer
  size_t gap;                                      // elements between rows
  bool clamp;
  bool null_bandwidth = false;
  size_t form_columns = 0;   // 0: no form
  bool form_loss = true;     // false: its rows alone
  bool form_rows = false;
};

void test(const SmallCase& c) {
  const Setting& s = c.setting;
  Problem p = make_problem(s, c.clamp);
  const size_t L = s.dims.size(), P = c.form_columns;
  const Dtype out = c.f64 ? Dtype::f64 : Dtype::f32;
  Form form{};
  Memory w, wa;
  if (P > 0) {
    p.alpha = p.beta = p.gamma = kNaN;   // not read
    p.diagonal = c.clamp ? 1 : 0;
    p.form_columns = static_cast<int64_t>(P);
    form = make_form(s, P, [&](double x) { return rounded(out, x); });
    w = Memory(s.n() * P * size_of(out));
    wa = Memory(c.form_loss ? s.n() * P * size_of(out) : 0);
    for (size_t k = 0; k < s.n() * P; ++k) {
      put_as(out, w, k, form.w[k]);
      if (c.form_loss) put_as(out, wa, k, form.wa[k]);
    }
  }
  const Matrices z = make_rows(s, false, [&](size_t l, double x) { return rounded(c.dtypes[l], x); });
  const Memory bandwidth(c.null_bandwidth ? 0 : L * 8);
  std::vector<double> given;
  for (size_t l = 0; l < L; ++l) {
    given.push_back(c.null_bandwidth ? 1 : given_bandwidth(s, static_cast<int>(l)));
    if (!c.null_bandwidth && !p.layer[l].follows_mean) put(bandwidth, l, given[l]);   // others are not read
  }
  const Dense exact = dense(p, z, given, P > 0 ? &form : nullptr);

  std::vector<Memory> source, target, grad_source, grad_target;
  Buffers io{};
  for (size_t l = 0; l < L; ++l) {
    const size_t d = s.dims[l], stride = d + c.gap, bytes = size_of(c.dtypes[l]);
    source.emplace_back(((s.n_source - 1) * stride + d) * bytes);
    target.emplace_back(s.n_target > 0 ? ((s.n_target - 1) * stride + d) * bytes : 0);
    for (size_t row = 0; row < s.n(); ++row)
      for (size_t k = 0; k < d; ++k)
        if (row < s.n_source)
          put_as(c.dtypes[l], source[l], row * stride + k, z[l][row * d + k]);
        else
          put_as(c.dtypes[l], target[l], (row - s.n_source) * stride + k, z[l][row * d + k]);
    io.source[l] = source[l].get();
    io.target[l] = target[l].get();
    io.source_stride[l] = io.target_stride[l] = static_cast<int64_t>(stride);
  }
  io.given_bandwidth = static_cast<const double*>(bandwidth.get());
  io.w = w.get();
  io.wa = wa.get();

  std::string details = c.f64 ? ", f64" : ", f32";
  details += " from";
  for (const Dtype dtype : c.dtypes) details += std::string(" ") + cuda::kDtypes[static_cast<size_t>(dtype)];
  details += ", chunk " + std::to_string(c.launch.chunk) + ", parts of " + std::to_string(c.launch.part_features);
  if (P > 0)
    details += ", form of " + std::to_string(P) + (c.form_loss ? c.form_rows ? " with rows" : "" : ", rows alone");
  char masks[60];
  std::snprintf(masks, sizeof masks, ", gradients 0x%x 0x%x, gap %zu", c.source_needs_grad & 0xff,
                c.target_needs_grad & 0xff, c.gap);
  Case check("small:", s, details + masks);
  const double tolerance = c.f64 ? 1e-12 : 1e-5;
  check.run([&] {
    grad_source.clear();
    grad_target.clear();
    for (size_t l = 0; l < L; ++l) {
      grad_source.emplace_back(c.source_needs_grad >> l & 1 ? s.n_source * s.dims[l] * size_of(out) : 0);
      grad_target.emplace_back(c.target_needs_grad >> l & 1 ? s.n_target * s.dims[l] * size_of(out) : 0);
      io.grad_source[l] = grad_source[l].get();
      io.grad_target[l] = grad_target[l].get();
    }
    const Memory loss(size_of(out)), statistics((1 + 2 * L) * size_of(out));
    const Memory rows(c.form_rows ? s.n() * P * size_of(out) : 0);
    const Memory workspace(static_cast<size_t>(cuda::small_workspace_bytes(p, c.f64, c.launch)));
    io.loss = loss.get();
    io.statistics = statistics.get();
    io.kw = rows.get();
    io.workspace = workspace.get();
    const int code = cuda::small(p, io, c.dtypes.data(), c.f64, c.launch, {0, nullptr});
    const auto clamped = [&](double value) { return c.clamp ? std::fmax(value, 0) : value; };
    if (c.form_loss) check.expect({"loss", 0}, get_as(out, loss, 0), clamped(exact.loss), exact.loss_terms, tolerance);
    for (size_t t = 0; c.form_loss && t <= L; ++t)
      check.expect({"value of term", t}, get_as(out, statistics, t), clamped(exact.value[t]), exact.terms[t],
                   tolerance);
    for (size_t l = 0; l < L; ++l) {
      check.expect({"bandwidth of layer", l}, get_as(out, statistics, 1 + L + l), exact.bandwidth[l],
                   exact.bandwidth[l], tolerance);
      const double scale = largest(exact.gradient[l]);
      for (size_t row = 0; row < s.n(); ++row) {
        const bool is_source = row < s.n_source;
        if (!((is_source ? c.source_needs_grad : c.target_needs_grad) >> l & 1)) continue;
        for (size_t k = 0, d = s.dims[l]; k < d; ++k) {
          const double computed = is_source ? get_as(out, grad_source[l], row * d + k)
                                            : get_as(out, grad_target[l], (row - s.n_source) * d + k);
          check.expect({"gradient of layer", l, row, k}, computed, exact.gradient[l][row * d + k], scale, tolerance);
        }
      }
    }
    for (size_t row = 0; c.form_rows && row < s.n(); ++row)
      for (size_t k = 0; k < P; ++k)
        check.expect({"row of K W", 0, row, k}, get_as(out, rows, row * P + k), exact.rows[row * P + k],
                     exact.row_terms[row * P + k], tolerance);
    return code;
  });
}

// One to eight layers, targets or none; columns of W that take a part of a warp, several warps and several chunks.
void test_forms() {
  const std::vector<Setting> settings = {
      {31, 34, {33, 7}, true},  {1, 1, {1}},    {70, 0, {130}},
      {33, 0, {9, 3, 5}, true}, {40, 57, {65}}, {20, 13, {5, 7, 2, 3, 1, 4, 6, 8}},
  };
  constexpr size_t kColumns[] = {1, 2, 6, 33, 70};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const size_t columns : kColumns) {
      const size_t k = number++;
      if (only_sample && (!s.sample || columns > 33)) continue;
      const bool f64 = k % 2 == 0;
      SmallCase c{s, {}, f64, {k % 3 == 0 ? 32 : 256, k % 4 < 2 ? 32 : 64, k % 2 == 0}, kAll, kAll, k % 3, k % 3 == 1};
      for (size_t l = 0; l < s.dims.size(); ++l) c.dtypes.push_back(static_cast<Dtype>((k + l) % (f64 ? 4 : 3)));
      c.form_columns = columns;
      c.form_rows = k % 4 != 3;
      test(c);
      c.source_needs_grad = c.target_needs_grad = 0;
      c.form_rows = k % 4 == 3;
      test(c);
      c.form_loss = false;
      c.form_rows = true;
      test(c);
    }
}

}   // namespace

void test_small() {
  std::vector<Setting> settings = {
      {1, 1, {1}, true},           {1, 2, {1, 33}},
      {2, 1, {5, 1, 31}},          {31, 33, {31}},
      {33, 1, {70}, true},         {36, 36, {33, 70}},
      {40, 30, {33, 3, 70}, true}, {65, 64, {130}},
      {3, 60, {130, 31}, true},    {50, 14, {33, 1, 2, 3, 31, 5, 32, 40}},
      {97, 32, {9, 65}},           {30, 36, {260, 2, 8}},
  };
  settings.push_back({20, 17, {5, 7}});
  settings.back().many = true;
  settings.push_back({20, 17, {6, 7, 3}});
  settings.back().zero_bandwidth = 1;
  settings.push_back({33, 20, {40, 4}});
  settings.back().shift = 100;
  // Layers whose source and whose target needs a gradient.
  constexpr unsigned kNeedsGrad[][2] = {{kAll, kAll}, {kAll, 0}, {0, 0}, {0, kAll}, {2, 5}};
  constexpr int kParts[] = {32, 64, 256, 40};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const bool f64 : {false, true})
      for (const int chunk : {32, 64}) {
        const size_t k = number++;
        if (only_sample && (!s.sample || f64 != (chunk == 64))) continue;
        SmallCase c{s, {}, f64, {kParts[k % 3 + (k % 7 == 0)], chunk, k % 2 == 0}, 0, 0, k % 3, k % 2 == 1};
        for (size_t l = 0; l < s.dims.size(); ++l)
          c.dtypes.push_back(s.shift != 0 ? Dtype::f32 : static_cast<Dtype>((k / 4 + l + k % 4) % (f64 ? 4 : 3)));
        for (const auto& needs_grad : {kNeedsGrad[0], kNeedsGrad[1 + k % 4]}) {
          c.source_needs_grad = needs_grad[0];
          c.target_needs_grad = needs_grad[1];
          test(c);
        }
      }
  // Bandwidths that nobody gave are 1.
  const Setting s{10, 9, {2, 3, 1, 2}};
  test({s, {Dtype::f32, Dtype::f16, Dtype::bf16, Dtype::f32}, false, {64, 32, true}, kAll, kAll, 0, false, true});
  test_forms();
}

}   // namespace kernels_test
