// The CPU kernels without Python, for the sanitizers: odd shapes in memory of the exact size, every variant of this
// machine, both precisions, against plain loops in double.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "../../csrc/cpu/variants.h"

using namespace fastmmd;

namespace {

struct Case {
  int64_t n_source, n_target;
  std::vector<int64_t> dims;
  bool gradient;
  int threads;
  bool one_sided = false;   // no gradient of the target
  int64_t gap = 0;          // elements between rows
  double far = 0;           // moves the first row, and in layers of a given bandwidth every other one, this far
  int64_t columns = 0;      // of a form's W; 0: no form
  bool with_kw = false;
  bool with_loss = true;
};

struct Form {   // [n][columns]; W A for a symmetric A
  std::vector<double> w, wa;
};

struct Dense {   // the same quantities by definition
  double loss;
  std::vector<double> kw;                      // [n][columns]
  std::vector<std::vector<double>> gradient;   // [layer][(n_s + n_t) * d]
};

Problem make_problem(const Case& c) {
  Problem p{};
  p.n_source = c.n_source;
  p.n_target = c.n_target;
  p.num_layers = static_cast<int>(c.dims.size());
  const double n = static_cast<double>(c.n_source), m = static_cast<double>(c.n_target);
  p.form_columns = c.columns;
  if (c.columns > 0) {
    p.diagonal = 1;
  } else {
    p.alpha = 1 / (n * n);
    p.beta = 1 / (m * m);
    p.gamma = -2 / (n * m);
    p.diagonal = 1 / n + 1 / m;
    p.clamp = true;
  }
  p.joint = 0.7;
  for (int l = 0; l < p.num_layers; ++l) {
    Layer& layer = p.layer[l];
    layer.dim = c.dims[static_cast<size_t>(l)];
    layer.num_gaussians = l % 2 ? 2 : 5;
    for (int q = 0; q < layer.num_gaussians; ++q) {
      layer.multiplier[q] = l % 2 ? 1.0 + q : std::ldexp(0.25, q);
      layer.weight[q] = 1.0 + 0.1 * q;
    }
    layer.bandwidth_scale = 1.0;
    layer.follows_mean = l % 2 == 0;
    p.marginal[l] = 0.1 * l;
  }
  return p;
}

Form make_form(const Case& c, int64_t n) {
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  const size_t P = static_cast<size_t>(c.columns);
  std::vector<double> a(P * P);
  for (size_t p = 0; p < P; ++p)
    for (size_t q = 0; q <= p; ++q) a[p * P + q] = a[q * P + p] = normal(random);
  Form form;
  for (size_t k = 0; k < static_cast<size_t>(n) * P; ++k)   // as floats, which both precisions can hold
    form.w.push_back(static_cast<float>(normal(random) / static_cast<double>(n)));
  for (size_t i = 0; i < static_cast<size_t>(n); ++i)
    for (size_t p = 0; p < P; ++p) {
      double sum = 0;
      for (size_t q = 0; q < P; ++q) sum += form.w[i * P + q] * a[q * P + p];
      form.wa.push_back(sum);
    }
  return form;
}

Dense dense(const Problem& p, const std::vector<std::vector<double>>& z, const Form& form) {
  const int64_t n = p.n(), columns = p.form_columns;
  const int L = p.num_layers;
  std::vector<std::vector<double>> distance(static_cast<size_t>(L)), value = distance, slope = distance;
  for (int l = 0; l < L; ++l) {
    const int64_t d = p.layer[l].dim;
    const auto& x = z[static_cast<size_t>(l)];
    auto& D = distance[static_cast<size_t>(l)];
    D.assign(static_cast<size_t>(n * n), 0);
    double total = 0;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t k = 0; k < d; ++k) sum += std::pow(x[i * d + k] - x[j * d + k], 2);
        D[i * n + j] = sum;
        total += sum;
      }
    const double mean = total / static_cast<double>(n * n - n);
    const double bandwidth =
        p.layer[l].bandwidth_scale * (p.layer[l].follows_mean ? mean : 2.5 * static_cast<double>(d));
    auto& k = value[static_cast<size_t>(l)];
    auto& e = slope[static_cast<size_t>(l)];
    k.assign(D.size(), 0);
    e.assign(D.size(), 0);
    for (size_t pair = 0; pair < D.size(); ++pair)
      for (int q = 0; q < p.layer[l].num_gaussians; ++q) {
        const double rate = 1 / (p.layer[l].multiplier[q] * bandwidth);
        k[pair] += p.layer[l].weight[q] * std::exp(-rate * D[pair]);
        e[pair] += p.layer[l].weight[q] * rate * std::exp(-rate * D[pair]);
      }
  }
  Dense out;
  out.loss = 0;
  out.kw.assign(static_cast<size_t>(n * columns), 0.0);
  for (int l = 0; l < L; ++l) out.gradient.emplace_back(static_cast<size_t>(n * p.layer[l].dim), 0.0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const bool si = i < p.n_source, sj = j < p.n_source;
      double weight = si != sj ? 0.5 * p.gamma : si ? p.alpha : p.beta;
      for (int64_t q = 0; q < columns; ++q) weight += form.w[i * columns + q] * form.wa[j * columns + q];
      const size_t pair = static_cast<size_t>(i * n + j);
      double product = p.joint, sum = 0;
      for (int l = 0; l < L; ++l) {
        product *= value[static_cast<size_t>(l)][pair];
        sum += p.marginal[l] * value[static_cast<size_t>(l)][pair];
      }
      out.loss += weight * (product + sum);   // with the diagonal, which every case counts
      for (int64_t q = 0; q < columns; ++q)
        if (i != j) out.kw[i * columns + q] += (product + sum) * form.w[j * columns + q];
      for (int l = 0; l < L; ++l) {
        double others = p.joint;
        for (int o = 0; o < L; ++o)
          if (o != l) others *= value[static_cast<size_t>(o)][pair];
        const double c = weight * (others + p.marginal[l]) * slope[static_cast<size_t>(l)][pair];
        const int64_t d = p.layer[l].dim;
        const auto& x = z[static_cast<size_t>(l)];
        for (int64_t k = 0; k < d; ++k)
          out.gradient[static_cast<size_t>(l)][i * d + k] += 4 * c * (x[j * d + k] - x[i * d + k]);
      }
    }
  return out;
}

// Relative error of the median of layer l's squared distances; infinite where a NaN does not give NaN.
template <typename T>
double median_error(const Case& c, const CpuKernel& kernel, const Buffers& io, int64_t d, size_t l,
                    const std::vector<double>& z) {
  Samples samples = {c.n_source, c.n_target, d, io.source[l], io.target[l], io.source_stride[l], io.target_stride[l]};
  const auto median = [&] {
    const size_t bytes = static_cast<size_t>(kernel.median_workspace_bytes(samples, c.threads));
    void* workspace = std::aligned_alloc(64, bytes);
    std::memset(workspace, 0xFF, bytes);
    const double value = kernel.median(samples, workspace, c.threads);
    std::free(workspace);
    return value;
  };
  std::vector<double> distances;
  for (int64_t i = 0; i < samples.n(); ++i)
    for (int64_t j = i + 1; j < samples.n(); ++j) {
      double sum = 0;
      for (int64_t k = 0; k < d; ++k) sum += std::pow(z[i * d + k] - z[j * d + k], 2);
      distances.push_back(sum);
    }
  const auto middle = distances.begin() + static_cast<int64_t>((distances.size() - 1) / 2);
  std::nth_element(distances.begin(), middle, distances.end());
  const double error = std::abs(median() - *middle) / *middle;

  const std::vector<T> poison(static_cast<size_t>(d), std::numeric_limits<T>::quiet_NaN());
  samples.n_target = 1;
  samples.target = poison.data();
  return std::isnan(median()) ? error : INFINITY;
}

template <typename T>
bool run(const Case& c, const CpuVariant& variant, const CpuKernel& kernel) {
  const Problem p = make_problem(c);
  const size_t L = c.dims.size();
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  std::vector<std::vector<double>> z(L);
  std::vector<std::vector<T>> source(L), target(L), grad_source(L), grad_target(L);
  std::vector<double> bandwidth;
  const T nan = std::numeric_limits<T>::quiet_NaN();
  Buffers io{};
  for (size_t l = 0; l < L; ++l) {
    const int64_t d = c.dims[l];
    for (int64_t row = 0; row < p.n(); ++row) {
      std::vector<T>& side = row < c.n_source ? source[l] : target[l];
      if (!side.empty()) side.insert(side.end(), static_cast<size_t>(c.gap), nan);   // never to be read
      for (int64_t k = 0; k < d; ++k) {
        const bool moved = row == 0 || (l % 2 && row % 2);
        const T x = static_cast<T>(normal(random) + (row < c.n_source ? 0 : 0.5) + (moved ? c.far : 0));
        z[l].push_back(x);
        side.push_back(x);
      }
    }
    grad_source[l].assign(static_cast<size_t>(c.n_source * d), nan);
    grad_target[l].assign(static_cast<size_t>(c.n_target * d), nan);
    source[l].shrink_to_fit();
    target[l].shrink_to_fit();
    io.source[l] = source[l].data();
    io.target[l] = target[l].data();
    io.source_stride[l] = io.target_stride[l] = d + c.gap;
    io.grad_source[l] = c.gradient ? grad_source[l].data() : nullptr;
    io.grad_target[l] = c.gradient && !c.one_sided ? grad_target[l].data() : nullptr;
    bandwidth.push_back(2.5 * static_cast<double>(d));
  }
  io.given_bandwidth = bandwidth.data();
  T loss;
  std::vector<T> statistics(1 + 2 * L);
  io.loss = &loss;
  io.statistics = statistics.data();
  const Form form = make_form(c, p.n());
  const std::vector<T> w(form.w.begin(), form.w.end());
  std::vector<T> kw(c.with_kw ? form.w.size() : 0, nan);
  io.w = c.columns > 0 ? w.data() : nullptr;
  io.wa = c.columns > 0 && c.with_loss ? form.wa.data() : nullptr;
  io.kw = c.with_kw ? kw.data() : nullptr;
  const size_t bytes = static_cast<size_t>(kernel.workspace_bytes(p, c.gradient, c.with_kw));
  io.workspace = std::aligned_alloc(64, bytes);
  for (size_t i = 0; i < bytes; ++i) static_cast<unsigned char*>(io.workspace)[i] = 0xFF;   // NaN everywhere
  kernel.run(p, io, c.gradient, c.threads);
  std::free(io.workspace);

  double error = 0;
  for (size_t l = 0; l < L && c.n_target > 0; ++l)
    error = std::fmax(error, median_error<T>(c, kernel, io, p.layer[l].dim, l, z[l]));

  const Dense exact = dense(p, z, form);
  const double tolerance = sizeof(T) == 8 ? 1e-12 : 1e-5;
  if (c.with_loss) error = std::fmax(error, std::abs(static_cast<double>(loss) - exact.loss) / (1 + exact.loss));
  double largest = 1e-300;
  for (const double x : exact.kw) largest = std::fmax(largest, std::abs(x));
  for (size_t k = 0; k < kw.size(); ++k) {
    const double difference = std::abs(static_cast<double>(kw[k]) - exact.kw[k]) / largest;
    error = std::fmax(error, std::isnan(difference) ? INFINITY : difference);
  }
  for (size_t l = 0; l < L && c.gradient; ++l) {
    double wrong = 0, norm = 0;
    for (size_t i = 0; i < exact.gradient[l].size(); ++i) {
      const bool of_source = i < grad_source[l].size();
      if (!of_source && c.one_sided) break;
      const T computed = of_source ? grad_source[l][i] : grad_target[l][i - grad_source[l].size()];
      wrong += std::pow(static_cast<double>(computed) - exact.gradient[l][i], 2);
      norm += std::pow(exact.gradient[l][i], 2);
    }
    error = std::fmax(error, std::isnan(wrong) ? INFINITY : std::sqrt(wrong / norm));
  }
  const bool good = error < tolerance;
  std::printf("%s %-8s f%zu %lld+%lld, %zu layers, %lld columns, gradient %d, %d threads: error %.1e\n",
              good ? "ok  " : "BAD ", variant.name, 8 * sizeof(T), static_cast<long long>(c.n_source),
              static_cast<long long>(c.n_target), L, static_cast<long long>(c.columns), c.gradient, c.threads, error);
  return good;
}

}   // namespace

int main() {
  const std::vector<Case> cases = {
      {1, 1, {1}, true, 1},
      {2, 1, {3, 1}, true, 2},
      {31, 33, {17, 5}, true, 2},
      {33, 31, {65}, true, 1},
      {32, 32, {8, 8, 8}, true, 2},
      {5, 60, {300, 2}, true, 2},
      {40, 7, {257, 31}, false, 2},
      {270, 280, {9, 3}, true, 2},
      {530, 20, {5}, false, 1},
      {9, 9, {1, 2, 3, 4, 5, 6, 7, 8}, true, 2},
      {20, 30, {7, 33}, true, 2, true, 3},
      {700, 500, {3}, true, 2, false, 1},
      {50, 47, {9, 257}, true, 2, false, 3, 1e4},
      {300, 280, {2, 3}, true, 2, true, 0, 1e4},
      {65, 1, {33, 5}, false, 1, false, 0, 1e4},
      {31, 33, {17, 5}, true, 2, false, 3, 0, 2, true},
      {33, 0, {65}, true, 1, false, 0, 0, 1, false},
      {300, 280, {9, 3}, true, 2, true, 0, 0, 33, true},
      {40, 7, {25, 31}, false, 2, false, 0, 0, 6, true},
      {530, 20, {5}, false, 1, false, 0, 0, 100, true, false},
      {300, 280, {2, 3}, true, 2, true, 0, 1e4, 3, true},
  };
  bool good = true;
  for (const CpuVariant* const* v = cpu_variants(); *v; ++v)
    for (const Case& c : cases) {
      good = run<float>(c, **v, (*v)->f32) && good;
      good = run<double>(c, **v, (*v)->f64) && good;
    }
  std::puts(good ? "all cases agree" : "SOME CASES DISAGREE");
  return good ? 0 : 1;
}
