// The CUDA kernels on the host without Python, for the sanitizers: odd shapes in exact-size heap blocks, all routes,
// types and formats, in several orders of the threads, against plain loops in double.
//
//     kernels_test           every case in three orders
//     kernels_test sample    a few cases in one order each, for slow sanitizers
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "../../../csrc/cuda/device.h"
#include "../../../csrc/cuda/entry.h"

using namespace fastmmd;
using cuda::Format;
using cuda::Type;
using cuda_on_host::Order;

namespace {

using Matrices = std::vector<std::vector<double>>;   // [layer][rows * columns]

constexpr unsigned kAll = ~0u;   // a bit for each layer
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// ---- what is solved

struct Setting {
  size_t n_source, n_target;
  std::vector<size_t> dims;
  bool sample = false;      // small enough for slow sanitizers
  int without_width = -1;   // a layer whose bandwidth is 0
  bool many = false;        // as many Gaussians as a layer can have
  double shift = 0;         // of all rows away from 0
  size_t n() const { return n_source + n_target; }
};

// No two weights are equal, so that none can stand for another.
Problem make_problem(const Setting& s, bool clamp) {
  Problem p{};
  p.n_source = static_cast<int64_t>(s.n_source);
  p.n_target = static_cast<int64_t>(s.n_target);
  p.num_layers = static_cast<int>(s.dims.size());
  const double n = static_cast<double>(s.n_source), m = static_cast<double>(s.n_target);
  p.alpha = 1.1 / (n * n);
  p.beta = 0.9 / (m * m);
  p.gamma = (clamp ? -3.5 : -2.1) / (n * m);   // with -3.5 some values are negative
  p.diagonal = clamp ? 0.1 / n : 1 / n + 1.2 / m;
  p.clamp = clamp;
  p.joint = 0.7;
  for (int l = 0; l < p.num_layers; ++l) {
    Layer& layer = p.layer[l];
    layer.dim = static_cast<int64_t>(s.dims[static_cast<size_t>(l)]);
    // Doublings, among them more than may be squared in a row; other steps; one Gaussian alone.
    layer.num_scales = s.many ? kMaxScales : l % 3 == 0 ? 7 : l % 3 == 1 ? 2 : 1;
    for (int q = 0; q < layer.num_scales; ++q) {
      layer.scale[q] = s.many ? 0.2 * std::pow(1.05, q) : l % 3 == 0 ? std::ldexp(0.1, q) : 0.5 + q;
      layer.weight[q] = (1.0 + 0.1 * q) / layer.num_scales;
    }
    layer.unit = 1 + 0.25 * l;
    layer.follows_mean = l % 2 == 0 && l != s.without_width;
    p.marginal[l] = 0.1 * (l + 1);
  }
  return p;
}

double given_bandwidth(const Setting& s, int l) {
  return l == s.without_width ? 0 : 1.5 * static_cast<double>(s.dims[static_cast<size_t>(l)]);
}

// `rounded(l, x)`: as the layer's type or the products' format can hold it. Distances that come from products are asked
// for centred rows only.
template <typename Rounded>
Matrices make_rows(const Setting& s, bool centred, Rounded rounded) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  Matrices z(s.dims.size());
  for (size_t l = 0; l < z.size(); ++l) {
    const size_t d = s.dims[l];
    for (size_t row = 0; row < s.n(); ++row)
      for (size_t k = 0; k < d; ++k) z[l].push_back(normal(random) + (row < s.n_source ? -0.25 : 0.25) + s.shift);
    if (static_cast<int>(l) == s.without_width)   // few different rows: some are 0 apart
      for (size_t i = 3 * d; i < z[l].size(); ++i) z[l][i] = z[l][i - 3 * d];
    for (size_t k = 0; k < d; ++k) {
      double mean = 0;
      for (size_t i = k; i < z[l].size(); i += d) mean += z[l][i] / static_cast<double>(s.n());
      for (size_t i = k; i < z[l].size(); i += d) z[l][i] = rounded(l, z[l][i] - (centred ? mean : 0));
    }
  }
  return z;
}

struct Dense {   // the same quantities by definition
  std::vector<double> bandwidth;
  Matrices coefficient;                           // [N, N]
  Matrices gradient;                              // [N, d]
  double sums[3][1 + kMaxLayers] = {};            // over ss, tt, st; of the product and each layer
  double value[1 + kMaxLayers], loss = 0;         // not cut
  double terms[1 + kMaxLayers], loss_terms = 0;   // sums of the sizes of their terms: round-off is relative to these
};

// `given`: bandwidths where a layer does not follow the mean.
Dense dense(const Problem& p, const Matrices& z, const std::vector<double>& given) {
  const size_t n = static_cast<size_t>(p.n()), n_source = static_cast<size_t>(p.n_source), L = z.size();
  Matrices value(L, std::vector<double>(n * n)), slope = value;
  Dense out;
  out.coefficient = value;
  for (size_t l = 0; l < L; ++l) {
    const Layer& layer = p.layer[l];
    const size_t d = static_cast<size_t>(layer.dim);
    std::vector<double> distance(n * n);
    double total = 0;
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < n; ++j) {
        double sum = 0;
        for (size_t k = 0; k < d; ++k) {
          const double difference = z[l][i * d + k] - z[l][j * d + k];
          sum += difference * difference;
        }
        distance[i * n + j] = sum;
        total += sum;
      }
    const double base = layer.follows_mean ? total / static_cast<double>(n * (n - 1)) : given[l];
    const double bandwidth = layer.unit * base;
    out.bandwidth.push_back(bandwidth);
    for (size_t at = 0; at < n * n; ++at)
      for (int q = 0; q < layer.num_scales; ++q)
        if (bandwidth == 0) {   // the limit
          value[l][at] += distance[at] == 0 ? layer.weight[q] : 0;
        } else {
          const double rate = 1 / (layer.scale[q] * bandwidth), k = layer.weight[q] * std::exp(-rate * distance[at]);
          value[l][at] += k;
          slope[l][at] += rate * k;
        }
    out.gradient.emplace_back(n * d, 0.0);
  }

  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      if (i == j) continue;
      const bool row_is_source = i < n_source, column_is_source = j < n_source;
      const size_t at = i * n + j;
      const double weight = row_is_source != column_is_source ? p.gamma / 2 : row_is_source ? p.alpha : p.beta;
      double product = 1;
      for (size_t l = 0; l < L; ++l) product *= value[l][at];
      if (row_is_source || !column_is_source) {   // each cross pair once
        double* const sums = out.sums[row_is_source != column_is_source ? 2 : row_is_source ? 0 : 1];
        sums[0] += product;
        for (size_t l = 0; l < L; ++l) sums[1 + l] += value[l][at];
      }
      for (size_t l = 0; l < L; ++l) {
        double others = p.joint;
        for (size_t o = 0; o < L; ++o)
          if (o != l) others *= value[o][at];
        const double c = weight * (others + p.marginal[l]) * slope[l][at];
        const size_t d = static_cast<size_t>(p.layer[l].dim);
        out.coefficient[l][at] = c;
        for (size_t k = 0; k < d; ++k) out.gradient[l][i * d + k] += 4 * c * (z[l][j * d + k] - z[l][i * d + k]);
      }
    }

  double product_at_zero = 1;
  for (size_t t = L + 1; t-- > 0;) {   // the product last
    double at_zero = t == 0 ? product_at_zero : 0;
    if (t > 0)
      for (int q = 0; q < p.layer[t - 1].num_scales; ++q) at_zero += p.layer[t - 1].weight[q];
    if (t > 0) product_at_zero *= at_zero;
    const double parts[] = {p.alpha * out.sums[0][t], p.beta * out.sums[1][t], p.gamma * out.sums[2][t],
                            p.diagonal * at_zero};
    const double mixed = t == 0 ? p.joint : p.marginal[t - 1];
    out.value[t] = out.terms[t] = 0;
    for (const double part : parts) {
      out.value[t] += part;
      out.terms[t] += std::abs(part);
    }
    out.loss += mixed * out.value[t];
    out.loss_terms += std::abs(mixed) * out.terms[t];
  }
  return out;
}

double largest(const std::vector<double>& x) {
  double most = 0;
  for (const double each : x) most = std::fmax(most, std::abs(each));
  return most;
}

// ---- memory

// Exactly as long as asked for, so that ASan sees what lies beyond; all bytes 0xff, which is NaN in every type.
class Memory {
 public:
  explicit Memory(size_t bytes = 0) {
    void* memory = nullptr;
    if (bytes && posix_memalign(&memory, 64, bytes)) std::abort();
    if (bytes) std::memset(memory, 0xff, bytes);
    bytes_.reset(static_cast<unsigned char*>(memory));
  }
  unsigned char* at(size_t byte) const { return bytes_.get() + byte; }
  void* get() const { return bytes_.get(); }

 private:
  struct Free {
    void operator()(unsigned char* memory) const { std::free(memory); }
  };
  std::unique_ptr<unsigned char, Free> bytes_;
};

template <typename T>
void put(const Memory& memory, size_t index, T x) {
  std::memcpy(memory.at(index * sizeof(T)), &x, sizeof x);
}
template <typename T>
T get(const Memory& memory, size_t index) {
  T x;
  std::memcpy(&x, memory.at(index * sizeof(T)), sizeof x);
  return x;
}

void put_as(Type type, const Memory& memory, size_t index, double x) {
  if (type == Type::bf16) put(memory, index, narrow<bf16>(static_cast<float>(x)));
  if (type == Type::f16) put(memory, index, narrow<f16>(static_cast<float>(x)));
  if (type == Type::f32) put(memory, index, static_cast<float>(x));
  if (type == Type::f64) put(memory, index, x);
}
double get_as(Type type, const Memory& memory, size_t index) {
  if (type == Type::bf16) return static_cast<double>(widen(get<bf16>(memory, index)));
  if (type == Type::f16) return static_cast<double>(widen(get<f16>(memory, index)));
  return type == Type::f32 ? static_cast<double>(get<float>(memory, index)) : get<double>(memory, index);
}
size_t size_of(Type type) { return type == Type::f64 ? 8 : type == Type::f32 ? 4 : 2; }

double rounded(Type type, double x) {
  if (type == Type::bf16) return static_cast<double>(widen(narrow<bf16>(static_cast<float>(x))));
  if (type == Type::f16) return static_cast<double>(widen(narrow<f16>(static_cast<float>(x))));
  return type == Type::f32 ? static_cast<double>(static_cast<float>(x)) : x;
}

// ---- cases and their complaints

bool only_sample = false, all_good = true;
unsigned cases_run = 0, cases_bad = 0;

// What a number is; text only where it is wrong.
struct Number {
  const char* what;
  size_t l;
  size_t row = SIZE_MAX, column = 0;
  std::string text() const {
    const std::string where = what + (" " + std::to_string(l));
    return row == SIZE_MAX ? where : where + " at [" + std::to_string(row) + ", " + std::to_string(column) + "]";
  }
};

class Case {
 public:
  Case(const char* route, const Setting& s, const std::string& more) : name_(route) {
    name_ += " " + std::to_string(s.n_source) + "+" + std::to_string(s.n_target) + " rows of";
    for (const size_t d : s.dims) name_ += " " + std::to_string(d);
    name_ += more;
  }

  // NaN is no number within the tolerance.
  void expect(const Number& what, double found, double exact, double scale, double tolerance) {
    const double error = std::abs(found - exact) / (scale > 0 ? scale : 1);
    if (!(error <= tolerance)) complain(what.text(), found, exact);
  }
  void expect_untouched(const Number& what, double found, double before) {
    if (std::memcmp(&found, &before, sizeof found) != 0 && !(std::isnan(found) && std::isnan(before)))
      complain(what.text(), found, before);
  }

  // `once` in every order of threads.
  template <typename Once>
  void run(Once once) {
    constexpr Order kOrders[] = {Order::kForward, Order::kReverse, Order::kShuffled};
    constexpr const char* kNames[] = {"forward", "reverse", "shuffled"};
    ++cases_run;
    for (size_t o = 0; o < 3; ++o) {
      if (only_sample && o != cases_run % 3) continue;
      cuda_on_host::options().order = kOrders[o];
      cuda_on_host::options().seed = cases_run;
      order_ = kNames[o];
      complaints_ = 0;
      try {
        const int code = once();
        if (code != 0) complain(cuda::error_message(code), kNaN, 0);
      } catch (const std::exception& error) {
        complain(error.what(), kNaN, 0);
      }
      if (complaints_ > kShown) std::printf("  and %u more\n", complaints_ - kShown);
    }
    cases_bad += bad_;
    all_good = all_good && !bad_;
  }

 private:
  static constexpr unsigned kShown = 3;
  void complain(const std::string& what, double found, double exact) {
    bad_ = true;
    if (complaints_++ == 0) std::printf("BAD  %s, %s order\n", name_.c_str(), order_);
    if (complaints_ <= kShown) std::printf("  %s: %.9g instead of %.9g\n", what.c_str(), found, exact);
  }

  std::string name_;
  const char* order_ = "";
  unsigned complaints_ = 0;
  bool bad_ = false;
};

void expect_sums(Case* c, const Dense& exact, const std::vector<double>& sums, double tolerance) {
  constexpr const char* kSums[] = {"sum over ss of term", "sum over tt of term", "sum over st of term"};
  const size_t terms = 1 + exact.bandwidth.size();
  for (size_t r = 0; r < 3; ++r)
    for (size_t t = 0; t < terms; ++t)
      c->expect({kSums[r], t}, sums[r * terms + t], exact.sums[r][t], exact.sums[r][t], tolerance);
}

// ---- small

struct SmallCase {
  Setting setting;
  std::vector<Type> types;
  bool f64;
  cuda::SmallLaunch launch;
  unsigned source_wanted, target_wanted;   // layers
  size_t gap;                              // elements between rows
  bool clamp;
  bool null_bandwidth = false;
};

void test(const SmallCase& c) {
  const Setting& s = c.setting;
  const Problem p = make_problem(s, c.clamp);
  const size_t L = s.dims.size();
  const Matrices z = make_rows(s, false, [&](size_t l, double x) { return rounded(c.types[l], x); });
  const Memory bandwidth(c.null_bandwidth ? 0 : L * 8);
  std::vector<double> given;
  for (size_t l = 0; l < L; ++l) {
    given.push_back(c.null_bandwidth ? 1 : given_bandwidth(s, static_cast<int>(l)));
    if (!c.null_bandwidth && !p.layer[l].follows_mean) put(bandwidth, l, given[l]);   // others are not read
  }
  const Dense exact = dense(p, z, given);

  const Type out = c.f64 ? Type::f64 : Type::f32;
  std::vector<Memory> source, target, grad_source, grad_target;
  Buffers io{};
  for (size_t l = 0; l < L; ++l) {
    const size_t d = s.dims[l], stride = d + c.gap, bytes = size_of(c.types[l]);
    source.emplace_back(((s.n_source - 1) * stride + d) * bytes);
    target.emplace_back(((s.n_target - 1) * stride + d) * bytes);
    for (size_t row = 0; row < s.n(); ++row)
      for (size_t k = 0; k < d; ++k)
        if (row < s.n_source)
          put_as(c.types[l], source[l], row * stride + k, z[l][row * d + k]);
        else
          put_as(c.types[l], target[l], (row - s.n_source) * stride + k, z[l][row * d + k]);
    io.source[l] = source[l].get();
    io.target[l] = target[l].get();
    io.source_stride[l] = io.target_stride[l] = static_cast<int64_t>(stride);
  }
  io.bandwidth = static_cast<const double*>(bandwidth.get());

  std::string more = c.f64 ? ", f64" : ", f32";
  more += " from";
  constexpr const char* kTypes[] = {"bf16", "f16", "f32", "f64"};
  for (const Type type : c.types) more += std::string(" ") + kTypes[static_cast<size_t>(type)];
  more += ", chunk " + std::to_string(c.launch.chunk) + ", parts of " + std::to_string(c.launch.part_features);
  char masks[60];
  std::snprintf(masks, sizeof masks, ", gradients 0x%x 0x%x, gap %zu", c.source_wanted & 0xff, c.target_wanted & 0xff,
                c.gap);
  Case check("small:", s, more + masks);
  const double tolerance = c.f64 ? 1e-12 : 1e-5;
  check.run([&] {
    grad_source.clear();
    grad_target.clear();
    for (size_t l = 0; l < L; ++l) {
      grad_source.emplace_back(c.source_wanted >> l & 1 ? s.n_source * s.dims[l] * size_of(out) : 0);
      grad_target.emplace_back(c.target_wanted >> l & 1 ? s.n_target * s.dims[l] * size_of(out) : 0);
      io.grad_source[l] = grad_source[l].get();
      io.grad_target[l] = grad_target[l].get();
    }
    const Memory loss(size_of(out)), report((1 + 2 * L) * size_of(out));
    const Memory workspace(static_cast<size_t>(cuda::small_workspace_bytes(p, c.f64, c.launch)));
    io.loss = loss.get();
    io.report = report.get();
    io.workspace = workspace.get();
    const int code = cuda::small(p, io, c.types.data(), c.f64, c.launch, {0, nullptr});
    const auto cut = [&](double value) { return c.clamp ? std::fmax(value, 0) : value; };
    check.expect({"loss", 0}, get_as(out, loss, 0), cut(exact.loss), exact.loss_terms, tolerance);
    for (size_t t = 0; t <= L; ++t)
      check.expect({"report of term", t}, get_as(out, report, t), cut(exact.value[t]), exact.terms[t], tolerance);
    for (size_t l = 0; l < L; ++l) {
      check.expect({"bandwidth of layer", l}, get_as(out, report, 1 + L + l), exact.bandwidth[l], exact.bandwidth[l],
                   tolerance);
      const double scale = largest(exact.gradient[l]);
      for (size_t row = 0; row < s.n(); ++row) {
        const bool is_source = row < s.n_source;
        if (!((is_source ? c.source_wanted : c.target_wanted) >> l & 1)) continue;
        for (size_t k = 0, d = s.dims[l]; k < d; ++k) {
          const double found = is_source ? get_as(out, grad_source[l], row * d + k)
                                         : get_as(out, grad_target[l], (row - s.n_source) * d + k);
          check.expect({"gradient of layer", l, row, k}, found, exact.gradient[l][row * d + k], scale, tolerance);
        }
      }
    }
    return code;
  });
}

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
  settings.back().without_width = 1;
  settings.push_back({33, 20, {40, 4}});
  settings.back().shift = 100;
  // Layers whose gradients are wanted: of sources and of targets.
  constexpr unsigned kWanted[][2] = {{kAll, kAll}, {kAll, 0}, {0, 0}, {0, kAll}, {2, 5}};
  constexpr int kParts[] = {32, 64, 256, 40};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const bool f64 : {false, true})
      for (const int chunk : {32, 64}) {
        const size_t k = number++;
        if (only_sample && (!s.sample || f64 != (chunk == 64))) continue;
        SmallCase c{s, {}, f64, {kParts[k % 3 + (k % 7 == 0)], chunk}, 0, 0, k % 3, k % 2 == 1};
        for (size_t l = 0; l < s.dims.size(); ++l)
          c.types.push_back(s.shift != 0 ? Type::f32 : static_cast<Type>((k / 4 + l + k % 4) % (f64 ? 4 : 3)));
        for (const auto& wanted : {kWanted[0], kWanted[1 + k % 4]}) {
          c.source_wanted = wanted[0];
          c.target_wanted = wanted[1];
          test(c);
        }
      }
  // Bandwidths that nobody gave are 1.
  const Setting s{10, 9, {2, 3, 1, 2}};
  test({s, {Type::f32, Type::f16, Type::bf16, Type::f32}, false, {64, 32}, kAll, kAll, 0, false, true});
}

// ---- pass

// The way of backends/cuda.py: blocks I <= J of pairs, all with the same partial sums.
void test_pass(const Setting& s, bool f64, size_t side, unsigned wanted) {
  const Problem p = make_problem(s, false);
  const size_t n = s.n(), L = s.dims.size();
  const Type type = f64 ? Type::f64 : Type::f32;
  const Matrices z = make_rows(s, true, [&](size_t, double x) { return rounded(type, x); });
  std::vector<double> given;
  for (size_t l = 0; l < L; ++l) given.push_back(given_bandwidth(s, static_cast<int>(l)));
  const Dense exact = dense(p, z, given);

  const Memory bandwidth(L * 8), noise(L * 8);
  std::vector<Memory> norm;
  for (size_t l = 0; l < L; ++l) {
    double mean = 0;
    norm.emplace_back(n * size_of(type));
    for (size_t row = 0; row < n; ++row) {
      double sum = 0;
      for (size_t k = 0, d = s.dims[l]; k < d; ++k) sum += z[l][row * d + k] * z[l][row * d + k];
      put_as(type, norm[l], row, sum);
      mean += sum / static_cast<double>(n);
    }
    put(bandwidth, l, exact.bandwidth[l]);
    put(noise, l, 64 * (f64 ? 2.3e-16 : 1.2e-7) * 2 * mean);
  }
  char more[80];
  std::snprintf(more, sizeof more, ", f%d, blocks of %zu, coefficients 0x%x", f64 ? 64 : 32, side, wanted & 0xff);
  Case check("pass:", s, more);
  const double tolerance = f64 ? 1e-12 : 1e-5;
  const size_t terms = 3 * (1 + L),
               blocks = static_cast<size_t>(cuda::pass_blocks(static_cast<int64_t>(side), static_cast<int64_t>(side)));
  check.run([&] {
    const Memory sums(blocks * terms * 8);
    for (size_t k = 0; k < blocks * terms; ++k) put(sums, k, k < terms ? 1000.0 : 0.0);   // what others have added
    for (size_t i0 = 0; i0 < n; i0 += side)
      for (size_t j0 = i0; j0 < n; j0 += side) {
        const size_t rows = std::min(side, n - i0), columns = std::min(side, n - j0);
        cuda::Pass io{};
        io.rows = static_cast<int64_t>(rows);
        io.columns = static_cast<int64_t>(columns);
        io.first_row = static_cast<int64_t>(i0);
        io.first_column = static_cast<int64_t>(j0);
        const size_t pitch = columns + 3 * (rows % 2);   // rows side by side, and with gaps that stay as they are
        io.pitch = static_cast<int64_t>(pitch);
        std::vector<Memory> inner;
        Matrices before(L);
        for (size_t l = 0; l < L; ++l) {
          inner.emplace_back(((rows - 1) * pitch + columns) * size_of(type));
          for (size_t i = 0; i < rows; ++i)
            for (size_t j = 0; j < columns; ++j) {
              double sum = 0;
              for (size_t k = 0, d = s.dims[l]; k < d; ++k) sum += z[l][(i0 + i) * d + k] * z[l][(j0 + j) * d + k];
              put_as(type, inner[l], i * pitch + j, sum);
              before[l].push_back(rounded(type, sum));
            }
          io.inner[l] = inner[l].get();
          io.norm[l] = norm[l].get();
          io.wanted[l] = wanted >> l & 1;
        }
        io.bandwidth = static_cast<const double*>(bandwidth.get());
        io.noise = static_cast<const double*>(noise.get());
        io.sums = static_cast<double*>(sums.get());
        if (const int code = cuda::pass(p, io, f64, {0, nullptr})) return code;
        for (size_t l = 0; l < L; ++l) {
          const double scale = largest(exact.coefficient[l]);
          for (size_t i = 0; i + 1 < rows; ++i)
            for (size_t j = columns; j < pitch; ++j)
              check.expect_untouched({"gap of layer", l, i0 + i, j}, get_as(type, inner[l], i * pitch + j), kNaN);
          for (size_t i = 0; i < rows; ++i)
            for (size_t j = 0; j < columns; ++j) {
              const double found = get_as(type, inner[l], i * pitch + j);
              if (wanted >> l & 1)
                check.expect({"coefficient of layer", l, i0 + i, j0 + j}, found,
                             exact.coefficient[l][(i0 + i) * n + j0 + j], scale, tolerance);
              else
                check.expect_untouched({"inner product of layer", l, i0 + i, j0 + j}, found,
                                       before[l][i * columns + j]);
            }
        }
      }
    std::vector<double> total(terms);
    for (size_t k = 0; k < blocks * terms; ++k) total[k % terms] += get<double>(sums, k) - (k < terms ? 1000 : 0);
    expect_sums(&check, exact, total, tolerance);
    return 0;
  });
}

void test_pass() {
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
  settings.back().without_width = 1;
  constexpr unsigned kWanted[] = {kAll, 0, 1, 2};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const bool f64 : {false, true})
      for (const size_t side : {s.n(), (s.n() + 1) / 2, size_t{33}, size_t{70}}) {
        const size_t k = number++;
        if (side > s.n() || (only_sample && (!s.sample || k % 2))) continue;
        test_pass(s, f64, side, kAll);
        if (!only_sample) test_pass(s, f64, side, kWanted[1 + k % 3]);
      }
}

// ---- tiles

double rounded(Format format, double x) {
  const float single = static_cast<float>(x);
  if (format == Format::bf16) return rounded(Type::bf16, x);
  if (format == Format::f16) return rounded(Type::f16, x);
  return static_cast<double>(format == Format::tf32 ? round_to_tf32(single) : single);
}

void test_tiles(const Setting& s, Format format, cuda::TilesLaunch launch, unsigned wanted) {
  constexpr size_t kSide = static_cast<size_t>(cuda::kTilesRows);
  const Problem p = make_problem(s, false);
  const size_t L = s.dims.size(), splits = static_cast<size_t>(launch.splits);
  const Matrices z = make_rows(s, true, [&](size_t, double x) { return rounded(format, x); });
  std::vector<double> given;
  for (size_t l = 0; l < L; ++l) given.push_back(given_bandwidth(s, static_cast<int>(l)));
  const Dense exact = dense(p, z, given);

  const size_t source_tiles = (s.n_source + kSide - 1) / kSide, target_tiles = (s.n_target + kSide - 1) / kSide;
  const size_t packed_rows = (source_tiles + target_tiles) * kSide, blocks = splits * (source_tiles + target_tiles);
  const auto packed = [&](size_t row) { return row < s.n_source ? row : row - s.n_source + source_tiles * kSide; };
  std::vector<size_t> start = {0};   // a layer's first column
  cuda::Tiles io{};
  for (size_t l = 0; l < L; ++l) {
    io.units[l] = static_cast<int64_t>((s.dims[l] + 15) / 16);
    io.wanted[l] = wanted >> l & 1;
    start.push_back(start[l] + static_cast<size_t>(io.units[l]) * 16);
  }
  const size_t width = start[L];
  const Type stored = format == Format::bf16 ? Type::bf16 : format == Format::f16 ? Type::f16 : Type::f32;
  const Memory rows(packed_rows * width * size_of(stored)), norm(L * packed_rows * 4), bandwidth(L * 8), noise(L * 8);
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
    put(noise, l, 64 * 1.2e-7 * 2 * mean);
  }
  io.rows = rows.get();
  io.norm = static_cast<const float*>(norm.get());
  io.bandwidth = static_cast<const double*>(bandwidth.get());
  io.noise = static_cast<const double*>(noise.get());

  char more[100];
  std::snprintf(more, sizeof more, ", %s, %d splits, %d buffers, gradients 0x%x",
                cuda::kFormats[static_cast<size_t>(format)], launch.splits, launch.buffers, wanted & 0xff);
  Case check("tiles:", s, more);
  // Rows are rounded before, so that distances and sums are as exact as fp32; of the coefficients that multiply rows,
  // each has the format's digits.
  const double tolerance = format == Format::bf16                            ? 2e-2
                           : format == Format::tf32 || format == Format::f16 ? 2e-3
                                                                             : 1e-5;
  check.run([&] {
    const Memory gradient(wanted ? splits * packed_rows * width * 4 : 0), sums(blocks * 3 * (1 + L) * 8);
    io.gradient = static_cast<float*>(gradient.get());
    io.sums = static_cast<double*>(sums.get());
    if (const int code = cuda::tiles(p, io, format, launch, {0, nullptr})) return code;
    std::vector<double> total(3 * (1 + L));
    for (size_t k = 0; k < blocks * total.size(); ++k) total[k % total.size()] += get<double>(sums, k);
    expect_sums(&check, exact, total, 1e-5);
    for (size_t l = 0; l < L && wanted; ++l) {
      const double scale = largest(exact.gradient[l]);
      for (size_t row = 0; row < s.n(); ++row)
        for (size_t k = 0, d = s.dims[l]; k < d; ++k) {
          double found = 0;
          for (size_t split = 0; split < splits; ++split) {
            const double part =
                static_cast<double>(get<float>(gradient, (split * packed_rows + packed(row)) * width + start[l] + k));
            found += part;
            if (!(wanted >> l & 1)) check.expect_untouched({"unwanted gradient of layer", l, row, k}, part, kNaN);
          }
          if (wanted >> l & 1)
            check.expect({"gradient of layer", l, row, k}, found, exact.gradient[l][row * d + k], scale, tolerance);
        }
    }
    return 0;
  });
}

void test_tiles() {
  std::vector<Setting> settings = {
      {1, 1, {1}, true},    {1, 2, {33, 1}},           {65, 64, {31}, true}, {36, 36, {70, 20}},
      {30, 70, {130}},      {70, 60, {17, 150}, true},   // more columns than a warp's fewest registers hold
      {64, 64, {160, 160}},                              // the widest, and no row of padding
      {2, 65, {33, 4}},     {1010, 70, {2}},             // enough tiles for sums to be flushed within a split
  };
  settings.push_back({40, 70, {6, 7}});
  settings.back().many = true;
  settings.push_back({20, 17, {6, 7}});
  settings.back().without_width = 1;
  constexpr cuda::TilesLaunch kLaunches[] = {{1, 1}, {1, 2}, {2, 2}, {3, 1}, {3, 2}, {2, 1}};
  size_t number = 0;
  for (const Setting& s : settings)
    for (const Format format : {Format::ieee, Format::tf32x3, Format::tf32, Format::bf16, Format::f16}) {
      const bool many_tiles = s.n() > 500;
      for (size_t variant = 0; variant < (many_tiles ? 1u : 2u); ++variant) {
        const size_t k = number++;
        if (many_tiles && format != Format::ieee) continue;
        if (only_sample && (!s.sample || (k + k / 10) % 3 == 0)) continue;
        const bool one = s.dims.size() == 1;
        const cuda::TilesLaunch launch = many_tiles ? kLaunches[0] : kLaunches[(k + k / 10) % 6];
        const unsigned wanted = variant == 0 ? kAll : k / 2 % 3 == 0 || one ? 0 : k / 2 % 3 == 1 ? 1 : 2;
        int64_t units = 0;
        for (const size_t d : s.dims) units += static_cast<int64_t>((d + 15) / 16);
        const bool fits =
            cuda::tiles_shared_bytes(format, units, static_cast<int>(s.dims.size()), wanted != 0, launch) <=
            static_cast<int64_t>(cuda_on_host::options().shared_limit);
        test_tiles(s, format, fits ? launch : cuda::TilesLaunch{launch.splits, 1}, wanted);
      }
    }
}

// ---- problems that cannot be solved

void expect(bool good, const char* what) {
  if (!good) std::printf("BAD  %s\n", what);
  all_good = all_good && good;
}

void test_refusals() {
  Problem three = make_problem({2, 2, {1, 1, 1}}, false), many = three, rows = three;
  for (int l = 0; l < 3; ++l) many.layer[l].num_scales = 43;
  rows.n_source = int64_t{1} << 30;
  const auto refuses = [](const Problem& p) {
    try {
      cuda::pass(p, {}, true, {0, nullptr});
      return false;
    } catch (const std::invalid_argument&) {
      return true;
    }
  };
  expect(refuses(many), "129 Gaussians are not refused");
  expect(refuses(rows), "over 2^30 rows are not refused");
  cuda::Tiles io{};
  expect(cuda::tiles(three, io, Format::tf32, {1, 1}, {0, nullptr}) != 0, "tiles of three layers are not refused");
  io.units[0] = cuda::kTilesMaxUnits + 1;
  const Problem one = make_problem({2, 2, {330}}, false);
  expect(cuda::tiles(one, io, Format::tf32, {1, 1}, {0, nullptr}) != 0, "tiles too wide are not refused");
}

}   // namespace

int main(int count, char** arguments) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  only_sample = count > 1 && std::strcmp(arguments[1], "sample") == 0;
  if (count > 1 && !only_sample) {
    std::puts("expected no argument, or sample");
    return 2;
  }
  test_refusals();
  test_small();
  test_pass();
  test_tiles();
  std::printf("%u cases, %u of them bad\n", cases_run, cases_bad);
  std::puts(all_good ? "the CUDA kernels agree with the definitions" : "THE CUDA KERNELS ARE WRONG");
  return all_good ? 0 : 1;
}
