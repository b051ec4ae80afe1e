// What a case solves: sizes, the problem made of them, and its rows.
#pragma once

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "../../../../csrc/problem.h"

namespace kernels_test {

using namespace fastmmd;

using Matrices = std::vector<std::vector<double>>;   // [layer][rows * columns]

constexpr unsigned kAll = ~0u;   // a bit for each layer
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

struct Setting {
  size_t n_source, n_target;
  std::vector<size_t> dims;
  bool sample = false;       // small enough for slow sanitizers
  int zero_bandwidth = -1;   // a layer whose bandwidth is 0
  bool many = false;         // as many Gaussians as a layer can have
  double shift = 0;          // of all rows away from 0
  int chain = 0;   // the first layer has so many Gaussians, each the square of the one before; others have one
  size_t n() const { return n_source + n_target; }
};

// No two weights are equal, so that none can stand for another.
inline Problem make_problem(const Setting& s, bool clamp) {
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
    layer.num_gaussians = s.many ? kMaxGaussians : l % 3 == 0 ? 7 : l % 3 == 1 ? 2 : 1;
    if (s.chain > 0) layer.num_gaussians = l == 0 ? s.chain : 1;
    for (int q = 0; q < layer.num_gaussians; ++q) {
      layer.multiplier[q] = s.many ? 0.2 * std::pow(1.05, q) : l % 3 == 0 ? std::ldexp(0.1, q) : 0.5 + q;
      layer.weight[q] = (1.0 + 0.1 * q + 0.3 * l) / layer.num_gaussians;
    }
    layer.bandwidth_scale = 1 + 0.25 * l;
    layer.follows_mean = l % 2 == 0 && l != s.zero_bandwidth;
    p.marginal[l] = 0.1 * (l + 1);
  }
  return p;
}

inline double given_bandwidth(const Setting& s, int l) {
  return l == s.zero_bandwidth ? 0 : 1.5 * static_cast<double>(s.dims[static_cast<size_t>(l)]);
}

// Mixtures that kernels are compiled for (cuda::usual_chain), with tiles that are whole, ragged and on the diagonal,
// and their neighbours, for which loops over Gaussians stand.
inline std::vector<Setting> usual_mixtures() {
  std::vector<Setting> settings = {{70, 130, {9, 4}, true}, {64, 128, {21}},  {70, 20, {5}},
                                   {66, 65, {6, 7}},        {70, 20, {6, 7}}, {66, 20, {8, 3}}};
  constexpr int kChain[] = {5, 5, 1, 5, 5, 4}, kZeroBandwidth[] = {-1, -1, -1, 0, 1, -1};
  for (size_t k = 0; k < settings.size(); ++k) {
    settings[k].chain = kChain[k];
    settings[k].zero_bandwidth = kZeroBandwidth[k];
  }
  return settings;
}

// Weights of pairs W_i (W A)_j.
struct Form {
  size_t columns;
  std::vector<double> w, wa;   // [N, columns]
};

// A is diagonal. `rounded(x)`: as the computing dtype can hold it.
template <typename Rounded>
Form make_form(const Setting& s, size_t columns, Rounded rounded) {
  std::mt19937 random(11);
  std::normal_distribution<double> normal;
  Form form{columns, {}, {}};
  for (size_t row = 0; row < s.n(); ++row)
    for (size_t k = 0; k < columns; ++k) {
      form.w.push_back(rounded(normal(random) / static_cast<double>(s.n())));
      form.wa.push_back(rounded(form.w.back() * (k % 3 == 1 ? -0.5 : 1.25)));
    }
  return form;
}

// `rounded(l, x)`: as the layer's dtype or the products' format can hold it. Distances that come from products need
// centred rows.
template <typename Rounded>
Matrices make_rows(const Setting& s, bool centred, Rounded rounded) {
  std::mt19937 random(7);
  std::normal_distribution<double> normal;
  Matrices z(s.dims.size());
  for (size_t l = 0; l < z.size(); ++l) {
    const size_t d = s.dims[l];
    for (size_t row = 0; row < s.n(); ++row)
      for (size_t k = 0; k < d; ++k) z[l].push_back(normal(random) + (row < s.n_source ? -0.25 : 0.25) + s.shift);
    if (static_cast<int>(l) == s.zero_bandwidth)   // few different rows: some are 0 apart
      for (size_t i = 3 * d; i < z[l].size(); ++i) z[l][i] = z[l][i - 3 * d];
    for (size_t k = 0; k < d; ++k) {
      double mean = 0;
      for (size_t i = k; i < z[l].size(); i += d) mean += z[l][i] / static_cast<double>(s.n());
      for (size_t i = k; i < z[l].size(); i += d) z[l][i] = rounded(l, z[l][i] - (centred ? mean : 0));
    }
  }
  return z;
}

}   // namespace kernels_test
