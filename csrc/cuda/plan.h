// A problem as kernel parameters: below 4 KiB, so that a launch copies it with its own packet.
#pragma once

#include <stdexcept>
#include <string>

#include "../kernel_math.h"

namespace fastmmd::cuda {

constexpr int kMaxGaussians = 128;   // in the mixtures of all layers together

struct Plan {
  int n_source, n_target, layers;
  int first[kMaxLayers + 1];    // a layer's Gaussians in the lists below, broadest first
  bool square[kMaxGaussians];   // see mark_squares
  double scale[kMaxGaussians], weight[kMaxGaussians];
  double unit[kMaxLayers], at_zero[kMaxLayers], marginal[kMaxLayers];
  bool follows_mean[kMaxLayers];
  double joint, alpha, beta, gamma, diagonal;
  bool clamp;

  FM_INLINE int n() const { return n_source + n_target; }
};

inline Plan make_plan(const Problem& problem) {
  Plan plan{};
  if (problem.n() > (int64_t{1} << 30)) throw std::invalid_argument("backend 'cuda': more than 2^30 rows");
  plan.n_source = static_cast<int>(problem.n_source);
  plan.n_target = static_cast<int>(problem.n_target);
  plan.layers = problem.num_layers;
  for (int l = 0; l < problem.num_layers; ++l) {
    const Layer& layer = problem.layer[l];
    const int first = plan.first[l], last = layer.num_scales - 1;
    plan.first[l + 1] = first + layer.num_scales;
    if (plan.first[l + 1] > kMaxGaussians)
      throw std::invalid_argument("backend 'cuda': expected at most " + std::to_string(kMaxGaussians) +
                                  " Gaussians in the kernels of all layers together");
    for (int q = 0; q < layer.num_scales; ++q) {
      plan.scale[first + q] = layer.scale[last - q];
      plan.weight[first + q] = layer.weight[last - q];
      plan.at_zero[l] += layer.weight[last - q];
    }
    mark_squares(layer.num_scales, [&](int q) { return plan.scale[first + q]; }, plan.square + first);
    plan.unit[l] = layer.unit;
    plan.follows_mean[l] = layer.follows_mean;
    plan.marginal[l] = problem.marginal[l];
  }
  plan.joint = problem.joint;
  plan.alpha = problem.alpha;
  plan.beta = problem.beta;
  plan.gamma = problem.gamma;
  plan.diagonal = problem.diagonal;
  plan.clamp = problem.clamp;
  return plan;
}

}   // namespace fastmmd::cuda
