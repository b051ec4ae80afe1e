// A problem as kernel parameters: below 4 KiB, so that a launch copies it with its own packet.
#pragma once

#include <stdexcept>
#include <string>

#include "../kernel_math.h"

namespace fastmmd::cuda {

struct Plan {
  int n_source, n_target, layers;
  int first_gaussian[kMaxLayers + 1];   // of each layer in the lists below, which are broadest first
  bool squares[kCudaMaxGaussians];      // see mark_squares
  double multiplier[kCudaMaxGaussians], weight[kCudaMaxGaussians];
  double bandwidth_scale[kMaxLayers], at_zero[kMaxLayers], marginal[kMaxLayers];
  bool follows_mean[kMaxLayers];
  double joint, alpha, beta, gamma, diagonal;
  bool clamp;

  FM_INLINE int n() const { return n_source + n_target; }
};

// A domain's rows, padded to whole panels.
inline int64_t packed_rows(int64_t rows) {
  return (rows + kCudaFusedPanelRows - 1) / kCudaFusedPanelRows * kCudaFusedPanelRows;
}

inline Plan make_plan(const Problem& problem) {
  Plan plan{};
  if (problem.n() > kCudaMaxRows)
    throw std::invalid_argument("backend 'cuda': expected at most " + std::to_string(kCudaMaxRows) +
                                " rows, source and target together, got " + std::to_string(problem.n()));
  plan.n_source = static_cast<int>(problem.n_source);
  plan.n_target = static_cast<int>(problem.n_target);
  plan.layers = problem.num_layers;
  for (int l = 0; l < problem.num_layers; ++l) {
    const Layer& layer = problem.layer[l];
    const int first = plan.first_gaussian[l], last = layer.num_gaussians - 1;
    plan.first_gaussian[l + 1] = first + layer.num_gaussians;
    if (plan.first_gaussian[l + 1] > kCudaMaxGaussians)
      throw std::invalid_argument("backend 'cuda': expected at most " + std::to_string(kCudaMaxGaussians) +
                                  " Gaussians in the kernels of all layers together");
    for (int q = 0; q < layer.num_gaussians; ++q) {
      plan.multiplier[first + q] = layer.multiplier[last - q];
      plan.weight[first + q] = layer.weight[last - q];
      plan.at_zero[l] += layer.weight[last - q];
    }
    mark_squares(layer.num_gaussians, [&](int q) { return plan.multiplier[first + q]; }, plan.squares + first);
    plan.bandwidth_scale[l] = layer.bandwidth_scale;
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
