// The same quantities by definition: plain loops in double.
#pragma once

#include <cmath>
#include <vector>

#include "setting.h"

namespace kernels_test {

struct Dense {
  std::vector<double> bandwidth;
  Matrices coefficient;                           // [N, N]
  Matrices gradient;                              // [N, d]
  double sums[3][1 + kMaxLayers] = {};            // over ss, tt, st; of the product and each layer
  double value[1 + kMaxLayers], loss = 0;         // not clamped
  double terms[1 + kMaxLayers], loss_terms = 0;   // sums of the sizes of their terms: round-off is relative to these
  std::vector<double> rows, row_terms;            // K W of a form [N, columns], and the sizes of its terms
};

// `given`: bandwidths where a layer does not follow the mean. `form`: weights of pairs; null: alpha, beta and gamma.
inline Dense dense(const Problem& p, const Matrices& z, const std::vector<double>& given, const Form* form = nullptr) {
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
    const double bandwidth = layer.bandwidth_scale * base;
    out.bandwidth.push_back(bandwidth);
    for (size_t pair = 0; pair < n * n; ++pair)
      for (int q = 0; q < layer.num_gaussians; ++q)
        if (bandwidth == 0) {   // the limit
          value[l][pair] += distance[pair] == 0 ? layer.weight[q] : 0;
        } else {
          const double rate = 1 / (layer.multiplier[q] * bandwidth),
                       k = layer.weight[q] * std::exp(-rate * distance[pair]);
          value[l][pair] += k;
          slope[l][pair] += rate * k;
        }
    out.gradient.emplace_back(n * d, 0.0);
  }

  const auto form_weight = [&](size_t i, size_t j) {
    double weight = 0;
    for (size_t k = 0; k < form->columns; ++k)
      weight += form->w[i * form->columns + k] * form->wa[j * form->columns + k];
    return weight;
  };
  if (form) out.rows = out.row_terms = std::vector<double>(n * form->columns);
  double weighted[1 + kMaxLayers] = {}, weighted_terms[1 + kMaxLayers] = {}, trace = 0;
  for (size_t i = 0; form && i < n; ++i) trace += form_weight(i, i);

  for (size_t i = 0; i < n; ++i)
    for (size_t j = 0; j < n; ++j) {
      if (i == j) continue;
      const bool row_is_source = i < n_source, column_is_source = j < n_source;
      const size_t pair = i * n + j;
      const double weight = form                                ? form_weight(i, j)
                            : row_is_source != column_is_source ? p.gamma / 2
                            : row_is_source                     ? p.alpha
                                                                : p.beta;
      double product = 1, kernel = 0;   // kernel: that of the loss
      for (size_t l = 0; l < L; ++l) {
        product *= value[l][pair];
        kernel += p.marginal[l] * value[l][pair];
      }
      kernel += p.joint * product;
      if (form) {
        for (size_t t = 0; t <= L; ++t) {
          const double term = weight * (t == 0 ? product : value[t - 1][pair]);
          weighted[t] += term;
          weighted_terms[t] += std::abs(term);
        }
        for (size_t k = 0; k < form->columns; ++k) {
          const double term = kernel * form->w[j * form->columns + k];
          out.rows[i * form->columns + k] += term;
          out.row_terms[i * form->columns + k] += std::abs(term);
        }
      }
      if (row_is_source || !column_is_source) {   // each cross pair once
        double* const sums = out.sums[row_is_source != column_is_source ? 2 : row_is_source ? 0 : 1];
        sums[0] += product;
        for (size_t l = 0; l < L; ++l) sums[1 + l] += value[l][pair];
      }
      for (size_t l = 0; l < L; ++l) {
        double others = p.joint;
        for (size_t o = 0; o < L; ++o)
          if (o != l) others *= value[o][pair];
        const double c = weight * (others + p.marginal[l]) * slope[l][pair];
        const size_t d = static_cast<size_t>(p.layer[l].dim);
        out.coefficient[l][pair] = c;
        for (size_t k = 0; k < d; ++k) out.gradient[l][i * d + k] += 4 * c * (z[l][j * d + k] - z[l][i * d + k]);
      }
    }

  double product_at_zero = 1;
  for (size_t t = L + 1; t-- > 0;) {   // the product last
    double at_zero = t == 0 ? product_at_zero : 0;
    if (t > 0)
      for (int q = 0; q < p.layer[t - 1].num_gaussians; ++q) at_zero += p.layer[t - 1].weight[q];
    if (t > 0) product_at_zero *= at_zero;
    std::vector<double> parts = {p.alpha * out.sums[0][t], p.beta * out.sums[1][t], p.gamma * out.sums[2][t],
                                 p.diagonal * at_zero};
    if (form) parts = {weighted[t], p.diagonal * at_zero * trace};
    const double mixed = t == 0 ? p.joint : p.marginal[t - 1];
    out.value[t] = out.terms[t] = 0;
    for (const double part : parts) {
      out.value[t] += part;
      out.terms[t] += std::abs(part);
    }
    if (form) out.terms[t] += weighted_terms[t];
    out.loss += mixed * out.value[t];
    out.loss_terms += std::abs(mixed) * out.terms[t];
  }
  return out;
}

inline double largest(const std::vector<double>& x) {
  double most = 0;
  for (const double each : x) most = std::fmax(most, std::abs(each));
  return most;
}

}   // namespace kernels_test
